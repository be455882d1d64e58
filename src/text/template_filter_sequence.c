/* template_filter_sequence.c - filters of sequences and dicts.
 *
 * What is lazy in Jinja (map, select, unique, reverse, items) is worked out at once here, but behaves as a
 * generator: it has no length, is always true and can be read once.
 */
#include "text/template_internal.h"

#include "base/status.h"

#include <string.h>

#define FILTER(name)                                                                                         \
    static bool name(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)

/* --- sorting --- */

/* Equal first, then less: lists that start with two None, say, are fine as long as they are equal. */
static bool before(tmpl_render *r, const tmpl_value *a, const tmpl_value *b, bool descending, bool *result)
{
    bool equal;
    int order = 0;
    if (!proa_tmpl_spend(r, 1) || !proa_tmpl_equal(r, a, b, &equal) ||
        (!equal && !proa_tmpl_order(r, a, b, &order)))
        return false;
    *result = !equal && order == (descending ? 1 : -1);
    return true;
}

size_t *proa_tmpl_sort(tmpl_render *r, const tmpl_value *keys, size_t count, bool descending)
{
    size_t *order = proa_tmpl_alloc(r, count, sizeof order[0]),
           *other = proa_tmpl_alloc(r, count, sizeof order[0]);
    if (order == NULL || other == NULL)
        return NULL;
    for (size_t i = 0; i < count; i++)
        order[i] = i;
    for (size_t width = 1; width < count; width *= 2) {
        for (size_t start = 0; start < count; start += 2 * width) {
            size_t middle = start + width < count ? start + width : count;
            size_t end = start + 2 * width < count ? start + 2 * width : count;
            size_t i = start, j = middle;
            for (size_t to = start; to < end; to++) {
                bool right = i == middle;
                if (i < middle && j < end && !before(r, &keys[order[j]], &keys[order[i]], descending, &right))
                    return NULL;
                other[to] = right ? order[j++] : order[i++];
            }
        }
        size_t *swap = order;
        order = other;
        other = swap;
    }
    return order;
}

/* --- attributes named by a filter's argument: "a.b.0" --- */

static bool part_key(tmpl_render *r, tmpl_string *path, size_t start, size_t end, tmpl_value *key)
{
    int64_t number = 0;
    bool digits = end > start && end - start < 18;
    for (size_t i = start; i < end && digits; i++) {
        digits = path->bytes[i] >= '0' && path->bytes[i] <= '9';
        number = number * 10 + (path->bytes[i] - '0');
    }
    *key = tmpl_int(number);
    return digits || tmpl_set_string(key, proa_tmpl_string_slice(r, path, start, end));
}

/* The value at the path; `path` may be an integer, or missing: the item itself. */
static bool get_path(tmpl_render *r, const tmpl_value *item, const tmpl_value *path,
                     const tmpl_value *otherwise, tmpl_value *out)
{
    *out = *item;
    if (path->kind == TMPL_MISSING || path->kind == TMPL_NONE)
        return true;
    if (path->kind != TMPL_STRING)
        return proa_tmpl_item(r, item, path, NULL, out);
    const char *bytes = proa_tmpl_string_bytes(r, path->s);
    for (size_t start = 0, end; bytes != NULL; start = end + 1) {
        const char *dot = memchr(bytes + start, '.', path->s->length - start);
        end = dot != NULL ? (size_t)(dot - bytes) : path->s->length;
        tmpl_value key, holder = *out;
        if (!part_key(r, path->s, start, end, &key) || !proa_tmpl_item(r, &holder, &key, NULL, out))
            return false;
        if (out->kind == TMPL_UNDEFINED && otherwise != NULL && otherwise->kind > TMPL_NONE)
            *out = *otherwise;
        if (end == path->s->length)
            return true;
    }
    return false;
}

/* The key to sort or compare by: the attribute, in lower case unless case_sensitive. */
static bool get_key(tmpl_render *r, const tmpl_value *item, const tmpl_value *path, bool case_sensitive,
                    tmpl_value *key)
{
    if (!get_path(r, item, path, NULL, key))
        return false;
    return case_sensitive || key->kind != TMPL_STRING || proa_tmpl_recase(r, key->s, TMPL_CASE_LOWER, key);
}

static tmpl_value *get_keys(tmpl_render *r, const tmpl_sequence *q, const tmpl_value *path,
                            bool case_sensitive)
{
    tmpl_value *keys = proa_tmpl_alloc(r, q->count, sizeof keys[0]);
    for (size_t i = 0; keys != NULL && i < q->count; i++) {
        tmpl_value item = proa_tmpl_sequence_at(q, i);
        if (!get_key(r, &item, path, case_sensitive, &keys[i]))
            return NULL;
    }
    return keys;
}

/* "a,b": keys are lists of the values of each path. */
static tmpl_value *get_multi_keys(tmpl_render *r, const tmpl_sequence *q, const tmpl_value *paths,
                                  bool case_sensitive)
{
    const char *bytes = paths->kind == TMPL_STRING ? proa_tmpl_string_bytes(r, paths->s) : NULL;
    if (bytes == NULL || memchr(bytes, ',', paths->s->length) == NULL)
        return proa_failed(r->status) ? NULL : get_keys(r, q, paths, case_sensitive);
    static const tmpl_value none = {.kind = TMPL_NONE};
    tmpl_value comma, bound[2] = {{.kind = TMPL_STRING}, none}, parts;
    if (!tmpl_set_string(&comma, proa_tmpl_string_run(r, ",", 1, TMPL_TRUSTED)))
        return NULL;
    bound[0] = comma;
    bound[1].kind = TMPL_MISSING;
    const tmpl_callable *split = proa_tmpl_find(proa_tmpl_string_methods, "split", 5);
    if (!split->bound(r, paths, bound, &parts))
        return NULL;
    tmpl_value *keys = proa_tmpl_alloc(r, q->count, sizeof keys[0]);
    for (size_t i = 0; keys != NULL && i < q->count; i++) {
        tmpl_value item = proa_tmpl_sequence_at(q, i);
        tmpl_sequence *list = proa_tmpl_sequence_new(r, TMPL_LIST, parts.q->count, &keys[i]);
        for (size_t j = 0; list != NULL && j < list->count; j++) {
            if (!get_key(r, &item, &parts.q->items[j], case_sensitive, &list->items[j]))
                return NULL;
        }
        if (list == NULL)
            return NULL;
    }
    return keys;
}

static bool in_order(tmpl_render *r, const tmpl_sequence *q, const size_t *order, tmpl_value *out)
{
    tmpl_sequence *sorted = order != NULL ? proa_tmpl_sequence_new(r, TMPL_LIST, q->count, out) : NULL;
    for (size_t i = 0; sorted != NULL && i < q->count; i++)
        sorted->items[i] = proa_tmpl_sequence_at(q, order[i]);
    return sorted != NULL;
}

/* sort(reverse=False, case_sensitive=False, attribute=None) */
FILTER(filter_sort)
{
    tmpl_sequence *q;
    if (!proa_tmpl_iterate(r, self, &q))
        return false;
    tmpl_value *keys = get_multi_keys(r, q, &args[2], proa_tmpl_truth(&args[1]));
    return keys != NULL && in_order(r, q, proa_tmpl_sort(r, keys, q->count, proa_tmpl_truth(&args[0])), out);
}

/* dictsort(case_sensitive=False, by='key', reverse=False) */
FILTER(filter_dictsort)
{
    tmpl_value items;
    if (self->kind != TMPL_DICT)
        return proa_tmpl_fail(r, PROA_ERR_INVALID, "dictsort: a dict is needed, not %s",
                              proa_tmpl_type_name(self));
    bool by_key = args[1].kind == TMPL_MISSING ||
                  (args[1].kind == TMPL_STRING && proa_tmpl_string_is(args[1].s, "key"));
    if (!by_key && !(args[1].kind == TMPL_STRING && proa_tmpl_string_is(args[1].s, "value")))
        return proa_tmpl_fail(r, PROA_ERR_INVALID, "dictsort: sorts by 'key' or 'value' only");
    if (!proa_tmpl_dict_view(r, self->m, TMPL_ITEMS, &items))
        return false;
    tmpl_value part = tmpl_int(by_key ? 0 : 1);
    tmpl_value *keys = get_keys(r, items.q, &part, proa_tmpl_truth(&args[0]));
    return keys != NULL &&
           in_order(r, items.q, proa_tmpl_sort(r, keys, items.q->count, proa_tmpl_truth(&args[2])), out);
}

/* --- generators --- */

static bool finish_generator(tmpl_sequence *q, size_t count)
{
    q->count = count;
    return true;
}

/* unique(case_sensitive=False, attribute=None) */
FILTER(filter_unique)
{
    tmpl_sequence *q;
    tmpl_dict *seen = proa_tmpl_dict_new(r, 4);
    if (seen == NULL || !proa_tmpl_iterate(r, self, &q))
        return false;
    tmpl_value *keys = get_keys(r, q, &args[1], proa_tmpl_truth(&args[0]));
    tmpl_sequence *kept = keys != NULL ? proa_tmpl_sequence_new(r, TMPL_GENERATOR, q->count, out) : NULL;
    size_t count = 0;
    for (size_t i = 0; kept != NULL && i < q->count; i++) {
        size_t known = seen->count;
        if (!proa_tmpl_dict_set(r, seen, &keys[i], &keys[i]) || !proa_tmpl_spend(r, 1))
            return false;
        if (seen->count > known)
            kept->items[count++] = proa_tmpl_sequence_at(q, i);
    }
    return kept != NULL && finish_generator(kept, count);
}

FILTER(filter_items)
{
    (void)args;
    static const tmpl_dict nothing = {0};
    if (self->kind != TMPL_DICT && self->kind != TMPL_UNDEFINED)
        return proa_tmpl_fail(r, PROA_ERR_INVALID, "items: a dict is needed, not %s",
                              proa_tmpl_type_name(self));
    if (!proa_tmpl_dict_view(r, self->kind == TMPL_DICT ? self->m : &nothing, TMPL_ITEMS, out))
        return false;
    out->q->flavour = TMPL_GENERATOR;
    return true;
}

FILTER(filter_reverse)
{
    tmpl_sequence *q;
    (void)args;
    if (self->kind == TMPL_STRING) {
        tmpl_value bounds[3] = {tmpl_none(), tmpl_none(), tmpl_int(-1)};
        return proa_tmpl_slice(r, self, bounds, out);
    }
    bool was_generator = tmpl_is_flavour(self, TMPL_GENERATOR);
    if (!proa_tmpl_iterate(r, self, &q))
        return false;
    tmpl_sequence *reversed =
        proa_tmpl_sequence_new(r, was_generator ? TMPL_LIST : TMPL_GENERATOR, q->count, out);
    for (size_t i = 0; reversed != NULL && i < q->count; i++)
        reversed->items[i] = proa_tmpl_sequence_at(q, q->count - 1 - i);
    return reversed != NULL;
}

static const tmpl_value *find_keyword(const tmpl_args *args, const char *name)
{
    for (size_t i = 0; i < args->keyword_count; i++) {
        if (proa_tmpl_string_is(args->keywords[i].name, name))
            return &args->keywords[i].value;
    }
    return NULL;
}

/* The filter or test that map or select names by its first argument; the other arguments are for it. */
static const tmpl_callable *named(tmpl_render *r, const tmpl_value *name, bool test)
{
    const char *bytes = name->kind == TMPL_STRING ? proa_tmpl_string_bytes(r, name->s) : NULL;
    const tmpl_callable *found = NULL;
    if (bytes != NULL && name->kind == TMPL_STRING)
        found = test ? proa_tmpl_find_test(bytes, name->s->length)
                     : proa_tmpl_find_filter(bytes, name->s->length);
    if (found == NULL)
        proa_tmpl_fail(r, PROA_ERR_INVALID, "there is no %s named '%.*s' here", test ? "test" : "filter",
                       bytes != NULL ? (int)(name->s->length < 100 ? name->s->length : 100) : 1,
                       bytes != NULL ? bytes : "?");
    return found;
}

/* map('filter', arguments...) or map(attribute='path', default=value) */
static bool filter_map(tmpl_render *r, const tmpl_value *self, const tmpl_args *args, tmpl_value *out)
{
    const tmpl_value *path = args->count == 0 ? find_keyword(args, "attribute") : NULL;
    const tmpl_value *otherwise = find_keyword(args, "default");
    const tmpl_callable *filter = NULL;
    tmpl_sequence *q, empty = {.flavour = TMPL_LIST};
    tmpl_args rest = *args;
    if (path == NULL && args->count == 0)
        return proa_tmpl_fail(r, PROA_ERR_INVALID, "map: needs the name of a filter, or attribute=");
    if (path == NULL) {
        if ((filter = named(r, &args->positional[0], false)) == NULL)
            return false;
        rest.positional++;
        rest.count--;
    }
    if (!proa_tmpl_truth(self))
        q = &empty;
    else if (!proa_tmpl_iterate(r, self, &q))
        return false;
    tmpl_sequence *mapped = proa_tmpl_sequence_new(r, TMPL_GENERATOR, q->count, out);
    bool ok = mapped != NULL && proa_tmpl_descend(r);
    for (size_t i = 0; ok && i < q->count; i++) {
        tmpl_value item = proa_tmpl_sequence_at(q, i);
        ok = proa_tmpl_spend(r, 1) &&
             (filter != NULL ? proa_tmpl_apply(r, filter, &item, &rest, &mapped->items[i])
                             : get_path(r, &item, path, otherwise, &mapped->items[i]));
    }
    if (mapped != NULL && ok)
        r->depth--;
    return ok;
}

/* select, reject, selectattr, rejectattr: keeps what `wanted` by the test, or by truth without one. */
static bool choose(tmpl_render *r, const tmpl_value *self, const tmpl_args *args, bool by_attribute,
                   bool wanted, tmpl_value *out)
{
    tmpl_args rest = *args;
    tmpl_value path = {.kind = TMPL_MISSING}, result;
    tmpl_sequence *q, empty = {.flavour = TMPL_LIST};
    const tmpl_callable *test = NULL;
    if (by_attribute) {
        if (rest.count == 0)
            return proa_tmpl_fail(r, PROA_ERR_INVALID,
                                  "selectattr and rejectattr need the name of an attribute");
        path = *rest.positional++;
        rest.count--;
    }
    if (rest.count > 0) {
        if ((test = named(r, rest.positional, true)) == NULL)
            return false;
        rest.positional++;
        rest.count--;
    }
    if (!proa_tmpl_truth(self))
        q = &empty;
    else if (!proa_tmpl_iterate(r, self, &q))
        return false;
    tmpl_sequence *kept = proa_tmpl_sequence_new(r, TMPL_GENERATOR, q->count, out);
    size_t count = 0;
    for (size_t i = 0; kept != NULL && i < q->count; i++) {
        tmpl_value item = proa_tmpl_sequence_at(q, i), subject;
        if (!proa_tmpl_spend(r, 1) || !get_path(r, &item, &path, NULL, &subject))
            return false;
        result = subject;
        if (test != NULL && !proa_tmpl_apply(r, test, &subject, &rest, &result))
            return false;
        if (proa_tmpl_truth(&result) == wanted)
            kept->items[count++] = item;
    }
    return kept != NULL && finish_generator(kept, count);
}

static bool filter_select(tmpl_render *r, const tmpl_value *self, const tmpl_args *args, tmpl_value *out)
{
    return choose(r, self, args, false, true, out);
}

static bool filter_reject(tmpl_render *r, const tmpl_value *self, const tmpl_args *args, tmpl_value *out)
{
    return choose(r, self, args, false, false, out);
}

static bool filter_selectattr(tmpl_render *r, const tmpl_value *self, const tmpl_args *args, tmpl_value *out)
{
    return choose(r, self, args, true, true, out);
}

static bool filter_rejectattr(tmpl_render *r, const tmpl_value *self, const tmpl_args *args, tmpl_value *out)
{
    return choose(r, self, args, true, false, out);
}

/* --- one value from many --- */

FILTER(filter_first)
{
    tmpl_sequence *q;
    (void)args;
    size_t taken = tmpl_is_flavour(self, TMPL_GENERATOR) ? self->q->taken : 0;
    if (self->kind == TMPL_STRING) { /* without making all of its characters */
        tmpl_value bounds[3] = {tmpl_none(), tmpl_int(1), tmpl_none()};
        *out = proa_tmpl_undefined(NULL, TMPL_STRING);
        return self->s->length == 0 || proa_tmpl_slice(r, self, bounds, out);
    }
    if (!proa_tmpl_iterate(r, self, &q))
        return false;
    *out = q->count > 0 ? proa_tmpl_sequence_at(q, 0) : proa_tmpl_undefined(NULL, self->kind);
    if (tmpl_is_flavour(self, TMPL_GENERATOR)) /* a generator loses only what was read */
        self->q->taken = taken + (q->count > 0);
    return true;
}

FILTER(filter_last)
{
    tmpl_sequence *q;
    (void)args;
    if (tmpl_is_flavour(self, TMPL_GENERATOR))
        return proa_tmpl_fail(r, PROA_ERR_INVALID,
                              "last: a generator cannot be reversed; make it a list with |list");
    if (self->kind == TMPL_STRING) {
        tmpl_value bounds[3] = {tmpl_int(-1), tmpl_none(), tmpl_none()};
        *out = proa_tmpl_undefined(NULL, TMPL_STRING);
        return self->s->length == 0 || proa_tmpl_slice(r, self, bounds, out);
    }
    if (!proa_tmpl_iterate(r, self, &q))
        return false;
    *out = q->count > 0 ? proa_tmpl_sequence_at(q, q->count - 1) : proa_tmpl_undefined(NULL, self->kind);
    return true;
}

FILTER(filter_list)
{
    tmpl_sequence *q;
    (void)args;
    if (!proa_tmpl_iterate(r, self, &q))
        return false;
    tmpl_sequence *list = proa_tmpl_sequence_new(r, TMPL_LIST, q->count, out);
    for (size_t i = 0; list != NULL && i < q->count; i++)
        list->items[i] = proa_tmpl_sequence_at(q, i);
    return list != NULL;
}

/* join(d='', attribute=None): a concatenation, the parts stay apart. */
FILTER(filter_join)
{
    tmpl_sequence *q;
    tmpl_string *separator = r->empty, *joined = r->empty, *text;
    if ((args[0].kind != TMPL_MISSING && !proa_tmpl_to_string(r, &args[0], &separator)) ||
        !proa_tmpl_iterate(r, self, &q))
        return false;
    for (size_t i = 0; i < q->count; i++) {
        tmpl_value item = proa_tmpl_sequence_at(q, i), value;
        if (!proa_tmpl_spend(r, 1) || !get_path(r, &item, &args[1], NULL, &value) ||
            !proa_tmpl_to_string(r, &value, &text))
            return false;
        if (i > 0 && (joined = proa_tmpl_string_concat(r, joined, separator)) == NULL)
            return false;
        if ((joined = proa_tmpl_string_concat(r, joined, text)) == NULL)
            return false;
    }
    return tmpl_set_string(out, joined);
}

/* sum(attribute=None, start=0) */
FILTER(filter_sum)
{
    tmpl_sequence *q;
    *out = args[1].kind != TMPL_MISSING ? args[1] : tmpl_int(0);
    if (out->kind == TMPL_STRING)
        return proa_tmpl_fail(r, PROA_ERR_INVALID, "sum: cannot sum strings; use join");
    if (!proa_tmpl_iterate(r, self, &q))
        return false;
    for (size_t i = 0; i < q->count; i++) {
        tmpl_value item = proa_tmpl_sequence_at(q, i), value, so_far = *out;
        if (!proa_tmpl_spend(r, 1) || !get_path(r, &item, &args[0], NULL, &value) ||
            !proa_tmpl_binary(r, TMPL_T_ADD, &so_far, &value, out))
            return false;
    }
    return true;
}

static bool extreme(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, int wanted,
                    tmpl_value *out)
{
    tmpl_sequence *q;
    if (!proa_tmpl_iterate(r, self, &q))
        return false;
    tmpl_value *keys = get_keys(r, q, &args[1], proa_tmpl_truth(&args[0]));
    if (keys == NULL)
        return false;
    size_t best = 0;
    for (size_t i = 1; i < q->count; i++) {
        int order = 0;
        if (!proa_tmpl_spend(r, 1) || !proa_tmpl_order(r, &keys[i], &keys[best], &order))
            return false;
        if (order == wanted)
            best = i;
    }
    *out = q->count > 0 ? proa_tmpl_sequence_at(q, best) : proa_tmpl_undefined(NULL, self->kind);
    return true;
}

/* min and max(case_sensitive=False, attribute=None) */
FILTER(filter_min)
{
    return extreme(r, self, args, -1, out);
}

FILTER(filter_max)
{
    return extreme(r, self, args, 1, out);
}

const tmpl_callable proa_tmpl_sequence_filters[] = {
    {"dictsort", "case_sensitive? by? reverse?", filter_dictsort},
    {"first", "", filter_first},
    {"items", "", filter_items},
    {"join", "d? attribute?", filter_join},
    {"last", "", filter_last},
    {"list", "", filter_list},
    {.name = "map", .raw = filter_map},
    {"max", "case_sensitive? attribute?", filter_max},
    {"min", "case_sensitive? attribute?", filter_min},
    {.name = "reject", .raw = filter_reject},
    {.name = "rejectattr", .raw = filter_rejectattr},
    {"reverse", "", filter_reverse},
    {.name = "select", .raw = filter_select},
    {.name = "selectattr", .raw = filter_selectattr},
    {"sort", "reverse? case_sensitive? attribute?", filter_sort},
    {"sum", "attribute? start?", filter_sum},
    {"unique", "case_sensitive? attribute?", filter_unique},
    {NULL},
};
