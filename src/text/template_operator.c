/* template_operator.c - operators, attributes, subscripts and slices, with Python's rules and errors.
 *
 * Integers have 64 bits: what overflows is an error instead of a longer number.
 */
#include "text/template_internal.h"

#include "base/status.h"

#include <math.h>
#include <string.h>

/* --- arithmetic --- */

static bool overflow(tmpl_render *r)
{
    return proa_tmpl_fail(r, PROA_ERR_INVALID, "an integer does not fit 64 bits");
}

static bool division_by_zero(tmpl_render *r)
{
    return proa_tmpl_fail(r, PROA_ERR_INVALID, "division by zero");
}

/* Python: the remainder has the divisor's sign, the quotient is rounded down. */
static bool divide_integers(tmpl_render *r, tmpl_token_kind op, int64_t a, int64_t b, tmpl_value *out)
{
    if (b == 0)
        return division_by_zero(r);
    if (b == -1) { /* INT64_MIN / -1 traps */
        int64_t negated;
        if (op == TMPL_T_FLOORDIV && __builtin_sub_overflow(0, a, &negated))
            return overflow(r);
        *out = tmpl_int(op == TMPL_T_FLOORDIV ? negated : 0);
        return true;
    }
    int64_t quotient = a / b, remainder = a % b;
    if (remainder != 0 && (remainder < 0) != (b < 0)) {
        quotient--;
        remainder += b;
    }
    *out = tmpl_int(op == TMPL_T_FLOORDIV ? quotient : remainder);
    return true;
}

static bool power_integers(tmpl_render *r, int64_t base, int64_t exponent, tmpl_value *out)
{
    int64_t result = 1;
    while (exponent > 0) {
        if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result))
            return overflow(r);
        exponent >>= 1;
        if (exponent > 0 && __builtin_mul_overflow(base, base, &base))
            return overflow(r);
    }
    *out = tmpl_int(result);
    return true;
}

static bool integers(tmpl_render *r, tmpl_token_kind op, int64_t a, int64_t b, tmpl_value *out)
{
    int64_t result = 0;
    bool lost = false;
    switch (op) {
    case TMPL_T_ADD: lost = __builtin_add_overflow(a, b, &result); break;
    case TMPL_T_SUB: lost = __builtin_sub_overflow(a, b, &result); break;
    case TMPL_T_MUL: lost = __builtin_mul_overflow(a, b, &result); break;
    case TMPL_T_POW: return power_integers(r, a, b, out);
    default: return divide_integers(r, op, a, b, out);
    }
    *out = tmpl_int(result);
    return lost ? overflow(r) : true;
}

static double remainder_of(double a, double b)
{
    double rest = fmod(a, b);
    if (rest != 0)
        return (rest < 0) != (b < 0) ? rest + b : rest;
    return copysign(0.0, b);
}

static double floor_quotient(double a, double b)
{
    double quotient = (a - remainder_of(a, b)) / b;
    if (quotient == 0)
        return copysign(0.0, a / b);
    double down = floor(quotient);
    return quotient - down > 0.5 ? down + 1.0 : down;
}

static bool reals(tmpl_render *r, tmpl_token_kind op, double a, double b, tmpl_value *out)
{
    double result = 0;
    if (b == 0 && (op == TMPL_T_DIV || op == TMPL_T_FLOORDIV || op == TMPL_T_MOD))
        return division_by_zero(r);
    if (a == 0 && b < 0 && op == TMPL_T_POW)
        return division_by_zero(r);
    switch (op) {
    case TMPL_T_ADD: result = a + b; break;
    case TMPL_T_SUB: result = a - b; break;
    case TMPL_T_MUL: result = a * b; break;
    case TMPL_T_DIV: result = a / b; break;
    case TMPL_T_MOD: result = remainder_of(a, b); break;
    case TMPL_T_FLOORDIV: result = floor_quotient(a, b); break;
    default: result = pow(a, b); break;
    }
    if (op == TMPL_T_POW && isfinite(a) && isfinite(b) && !isfinite(result))
        return proa_tmpl_fail(r, PROA_ERR_INVALID, "the result of ** is too large or not a real number");
    *out = tmpl_real(result);
    return true;
}

/* --- sequences and strings --- */

static bool join_lists(tmpl_render *r, const tmpl_sequence *a, const tmpl_sequence *b, tmpl_value *out)
{
    tmpl_sequence *q = proa_tmpl_sequence_new(r, a->flavour, a->count + b->count, out);
    if (q == NULL)
        return false;
    if (a->count > 0)
        memcpy(q->items, a->items, a->count * sizeof a->items[0]);
    if (b->count > 0)
        memcpy(q->items + a->count, b->items, b->count * sizeof b->items[0]);
    return true;
}

static bool repeat_list(tmpl_render *r, const tmpl_sequence *q, int64_t times, tmpl_value *out)
{
    size_t n = times > 0 ? (size_t)times : 0, total;
    if (__builtin_mul_overflow(n, q->count, &total) || total > SIZE_MAX / sizeof(tmpl_value))
        total = SIZE_MAX / sizeof(tmpl_value); /* the allocation below refuses */
    tmpl_sequence *repeated = proa_tmpl_sequence_new(r, q->flavour, total, out);
    for (size_t i = 0; repeated != NULL && i < total; i++)
        repeated->items[i] = q->items[i % q->count];
    return repeated != NULL;
}

/* By doubling: long repetitions cost a few nodes, and every part keeps its origin. */
static bool repeat_string(tmpl_render *r, tmpl_string *s, int64_t times, tmpl_value *out)
{
    tmpl_string *result = r->empty;
    while (times > 0 && s->length > 0) {
        if ((times & 1) != 0 && (result = proa_tmpl_string_concat(r, result, s)) == NULL)
            return false;
        times >>= 1;
        if (times > 0 && (s = proa_tmpl_string_concat(r, s, s)) == NULL)
            return false;
    }
    return tmpl_set_string(out, result);
}

static bool is_list_or_tuple(const tmpl_value *v)
{
    return tmpl_is_flavour(v, TMPL_LIST) || tmpl_is_flavour(v, TMPL_TUPLE);
}

/* Operators on other things than two numbers; false without a failure: there is no such operator. */
static bool others(tmpl_render *r, tmpl_token_kind op, const tmpl_value *a, const tmpl_value *b,
                   tmpl_value *out)
{
    if (op == TMPL_T_ADD && a->kind == TMPL_STRING && b->kind == TMPL_STRING)
        return tmpl_set_string(out, proa_tmpl_string_concat(r, a->s, b->s));
    if (op == TMPL_T_ADD && is_list_or_tuple(a) && is_list_or_tuple(b) && a->q->flavour == b->q->flavour)
        return join_lists(r, a->q, b->q, out);
    if (op == TMPL_T_MUL && tmpl_is_integer(a))
        return !tmpl_is_integer(b) && others(r, op, b, a, out);
    if (op == TMPL_T_MUL && tmpl_is_integer(b) && a->kind == TMPL_STRING)
        return repeat_string(r, a->s, tmpl_integer(b), out);
    if (op == TMPL_T_MUL && tmpl_is_integer(b) && is_list_or_tuple(a))
        return repeat_list(r, a->q, tmpl_integer(b), out);
    if (op == TMPL_T_MOD && a->kind == TMPL_STRING)
        return proa_tmpl_fail(r, PROA_ERR_UNSUPPORTED, "formatting a string with %% is not supported; use ~");
    return false;
}

bool proa_tmpl_binary(tmpl_render *r, tmpl_token_kind op, const tmpl_value *a, const tmpl_value *b,
                      tmpl_value *out)
{
    if (a->kind == TMPL_UNDEFINED || b->kind == TMPL_UNDEFINED)
        return proa_tmpl_fail_undefined(r, a->kind == TMPL_UNDEFINED ? a : b);
    if (tmpl_is_number(a) && tmpl_is_number(b)) {
        bool whole = tmpl_is_integer(a) && tmpl_is_integer(b) && op != TMPL_T_DIV &&
                     !(op == TMPL_T_POW && tmpl_integer(b) < 0);
        if (whole)
            return integers(r, op, tmpl_integer(a), tmpl_integer(b), out);
        return reals(r, op, proa_tmpl_as_real(a), proa_tmpl_as_real(b), out);
    }
    if (others(r, op, a, b, out))
        return true;
    return proa_tmpl_fail(r, PROA_ERR_INVALID, "%s cannot be applied to %s and %s", proa_tmpl_token_name(op),
                          proa_tmpl_type_name(a), proa_tmpl_type_name(b));
}

bool proa_tmpl_compare(tmpl_render *r, tmpl_token_kind op, const tmpl_value *a, const tmpl_value *b,
                       bool *result)
{
    int order = 0;
    switch (op) {
    case TMPL_T_EQ: return proa_tmpl_equal(r, a, b, result);
    case TMPL_T_NE:
        if (!proa_tmpl_equal(r, a, b, result))
            return false;
        *result = !*result;
        return true;
    case TMPL_T_IN: return proa_tmpl_contains(r, b, a, result);
    case TMPL_T_NOT_IN:
        if (!proa_tmpl_contains(r, b, a, result))
            return false;
        *result = !*result;
        return true;
    default: break;
    }
    if (!proa_tmpl_order(r, a, b, &order))
        return false;
    switch (op) {
    case TMPL_T_LT: *result = order == -1; break;
    case TMPL_T_LE: *result = order == -1 || order == 0; break;
    case TMPL_T_GT: *result = order == 1; break;
    default: *result = order == 1 || order == 0; break;
    }
    return true;
}

/* --- attributes and subscripts --- */

static bool method_of(tmpl_render *r, const tmpl_value *object, const tmpl_string *name,
                      const tmpl_node *origin, tmpl_value *out, bool *found)
{
    tmpl_flavour flavour = object->kind == TMPL_SEQUENCE ? object->q->flavour : TMPL_LIST;
    const tmpl_callable *callable = proa_tmpl_find_method(object->kind, flavour, name);
    *found = callable != NULL;
    if (callable == NULL)
        return true;
    if (callable->params == NULL) { /* it would change the object */
        *out = proa_tmpl_undefined(origin, object->kind);
        return true;
    }
    tmpl_method *method = proa_tmpl_alloc(r, 1, sizeof *method);
    if (method == NULL)
        return false;
    *method = (tmpl_method){*object, callable};
    *out = (tmpl_value){.kind = TMPL_METHOD, .method = method};
    return true;
}

/* A name behind a dot, or a string subscript that found no element: what Python's getattr gives. */
static bool plain_attribute(tmpl_render *r, const tmpl_value *object, const tmpl_string *name,
                            const tmpl_node *origin, tmpl_value *out, bool *found)
{
    if (object->kind == TMPL_LOOP) {
        *found = true;
        return proa_tmpl_loop_attribute(r, object->loop, name, origin, out);
    }
    if (object->kind == TMPL_NAMESPACE) {
        tmpl_value key = {.kind = TMPL_STRING, .s = (tmpl_string *)(uintptr_t)name};
        return proa_tmpl_dict_find(r, object->m, &key, out, found);
    }
    return method_of(r, object, name, origin, out, found);
}

bool proa_tmpl_attribute(tmpl_render *r, const tmpl_value *object, const tmpl_string *name,
                         const tmpl_node *origin, tmpl_value *out)
{
    bool found = false;
    if (object->kind == TMPL_UNDEFINED)
        return proa_tmpl_fail_undefined(r, object);
    if (!plain_attribute(r, object, name, origin, out, &found))
        return false;
    if (!found && object->kind == TMPL_DICT) {
        tmpl_value key = {.kind = TMPL_STRING, .s = (tmpl_string *)(uintptr_t)name};
        if (!proa_tmpl_dict_find(r, object->m, &key, out, &found))
            return false;
    }
    if (!found)
        *out = proa_tmpl_undefined(origin, object->kind);
    return true;
}

static bool element_at(tmpl_render *r, const tmpl_value *object, int64_t index, tmpl_value *out, bool *found)
{
    bool indexable =
        object->kind == TMPL_STRING || (object->kind == TMPL_SEQUENCE && object->q->flavour <= TMPL_RANGE);
    if (!indexable)
        return true;
    size_t count = object->kind == TMPL_STRING ? object->s->characters : object->q->count;
    if (index < 0)
        index += (int64_t)count;
    if (index < 0 || (size_t)index >= count)
        return true;
    *found = true;
    if (object->kind == TMPL_SEQUENCE) {
        *out = proa_tmpl_sequence_at(object->q, (size_t)index);
        return true;
    }
    tmpl_value bounds[3] = {tmpl_int(index), tmpl_int(index + 1), tmpl_none()};
    return proa_tmpl_slice(r, object, bounds, out);
}

bool proa_tmpl_item(tmpl_render *r, const tmpl_value *object, const tmpl_value *key, const tmpl_node *origin,
                    tmpl_value *out)
{
    bool found = false;
    if (object->kind == TMPL_UNDEFINED)
        return proa_tmpl_fail_undefined(r, object);
    if (object->kind == TMPL_DICT && proa_tmpl_hashable(key)) {
        if (!proa_tmpl_dict_find(r, object->m, key, out, &found))
            return false;
    } else if (tmpl_is_integer(key)) {
        if (!element_at(r, object, tmpl_integer(key), out, &found))
            return false;
    }
    if (!found && key->kind == TMPL_STRING) {
        if (proa_tmpl_string_bytes(r, key->s) == NULL ||
            !plain_attribute(r, object, key->s, origin, out, &found))
            return false;
    }
    if (!found)
        *out = proa_tmpl_undefined(origin, object->kind);
    return true;
}

/* --- slices --- */

typedef struct slice {
    int64_t start, stop, step;
    size_t count;
} slice;

static bool bound(tmpl_render *r, const tmpl_value *v, int64_t otherwise, int64_t length, int64_t lower,
                  int64_t upper, int64_t *out)
{
    *out = otherwise;
    if (v->kind == TMPL_NONE)
        return true;
    if (!tmpl_is_integer(v))
        return proa_tmpl_fail(r, PROA_ERR_INVALID, "slice indices must be integers or None, not %s",
                              proa_tmpl_type_name(v));
    int64_t i = tmpl_integer(v);
    if (i < 0)
        i += length;
    *out = i < lower ? lower : i > upper ? upper : i;
    return true;
}

static bool slice_bounds(tmpl_render *r, const tmpl_value bounds[3], size_t count, slice *s)
{
    int64_t length = (int64_t)count, step = 1;
    if (bounds[2].kind != TMPL_NONE) {
        if (!tmpl_is_integer(&bounds[2]) || tmpl_integer(&bounds[2]) == 0)
            return proa_tmpl_fail(r, PROA_ERR_INVALID, "a slice's step must be an integer other than 0");
        step = tmpl_integer(&bounds[2]);
        if (step < -INT64_MAX)
            step = -INT64_MAX;
    }
    int64_t lower = step < 0 ? -1 : 0, upper = step < 0 ? length - 1 : length;
    if (!bound(r, &bounds[0], step < 0 ? upper : lower, length, lower, upper, &s->start) ||
        !bound(r, &bounds[1], step < 0 ? lower : upper, length, lower, upper, &s->stop))
        return false;
    int64_t stop = s->stop;
    s->step = step;
    if (step < 0)
        s->count = stop < s->start ? (size_t)((s->start - stop - 1) / -step + 1) : 0;
    else
        s->count = s->start < stop ? (size_t)((stop - s->start - 1) / step + 1) : 0;
    return true;
}

static bool slice_range(tmpl_render *r, const tmpl_sequence *q, const slice *s, tmpl_value *out)
{
    int64_t step;
    if (__builtin_mul_overflow(q->step, s->step, &step))
        return overflow(r);
    tmpl_sequence *part = proa_tmpl_alloc(r, 1, sizeof *part);
    if (part == NULL)
        return false;
    *part = (tmpl_sequence){.flavour = TMPL_RANGE,
                            .count = s->count,
                            .start = q->start + s->start * q->step,
                            .stop = q->start + s->stop * q->step,
                            .step = step};
    *out = (tmpl_value){.kind = TMPL_SEQUENCE, .q = part};
    return true;
}

static bool slice_sequence(tmpl_render *r, const tmpl_sequence *q, const slice *s, tmpl_value *out)
{
    if (q->flavour == TMPL_RANGE)
        return slice_range(r, q, s, out);
    tmpl_sequence *part = proa_tmpl_sequence_new(r, q->flavour, s->count, out);
    for (size_t i = 0; part != NULL && i < s->count; i++)
        part->items[i] = q->items[s->start + (int64_t)i * s->step];
    return part != NULL;
}

static bool slice_string(tmpl_render *r, tmpl_string *text, const slice *s, tmpl_value *out)
{
    const char *bytes = proa_tmpl_string_bytes(r, text);
    if (bytes == NULL || !proa_tmpl_spend_bytes(r, text->length))
        return false;
    if (s->count == 0)
        return tmpl_set_string(out, r->empty);
    bool ascii = text->characters == text->length;
    if (s->step == 1) {
        size_t start = (size_t)s->start, end = start + s->count;
        if (!ascii) {
            start = proa_tmpl_string_offset(bytes, text->length, start);
            end = start + proa_tmpl_string_offset(bytes + start, text->length - start, s->count);
        }
        return tmpl_set_string(out, proa_tmpl_string_slice(r, text, start, end));
    }
    size_t *offsets = proa_tmpl_alloc(r, text->characters + 1, sizeof offsets[0]);
    if (offsets == NULL || !proa_tmpl_spend(r, text->length / 8))
        return false;
    size_t n = 0;
    for (size_t i = 0; i < text->length; i++) {
        if (((unsigned char)bytes[i] & 0xc0) != 0x80)
            offsets[n++] = i;
    }
    offsets[n] = text->length;
    proa_buf_clear(&r->scratch);
    for (size_t i = 0; i < s->count; i++) {
        int64_t at = s->start + (int64_t)i * s->step;
        proa_buf_append(&r->scratch, bytes + offsets[at], offsets[at + 1] - offsets[at]);
    }
    return tmpl_set_string(out, proa_tmpl_string_scratch(r, proa_tmpl_taint_whole(text)));
}

bool proa_tmpl_slice(tmpl_render *r, const tmpl_value *object, const tmpl_value bounds[3], tmpl_value *out)
{
    slice s;
    if (object->kind == TMPL_UNDEFINED)
        return proa_tmpl_fail_undefined(r, object);
    if (object->kind == TMPL_STRING)
        return slice_bounds(r, bounds, object->s->characters, &s) && slice_string(r, object->s, &s, out);
    if (object->kind == TMPL_SEQUENCE && object->q->flavour <= TMPL_RANGE)
        return slice_bounds(r, bounds, object->q->count, &s) && slice_sequence(r, object->q, &s, out);
    return proa_tmpl_fail(r, PROA_ERR_INVALID, "'%s' object cannot be sliced", proa_tmpl_type_name(object));
}
