/* template_scope.c - which names a scope hides until they are set.
 *
 * Jinja decides at compile time where a name lives. A scope (the template, a loop's body, a macro, a block with text) that sets
 * a name without having read it before, and outside of an `if`, owns that name from its beginning: scopes inside it
 * that read the name before it is set find nothing, even where the caller has a variable of that name:
 *
 *   {% for m in messages %}{{ tools }}{% endfor %}{% set tools = [] %}      prints nothing
 *   {% for m in messages %}{{ tools }}{% endfor %}{% if x %}{% set tools = [] %}{% endif %}      prints the caller's
 *
 * A scope that encloses it and knows the name turns this off: the inner one starts with the outer one's value. This pass over
 * the parsed template writes the names that each scope owns so into its node's `hidden` list.
 */
#include "text/template_internal.h"

#include "base/status.h"

#include <stdlib.h>
#include <string.h>

typedef struct state {
    uint32_t scope; /* which scope this is about; of another one: nothing is known */
    bool referred;  /* read or set in this scope itself */
    bool stored;
    bool hidden;
} state;

typedef struct change {
    uint32_t symbol;
    state value; /* before it, or at the end of a branch */
} change;

typedef struct changes {
    change *data;
    size_t count, capacity;
} changes;

typedef struct analysis {
    tmpl_parser *p;
    state *states;    /* by symbol */
    uint32_t *outer;  /* by symbol: how many enclosing scopes refer to it */
    uint8_t *stores;  /* by symbol, while branches are merged: bit b: branch b sets it */
    bool *hides;      /* ... and whether the last branch hides it */
    changes journal;  /* of the scopes being looked at, to undo branches */
    changes branches; /* results of the branches being merged */
    uint32_t scope, scopes;
    int loops;
} analysis;

static void analyse_scope(analysis *a, const tmpl_node *owner, const tmpl_list *body, tmpl_list *hidden);
static void visit_list(analysis *a, const tmpl_list *list);

static void note(analysis *a, changes *list, uint32_t symbol, state value)
{
    if (list->count == list->capacity) {
        size_t capacity = list->capacity < 64 ? 64 : list->capacity * 2;
        change *data = realloc(list->data, capacity * sizeof data[0]);
        if (data == NULL) {
            proa_tmpl_parse_fail(a->p, PROA_ERR_MEMORY, &a->p->current, "no memory to parse the template");
            return;
        }
        list->data = data;
        list->capacity = capacity;
    }
    list->data[list->count++] = (change){symbol, value};
}

static state get(const analysis *a, uint32_t symbol)
{
    state s = a->states[symbol];
    return s.scope == a->scope ? s : (state){.scope = a->scope};
}

static void set(analysis *a, uint32_t symbol, state value)
{
    note(a, &a->journal, symbol, get(a, symbol));
    a->states[symbol] = value;
}

static void load(analysis *a, uint32_t symbol)
{
    state s = get(a, symbol);
    if (s.referred || a->outer[symbol] > 0)
        return;
    s.referred = true;
    set(a, symbol, s);
}

static void store(analysis *a, const tmpl_node *n, uint32_t symbol)
{
    state s = get(a, symbol);
    if (symbol == TMPL_S_LOOP && a->loops > 0) {
        tmpl_token at = {.line = n->line, .column = n->column};
        proa_tmpl_parse_fail(a->p, PROA_ERR_INVALID, &at, "'loop' cannot be set inside of a loop");
    }
    if (s.stored)
        return;
    if (!s.referred)
        s.hidden = a->outer[symbol] == 0;
    s.referred = true;
    s.stored = true;
    set(a, symbol, s);
}

/* A loop's target or a macro's parameter: set from the beginning. */
static void parameter(analysis *a, const tmpl_node *n)
{
    if (n->kind == TMPL_N_NAME || n->kind == TMPL_N_PARAM) {
        state s = get(a, n->symbol);
        s.referred = true;
        set(a, n->symbol, s);
        return;
    }
    for (const tmpl_node *part = n->list.first; part != NULL; part = part->next)
        parameter(a, part);
}

static void targets(analysis *a, const tmpl_node *n)
{
    if (n->kind == TMPL_N_NAME)
        store(a, n, n->symbol);
    else if (n->kind == TMPL_N_NAMESPACED)
        load(a, n->symbol);
    for (const tmpl_node *part = n->list.first; part != NULL; part = part->next)
        targets(a, part);
}

/* Names read by an expression. Chains of operators lean to the left without bound: hence the loop. */
static void loads(analysis *a, const tmpl_node *n)
{
    for (; n != NULL; n = n->a) {
        if (n->kind == TMPL_N_NAME)
            load(a, n->symbol);
        for (const tmpl_node *part = n->list.first; part != NULL; part = part->next)
            loads(a, part);
        loads(a, n->b);
        loads(a, n->c);
        loads(a, n->other_expression);
    }
}

/* --- branches --- */

static void end_branch(analysis *a, size_t mark)
{
    for (size_t i = mark; i < a->journal.count; i++) {
        uint32_t symbol = a->journal.data[i].symbol;
        note(a, &a->branches, symbol, a->states[symbol]);
    }
    while (a->journal.count > mark) {
        change c = a->journal.data[--a->journal.count];
        a->states[c.symbol] = c.value;
    }
}

/* Jinja counts three branches: if, all elifs together, else. Only what all of them set can hide a name. */
static void merge_branches(analysis *a, size_t start, const size_t ends[3])
{
    for (size_t branch = 0, i = start; branch < 3; branch++) {
        for (; i < ends[branch]; i++) {
            const change *c = &a->branches.data[i];
            a->stores[c->symbol] |= (uint8_t)(0x80 | (c->value.stored ? 1 << branch : 0));
            a->hides[c->symbol] = c->value.hidden;
        }
    }
    for (size_t i = start; i < ends[2]; i++) {
        uint32_t symbol = a->branches.data[i].symbol;
        uint8_t stores = a->stores[symbol];
        if (stores == 0) /* merged already */
            continue;
        state s = get(a, symbol);
        s.hidden = s.referred ? s.hidden : (stores & 7) == 7 && a->hides[symbol];
        s.referred = true;
        s.stored |= (stores & 7) != 0;
        set(a, symbol, s);
        a->stores[symbol] = 0;
    }
    a->branches.count = start;
}

/* One elif is an `if` of its own without else: nothing in it is certain. */
static void visit_elif(analysis *a, const tmpl_node *branch)
{
    loads(a, branch->a);
    size_t start = a->branches.count, mark = a->journal.count;
    visit_list(a, &branch->list);
    end_branch(a, mark);
    size_t end = a->branches.count;
    merge_branches(a, start, (size_t[3]){end, end, end});
}

static void visit_if(analysis *a, const tmpl_node *n)
{
    const tmpl_node *branch = n->list.first;
    loads(a, branch->a);
    size_t start = a->branches.count, mark = a->journal.count, ends[3];
    visit_list(a, &branch->list);
    end_branch(a, mark);
    ends[0] = a->branches.count;
    for (branch = branch->next; branch != NULL && branch->a != NULL; branch = branch->next)
        visit_elif(a, branch);
    end_branch(a, mark);
    ends[1] = a->branches.count;
    if (branch != NULL)
        visit_list(a, &branch->list);
    end_branch(a, mark);
    ends[2] = a->branches.count;
    if (!a->p->failed)
        merge_branches(a, start, ends);
}

/* --- statements of one scope, without what is inside of its inner scopes --- */

static void visit(analysis *a, const tmpl_node *n)
{
    switch ((tmpl_node_kind)n->kind) {
    case TMPL_N_PRINT: loads(a, n->a); break;
    case TMPL_N_IF: visit_if(a, n); break;
    case TMPL_N_SET:
        loads(a, n->b);
        targets(a, n->a);
        break;
    case TMPL_N_SET_BLOCK: targets(a, n->a); break;
    case TMPL_N_FOR: loads(a, n->b); break;
    case TMPL_N_MACRO: store(a, n, n->symbol); break;
    case TMPL_N_CALL_BLOCK: loads(a, n->a); break;
    case TMPL_N_FILTER_BLOCK: loads(a, n->b); break;
    case TMPL_N_WITH:
        for (const tmpl_node *one = n->params.first; one != NULL; one = one->next)
            loads(a, one->b);
        break;
    default: break;
    }
}

static void visit_list(analysis *a, const tmpl_list *list)
{
    for (const tmpl_node *n = list->first; n != NULL && !a->p->failed; n = n->next)
        visit(a, n);
}

/* --- inner scopes --- */

static void inner_scopes(analysis *a, const tmpl_list *list)
{
    for (tmpl_node *n = list->first; n != NULL && !a->p->failed; n = n->next) {
        switch ((tmpl_node_kind)n->kind) {
        case TMPL_N_IF:
            for (const tmpl_node *branch = n->list.first; branch != NULL; branch = branch->next)
                inner_scopes(a, &branch->list);
            break;
        case TMPL_N_FOR:
            a->loops++;
            analyse_scope(a, n, &n->list, &n->hidden);
            analyse_scope(a, NULL, &n->other, &n->other_hidden);
            a->loops--;
            break;
        case TMPL_N_SET_BLOCK:
        case TMPL_N_MACRO:
        case TMPL_N_CALL_BLOCK:
        case TMPL_N_GENERATION:
        case TMPL_N_FILTER_BLOCK:
        case TMPL_N_WITH: analyse_scope(a, n, &n->list, &n->hidden); break;
        default: break;
        }
    }
}

static void begin_scope(analysis *a, const tmpl_node *owner)
{
    if (owner->kind == TMPL_N_FOR) {
        parameter(a, owner->a);
        if (owner->a->kind == TMPL_N_NAME && owner->a->symbol == TMPL_S_LOOP)
            store(a, owner->a, TMPL_S_LOOP);
    }
    for (const tmpl_node *param = owner->params.first; param != NULL; param = param->next) {
        if (owner->kind == TMPL_N_WITH) {
            parameter(a, param->a);
            continue;
        }
        parameter(a, param);
        loads(a, param->a);
    }
}

static void add_hidden(analysis *a, uint32_t symbol, tmpl_list *hidden)
{
    tmpl_node *n = proa_tmpl_node_new(a->p, TMPL_N_NAME, &a->p->current);
    if (n == NULL)
        return;
    n->symbol = symbol;
    n->name = a->p->program->names[symbol];
    proa_tmpl_list_add(hidden, n);
}

/* `owner` NULL: a scope without parameters. */
static void analyse_scope(analysis *a, const tmpl_node *owner, const tmpl_list *body, tmpl_list *hidden)
{
    uint32_t saved = a->scope;
    size_t mark = a->journal.count, count = 0;
    a->scope = ++a->scopes;
    if (owner != NULL)
        begin_scope(a, owner);
    visit_list(a, body);
    if (owner != NULL && owner->kind == TMPL_N_FILTER_BLOCK)
        loads(a, owner->b);
    for (size_t i = mark; i < a->journal.count && !a->p->failed; i++) { /* each symbol once, in front */
        uint32_t symbol = a->journal.data[i].symbol;
        state *s = &a->states[symbol];
        if (s->scope != a->scope)
            continue;
        if (s->hidden)
            add_hidden(a, symbol, hidden);
        s->scope = 0;
        a->outer[symbol]++;
        a->journal.data[mark + count++].symbol = symbol;
    }
    a->journal.count = mark + count;
    inner_scopes(a, body);
    for (size_t i = mark; i < mark + count; i++)
        a->outer[a->journal.data[i].symbol]--;
    a->journal.count = mark;
    a->scope = saved;
}

bool proa_tmpl_analyse_scopes(tmpl_parser *p)
{
    uint32_t names = p->program->name_count;
    analysis a = {
        .p = p,
        .states = calloc(names, sizeof a.states[0]),
        .outer = calloc(names, sizeof a.outer[0]),
        .stores = calloc(names, sizeof a.stores[0]),
        .hides = calloc(names, sizeof a.hides[0]),
    };
    if (a.states == NULL || a.outer == NULL || a.stores == NULL || a.hides == NULL)
        proa_tmpl_parse_fail(p, PROA_ERR_MEMORY, &p->current, "no memory to parse the template");
    else
        analyse_scope(&a, NULL, &p->program->body, &p->program->hidden);
    free(a.states);
    free(a.outer);
    free(a.stores);
    free(a.hides);
    free(a.journal.data);
    free(a.branches.data);
    return !p->failed;
}
