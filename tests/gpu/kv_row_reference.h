/* kv_row_reference.h - one row of an FP8 KV cache, as the reference appends it (op/mla/ref.c). */
#ifndef PROA_TESTS_GPU_KV_ROW_REFERENCE_H
#define PROA_TESTS_GPU_KV_ROW_REFERENCE_H

#include "op/mla/mla.h"

/* x [lora + rope]: latents, then the rotated k_pe. `to`, aligned to 16 bytes, has the row's bytes (kv_row.h). */
static inline void kv_row_reference(int32_t lora, int32_t rope, const float *x, void *to)
{
    const int32_t block = 0;
    const proa_host host = {.precision = PROA_PRECISION_DEFAULT};
    const proa_kv_layer kv = {.base = to, .dtype = PROA_DTYPE_E4M3, .kv_lora_rank = lora, .rope_dim = rope};
    const proa_segment segment = {.row_count = 1, .blocks = &block};
    proa_kv_append_ref(&host, &(proa_kv_append_args){.segments = &segment,
                                                     .segment_count = 1,
                                                     .kv_lora = x,
                                                     .kv_lora_stride = lora,
                                                     .k_pe = x + lora,
                                                     .k_pe_stride = rope,
                                                     .kv = &kv});
}

#endif
