/* template_parse_expression.c - expressions, by Jinja's grammar.
 *
 *   condition  := or ('if' or ['else' condition])*
 *   or, and    := operands joined by 'or', 'and';      not := 'not' not | compare
 *   compare    := math1 (('==' | ... | 'in' | 'not' 'in') math1)*
 *   math1 (+ -) > concat (~) > math2 (* / // %) > power (**) > unary
 *   unary      := ('-' | '+') unary | primary postfix*, then filters and tests
 */
#include "text/template_internal.h"

#include <string.h>

static tmpl_node *parse_unary(tmpl_parser *p, bool with_filter);
static tmpl_node *parse_condition(tmpl_parser *p);

static tmpl_node *pair(tmpl_parser *p, tmpl_node_kind kind, const tmpl_token *at, tmpl_node *a, tmpl_node *b)
{
    tmpl_node *n = proa_tmpl_node_new(p, kind, at);
    if (n == NULL)
        return NULL;
    n->a = a;
    n->b = b;
    return n;
}

/* --- literals, names, brackets --- */

static tmpl_node *parse_name(tmpl_parser *p)
{
    static const struct {
        const char *name;
        tmpl_value value;
    } constants[] = {
        {"true", {.kind = TMPL_BOOL, .b = true}},
        {"True", {.kind = TMPL_BOOL, .b = true}},
        {"false", {.kind = TMPL_BOOL, .b = false}},
        {"False", {.kind = TMPL_BOOL, .b = false}},
        {"none", {.kind = TMPL_NONE}},
        {"None", {.kind = TMPL_NONE}},
    };
    tmpl_token token = p->current;
    tmpl_node *n = proa_tmpl_node_new(p, TMPL_N_NAME, &token);
    if (n == NULL || !proa_tmpl_advance(p))
        return NULL;
    for (size_t i = 0; i < sizeof constants / sizeof constants[0]; i++) {
        if (proa_tmpl_is_name(&token, constants[i].name)) {
            n->kind = TMPL_N_CONSTANT;
            n->constant = constants[i].value;
            return n;
        }
    }
    n->symbol = proa_tmpl_symbol(p, token.text, token.length, &n->name);
    if (n->symbol == TMPL_S_CALLER)
        p->flags |= TMPL_USES_CALLER;
    if (n->symbol == TMPL_S_KWARGS)
        p->flags |= TMPL_USES_KWARGS;
    if (n->symbol == TMPL_S_VARARGS)
        p->flags |= TMPL_USES_VARARGS;
    return p->failed ? NULL : n;
}

/* Strings side by side are one. */
static tmpl_node *parse_strings(tmpl_parser *p)
{
    tmpl_token first = p->current;
    tmpl_node *n = proa_tmpl_node_new(p, TMPL_N_CONSTANT, &first);
    if (n == NULL || !proa_tmpl_advance(p))
        return NULL;
    const char *text = first.text;
    size_t length = first.length;
    if (p->current.kind == TMPL_T_STRING) {
        proa_buf joined = {0};
        proa_buf_append(&joined, text, length);
        while (p->current.kind == TMPL_T_STRING) {
            proa_buf_append(&joined, p->current.text, p->current.length);
            if (!proa_tmpl_advance(p))
                break;
        }
        length = joined.length;
        text = joined.failed ? NULL : proa_arena_string(p->program->arena, joined.data, length);
        proa_buf_free(&joined);
        if (text == NULL)
            return proa_tmpl_parse_fail(p, PROA_ERR_MEMORY, &first, "no memory for this string");
    }
    n->constant = (tmpl_value){.kind = TMPL_STRING, .s = proa_tmpl_parse_string(p, text, length)};
    return p->failed ? NULL : n;
}

static tmpl_node *parse_list(tmpl_parser *p)
{
    tmpl_node *n = proa_tmpl_node_new(p, TMPL_N_LIST, &p->current);
    proa_tmpl_expect(p, TMPL_T_LBRACKET);
    while (n != NULL && !p->failed && p->current.kind != TMPL_T_RBRACKET) {
        if (n->list.count > 0 && !proa_tmpl_expect(p, TMPL_T_COMMA))
            return NULL;
        if (p->current.kind == TMPL_T_RBRACKET)
            break;
        proa_tmpl_list_add(&n->list, proa_tmpl_parse_expression(p, true));
    }
    return proa_tmpl_expect(p, TMPL_T_RBRACKET) ? n : NULL;
}

static tmpl_node *parse_dict(tmpl_parser *p)
{
    tmpl_node *n = proa_tmpl_node_new(p, TMPL_N_DICT, &p->current);
    proa_tmpl_expect(p, TMPL_T_LBRACE);
    while (n != NULL && !p->failed && p->current.kind != TMPL_T_RBRACE) {
        if (n->list.count > 0 && !proa_tmpl_expect(p, TMPL_T_COMMA))
            return NULL;
        if (p->current.kind == TMPL_T_RBRACE)
            break;
        proa_tmpl_list_add(&n->list, proa_tmpl_parse_expression(p, true));
        proa_tmpl_expect(p, TMPL_T_COLON);
        proa_tmpl_list_add(&n->list, proa_tmpl_parse_expression(p, true));
    }
    return proa_tmpl_expect(p, TMPL_T_RBRACE) ? n : NULL;
}

static tmpl_node *parse_primary(tmpl_parser *p)
{
    tmpl_token token = p->current;
    tmpl_node *n = NULL;
    if (p->failed)
        return NULL;
    switch (token.kind) {
    case TMPL_T_NAME: return parse_name(p);
    case TMPL_T_STRING: return parse_strings(p);
    case TMPL_T_INT:
    case TMPL_T_REAL:
        n = proa_tmpl_node_new(p, TMPL_N_CONSTANT, &token);
        if (n != NULL)
            n->constant = token.kind == TMPL_T_INT ? tmpl_int(token.i) : tmpl_real(token.d);
        return proa_tmpl_advance(p) ? n : NULL;
    case TMPL_T_LPAREN:
        proa_tmpl_advance(p);
        n = proa_tmpl_parse_tuple(p, true, true);
        return proa_tmpl_expect(p, TMPL_T_RPAREN) ? n : NULL;
    case TMPL_T_LBRACKET: return parse_list(p);
    case TMPL_T_LBRACE: return parse_dict(p);
    default: break;
    }
    return proa_tmpl_parse_fail(p, PROA_ERR_INVALID, &token, "expected an expression, found %s",
                                proa_tmpl_token_name(token.kind));
}

/* --- tuples and targets --- */

static bool at_tuple_end(const tmpl_parser *p, tmpl_tuple_rule rule)
{
    tmpl_token_kind kind = p->current.kind;
    return kind == TMPL_T_VARIABLE_END || kind == TMPL_T_BLOCK_END || kind == TMPL_T_RPAREN ||
           (rule == TMPL_TUPLE_UNTIL_IN && proa_tmpl_is_name(&p->current, "in"));
}

static bool check_not_empty(tmpl_parser *p, const tmpl_node *tuple, bool parenthesised)
{
    if (tuple->list.count == 0 && !parenthesised)
        proa_tmpl_parse_fail(p, PROA_ERR_INVALID, &p->current, "expected an expression, found %s",
                             proa_tmpl_token_name(p->current.kind));
    return !p->failed;
}

/* One expression, or a tuple when there are commas (or nothing between parentheses). */
tmpl_node *proa_tmpl_parse_tuple(tmpl_parser *p, bool with_condition, bool parenthesised)
{
    tmpl_node *tuple = proa_tmpl_node_new(p, TMPL_N_TUPLE, &p->current);
    bool commas = false;
    while (tuple != NULL && !p->failed) {
        if (tuple->list.count > 0 && !proa_tmpl_expect(p, TMPL_T_COMMA))
            return NULL;
        if (at_tuple_end(p, TMPL_TUPLE_PLAIN) || (commas && proa_tmpl_is_name(&p->current, "recursive")))
            break;
        proa_tmpl_list_add(&tuple->list, proa_tmpl_parse_expression(p, with_condition));
        if (p->failed || p->current.kind != TMPL_T_COMMA)
            break;
        commas = true;
    }
    if (p->failed || tuple == NULL)
        return NULL;
    if (!commas && tuple->list.count == 1)
        return tuple->list.first;
    return check_not_empty(p, tuple, parenthesised) ? tuple : NULL;
}

static tmpl_node *parse_target_primary(tmpl_parser *p, bool with_namespace);

static tmpl_node *parse_target_list(tmpl_parser *p, tmpl_tuple_rule rule, bool with_namespace,
                                    bool parenthesised)
{
    tmpl_node *tuple = proa_tmpl_node_new(p, TMPL_N_TUPLE, &p->current);
    bool commas = false;
    while (tuple != NULL && !p->failed) {
        if (tuple->list.count > 0 && !proa_tmpl_expect(p, TMPL_T_COMMA))
            return NULL;
        if (at_tuple_end(p, rule))
            break;
        proa_tmpl_list_add(&tuple->list, parse_target_primary(p, with_namespace));
        if (p->failed || p->current.kind != TMPL_T_COMMA)
            break;
        commas = true;
    }
    if (p->failed || tuple == NULL || (!commas && tuple->list.count == 1))
        return p->failed || tuple == NULL ? NULL : tuple->list.first;
    return check_not_empty(p, tuple, parenthesised) ? tuple : NULL;
}

/* A name, name.attribute (of a namespace) or a parenthesised list of such. */
static tmpl_node *parse_target_primary(tmpl_parser *p, bool with_namespace)
{
    tmpl_token token = p->current;
    if (token.kind == TMPL_T_LPAREN) {
        if (!proa_tmpl_enter(p) || !proa_tmpl_advance(p))
            return NULL;
        tmpl_node *n = parse_target_list(p, TMPL_TUPLE_PLAIN, false, true);
        p->depth--;
        return proa_tmpl_expect(p, TMPL_T_RPAREN) ? n : NULL;
    }
    tmpl_node *n = token.kind == TMPL_T_NAME ? parse_name(p) : NULL;
    if (p->failed)
        return NULL;
    if (n == NULL || n->kind != TMPL_N_NAME)
        return proa_tmpl_parse_fail(p, PROA_ERR_INVALID, &token, "cannot assign to this; a name is needed");
    if (with_namespace && p->current.kind == TMPL_T_DOT) {
        proa_tmpl_advance(p);
        token = p->current;
        if (!proa_tmpl_expect(p, TMPL_T_NAME))
            return NULL;
        n->kind = TMPL_N_NAMESPACED;
        proa_tmpl_symbol(p, token.text, token.length, &n->name);
    }
    return n;
}

tmpl_node *proa_tmpl_parse_target(tmpl_parser *p, tmpl_tuple_rule rule, bool with_namespace)
{
    uint8_t flags = p->flags; /* a name that is set is not read */
    tmpl_node *n = p->failed ? NULL : parse_target_list(p, rule, with_namespace, false);
    p->flags = flags;
    return n;
}

/* --- calls, filters, tests --- */

/* Behind the parenthesis, up to and with its end. */
static bool parse_arguments(tmpl_parser *p, tmpl_list *list)
{
    bool keywords = false, star = false, star_star = false;
    proa_tmpl_expect(p, TMPL_T_LPAREN);
    while (!p->failed && p->current.kind != TMPL_T_RPAREN) {
        if (list->count > 0 && (!proa_tmpl_expect(p, TMPL_T_COMMA) || p->current.kind == TMPL_T_RPAREN))
            break;
        tmpl_token at = p->current;
        tmpl_node *n = NULL;
        bool in_order = !star_star;
        if (proa_tmpl_skip(p, TMPL_T_MUL)) {
            in_order &= !star;
            star = true;
            n = pair(p, TMPL_N_STAR, &at, proa_tmpl_parse_expression(p, true), NULL);
        } else if (proa_tmpl_skip(p, TMPL_T_POW)) {
            star_star = true;
            n = pair(p, TMPL_N_STAR_STAR, &at, proa_tmpl_parse_expression(p, true), NULL);
        } else if (at.kind == TMPL_T_NAME && p->ahead.kind == TMPL_T_ASSIGN) {
            keywords = true;
            proa_tmpl_advance(p);
            proa_tmpl_advance(p);
            n = pair(p, TMPL_N_KEYWORD, &at, proa_tmpl_parse_expression(p, true), NULL);
            if (n != NULL)
                n->symbol = proa_tmpl_symbol(p, at.text, at.length, &n->name);
        } else {
            in_order &= !keywords && !star;
            n = proa_tmpl_parse_expression(p, true);
        }
        if (!in_order)
            proa_tmpl_parse_fail(p, PROA_ERR_INVALID, &at,
                                 "arguments are in a wrong order: values, *list, name=value, **dict");
        proa_tmpl_list_add(list, n);
    }
    return proa_tmpl_expect(p, TMPL_T_RPAREN);
}

static tmpl_node *parse_call(tmpl_parser *p, tmpl_node *callee)
{
    tmpl_node *n = pair(p, TMPL_N_CALL, &p->current, callee, NULL);
    return n != NULL && parse_arguments(p, &n->list) ? n : NULL;
}

/* The current token is the name of a filter or test, perhaps with dots. */
static tmpl_node *parse_named(tmpl_parser *p, tmpl_node_kind kind, tmpl_node *input)
{
    tmpl_token name = p->current;
    tmpl_node *n = pair(p, kind, &name, input, NULL);
    if (n == NULL || !proa_tmpl_expect(p, TMPL_T_NAME))
        return NULL;
    bool test = kind == TMPL_N_TEST;
    n->callable =
        test ? proa_tmpl_find_test(name.text, name.length) : proa_tmpl_find_filter(name.text, name.length);
    proa_tmpl_symbol(p, name.text, name.length, &n->name);
    if ((n->callable == NULL && !p->soft) || p->current.kind == TMPL_T_DOT)
        return proa_tmpl_parse_fail(p, PROA_ERR_UNSUPPORTED, &name, "there is no %s named '%.*s' here",
                                    test ? "test" : "filter", (int)(name.length < 60 ? name.length : 60),
                                    name.text);
    return n;
}

/* ('|' name [arguments])*; start_inline: the first one without its '|'. NULL without failure: there are none. */
tmpl_node *proa_tmpl_parse_filters(tmpl_parser *p, tmpl_node *input, bool start_inline)
{
    tmpl_node *n = input;
    while (!p->failed && (start_inline || p->current.kind == TMPL_T_PIPE)) {
        if (!start_inline)
            proa_tmpl_advance(p);
        start_inline = false;
        n = parse_named(p, TMPL_N_FILTER, n);
        if (n != NULL && p->current.kind == TMPL_T_LPAREN && !parse_arguments(p, &n->list))
            return NULL;
    }
    return p->failed ? NULL : n;
}

static tmpl_node *parse_subscript(tmpl_parser *p, tmpl_node *object);

static tmpl_node *parse_postfix(tmpl_parser *p, tmpl_node *n)
{
    while (!p->failed && n != NULL) {
        if (p->current.kind == TMPL_T_DOT || p->current.kind == TMPL_T_LBRACKET)
            n = parse_subscript(p, n);
        else if (p->current.kind == TMPL_T_LPAREN)
            n = parse_call(p, n);
        else
            break;
    }
    return p->failed ? NULL : n;
}

/* A test may take one argument without parentheses: x is divisibleby 3. */
static bool starts_argument(const tmpl_parser *p)
{
    switch (p->current.kind) {
    case TMPL_T_NAME:
        return !proa_tmpl_is_name(&p->current, "else") && !proa_tmpl_is_name(&p->current, "or") &&
               !proa_tmpl_is_name(&p->current, "and");
    case TMPL_T_STRING:
    case TMPL_T_INT:
    case TMPL_T_REAL:
    case TMPL_T_LPAREN:
    case TMPL_T_LBRACKET:
    case TMPL_T_LBRACE: return true;
    default: return false;
    }
}

static tmpl_node *parse_test(tmpl_parser *p, tmpl_node *input)
{
    tmpl_token at = p->current;
    proa_tmpl_advance(p);
    bool negated = proa_tmpl_skip_name(p, "not");
    tmpl_node *n = p->failed ? NULL : parse_named(p, TMPL_N_TEST, input);
    if (n == NULL)
        return NULL;
    if (p->current.kind == TMPL_T_LPAREN) {
        if (!parse_arguments(p, &n->list))
            return NULL;
    } else if (starts_argument(p)) {
        if (proa_tmpl_is_name(&p->current, "is"))
            return proa_tmpl_parse_fail(p, PROA_ERR_INVALID, &p->current,
                                        "tests cannot be chained; use 'and'");
        proa_tmpl_list_add(&n->list, parse_postfix(p, parse_primary(p)));
    }
    return negated ? pair(p, TMPL_N_NOT, &at, n, NULL) : p->failed ? NULL : n;
}

static tmpl_node *parse_filters_and_tests(tmpl_parser *p, tmpl_node *n)
{
    while (!p->failed && n != NULL) {
        if (p->current.kind == TMPL_T_PIPE)
            n = proa_tmpl_parse_filters(p, n, false);
        else if (proa_tmpl_is_name(&p->current, "is"))
            n = parse_test(p, n);
        else if (p->current.kind == TMPL_T_LPAREN)
            n = parse_call(p, n);
        else
            break;
    }
    return p->failed ? NULL : n;
}

/* --- subscripts --- */

static tmpl_node *optional_bound(tmpl_parser *p)
{
    tmpl_token_kind kind = p->current.kind;
    if (p->failed || kind == TMPL_T_COLON || kind == TMPL_T_RBRACKET || kind == TMPL_T_COMMA)
        return NULL;
    return proa_tmpl_parse_expression(p, true);
}

/* object[a, b] has the tuple (a, b) for a key. */
static tmpl_node *tuple_key(tmpl_parser *p, tmpl_node *first)
{
    tmpl_node *n = proa_tmpl_node_new(p, TMPL_N_TUPLE, &p->current);
    if (n == NULL)
        return NULL;
    proa_tmpl_list_add(&n->list, first);
    while (proa_tmpl_skip(p, TMPL_T_COMMA) && p->current.kind != TMPL_T_RBRACKET)
        proa_tmpl_list_add(&n->list, proa_tmpl_parse_expression(p, true));
    return p->failed ? NULL : n;
}

/* Inside the brackets of object[...]. */
static tmpl_node *parse_subscribed(tmpl_parser *p, tmpl_node *object, const tmpl_token *at)
{
    tmpl_node *start = optional_bound(p);
    if (p->failed)
        return NULL;
    if (p->current.kind != TMPL_T_COLON) {
        if (start == NULL)
            return proa_tmpl_parse_fail(p, PROA_ERR_INVALID, &p->current, "expected a subscript");
        return pair(p, TMPL_N_ITEM, at, object,
                    p->current.kind == TMPL_T_COMMA ? tuple_key(p, start) : start);
    }
    tmpl_node *n = pair(p, TMPL_N_SLICE, at, object, start);
    proa_tmpl_advance(p);
    if (n == NULL)
        return NULL;
    n->c = optional_bound(p);
    if (proa_tmpl_skip(p, TMPL_T_COLON))
        n->other_expression = optional_bound(p);
    return p->failed ? NULL : n;
}

static tmpl_node *parse_subscript(tmpl_parser *p, tmpl_node *object)
{
    tmpl_token at = p->current;
    proa_tmpl_advance(p);
    if (at.kind == TMPL_T_LBRACKET) {
        tmpl_node *n = parse_subscribed(p, object, &at);
        return proa_tmpl_expect(p, TMPL_T_RBRACKET) ? n : NULL;
    }
    tmpl_token name = p->current;
    tmpl_node *n = pair(p, TMPL_N_ATTRIBUTE, &at, object, NULL);
    if (n == NULL || !proa_tmpl_advance(p))
        return NULL;
    if (name.kind == TMPL_T_NAME) {
        n->symbol = proa_tmpl_symbol(p, name.text, name.length, &n->name);
        return p->failed ? NULL : n;
    }
    if (name.kind != TMPL_T_INT)
        return proa_tmpl_parse_fail(p, PROA_ERR_INVALID, &name, "expected a name or number behind '.'");
    n->kind = TMPL_N_ITEM;
    n->b = proa_tmpl_node_new(p, TMPL_N_CONSTANT, &name);
    if (n->b != NULL)
        n->b->constant = tmpl_int(name.i);
    return p->failed ? NULL : n;
}

/* --- operators --- */

static tmpl_node *parse_unary(tmpl_parser *p, bool with_filter)
{
    tmpl_token at = p->current;
    tmpl_node *n;
    if (at.kind == TMPL_T_SUB || at.kind == TMPL_T_ADD) {
        if (!proa_tmpl_enter(p) || !proa_tmpl_advance(p))
            return NULL;
        n = parse_unary(p, false);
        p->depth--;
        n = n != NULL ? pair(p, at.kind == TMPL_T_SUB ? TMPL_N_NEGATE : TMPL_N_PLUS, &at, n, NULL) : NULL;
    } else {
        n = parse_primary(p);
    }
    n = parse_postfix(p, n);
    return with_filter ? parse_filters_and_tests(p, n) : n;
}

/* Levels of binary operators, loosest first; the last operand level is unary. */
enum { LEVEL_SUM, LEVEL_CONCAT, LEVEL_PRODUCT, LEVEL_POWER, LEVEL_UNARY };

static bool is_of_level(tmpl_token_kind kind, int level)
{
    switch (level) {
    case LEVEL_SUM: return kind == TMPL_T_ADD || kind == TMPL_T_SUB;
    case LEVEL_CONCAT: return kind == TMPL_T_TILDE;
    case LEVEL_PRODUCT:
        return kind == TMPL_T_MUL || kind == TMPL_T_DIV || kind == TMPL_T_FLOORDIV || kind == TMPL_T_MOD;
    default: return kind == TMPL_T_POW;
    }
}

static tmpl_node *parse_level(tmpl_parser *p, int level)
{
    if (level == LEVEL_UNARY)
        return parse_unary(p, true);
    tmpl_node *left = parse_level(p, level + 1);
    if (level == LEVEL_CONCAT && !p->failed && p->current.kind == TMPL_T_TILDE) {
        tmpl_node *n = proa_tmpl_node_new(p, TMPL_N_CONCAT, &p->current);
        if (n == NULL)
            return NULL;
        proa_tmpl_list_add(&n->list, left);
        while (proa_tmpl_skip(p, TMPL_T_TILDE))
            proa_tmpl_list_add(&n->list, parse_level(p, level + 1));
        return p->failed ? NULL : n;
    }
    while (!p->failed && is_of_level(p->current.kind, level)) {
        tmpl_token at = p->current;
        proa_tmpl_advance(p);
        left = pair(p, TMPL_N_BINARY, &at, left, parse_level(p, level + 1));
        if (left != NULL)
            left->op = (uint8_t)at.kind;
    }
    return p->failed ? NULL : left;
}

/* Is the current token a comparison? Moves behind it. */
static bool skip_comparison(tmpl_parser *p, tmpl_token_kind *op)
{
    *op = p->current.kind;
    if (p->failed)
        return false;
    if (*op >= TMPL_T_EQ && *op <= TMPL_T_GE)
        return proa_tmpl_advance(p);
    if (proa_tmpl_is_name(&p->current, "in")) {
        *op = TMPL_T_IN;
        return proa_tmpl_advance(p);
    }
    if (proa_tmpl_is_name(&p->current, "not") && proa_tmpl_is_name(&p->ahead, "in")) {
        *op = TMPL_T_NOT_IN;
        return proa_tmpl_advance(p) && proa_tmpl_advance(p);
    }
    return false;
}

static tmpl_node *parse_compare(tmpl_parser *p)
{
    tmpl_token at = p->current;
    tmpl_node *first = parse_level(p, LEVEL_SUM), *n = NULL;
    tmpl_token_kind op;
    while (skip_comparison(p, &op)) {
        if (n == NULL && (n = pair(p, TMPL_N_COMPARE, &at, first, NULL)) == NULL)
            return NULL;
        tmpl_node *operand = pair(p, TMPL_N_OPERAND, &p->current, NULL, NULL);
        if (operand == NULL)
            return NULL;
        operand->op = (uint8_t)op;
        operand->a = parse_level(p, LEVEL_SUM);
        proa_tmpl_list_add(&n->list, operand);
    }
    return p->failed ? NULL : n != NULL ? n : first;
}

static tmpl_node *parse_not(tmpl_parser *p)
{
    tmpl_token at = p->current;
    if (!proa_tmpl_skip_name(p, "not"))
        return p->failed ? NULL : parse_compare(p);
    if (!proa_tmpl_enter(p))
        return NULL;
    tmpl_node *n = parse_not(p);
    p->depth--;
    return n != NULL ? pair(p, TMPL_N_NOT, &at, n, NULL) : NULL;
}

static tmpl_node *parse_and(tmpl_parser *p)
{
    tmpl_token at = p->current;
    tmpl_node *left = parse_not(p);
    while (proa_tmpl_skip_name(p, "and"))
        left = pair(p, TMPL_N_AND, &at, left, parse_not(p));
    return p->failed ? NULL : left;
}

static tmpl_node *parse_or(tmpl_parser *p)
{
    tmpl_token at = p->current;
    tmpl_node *left = parse_and(p);
    while (proa_tmpl_skip_name(p, "or"))
        left = pair(p, TMPL_N_OR, &at, left, parse_and(p));
    return p->failed ? NULL : left;
}

static tmpl_node *parse_condition(tmpl_parser *p)
{
    tmpl_token at = p->current;
    tmpl_node *n = parse_or(p);
    while (proa_tmpl_skip_name(p, "if")) {
        tmpl_node *condition = pair(p, TMPL_N_CONDITION, &at, parse_or(p), n);
        if (condition == NULL)
            return NULL;
        if (proa_tmpl_skip_name(p, "else"))
            condition->c = proa_tmpl_parse_expression(p, true);
        n = condition;
    }
    return p->failed ? NULL : n;
}

tmpl_node *proa_tmpl_parse_expression(tmpl_parser *p, bool with_condition)
{
    if (!proa_tmpl_enter(p))
        return NULL;
    tmpl_node *n = with_condition ? parse_condition(p) : parse_or(p);
    p->depth--;
    return n;
}
