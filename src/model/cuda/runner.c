/* runner.c - see runner.h. */
#include "model/cuda/runner.h"

#include "base/minmax.h"
#include "model/cuda/choices.h"
#include "model/cuda/trace.h"
#include "model/forward_backend.h"
#include "op/sample/cuda.h"

#include <stdlib.h>
#include <string.h>

enum { KEY_TILE = 128, SEGMENTS_MAX = 1024, NO_LOGITS = -1 };

/* A piece of a step as it is put together. */
typedef struct piece {
    proa_cuda_sequence *decode;  /* [decode_rows_max] */
    proa_cuda_sequence *prompts; /* [segments_max] */
    int32_t *decode_logit;       /* [decode_rows_max] logit row of the step, or NO_LOGITS */
    int32_t *prompt_logit;       /* [segments_max] the first one */
    int32_t decode_count, prompt_count, rows, keys, splits, logits;
} piece;

typedef struct runner {
    proa_gpu *gpu;
    proa_cuda_forward *forward;
    proa_cuda_limits limits;
    const proa_model_config *config; /* the weights' */
    int32_t vocab;
    piece piece;
    float *logits; /* [logit_rows_max, vocab] pinned, in the order of the step; NULL with a sampler */
    proa_cuda_sampler *sampler; /* or NULL */
    int32_t *row_of;            /* [logit_rows_max]: logit row of the step -> row of the logits on the GPU */
    int32_t logit_rows;         /* of the pieces so far */
    bool queued;                /* work that nobody has waited for */
    proa_cuda_choices *choices; /* or NULL: nobody counts them */
    proa_trace *to;             /* what the host does; or NULL, as is the next */
    proa_cuda_trace *trace;
    int32_t graph_count;
    int32_t graph_rows[PROA_CUDA_GRAPHS_MAX];
    proa_gpu_graph *graphs[PROA_CUDA_GRAPHS_MAX];
} runner;

static int32_t keys_of(int32_t count)
{
    return (count + KEY_TILE - 1) / KEY_TILE * KEY_TILE;
}

proa_cuda_limits proa_cuda_runner_limits(const proa_forward_limits *l, const proa_cuda_graph_sizes *graphs)
{
    const int32_t padded = graphs->count > 0 ? graphs->rows[graphs->count - 1] : 0,
                  rows = proa_max_i32(l->rows_max, padded), logits = proa_max_i32(l->logit_rows_max, padded);
    const int32_t longest = proa_cuda_forward_splits(l->positions_max),
                  filled = proa_cuda_forward_splits(
                      (int32_t)((int64_t)l->kv_blocks * PROA_KV_BLOCK_TOKENS > INT32_MAX
                                    ? INT32_MAX
                                    : (int64_t)l->kv_blocks * PROA_KV_BLOCK_TOKENS));
    return (proa_cuda_limits){
        .rows_max = rows,
        .decode_rows_max = logits,
        .segments_max = proa_min_i32(rows, SEGMENTS_MAX),
        .keys_max = keys_of(proa_max_i32(l->positions_max, rows + rows / 8)),
        .logit_rows_max = logits,
        .positions_max = l->positions_max,
        .kv_blocks = l->kv_blocks,
        .kv_cache = l->kv_cache,
        .splits_max = proa_max_i32(longest, logits + filled),
    };
}

/* ---- a piece ---- */

static proa_gpu_graph *graph_for(const runner *r, int32_t rows, int32_t *padded)
{
    for (int32_t i = 0; i < r->graph_count; i++) {
        *padded = r->graph_rows[i];
        if (rows <= *padded)
            return r->graphs[i];
    }
    return NULL;
}

/* Where the logits of a piece belong: decode rows first. */
static void place_logits(runner *r)
{
    const piece *p = &r->piece;
    for (int32_t i = 0; i < p->decode_count; i++)
        if (p->decode_logit[i] != NO_LOGITS)
            r->row_of[p->decode_logit[i]] = r->logit_rows++;
    for (int32_t i = 0; i < p->prompt_count; i++)
        for (int32_t j = 0; j < p->prompts[i].logits; j++)
            r->row_of[p->prompt_logit[i] + j] = r->logit_rows++;
}

static void clear(piece *p)
{
    p->decode_count = p->prompt_count = p->rows = p->keys = p->splits = p->logits = 0;
}

static proa_status wait(runner *r, proa_error *err)
{
    r->queued = false;
    proa_trace_begin(r->to, "wait for the GPU");
    const proa_status status = proa_gpu_sync(r->gpu, err);
    proa_trace_end(r->to);
    proa_trace_begin(r->to, "write the trace"); /* of the trace's cost, not of the step's */
    if (status == PROA_OK)
        proa_cuda_trace_end(r->trace);
    proa_trace_end(r->to);
    if (status == PROA_OK)
        proa_cuda_choices_take(r->choices);
    return status;
}

/* The step's last piece is waited for. */
static proa_status finish(runner *r, proa_error *err)
{
    const proa_status status = wait(r, err);
    if (status == PROA_OK)
        proa_cuda_choices_tell(r->choices);
    return status;
}

static proa_status launch(runner *r, const proa_cuda_step *step, proa_gpu_graph *graph, proa_error *err)
{
    proa_trace_begin(r->to, "launch");
    proa_status status = proa_cuda_forward_prepare(r->forward, step, err);
    if (status == PROA_OK && graph != NULL)
        status = proa_cuda_trace_graph(r->trace, step->decode_count + step->padding, &graph, err);
    if (status == PROA_OK)
        status =
            graph != NULL ? proa_gpu_graph_run(r->gpu, graph, err) : proa_cuda_forward_run(r->forward, err);
    proa_trace_end(r->to);
    return status;
}

static proa_status fetch_choices(runner *r, proa_error *err)
{
    return proa_cuda_choices_fetch(r->choices, r->piece.rows, err);
}

/* Queues the piece and forgets it. A graph's rows all have logits, and are all of the step. */
static proa_status run_piece(runner *r, bool whole, proa_error *err)
{
    piece *p = &r->piece;
    proa_gpu_graph *graph = NULL;
    int32_t padded = p->decode_count;
    PROA_ASSERT(p->rows > 0);
    if (whole && p->prompt_count == 0 && p->logits == p->decode_count)
        graph = graph_for(r, p->decode_count, &padded);
    const proa_cuda_step step = {.decode = p->decode,
                                 .decode_count = p->decode_count,
                                 .padding = graph != NULL ? padded - p->decode_count : 0,
                                 .prompts = p->prompts,
                                 .prompt_count = p->prompt_count,
                                 .logits_at = r->logit_rows};
    proa_status status = proa_cuda_trace_begin(r->trace, err);
    if (status == PROA_OK)
        status = launch(r, &step, graph, err);
    if (status == PROA_OK)
        status = fetch_choices(r, err);
    place_logits(r);
    clear(p);
    if (status == PROA_OK && !whole) /* the description's memory is wanted again */
        status = wait(r, err);
    return status;
}

static proa_status add_row(runner *r, const proa_segment *s, int32_t i, const int32_t *ids, int32_t logit,
                           proa_error *err)
{
    piece *p = &r->piece;
    const int32_t splits = proa_cuda_forward_splits(s->position_first + i + 1);
    proa_status status = PROA_OK;
    if (p->rows == r->limits.rows_max || p->decode_count == r->limits.decode_rows_max ||
        p->splits + splits > r->limits.splits_max)
        status = run_piece(r, false, err);
    p->decode_logit[p->decode_count] = logit;
    p->decode[p->decode_count++] = (proa_cuda_sequence){.row_count = 1,
                                                        .position_first = s->position_first + i,
                                                        .ids = ids + i,
                                                        .blocks = s->blocks,
                                                        .logits = logit != NO_LOGITS};
    p->rows++;
    p->splits += splits;
    p->logits += logit != NO_LOGITS;
    return status;
}

static proa_status add_prompt(runner *r, const proa_segment *s, const int32_t *ids, int32_t logit,
                              int32_t logits, proa_error *err)
{
    piece *p = &r->piece;
    const int32_t keys = keys_of(s->position_first + s->row_count);
    proa_status status = PROA_OK;
    PROA_ASSERT(s->row_count <= r->limits.rows_max);
    PROA_ASSERT(keys <= r->limits.keys_max);
    if (p->rows + s->row_count > r->limits.rows_max || p->prompt_count == r->limits.segments_max ||
        p->keys + keys > r->limits.keys_max)
        status = run_piece(r, false, err);
    p->prompt_logit[p->prompt_count] = logit;
    p->prompts[p->prompt_count++] = (proa_cuda_sequence){.row_count = s->row_count,
                                                         .position_first = s->position_first,
                                                         .ids = ids,
                                                         .blocks = s->blocks,
                                                         .logits = logits};
    p->rows += s->row_count;
    p->keys += keys;
    p->logits += logits;
    return status;
}

/* Logit rows of a segment are its last ones. */
static proa_status add_segment(runner *r, const proa_step *step, int32_t index, int32_t *next,
                               proa_error *err)
{
    const proa_segment *s = &step->segments[index];
    const int32_t *ids = step->token_ids + s->row_first, end = s->row_first + s->row_count, first = *next;
    proa_status status = PROA_OK;
    while (*next < step->logit_count && step->logit_rows[*next] < end)
        ++*next;
    const int32_t logits = *next - first;
    PROA_ASSERT(logits == 0 || step->logit_rows[first] == end - logits);
    if (!s->absorbed)
        return add_prompt(r, s, ids, first, logits, err);
    for (int32_t i = 0; i < s->row_count && status == PROA_OK; i++) {
        const int32_t behind = i - (s->row_count - logits);
        status = add_row(r, s, i, ids, behind >= 0 ? first + behind : NO_LOGITS, err);
    }
    return status;
}

/* ---- a step ---- */

/* Runs of logits that lie together at both ends come in one copy. */
static proa_status fetch_logits(runner *r, proa_error *err)
{
    const float *from = proa_cuda_forward_logits(r->forward);
    const size_t row = (size_t)r->vocab;
    proa_status status = PROA_OK;
    if (r->logit_rows > 0)
        status = proa_cuda_trace_mark(r->trace, PROA_CUDA_DOWNLOAD, err);
    for (int32_t i = 0, n; i < r->logit_rows && status == PROA_OK; i += n) {
        for (n = 1; i + n < r->logit_rows && r->row_of[i + n] == r->row_of[i] + n; n++)
            ;
        status = proa_gpu_download(r->gpu, r->logits + (size_t)i * row, from + (size_t)r->row_of[i] * row,
                                   (size_t)n * row * sizeof *from, err);
    }
    return status == PROA_OK ? proa_cuda_trace_mark(r->trace, PROA_CUDA_NOTHING, err) : status;
}

/* With a sampler, a step that wants logits is waited for by `sample`. */
static proa_status step(void *context, const proa_step *step, float **logits, proa_error *err)
{
    runner *r = context;
    piece *p = &r->piece;
    int32_t next = 0;
    proa_status status = proa_gpu_own(r->gpu, err); /* made on another thread than the engine's */
    if (status == PROA_OK && r->queued)
        status = finish(r, err);
    clear(p); /* a step that failed may have left something */
    proa_cuda_choices_begin(r->choices);
    r->logit_rows = 0;
    for (int32_t i = 0; i < step->segment_count && status == PROA_OK; i++)
        status = add_segment(r, step, i, &next, err);
    if (status == PROA_OK)
        status = run_piece(r, p->rows == step->row_count, err);
    r->queued = true;
    if (status == PROA_OK && r->sampler == NULL)
        status = fetch_logits(r, err);
    if (status == PROA_OK && (r->sampler == NULL || r->logit_rows == 0))
        status = finish(r, err);
    if (status != PROA_OK)
        proa_cuda_choices_begin(r->choices); /* nothing is told of it */
    *logits = r->logits;
    return status;
}

static proa_status sample(void *context, const proa_sample_args *args, proa_error *err)
{
    runner *r = context;
    PROA_ASSERT(args->rows == r->logit_rows);
    const proa_cuda_sample_args there = {.rows = args->rows,
                                         .logits = proa_cuda_forward_logits(r->forward),
                                         .params = args->params,
                                         .row_of = r->row_of};
    proa_status status = proa_cuda_trace_mark(r->trace, PROA_CUDA_SAMPLE, err);
    if (status == PROA_OK)
        status = proa_cuda_sampler_run(r->sampler, &there, err);
    if (status == PROA_OK)
        status = proa_cuda_trace_mark(r->trace, PROA_CUDA_NOTHING, err);
    if (status == PROA_OK)
        status = finish(r, err);
    if (status == PROA_OK)
        memcpy(args->results, proa_cuda_sampler_results(r->sampler),
               (size_t)args->rows * sizeof *args->results);
    else
        proa_cuda_choices_begin(r->choices);
    return status;
}

static proa_status kv_copy(void *context, const proa_kv_copy *copies, int32_t count, proa_error *err)
{
    runner *r = context;
    proa_status status = proa_gpu_own(r->gpu, err);
    for (int32_t i = 0; i < count && status == PROA_OK; i++)
        status = proa_cuda_forward_kv_copy(r->forward, copies[i].from, copies[i].to, copies[i].tokens, err);
    return status;
}

static void set_tap(void *context, proa_forward_tap tap, void *tap_context)
{
    runner *r = context;
    proa_cuda_forward_set_tap(r->forward, tap, tap_context);
}

static proa_status set_expert_tap(void *context, proa_forward_expert_tap tap, void *tap_context,
                                  proa_error *err)
{
    runner *r = context;
    proa_status status = proa_gpu_own(r->gpu, err);
    if (status == PROA_OK && r->queued) /* what is told of it goes to the one before */
        status = finish(r, err);
    proa_cuda_choices_free(r->choices);
    r->choices = NULL;
    if (status == PROA_OK && tap != NULL && proa_cuda_forward_placed(r->forward))
        return proa_error_set(
            err, PROA_ERR_UNSUPPORTED,
            "a slice's experts stand for others: their load is recorded without --slice-experts");
    return status == PROA_OK && tap != NULL && r->config->n_routed_experts > 0
               ? proa_cuda_choices_create(r->gpu, r->forward, r->config, r->limits.rows_max, tap, tap_context,
                                          &r->choices, err)
               : status;
}

/* ---- life ---- */

static void free_runner(void *context)
{
    runner *r = context;
    proa_error unused;
    (void)proa_gpu_own(r->gpu, &unused); /* frees what it can in any case */
    (void)proa_gpu_sync(r->gpu, &unused);
    proa_cuda_sampler_free(r->sampler);
    proa_cuda_choices_free(r->choices);
    proa_cuda_trace_free(r->trace);
    for (int32_t i = 0; i < r->graph_count; i++)
        proa_gpu_graph_free(r->graphs[i]);
    proa_cuda_forward_free(r->forward);
    proa_gpu_free_host(r->gpu, r->logits);
    free(r->row_of);
    free(r->piece.decode);
    free(r->piece.prompts);
    free(r->piece.decode_logit);
    free(r->piece.prompt_logit);
    free(r);
}

static proa_status allocate(runner *r, bool host_logits, proa_error *err)
{
    const proa_cuda_limits *l = &r->limits;
    piece *p = &r->piece;
    p->decode = calloc((size_t)l->decode_rows_max, sizeof *p->decode);
    p->prompts = calloc((size_t)l->segments_max, sizeof *p->prompts);
    p->decode_logit = calloc((size_t)l->decode_rows_max, sizeof *p->decode_logit);
    p->prompt_logit = calloc((size_t)l->segments_max, sizeof *p->prompt_logit);
    r->row_of = calloc((size_t)l->logit_rows_max, sizeof *r->row_of);
    if (p->decode == NULL || p->prompts == NULL || p->decode_logit == NULL || p->prompt_logit == NULL ||
        r->row_of == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for steps of %d rows", l->rows_max);
    if (!host_logits)
        return proa_cuda_sampler_create(r->gpu, l->logit_rows_max, r->vocab, &r->sampler, err);
    return proa_gpu_alloc_host(r->gpu, (size_t)l->logit_rows_max * (size_t)r->vocab * sizeof *r->logits,
                               (void **)&r->logits, err);
}

/* Padding alone: it writes nothing to the cache. The first one runs op by op before, so that no graph meets a kernel that is not loaded. */
static proa_status make_graph(runner *r, int32_t rows, proa_error *err)
{
    const proa_cuda_step empty = {.padding = rows};
    proa_gpu_graph **graph = &r->graphs[r->graph_count];
    proa_status status = proa_cuda_forward_prepare(r->forward, &empty, err);
    if (status == PROA_OK && r->graph_count == 0)
        status = proa_cuda_forward_run(r->forward, err);
    if (status == PROA_OK)
        status = proa_gpu_sync(r->gpu, err);
    if (status != PROA_OK)
        return status;
    status = proa_gpu_graph_begin(r->gpu, err);
    if (status != PROA_OK)
        return status;
    proa_error end = {0};
    proa_status queued = proa_cuda_forward_run(r->forward, err);
    status = proa_gpu_graph_end(r->gpu, graph, queued == PROA_OK ? err : &end);
    if (queued != PROA_OK || status != PROA_OK)
        return queued != PROA_OK ? queued : status;
    r->graph_rows[r->graph_count++] = rows;
    status = proa_gpu_graph_run(r->gpu, *graph, err);
    return status == PROA_OK ? proa_gpu_sync(r->gpu, err) : status;
}

static const proa_forward_backend reads_there = {.free = free_runner,
                                                 .step = step,
                                                 .kv_copy = kv_copy,
                                                 .set_tap = set_tap,
                                                 .set_expert_tap = set_expert_tap,
                                                 .sample = sample};
static const proa_forward_backend reads_here = {.free = free_runner,
                                                .step = step,
                                                .kv_copy = kv_copy,
                                                .set_tap = set_tap,
                                                .set_expert_tap = set_expert_tap};

proa_status proa_cuda_runner_create(proa_gpu *gpu, const proa_cuda_weights *weights, const int32_t *where,
                                    const proa_forward_limits *limits,
                                    const proa_cuda_runner_options *options, proa_forward **forward,
                                    proa_error *err)
{
    const proa_cuda_graph_sizes *graphs = &options->graphs;
    PROA_ASSERT(graphs->count <= PROA_CUDA_GRAPHS_MAX);
    runner *r = calloc(1, sizeof *r);
    *forward = NULL;
    if (r == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a GPU's steps");
    r->gpu = gpu;
    r->limits = proa_cuda_runner_limits(limits, graphs);
    r->config = &weights->config;
    r->vocab = weights->config.vocab_size;
    proa_status status = allocate(r, options->host_logits, err);
    if (status == PROA_OK)
        status = proa_cuda_forward_create(gpu, weights, &r->limits, where, &r->forward, err);
    if (status == PROA_OK) {
        proa_cuda_forward_set_streams(r->forward, options->single_stream ? 1 : 2);
        proa_cuda_forward_set_tiles(r->forward, options->tiles);
    }
    if (status == PROA_OK && options->trace != NULL) {
        r->to = options->trace;
        status = proa_cuda_trace_create(gpu, r->forward, options->trace, &r->trace, err);
    }
    for (int32_t i = 0; i < graphs->count && status == PROA_OK; i++)
        status = make_graph(r, graphs->rows[i], err);
    if (status != PROA_OK) {
        free_runner(r);
        return status;
    }
    return proa_forward_wrap(&weights->config, limits, r->sampler != NULL ? &reads_there : &reads_here, r,
                             forward, err);
}
