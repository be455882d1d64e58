/* detokenizer.c - bytes of tokens joined into valid UTF-8, at once or as they come.
 *
 * One state: up to three bytes that begin a character. Both ways run through it, so that they cannot differ.
 */
#include "text/tokenizer.h"

#include "text/utf8.h"

#include <string.h>

void proa_detokenizer_init(proa_detokenizer *d, const proa_tokenizer *tokenizer, bool skip_special)
{
    *d = (proa_detokenizer){.tokenizer = tokenizer, .skip_special = skip_special};
}

/* Takes bytes one by one into the tail until it is no longer the beginning of a character. Returns how many it took. */
static size_t complete_tail(proa_detokenizer *d, const char *bytes, size_t length, proa_buf *out)
{
    size_t taken = 0;
    while (d->tail_length > 0 && taken < length) {
        d->tail[d->tail_length] = (unsigned char)bytes[taken];
        proa_utf8_step step = proa_utf8_look((const char *)d->tail, (size_t)d->tail_length + 1);
        if (step.kind == PROA_UTF8_BROKEN) { /* without the new byte, which begins something else */
            PROA_ASSERT(step.length == d->tail_length);
            proa_buf_append_text(out, PROA_UTF8_REPLACEMENT);
            d->tail_length = 0;
            break;
        }
        taken++;
        d->tail_length++;
        if (step.kind == PROA_UTF8_VALID) {
            proa_buf_append(out, d->tail, d->tail_length);
            d->tail_length = 0;
        }
    }
    return taken;
}

static void push_bytes(proa_detokenizer *d, const char *bytes, size_t length, proa_buf *out)
{
    size_t i = complete_tail(d, bytes, length, out);
    while (i < length) {
        size_t valid = proa_utf8_valid_length(bytes + i, length - i);
        proa_buf_append(out, bytes + i, valid);
        i += valid;
        if (i == length)
            break;
        proa_utf8_step step = proa_utf8_look(bytes + i, length - i);
        if (step.kind == PROA_UTF8_UNFINISHED) {
            PROA_ASSERT(step.length < sizeof d->tail);
            memcpy(d->tail, bytes + i, step.length);
            d->tail_length = (uint8_t)step.length;
        } else {
            proa_buf_append_text(out, PROA_UTF8_REPLACEMENT);
        }
        i += step.length;
    }
}

void proa_detokenizer_push(proa_detokenizer *d, int32_t id, proa_buf *out)
{
    size_t length;
    const char *bytes = proa_tokenizer_bytes(d->tokenizer, id, &length);
    if (bytes == NULL || (d->skip_special && proa_tokenizer_is_special(d->tokenizer, id)))
        return;
    push_bytes(d, bytes, length, out);
}

void proa_detokenizer_finish(proa_detokenizer *d, proa_buf *out)
{
    if (d->tail_length > 0)
        proa_buf_append_text(out, PROA_UTF8_REPLACEMENT);
    d->tail_length = 0;
}

void proa_decode(const proa_tokenizer *tokenizer, const int32_t *ids, size_t count, bool skip_special,
                 proa_buf *out)
{
    proa_detokenizer d;
    proa_detokenizer_init(&d, tokenizer, skip_special);
    for (size_t i = 0; i < count; i++)
        proa_detokenizer_push(&d, ids[i], out);
    proa_detokenizer_finish(&d, out);
}
