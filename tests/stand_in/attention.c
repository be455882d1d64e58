/* attention.c - op/mla/cuda.h: both forms, by blocks of 64 keys from position 0 with a running maximum, as op/mla/ref.c has them; in float32,
 * probabilities rounded to bf16 where they weigh values and nowhere else. */
#include "stand_in.h"

#include "base/number.h"
#include "op/mla/cuda.h"
#include "op/mla/kv_row.h"

#include <math.h>
#include <string.h>

enum {
    BLOCK = 64,         /* keys of a cache block, and of a step of the running maximum */
    SPLIT = 32 * BLOCK, /* keys of a part of a row's work, as the kernel cuts it */
    TILE_HEADS = 64,
    STRETCHES_MAX = 1024,
    STRETCH_BYTES = 16,
    LATENT = 512, /* the shape that has the fast kernel, which wants a plan */
    ROPE = 64,
    ROWS_MAX = 8192,
    GENERIC_BYTES_MAX = 47 * 1024, /* of shared memory */
    PREFILL_TILE = 128,
    PREFILL_V_MAX = 512,
    PREFILL_SUMS = 4,
    LANES = 8,
};

/* Sums of eighths, in one order. */
static float dot(const float *x, const float *y, int32_t count)
{
    float part[LANES] = {0}, rest = 0;
    int32_t i = 0;
    for (; i + LANES <= count; i += LANES)
        for (int32_t l = 0; l < LANES; l++)
            part[l] += x[i + l] * y[i + l];
    for (; i < count; i++)
        rest += x[i] * y[i];
    return ((part[0] + part[1]) + (part[2] + part[3])) + ((part[4] + part[5]) + (part[6] + part[7])) + rest;
}

/* What a query has of the keys so far. */
typedef struct running {
    float top, sum;
    float *out; /* [width] */
    int32_t width;
} running;

/* Takes in up to 64 keys: scores [count], values [count, width] at stride. */
static void take(running *r, float *score, int32_t count, const float *values, int64_t stride)
{
    float top = r->top, added = 0;
    for (int32_t j = 0; j < count; j++)
        top = fmaxf(top, score[j]);
    const float shrink = expf(r->top - top);
    for (int32_t j = 0; j < count; j++) {
        score[j] = expf(score[j] - top);
        added += score[j];
    }
    r->sum = r->sum * shrink + added;
    r->top = top;
    for (int32_t i = 0; i < r->width; i++)
        r->out[i] *= shrink;
    for (int32_t j = 0; j < count; j++) {
        const float p = proa_round_bf16(score[j]);
        for (int32_t i = 0; i < r->width; i++)
            r->out[i] += p * values[j * stride + i];
    }
}

/* ---- decode ---- */

static int64_t aligned(int64_t bytes)
{
    return (bytes + 255) / 256 * 256;
}

static int64_t tiles_of(int32_t heads)
{
    return (heads + TILE_HEADS - 1) / TILE_HEADS;
}

int32_t proa_mla_decode_splits(int32_t length)
{
    return length <= 0 ? 0 : (length + SPLIT - 1) / SPLIT;
}

size_t proa_mla_decode_workspace_bytes(int32_t rows, int32_t heads, int32_t splits_max)
{
    const int64_t sums = splits_max * tiles_of(heads) * TILE_HEADS;
    return (size_t)(aligned(STRETCHES_MAX * STRETCH_BYTES) + aligned(rows * (int64_t)sizeof(int32_t)) +
                    aligned(sums * 2 * (int64_t)sizeof(float)) + sums * LATENT * (int64_t)sizeof(float));
}

static bool fast(const proa_mla_decode_args *a)
{
    return a->kv_lora_rank == LATENT && a->rope_dim == ROPE;
}

static proa_kv_row cache_row(const proa_mla_decode_args *a)
{
    return proa_kv_row_of(a->fp8 ? PROA_DTYPE_E4M3 : PROA_DTYPE_BF16, a->kv_lora_rank, a->rope_dim);
}

/* The first rows of a block of the cache. */
static void widen_block(const proa_gpu *gpu, const proa_mla_decode_args *a, int32_t block, int32_t count,
                        float *to)
{
    const int64_t bytes = cache_row(a).bytes;
    const unsigned char *from = (const unsigned char *)a->cache + block * BLOCK * bytes;
    for (int32_t j = 0; j < count; j++)
        stand_in_cache_row(gpu, from + j * bytes, a->fp8, a->kv_lora_rank, a->rope_dim,
                           to + (int64_t)j * (a->kv_lora_rank + a->rope_dim));
}

/* Keys that a row sees. */
static int32_t length_of(const proa_mla_decode_args *a, int32_t row)
{
    return a->lengths[row / a->rows_per_table] - (a->rows_per_table - 1 - row % a->rows_per_table);
}

static void check_decode(const proa_gpu *gpu, const proa_mla_decode_args *a)
{
    const int64_t tables = a->rows / a->rows_per_table, word = 4;
    PROA_ASSERT(a->rows % a->rows_per_table == 0);
    stand_in_check(gpu, a->lengths, word * tables, 4, "lengths of decode attention");
    if (fast(a))
        stand_in_check(gpu, a->workspace,
                       (int64_t)proa_mla_decode_workspace_bytes(a->rows, a->heads, a->splits_max), 256,
                       "the workspace of decode attention");
}

/* The plan is the rows' lengths: enough to see whether it is of this step. */
static int32_t *plan_of(const proa_mla_decode_args *a)
{
    return (int32_t *)((unsigned char *)a->workspace + aligned(STRETCHES_MAX * STRETCH_BYTES));
}

static void run_plan(proa_gpu *gpu, const void *args)
{
    const proa_mla_decode_args *a = args;
    int32_t splits = 0;
    check_decode(gpu, a);
    for (int32_t r = 0; r < a->rows; r++) {
        plan_of(a)[r] = length_of(a, r);
        splits += proa_mla_decode_splits(length_of(a, r));
    }
    PROA_ASSERT(splits <= a->splits_max);
}

proa_status proa_cuda_mla_plan(proa_gpu *gpu, const proa_mla_decode_args *a, proa_error *err)
{
    if (!fast(a) || a->rows == 0)
        return PROA_OK;
    if (a->rows > ROWS_MAX)
        return proa_error_set(err, PROA_ERR_DEVICE, "planning decode attention: invalid argument");
    return stand_in_queue(gpu, run_plan, a, sizeof *a, err);
}

static void decode_row(proa_gpu *gpu, const proa_mla_decode_args *a, int32_t row)
{
    const int32_t lora = a->kv_lora_rank, dim = lora + a->rope_dim, keys = length_of(a, row);
    const int32_t *table = a->table + (int64_t)(row / a->rows_per_table) * a->table_stride;
    float *q = stand_in_scratch(gpu, 0, sizeof(float) * (size_t)dim * (size_t)a->heads),
          *k = stand_in_scratch(gpu, 1, sizeof(float) * (size_t)dim * BLOCK),
          *state = stand_in_scratch(gpu, 2, sizeof(float) * (size_t)(lora + 2) * (size_t)a->heads);
    float *o = state + 2 * a->heads, score[BLOCK];
    stand_in_widen(q, (const uint16_t *)a->q + (int64_t)row * a->heads * dim, (int64_t)a->heads * dim);
    memset(state, 0, sizeof *state * (size_t)(lora + 2) * (size_t)a->heads);
    PROA_ASSERT(keys <= a->table_stride * BLOCK);
    for (int32_t first = 0; first < keys; first += BLOCK) {
        const int32_t block = table[first / BLOCK], count = keys - first < BLOCK ? keys - first : BLOCK;
        PROA_ASSERT(block >= 0);
        PROA_ASSERT(block < a->cache_blocks);
        widen_block(gpu, a, block, count, k);
        for (int32_t h = 0; h < a->heads; h++) {
            running r = {first > 0 ? state[2 * h] : -INFINITY, state[2 * h + 1], o + (int64_t)h * lora, lora};
            for (int32_t j = 0; j < count; j++)
                score[j] = a->scale * dot(q + (int64_t)h * dim, k + (int64_t)j * dim, dim);
            take(&r, score, count, k, dim);
            state[2 * h] = r.top;
            state[2 * h + 1] = r.sum;
        }
    }
    for (int32_t h = 0; h < a->heads; h++) {
        const int64_t at = (int64_t)row * a->heads + h;
        for (int32_t i = 0; i < lora && keys > 0; i++)
            o[(int64_t)h * lora + i] /= state[2 * h + 1];
        stand_in_narrow((uint16_t *)a->out + at * lora, o + (int64_t)h * lora, lora);
        if (a->lse != NULL)
            a->lse[at] = keys > 0 ? state[2 * h] + logf(state[2 * h + 1]) : -INFINITY;
    }
}

static void run_decode(proa_gpu *gpu, const void *args)
{
    const proa_mla_decode_args *a = args;
    const int64_t heads = (int64_t)a->rows * a->heads, dim = a->kv_lora_rank + a->rope_dim, word = 4;
    check_decode(gpu, a);
    stand_in_check(gpu, a->q, 2 * heads * dim, 16, "q of decode attention");
    stand_in_check(gpu, a->cache, (int64_t)cache_row(a).bytes * a->cache_blocks * BLOCK, 16,
                   "the cache of decode attention");
    stand_in_check(gpu, a->out, 2 * heads * a->kv_lora_rank, 16, "out of decode attention");
    stand_in_check(gpu, a->table, word * a->rows / a->rows_per_table * a->table_stride, 4,
                   "tables of decode attention");
    if (a->lse != NULL)
        stand_in_check(gpu, a->lse, word * heads, 4, "lse of decode attention");
    for (int32_t r = 0; r < a->rows; r++) {
        if (fast(a)) /* the plan is of these lengths */
            PROA_ASSERT(plan_of(a)[r] == length_of(a, r));
        decode_row(gpu, a, r);
    }
}

proa_status proa_cuda_mla_decode(proa_gpu *gpu, const proa_mla_decode_args *a, proa_error *err)
{
    const int64_t bytes = (int64_t)(2 * a->kv_lora_rank + a->rope_dim) * (int64_t)sizeof(float);
    if (a->rows == 0)
        return PROA_OK;
    const proa_dtype dtype = a->fp8 ? PROA_DTYPE_E4M3 : PROA_DTYPE_BF16;
    if (!proa_kv_row_fits(dtype, a->kv_lora_rank, a->rope_dim) || (!fast(a) && bytes > GENERIC_BYTES_MAX))
        return proa_error_set(err, PROA_ERR_DEVICE, "decode attention: invalid argument");
    return stand_in_queue(gpu, run_decode, a, sizeof *a, err);
}

/* ---- prefill ---- */

/* A segment's keys of one head, widened: k [keys, nope + rope], v [keys, v_dim]. */
typedef struct head_keys {
    float *k, *v;
    int32_t head;
} head_keys;

static bool is_fast(const proa_mla_prefill_args *a)
{
    return !a->generic && a->nope_dim == 128 && a->rope_dim == ROPE && a->v_dim == 128;
}

static void check_segment(const proa_gpu *gpu, const proa_mla_prefill_args *a,
                          const proa_mla_prefill_segment *s)
{
    const int32_t end = s->key_first + s->key_count;
    const int64_t state = (int64_t)a->rows * a->heads * 4;
    PROA_ASSERT(s->row_first >= 0);
    PROA_ASSERT(s->row_first + s->row_count <= a->rows);
    PROA_ASSERT(s->position_first >= 0);
    PROA_ASSERT(s->key_row >= 0);
    PROA_ASSERT(s->key_row + s->key_count <= a->keys);
    PROA_ASSERT(s->key_first % PREFILL_TILE == 0);
    PROA_ASSERT(end % PREFILL_TILE == 0 || end == s->position_first + s->row_count);
    if (s->key_first == 0 && end >= s->position_first + s->row_count)
        return;
    stand_in_check(gpu, a->state_max, state, 4, "maxima that prefill attention carries");
    stand_in_check(gpu, a->state_sum, state * PREFILL_SUMS, 4, "sums that prefill attention carries");
    stand_in_check(gpu, a->state_out, state * a->v_dim, 4, "output that prefill attention carries");
}

static void widen_keys(const proa_mla_prefill_args *a, const proa_mla_prefill_segment *s, const head_keys *to)
{
    const int32_t qk = a->nope_dim + a->rope_dim, each = a->nope_dim + a->v_dim;
    for (int64_t j = 0; j < s->key_count; j++) {
        const uint16_t *from =
            (const uint16_t *)a->kv + ((s->key_row + j) * a->heads + to->head) * (int64_t)each;
        stand_in_widen(to->k + j * qk, from, a->nope_dim);
        stand_in_widen(to->k + j * qk + a->nope_dim,
                       (const uint16_t *)a->k_pe + (s->key_row + j) * a->rope_dim, a->rope_dim);
        stand_in_widen(to->v + j * a->v_dim, from + a->nope_dim, a->v_dim);
    }
}

static void prefill_row(const proa_mla_prefill_args *a, const proa_mla_prefill_segment *s, const head_keys *h,
                        int32_t row)
{
    const int32_t qk = a->nope_dim + a->rope_dim, position = s->position_first + row - s->row_first,
                  end = s->key_first + s->key_count, last = position < end ? position + 1 : end;
    const int64_t at = (int64_t)row * a->heads + h->head, state = (int64_t)h->head * a->rows + row;
    float q[2 * PREFILL_V_MAX], o[PREFILL_V_MAX] = {0}, score[BLOCK];
    running r = {-INFINITY, 0, o, a->v_dim};
    if (position < s->key_first)
        return;
    if (s->key_first > 0) {
        r.top = a->state_max[state];
        r.sum = a->state_sum[state * PREFILL_SUMS];
        memcpy(o, a->state_out + state * a->v_dim, sizeof *o * (size_t)a->v_dim);
    }
    stand_in_widen(q, (const uint16_t *)a->q + at * qk, qk);
    for (int32_t first = s->key_first; first < last; first += BLOCK) {
        const int32_t count = last - first < BLOCK ? last - first : BLOCK, key = first - s->key_first;
        for (int32_t j = 0; j < count; j++)
            score[j] = a->scale * dot(q, h->k + (int64_t)(key + j) * qk, qk);
        take(&r, score, count, h->v + (int64_t)key * a->v_dim, a->v_dim);
    }
    if (position >= end) {
        a->state_max[state] = r.top;
        a->state_sum[state * PREFILL_SUMS] = r.sum;
        memcpy(a->state_out + state * a->v_dim, o, sizeof *o * (size_t)a->v_dim);
        return;
    }
    for (int32_t i = 0; i < a->v_dim; i++)
        o[i] = o[i] * (1.0f / r.sum) + 0.0f;
    stand_in_narrow((uint16_t *)a->out + at * a->v_dim, o, a->v_dim);
    if (a->lse != NULL)
        a->lse[state] = r.top + logf(r.sum);
}

static void check_prefill(const proa_gpu *gpu, const proa_mla_prefill_args *a)
{
    const int64_t heads = (int64_t)a->rows * a->heads;
    stand_in_check(gpu, a->segments, a->segment_count * (int64_t)sizeof *a->segments, 4,
                   "segments of prefill attention");
    stand_in_check(gpu, a->q, 2 * heads * (a->nope_dim + a->rope_dim), 16, "q of prefill attention");
    stand_in_check(gpu, a->kv, 2 * (int64_t)a->keys * a->heads * (a->nope_dim + a->v_dim), 16,
                   "keys and values of prefill attention");
    stand_in_check(gpu, a->k_pe, 2 * (int64_t)a->keys * a->rope_dim, 16, "k_pe of prefill attention");
    stand_in_check(gpu, a->out, 2 * heads * a->v_dim, 16, "out of prefill attention");
    if (a->lse != NULL)
        stand_in_check(gpu, a->lse, heads * (int64_t)sizeof *a->lse, 4, "lse of prefill attention");
    if (!is_fast(a))
        return;
    stand_in_check(gpu, a->tickets, 2 * sizeof *a->tickets, 4, "tickets of prefill attention");
    PROA_ASSERT(a->tickets[0] == 0);
    PROA_ASSERT(a->tickets[1] == 0);
}

static void run_prefill(proa_gpu *gpu, const void *args)
{
    const proa_mla_prefill_args *a = args;
    const size_t qk = (size_t)(a->nope_dim + a->rope_dim);
    check_prefill(gpu, a);
    for (int32_t i = 0; i < a->segment_count; i++) {
        const proa_mla_prefill_segment *s = &a->segments[i];
        if (s->row_count == 0 || s->key_count == 0)
            continue;
        check_segment(gpu, a, s);
        head_keys keys = {
            .k = stand_in_scratch(gpu, 0, sizeof(float) * (size_t)s->key_count * qk),
            .v = stand_in_scratch(gpu, 1, sizeof(float) * (size_t)s->key_count * (size_t)a->v_dim)};
        for (keys.head = 0; keys.head < a->heads; keys.head++) {
            widen_keys(a, s, &keys);
            for (int32_t r = 0; r < s->row_count; r++)
                prefill_row(a, s, &keys, s->row_first + r);
        }
    }
}

proa_status proa_cuda_mla_prefill(proa_gpu *gpu, const proa_mla_prefill_args *a, proa_error *err)
{
    if (a->v_dim > PREFILL_V_MAX)
        return proa_error_set(err, PROA_ERR_DEVICE, "prefill attention: operation not supported");
    PROA_ASSERT(a->nope_dim + a->rope_dim <= 2 * PREFILL_V_MAX);
    return stand_in_queue(gpu, run_prefill, a, sizeof *a, err);
}
