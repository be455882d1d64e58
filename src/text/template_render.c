/* template_render.c - one rendering: its budgets, its errors and its output. */
#include "text/template_internal.h"

#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS_DEFAULT = 10000000, DEPTH_DEFAULT = 200 };
static const size_t output_default = (size_t)64 << 20;
static const size_t arena_extra = (size_t)32 << 20;

bool proa_tmpl_fail(tmpl_render *r, proa_status status, const char *format, ...)
{
    if (proa_failed(r->status)) /* the first cause counts */
        return false;
    char text[600];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    r->status = status;
    if (r->at != NULL)
        proa_error_set(r->err, status, "template line %u, column %u: %s", r->at->line, r->at->column, text);
    else
        proa_error_set(r->err, status, "template: %s", text);
    return false;
}

bool proa_tmpl_fail_undefined(tmpl_render *r, const tmpl_value *v)
{
    const tmpl_node *n = v->origin;
    const char *name = n != NULL && n->name != NULL ? n->name->bytes : NULL;
    int length = name != NULL ? (int)(n->name->length < 200 ? n->name->length : 200) : 0;
    if (name == NULL)
        return proa_tmpl_fail(r, PROA_ERR_INVALID, "this value is undefined (%s)",
                              n != NULL && n->kind == TMPL_N_ITEM ? "no such element"
                                                                  : "there was nothing to take");
    if (v->detail == TMPL_MISSING)
        return proa_tmpl_fail(r, PROA_ERR_INVALID, "'%.*s' is undefined", length, name);
    tmpl_value of = {.kind = v->detail};
    const char *type = v->detail == TMPL_SEQUENCE ? "list" : proa_tmpl_type_name(&of);
    return proa_tmpl_fail(r, PROA_ERR_INVALID, "'%s object' has no attribute '%.*s'", type, length, name);
}

bool proa_tmpl_spend(tmpl_render *r, size_t steps)
{
    if (steps > (size_t)r->steps_left)
        return proa_tmpl_fail(r, PROA_ERR_TOO_LONG, "rendering takes more than the limit of %lld steps",
                              (long long)r->steps_max);
    r->steps_left -= (int64_t)steps;
    return true;
}

bool proa_tmpl_spend_bytes(tmpl_render *r, size_t bytes)
{
    return proa_tmpl_spend(r, bytes / 64);
}

void *proa_tmpl_alloc(tmpl_render *r, size_t count, size_t element_bytes)
{
    void *memory = proa_arena_array(r->arena, count, element_bytes);
    if (memory == NULL)
        proa_tmpl_fail(r, PROA_ERR_TOO_LONG, "rendering takes more than the limit of %zu MiB of memory",
                       r->arena_limit >> 20);
    else if (!proa_tmpl_spend_bytes(r, count * element_bytes))
        return NULL;
    return memory;
}

bool proa_tmpl_descend(tmpl_render *r)
{
    if (++r->depth > r->depth_max) {
        r->depth--;
        return proa_tmpl_fail(r, PROA_ERR_TOO_LONG, "nests deeper than the limit of %d levels", r->depth_max);
    }
    return true;
}

/* --- output --- */

static bool add_piece(tmpl_render *r, size_t length, bool from_user)
{
    proa_template_output *o = r->output;
    size_t start = o->text.length - length;
    if (o->piece_count > 0 && o->pieces[o->piece_count - 1].from_user == from_user) {
        o->pieces[o->piece_count - 1].length += length;
        return true;
    }
    if (o->piece_count == o->piece_capacity) {
        size_t capacity = o->piece_capacity < 16 ? 16 : o->piece_capacity * 2;
        proa_template_piece *pieces = realloc(o->pieces, capacity * sizeof pieces[0]);
        if (pieces == NULL)
            return proa_tmpl_fail(r, PROA_ERR_MEMORY, "no memory for %zu pieces of output", capacity);
        o->pieces = pieces;
        o->piece_capacity = capacity;
    }
    o->pieces[o->piece_count++] = (proa_template_piece){start, length, from_user};
    return true;
}

bool proa_tmpl_emit(tmpl_render *r, tmpl_string *text)
{
    if (text->length == 0)
        return true;
    if (r->capture != NULL) {
        r->capture->text = proa_tmpl_string_concat(r, r->capture->text, text);
        return r->capture->text != NULL;
    }
    tmpl_walk walk;
    if (!proa_tmpl_walk_begin(r, &walk, text, true) || !proa_tmpl_spend_bytes(r, text->length))
        return false;
    for (tmpl_string *run = proa_tmpl_walk_next(&walk); run != NULL; run = proa_tmpl_walk_next(&walk)) {
        if (run->length > r->string_max - r->output->text.length)
            return proa_tmpl_fail(r, PROA_ERR_TOO_LONG, "the output is longer than the limit of %zu bytes",
                                  r->string_max);
        proa_buf_append(&r->output->text, run->bytes, run->length);
        if (r->output->text.failed)
            return proa_tmpl_fail(r, PROA_ERR_MEMORY, "no memory for the output");
        if (!add_piece(r, run->length, run->taint == TMPL_TAINTED) || !proa_tmpl_spend(r, 1))
            return false;
    }
    return true;
}

void proa_template_output_free(proa_template_output *output)
{
    if (output == NULL)
        return;
    proa_buf_free(&output->text);
    free(output->pieces);
    *output = (proa_template_output){0};
}

/* --- the rendering itself --- */

static void init(tmpl_render *r, const proa_template_limits *limits)
{
    proa_template_limits l = limits != NULL ? *limits : (proa_template_limits){0};
    r->steps_max = l.steps_max > 0 ? l.steps_max : STEPS_DEFAULT;
    r->steps_left = r->steps_max;
    r->string_max = l.output_bytes_max > 0 ? l.output_bytes_max : output_default;
    if (r->string_max > SIZE_MAX / 16)
        r->string_max = SIZE_MAX / 16;
    r->depth_max = l.depth_max <= 0                      ? DEPTH_DEFAULT
                   : l.depth_max > TMPL_RENDER_DEPTH_MAX ? TMPL_RENDER_DEPTH_MAX
                                                         : l.depth_max;
    r->arena_limit = 4 * r->string_max + arena_extra;
    proa_buf_init(&r->scratch, r->string_max);
}

static bool run(tmpl_render *r)
{
    r->arena = proa_arena_create(r->arena_limit);
    if (r->arena == NULL)
        return proa_tmpl_fail(r, PROA_ERR_MEMORY, "no memory to render a template");
    r->empty = proa_tmpl_string_run(r, "", 0, TMPL_TRUSTED);
    r->context = proa_tmpl_alloc(r, r->program->name_count, sizeof r->context[0]);
    if (r->empty == NULL || r->context == NULL)
        return false;
    r->frame = proa_tmpl_frame_new(r, NULL, &r->program->hidden);
    return r->frame != NULL && proa_tmpl_exec(r, &r->program->body) != TMPL_ERROR;
}

proa_status proa_template_render(const proa_template *program, const proa_json *variables,
                                 const proa_json *tainted, const proa_template_limits *limits,
                                 proa_template_output *output, proa_error *err)
{
    PROA_ASSERT(program != NULL);
    PROA_ASSERT(output != NULL);
    tmpl_render r = {.program = program,
                     .variables = variables,
                     .tainted = tainted,
                     .output = output,
                     .err = err,
                     .status = PROA_OK};
    init(&r, limits);
    proa_buf_clear(&output->text);
    output->piece_count = 0;
    if (!run(&r)) {
        PROA_ASSERT(proa_failed(r.status));
        proa_buf_clear(&output->text);
        output->piece_count = 0;
    }
    proa_buf_free(&r.scratch);
    proa_arena_free(r.arena);
    return r.status;
}
