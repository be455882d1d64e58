/* kv_row.h - how a token's row of one layer's KV cache lies in memory, and the scales of FP8 latents. For C and CUDA alike.
 *
 *   F32, BF16   | kv_lora [kv_lora_rank] | k_pe [rope_dim] |
 *   E4M3        | kv_lora e4m3 [kv_lora_rank] | scales float32 [ceil(kv_lora_rank / 128)] | k_pe bf16 [rope_dim] | zeros |
 *
 * An E4M3 row ends at a multiple of 16 bytes: 656 of 512 + 4 * 4 + 64 * 2 in DeepSeek-R1, where a BF16 row has 1,152. It is FlashMLA's
 * "FP8 with scale" row, but that its scales are powers of two:
 *
 *   s = the least 2^e with max |x| / 2^e <= 448 over the 128 latents of a group, -117 <= e <= 119 (a group of zeros: 2^-117)
 *   q = e4m3(x / s), to nearest even; x is the latent as a BF16 cache would hold it; k_pe is not quantised
 *
 * A group that has an infinity or a NaN has the scale infinity and codes of 1: it stays no number, and whoever asked for it is told so.
 *
 * So else q * s is exactly a bf16 number, normal and finite (e4m3's least is 2^-9, its largest 448), and x / s is exact, or
 * so small that it becomes 0: whoever reads the cache sees bf16 numbers, the same ones on every device, and kernels for BF16 work behind a load
 * that multiplies.
 */
#ifndef PROA_OP_MLA_KV_ROW_H
#define PROA_OP_MLA_KV_ROW_H

#include "op/tensor.h"

#ifdef __CUDACC__
#define PROA_KV_ROW_INLINE static __host__ __device__ inline
#else
#define PROA_KV_ROW_INLINE static inline
#endif

enum {
    PROA_KV_SCALE_GROUP = 128, /* latents that share a scale */
    PROA_KV_ROW_ALIGNMENT = 16,
    PROA_KV_SCALE_LEAST = -117, /* of e in 2^e */
    PROA_KV_SCALE_MOST = 119,
    PROA_KV_SCALE_INFINITE = 0x7f800000, /* bits of a scale */
    PROA_KV_CODE_ONE = 0x38,
};

/* What a cache is asked to hold. */
typedef enum proa_kv_cache {
    PROA_KV_CACHE_AUTO, /* activations as they are: BF16, F32 in the exact precision */
    PROA_KV_CACHE_E4M3, /* default precision alone */
} proa_kv_cache;

PROA_KV_ROW_INLINE proa_dtype proa_kv_cache_dtype(proa_kv_cache cache, proa_precision precision)
{
    if (cache == PROA_KV_CACHE_E4M3)
        return PROA_DTYPE_E4M3;
    return precision == PROA_PRECISION_EXACT ? PROA_DTYPE_F32 : PROA_DTYPE_BF16;
}

/* As --kv-cache-dtype and --activation-dtype have it. */
static inline const char *proa_kv_cache_name(proa_dtype dtype)
{
    return dtype == PROA_DTYPE_E4M3 ? "fp8_e4m3" : dtype == PROA_DTYPE_BF16 ? "bf16" : "float32";
}

/* Bytes from a row's beginning; kv_lora begins at 0. */
typedef struct proa_kv_row {
    int32_t bytes;  /* of the row */
    int32_t scales; /* where the scales begin; E4M3 alone */
    int32_t groups; /* how many; 0 but for E4M3 */
    int32_t k_pe;   /* where k_pe begins */
} proa_kv_row;

/* Can rows of these dimensions be of this type? E4M3 wants whole 16 bytes of latents and of k_pe. */
PROA_KV_ROW_INLINE bool proa_kv_row_fits(proa_dtype dtype, int32_t kv_lora_rank, int32_t rope_dim)
{
    if (dtype == PROA_DTYPE_E4M3)
        return kv_lora_rank % 16 == 0 && rope_dim % 8 == 0;
    return dtype == PROA_DTYPE_F32 || dtype == PROA_DTYPE_BF16;
}

/* dtype: F32, BF16 or E4M3. */
PROA_KV_ROW_INLINE proa_kv_row proa_kv_row_of(proa_dtype dtype, int32_t kv_lora_rank, int32_t rope_dim)
{
    proa_kv_row row = {0, 0, 0, 0};
    if (dtype != PROA_DTYPE_E4M3) {
        int32_t value = dtype == PROA_DTYPE_F32 ? 4 : 2;
        row.k_pe = kv_lora_rank * value;
        row.bytes = row.k_pe + rope_dim * value;
        return row;
    }
    row.scales = kv_lora_rank;
    row.groups = (kv_lora_rank + PROA_KV_SCALE_GROUP - 1) / PROA_KV_SCALE_GROUP;
    row.k_pe = row.scales + row.groups * 4;
    row.bytes =
        (row.k_pe + rope_dim * 2 + PROA_KV_ROW_ALIGNMENT - 1) / PROA_KV_ROW_ALIGNMENT * PROA_KV_ROW_ALIGNMENT;
    return row;
}

/* Of a layer's rows, and where the row of a sequence's `position` begins. */
static inline proa_kv_row proa_kv_layer_row(const proa_kv_layer *kv)
{
    return proa_kv_row_of(kv->dtype, kv->kv_lora_rank, kv->rope_dim);
}

static inline unsigned char *proa_kv_layer_at(const proa_kv_layer *kv, const int32_t *blocks,
                                              int64_t position)
{
    int64_t block = blocks[position / PROA_KV_BLOCK_TOKENS];
    return (unsigned char *)kv->base +
           (block * PROA_KV_BLOCK_TOKENS + position % PROA_KV_BLOCK_TOKENS) * proa_kv_layer_row(kv).bytes;
}

/* A group's scale, as the bits of a float, from the bits of its largest magnitude; from those of an infinity or a NaN: infinity. */
PROA_KV_ROW_INLINE uint32_t proa_kv_scale_bits(uint32_t amax_bits)
{
    if (amax_bits >= (uint32_t)PROA_KV_SCALE_INFINITE)
        return PROA_KV_SCALE_INFINITE;
    /* 448 is 1.75 * 2^8: a mantissa up to 1.75 asks for 8 less than the exponent, a larger one for 7 less */
    int32_t exponent = (int32_t)(amax_bits >> 23) - 8 + ((amax_bits & 0x7fffffu) > 0x600000u);
    if (exponent < PROA_KV_SCALE_LEAST + 127)
        exponent = PROA_KV_SCALE_LEAST + 127;
    if (exponent > PROA_KV_SCALE_MOST + 127)
        exponent = PROA_KV_SCALE_MOST + 127;
    return (uint32_t)exponent << 23;
}

/* 1 / s, as the bits of a float, of such a scale that is finite. */
PROA_KV_ROW_INLINE uint32_t proa_kv_inverse_bits(uint32_t scale_bits)
{
    return (254u << 23) - scale_bits;
}

#endif
