/* kv_block.c - see kv_block.h. Nothing is rounded, so all instruction sets write the same bits. */
#include "op/mla/kv_block.h"

#include "base/number.h"

#include "op/lanes.h"

PROA_BODY void to_bf16(const proa_kv_layer *kv, const unsigned char *rows, int32_t count, uint16_t *to)
{
    const proa_kv_row row = proa_kv_layer_row(kv);
    for (int32_t j = 0; j < count; j++, rows += row.bytes, to += kv->kv_lora_rank + kv->rope_dim) {
        const float *scales = (const float *)(const void *)(rows + row.scales);
        for (int32_t g = 0; g < row.groups; g++) {
            int32_t first = g * PROA_KV_SCALE_GROUP, left = kv->kv_lora_rank - first;
            int32_t end = first + (left < PROA_KV_SCALE_GROUP ? left : PROA_KV_SCALE_GROUP);
            float scale = scales[g];
            PROA_VECTORISED
            for (int32_t i = first; i < end; i++) {
                uint32_t bits = proa_f32_to_bits(proa_lane_load_e4m3(rows[i]) * scale);
                to[i] = (uint16_t)(bits >> 16); /* the others are zeros */
            }
        }
        memcpy(to + kv->kv_lora_rank, rows + row.k_pe, (size_t)kv->rope_dim * sizeof *to);
    }
}

static void to_bf16_portable(const proa_kv_layer *kv, const unsigned char *rows, int32_t count, uint16_t *to)
{
    to_bf16(kv, rows, count, to);
}

PROA_TARGET_AVX2 static void to_bf16_avx2(const proa_kv_layer *kv, const unsigned char *rows, int32_t count,
                                          uint16_t *to)
{
    to_bf16(kv, rows, count, to);
}

PROA_TARGET_AVX512 static void to_bf16_avx512(const proa_kv_layer *kv, const unsigned char *rows,
                                              int32_t count, uint16_t *to)
{
    to_bf16(kv, rows, count, to);
}

void proa_kv_block_to_bf16(proa_isa isa, const proa_kv_layer *kv, const unsigned char *rows, int32_t count,
                           uint16_t *to)
{
    static void (*const kernels[])(const proa_kv_layer *, const unsigned char *, int32_t, uint16_t *) = {
        to_bf16_portable, to_bf16_avx2, to_bf16_avx512, to_bf16_avx512}; /* by proa_isa */
    kernels[isa](kv, rows, count, to);
}
