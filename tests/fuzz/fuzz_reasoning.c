/* fuzz_reasoning.c - an answer in parts, by the first bytes: the parts do not matter, and nothing is lost but tags and
 * the white space after one. */
#include "text/reasoning.h"

#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_in_parts(proa_reasoning_kind kind, bool thinking, const char *text, size_t length,
                          unsigned part, proa_buf *reasoning, proa_buf *content)
{
    proa_reasoning r;
    proa_reasoning_init(&r, kind, thinking);
    for (size_t at = 0; at < length;) {
        size_t n = part % 7 + 1; /* lengths that follow no pattern */
        part = part * 5 + 3;
        n = n < length - at ? n : length - at;
        proa_reasoning_push(&r, text + at, n, reasoning, content);
        PROA_ASSERT(!proa_reasoning_inside(&r) || content->length == 0);
        PROA_ASSERT(r.held < sizeof "</think>" - 1);
        at += n;
    }
    proa_reasoning_finish(&r, reasoning, content);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    proa_reasoning_kind kind = (proa_reasoning_kind)(data[0] % 3);
    bool thinking = data[0] & 0x80;
    const char *text = (const char *)data + 2;
    size_t length = size - 2;
    proa_buf reasoning[2] = {{0}, {0}}, content[2] = {{0}, {0}};
    read_in_parts(kind, thinking, text, length, data[1], &reasoning[0], &content[0]);
    proa_reasoning whole;
    proa_reasoning_init(&whole, kind, thinking);
    proa_reasoning_push(&whole, text, length, &reasoning[1], &content[1]);
    proa_reasoning_finish(&whole, &reasoning[1], &content[1]);
    PROA_ASSERT(reasoning[0].length == reasoning[1].length && content[0].length == content[1].length);
    PROA_ASSERT(memcmp(proa_buf_text(&reasoning[0]), proa_buf_text(&reasoning[1]), reasoning[0].length) == 0);
    PROA_ASSERT(memcmp(proa_buf_text(&content[0]), proa_buf_text(&content[1]), content[0].length) == 0);
    /* content is the text's end, reasoning what begins it or follows <think> */
    PROA_ASSERT(content[0].length <= length);
    PROA_ASSERT(memcmp(proa_buf_text(&content[0]), text + length - content[0].length, content[0].length) ==
                0);
    size_t begin =
        reasoning[0].length + 7 <= length && memcmp(text, "<think>", 7) == 0 && reasoning[0].length > 0 ? 7
                                                                                                        : 0;
    PROA_ASSERT(memcmp(proa_buf_text(&reasoning[0]), text + begin, reasoning[0].length) == 0);
    for (int i = 0; i < 2; i++) {
        proa_buf_free(&reasoning[i]);
        proa_buf_free(&content[i]);
    }
    return 0;
}
