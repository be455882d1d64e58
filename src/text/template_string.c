/* template_string.c - the strings of the template engine: runs of bytes and trees of concatenations.
 *
 * A concatenation keeps its parts, and with them who wrote which part: that is what the output's pieces are made
 * of. Code that wants plain bytes asks for them once; they are then kept beside the tree.
 */
#define _GNU_SOURCE 1 /* memmem */
#include "text/template_internal.h"

#include "base/status.h"

#include <string.h>

size_t proa_tmpl_count_characters(const char *bytes, size_t length)
{
    size_t continuations = 0;
    for (size_t i = 0; i < length; i++)
        continuations += ((unsigned char)bytes[i] & 0xc0) == 0x80;
    return length - continuations;
}

/* The code point at `bytes` and its length; length 0 when it is not valid UTF-8. */
uint32_t proa_tmpl_character(const char *bytes, size_t left, size_t *length)
{
    const unsigned char *s = (const unsigned char *)bytes;
    *length = left > 0 && s[0] < 0x80 ? 1 : 0;
    if (left == 0 || s[0] < 0x80)
        return left > 0 ? s[0] : 0;
    size_t n = s[0] >= 0xc2 && s[0] < 0xe0   ? 2
               : (s[0] & 0xf0) == 0xe0       ? 3
               : s[0] >= 0xf0 && s[0] < 0xf5 ? 4
                                             : 0;
    if (n == 0 || n > left)
        return 0;
    uint32_t c = s[0] & (0xffu >> (n + 1));
    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0;
        c = c << 6 | (s[i] & 0x3f);
    }
    bool overlong = (n == 3 && c < 0x800) || (n == 4 && c < 0x10000);
    if (overlong || (c >= 0xd800 && c <= 0xdfff) || c > 0x10ffff)
        return 0;
    *length = n;
    return c;
}

size_t proa_tmpl_encode(uint32_t c, char out[4])
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, c >>= 6)
        out[i] = (char)(0x80 | (c & 0x3f));
    out[0] = (char)((0xf00u >> n & 0xf0u) | c);
    return n;
}

bool proa_tmpl_is_space(uint32_t c)
{
    return c == ' ' || (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x1f) || c == 0x85 || c == 0xa0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
           c == 0x205f || c == 0x3000;
}

/* Byte offset of a character (its number may be the count of characters: the end). */
size_t proa_tmpl_string_offset(const char *bytes, size_t length, size_t character)
{
    size_t i = 0;
    for (; i < length; i++) {
        if (((unsigned char)bytes[i] & 0xc0) != 0x80 && character-- == 0)
            break;
    }
    return i;
}

/* The first place of `needle`, or NULL. Linear in both. */
const char *proa_tmpl_search(const char *hay, size_t length, const char *needle, size_t needle_length)
{
    return memmem(hay, length, needle, needle_length);
}

/* The last place. Up to length times n comparisons: the caller pays for them. */
const char *proa_tmpl_search_last(const char *s, size_t length, const char *what, size_t n)
{
    for (size_t i = length - n + 1; n <= length && i > 0; i--) {
        if (memcmp(s + i - 1, what, n) == 0)
            return s + i - 1;
    }
    return NULL;
}

bool proa_tmpl_string_is(const tmpl_string *s, const char *text)
{
    return s->bytes != NULL && s->length == strlen(text) && memcmp(s->bytes, text, s->length) == 0;
}

tmpl_taint proa_tmpl_taint_whole(const tmpl_string *s)
{
    return s->taint == TMPL_TRUSTED ? TMPL_TRUSTED : TMPL_TAINTED;
}

static bool too_long(tmpl_render *r)
{
    return proa_tmpl_fail(r, PROA_ERR_TOO_LONG, "a text is longer than the limit of %zu bytes",
                          r->string_max);
}

/* The bytes stay where they are: they must live as long as the rendering. */
tmpl_string *proa_tmpl_string_run(tmpl_render *r, const char *bytes, size_t length, tmpl_taint taint)
{
    if (length == 0 && r->empty != NULL)
        return r->empty;
    if (length > r->string_max)
        return too_long(r), NULL;
    tmpl_string *s = proa_tmpl_alloc(r, 1, sizeof *s);
    if (s == NULL || !proa_tmpl_spend_bytes(r, length))
        return NULL;
    PROA_ASSERT(taint != TMPL_MIXED);
    *s = (tmpl_string){.length = length, .bytes = bytes, .taint = (uint8_t)taint};
    s->characters = proa_tmpl_count_characters(bytes, length);
    return s;
}

tmpl_string *proa_tmpl_string_copy(tmpl_render *r, const char *bytes, size_t length, tmpl_taint taint)
{
    if (length > r->string_max)
        return too_long(r), NULL;
    char *copy = proa_tmpl_alloc(r, length, 1);
    if (copy == NULL)
        return NULL;
    if (length > 0)
        memcpy(copy, bytes, length);
    return proa_tmpl_string_run(r, copy, length, taint);
}

tmpl_string *proa_tmpl_string_scratch(tmpl_render *r, tmpl_taint taint)
{
    if (r->scratch.failed)
        return too_long(r), NULL;
    return proa_tmpl_string_copy(r, proa_buf_text(&r->scratch), r->scratch.length, taint);
}

tmpl_string *proa_tmpl_string_concat(tmpl_render *r, tmpl_string *a, tmpl_string *b)
{
    if (a->length == 0 || b->length == 0)
        return a->length == 0 ? b : a;
    if (a->length > r->string_max || b->length > r->string_max - a->length)
        return too_long(r), NULL;
    tmpl_string *s = proa_tmpl_alloc(r, 1, sizeof *s);
    if (s == NULL)
        return NULL;
    *s = (tmpl_string){
        .length = a->length + b->length,
        .characters = a->characters + b->characters,
        .left = a,
        .right = b,
        .depth = 1 + (a->depth > b->depth ? a->depth : b->depth),
        .taint = a->taint == b->taint ? a->taint : TMPL_MIXED,
    };
    return s;
}

/* A part, by bytes; it does not copy. What is cut from a mixed string counts as the user's. */
tmpl_string *proa_tmpl_string_slice(tmpl_render *r, tmpl_string *s, size_t start, size_t end)
{
    if (start == 0 && end == s->length)
        return s;
    const char *bytes = proa_tmpl_string_bytes(r, s);
    if (bytes == NULL)
        return NULL;
    PROA_ASSERT(start <= end);
    PROA_ASSERT(end <= s->length);
    return proa_tmpl_string_run(r, bytes + start, end - start, proa_tmpl_taint_whole(s));
}

bool proa_tmpl_walk_begin(tmpl_render *r, tmpl_walk *walk, tmpl_string *s, bool by_origin)
{
    walk->by_origin = by_origin;
    walk->count = 1;
    walk->stack = walk->few;
    if (s->depth + 1 > sizeof walk->few / sizeof walk->few[0]) {
        walk->stack = proa_tmpl_alloc(r, (size_t)s->depth + 1, sizeof walk->stack[0]);
        if (walk->stack == NULL)
            return false;
    }
    walk->stack[0] = s;
    return true;
}

/* NULL at the end. */
tmpl_string *proa_tmpl_walk_next(tmpl_walk *walk)
{
    if (walk->count == 0)
        return NULL;
    tmpl_string *s = walk->stack[--walk->count];
    while (s->bytes == NULL || (walk->by_origin && s->taint == TMPL_MIXED)) {
        walk->stack[walk->count++] = s->right;
        s = s->left;
    }
    return s;
}

const char *proa_tmpl_string_bytes(tmpl_render *r, tmpl_string *s)
{
    if (s->bytes != NULL)
        return s->bytes;
    char *bytes = proa_tmpl_alloc(r, s->length, 1);
    tmpl_walk walk;
    if (bytes == NULL || !proa_tmpl_spend_bytes(r, s->length) || !proa_tmpl_walk_begin(r, &walk, s, false))
        return NULL;
    size_t length = 0;
    for (tmpl_string *run = proa_tmpl_walk_next(&walk); run != NULL; run = proa_tmpl_walk_next(&walk)) {
        memcpy(bytes + length, run->bytes, run->length);
        length += run->length;
        if (!proa_tmpl_spend(r, 1))
            return NULL;
    }
    PROA_ASSERT(length == s->length);
    s->bytes = bytes;
    return bytes;
}
