/* product.c - portable: one output at a time, LANES partial sums over k, threads over columns. */
#include "op/linear/product.h"

#include "base/number.h"

enum { LANES = 16, COLUMNS_PER_TASK = 16 };

typedef struct slot_rows {
    const float *x;
    const uint8_t *q;
    const float *s;
    float *y;
} slot_rows;

static slot_rows find_slot(const proa_product *p, int64_t segment, int64_t r)
{
    int64_t i = p->offsets != NULL ? p->offsets[segment] + r : r;
    int64_t row = p->x_index != NULL ? p->x_index[i] : i;
    int64_t groups = (p->k + PROA_QUANT_GROUP - 1) / PROA_QUANT_GROUP;
    return (slot_rows){
        .x = p->x != NULL ? p->x + row * p->x_row_stride + segment * p->x_segment_stride : NULL,
        .q = p->q != NULL ? p->q + row * p->k : NULL,
        .s = p->q != NULL ? p->s + row * groups : NULL,
        .y = p->y + i * p->y_row_stride + segment * p->y_segment_stride,
    };
}

static float weight_at(const proa_product *p, const void *data, int64_t index)
{
    const char *at = (const char *)data + (size_t)index * proa_dtype_bytes(p->w_dtype);
    float f32;
    uint16_t bf16;
    switch (p->w_dtype) {
    case PROA_DTYPE_F32: memcpy(&f32, at, sizeof f32); return f32;
    case PROA_DTYPE_BF16: memcpy(&bf16, at, sizeof bf16); return proa_bf16_to_f32(bf16);
    default: return proa_e4m3_to_f32((uint8_t)*at);
    }
}

static float add_lanes(const float lanes[LANES])
{
    float sum = 0;
    for (int i = 0; i < LANES; i++)
        sum += lanes[i];
    return sum;
}

static float dot(const proa_product *p, const proa_weight *w, const void *data, const slot_rows *slot,
                 int64_t j)
{
    float lanes[LANES] = {0};
    int64_t groups = w->block_k > 0 ? (p->k + w->block_k - 1) / w->block_k : 0;
    for (int64_t i = 0; i < p->k; i++) {
        float weight = weight_at(p, data, j * p->k + i);
        if (p->w_dtype == PROA_DTYPE_E4M3) {
            float scale = w->scale[j / w->block_n * groups + i / w->block_k];
            if (p->q != NULL)
                weight *= proa_e4m3_to_f32(slot->q[i]) * (slot->s[i / PROA_QUANT_GROUP] * scale);
            else
                weight *= scale * slot->x[i];
        } else {
            weight *= slot->x[i];
        }
        lanes[i % LANES] += weight;
    }
    return add_lanes(lanes);
}

static void run_columns(void *context, int task, int thread)
{
    (void)thread;
    const proa_product *p = context;
    int64_t tiles = (p->n + COLUMNS_PER_TASK - 1) / COLUMNS_PER_TASK;
    int64_t segment = task / tiles, first = task % tiles * COLUMNS_PER_TASK, last = first + COLUMNS_PER_TASK;
    int64_t rows = p->offsets != NULL ? p->offsets[segment + 1] - p->offsets[segment] : p->rows_each;
    const proa_weight *w = p->w_segment_bytes != 0 ? p->weights : &p->weights[segment];
    const void *data = (const char *)w->data + (size_t)segment * p->w_segment_bytes;
    for (int64_t r = 0; r < rows; r++) {
        slot_rows slot = find_slot(p, segment, r);
        for (int64_t j = first; j < last && j < p->n; j++) {
            float y = dot(p, w, data, &slot, j);
            slot.y[j] = p->round_bf16 ? proa_round_bf16(y) : y;
        }
    }
}

void proa_product_run(const proa_host *host, const proa_product *product)
{
    int64_t tiles = (product->n + COLUMNS_PER_TASK - 1) / COLUMNS_PER_TASK;
    proa_pool_run(host->pool, run_columns, (void *)product, (int)(tiles * product->segments));
}

size_t proa_product_scratch_bytes(const proa_host *host, int64_t slots, int32_t segments, int32_t n,
                                  int32_t k)
{
    (void)host, (void)slots, (void)segments, (void)n, (void)k;
    return 0;
}
