/* template_split.c - str's methods that cut a text into parts. The parts are not copied. */
#include "text/template_internal.h"

#include "base/status.h"

#include <string.h>

/* Parts are collected as byte ranges, then made into strings. */
typedef struct parts {
    tmpl_render *r;
    size_t (*ranges)[2];
    size_t count, capacity;
} parts;

static bool add_part(parts *p, size_t start, size_t end)
{
    if (p->count == p->capacity) {
        size_t capacity = p->capacity < 8 ? 8 : p->capacity * 2;
        size_t(*ranges)[2] = proa_tmpl_alloc(p->r, capacity, sizeof ranges[0]);
        if (ranges == NULL)
            return false;
        if (p->count > 0)
            memcpy(ranges, p->ranges, p->count * sizeof ranges[0]);
        p->ranges = ranges;
        p->capacity = capacity;
    }
    p->ranges[p->count][0] = start;
    p->ranges[p->count++][1] = end;
    return proa_tmpl_spend(p->r, 1);
}

static bool finish_parts(parts *p, tmpl_string *s, tmpl_flavour flavour, bool reversed, tmpl_value *out)
{
    tmpl_sequence *q = proa_tmpl_sequence_new(p->r, flavour, p->count, out);
    for (size_t i = 0; q != NULL && i < p->count; i++) {
        const size_t *range = p->ranges[reversed ? p->count - 1 - i : i];
        if (!tmpl_set_string(&q->items[i], proa_tmpl_string_slice(p->r, s, range[0], range[1])))
            return false;
    }
    return q != NULL;
}

static bool split_by(parts *p, const char *s, size_t length, const char *separator, size_t n, int64_t max)
{
    size_t start = 0;
    for (; max != 0; max--) {
        const char *found = proa_tmpl_search(s + start, length - start, separator, n);
        if (found == NULL)
            break;
        if (!add_part(p, start, (size_t)(found - s)))
            return false;
        start = (size_t)(found - s) + n;
    }
    return add_part(p, start, length);
}

static bool rsplit_by(parts *p, const char *s, size_t length, const char *separator, size_t n, int64_t max)
{
    size_t end = length;
    for (; max != 0; max--) {
        const char *found = proa_tmpl_search_last(s, end, separator, n);
        if (found == NULL)
            break;
        if (!add_part(p, (size_t)(found - s) + n, end))
            return false;
        end = (size_t)(found - s);
    }
    return add_part(p, 0, end);
}

static size_t space_before(const char *s, size_t end, bool wanted) /* start of the run of (non-)space */
{
    while (end > 0) {
        size_t at = end - 1, n;
        while (((unsigned char)s[at] & 0xc0) == 0x80)
            at--;
        if (proa_tmpl_is_space(proa_tmpl_character(s + at, end - at, &n)) != wanted)
            break;
        end = at;
    }
    return end;
}

static size_t space_after(const char *s, size_t start, size_t length, bool wanted)
{
    while (start < length) {
        size_t n;
        if (proa_tmpl_is_space(proa_tmpl_character(s + start, length - start, &n)) != wanted)
            break;
        start += n;
    }
    return start;
}

static bool split_at_space(parts *p, const char *s, size_t length, int64_t max)
{
    size_t start = space_after(s, 0, length, true);
    for (; max != 0 && start < length; max--) {
        size_t end = space_after(s, start, length, false);
        if (!add_part(p, start, end))
            return false;
        start = space_after(s, end, length, true);
    }
    return start == length || add_part(p, start, space_before(s, length, true));
}

static bool rsplit_at_space(parts *p, const char *s, size_t length, int64_t max)
{
    size_t end = space_before(s, length, true);
    for (; max != 0 && end > 0; max--) {
        size_t start = space_before(s, end, false);
        if (!add_part(p, start, end))
            return false;
        end = space_before(s, start, true);
    }
    return end == 0 || add_part(p, space_after(s, 0, length, true), end);
}

static bool split(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, bool from_right,
                  tmpl_value *out)
{
    const char *s, *separator;
    int64_t max;
    parts p = {.r = r};
    size_t length = self->s->length;
    if ((s = proa_tmpl_need_string(r, self)) == NULL || !proa_tmpl_need_integer(r, &args[1], -1, &max) ||
        !proa_tmpl_spend_bytes(r, length))
        return false;
    bool ok;
    if (tmpl_is_absent(&args[0])) {
        ok = from_right ? rsplit_at_space(&p, s, length, max) : split_at_space(&p, s, length, max);
    } else {
        if ((separator = proa_tmpl_need_string(r, &args[0])) == NULL)
            return false;
        size_t n = args[0].s->length;
        if (n == 0)
            return proa_tmpl_fail(r, PROA_ERR_INVALID, "split: the separator is empty");
        if (from_right && !proa_tmpl_spend(r, length / 64 * (1 + n / 16)))
            return false;
        ok = from_right ? rsplit_by(&p, s, length, separator, n, max)
                        : split_by(&p, s, length, separator, n, max);
    }
    return ok && finish_parts(&p, self->s, TMPL_LIST, from_right, out);
}

bool proa_tmpl_str_split(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    return split(r, self, args, false, out);
}

bool proa_tmpl_str_rsplit(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    return split(r, self, args, true, out);
}

static bool is_line_end(uint32_t c)
{
    return (c >= 10 && c <= 13) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

bool proa_tmpl_splitlines(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    const char *s;
    parts p = {.r = r};
    if ((s = proa_tmpl_need_string(r, self)) == NULL || !proa_tmpl_spend_bytes(r, self->s->length))
        return false;
    size_t length = self->s->length, start = 0;
    bool keep = proa_tmpl_truth(&args[0]);
    for (size_t i = 0, n; i < length;) {
        uint32_t c = proa_tmpl_character(s + i, length - i, &n);
        if (!is_line_end(c)) {
            i += n;
            continue;
        }
        size_t next = i + n + (c == '\r' && i + 1 < length && s[i + 1] == '\n');
        if (!add_part(&p, start, keep ? next : i))
            return false;
        start = i = next;
    }
    return (start == length || add_part(&p, start, length)) &&
           finish_parts(&p, self->s, TMPL_LIST, false, out);
}

static bool partition(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, bool last,
                      tmpl_value *out)
{
    const char *s, *separator;
    parts p = {.r = r};
    if ((s = proa_tmpl_need_string(r, self)) == NULL ||
        (separator = proa_tmpl_need_string(r, &args[0])) == NULL)
        return false;
    size_t n = args[0].s->length, length = self->s->length;
    if (n == 0)
        return proa_tmpl_fail(r, PROA_ERR_INVALID, "partition: the separator is empty");
    if (!proa_tmpl_spend(r, length / 64 * (1 + n / 16)))
        return false;
    const char *found =
        last ? proa_tmpl_search_last(s, length, separator, n) : proa_tmpl_search(s, length, separator, n);
    size_t at = found != NULL ? (size_t)(found - s) : last ? 0 : length;
    size_t behind = found != NULL ? at + n : at;
    return add_part(&p, 0, at) && add_part(&p, at, behind) && add_part(&p, behind, length) &&
           finish_parts(&p, self->s, TMPL_TUPLE, false, out);
}

bool proa_tmpl_str_partition(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    return partition(r, self, args, false, out);
}

bool proa_tmpl_str_rpartition(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    return partition(r, self, args, true, out);
}
