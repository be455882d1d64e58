/* bench_attention.c - benchmark rows of mla_absorbed (decode), mla_expanded (prefill), rmsnorm and sample at
 * DeepSeek-V3's shapes. Only what a causal mask leaves counts as operations. Keys and rows come cold out of the
 * buffer; sample's logits are the state's own, spread about as a model's are. */
#include "cmd/bench.h"

#include "base/random.h"
#include "op/mla/mla.h"
#include "op/rmsnorm/rmsnorm.h"
#include "op/sample/sample.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LORA = 512, ROPE = 64, NOPE = 128, V = 128, BLOCK = PROA_KV_BLOCK_TOKENS };

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

/* bf16 values of moderate size. */
static float *new_floats(size_t count)
{
    float *x = malloc(count * sizeof *x);
    for (size_t i = 0; x != NULL && i < count; i++)
        x[i] = (float)(i * 7 % 31) * 0.0625f - 0.9375f;
    return x;
}

/* --- absorbed: `rows` sequences of one new token each --- */

typedef struct absorbed_shape {
    int32_t rows, positions, heads;
    proa_precision precision;
    proa_kv_cache kv_cache;
} absorbed_shape;

static const absorbed_shape absorbed_shapes[] = {
    {1, 1024, 128, PROA_PRECISION_DEFAULT, PROA_KV_CACHE_AUTO},
    {1, 4096, 128, PROA_PRECISION_DEFAULT, PROA_KV_CACHE_AUTO},
    {8, 4096, 128, PROA_PRECISION_DEFAULT, PROA_KV_CACHE_AUTO},
    {64, 1024, 16, PROA_PRECISION_DEFAULT, PROA_KV_CACHE_AUTO},
    {1, 4096, 128, PROA_PRECISION_DEFAULT, PROA_KV_CACHE_E4M3},
    {8, 4096, 128, PROA_PRECISION_DEFAULT, PROA_KV_CACHE_E4M3},
    {64, 1024, 16, PROA_PRECISION_DEFAULT, PROA_KV_CACHE_E4M3},
    {1, 1024, 128, PROA_PRECISION_EXACT, PROA_KV_CACHE_AUTO},
    {8, 1024, 128, PROA_PRECISION_EXACT, PROA_KV_CACHE_AUTO},
};

typedef struct absorbed_state {
    absorbed_shape shape;
    int32_t *blocks;
    proa_segment *segments;
    float *q_lat, *q_pe, *o_lat;
} absorbed_state;

static proa_dtype cache_dtype(const absorbed_shape *s)
{
    return proa_kv_cache_dtype(s->kv_cache, s->precision);
}

static size_t cache_bytes(const absorbed_shape *s)
{
    return (size_t)s->rows * (size_t)s->positions * (size_t)proa_kv_row_of(cache_dtype(s), LORA, ROPE).bytes;
}

static void absorbed_run(void *state, const proa_host *host, proa_bench_memory *memory)
{
    absorbed_state *a = state;
    const absorbed_shape *s = &a->shape;
    proa_kv_layer kv = {
        .base = (void *)proa_bench_memory_take(memory, cache_bytes(s)),
        .dtype = cache_dtype(s),
        .kv_lora_rank = LORA,
        .rope_dim = ROPE,
    };
    proa_mla_absorbed_args args = {
        .segments = a->segments,
        .segment_count = s->rows,
        .heads = s->heads,
        .scale = s->kv_cache == PROA_KV_CACHE_E4M3
                     ? 0.0001f
                     : 0.1352f, /* e4m3 makes larger numbers of the same bytes */
        .q_lat = a->q_lat,
        .q_pe = a->q_pe,
        .q_pe_row_stride = (int64_t)s->heads * ROPE,
        .q_pe_head_stride = ROPE,
        .kv = &kv,
        .o_lat = a->o_lat,
    };
    proa_mla_absorbed_cpu(host, &args);
}

static void absorbed_release(void *state)
{
    absorbed_state *a = state;
    if (a == NULL)
        return;
    free(a->blocks);
    free(a->segments);
    free(a->q_lat);
    free(a->q_pe);
    free(a->o_lat);
    free(a);
}

static absorbed_state *absorbed_state_new(const absorbed_shape *s)
{
    absorbed_state *a = calloc(1, sizeof *a);
    if (a == NULL)
        return NULL;
    int32_t blocks_each = s->positions / BLOCK;
    size_t queries = (size_t)s->rows * (size_t)s->heads;
    a->shape = *s;
    a->blocks = malloc((size_t)(s->rows * blocks_each) * sizeof *a->blocks);
    a->segments = malloc((size_t)s->rows * sizeof *a->segments);
    a->q_lat = new_floats(queries * LORA);
    a->q_pe = new_floats(queries * ROPE);
    a->o_lat = malloc(queries * LORA * sizeof *a->o_lat);
    if (a->blocks == NULL || a->segments == NULL || a->q_lat == NULL || a->q_pe == NULL || a->o_lat == NULL) {
        absorbed_release(a);
        return NULL;
    }
    for (int32_t i = 0; i < s->rows * blocks_each; i++)
        a->blocks[i] = i;
    for (int32_t r = 0; r < s->rows; r++)
        a->segments[r] = (proa_segment){r, 1, s->positions - 1, a->blocks + r * blocks_each, true};
    return a;
}

static proa_status make_absorbed(int index, const proa_host *host, proa_bench_case *out, proa_error *err)
{
    const absorbed_shape *s = &absorbed_shapes[index];
    *out = (proa_bench_case){
        .rows = s->rows,
        .bytes = (double)cache_bytes(s) + 4.0 * s->rows * s->heads * (2 * LORA + ROPE),
        .flops = 2.0 * s->rows * s->heads * (double)s->positions * (2 * LORA + ROPE),
        .bf16 = s->precision == PROA_PRECISION_DEFAULT,
        .precision = s->precision,
        .scratch_bytes = proa_mla_absorbed_scratch_bytes(host, s->rows, s->heads, LORA, ROPE),
        .run = absorbed_run,
        .state = absorbed_state_new(s),
        .release = absorbed_release,
    };
    snprintf(out->shape, sizeof out->shape, "%d heads, %d positions %s", s->heads, s->positions,
             !out->bf16                          ? "exact"
             : s->kv_cache == PROA_KV_CACHE_E4M3 ? "fp8 cache"
                                                 : "bf16");
    return out->state != NULL ? PROA_OK
                              : proa_error_set(err, PROA_ERR_MEMORY, "no memory for %s", out->shape);
}

/* --- expanded: a chunk of `rows` against the tile of as many keys at tile_first --- */

typedef struct expanded_shape {
    int32_t rows, position_first, heads;
    proa_precision precision;
} expanded_shape;

static const expanded_shape expanded_shapes[] = {
    {512, 0, 16, PROA_PRECISION_DEFAULT},
    {512, 512, 16, PROA_PRECISION_DEFAULT},
    {64, 512, 128, PROA_PRECISION_DEFAULT},
    {512, 512, 16, PROA_PRECISION_EXACT},
};

typedef struct expanded_state {
    expanded_shape shape;
    float *q, *k_pe, *max, *sum, *weighted, *out;
} expanded_state;

enum { TILE = 512 };

static size_t tile_bytes(const expanded_shape *s)
{
    return (size_t)TILE * (size_t)s->heads * (NOPE + V) * sizeof(float);
}

static void expanded_run(void *state, const proa_host *host, proa_bench_memory *memory)
{
    expanded_state *e = state;
    const expanded_shape *s = &e->shape;
    proa_mla_expanded_args args = {
        .rows = s->rows,
        .position_first = s->position_first,
        .heads = s->heads,
        .nope_dim = NOPE,
        .rope_dim = ROPE,
        .v_dim = V,
        .scale = 0.1352f,
        .q = e->q,
        .q_row_stride = (int64_t)s->heads * (NOPE + ROPE),
        .tile_count = TILE,
        .kv = proa_bench_memory_take(memory, tile_bytes(s)),
        .k_pe = e->k_pe,
        .first = true,
        .last = true,
        .state_max = e->max,
        .state_sum = e->sum,
        .state_out = e->weighted,
        .out = e->out,
        .out_row_stride = (int64_t)s->heads * V,
    };
    proa_mla_expanded_cpu(host, &args);
}

static void expanded_release(void *state)
{
    expanded_state *e = state;
    if (e == NULL)
        return;
    free(e->q);
    free(e->k_pe);
    free(e->max);
    free(e->sum);
    free(e->weighted);
    free(e->out);
    free(e);
}

static expanded_state *expanded_state_new(const expanded_shape *s)
{
    expanded_state *e = calloc(1, sizeof *e);
    if (e == NULL)
        return NULL;
    size_t queries = (size_t)s->rows * (size_t)s->heads;
    e->shape = *s;
    e->q = new_floats(queries * (NOPE + ROPE));
    e->k_pe = new_floats((size_t)TILE * ROPE);
    e->max = malloc(queries * sizeof *e->max);
    e->sum = malloc(queries * sizeof *e->sum);
    e->weighted = malloc(queries * V * sizeof *e->weighted);
    e->out = malloc(queries * V * sizeof *e->out);
    if (e->q == NULL || e->k_pe == NULL || e->max == NULL || e->sum == NULL || e->weighted == NULL ||
        e->out == NULL) {
        expanded_release(e);
        return NULL;
    }
    return e;
}

static proa_status make_expanded(int index, const proa_host *host, proa_bench_case *out, proa_error *err)
{
    const expanded_shape *s = &expanded_shapes[index];
    double pairs = 0; /* of a query and a key that it sees */
    for (int32_t r = 0; r < s->rows; r++)
        pairs += s->position_first + r + 1 < TILE ? s->position_first + r + 1 : TILE;
    *out = (proa_bench_case){
        .rows = s->rows,
        .bytes = (double)tile_bytes(s) + 4.0 * s->rows * s->heads * (NOPE + ROPE + V),
        .flops = 2.0 * s->heads * pairs * (NOPE + ROPE + V),
        .bf16 = s->precision == PROA_PRECISION_DEFAULT,
        .precision = s->precision,
        .scratch_bytes = proa_mla_expanded_scratch_bytes(host, s->rows, s->heads, TILE, NOPE, ROPE, V),
        .run = expanded_run,
        .state = expanded_state_new(s),
        .release = expanded_release,
    };
    snprintf(out->shape, sizeof out->shape, "%d heads, tile %d%s %s", s->heads, TILE,
             s->position_first < TILE ? " on the diagonal" : "", out->bf16 ? "bf16" : "exact");
    return out->state != NULL ? PROA_OK
                              : proa_error_set(err, PROA_ERR_MEMORY, "no memory for %s", out->shape);
}

/* --- rmsnorm; without the residual, which would write to the buffer --- */

static const int32_t rmsnorm_rows[] = {1, 64, 512};

enum { HIDDEN = 7168 };

typedef struct rmsnorm_state {
    int32_t rows;
    float *w, *y;
} rmsnorm_state;

static void rmsnorm_run(void *state, const proa_host *host, proa_bench_memory *memory)
{
    rmsnorm_state *n = state;
    size_t bytes = (size_t)n->rows * HIDDEN * sizeof(float);
    proa_weight w = {.dtype = PROA_DTYPE_F32, .n = 1, .k = HIDDEN, .data = n->w};
    proa_rmsnorm_args args = {
        .rows = n->rows,
        .cols = HIDDEN,
        .x = (float *)proa_bench_memory_take(memory, bytes),
        .x_stride = HIDDEN,
        .w = &w,
        .eps = 1e-6,
        .y = n->y,
        .y_stride = HIDDEN,
    };
    proa_rmsnorm_cpu(host, &args);
}

static void rmsnorm_release(void *state)
{
    rmsnorm_state *n = state;
    if (n == NULL)
        return;
    free(n->w);
    free(n->y);
    free(n);
}

static proa_status make_rmsnorm(int index, const proa_host *host, proa_bench_case *out, proa_error *err)
{
    (void)host;
    rmsnorm_state *n = calloc(1, sizeof *n);
    int32_t rows = rmsnorm_rows[index];
    *out = (proa_bench_case){
        .rows = rows,
        .bytes = (double)rows * HIDDEN * 2 * sizeof(float),
        .precision = PROA_PRECISION_DEFAULT,
        .run = rmsnorm_run,
        .state = n,
        .release = rmsnorm_release,
    };
    snprintf(out->shape, sizeof out->shape, "[%d]", HIDDEN);
    if (n != NULL) {
        n->rows = rows;
        n->w = new_floats(HIDDEN);
        n->y = malloc((size_t)rows * HIDDEN * sizeof *n->y);
    }
    if (n == NULL || n->w == NULL || n->y == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the operands of rmsnorm");
    return PROA_OK;
}

/* --- sample; few rows stay in the last cache and so pass the bound of memory --- */

typedef struct sample_shape {
    const char *what;
    int32_t rows;
    proa_sample_params params;
} sample_shape;

#define NEUTRAL .repetition_penalty = 1, .seed = 1

static const sample_shape sample_shapes[] = {
    {"greedy", 1, {NEUTRAL, .top_p = 1, .top_logprobs = -1}},
    {"greedy", 16, {NEUTRAL, .top_p = 1, .top_logprobs = -1}},
    {"greedy, 20 logprobs", 16, {NEUTRAL, .top_p = 1, .top_logprobs = 20}},
    {"temperature 1", 16, {NEUTRAL, .temperature = 1, .top_p = 1, .top_logprobs = -1}},
    {"temperature 0.6, top_p 0.95", 16, {NEUTRAL, .temperature = 0.6f, .top_p = 0.95f, .top_logprobs = -1}},
    {"temperature 1, top_k 50, top_p 0.9",
     16,
     {NEUTRAL, .temperature = 1, .top_k = 50, .top_p = 0.9f, .top_logprobs = -1}},
};

enum { VOCAB = 129280 };

typedef struct sample_state {
    int32_t rows;
    float *logits;
    proa_sample_params *params;
    proa_sample_result *results;
} sample_state;

static void sample_run(void *state, const proa_host *host, proa_bench_memory *memory)
{
    (void)memory;
    sample_state *s = state;
    proa_sample_args args = {s->rows, VOCAB, s->logits, s->params, s->results};
    for (int32_t r = 0; r < s->rows; r++)
        s->params[r].position++;
    proa_sample_cpu(host, &args);
}

static void sample_release(void *state)
{
    sample_state *s = state;
    if (s == NULL)
        return;
    free(s->logits);
    free(s->params);
    free(s->results);
    free(s);
}

/* Sums of four uniform numbers, deviation 2.5: about what a softmax over a vocabulary sees. */
static void spread_logits(float *logits, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t words[4];
        proa_random_philox(1, i, 0, words);
        double sum = 0;
        for (int w = 0; w < 4; w++)
            sum += words[w] * 0x1p-32 - 0.5;
        logits[i] = (float)(sum * 4.33);
        if (i % 9973 == 5)
            logits[i] += 8; /* a few tokens stand out */
    }
}

static proa_status make_sample(int index, const proa_host *host, proa_bench_case *out, proa_error *err)
{
    const sample_shape *shape = &sample_shapes[index];
    sample_state *s = calloc(1, sizeof *s);
    *out = (proa_bench_case){
        .rows = shape->rows,
        .bytes = (double)shape->rows * VOCAB * sizeof(float),
        .precision = PROA_PRECISION_DEFAULT,
        .scratch_bytes = proa_sample_scratch_bytes(host, shape->rows, VOCAB),
        .run = sample_run,
        .state = s,
        .release = sample_release,
    };
    snprintf(out->shape, sizeof out->shape, "[%d] %s", VOCAB, shape->what);
    if (s != NULL) {
        s->rows = shape->rows;
        s->logits = malloc((size_t)s->rows * VOCAB * sizeof *s->logits);
        s->params = malloc((size_t)s->rows * sizeof *s->params);
        s->results = malloc((size_t)s->rows * sizeof *s->results);
    }
    if (s == NULL || s->logits == NULL || s->params == NULL || s->results == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the operands of sample");
    spread_logits(s->logits, (size_t)s->rows * VOCAB);
    for (int32_t r = 0; r < s->rows; r++)
        s->params[r] = shape->params;
    return PROA_OK;
}

const proa_bench_op proa_bench_mla_absorbed = {"mla_absorbed", COUNT(absorbed_shapes), make_absorbed};
const proa_bench_op proa_bench_mla_expanded = {"mla_expanded", COUNT(expanded_shapes), make_expanded};
const proa_bench_op proa_bench_rmsnorm = {"rmsnorm", COUNT(rmsnorm_rows), make_rmsnorm};
const proa_bench_op proa_bench_sample = {"sample", COUNT(sample_shapes), make_sample};
