/* cache.c - op/rope/cuda.h: rotation, new rows of the cache, rows of the cache for prompts. */
#include "../gpu/kv_row_reference.h"
#include "stand_in.h"

#include "base/number.h"
#include "op/rope/cuda.h"

#include <math.h>
#include <string.h>

enum { VECTOR = 8, LORA_MAX = 2048, ROPE_MAX = 512 };

static void check_table(const proa_gpu *gpu, const proa_cuda_rope_table *t, int32_t rows)
{
    stand_in_check(gpu, t->positions, rows * (int64_t)sizeof(int32_t), 4, "positions of a rotation");
}

/* dim values of `from` to `to`, which may be the same. */
static void rotate(const proa_gpu *gpu, const proa_cuda_rope_table *t, int32_t row, int32_t dim,
                   const uint16_t *from, uint16_t *to)
{
    const int64_t pairs = dim / 2, at = t->positions[row] * pairs, bytes = pairs * (int64_t)sizeof(float);
    PROA_ASSERT(t->positions[row] >= 0);
    stand_in_check(gpu, t->cos_table + at, bytes, 4, "cosines of a position");
    stand_in_check(gpu, t->sin_table + at, bytes, 4, "sines of a position");
    for (int64_t i = 0; i < pairs; i++) {
        const float c = t->cos_table[at + i], s = t->sin_table[at + i];
        const float re = proa_bf16_to_f32(from[2 * i]), im = proa_bf16_to_f32(from[2 * i + 1]);
        to[2 * i] = proa_f32_to_bf16(re * c - im * s);
        to[2 * i + 1] = proa_f32_to_bf16(re * s + im * c);
    }
}

static void run_rope(proa_gpu *gpu, const void *args)
{
    const proa_cuda_rope_args *a = args;
    check_table(gpu, &a->table, a->rows);
    PROA_ASSERT(a->dim % 2 == 0);
    for (int32_t r = 0; r < a->rows; r++)
        for (int32_t h = 0; h < a->heads; h++) {
            const uint16_t *from = (const uint16_t *)a->x + r * a->row_stride + h * a->head_stride;
            uint16_t *to = (uint16_t *)a->y + r * a->y_row_stride + h * a->y_head_stride;
            stand_in_check(gpu, from, 2 * (int64_t)a->dim, 4, "x of a rotation");
            stand_in_check(gpu, to, 2 * (int64_t)a->dim, 4, "y of a rotation");
            rotate(gpu, &a->table, r, a->dim, from, to);
        }
}

proa_status proa_cuda_rope(proa_gpu *gpu, const proa_cuda_rope_args *a, proa_error *err)
{
    return (int64_t)a->rows * a->heads * (a->dim / 2) > 0 ? stand_in_queue(gpu, run_rope, a, sizeof *a, err)
                                                          : PROA_OK;
}

/* ---- rows of the cache ---- */

static proa_kv_row row_of(bool fp8, int32_t lora, int32_t rope)
{
    return proa_kv_row_of(fp8 ? PROA_DTYPE_E4M3 : PROA_DTYPE_BF16, lora, rope);
}

static proa_status check_row(bool fp8, int32_t lora, int32_t rope, proa_error *err)
{
    if (!fp8 || proa_kv_row_fits(PROA_DTYPE_E4M3, lora, rope))
        return PROA_OK;
    return proa_error_set(err, PROA_ERR_UNSUPPORTED,
                          "FP8 cache rows of %d + %d values: these are multiples of 16 and of 8", lora, rope);
}

void stand_in_cache_row(const proa_gpu *gpu, const void *row, bool fp8, int32_t lora, int32_t rope, float *to)
{
    const proa_kv_row place = row_of(fp8, lora, rope);
    const unsigned char *from = row;
    stand_in_widen(to + lora, from + place.k_pe, rope);
    if (!fp8) {
        stand_in_widen(to, row, lora);
        return;
    }
    for (int32_t i = 0; i < lora; i++) {
        float scale;
        memcpy(&scale, from + place.scales + i / PROA_KV_SCALE_GROUP * (int32_t)sizeof scale, sizeof scale);
        to[i] = stand_in_e4m3(gpu)[from[i]] * scale;
    }
}

static void append_row(proa_gpu *gpu, const proa_cuda_kv_append_args *a, int32_t row)
{
    const int32_t lora = a->kv_lora_rank, slot = a->slots[row];
    const proa_kv_row place = row_of(a->fp8, lora, a->rope_dim);
    const uint16_t *x = (const uint16_t *)a->kv_a + row * a->stride;
    unsigned char *to = (unsigned char *)a->cache + (int64_t)slot * place.bytes;
    float h[LORA_MAX + ROPE_MAX], w[LORA_MAX], sum = 0;
    uint16_t k_pe[ROPE_MAX];
    if (slot < 0)
        return;
    stand_in_check(gpu, to, place.bytes, 16, "a row of the cache");
    stand_in_widen(h, x, lora);
    stand_in_widen(w, a->w, lora);
    for (int32_t i = 0; i < lora; i++)
        sum += h[i] * h[i];
    const float factor = 1.0f / sqrtf(sum / (float)lora + a->eps);
    for (int32_t i = 0; i < lora; i++)
        h[i] = proa_round_bf16(h[i] * factor * w[i]);
    rotate(gpu, &a->table, row, a->rope_dim, x + lora, k_pe);
    stand_in_widen(h + lora, k_pe, a->rope_dim);
    if (a->fp8)
        kv_row_reference(lora, a->rope_dim, h, to);
    else
        stand_in_narrow(to, h, lora + a->rope_dim);
}

static void run_append(proa_gpu *gpu, const void *args)
{
    const proa_cuda_kv_append_args *a = args;
    check_table(gpu, &a->table, a->rows);
    stand_in_check_rows(gpu, a->kv_a, a->rows, a->kv_lora_rank + a->rope_dim, a->stride, 2,
                        "rows for the cache");
    stand_in_check(gpu, a->slots, a->rows * (int64_t)sizeof *a->slots, 4, "places in the cache");
    stand_in_check(gpu, a->w, 2 * (int64_t)a->kv_lora_rank, 16, "the norm of rows for the cache");
    for (int32_t r = 0; r < a->rows; r++)
        append_row(gpu, a, r);
}

proa_status proa_cuda_kv_append(proa_gpu *gpu, const proa_cuda_kv_append_args *a, proa_error *err)
{
    if (a->kv_lora_rank % VECTOR != 0 || a->kv_lora_rank > LORA_MAX || a->rope_dim > ROPE_MAX)
        return proa_error_set(err, PROA_ERR_UNSUPPORTED,
                              "cache rows of %d + %d values: the GPU takes multiples of %d up to %d, and %d",
                              a->kv_lora_rank, a->rope_dim, VECTOR, LORA_MAX, ROPE_MAX);
    const proa_status status = check_row(a->fp8, a->kv_lora_rank, a->rope_dim, err);
    return status == PROA_OK ? stand_in_queue(gpu, run_append, a, sizeof *a, err) : status;
}

static void gather_row(proa_gpu *gpu, const proa_cuda_kv_gather_args *a, int64_t row)
{
    const int32_t lora = a->kv_lora_rank, slot = a->slots[row];
    const proa_kv_row place = row_of(a->fp8, lora, a->rope_dim);
    const unsigned char *from = (const unsigned char *)a->cache + (int64_t)slot * place.bytes;
    float x[2 * LORA_MAX];
    if (slot < 0)
        return;
    stand_in_check(gpu, from, place.bytes, 16, "a row of the cache");
    stand_in_cache_row(gpu, from, a->fp8, lora, a->rope_dim, x);
    if (a->kv_lora != NULL)
        stand_in_narrow((uint16_t *)a->kv_lora + row * lora, x, lora);
    if (a->q.q != NULL)
        stand_in_quantise(&a->q, row, lora, x);
    memcpy((uint16_t *)a->k_pe + row * a->rope_dim, from + place.k_pe, 2 * (size_t)a->rope_dim);
}

static void run_gather(proa_gpu *gpu, const void *args)
{
    const proa_cuda_kv_gather_args *a = args;
    stand_in_check(gpu, a->slots, a->rows * (int64_t)sizeof *a->slots, 4, "places in the cache");
    if (a->kv_lora != NULL)
        stand_in_check_rows(gpu, a->kv_lora, a->rows, a->kv_lora_rank, a->kv_lora_rank, 2,
                            "gathered rows of the cache");
    stand_in_check_fp8(gpu, &a->q, a->rows, a->kv_lora_rank, "gathered rows of the cache, quantised");
    stand_in_check_rows(gpu, a->k_pe, a->rows, a->rope_dim, a->rope_dim, 2, "gathered k_pe");
    for (int32_t r = 0; r < a->rows; r++)
        gather_row(gpu, a, r);
}

proa_status proa_cuda_kv_gather(proa_gpu *gpu, const proa_cuda_kv_gather_args *a, proa_error *err)
{
    if (a->kv_lora_rank % VECTOR != 0 || a->rope_dim % VECTOR != 0 || a->kv_lora_rank > LORA_MAX ||
        a->rope_dim > LORA_MAX)
        return proa_error_set(err, PROA_ERR_UNSUPPORTED,
                              "cache rows of %d + %d values: the GPU takes multiples of %d up to %d",
                              a->kv_lora_rank, a->rope_dim, VECTOR, LORA_MAX);
    const proa_status status = check_row(a->fp8, a->kv_lora_rank, a->rope_dim, err);
    return status == PROA_OK ? stand_in_queue(gpu, run_gather, a, sizeof *a, err) : status;
}
