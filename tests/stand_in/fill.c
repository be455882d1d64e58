/* fill.c - op/cuda/fill.h: the same values as a GPU's. */
#include "stand_in.h"

#include "base/number.h"
#include "op/cuda/fill.h"

typedef struct fill {
    void *to;
    uint64_t count, key;
    float middle, spread;
    int32_t element_bytes; /* 4 float32, 2 bf16, 1 e4m3 */
} fill;

static float uniform(uint64_t key, uint64_t i)
{
    uint64_t z = key * 0xd1342543de82ef95ull + (i + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    return (float)((double)(int64_t)z * 0x1p-63);
}

static void run_fill(proa_gpu *gpu, const void *args)
{
    const fill *f = args;
    stand_in_check(gpu, f->to, (int64_t)f->count * f->element_bytes, f->element_bytes, "a fill");
    for (uint64_t i = 0; i < f->count; i++) {
        const float value = fmaf(f->spread, uniform(f->key, i), f->middle); /* as nvcc makes it */
        if (f->element_bytes == 4)
            ((float *)f->to)[i] = value;
        else if (f->element_bytes == 2)
            ((uint16_t *)f->to)[i] = proa_f32_to_bf16(value);
        else
            ((uint8_t *)f->to)[i] = proa_f32_to_e4m3(value);
    }
}

proa_status proa_cuda_fill_bf16(proa_gpu *gpu, void *to, uint64_t count, uint64_t key, float middle,
                                float spread, proa_error *err)
{
    const fill f = {to, count, key, middle, spread, 2};
    return stand_in_queue(gpu, run_fill, &f, sizeof f, err);
}

proa_status proa_cuda_fill_float(proa_gpu *gpu, float *to, uint64_t count, uint64_t key, float middle,
                                 float spread, proa_error *err)
{
    const fill f = {to, count, key, middle, spread, 4};
    return stand_in_queue(gpu, run_fill, &f, sizeof f, err);
}

proa_status proa_cuda_fill_e4m3(proa_gpu *gpu, void *to, uint64_t count, uint64_t key, proa_error *err)
{
    const fill f = {to, count, key, 0, 448, 1};
    return stand_in_queue(gpu, run_fill, &f, sizeof f, err);
}
