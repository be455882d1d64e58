/* template_eval.c - expressions and variables.
 *
 * A name is looked for in the scopes from the innermost outwards, then among the caller's variables (a user's value goes
 * before a trusted one of the same name), then among the functions. A recursion over the nodes whose depth is bounded.
 */
#include "text/template_internal.h"

#include "base/status.h"

#include <math.h>
#include <string.h>

/* --- scopes --- */

tmpl_frame *proa_tmpl_frame_new(tmpl_render *r, tmpl_frame *parent, const tmpl_list *hidden)
{
    tmpl_frame *frame = proa_tmpl_alloc(r, 1, sizeof *frame);
    if (frame == NULL)
        return NULL;
    frame->parent = parent;
    return proa_tmpl_frame_begin(r, frame, hidden) ? frame : NULL;
}

bool proa_tmpl_frame_begin(tmpl_render *r, tmpl_frame *frame, const tmpl_list *hidden)
{
    frame->count = 0;
    for (const tmpl_node *n = hidden != NULL ? hidden->first : NULL; n != NULL; n = n->next) {
        tmpl_value undefined = proa_tmpl_undefined(n, TMPL_MISSING);
        if (!proa_tmpl_frame_set(r, frame, n->symbol, &undefined))
            return false;
    }
    return true;
}

bool proa_tmpl_frame_set(tmpl_render *r, tmpl_frame *frame, uint32_t symbol, const tmpl_value *value)
{
    size_t i = 0;
    if (!proa_tmpl_spend(r, frame->count / 16))
        return false;
    while (i < frame->count && frame->variables[i].symbol != symbol)
        i++;
    if (i == frame->capacity) {
        size_t capacity = frame->capacity < 4 ? 4 : frame->capacity * 2;
        tmpl_variable *variables = proa_tmpl_alloc(r, capacity, sizeof variables[0]);
        if (variables == NULL)
            return false;
        if (i > 0)
            memcpy(variables, frame->variables, i * sizeof variables[0]);
        frame->variables = variables;
        frame->capacity = capacity;
    }
    frame->count += i == frame->count;
    frame->variables[i] = (tmpl_variable){symbol, *value};
    return true;
}

/* The caller's variables become values when they are first asked for. */
static bool from_caller(tmpl_render *r, uint32_t symbol, const tmpl_string *name, tmpl_value *out)
{
    tmpl_value *known = &r->context[symbol];
    char text[200];
    *out = *known;
    if (known->kind != TMPL_MISSING || name->length >= sizeof text)
        return true;
    memcpy(text, name->bytes, name->length);
    text[name->length] = 0;
    const proa_json *json = proa_json_get(r->tainted, text);
    tmpl_taint taint = json != NULL ? TMPL_TAINTED : TMPL_TRUSTED;
    if (json == NULL)
        json = proa_json_get(r->variables, text);
    if (json != NULL && !proa_tmpl_from_json(r, json, taint, known))
        return false;
    *out = *known;
    return true;
}

static bool eval_name(tmpl_render *r, const tmpl_node *n, tmpl_value *out)
{
    for (const tmpl_frame *frame = r->frame; frame != NULL; frame = frame->parent) {
        if (!proa_tmpl_spend(r, frame->count / 16))
            return false;
        for (size_t i = 0; i < frame->count; i++) {
            if (frame->variables[i].symbol == n->symbol) {
                *out = frame->variables[i].value;
                return true;
            }
        }
    }
    bool is_time = proa_tmpl_string_is(n->name, "strftime_now");
    if (!is_time && !from_caller(r, n->symbol, n->name, out))
        return false;
    if (!is_time && out->kind != TMPL_MISSING)
        return true;
    const tmpl_callable *function = proa_tmpl_find_function(n->name);
    if (function == NULL || (is_time && proa_json_get(r->variables, "strftime_now") == NULL))
        *out = proa_tmpl_undefined(n, TMPL_MISSING);
    else
        *out = (tmpl_value){.kind = TMPL_FUNCTION, .function = function};
    return true;
}

/* --- assignment --- */

static bool assign_attribute(tmpl_render *r, const tmpl_node *target, const tmpl_value *value)
{
    tmpl_value object, key = {.kind = TMPL_STRING, .s = (tmpl_string *)(uintptr_t)target->name};
    tmpl_node name = {
        .kind = TMPL_N_NAME, .symbol = target->symbol, .name = r->program->names[target->symbol]};
    if (!eval_name(r, &name, &object))
        return false;
    r->at = target;
    if (object.kind != TMPL_NAMESPACE)
        return proa_tmpl_fail(r, PROA_ERR_INVALID, "cannot set an attribute of %s; only of a namespace(...)",
                              proa_tmpl_type_name(&object));
    return proa_tmpl_dict_set(r, object.m, &key, value);
}

static bool unpack(tmpl_render *r, const tmpl_node *target, const tmpl_value *value)
{
    tmpl_sequence *q;
    if (value->kind == TMPL_UNDEFINED && target->list.count > 0) /* iterates as nothing */
        return proa_tmpl_fail_undefined(r, value);
    if (!proa_tmpl_iterate(r, value, &q))
        return false;
    if (q->count != target->list.count)
        return proa_tmpl_fail(r, PROA_ERR_INVALID, "%zu values cannot be assigned to %zu names", q->count,
                              target->list.count);
    size_t i = 0;
    for (const tmpl_node *part = target->list.first; part != NULL; part = part->next, i++) {
        tmpl_value item = proa_tmpl_sequence_at(q, i);
        if (!proa_tmpl_assign(r, part, &item))
            return false;
    }
    return true;
}

bool proa_tmpl_assign(tmpl_render *r, const tmpl_node *target, const tmpl_value *value)
{
    r->at = target;
    if (target->kind == TMPL_N_NAME)
        return proa_tmpl_frame_set(r, r->frame, target->symbol, value);
    if (target->kind == TMPL_N_NAMESPACED)
        return assign_attribute(r, target, value);
    PROA_ASSERT(target->kind == TMPL_N_TUPLE);
    return unpack(r, target, value);
}

/* --- calls --- */

/* *list and **dict make the number of arguments unknown before they are evaluated. */
typedef struct argument_list {
    tmpl_args args;
    size_t capacity, keyword_capacity;
} argument_list;

static bool add_positional(tmpl_render *r, argument_list *l, const tmpl_value *value)
{
    if (l->args.count == l->capacity) {
        size_t capacity = l->capacity < 4 ? 4 : l->capacity * 2;
        tmpl_value *values = proa_tmpl_alloc(r, capacity, sizeof values[0]);
        if (values == NULL)
            return false;
        if (l->args.count > 0)
            memcpy(values, l->args.positional, l->args.count * sizeof values[0]);
        l->args.positional = values;
        l->capacity = capacity;
    }
    l->args.positional[l->args.count++] = *value;
    return true;
}

static bool add_keyword(tmpl_render *r, argument_list *l, const tmpl_string *name, const tmpl_value *value)
{
    for (size_t i = 0; i < l->args.keyword_count; i++) {
        const tmpl_string *known = l->args.keywords[i].name;
        if (known->length == name->length && memcmp(known->bytes, name->bytes, name->length) == 0)
            return proa_tmpl_fail(r, PROA_ERR_INVALID, "the argument '%.*s' is given twice",
                                  (int)name->length, name->bytes);
    }
    if (!proa_tmpl_spend(r, 1 + l->args.keyword_count / 8))
        return false;
    if (l->args.keyword_count == l->keyword_capacity) {
        size_t capacity = l->keyword_capacity < 4 ? 4 : l->keyword_capacity * 2;
        tmpl_keyword *keywords = proa_tmpl_alloc(r, capacity, sizeof keywords[0]);
        if (keywords == NULL)
            return false;
        if (l->args.keyword_count > 0)
            memcpy(keywords, l->args.keywords, l->args.keyword_count * sizeof keywords[0]);
        l->args.keywords = keywords;
        l->keyword_capacity = capacity;
    }
    l->args.keywords[l->args.keyword_count++] = (tmpl_keyword){name, *value};
    return true;
}

static bool add_star(tmpl_render *r, argument_list *l, const tmpl_value *values)
{
    tmpl_sequence *q;
    if (!proa_tmpl_iterate(r, values, &q))
        return false;
    for (size_t i = 0; i < q->count; i++) {
        tmpl_value value = proa_tmpl_sequence_at(q, i);
        if (!add_positional(r, l, &value))
            return false;
    }
    return true;
}

static bool add_star_star(tmpl_render *r, argument_list *l, const tmpl_value *values)
{
    if (values->kind != TMPL_DICT)
        return proa_tmpl_fail(r, PROA_ERR_INVALID, "** needs a dict, not %s", proa_tmpl_type_name(values));
    for (size_t i = 0; i < values->m->count; i++) {
        const tmpl_value *key = &values->m->keys[i];
        if (key->kind != TMPL_STRING)
            return proa_tmpl_fail(r, PROA_ERR_INVALID, "** needs keys that are str, not %s",
                                  proa_tmpl_type_name(key));
        if (!add_keyword(r, l, key->s, &values->m->values[i]))
            return false;
    }
    return true;
}

bool proa_tmpl_eval_args(tmpl_render *r, const tmpl_list *list, tmpl_args *args)
{
    argument_list l = {0};
    for (const tmpl_node *n = list->first; n != NULL; n = n->next) {
        tmpl_value value;
        bool plain = n->kind != TMPL_N_KEYWORD && n->kind != TMPL_N_STAR && n->kind != TMPL_N_STAR_STAR;
        if (!proa_tmpl_eval(r, plain ? n : n->a, &value))
            return false;
        bool ok = n->kind == TMPL_N_KEYWORD     ? add_keyword(r, &l, n->name, &value)
                  : n->kind == TMPL_N_STAR      ? add_star(r, &l, &value)
                  : n->kind == TMPL_N_STAR_STAR ? add_star_star(r, &l, &value)
                                                : add_positional(r, &l, &value);
        if (!ok)
            return false;
    }
    *args = l.args;
    return true;
}

static bool eval_call(tmpl_render *r, const tmpl_node *n, tmpl_value *out)
{
    tmpl_value callee;
    tmpl_args args;
    if (!proa_tmpl_eval(r, n->a, &callee) || !proa_tmpl_eval_args(r, &n->list, &args))
        return false;
    r->at = n;
    switch ((tmpl_kind)callee.kind) {
    case TMPL_MACRO: return proa_tmpl_call_macro(r, callee.macro, &args, out);
    case TMPL_METHOD: return proa_tmpl_apply(r, callee.method->callable, &callee.method->self, &args, out);
    case TMPL_FUNCTION: return proa_tmpl_apply(r, callee.function, NULL, &args, out);
    case TMPL_UNDEFINED: return proa_tmpl_fail_undefined(r, &callee);
    default:
        return proa_tmpl_fail(r, PROA_ERR_INVALID, "'%s' object cannot be called",
                              proa_tmpl_type_name(&callee));
    }
}

/* Filters and tests. */
static bool eval_applied(tmpl_render *r, const tmpl_node *n, tmpl_value *out)
{
    tmpl_value input;
    tmpl_args args;
    if (n->a == NULL)
        input = r->input_value;
    else if (!proa_tmpl_eval(r, n->a, &input))
        return false;
    if (!proa_tmpl_eval_args(r, &n->list, &args))
        return false;
    r->at = n;
    if (n->callable == NULL)
        return proa_tmpl_fail(r, PROA_ERR_UNSUPPORTED, "there is no %s named '%.*s' here",
                              n->kind == TMPL_N_TEST ? "test" : "filter", (int)n->name->length,
                              n->name->bytes);
    return proa_tmpl_apply(r, n->callable, &input, &args, out);
}

/* --- literals --- */

static bool eval_list(tmpl_render *r, const tmpl_node *n, tmpl_value *out)
{
    tmpl_flavour flavour = n->kind == TMPL_N_LIST ? TMPL_LIST : TMPL_TUPLE;
    tmpl_sequence *q = proa_tmpl_sequence_new(r, flavour, n->list.count, out);
    size_t i = 0;
    for (const tmpl_node *item = n->list.first; q != NULL && item != NULL; item = item->next) {
        if (!proa_tmpl_eval(r, item, &q->items[i++]))
            return false;
    }
    return q != NULL;
}

static bool eval_dict(tmpl_render *r, const tmpl_node *n, tmpl_value *out)
{
    tmpl_dict *m = proa_tmpl_dict_new(r, n->list.count / 2);
    if (m == NULL)
        return false;
    for (const tmpl_node *key = n->list.first; key != NULL; key = key->next->next) {
        tmpl_value k, v;
        if (!proa_tmpl_eval(r, key, &k) || !proa_tmpl_eval(r, key->next, &v))
            return false;
        r->at = n;
        if (!proa_tmpl_dict_set(r, m, &k, &v))
            return false;
    }
    *out = (tmpl_value){.kind = TMPL_DICT, .m = m};
    return true;
}

/* --- operators --- */

static bool eval_logic(tmpl_render *r, const tmpl_node *n, tmpl_value *out)
{
    if (!proa_tmpl_eval(r, n->a, out))
        return false;
    if (proa_tmpl_truth(out) == (n->kind == TMPL_N_OR))
        return true;
    return proa_tmpl_eval(r, n->b, out);
}

static bool eval_condition(tmpl_render *r, const tmpl_node *n, tmpl_value *out)
{
    tmpl_value test;
    if (!proa_tmpl_eval(r, n->a, &test))
        return false;
    if (proa_tmpl_truth(&test))
        return proa_tmpl_eval(r, n->b, out);
    if (n->c != NULL)
        return proa_tmpl_eval(r, n->c, out);
    *out = proa_tmpl_undefined(n, TMPL_MISSING);
    return true;
}

static bool eval_compare(tmpl_render *r, const tmpl_node *n, tmpl_value *out)
{
    tmpl_value left, right;
    bool holds = true;
    if (!proa_tmpl_eval(r, n->a, &left))
        return false;
    for (const tmpl_node *operand = n->list.first; operand != NULL && holds; operand = operand->next) {
        if (!proa_tmpl_eval(r, operand->a, &right))
            return false;
        r->at = n;
        if (!proa_tmpl_compare(r, (tmpl_token_kind)operand->op, &left, &right, &holds))
            return false;
        left = right;
    }
    *out = tmpl_bool(holds);
    return true;
}

static bool eval_binary(tmpl_render *r, const tmpl_node *n, tmpl_value *out)
{
    tmpl_value a, b;
    if (!proa_tmpl_eval(r, n->a, &a) || !proa_tmpl_eval(r, n->b, &b))
        return false;
    r->at = n;
    return proa_tmpl_binary(r, (tmpl_token_kind)n->op, &a, &b, out);
}

static bool eval_concat(tmpl_render *r, const tmpl_node *n, tmpl_value *out)
{
    tmpl_string *joined = r->empty, *text;
    for (const tmpl_node *part = n->list.first; part != NULL; part = part->next) {
        tmpl_value value;
        if (!proa_tmpl_eval(r, part, &value) || !proa_tmpl_to_string(r, &value, &text))
            return false;
        joined = proa_tmpl_string_concat(r, joined, text);
        if (joined == NULL)
            return false;
    }
    return tmpl_set_string(out, joined);
}

static bool eval_sign(tmpl_render *r, const tmpl_node *n, tmpl_value *out)
{
    tmpl_value v, zero = tmpl_int(0);
    if (!proa_tmpl_eval(r, n->a, &v))
        return false;
    r->at = n;
    if (v.kind == TMPL_UNDEFINED)
        return proa_tmpl_fail_undefined(r, &v);
    if (!tmpl_is_number(&v))
        return proa_tmpl_fail(r, PROA_ERR_INVALID, "a sign needs a number, not %s", proa_tmpl_type_name(&v));
    if (v.kind == TMPL_REAL)
        *out = tmpl_real(n->kind == TMPL_N_NEGATE ? -v.d : v.d);
    else
        return proa_tmpl_binary(r, n->kind == TMPL_N_NEGATE ? TMPL_T_SUB : TMPL_T_ADD, &zero, &v, out);
    return true;
}

static bool eval_subscript(tmpl_render *r, const tmpl_node *n, tmpl_value *out)
{
    tmpl_value object, key;
    if (!proa_tmpl_eval(r, n->a, &object))
        return false;
    if (n->kind == TMPL_N_ATTRIBUTE) {
        r->at = n;
        return proa_tmpl_attribute(r, &object, n->name, n, out);
    }
    if (!proa_tmpl_eval(r, n->b, &key))
        return false;
    r->at = n;
    return proa_tmpl_item(r, &object, &key, n, out);
}

static bool eval_slice(tmpl_render *r, const tmpl_node *n, tmpl_value *out)
{
    const tmpl_node *parts[3] = {n->b, n->c, n->other_expression};
    tmpl_value object, bounds[3];
    if (!proa_tmpl_eval(r, n->a, &object))
        return false;
    for (int i = 0; i < 3; i++) {
        bounds[i] = tmpl_none();
        if (parts[i] != NULL && !proa_tmpl_eval(r, parts[i], &bounds[i]))
            return false;
    }
    r->at = n;
    return proa_tmpl_slice(r, &object, bounds, out);
}

static bool eval_any(tmpl_render *r, const tmpl_node *n, tmpl_value *out)
{
    switch ((tmpl_node_kind)n->kind) {
    case TMPL_N_CONSTANT: *out = n->constant; return true;
    case TMPL_N_NAME: return eval_name(r, n, out);
    case TMPL_N_TUPLE:
    case TMPL_N_LIST: return eval_list(r, n, out);
    case TMPL_N_DICT: return eval_dict(r, n, out);
    case TMPL_N_CONDITION: return eval_condition(r, n, out);
    case TMPL_N_OR:
    case TMPL_N_AND: return eval_logic(r, n, out);
    case TMPL_N_NOT:
        if (!proa_tmpl_eval(r, n->a, out))
            return false;
        *out = tmpl_bool(!proa_tmpl_truth(out));
        return true;
    case TMPL_N_COMPARE: return eval_compare(r, n, out);
    case TMPL_N_BINARY: return eval_binary(r, n, out);
    case TMPL_N_CONCAT: return eval_concat(r, n, out);
    case TMPL_N_NEGATE:
    case TMPL_N_PLUS: return eval_sign(r, n, out);
    case TMPL_N_ATTRIBUTE:
    case TMPL_N_ITEM: return eval_subscript(r, n, out);
    case TMPL_N_SLICE: return eval_slice(r, n, out);
    case TMPL_N_CALL: return eval_call(r, n, out);
    case TMPL_N_FILTER:
    case TMPL_N_TEST: return eval_applied(r, n, out);
    default: break;
    }
    return proa_tmpl_fail(r, PROA_ERR_INTERNAL, "node %d is no expression", n->kind);
}

bool proa_tmpl_eval(tmpl_render *r, const tmpl_node *n, tmpl_value *out)
{
    r->at = n;
    if (!proa_tmpl_spend(r, 1) || !proa_tmpl_descend(r))
        return false;
    bool ok = eval_any(r, n, out);
    r->depth--;
    return ok;
}
