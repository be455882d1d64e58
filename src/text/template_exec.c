/* template_exec.c - statements, captured text and macros. */
#include "text/template_internal.h"

#include "base/status.h"

#include <string.h>

/* --- captured text --- */

/* Runs a body in a scope of its own, collecting its text. */
static tmpl_flow capture(tmpl_render *r, const tmpl_list *body, tmpl_frame *scope, tmpl_string **text)
{
    tmpl_capture collected = {.outer = r->capture, .text = r->empty};
    tmpl_frame *saved = r->frame;
    if (scope == NULL)
        return TMPL_ERROR;
    r->capture = &collected;
    r->frame = scope;
    tmpl_flow flow = proa_tmpl_exec(r, body);
    r->frame = saved;
    r->capture = collected.outer;
    *text = collected.text;
    return flow;
}

/* Filters of a set or filter block, applied to its text. */
static bool apply_filters(tmpl_render *r, const tmpl_node *filters, tmpl_value *value)
{
    tmpl_value saved = r->input_value;
    if (filters == NULL)
        return true;
    r->input_value = *value;
    bool ok = proa_tmpl_eval(r, filters, value);
    r->input_value = saved;
    return ok;
}

static bool emit_value(tmpl_render *r, const tmpl_value *value)
{
    tmpl_string *text;
    return proa_tmpl_to_string(r, value, &text) && proa_tmpl_emit(r, text);
}

static tmpl_flow exec_captured(tmpl_render *r, const tmpl_node *n)
{
    tmpl_value value = {.kind = TMPL_STRING};
    tmpl_flow flow = capture(r, &n->list, proa_tmpl_frame_new(r, r->frame, &n->hidden), &value.s);
    if (flow != TMPL_NEXT) /* a break drops the text */
        return flow;
    if (!apply_filters(r, n->b, &value))
        return TMPL_ERROR;
    bool ok = n->kind == TMPL_N_SET_BLOCK ? proa_tmpl_assign(r, n->a, &value) : emit_value(r, &value);
    return ok ? TMPL_NEXT : TMPL_ERROR;
}

/* --- macros --- */

static bool make_macro(tmpl_render *r, const tmpl_node *n, tmpl_value *out)
{
    tmpl_macro *macro = proa_tmpl_alloc(r, 1, sizeof *macro);
    if (macro == NULL)
        return false;
    *macro = (tmpl_macro){n, r->frame};
    for (tmpl_frame *frame = r->frame; frame != NULL && !frame->captured; frame = frame->parent)
        frame->captured = true;
    *out = (tmpl_value){.kind = TMPL_MACRO, .macro = macro};
    return true;
}

static const tmpl_value *find_keyword(const tmpl_args *args, const tmpl_string *name)
{
    for (size_t i = 0; i < args->keyword_count; i++) {
        const tmpl_string *known = args->keywords[i].name;
        if (known->length == name->length && memcmp(known->bytes, name->bytes, name->length) == 0)
            return &args->keywords[i].value;
    }
    return NULL;
}

/* Positional arguments, then keywords, then defaults, which see the parameters before them. */
static bool bind_parameters(tmpl_render *r, const tmpl_node *n, const tmpl_args *args, size_t *keywords_used)
{
    size_t i = 0;
    *keywords_used = 0;
    for (const tmpl_node *param = n->params.first; param != NULL; param = param->next, i++) {
        const tmpl_value *given = i < args->count ? &args->positional[i] : find_keyword(args, param->name);
        tmpl_value value = proa_tmpl_undefined(param, TMPL_MISSING);
        if (given != NULL && i >= args->count)
            ++*keywords_used;
        if (given != NULL)
            value = *given;
        else if (param->a != NULL && !proa_tmpl_eval(r, param->a, &value))
            return false;
        if (!proa_tmpl_frame_set(r, r->frame, param->symbol, &value))
            return false;
    }
    return true;
}

static bool bind_varargs(tmpl_render *r, const tmpl_node *n, const tmpl_args *args)
{
    tmpl_value rest;
    size_t extra = args->count > n->params.count ? args->count - n->params.count : 0;
    tmpl_sequence *q = proa_tmpl_sequence_new(r, TMPL_TUPLE, extra, &rest);
    if (q == NULL)
        return false;
    if (extra > 0)
        memcpy(q->items, args->positional + n->params.count, extra * sizeof q->items[0]);
    return proa_tmpl_frame_set(r, r->frame, TMPL_S_VARARGS, &rest);
}

static bool is_parameter(const tmpl_node *n, const tmpl_string *name)
{
    for (const tmpl_node *param = n->params.first; param != NULL; param = param->next) {
        if (param->name == name || (param->name->length == name->length &&
                                    memcmp(param->name->bytes, name->bytes, name->length) == 0))
            return true;
    }
    return false;
}

static bool bind_kwargs(tmpl_render *r, const tmpl_node *n, const tmpl_args *args)
{
    tmpl_value rest = {.kind = TMPL_DICT, .m = proa_tmpl_dict_new(r, args->keyword_count)};
    if (rest.m == NULL)
        return false;
    for (size_t i = 0; i < args->keyword_count; i++) {
        const tmpl_keyword *keyword = &args->keywords[i];
        tmpl_value key = {.kind = TMPL_STRING, .s = (tmpl_string *)(uintptr_t)keyword->name};
        bool caller = (n->flags & TMPL_USES_CALLER) != 0 && proa_tmpl_string_is(keyword->name, "caller");
        if (!caller && !is_parameter(n, keyword->name) &&
            !proa_tmpl_dict_set(r, rest.m, &key, &keyword->value))
            return false;
    }
    return proa_tmpl_frame_set(r, r->frame, TMPL_S_KWARGS, &rest);
}

/* `caller`, `varargs` and `kwargs` exist only in bodies that read them; elsewhere such arguments are too many. */
static bool bind_special(tmpl_render *r, const tmpl_node *n, const tmpl_args *args, size_t keywords_used)
{
    if ((n->flags & TMPL_USES_CALLER) != 0) {
        const tmpl_value *given = find_keyword(args, r->program->names[TMPL_S_CALLER]);
        tmpl_value caller = given != NULL ? *given : proa_tmpl_undefined(NULL, TMPL_MISSING);
        keywords_used += given != NULL;
        if (!proa_tmpl_frame_set(r, r->frame, TMPL_S_CALLER, &caller))
            return false;
    }
    const char *name = n->name != NULL ? n->name->bytes : "caller";
    int length = n->name != NULL ? (int)(n->name->length < 100 ? n->name->length : 100) : 6;
    if ((n->flags & TMPL_USES_KWARGS) == 0 && keywords_used < args->keyword_count)
        return proa_tmpl_fail(r, PROA_ERR_INVALID,
                              "macro '%.*s' was given a keyword argument that it does not take", length,
                              name);
    if ((n->flags & TMPL_USES_VARARGS) == 0 && args->count > n->params.count)
        return proa_tmpl_fail(r, PROA_ERR_INVALID, "macro '%.*s' takes at most %zu arguments, %zu were given",
                              length, name, n->params.count, args->count);
    if ((n->flags & TMPL_USES_KWARGS) != 0 && !bind_kwargs(r, n, args))
        return false;
    return (n->flags & TMPL_USES_VARARGS) == 0 || bind_varargs(r, n, args);
}

bool proa_tmpl_call_macro(tmpl_render *r, tmpl_macro *macro, const tmpl_args *args, tmpl_value *out)
{
    tmpl_frame *saved = r->frame, *scope = proa_tmpl_frame_new(r, macro->scope, &macro->node->hidden);
    size_t keywords_used;
    out->kind = TMPL_STRING;
    if (scope == NULL)
        return false;
    r->frame = scope;
    bool ok = bind_parameters(r, macro->node, args, &keywords_used) &&
              bind_special(r, macro->node, args, keywords_used);
    r->frame = saved;
    return ok && capture(r, &macro->node->list, scope, &out->s) != TMPL_ERROR;
}

/* {% call(params) name(arguments) %}: the body is the macro's `caller`. */
static tmpl_flow exec_call_block(tmpl_render *r, const tmpl_node *n)
{
    tmpl_value callee, caller, result;
    tmpl_args args;
    if (!make_macro(r, n, &caller) || !proa_tmpl_eval(r, n->a->a, &callee) ||
        !proa_tmpl_eval_args(r, &n->a->list, &args))
        return TMPL_ERROR;
    r->at = n;
    if (callee.kind == TMPL_UNDEFINED) {
        proa_tmpl_fail_undefined(r, &callee);
        return TMPL_ERROR;
    }
    if (callee.kind != TMPL_MACRO) {
        proa_tmpl_fail(r, PROA_ERR_INVALID, "a call block needs a macro, not %s",
                       proa_tmpl_type_name(&callee));
        return TMPL_ERROR;
    }
    tmpl_keyword *keywords = proa_tmpl_alloc(r, args.keyword_count + 1, sizeof keywords[0]);
    if (keywords == NULL)
        return TMPL_ERROR;
    if (args.keyword_count > 0)
        memcpy(keywords, args.keywords, args.keyword_count * sizeof keywords[0]);
    keywords[args.keyword_count++] = (tmpl_keyword){r->program->names[TMPL_S_CALLER], caller};
    args.keywords = keywords;
    bool ok = proa_tmpl_call_macro(r, callee.macro, &args, &result) && emit_value(r, &result);
    return ok ? TMPL_NEXT : TMPL_ERROR;
}

/* --- statements --- */

static tmpl_flow exec_if(tmpl_render *r, const tmpl_node *n)
{
    for (const tmpl_node *branch = n->list.first; branch != NULL; branch = branch->next) {
        tmpl_value test = tmpl_bool(true);
        if (branch->a != NULL && !proa_tmpl_eval(r, branch->a, &test))
            return TMPL_ERROR;
        if (proa_tmpl_truth(&test))
            return proa_tmpl_exec(r, &branch->list);
    }
    return TMPL_NEXT;
}

/* All values are evaluated outside, before the scope begins. */
static tmpl_flow exec_with(tmpl_render *r, const tmpl_node *n)
{
    tmpl_frame *saved = r->frame, *scope = proa_tmpl_frame_new(r, saved, &n->hidden);
    tmpl_flow flow = scope != NULL ? TMPL_NEXT : TMPL_ERROR;
    for (const tmpl_node *set = n->params.first; set != NULL && flow == TMPL_NEXT; set = set->next) {
        tmpl_value value;
        flow = TMPL_ERROR;
        if (proa_tmpl_eval(r, set->b, &value)) {
            r->frame = scope;
            if (proa_tmpl_assign(r, set->a, &value))
                flow = TMPL_NEXT;
            r->frame = saved;
        }
    }
    if (flow != TMPL_NEXT)
        return flow;
    r->frame = scope;
    flow = proa_tmpl_exec(r, &n->list);
    r->frame = saved;
    return flow;
}

static tmpl_flow exec_macro(tmpl_render *r, const tmpl_node *n)
{
    tmpl_value macro;
    bool ok = make_macro(r, n, &macro) && proa_tmpl_frame_set(r, r->frame, n->symbol, &macro);
    return ok ? TMPL_NEXT : TMPL_ERROR;
}

/* What the model wrote: marked for training only, text as any other here. */
static tmpl_flow exec_generation(tmpl_render *r, const tmpl_node *n)
{
    tmpl_string *text;
    tmpl_flow flow = capture(r, &n->list, proa_tmpl_frame_new(r, r->frame, &n->hidden), &text);
    if (flow == TMPL_NEXT && !proa_tmpl_emit(r, text))
        return TMPL_ERROR;
    return flow;
}

static tmpl_flow exec_one(tmpl_render *r, const tmpl_node *n)
{
    tmpl_value value;
    bool ok = true;
    switch ((tmpl_node_kind)n->kind) {
    case TMPL_N_TEXT: ok = proa_tmpl_emit(r, n->constant.s); break;
    case TMPL_N_PRINT: ok = proa_tmpl_eval(r, n->a, &value) && emit_value(r, &value); break;
    case TMPL_N_SET: ok = proa_tmpl_eval(r, n->b, &value) && proa_tmpl_assign(r, n->a, &value); break;
    case TMPL_N_FOR: return proa_tmpl_exec_for(r, n);
    case TMPL_N_IF: return exec_if(r, n);
    case TMPL_N_SET_BLOCK:
    case TMPL_N_FILTER_BLOCK: return exec_captured(r, n);
    case TMPL_N_MACRO: return exec_macro(r, n);
    case TMPL_N_CALL_BLOCK: return exec_call_block(r, n);
    case TMPL_N_GENERATION: return exec_generation(r, n);
    case TMPL_N_WITH: return exec_with(r, n);
    case TMPL_N_BREAK: return TMPL_FLOW_BREAK;
    case TMPL_N_CONTINUE: return TMPL_FLOW_CONTINUE;
    default: ok = proa_tmpl_fail(r, PROA_ERR_INTERNAL, "node %d is no statement", n->kind);
    }
    return ok ? TMPL_NEXT : TMPL_ERROR;
}

tmpl_flow proa_tmpl_exec(tmpl_render *r, const tmpl_list *body)
{
    tmpl_flow flow = TMPL_NEXT;
    if (!proa_tmpl_descend(r))
        return TMPL_ERROR;
    for (const tmpl_node *n = body->first; n != NULL && flow == TMPL_NEXT; n = n->next) {
        r->at = n;
        flow = proa_tmpl_spend(r, 1) ? exec_one(r, n) : TMPL_ERROR;
    }
    r->depth--;
    return flow;
}
