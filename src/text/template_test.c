/* template_test.c - what may stand behind `is`. */
#include "text/template_internal.h"

#include "base/status.h"

#define TEST(name, condition)                                                                                \
    static bool name(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)        \
    {                                                                                                        \
        (void)r;                                                                                             \
        (void)self;                                                                                          \
        (void)args;                                                                                          \
        *out = tmpl_bool(condition);                                                                         \
        return true;                                                                                         \
    }

#define COMPARISON(name, op)                                                                                 \
    static bool name(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)        \
    {                                                                                                        \
        out->kind = TMPL_BOOL;                                                                               \
        return proa_tmpl_compare(r, op, self, &args[0], &out->b);                                            \
    }

static bool has_length(const tmpl_value *v) /* and can be indexed */
{
    return v->kind == TMPL_STRING || v->kind == TMPL_DICT || v->kind == TMPL_UNDEFINED ||
           (v->kind == TMPL_SEQUENCE && v->q->flavour <= TMPL_RANGE);
}

static bool is_iterable(const tmpl_value *v)
{
    return v->kind == TMPL_STRING || v->kind == TMPL_DICT || v->kind == TMPL_UNDEFINED ||
           v->kind == TMPL_SEQUENCE || v->kind == TMPL_LOOP;
}

static bool is_callable(const tmpl_value *v) /* an undefined value has __call__, which fails */
{
    return v->kind == TMPL_MACRO || v->kind == TMPL_METHOD || v->kind == TMPL_FUNCTION ||
           v->kind == TMPL_UNDEFINED || v->kind == TMPL_LOOP;
}

static bool is_same(const tmpl_value *a, const tmpl_value *b)
{
    if (a->kind != b->kind)
        return false;
    switch ((tmpl_kind)a->kind) {
    case TMPL_NONE: return true;
    case TMPL_BOOL: return a->b == b->b;
    case TMPL_INT: return a->i == b->i;
    default: return a->m == b->m;
    }
}

TEST(test_defined, self->kind != TMPL_UNDEFINED)
TEST(test_undefined, self->kind == TMPL_UNDEFINED)
TEST(test_none, self->kind == TMPL_NONE)
TEST(test_boolean, self->kind == TMPL_BOOL)
TEST(test_true, self->kind == TMPL_BOOL && self->b)
TEST(test_false, self->kind == TMPL_BOOL && !self->b)
TEST(test_integer, self->kind == TMPL_INT)
TEST(test_float, self->kind == TMPL_REAL)
TEST(test_number, tmpl_is_number(self))
TEST(test_string, self->kind == TMPL_STRING)
TEST(test_mapping, self->kind == TMPL_DICT)
TEST(test_sequence, has_length(self))
TEST(test_iterable, is_iterable(self))
TEST(test_callable, is_callable(self))
TEST(test_escaped, false)
TEST(test_sameas, is_same(self, &args[0]))
COMPARISON(test_in, TMPL_T_IN)
COMPARISON(test_eq, TMPL_T_EQ)
COMPARISON(test_ne, TMPL_T_NE)
COMPARISON(test_lt, TMPL_T_LT)
COMPARISON(test_le, TMPL_T_LE)
COMPARISON(test_gt, TMPL_T_GT)
COMPARISON(test_ge, TMPL_T_GE)

static bool rest_is(tmpl_render *r, const tmpl_value *self, const tmpl_value *divisor, int64_t wanted,
                    tmpl_value *out)
{
    tmpl_value rest, number = tmpl_int(wanted);
    out->kind = TMPL_BOOL;
    return proa_tmpl_binary(r, TMPL_T_MOD, self, divisor, &rest) &&
           proa_tmpl_equal(r, &rest, &number, &out->b);
}

static bool test_odd(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    (void)args;
    tmpl_value two = tmpl_int(2);
    return rest_is(r, self, &two, 1, out);
}

static bool test_even(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    (void)args;
    tmpl_value two = tmpl_int(2);
    return rest_is(r, self, &two, 0, out);
}

static bool test_divisibleby(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    return rest_is(r, self, &args[0], 0, out);
}

static bool test_case(tmpl_render *r, const tmpl_value *self, bool upper, tmpl_value *out)
{
    tmpl_string *s;
    out->kind = TMPL_BOOL;
    return proa_tmpl_to_string(r, self, &s) && proa_tmpl_is_case(r, s, upper, &out->b);
}

static bool test_lower(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    (void)args;
    return test_case(r, self, false, out);
}

static bool test_upper(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    (void)args;
    return test_case(r, self, true, out);
}

static bool known(tmpl_render *r, const tmpl_value *self, bool filter, tmpl_value *out)
{
    *out = tmpl_bool(false);
    if (!proa_tmpl_hashable(self))
        return proa_tmpl_fail(r, PROA_ERR_INVALID, "unhashable type: '%s' has no name",
                              proa_tmpl_type_name(self));
    if (self->kind != TMPL_STRING)
        return true;
    const char *name = proa_tmpl_string_bytes(r, self->s);
    if (name == NULL)
        return false;
    out->b = (filter ? proa_tmpl_find_filter(name, self->s->length)
                     : proa_tmpl_find_test(name, self->s->length)) != NULL;
    return true;
}

static bool test_filter(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    (void)args;
    return known(r, self, true, out);
}

static bool test_test(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    (void)args;
    return known(r, self, false, out);
}

static const tmpl_callable tests[] = {
    {"defined", "", test_defined},
    {"undefined", "", test_undefined},
    {"none", "", test_none},
    {"boolean", "", test_boolean},
    {"true", "", test_true},
    {"false", "", test_false},
    {"integer", "", test_integer},
    {"float", "", test_float},
    {"number", "", test_number},
    {"string", "", test_string},
    {"mapping", "", test_mapping},
    {"sequence", "", test_sequence},
    {"iterable", "", test_iterable},
    {"callable", "", test_callable},
    {"escaped", "", test_escaped},
    {"sameas", "other", test_sameas},
    {"in", "seq", test_in},
    {"==", "other", test_eq},
    {"eq", "other", test_eq},
    {"equalto", "other", test_eq},
    {"!=", "other", test_ne},
    {"ne", "other", test_ne},
    {"<", "other", test_lt},
    {"lt", "other", test_lt},
    {"lessthan", "other", test_lt},
    {"<=", "other", test_le},
    {"le", "other", test_le},
    {">", "other", test_gt},
    {"gt", "other", test_gt},
    {"greaterthan", "other", test_gt},
    {">=", "other", test_ge},
    {"ge", "other", test_ge},
    {"odd", "", test_odd},
    {"even", "", test_even},
    {"divisibleby", "num", test_divisibleby},
    {"lower", "", test_lower},
    {"upper", "", test_upper},
    {"filter", "", test_filter},
    {"test", "", test_test},
    {NULL},
};

const tmpl_callable *proa_tmpl_find_test(const char *name, size_t length)
{
    return proa_tmpl_find(tests, name, length);
}
