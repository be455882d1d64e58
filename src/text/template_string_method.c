/* template_string_method.c - Python's methods of str.
 *
 * Stripping, searching and replacing; splitting and case have files of their own. Deliberately absent: format and
 * everything that prints through a little language of its own; the table says so by name.
 */
#include "text/template_internal.h"

#include "base/status.h"

#include <string.h>

/* Its bytes; NULL after a failure. */
const char *proa_tmpl_need_string(tmpl_render *r, const tmpl_value *v)
{
    if (v->kind == TMPL_STRING)
        return proa_tmpl_string_bytes(r, v->s);
    proa_tmpl_fail(r, PROA_ERR_INVALID, "a str is needed here, not %s", proa_tmpl_type_name(v));
    return NULL;
}

bool proa_tmpl_need_integer(tmpl_render *r, const tmpl_value *v, int64_t otherwise, int64_t *out)
{
    *out = otherwise;
    if (v->kind == TMPL_MISSING)
        return true;
    if (!tmpl_is_integer(v))
        return proa_tmpl_fail(r, PROA_ERR_INVALID, "an integer is needed here, not %s",
                              proa_tmpl_type_name(v));
    *out = tmpl_integer(v);
    return true;
}

static bool set_bool(tmpl_value *out, bool b)
{
    *out = tmpl_bool(b);
    return true;
}

/* --- stripping --- */

static bool in_set(const char *set, size_t length, const char *character, size_t n)
{
    for (size_t i = 0, step; i < length; i += step) {
        proa_tmpl_character(set + i, length - i, &step);
        if (step == n && memcmp(set + i, character, n) == 0)
            return true;
    }
    return false;
}

/* Strips white space, or the characters of `set` when it is not NULL. */
static bool strip(tmpl_render *r, const tmpl_value *self, const tmpl_value *chars, bool left, bool right,
                  tmpl_value *out)
{
    const char *s, *set = NULL;
    if ((s = proa_tmpl_need_string(r, self)) == NULL ||
        (!tmpl_is_absent(chars) && (set = proa_tmpl_need_string(r, chars)) == NULL))
        return false;
    size_t set_length = set != NULL ? chars->s->length : 0;
    size_t start = 0, end = self->s->length;
    if (!proa_tmpl_spend(r, end / 64 * (1 + set_length / 8)))
        return false;
    while (left && start < end) {
        size_t n;
        uint32_t c = proa_tmpl_character(s + start, end - start, &n);
        if (set != NULL ? !in_set(set, set_length, s + start, n) : !proa_tmpl_is_space(c))
            break;
        start += n;
    }
    while (right && end > start) {
        size_t at = end - 1, n;
        while (((unsigned char)s[at] & 0xc0) == 0x80)
            at--;
        uint32_t c = proa_tmpl_character(s + at, end - at, &n);
        if (set != NULL ? !in_set(set, set_length, s + at, n) : !proa_tmpl_is_space(c))
            break;
        end = at;
    }
    return tmpl_set_string(out, proa_tmpl_string_slice(r, self->s, start, end));
}

bool proa_tmpl_strip(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    return strip(r, self, &args[0], true, true, out);
}

static bool str_lstrip(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    return strip(r, self, &args[0], true, false, out);
}

static bool str_rstrip(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    return strip(r, self, &args[0], false, true, out);
}

static bool remove_affix(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, bool front,
                         tmpl_value *out)
{
    const char *s, *affix;
    if ((s = proa_tmpl_need_string(r, self)) == NULL || (affix = proa_tmpl_need_string(r, &args[0])) == NULL)
        return false;
    size_t n = args[0].s->length, length = self->s->length;
    *out = *self;
    if (n > length || memcmp(front ? s : s + length - n, affix, n) != 0)
        return true;
    return tmpl_set_string(out,
                           proa_tmpl_string_slice(r, self->s, front ? n : 0, front ? length : length - n));
}

static bool str_removeprefix(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    return remove_affix(r, self, args, true, out);
}

static bool str_removesuffix(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    return remove_affix(r, self, args, false, out);
}

/* --- searching --- */

/* The bytes from..to that start and end (in characters, as in a slice) leave; false in *inside when start is
 * behind the end. */
static bool limits(tmpl_render *r, const tmpl_value *self, const tmpl_value *start, const tmpl_value *end,
                   size_t *from, size_t *to, bool *inside)
{
    int64_t length = (int64_t)self->s->characters, a = 0, b = length;
    if ((!tmpl_is_absent(start) && !proa_tmpl_need_integer(r, start, 0, &a)) ||
        (!tmpl_is_absent(end) && !proa_tmpl_need_integer(r, end, 0, &b)))
        return false;
    a = a < 0 ? a + length : a;
    b = b < 0 ? b + length : b;
    a = a < 0 ? 0 : a;
    b = b < 0 ? 0 : b > length ? length : b;
    *inside = a <= b;
    if (!*inside)
        return true;
    if (!proa_tmpl_spend_bytes(r, self->s->length))
        return false;
    *from = proa_tmpl_string_offset(self->s->bytes, self->s->length, (size_t)a);
    *to = *from + proa_tmpl_string_offset(self->s->bytes + *from, self->s->length - *from, (size_t)(b - a));
    return true;
}

static bool has_affix(tmpl_render *r, const char *s, size_t length, const tmpl_value *affix, bool front,
                      bool *has)
{
    const char *bytes;
    if ((bytes = proa_tmpl_need_string(r, affix)) == NULL)
        return false;
    size_t n = affix->s->length;
    *has = n <= length && memcmp(front ? s : s + length - n, bytes, n) == 0;
    return true;
}

/* startswith and endswith take one string or a tuple of them. */
static bool with_affix(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, bool front,
                       tmpl_value *out)
{
    const char *s;
    size_t from, to;
    bool inside, has = false;
    if ((s = proa_tmpl_need_string(r, self)) == NULL ||
        !limits(r, self, &args[1], &args[2], &from, &to, &inside))
        return false;
    if (!tmpl_is_flavour(&args[0], TMPL_TUPLE)) {
        if (!inside)
            return proa_tmpl_need_string(r, &args[0]) != NULL && set_bool(out, false);
        return has_affix(r, s + from, to - from, &args[0], front, &has) && set_bool(out, has);
    }
    for (size_t i = 0; inside && !has && i < args[0].q->count; i++) {
        if (!has_affix(r, s + from, to - from, &args[0].q->items[i], front, &has))
            return false;
    }
    return set_bool(out, has);
}

static bool str_startswith(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    return with_affix(r, self, args, true, out);
}

static bool str_endswith(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    return with_affix(r, self, args, false, out);
}

/* Where (in characters), or -1. */
static bool find(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, bool last, int64_t *where)
{
    const char *s, *what;
    size_t from, to;
    bool inside;
    *where = -1;
    if ((s = proa_tmpl_need_string(r, self)) == NULL || (what = proa_tmpl_need_string(r, &args[0])) == NULL ||
        !limits(r, self, &args[1], &args[2], &from, &to, &inside))
        return false;
    size_t n = args[0].s->length;
    if (last && !proa_tmpl_spend(r, self->s->length / 64 * (1 + n / 16)))
        return false;
    if (!inside)
        return true;
    const char *found = last ? proa_tmpl_search_last(s + from, to - from, what, n)
                             : proa_tmpl_search(s + from, to - from, what, n);
    if (found != NULL)
        *where = (int64_t)proa_tmpl_count_characters(s, (size_t)(found - s));
    return true;
}

static bool str_find(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    out->kind = TMPL_INT;
    return find(r, self, args, false, &out->i);
}

static bool str_rfind(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    out->kind = TMPL_INT;
    return find(r, self, args, true, &out->i);
}

static bool index_of(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, bool last,
                     tmpl_value *out)
{
    out->kind = TMPL_INT;
    return find(r, self, args, last, &out->i) &&
           (out->i >= 0 || proa_tmpl_fail(r, PROA_ERR_INVALID, "index: the text was not found"));
}

static bool str_index(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    return index_of(r, self, args, false, out);
}

static bool str_rindex(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    return index_of(r, self, args, true, out);
}

static bool str_count(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    const char *s, *what;
    size_t from, to;
    bool inside;
    *out = tmpl_int(0);
    if ((s = proa_tmpl_need_string(r, self)) == NULL || (what = proa_tmpl_need_string(r, &args[0])) == NULL ||
        !limits(r, self, &args[1], &args[2], &from, &to, &inside))
        return false;
    size_t n = args[0].s->length;
    if (inside && n == 0)
        out->i = (int64_t)proa_tmpl_count_characters(s + from, to - from) + 1;
    while (inside && n > 0) {
        const char *found = proa_tmpl_search(s + from, to - from, what, n);
        if (found == NULL)
            break;
        from = (size_t)(found - s) + n;
        out->i++;
    }
    return true;
}

/* --- rebuilding --- */

static tmpl_taint taint_of(const tmpl_value *a, const tmpl_value *b)
{
    return a->s->taint == TMPL_TRUSTED && b->s->taint == TMPL_TRUSTED ? TMPL_TRUSTED : TMPL_TAINTED;
}

/* An empty `old` is found in front of every character and at the end. */
static bool replace(tmpl_render *r, tmpl_string *s, const tmpl_value *args, int64_t max)
{
    const char *from, *to;
    if ((from = proa_tmpl_need_string(r, &args[0])) == NULL ||
        (to = proa_tmpl_need_string(r, &args[1])) == NULL)
        return false;
    size_t n = args[0].s->length, at = 0;
    proa_buf *out = &r->scratch;
    for (; max != 0; max--) {
        const char *found = proa_tmpl_search(s->bytes + at, s->length - at, from, n);
        if (found == NULL || out->failed)
            break;
        proa_buf_append(out, s->bytes + at, (size_t)(found - s->bytes) - at);
        proa_buf_append(out, to, args[1].s->length);
        at = (size_t)(found - s->bytes) + n;
        if (!proa_tmpl_spend(r, 1))
            return false;
        if (n == 0) {
            if (at == s->length)
                break;
            size_t step;
            proa_tmpl_character(s->bytes + at, s->length - at, &step);
            proa_buf_append(out, s->bytes + at, step);
            at += step;
        }
    }
    proa_buf_append(out, s->bytes + at, s->length - at);
    return true;
}

bool proa_tmpl_replace(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    int64_t max;
    if (proa_tmpl_need_string(r, self) == NULL || !proa_tmpl_need_integer(r, &args[2], -1, &max) ||
        !proa_tmpl_spend_bytes(r, self->s->length))
        return false;
    proa_buf_clear(&r->scratch);
    if (!replace(r, self->s, args, max))
        return false;
    tmpl_taint taint = taint_of(self, &args[0]) == TMPL_TRUSTED ? taint_of(self, &args[1]) : TMPL_TAINTED;
    return tmpl_set_string(out, proa_tmpl_string_scratch(r, taint));
}

static bool str_join(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    tmpl_sequence *q;
    tmpl_string *joined = r->empty;
    if (!proa_tmpl_iterate(r, &args[0], &q))
        return false;
    for (size_t i = 0; i < q->count; i++) {
        tmpl_value item = proa_tmpl_sequence_at(q, i);
        if (item.kind != TMPL_STRING)
            return proa_tmpl_fail(r, PROA_ERR_INVALID, "join: element %zu is not a str but %s", i,
                                  proa_tmpl_type_name(&item));
        if (i > 0 && (joined = proa_tmpl_string_concat(r, joined, self->s)) == NULL)
            return false;
        if ((joined = proa_tmpl_string_concat(r, joined, item.s)) == NULL || !proa_tmpl_spend(r, 1))
            return false;
    }
    return tmpl_set_string(out, joined);
}

const tmpl_callable proa_tmpl_string_methods[] = {
    {"strip", "chars?", proa_tmpl_strip},
    {"lstrip", "chars?", str_lstrip},
    {"rstrip", "chars?", str_rstrip},
    {"removeprefix", "prefix", str_removeprefix},
    {"removesuffix", "suffix", str_removesuffix},
    {"split", "sep? maxsplit?", proa_tmpl_str_split},
    {"rsplit", "sep? maxsplit?", proa_tmpl_str_rsplit},
    {"splitlines", "keepends?", proa_tmpl_splitlines},
    {"partition", "sep", proa_tmpl_str_partition},
    {"rpartition", "sep", proa_tmpl_str_rpartition},
    {"startswith", "prefix start? end?", str_startswith},
    {"endswith", "suffix start? end?", str_endswith},
    {"find", "sub start? end?", str_find},
    {"rfind", "sub start? end?", str_rfind},
    {"index", "sub start? end?", str_index},
    {"rindex", "sub start? end?", str_rindex},
    {"count", "sub start? end?", str_count},
    {"replace", "old new count?", proa_tmpl_replace},
    {"join", "iterable", str_join},
    {"upper", "", proa_tmpl_str_upper},
    {"lower", "", proa_tmpl_str_lower},
    {"title", "", proa_tmpl_str_title},
    {"capitalize", "", proa_tmpl_str_capitalize},
    {"isupper", "", proa_tmpl_str_isupper},
    {"islower", "", proa_tmpl_str_islower},
    {"isdigit", "", proa_tmpl_str_isdigit},
    {"isalpha", "", proa_tmpl_str_isalpha},
    {"isalnum", "", proa_tmpl_str_isalnum},
    {"isspace", "", proa_tmpl_str_isspace},
    /* known to Python, not supported */
    {"format", ""},
    {"format_map", ""},
    {"encode", ""},
    {"expandtabs", ""},
    {"translate", ""},
    {"maketrans", ""},
    {"casefold", ""},
    {"swapcase", ""},
    {"center", ""},
    {"ljust", ""},
    {"rjust", ""},
    {"zfill", ""},
    {"isascii", ""},
    {"isdecimal", ""},
    {"isnumeric", ""},
    {"isidentifier", ""},
    {"isprintable", ""},
    {"istitle", ""},
    {NULL},
};
