/* tokenizer.h - tokenizer.json: byte-level BPE, text to ids and back.
 *
 * Supported: model BPE; pre_tokenizer Split (regex or string; all five behaviours), ByteLevel, Sequence, Digits; normalizer null, empty
 * Sequence, NFC-free; decoder ByteLevel; added tokens with single_word, lstrip, rstrip, normalized, special. What else a
 * file asks for is an error that names it. Untrusted (law 9).
 * Immutable after loading: any thread may encode with an encoder of its own and decode.
 */
#ifndef PROA_TEXT_TOKENIZER_H
#define PROA_TEXT_TOKENIZER_H

#include "base/buf.h"
#include "base/status.h"

#include <stdint.h>

typedef struct proa_tokenizer proa_tokenizer;

/* `dir`/tokenizer.json (and `dir`/tokenizer_config.json is not needed). */
proa_status proa_tokenizer_load(const char *dir, proa_tokenizer **tokenizer, proa_error *err);
proa_status proa_tokenizer_parse(const char *json, size_t length, const char *where,
                                 proa_tokenizer **tokenizer, proa_error *err);
void proa_tokenizer_free(proa_tokenizer *tokenizer); /* accepts NULL */

int32_t proa_tokenizer_vocab_size(const proa_tokenizer *tokenizer); /* largest id + 1 */
/* Id of a token by its text (added tokens by content, others in their byte-level spelling); -1 when absent. */
int32_t proa_tokenizer_id(const proa_tokenizer *tokenizer, const char *token);
/* Is it an added token with "special": true? */
bool proa_tokenizer_is_special(const proa_tokenizer *tokenizer, int32_t id);
/* The bytes a token decodes to: what its byte characters stand for; its own text when it has other characters, as added
 * tokens mostly do. NULL for an id that does not exist. */
const char *proa_tokenizer_bytes(const proa_tokenizer *tokenizer, int32_t id, size_t *length);

/* A growing array of ids. {0} is empty; freed with proa_ids_free. */
typedef struct proa_ids {
    int32_t *data;
    size_t count;
    size_t capacity;
} proa_ids;
bool proa_ids_push(proa_ids *ids, int32_t id);
void proa_ids_free(proa_ids *ids);

/* A caller's own working memory for encoding (regex match data, merge queue, word cache). One thread at a time. */
typedef struct proa_encoder proa_encoder;
proa_encoder *proa_encoder_create(const proa_tokenizer *tokenizer);
void proa_encoder_free(proa_encoder *encoder); /* accepts NULL */

/* Appends the ids of `text` (UTF-8; invalid bytes are taken as U+FFFD, as Hugging Face does with lossy text).
 * Added tokens found in the text become their ids when `parse_added` is set, otherwise the text is plain:
 * that is how a user's text cannot speak with the template's voice. No bos is added. */
proa_status proa_encode(proa_encoder *encoder, const char *text, size_t length, bool parse_added,
                        proa_ids *ids, proa_error *err);

/* Bytes [start, end) of a text. */
typedef struct proa_text_range {
    size_t start, end;
} proa_text_range;

/* The same for a text of which only parts may speak: an added token counts when it lies wholly in one of `trusted`
 * (ascending, none touching the next), elsewhere it is plain text. What lies between the tokens is encoded as one text
 * whatever its origin, so that a prompt without added tokens in its untrusted parts becomes what proa_encode makes of the
 * whole. Text that is not UTF-8 is PROA_ERR_INVALID. */
proa_status proa_encode_trusted(proa_encoder *encoder, const char *text, size_t length,
                                const proa_text_range *trusted, size_t trusted_count, proa_ids *ids,
                                proa_error *err);

/* Text of ids: bytes joined, invalid UTF-8 replaced by U+FFFD (as Hugging Face's ByteLevel decoder). */
void proa_decode(const proa_tokenizer *tokenizer, const int32_t *ids, size_t count, bool skip_special,
                 proa_buf *out);

/* Incremental decoding: never emits part of a character. Feed ids one by one; what has become certain is
 * appended to `out`. proa_detokenizer_finish flushes an incomplete tail as U+FFFD. The concatenation equals
 * proa_decode of all ids. */
typedef struct proa_detokenizer {
    const proa_tokenizer *tokenizer;
    bool skip_special;
    unsigned char tail[4]; /* bytes of an unfinished character */
    uint8_t tail_length;
} proa_detokenizer;
void proa_detokenizer_init(proa_detokenizer *d, const proa_tokenizer *tokenizer, bool skip_special);
void proa_detokenizer_push(proa_detokenizer *d, int32_t id, proa_buf *out);
void proa_detokenizer_finish(proa_detokenizer *d, proa_buf *out);

#endif
