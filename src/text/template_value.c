/* template_value.c - what values are: truth, equality, order, iteration, dicts, and how JSON becomes values. */
#include "text/template_internal.h"

#include "base/status.h"

#include <math.h>
#include <string.h>

const char *proa_tmpl_type_name(const tmpl_value *v)
{
    static const char *const kinds[] = {"missing", "Undefined",   "NoneType", "bool",    "int",
                                        "float",   "str",         "list",     "dict",    "Namespace",
                                        "Macro",   "LoopContext", "method",   "function"};
    static const char *const flavours[] = {"list",        "tuple",      "range",    "dict_keys",
                                           "dict_values", "dict_items", "generator"};
    if (v->kind == TMPL_SEQUENCE && v->q != NULL)
        return flavours[v->q->flavour];
    return kinds[v->kind];
}

tmpl_value proa_tmpl_undefined(const tmpl_node *origin, tmpl_kind of)
{
    return (tmpl_value){.kind = TMPL_UNDEFINED, .detail = (uint8_t)of, .origin = origin};
}

bool proa_tmpl_truth(const tmpl_value *v)
{
    switch ((tmpl_kind)v->kind) {
    case TMPL_MISSING:
    case TMPL_UNDEFINED:
    case TMPL_NONE: return false;
    case TMPL_BOOL: return v->b;
    case TMPL_INT: return v->i != 0;
    case TMPL_REAL: return v->d != 0;
    case TMPL_STRING: return v->s->length > 0;
    case TMPL_SEQUENCE: return v->q->count > 0 || v->q->flavour == TMPL_GENERATOR;
    case TMPL_DICT: return v->m->count > 0;
    case TMPL_NAMESPACE:
    case TMPL_MACRO:
    case TMPL_LOOP:
    case TMPL_METHOD:
    case TMPL_FUNCTION: return true;
    }
    return false;
}

double proa_tmpl_as_real(const tmpl_value *v)
{
    return v->kind == TMPL_REAL ? v->d : (double)tmpl_integer(v);
}

/* --- equality and order --- */

static int sign_of(int64_t a, int64_t b)
{
    return a < b ? -1 : a > b;
}

/* Exact, as Python compares an int with a float: without rounding the int. */
static int order_numbers(const tmpl_value *a, const tmpl_value *b)
{
    if (tmpl_is_integer(a) && tmpl_is_integer(b))
        return sign_of(tmpl_integer(a), tmpl_integer(b));
    if (b->kind != TMPL_REAL) {
        int order = order_numbers(b, a);
        return order == 2 ? 2 : -order;
    }
    if (isnan(b->d) || (a->kind == TMPL_REAL && isnan(a->d)))
        return 2;
    if (a->kind == TMPL_REAL)
        return a->d < b->d ? -1 : a->d > b->d;
    if (b->d >= 0x1p63 || b->d < -0x1p63)
        return b->d > 0 ? -1 : 1;
    int64_t whole = (int64_t)b->d;
    if (tmpl_integer(a) != whole)
        return sign_of(tmpl_integer(a), whole);
    double rest = b->d - (double)whole;
    return rest > 0 ? -1 : rest < 0;
}

static bool order_strings(tmpl_render *r, tmpl_string *a, tmpl_string *b, int *order)
{
    const char *x = proa_tmpl_string_bytes(r, a), *y = proa_tmpl_string_bytes(r, b);
    size_t shorter = a->length < b->length ? a->length : b->length;
    if (x == NULL || y == NULL || !proa_tmpl_spend_bytes(r, shorter))
        return false;
    int c = memcmp(x, y, shorter); /* UTF-8 sorts by code point */
    *order = c != 0 ? (c < 0 ? -1 : 1) : sign_of((int64_t)a->length, (int64_t)b->length);
    return true;
}

static bool equal_sequences(tmpl_render *r, const tmpl_sequence *a, const tmpl_sequence *b, bool *equal)
{
    *equal = a == b || (a->flavour == b->flavour && a->count == b->count && a->flavour != TMPL_GENERATOR &&
                        a->flavour != TMPL_VALUES);
    for (size_t i = 0; *equal && a != b && i < a->count; i++) {
        tmpl_value x = proa_tmpl_sequence_at(a, i), y = proa_tmpl_sequence_at(b, i);
        if (!proa_tmpl_equal(r, &x, &y, equal))
            return false;
    }
    return true;
}

static bool equal_dicts(tmpl_render *r, const tmpl_dict *a, const tmpl_dict *b, bool *equal)
{
    *equal = a->count == b->count;
    for (size_t i = 0; *equal && i < a->count; i++) {
        tmpl_value other;
        if (!proa_tmpl_dict_find(r, b, &a->keys[i], &other, equal) ||
            (*equal && !proa_tmpl_equal(r, &a->values[i], &other, equal)))
            return false;
    }
    return true;
}

bool proa_tmpl_equal(tmpl_render *r, const tmpl_value *a, const tmpl_value *b, bool *equal)
{
    *equal = false;
    if (tmpl_is_number(a) && tmpl_is_number(b)) {
        *equal = order_numbers(a, b) == 0;
        return true;
    }
    if (a->kind != b->kind)
        return true;
    if (!proa_tmpl_spend(r, 1) || !proa_tmpl_descend(r))
        return false;
    bool ok = true;
    int order = 0;
    switch ((tmpl_kind)a->kind) {
    case TMPL_STRING:
        if (a->s->length == b->s->length) {
            ok = order_strings(r, a->s, b->s, &order);
            *equal = order == 0;
        }
        break;
    case TMPL_SEQUENCE: ok = equal_sequences(r, a->q, b->q, equal); break;
    case TMPL_DICT: ok = equal_dicts(r, a->m, b->m, equal); break;
    case TMPL_NONE:
    case TMPL_MISSING:
    case TMPL_UNDEFINED: *equal = true; break;
    default: *equal = a->m == b->m; break; /* by identity; every pointer has the same place in the union */
    }
    r->depth--;
    return ok;
}

static bool order_sequences(tmpl_render *r, const tmpl_sequence *a, const tmpl_sequence *b, int *order)
{
    for (size_t i = 0; i < a->count && i < b->count; i++) {
        bool equal;
        if (!proa_tmpl_equal(r, &a->items[i], &b->items[i], &equal))
            return false;
        if (!equal)
            return proa_tmpl_order(r, &a->items[i], &b->items[i], order);
    }
    *order = sign_of((int64_t)a->count, (int64_t)b->count);
    return true;
}

bool proa_tmpl_order(tmpl_render *r, const tmpl_value *a, const tmpl_value *b, int *order)
{
    if (tmpl_is_number(a) && tmpl_is_number(b)) {
        *order = order_numbers(a, b);
        return true;
    }
    if (a->kind == TMPL_UNDEFINED || b->kind == TMPL_UNDEFINED)
        return proa_tmpl_fail_undefined(r, a->kind == TMPL_UNDEFINED ? a : b);
    if (a->kind == TMPL_STRING && b->kind == TMPL_STRING)
        return order_strings(r, a->s, b->s, order);
    bool lists = tmpl_is_flavour(a, TMPL_LIST) && tmpl_is_flavour(b, TMPL_LIST);
    bool tuples = tmpl_is_flavour(a, TMPL_TUPLE) && tmpl_is_flavour(b, TMPL_TUPLE);
    if (!lists && !tuples)
        return proa_tmpl_fail(r, PROA_ERR_INVALID, "cannot tell which of %s and %s is less",
                              proa_tmpl_type_name(a), proa_tmpl_type_name(b));
    if (!proa_tmpl_descend(r))
        return false;
    bool ok = order_sequences(r, a->q, b->q, order);
    r->depth--;
    return ok;
}

bool proa_tmpl_contains(tmpl_render *r, const tmpl_value *container, const tmpl_value *item, bool *found)
{
    tmpl_value ignored;
    if (container->kind == TMPL_DICT)
        return proa_tmpl_dict_find(r, container->m, item, &ignored, found);
    if (container->kind == TMPL_STRING) {
        if (item->kind != TMPL_STRING)
            return proa_tmpl_fail(r, PROA_ERR_INVALID, "'in' a str needs a str on its left, not %s",
                                  proa_tmpl_type_name(item));
        const char *hay = proa_tmpl_string_bytes(r, container->s),
                   *needle = proa_tmpl_string_bytes(r, item->s);
        if (hay == NULL || needle == NULL || !proa_tmpl_spend_bytes(r, container->s->length))
            return false;
        *found = proa_tmpl_search(hay, container->s->length, needle, item->s->length) != NULL;
        return true;
    }
    tmpl_sequence *q;
    *found = false;
    if (tmpl_is_flavour(container, TMPL_KEYS) && !proa_tmpl_hashable(item))
        return proa_tmpl_fail(r, PROA_ERR_INVALID, "unhashable type: '%s' cannot be a key",
                              proa_tmpl_type_name(item));
    if (!proa_tmpl_iterate(r, container, &q))
        return false;
    for (size_t i = 0; i < q->count && !*found; i++) {
        tmpl_value element = proa_tmpl_sequence_at(q, i);
        if (!proa_tmpl_spend(r, 1) || !proa_tmpl_equal(r, &element, item, found))
            return false;
    }
    return true;
}

/* --- sequences --- */

/* `count` elements to be filled in by the caller. */
tmpl_sequence *proa_tmpl_sequence_new(tmpl_render *r, tmpl_flavour flavour, size_t count, tmpl_value *out)
{
    tmpl_sequence *q = proa_tmpl_alloc(r, 1, sizeof *q);
    if (q == NULL)
        return NULL;
    q->flavour = flavour;
    q->count = count;
    q->items = proa_tmpl_alloc(r, count, sizeof q->items[0]);
    *out = (tmpl_value){.kind = TMPL_SEQUENCE, .q = q};
    return q->items != NULL ? q : NULL;
}

tmpl_value proa_tmpl_sequence_at(const tmpl_sequence *q, size_t index)
{
    PROA_ASSERT(index < q->count);
    if (q->items != NULL)
        return q->items[index];
    return tmpl_int(q->start + (int64_t)index * q->step);
}

static bool characters_of(tmpl_render *r, tmpl_string *s, tmpl_sequence **out)
{
    tmpl_value list;
    const char *bytes = proa_tmpl_string_bytes(r, s);
    tmpl_sequence *q = bytes != NULL ? proa_tmpl_sequence_new(r, TMPL_LIST, s->characters, &list) : NULL;
    if (q == NULL)
        return false;
    size_t start = 0;
    for (size_t i = 0; i < q->count; i++) {
        size_t n;
        proa_tmpl_character(bytes + start, s->length - start, &n);
        if (!tmpl_set_string(&q->items[i], proa_tmpl_string_slice(r, s, start, start + n)))
            return false;
        start += n;
    }
    *out = q;
    return true;
}

bool proa_tmpl_iterate(tmpl_render *r, const tmpl_value *v, tmpl_sequence **out)
{
    tmpl_value list;
    switch ((tmpl_kind)v->kind) {
    case TMPL_STRING: return characters_of(r, v->s, out);
    case TMPL_DICT:
        if (!proa_tmpl_dict_view(r, v->m, TMPL_KEYS, &list))
            return false;
        *out = list.q;
        return true;
    case TMPL_UNDEFINED: return (*out = proa_tmpl_sequence_new(r, TMPL_LIST, 0, &list)) != NULL;
    case TMPL_SEQUENCE:
        if (v->q->flavour != TMPL_GENERATOR) {
            *out = v->q;
            return true;
        }
        if ((*out = proa_tmpl_sequence_new(r, TMPL_LIST, 0, &list)) == NULL)
            return false;
        (*out)->items = v->q->items + v->q->taken;
        (*out)->count = v->q->count - v->q->taken;
        v->q->taken = v->q->count;
        return true;
    default:
        return proa_tmpl_fail(r, PROA_ERR_INVALID, "'%s' object is not iterable", proa_tmpl_type_name(v));
    }
}

bool proa_tmpl_length(tmpl_render *r, const tmpl_value *v, int64_t *length)
{
    if (v->kind == TMPL_STRING)
        *length = (int64_t)v->s->characters;
    else if (v->kind == TMPL_DICT)
        *length = (int64_t)v->m->count;
    else if (v->kind == TMPL_UNDEFINED)
        *length = 0;
    else if (v->kind == TMPL_SEQUENCE && v->q->flavour != TMPL_GENERATOR)
        *length = (int64_t)v->q->count;
    else
        return proa_tmpl_fail(r, PROA_ERR_INVALID, "object of type '%s' has no length",
                              proa_tmpl_type_name(v));
    return true;
}

/* --- dicts --- */

tmpl_dict *proa_tmpl_dict_new(tmpl_render *r, size_t capacity)
{
    tmpl_dict *m = proa_tmpl_alloc(r, 1, sizeof *m);
    if (m == NULL)
        return NULL;
    m->capacity = capacity;
    m->keys = proa_tmpl_alloc(r, capacity, sizeof m->keys[0]);
    m->values = proa_tmpl_alloc(r, capacity, sizeof m->values[0]);
    return m->keys != NULL && m->values != NULL ? m : NULL;
}

bool proa_tmpl_hashable(const tmpl_value *v)
{
    if (v->kind == TMPL_DICT || tmpl_is_flavour(v, TMPL_LIST))
        return false;
    for (size_t i = 0; tmpl_is_flavour(v, TMPL_TUPLE) && i < v->q->count; i++) {
        const tmpl_value *item = &v->q->items[i];
        if (item->kind == TMPL_DICT ||
            item->kind == TMPL_SEQUENCE) /* tuples in tuples: not worth a recursion */
            return false;
    }
    return true;
}

/* Index of the key, or count. */
static bool position_of(tmpl_render *r, const tmpl_dict *m, const tmpl_value *key, size_t *position)
{
    if (!proa_tmpl_hashable(key))
        return proa_tmpl_fail(r, PROA_ERR_INVALID, "unhashable type: '%s' cannot be a key",
                              proa_tmpl_type_name(key));
    const char *bytes = key->kind == TMPL_STRING ? proa_tmpl_string_bytes(r, key->s) : "";
    if (bytes == NULL || !proa_tmpl_spend(r, m->count / 8))
        return false;
    for (*position = 0; *position < m->count; ++*position) {
        const tmpl_value *other = &m->keys[*position];
        bool equal = false;
        if (other->kind == TMPL_STRING && key->kind == TMPL_STRING) { /* keys in a dict are runs */
            equal = other->s->length == key->s->length && memcmp(other->s->bytes, bytes, key->s->length) == 0;
        } else if (!proa_tmpl_equal(r, other, key, &equal)) {
            return false;
        }
        if (equal)
            break;
    }
    return true;
}

bool proa_tmpl_dict_find(tmpl_render *r, const tmpl_dict *m, const tmpl_value *key, tmpl_value *value,
                         bool *found)
{
    size_t position;
    if (!position_of(r, m, key, &position))
        return false;
    *found = position < m->count;
    if (*found)
        *value = m->values[position];
    return true;
}

static bool grow(tmpl_render *r, tmpl_dict *m)
{
    size_t capacity = m->capacity < 4 ? 4 : m->capacity * 2;
    tmpl_value *keys = proa_tmpl_alloc(r, capacity, sizeof keys[0]);
    tmpl_value *values = proa_tmpl_alloc(r, capacity, sizeof values[0]);
    if (keys == NULL || values == NULL)
        return false;
    memcpy(keys, m->keys, m->count * sizeof keys[0]);
    memcpy(values, m->values, m->count * sizeof values[0]);
    m->keys = keys;
    m->values = values;
    m->capacity = capacity;
    return true;
}

bool proa_tmpl_dict_set(tmpl_render *r, tmpl_dict *m, const tmpl_value *key, const tmpl_value *value)
{
    size_t position;
    if (!position_of(r, m, key, &position))
        return false;
    if (position == m->count) {
        if (m->count == m->capacity && !grow(r, m))
            return false;
        m->keys[m->count++] = *key;
    }
    m->values[position] = *value;
    return true;
}

bool proa_tmpl_dict_view(tmpl_render *r, const tmpl_dict *m, tmpl_flavour flavour, tmpl_value *out)
{
    tmpl_sequence *q = proa_tmpl_sequence_new(r, flavour, flavour == TMPL_ITEMS ? m->count : 0, out);
    if (q == NULL)
        return false;
    q->count = m->count;
    if (flavour != TMPL_ITEMS) {
        q->items = flavour == TMPL_KEYS ? m->keys : m->values;
        return true;
    }
    for (size_t i = 0; i < m->count; i++) {
        tmpl_sequence *pair = proa_tmpl_sequence_new(r, TMPL_TUPLE, 2, &q->items[i]);
        if (pair == NULL)
            return false;
        pair->items[0] = m->keys[i];
        pair->items[1] = m->values[i];
    }
    return true;
}

/* --- from JSON --- */

static bool from_array(tmpl_render *r, const proa_json *json, tmpl_taint taint, tmpl_value *out)
{
    tmpl_sequence *q = proa_tmpl_sequence_new(r, TMPL_LIST, proa_json_size(json), out);
    for (size_t i = 0; q != NULL && i < q->count; i++) {
        if (!proa_tmpl_from_json(r, proa_json_at(json, i), taint, &q->items[i]))
            return false;
    }
    return q != NULL;
}

static bool from_object(tmpl_render *r, const proa_json *json, tmpl_taint taint, tmpl_value *out)
{
    tmpl_dict *m = proa_tmpl_dict_new(r, proa_json_size(json));
    if (m == NULL)
        return false;
    for (void *it = proa_json_first(json); it != NULL; it = proa_json_next(json, it)) {
        const char *key = proa_json_key(it);
        PROA_ASSERT(m->count < m->capacity);
        if (!tmpl_set_string(&m->keys[m->count], proa_tmpl_string_run(r, key, strlen(key), taint)) ||
            !proa_tmpl_from_json(r, proa_json_value(it), taint, &m->values[m->count]))
            return false;
        m->count++;
    }
    *out = (tmpl_value){.kind = TMPL_DICT, .m = m};
    return true;
}

/* Strings stay in the JSON tree, which outlives the rendering. */
bool proa_tmpl_from_json(tmpl_render *r, const proa_json *json, tmpl_taint taint, tmpl_value *out)
{
    bool ok = true;
    if (!proa_tmpl_descend(r))
        return false;
    switch (proa_json_type_of(json)) {
    case PROA_JSON_NULL: *out = tmpl_none(); break;
    case PROA_JSON_BOOL: *out = tmpl_bool(proa_json_bool(json, false)); break;
    case PROA_JSON_INT: *out = tmpl_int(proa_json_int(json, 0)); break;
    case PROA_JSON_REAL: *out = tmpl_real(proa_json_real(json, 0)); break;
    case PROA_JSON_STRING:
        ok = tmpl_set_string(
            out, proa_tmpl_string_run(r, proa_json_string(json, ""), proa_json_string_length(json), taint));
        break;
    case PROA_JSON_ARRAY: ok = from_array(r, json, taint, out); break;
    case PROA_JSON_OBJECT: ok = from_object(r, json, taint, out); break;
    }
    r->depth--;
    return ok;
}
