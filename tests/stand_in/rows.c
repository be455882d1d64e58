/* rows.c - what the stand-in's ops share about rows; and the ops that take each row by itself: norm, quantise, SwiGLU, embed, combine; fills. */
#include "stand_in.h"

#include "base/bf16.h"
#include "base/number.h"
#include "op/combine/cuda.h"
#include "op/cuda/fill.h"
#include "op/embed/cuda.h"
#include "op/quantise/cuda.h"
#include "op/quantise/quantise.h"
#include "op/rmsnorm/cuda.h"
#include "op/swiglu/cuda.h"

#include <math.h>
#include <string.h>

enum { VECTOR = 8, COMBINE_SLOTS = 32, NORM_COLS_MAX = 8192, COLS_MAX = 65536 };

/* ---- shared ---- */

void stand_in_widen(float *to, const void *bf16, int64_t count)
{
    proa_bf16_to_floats(to, bf16, (size_t)count);
}

void stand_in_narrow(void *bf16, const float *from, int64_t count)
{
    proa_bf16_from_floats(bf16, from, (size_t)count);
}

void stand_in_quantise(const proa_cuda_fp8_rows *to, int64_t row, int32_t cols, const float *x)
{
    float scale[COLS_MAX / PROA_QUANT_GROUP];
    const proa_host host = {.ue8m0 = to->ue8m0};
    PROA_ASSERT(cols <= COLS_MAX);
    proa_quantise_ref(
        &host, &(proa_quantise_args){
                   .rows = 1, .cols = cols, .x = x, .x_stride = cols, .q = to->q + row * cols, .s = scale});
    for (int32_t i = 0; i < (cols + PROA_QUANT_GROUP - 1) / PROA_QUANT_GROUP; i++)
        to->scale[i * to->stride + row] = scale[i];
}

int32_t stand_in_group(const proa_gpu *gpu, const proa_cuda_groups *groups, int32_t g, int32_t *first)
{
    *first = 0;
    if (groups->first == NULL)
        return groups->rows;
    stand_in_check(gpu, groups->first + g, sizeof(int32_t), 4, "a group's first row");
    stand_in_check(gpu, groups->count + g, sizeof(int32_t), 4, "a group's rows");
    const int32_t count = groups->count[g];
    *first = groups->first[g];
    PROA_ASSERT(count >= 0);
    PROA_ASSERT(*first >= 0);
    PROA_ASSERT(*first % PROA_CUDA_GROUP_ALIGN == 0);
    PROA_ASSERT(g + 1 == groups->groups || *first + count <= groups->first[g + 1]);
    return count;
}

/* ---- rmsnorm ---- */

static void norm_row(proa_gpu *gpu, const proa_cuda_rmsnorm_args *a, int64_t row)
{
    uint16_t *x = (uint16_t *)a->x + row * a->x_stride;
    float *h = stand_in_scratch(gpu, 0, sizeof(float) * (size_t)a->cols),
          *other = stand_in_scratch(gpu, 1, sizeof(float) * (size_t)a->cols), sum = 0;
    stand_in_widen(h, x, a->cols);
    if (a->delta != NULL) {
        stand_in_widen(other, (const uint16_t *)a->delta + row * a->cols, a->cols);
        for (int32_t i = 0; i < a->cols; i++)
            h[i] = proa_round_bf16(h[i] + other[i]);
        stand_in_narrow(x, h, a->cols);
    }
    if (a->w == NULL)
        return;
    for (int32_t i = 0; i < a->cols; i++)
        sum += h[i] * h[i];
    const float factor = 1.0f / sqrtf(sum / (float)a->cols + a->eps);
    stand_in_widen(other, a->w, a->cols);
    for (int32_t i = 0; i < a->cols; i++)
        h[i] = proa_round_bf16(h[i] * factor * other[i]);
    if (a->y != NULL)
        stand_in_narrow((uint16_t *)a->y + row * a->y_stride, h, a->cols);
    if (a->q.q != NULL)
        stand_in_quantise(&a->q, row, a->cols, h);
}

static void run_norm(proa_gpu *gpu, const void *args)
{
    const proa_cuda_rmsnorm_args *a = args;
    stand_in_check_rows(gpu, a->x, a->rows, a->cols, a->x_stride, 2, "x of a norm");
    if (a->delta != NULL)
        stand_in_check_rows(gpu, a->delta, a->rows, a->cols, a->cols, 2, "the addition of a norm");
    if (a->w != NULL) {
        stand_in_check(gpu, a->w, 2 * (int64_t)a->cols, 16, "the weight of a norm");
        if (a->y != NULL)
            stand_in_check_rows(gpu, a->y, a->rows, a->cols, a->y_stride, 2, "y of a norm");
        stand_in_check_fp8(gpu, &a->q, a->rows, a->cols, "q of a norm");
    }
    PROA_ASSERT(a->delta == NULL || a->y != a->x);
    for (int32_t r = 0; r < a->rows; r++)
        norm_row(gpu, a, r);
}

proa_status proa_cuda_rmsnorm(proa_gpu *gpu, const proa_cuda_rmsnorm_args *a, proa_error *err)
{
    if (a->cols % VECTOR != 0 || a->cols > NORM_COLS_MAX)
        return proa_error_set(err, PROA_ERR_UNSUPPORTED,
                              "rows of %d values: the GPU norms multiples of %d up to %d", a->cols, VECTOR,
                              NORM_COLS_MAX);
    return stand_in_queue(gpu, run_norm, a, sizeof *a, err);
}

/* ---- quantise ---- */

static void run_quantise(proa_gpu *gpu, const void *args)
{
    const proa_cuda_quantise_args *a = args;
    float *x = stand_in_scratch(gpu, 0, sizeof(float) * (size_t)a->cols);
    stand_in_check_rows(gpu, a->x, a->rows, a->cols, a->x_stride, 2, "x of a quantisation");
    PROA_ASSERT(a->q.q != NULL);
    stand_in_check_fp8(gpu, &a->q, a->rows, a->cols, "q of a quantisation");
    for (int32_t r = 0; r < a->rows; r++) {
        stand_in_widen(x, (const uint16_t *)a->x + r * a->x_stride, a->cols);
        stand_in_quantise(&a->q, r, a->cols, x);
    }
}

proa_status proa_cuda_quantise(proa_gpu *gpu, const proa_cuda_quantise_args *a, proa_error *err)
{
    if (a->cols % VECTOR != 0)
        return proa_error_set(err, PROA_ERR_UNSUPPORTED,
                              "rows of %d values: the GPU quantises multiples of %d", a->cols, VECTOR);
    return stand_in_queue(gpu, run_quantise, a, sizeof *a, err);
}

/* ---- SwiGLU ---- */

static void swiglu_row(proa_gpu *gpu, const proa_cuda_swiglu_args *a, int64_t row)
{
    float *gate = stand_in_scratch(gpu, 0, sizeof(float) * (size_t)a->cols),
          *up = stand_in_scratch(gpu, 1, sizeof(float) * (size_t)a->cols);
    stand_in_widen(gate, (const uint16_t *)a->gate + row * a->stride, a->cols);
    stand_in_widen(up, (const uint16_t *)a->up + row * a->stride, a->cols);
    for (int32_t i = 0; i < a->cols; i++)
        gate[i] = proa_round_bf16(gate[i] / (1.0f + expf(-gate[i])) * up[i]);
    if (a->y != NULL)
        stand_in_narrow((uint16_t *)a->y + row * a->cols, gate, a->cols);
    if (a->q.q != NULL)
        stand_in_quantise(&a->q, row, a->cols, gate);
}

static void run_swiglu(proa_gpu *gpu, const void *args)
{
    const proa_cuda_swiglu_args *a = args;
    for (int32_t g = 0; g < a->rows.groups; g++) {
        int32_t first;
        const int32_t count = stand_in_group(gpu, &a->rows, g, &first);
        stand_in_check_rows(gpu, (const uint16_t *)a->gate + first * a->stride, count, a->cols, a->stride, 2,
                            "the gate of a SwiGLU");
        stand_in_check_rows(gpu, (const uint16_t *)a->up + first * a->stride, count, a->cols, a->stride, 2,
                            "up of a SwiGLU");
        if (a->y != NULL)
            stand_in_check_rows(gpu, (uint16_t *)a->y + (int64_t)first * a->cols, count, a->cols, a->cols, 2,
                                "y of a SwiGLU");
        stand_in_check_fp8(gpu, &a->q, count > 0 ? first + count : 0, a->cols, "q of a SwiGLU");
        for (int32_t r = 0; r < count; r++)
            swiglu_row(gpu, a, first + r);
    }
}

proa_status proa_cuda_swiglu(proa_gpu *gpu, const proa_cuda_swiglu_args *a, proa_error *err)
{
    if (a->cols % VECTOR != 0)
        return proa_error_set(err, PROA_ERR_UNSUPPORTED, "rows of %d values: the GPU takes multiples of %d",
                              a->cols, VECTOR);
    return stand_in_queue(gpu, run_swiglu, a, sizeof *a, err);
}

/* ---- embed, combine ---- */

static void run_embed(proa_gpu *gpu, const void *args)
{
    const proa_cuda_embed_args *a = args;
    stand_in_check(gpu, a->ids, a->rows * (int64_t)sizeof(int32_t), 4, "ids of an embedding");
    stand_in_check_rows(gpu, a->y, a->rows, a->cols, a->cols, 2, "y of an embedding");
    for (int32_t r = 0; r < a->rows; r++) {
        const uint16_t *from = (const uint16_t *)a->table + (int64_t)a->ids[r] * a->cols;
        PROA_ASSERT(a->ids[r] >= 0);
        stand_in_check(gpu, from, 2 * (int64_t)a->cols, 16, "a row of an embedding's table");
        memcpy((uint16_t *)a->y + (int64_t)r * a->cols, from, 2 * (size_t)a->cols);
    }
}

proa_status proa_cuda_embed(proa_gpu *gpu, const proa_cuda_embed_args *a, proa_error *err)
{
    if (a->cols % VECTOR != 0)
        return proa_error_set(err, PROA_ERR_UNSUPPORTED, "rows of %d values: the GPU copies multiples of %d",
                              a->cols, VECTOR);
    return stand_in_queue(gpu, run_embed, a, sizeof *a, err);
}

static void combine_row(proa_gpu *gpu, const proa_cuda_combine_args *a, int64_t row)
{
    float *sum = stand_in_scratch(gpu, 0, sizeof(float) * (size_t)a->cols),
          *one = stand_in_scratch(gpu, 1, sizeof(float) * (size_t)a->cols);
    memset(sum, 0, sizeof *sum * (size_t)a->cols);
    for (int32_t k = 0; k < a->top_k; k++) {
        const int32_t place = a->place[row * a->top_k + k];
        const float weight = a->weights[row * a->top_k + k];
        const uint16_t *from = (const uint16_t *)a->slots + (int64_t)place * a->cols;
        PROA_ASSERT(place >= 0);
        stand_in_check(gpu, from, 2 * (int64_t)a->cols, 16, "a slot of a combine");
        stand_in_widen(one, from, a->cols);
        for (int32_t i = 0; i < a->cols; i++)
            sum[i] += weight * one[i];
    }
    if (a->shared != NULL) {
        stand_in_widen(one, (const uint16_t *)a->shared + row * a->cols, a->cols);
        for (int32_t i = 0; i < a->cols; i++)
            sum[i] += one[i];
    }
    stand_in_narrow((uint16_t *)a->y + row * a->cols, sum, a->cols);
}

static void run_combine(proa_gpu *gpu, const void *args)
{
    const proa_cuda_combine_args *a = args;
    const int64_t slots = (int64_t)a->rows * a->top_k;
    stand_in_check(gpu, a->place, slots * (int64_t)sizeof *a->place, 4, "places of a combine");
    stand_in_check(gpu, a->weights, slots * (int64_t)sizeof *a->weights, 4, "weights of a combine");
    if (a->shared != NULL)
        stand_in_check_rows(gpu, a->shared, a->rows, a->cols, a->cols, 2, "the shared rows of a combine");
    stand_in_check_rows(gpu, a->y, a->rows, a->cols, a->cols, 2, "y of a combine");
    for (int32_t r = 0; r < a->rows; r++)
        combine_row(gpu, a, r);
}

proa_status proa_cuda_combine(proa_gpu *gpu, const proa_cuda_combine_args *a, proa_error *err)
{
    if (a->cols % VECTOR != 0 || a->top_k > COMBINE_SLOTS)
        return proa_error_set(err, PROA_ERR_UNSUPPORTED,
                              "sums of %d rows of %d values: the GPU takes up to %d of multiples of %d",
                              a->top_k, a->cols, COMBINE_SLOTS, VECTOR);
    return stand_in_queue(gpu, run_combine, a, sizeof *a, err);
}
