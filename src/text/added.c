/* added.c - matching by a range of sorted tokens.
 *
 * A text of n bytes takes O(n log tokens) where no token begins, and at most the longest token's length more at each
 * byte where one does; published tokens share a few first bytes.
 */
#include "text/added.h"

#include "text/tokenizer.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>

const char proa_added_word_pattern[] = "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200c}\\x{200d}]";

static int by_bytes(const void *left, const void *right)
{
    const proa_added_token *a = left, *b = right;
    int order = memcmp(a->text, b->text, a->length < b->length ? a->length : b->length);
    return order != 0 ? order : a->length < b->length ? -1 : a->length > b->length;
}

void proa_added_set_init(proa_added_set *set, proa_added_token *tokens, size_t count)
{
    *set = (proa_added_set){.tokens = tokens, .count = count};
    if (count > 0)
        qsort(tokens, count, sizeof *tokens, by_bytes);
    for (size_t i = 0; i < count; i++)
        set->starts[(unsigned char)tokens[i].text[0]] = 1;
}

void proa_added_set_free(proa_added_set *set)
{
    free(set->tokens);
    *set = (proa_added_set){0};
}

/* In tokens [low, high), all longer than `depth` and equal before it: the first whose byte at `depth` is >= `byte`. */
static size_t first_at_least(const proa_added_set *set, size_t low, size_t high, size_t depth, unsigned byte)
{
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if ((unsigned char)set->tokens[middle].text[depth] < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest token at the front of `text`, or NULL. */
static const proa_added_token *longest(const proa_added_set *set, const char *text, size_t length)
{
    const proa_added_token *found = NULL;
    size_t low = 0, high = set->count;
    for (size_t depth = 0; low < high; depth++) {
        if (set->tokens[low].length == depth) /* the shortest of the range sorts first */
            found = &set->tokens[low++];
        if (depth == length)
            break;
        unsigned byte = (unsigned char)text[depth];
        low = first_at_least(set, low, high, depth, byte);
        high = first_at_least(set, low, high, depth, byte + 1);
    }
    return found;
}

/* The character that ends at `at`: where it begins. at > 0. */
static size_t before(const char *text, size_t at)
{
    do
        at--;
    while (((unsigned char)text[at] & 0xc0) == 0x80);
    return at;
}

static bool is_word(const proa_added_search *s, size_t start, size_t end)
{
    size_t from, to;
    return proa_regex_find(s->word, s->scratch, s->shadow + start, end - start, 0, &from, &to, NULL) ==
           PROA_OK;
}

static bool stands_alone(const proa_added_search *s, size_t start, size_t end)
{
    if (start > 0 && is_word(s, before(s->text, start), start))
        return false;
    return end == s->length || !is_word(s, end, end + proa_utf8_look(s->text + end, s->length - end).length);
}

/* Unicode's White_Space. */
static bool is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
           c == 0x3000;
}

static size_t skip_space_left(const proa_added_search *s, size_t at)
{
    while (at > s->taken) {
        size_t start = before(s->text, at);
        if (!is_space(proa_utf8_look(s->text + start, at - start).code))
            break;
        at = start;
    }
    return at;
}

static size_t skip_space_right(const proa_added_search *s, size_t at)
{
    while (at < s->length) {
        proa_utf8_step step = proa_utf8_look(s->text + at, s->length - at);
        if (!is_space(step.code))
            break;
        at += step.length;
    }
    return at;
}

/* Bytes from `at` on in which a token may stand: to the end of the range that `at` is in, 0 outside of all. */
static size_t allowed(const proa_added_search *s, size_t at)
{
    size_t left = s->length - at;
    if (s->scope == NULL)
        return left;
    size_t place = (size_t)(s->text - s->scope->origin) + at, low = 0, high = s->scope->count;
    while (low < high) { /* the first range that ends behind `place` */
        size_t middle = low + (high - low) / 2;
        if (s->scope->ranges[middle].end <= place)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == s->scope->count || s->scope->ranges[low].start > place)
        return 0;
    size_t to_end = s->scope->ranges[low].end - place;
    return to_end < left ? to_end : left;
}

bool proa_added_next(proa_added_search *s, proa_added_match *match)
{
    if (s->set->count == 0)
        return false;
    for (; s->at < s->length; s->at++) {
        if (!s->set->starts[(unsigned char)s->text[s->at]])
            continue;
        const proa_added_token *token = longest(s->set, s->text + s->at, allowed(s, s->at));
        if (token == NULL)
            continue;
        size_t start = s->at, end = s->at + token->length;
        if (token->single_word && !stands_alone(s, start, end)) {
            s->at = end - 1; /* it is plain text, and what it covers is not searched again */
            continue;
        }
        s->at = end;
        if (token->lstrip)
            start = skip_space_left(s, start);
        if (token->rstrip)
            end = skip_space_right(s, end);
        *match = (proa_added_match){token->id, start, end};
        s->taken = end;
        return true;
    }
    return false;
}
