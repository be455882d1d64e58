/* template_loop.c - for loops and the variable `loop`.
 *
 * A condition in the loop's head is evaluated one element ahead of the body at most, as in Jinja, since the body may
 * change (through a namespace) what the condition reads; loop.length evaluates it for all that is left. The else part
 * runs when no iteration reached the end of the body: also when each was left by break or continue, as in Jinja.
 */
#include "text/template_internal.h"

#include "base/status.h"

#include <string.h>

typedef struct tmpl_loop {
    const tmpl_node *node;
    tmpl_frame *outer; /* where the condition is evaluated */
    tmpl_sequence *items;
    size_t position; /* of the next element to look at */
    bool filtered;   /* what is left has passed the condition */
    bool has_next;   /* `next` was read ahead */
    tmpl_value previous, current, next;
    int64_t index0;
    int64_t length; /* -1: not known yet */
    int depth0;
    tmpl_value changed; /* last arguments of loop.changed() */
} tmpl_loop;

/* Does the element pass the condition? With the targets set in a scope of its own. */
static bool passes(tmpl_render *r, tmpl_loop *loop, const tmpl_value *item, bool *pass)
{
    tmpl_frame *saved = r->frame;
    tmpl_value result = tmpl_bool(true);
    if (loop->node->c != NULL && !loop->filtered) {
        r->frame = proa_tmpl_frame_new(r, loop->outer, NULL);
        if (r->frame == NULL || !proa_tmpl_assign(r, loop->node->a, item) ||
            !proa_tmpl_eval(r, loop->node->c, &result))
            return false;
        r->frame = saved;
    }
    *pass = proa_tmpl_truth(&result);
    return true;
}

/* The next element that passes; false in *found at the end. */
static bool take(tmpl_render *r, tmpl_loop *loop, tmpl_value *item, bool *found)
{
    *found = loop->has_next;
    *item = loop->next;
    loop->has_next = false;
    while (!*found && loop->position < loop->items->count) {
        *item = proa_tmpl_sequence_at(loop->items, loop->position++);
        if (!proa_tmpl_spend(r, 1) || !passes(r, loop, item, found))
            return false;
    }
    return true;
}

static bool peek(tmpl_render *r, tmpl_loop *loop)
{
    return loop->has_next || take(r, loop, &loop->next, &loop->has_next);
}

static bool count_rest(tmpl_render *r, tmpl_loop *loop)
{
    tmpl_value list;
    tmpl_sequence *rest = proa_tmpl_sequence_new(r, TMPL_LIST, loop->items->count - loop->position, &list);
    size_t count = 0;
    if (rest == NULL)
        return false;
    while (loop->position < loop->items->count) {
        tmpl_value item = proa_tmpl_sequence_at(loop->items, loop->position++);
        bool pass;
        if (!proa_tmpl_spend(r, 1) || !passes(r, loop, &item, &pass))
            return false;
        if (pass)
            rest->items[count++] = item;
    }
    rest->count = count;
    loop->items = rest;
    loop->position = 0;
    loop->filtered = true;
    loop->length = loop->index0 + 1 + (int64_t)count + loop->has_next;
    return true;
}

/* --- attributes of `loop` --- */

typedef enum attribute {
    INDEX,
    INDEX0,
    REVINDEX,
    REVINDEX0,
    FIRST,
    LAST,
    LENGTH,
    PREVITEM,
    NEXTITEM,
    DEPTH,
    DEPTH0,
    ATTRIBUTES
} attribute;
static const char *const attribute_names[ATTRIBUTES] = {"index",    "index0", "revindex", "revindex0",
                                                        "first",    "last",   "length",   "previtem",
                                                        "nextitem", "depth",  "depth0"};

static bool loop_cycle(tmpl_render *r, const tmpl_value *self, const tmpl_args *args, tmpl_value *out)
{
    if (args->count == 0)
        return proa_tmpl_fail(r, PROA_ERR_INVALID, "loop.cycle: there is nothing to cycle through");
    *out = args->positional[(size_t)self->loop->index0 % args->count];
    return true;
}

static bool loop_changed(tmpl_render *r, const tmpl_value *self, const tmpl_args *args, tmpl_value *out)
{
    tmpl_value now;
    bool same;
    tmpl_sequence *q = proa_tmpl_sequence_new(r, TMPL_TUPLE, args->count, &now);
    if (q == NULL)
        return false;
    if (args->count > 0)
        memcpy(q->items, args->positional, args->count * sizeof now);
    if (!proa_tmpl_equal(r, &self->loop->changed, &now, &same))
        return false;
    self->loop->changed = now;
    *out = tmpl_bool(!same);
    return true;
}

static const tmpl_callable methods[] = {
    {.name = "cycle", .raw = loop_cycle}, {.name = "changed", .raw = loop_changed}, {NULL}};

static bool get(tmpl_render *r, tmpl_loop *loop, attribute which, const tmpl_node *origin, tmpl_value *out)
{
    bool needs_length = which == REVINDEX || which == REVINDEX0 || which == LENGTH;
    bool needs_next = which == LAST || which == NEXTITEM;
    if ((needs_length && loop->length < 0 && !count_rest(r, loop)) || (needs_next && !peek(r, loop)))
        return false;
    r->at = origin;
    *out = proa_tmpl_undefined(NULL, TMPL_LOOP);
    switch (which) {
    case INDEX: *out = tmpl_int(loop->index0 + 1); break;
    case INDEX0: *out = tmpl_int(loop->index0); break;
    case REVINDEX: *out = tmpl_int(loop->length - loop->index0); break;
    case REVINDEX0: *out = tmpl_int(loop->length - loop->index0 - 1); break;
    case FIRST: *out = tmpl_bool(loop->index0 == 0); break;
    case LAST: *out = tmpl_bool(!loop->has_next); break;
    case LENGTH: *out = tmpl_int(loop->length); break;
    case PREVITEM:
        if (loop->index0 > 0)
            *out = loop->previous;
        break;
    case NEXTITEM:
        if (loop->has_next)
            *out = loop->next;
        break;
    case DEPTH: *out = tmpl_int(1); break;
    default: *out = tmpl_int(0); break;
    }
    return true;
}

bool proa_tmpl_loop_attribute(tmpl_render *r, struct tmpl_loop *loop, const tmpl_string *name,
                              const tmpl_node *origin, tmpl_value *out)
{
    for (int i = 0; i < ATTRIBUTES; i++) {
        if (proa_tmpl_string_is(name, attribute_names[i]))
            return get(r, loop, (attribute)i, origin, out);
    }
    const tmpl_callable *method = proa_tmpl_find(methods, name->bytes, name->length);
    if (method == NULL) {
        *out = proa_tmpl_undefined(origin, TMPL_LOOP);
        return true;
    }
    tmpl_method *bound = proa_tmpl_alloc(r, 1, sizeof *bound);
    if (bound == NULL)
        return false;
    *bound = (tmpl_method){{.kind = TMPL_LOOP, .loop = loop}, method};
    *out = (tmpl_value){.kind = TMPL_METHOD, .method = bound};
    return true;
}

/* --- the statement --- */

static tmpl_loop *begin(tmpl_render *r, const tmpl_node *n)
{
    tmpl_value iterable;
    tmpl_loop *loop = proa_tmpl_alloc(r, 1, sizeof *loop);
    if (loop == NULL || !proa_tmpl_eval(r, n->b, &iterable))
        return NULL;
    r->at = n->b;
    loop->node = n;
    loop->outer = r->frame;
    loop->index0 = -1;
    loop->length = -1;
    loop->changed = (tmpl_value){.kind = TMPL_MISSING};
    if (!proa_tmpl_iterate(r, &iterable, &loop->items))
        return NULL;
    if (n->c == NULL)
        loop->length = (int64_t)loop->items->count;
    return loop;
}

/* One iteration in a fresh scope; the last one's memory is used again unless a macro holds on to it. */
static tmpl_flow iterate(tmpl_render *r, tmpl_loop *loop, const tmpl_value *item, tmpl_frame **scope)
{
    tmpl_value self = {.kind = TMPL_LOOP, .loop = loop};
    if (*scope == NULL || (*scope)->captured)
        *scope = proa_tmpl_frame_new(r, loop->outer, NULL);
    if (*scope == NULL || !proa_tmpl_frame_begin(r, *scope, &loop->node->hidden))
        return TMPL_ERROR;
    loop->previous = loop->current;
    loop->current = *item;
    loop->index0++;
    r->frame = *scope;
    tmpl_flow flow = TMPL_ERROR;
    if (proa_tmpl_frame_set(r, *scope, TMPL_S_LOOP, &self) && proa_tmpl_assign(r, loop->node->a, item))
        flow = proa_tmpl_exec(r, &loop->node->list);
    r->frame = loop->outer;
    return flow;
}

static tmpl_flow exec_else(tmpl_render *r, const tmpl_node *n)
{
    tmpl_frame *saved = r->frame;
    if (n->other.count == 0)
        return TMPL_NEXT;
    r->frame = proa_tmpl_frame_new(r, saved, &n->other_hidden);
    tmpl_flow flow = r->frame != NULL ? proa_tmpl_exec(r, &n->other) : TMPL_ERROR;
    r->frame = saved;
    return flow;
}

tmpl_flow proa_tmpl_exec_for(tmpl_render *r, const tmpl_node *n)
{
    tmpl_frame *scope = NULL;
    bool completed = false;
    tmpl_loop *loop = begin(r, n);
    if (loop == NULL)
        return TMPL_ERROR;
    for (;;) {
        tmpl_value item;
        bool found;
        if (!take(r, loop, &item, &found))
            return TMPL_ERROR;
        if (!found)
            break;
        tmpl_flow flow = iterate(r, loop, &item, &scope);
        if (flow == TMPL_ERROR)
            return TMPL_ERROR;
        if (flow == TMPL_FLOW_BREAK)
            break;
        completed |= flow == TMPL_NEXT;
    }
    return completed ? TMPL_NEXT : exec_else(r, n);
}
