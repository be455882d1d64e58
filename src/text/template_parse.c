/* template_parse.c - the parser's tools and the statements of templates.
 *
 * A recursive descent over the tokens with one token of lookahead; the depth of recursion is bounded. After the
 * first error `failed` stays set and everything returns quickly. Deliberately absent: what reads other templates (include,
 * import, extends, block) and what Hugging Face does not turn on (do, trans, autoescape); each is named in its error.
 */
#include "text/template_internal.h"

#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- tools --- */

void *proa_tmpl_parse_fail(tmpl_parser *p, proa_status status, const tmpl_token *at, const char *format, ...)
{
    char text[600];
    va_list args;
    if (p->failed)
        return NULL;
    p->failed = true;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    proa_error_set(p->err, status, "template line %u, column %u: %s", at->line, at->column, text);
    return NULL;
}

static void *no_memory(tmpl_parser *p)
{
    return proa_tmpl_parse_fail(p, PROA_ERR_MEMORY, &p->current, "no memory to parse the template");
}

bool proa_tmpl_advance(tmpl_parser *p)
{
    p->current = p->ahead;
    if (!p->failed && p->current.kind != TMPL_T_EOF && !proa_tmpl_lexer_next(&p->lexer, &p->ahead))
        p->failed = true;
    return !p->failed;
}

bool proa_tmpl_is_name(const tmpl_token *token, const char *name)
{
    return token->kind == TMPL_T_NAME && token->length == strlen(name) &&
           memcmp(token->text, name, token->length) == 0;
}

bool proa_tmpl_skip_name(tmpl_parser *p, const char *name)
{
    return !p->failed && proa_tmpl_is_name(&p->current, name) && proa_tmpl_advance(p);
}

bool proa_tmpl_skip(tmpl_parser *p, tmpl_token_kind kind)
{
    return !p->failed && p->current.kind == kind && proa_tmpl_advance(p);
}

static void fail_expected(tmpl_parser *p, const char *what)
{
    const tmpl_token *t = &p->current;
    bool has_text = t->kind == TMPL_T_NAME;
    proa_tmpl_parse_fail(p, PROA_ERR_INVALID, t, "expected %s, found %s%s%.*s%s", what,
                         has_text ? "" : proa_tmpl_token_name(t->kind), has_text ? "'" : "",
                         has_text ? (int)(t->length < 60 ? t->length : 60) : 0, t->text, has_text ? "'" : "");
}

bool proa_tmpl_expect(tmpl_parser *p, tmpl_token_kind kind)
{
    if (!p->failed && p->current.kind != kind)
        fail_expected(p, proa_tmpl_token_name(kind));
    return !p->failed && proa_tmpl_advance(p);
}

bool proa_tmpl_enter(tmpl_parser *p)
{
    if (p->failed)
        return false;
    if (p->depth >= TMPL_PARSE_DEPTH_MAX) {
        proa_tmpl_parse_fail(p, PROA_ERR_TOO_LONG, &p->current, "nests deeper than %d levels",
                             TMPL_PARSE_DEPTH_MAX);
        return false;
    }
    p->depth++;
    return true;
}

tmpl_node *proa_tmpl_node_new(tmpl_parser *p, tmpl_node_kind kind, const tmpl_token *at)
{
    tmpl_node *n = p->failed ? NULL : proa_arena_alloc(p->program->arena, sizeof *n);
    if (n == NULL)
        return no_memory(p);
    n->kind = (uint8_t)kind;
    n->line = at->line;
    n->column = at->column;
    return n;
}

void proa_tmpl_list_add(tmpl_list *list, tmpl_node *node)
{
    if (node == NULL)
        return;
    if (list->last != NULL)
        list->last->next = node;
    else
        list->first = node;
    list->last = node;
    list->count++;
}

tmpl_string *proa_tmpl_parse_string(tmpl_parser *p, const char *text, size_t length)
{
    tmpl_string *s = proa_arena_alloc(p->program->arena, sizeof *s);
    if (s == NULL)
        return no_memory(p);
    *s = (tmpl_string){
        .length = length, .bytes = text, .characters = proa_tmpl_count_characters(text, length)};
    return s;
}

static uint32_t hash_name(const char *text, size_t length)
{
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < length; i++)
        hash = (hash ^ (unsigned char)text[i]) * 16777619u;
    return hash ^ hash >> 15;
}

/* Both tables double; the old ones stay in the arena. */
static bool grow_names(tmpl_parser *p)
{
    uint32_t capacity = p->name_capacity < 64 ? 64 : p->name_capacity * 2, size = capacity * 2;
    tmpl_string **names = proa_arena_array(p->program->arena, capacity, sizeof names[0]);
    uint32_t *table = proa_arena_array(p->program->arena, size, sizeof table[0]);
    if (names == NULL || table == NULL)
        return no_memory(p) != NULL;
    if (p->program->name_count > 0)
        memcpy(names, p->program->names, p->program->name_count * sizeof names[0]);
    for (uint32_t i = 0; i < p->program->name_count; i++) {
        uint32_t slot = hash_name(names[i]->bytes, names[i]->length) & (size - 1);
        while (table[slot] != 0)
            slot = (slot + 1) & (size - 1);
        table[slot] = i + 1;
    }
    p->program->names = names;
    p->name_capacity = capacity;
    p->name_table = table;
    p->name_table_size = size;
    return true;
}

uint32_t proa_tmpl_symbol(tmpl_parser *p, const char *text, size_t length, const tmpl_string **name)
{
    if (p->failed || (p->program->name_count == p->name_capacity && !grow_names(p)))
        return 0;
    uint32_t mask = p->name_table_size - 1, slot = hash_name(text, length) & mask;
    for (; p->name_table[slot] != 0; slot = (slot + 1) & mask) {
        const tmpl_string *known = p->program->names[p->name_table[slot] - 1];
        if (known->length == length && memcmp(known->bytes, text, length) == 0)
            break;
    }
    if (p->name_table[slot] == 0) {
        tmpl_string *s = proa_tmpl_parse_string(p, text, length);
        if (s == NULL)
            return 0;
        p->program->names[p->program->name_count++] = s;
        p->name_table[slot] = p->program->name_count;
    }
    if (name != NULL)
        *name = p->program->names[p->name_table[slot] - 1];
    return p->name_table[slot] - 1;
}

/* --- statements --- */

static bool parse_body(tmpl_parser *p, const char *const *ends, tmpl_list *body);

/* Behind the tag's expression: its end, the body up to one of the `ends`, and that name, now the current token. */
static bool parse_block(tmpl_parser *p, const char *const *ends, bool is_if, tmpl_list *body)
{
    bool soft = p->soft;
    proa_tmpl_skip(p, TMPL_T_COLON);
    if (!proa_tmpl_expect(p, TMPL_T_BLOCK_END) || !proa_tmpl_enter(p))
        return false;
    p->soft = is_if;
    bool ok = parse_body(p, ends, body);
    p->soft = soft;
    p->depth--;
    if (ok && p->current.kind == TMPL_T_EOF)
        proa_tmpl_parse_fail(p, PROA_ERR_INVALID, &p->current,
                             "the template ends inside a block: '{%% %s %%}' is missing", ends[0]);
    return !p->failed;
}

static bool parse_closed_block(tmpl_parser *p, const char *end, tmpl_list *body)
{
    const char *const ends[] = {end, NULL};
    return parse_block(p, ends, strcmp(end, "endif") == 0, body) && proa_tmpl_advance(p);
}

static tmpl_node *parse_for(tmpl_parser *p, const tmpl_token *at)
{
    static const char *const ends[] = {"endfor", "else", NULL};
    tmpl_node *n = proa_tmpl_node_new(p, TMPL_N_FOR, at);
    if (n == NULL)
        return NULL;
    n->a = proa_tmpl_parse_target(p, TMPL_TUPLE_UNTIL_IN, false);
    if (!p->failed && !proa_tmpl_skip_name(p, "in"))
        fail_expected(p, "'in'");
    n->b = proa_tmpl_parse_tuple(p, false, false);
    if (proa_tmpl_skip_name(p, "if"))
        n->c = proa_tmpl_parse_expression(p, true);
    if (!p->failed && proa_tmpl_is_name(&p->current, "recursive"))
        return proa_tmpl_parse_fail(p, PROA_ERR_UNSUPPORTED, &p->current,
                                    "recursive loops are not supported; use a macro");
    p->loops++;
    bool ok = parse_block(p, ends, false, &n->list);
    p->loops--;
    if (!ok)
        return NULL;
    if (!proa_tmpl_skip_name(p, "else"))
        return proa_tmpl_advance(p) ? n : NULL;
    return parse_closed_block(p, "endfor", &n->other) ? n : NULL;
}

static tmpl_node *parse_if(tmpl_parser *p, const tmpl_token *at)
{
    static const char *const ends[] = {"endif", "elif", "else", NULL};
    tmpl_node *n = proa_tmpl_node_new(p, TMPL_N_IF, at);
    for (bool more = n != NULL; more;) {
        tmpl_node *branch = proa_tmpl_node_new(p, TMPL_N_BRANCH, &p->current);
        if (branch == NULL)
            return NULL;
        bool soft = p->soft;
        p->soft = true;
        branch->a = proa_tmpl_parse_tuple(p, false, false);
        p->soft = soft;
        if (!parse_block(p, ends, true, &branch->list))
            return NULL;
        proa_tmpl_list_add(&n->list, branch);
        more = proa_tmpl_skip_name(p, "elif");
    }
    if (p->failed || !proa_tmpl_is_name(&p->current, "else"))
        return proa_tmpl_advance(p) ? n : NULL;
    tmpl_node *branch = proa_tmpl_node_new(p, TMPL_N_BRANCH, &p->current);
    proa_tmpl_advance(p);
    if (branch == NULL || !parse_closed_block(p, "endif", &branch->list))
        return NULL;
    proa_tmpl_list_add(&n->list, branch);
    return n;
}

static tmpl_node *parse_set(tmpl_parser *p, const tmpl_token *at)
{
    tmpl_node *n = proa_tmpl_node_new(p, TMPL_N_SET, at);
    if (n == NULL)
        return NULL;
    n->a = proa_tmpl_parse_target(p, TMPL_TUPLE_PLAIN, true);
    if (proa_tmpl_skip(p, TMPL_T_ASSIGN)) {
        n->b = proa_tmpl_parse_tuple(p, true, false);
        return p->failed ? NULL : n;
    }
    n->kind = TMPL_N_SET_BLOCK;
    n->b = proa_tmpl_parse_filters(p, NULL, false);
    return !p->failed && parse_closed_block(p, "endset", &n->list) ? n : NULL;
}

/* (name, name=default, ...) */
static bool parse_signature(tmpl_parser *p, tmpl_node *n)
{
    if (!proa_tmpl_expect(p, TMPL_T_LPAREN))
        return false;
    while (!p->failed && p->current.kind != TMPL_T_RPAREN) {
        if (n->params.count > 0 && !proa_tmpl_expect(p, TMPL_T_COMMA))
            return false;
        tmpl_node *param = proa_tmpl_node_new(p, TMPL_N_PARAM, &p->current);
        tmpl_token name = p->current;
        if (param == NULL || !proa_tmpl_expect(p, TMPL_T_NAME))
            return false;
        param->symbol = proa_tmpl_symbol(p, name.text, name.length, &param->name);
        if (proa_tmpl_skip(p, TMPL_T_ASSIGN))
            param->a = proa_tmpl_parse_expression(p, true);
        else if (n->params.last != NULL && n->params.last->a != NULL)
            proa_tmpl_parse_fail(p, PROA_ERR_INVALID, &name,
                                 "a parameter without default follows one with a default");
        proa_tmpl_list_add(&n->params, param);
    }
    return proa_tmpl_expect(p, TMPL_T_RPAREN);
}

static bool is_parameter(const tmpl_node *n, uint32_t symbol)
{
    for (const tmpl_node *param = n->params.first; param != NULL; param = param->next) {
        if (param->symbol == symbol)
            return true;
    }
    return false;
}

/* A body that runs as a function of its own: no break across its border, special names of its own. */
static bool parse_function_body(tmpl_parser *p, const char *end, tmpl_node *n)
{
    int loops = p->loops;
    uint8_t flags = p->flags;
    p->loops = 0;
    p->flags = 0;
    bool ok = parse_closed_block(p, end, &n->list);
    n->flags = p->flags;
    if (is_parameter(n, TMPL_S_CALLER))
        n->flags &= (uint8_t)~TMPL_USES_CALLER;
    p->flags |= flags;
    p->loops = loops;
    return ok;
}

static tmpl_node *parse_macro(tmpl_parser *p, const tmpl_token *at)
{
    tmpl_node *n = proa_tmpl_node_new(p, TMPL_N_MACRO, at);
    tmpl_token name = p->current;
    if (n == NULL || !proa_tmpl_expect(p, TMPL_T_NAME))
        return NULL;
    n->symbol = proa_tmpl_symbol(p, name.text, name.length, &n->name);
    return parse_signature(p, n) && parse_function_body(p, "endmacro", n) ? n : NULL;
}

static tmpl_node *parse_call(tmpl_parser *p, const tmpl_token *at)
{
    tmpl_node *n = proa_tmpl_node_new(p, TMPL_N_CALL_BLOCK, at);
    if (n == NULL || (p->current.kind == TMPL_T_LPAREN && !parse_signature(p, n)))
        return NULL;
    n->symbol = TMPL_S_CALLER;
    n->a = proa_tmpl_parse_expression(p, true);
    if (!p->failed && n->a->kind != TMPL_N_CALL)
        return proa_tmpl_parse_fail(p, PROA_ERR_INVALID, at,
                                    "a call block needs a call: {%% call name(...) %%}");
    return !p->failed && parse_function_body(p, "endcall", n) ? n : NULL;
}

static tmpl_node *parse_filter_block(tmpl_parser *p, const tmpl_token *at)
{
    tmpl_node *n = proa_tmpl_node_new(p, TMPL_N_FILTER_BLOCK, at);
    if (n == NULL)
        return NULL;
    n->b = proa_tmpl_parse_filters(p, NULL, true);
    return !p->failed && parse_closed_block(p, "endfilter", &n->list) ? n : NULL;
}

static tmpl_node *parse_with(tmpl_parser *p, const tmpl_token *at)
{
    tmpl_node *n = proa_tmpl_node_new(p, TMPL_N_WITH, at);
    while (n != NULL && !p->failed && p->current.kind != TMPL_T_BLOCK_END) {
        if (n->params.count > 0 && !proa_tmpl_expect(p, TMPL_T_COMMA))
            return NULL;
        tmpl_node *set = proa_tmpl_node_new(p, TMPL_N_SET, &p->current);
        if (set == NULL)
            return NULL;
        set->a = proa_tmpl_parse_target(p, TMPL_TUPLE_PLAIN, false);
        if (!proa_tmpl_expect(p, TMPL_T_ASSIGN))
            return NULL;
        set->b = proa_tmpl_parse_expression(p, true);
        proa_tmpl_list_add(&n->params, set);
    }
    return n != NULL && !p->failed && parse_closed_block(p, "endwith", &n->list) ? n : NULL;
}

static tmpl_node *parse_generation(tmpl_parser *p, const tmpl_token *at)
{
    tmpl_node *n = proa_tmpl_node_new(p, TMPL_N_GENERATION, at);
    return n != NULL && parse_function_body(p, "endgeneration", n) ? n : NULL;
}

static tmpl_node *parse_jump(tmpl_parser *p, const tmpl_token *at)
{
    bool is_break = at->length == 5;
    if (p->loops == 0)
        return proa_tmpl_parse_fail(p, PROA_ERR_INVALID, at, "'%s' stands outside of a loop",
                                    is_break ? "break" : "continue");
    return proa_tmpl_node_new(p, is_break ? TMPL_N_BREAK : TMPL_N_CONTINUE, at);
}

/* {% print a, b %} is one PRINT an expression. */
static bool parse_print(tmpl_parser *p, tmpl_list *body)
{
    for (bool first = true; !p->failed && p->current.kind != TMPL_T_BLOCK_END; first = false) {
        if (!first && !proa_tmpl_expect(p, TMPL_T_COMMA))
            return false;
        tmpl_node *n = proa_tmpl_node_new(p, TMPL_N_PRINT, &p->current);
        if (n == NULL)
            return false;
        n->a = proa_tmpl_parse_expression(p, true);
        proa_tmpl_list_add(body, n);
    }
    return !p->failed;
}

static tmpl_node *parse_unknown(tmpl_parser *p, const tmpl_token *at)
{
    static const char *const known[] = {"include", "import",     "from", "extends",
                                        "block",   "autoescape", "do",   "trans"};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (proa_tmpl_is_name(at, known[i]))
            return proa_tmpl_parse_fail(p, PROA_ERR_UNSUPPORTED, at, "'{%% %s %%}' is not supported",
                                        known[i]);
    }
    return proa_tmpl_parse_fail(p, PROA_ERR_INVALID, at, "unknown tag '%.*s', or one without its beginning",
                                (int)(at->length < 60 ? at->length : 60), at->text);
}

static const struct {
    const char *name;
    tmpl_node *(*parse)(tmpl_parser *p, const tmpl_token *at);
} statements[] = {
    {"for", parse_for},
    {"if", parse_if},
    {"set", parse_set},
    {"macro", parse_macro},
    {"call", parse_call},
    {"with", parse_with},
    {"generation", parse_generation},
    {"break", parse_jump},
    {"continue", parse_jump},
    {"filter", parse_filter_block},
};

/* At the name of a tag. */
static bool parse_statement(tmpl_parser *p, tmpl_list *body)
{
    tmpl_token tag = p->current;
    if (!proa_tmpl_expect(p, TMPL_T_NAME))
        return false;
    if (proa_tmpl_is_name(&tag, "print"))
        return parse_print(p, body);
    for (size_t i = 0; i < sizeof statements / sizeof statements[0]; i++) {
        if (proa_tmpl_is_name(&tag, statements[i].name)) {
            proa_tmpl_list_add(body, statements[i].parse(p, &tag));
            return !p->failed;
        }
    }
    parse_unknown(p, &tag);
    return false;
}

static bool at_end(const tmpl_parser *p, const char *const *ends)
{
    for (; ends != NULL && *ends != NULL; ends++) {
        if (proa_tmpl_is_name(&p->current, *ends))
            return true;
    }
    return false;
}

static tmpl_node *parse_text(tmpl_parser *p)
{
    tmpl_node *n = proa_tmpl_node_new(p, TMPL_N_TEXT, &p->current);
    if (n == NULL)
        return NULL;
    tmpl_string *text = proa_tmpl_parse_string(p, p->current.text, p->current.length);
    n->constant = (tmpl_value){.kind = TMPL_STRING, .s = text};
    return proa_tmpl_advance(p) ? n : NULL;
}

/* Text, expressions and statements until a tag named in `ends` (current is its name) or the end of the template. */
static bool parse_body(tmpl_parser *p, const char *const *ends, tmpl_list *body)
{
    while (!p->failed && p->current.kind != TMPL_T_EOF) {
        if (p->current.kind == TMPL_T_DATA) {
            proa_tmpl_list_add(body, parse_text(p));
        } else if (p->current.kind == TMPL_T_VARIABLE_BEGIN) {
            tmpl_node *n = proa_tmpl_node_new(p, TMPL_N_PRINT, &p->current);
            proa_tmpl_advance(p);
            if (n != NULL)
                n->a = proa_tmpl_parse_tuple(p, true, false);
            proa_tmpl_list_add(body, n);
            proa_tmpl_expect(p, TMPL_T_VARIABLE_END);
        } else {
            if (!proa_tmpl_expect(p, TMPL_T_BLOCK_BEGIN))
                return false;
            if (at_end(p, ends))
                return true;
            if (parse_statement(p, body))
                proa_tmpl_expect(p, TMPL_T_BLOCK_END);
        }
    }
    return !p->failed;
}

/* --- the template --- */

static bool parse_all(tmpl_parser *p, const char *source, size_t length)
{
    static const char *const fixed[TMPL_S_FIXED] = {"loop", "caller", "kwargs", "varargs"};
    if (!proa_tmpl_lexer_init(&p->lexer, p->program->arena, source, length, p->err))
        return false;
    for (uint32_t i = 0; i < TMPL_S_FIXED; i++) {
        uint32_t symbol = proa_tmpl_symbol(p, fixed[i], strlen(fixed[i]), NULL);
        PROA_ASSERT(p->failed || symbol == i);
    }
    p->failed |= !proa_tmpl_lexer_next(&p->lexer, &p->ahead);
    return proa_tmpl_advance(p) && parse_body(p, NULL, &p->program->body) && proa_tmpl_analyse_scopes(p);
}

proa_status proa_template_parse(const char *source, size_t length, proa_template **template_out,
                                proa_error *err)
{
    proa_error own; /* the status is needed even when the caller does not want the text */
    proa_error *e = err != NULL ? err : &own;
    *template_out = NULL;
    if (length > TMPL_SOURCE_BYTES_MAX)
        return proa_error_set(e, PROA_ERR_TOO_LONG, "template: %zu bytes are more than the limit of %d",
                              length, TMPL_SOURCE_BYTES_MAX);
    proa_template *t = calloc(1, sizeof *t);
    proa_arena *arena = proa_arena_create(0);
    if (t == NULL || arena == NULL) {
        free(t);
        proa_arena_free(arena);
        return proa_error_set(e, PROA_ERR_MEMORY, "no memory to parse a template");
    }
    t->arena = arena;
    t->locale = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
    tmpl_parser p = {.program = t, .err = e};
    if (!parse_all(&p, source, length)) {
        proa_template_free(t);
        return e->status;
    }
    *template_out = t;
    return PROA_OK;
}

void proa_template_free(proa_template *t)
{
    if (t == NULL)
        return;
    if (t->locale != (locale_t)0)
        freelocale(t->locale);
    proa_arena_free(t->arena);
    free(t);
}
