/* utf8.c - the table of Unicode 16, 3.9 (table 3-7) as ranges of the second byte. */
#include "text/utf8.h"

#include <stdbool.h>
#include <string.h>

proa_utf8_step proa_utf8_look(const char *text, size_t left)
{
    const unsigned char *s = (const unsigned char *)text;
    unsigned lead = s[0];
    if (lead < 0x80)
        return (proa_utf8_step){PROA_UTF8_VALID, 1, lead};
    uint32_t need = lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
    if (need == 0)
        return (proa_utf8_step){PROA_UTF8_BROKEN, 1, 0};
    unsigned low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    unsigned high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    uint32_t code = lead & (0xffu >> (need + 1));
    for (uint32_t i = 1; i < need; i++) {
        if (i == left)
            return (proa_utf8_step){PROA_UTF8_UNFINISHED, i, 0};
        if (s[i] < low || s[i] > high)
            return (proa_utf8_step){PROA_UTF8_BROKEN, i, 0};
        code = code << 6 | (s[i] & 0x3fu);
        low = 0x80;
        high = 0xbf;
    }
    return (proa_utf8_step){PROA_UTF8_VALID, need, code};
}

size_t proa_utf8_valid_length(const char *text, size_t length)
{
    size_t i = 0;
    while (i < length) {
        uint64_t word;
        if (length - i >= sizeof word) {
            memcpy(&word, text + i, sizeof word);
            if ((word & 0x8080808080808080u) == 0) {
                i += sizeof word;
                continue;
            }
        }
        proa_utf8_step step = proa_utf8_look(text + i, length - i);
        if (step.kind != PROA_UTF8_VALID)
            return i;
        i += step.length;
    }
    return i;
}

void proa_utf8_append_valid(const char *text, size_t length, proa_buf *out)
{
    while (length > 0) {
        size_t valid = proa_utf8_valid_length(text, length);
        proa_buf_append(out, text, valid);
        text += valid;
        length -= valid;
        if (length > 0) {
            proa_utf8_step step = proa_utf8_look(text, length);
            proa_buf_append_text(out, PROA_UTF8_REPLACEMENT);
            text += step.length;
            length -= step.length;
        }
    }
}

size_t proa_utf8_encode(uint32_t code, char *out)
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    size_t length = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (size_t i = length - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (code & 0x3f));
        code >>= 6;
    }
    out[0] = (char)((0xf00u >> length & 0xf0u) | code);
    return length;
}
