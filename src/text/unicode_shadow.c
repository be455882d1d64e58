/* unicode_shadow.c - finds rows by binary search; text below U+0295 is passed eight bytes at a time. */
#include "text/unicode_shadow.h"

#include "base/status.h"
#include "text/utf8.h"

#include <string.h>

static uint32_t substitute(uint32_t code)
{
    size_t low = 0, high = proa_unicode_shadow_row_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (proa_unicode_shadow_rows[middle].last < code)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == proa_unicode_shadow_row_count || proa_unicode_shadow_rows[low].first > code)
        return code;
    return proa_unicode_shadow_rows[low].substitute;
}

const char *proa_unicode_shadow(const char *text, size_t length, proa_buf *memory)
{
    const char *shadow = text;
    for (size_t i = 0; i < length;) {
        uint64_t word;
        if (length - i >= sizeof word) {
            memcpy(&word, text + i, sizeof word);
            if ((word & 0x8080808080808080u) == 0) {
                i += sizeof word;
                continue;
            }
        }
        proa_utf8_step step = proa_utf8_look(text + i, length - i);
        PROA_ASSERT(step.kind == PROA_UTF8_VALID);
        uint32_t stands = step.code < 0x80 ? step.code : substitute(step.code);
        if (stands != step.code) {
            if (shadow == text) {
                proa_buf_clear(memory);
                proa_buf_append(memory, text, length);
                if (memory->failed)
                    return NULL;
                shadow = memory->data;
            }
            size_t written = proa_utf8_encode(stands, memory->data + i);
            PROA_ASSERT(written == step.length);
        }
        i += step.length;
    }
    return shadow;
}
