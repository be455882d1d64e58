/* tensor.h - what ops work on: weights, rows of activations, the blocked KV cache; and where they run.
 *
 * Shapes are row-major, rows first. On the host devices (`ref`, `cpu`) activations are float32 in memory; in
 * the default precision they hold bf16 values, because every op that produces activations rounds its output
 * (see proa_precision). Pointers belong to the device that the ops run on. Nothing here is owned.
 */
#ifndef PROA_OP_TENSOR_H
#define PROA_OP_TENSOR_H

#include "base/cpu.h"
#include "base/pool.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum proa_dtype {
    PROA_DTYPE_F32,
    PROA_DTYPE_BF16,
    PROA_DTYPE_E4M3, /* float8 e4m3fn, one byte */
    PROA_DTYPE_I32,
    PROA_DTYPE_I64,
    PROA_DTYPE_U8,
    PROA_DTYPE_F64,
    PROA_DTYPE_E8M0,  /* a power of two in one byte: scales in files, converted to F32 when loaded */
    PROA_DTYPE_OTHER, /* a type that files may hold and no op takes */
} proa_dtype;

static inline size_t proa_dtype_bytes(proa_dtype dtype)
{
    switch (dtype) {
    case PROA_DTYPE_F64:
    case PROA_DTYPE_I64: return 8;
    case PROA_DTYPE_F32:
    case PROA_DTYPE_I32: return 4;
    case PROA_DTYPE_BF16: return 2;
    case PROA_DTYPE_E4M3:
    case PROA_DTYPE_U8:
    case PROA_DTYPE_E8M0: return 1;
    case PROA_DTYPE_OTHER: break;
    }
    return 0;
}

enum {
    PROA_KV_BLOCK_TOKENS = 64, /* tokens of a KV block, and of an attention split (law 2) */
    PROA_QUANT_GROUP = 128,    /* consecutive channels that share an activation scale */
};

/* How activations are kept between ops.
 * EXACT:   float32, neither rounded nor quantised: what a float32 reference computes.
 * DEFAULT: each op rounds its output to bf16; FP8 weights meet FP8 activations (1x128 dynamic scales). */
typedef enum proa_precision { PROA_PRECISION_EXACT, PROA_PRECISION_DEFAULT } proa_precision;

/* A weight matrix [n, k] (out features, in features), row-major: y = x W^T. */
typedef struct proa_weight {
    proa_dtype dtype; /* F32, BF16 or E4M3 */
    int32_t n;
    int32_t k;
    const void *data;
    /* E4M3 only: multipliers [ceil(n / block_n), ceil(k / block_k)], w = e4m3 * scale[row / block_n][col / block_k];
     * edge blocks may be partial. block_k is 128 (PROA_QUANT_GROUP) wherever activations are quantised. */
    const float *scale;
    int32_t block_n;
    int32_t block_k;
} proa_weight;

/* Rows of activations [rows, cols]. Either x, or q and s, or both: an op that takes FP8 activations uses q and s,
 * one that takes floats uses x, and asserts that what it needs is there. */
typedef struct proa_rows {
    int32_t rows;
    int32_t cols;
    const float *x;   /* [rows, cols] */
    const uint8_t *q; /* e4m3 [rows, cols] */
    const float *s;   /* [rows, ceil(cols / 128)]: x is about q * s */
} proa_rows;

/* One layer's KV cache: blocks of 64 token rows; a row is [kv_lora (kv_lora_rank) | k_pe (qk_rope_head_dim)]:
 * kv_lora after kv_a_layernorm, k_pe after RoPE, interleaved pairs in the checkpoint's order. op/mla/kv_row.h has a row's bytes. */
typedef struct proa_kv_layer {
    void *base;       /* [blocks][64] rows, aligned to 16 bytes */
    proa_dtype dtype; /* F32 (exact precision), BF16 or E4M3 (default precision) */
    int32_t kv_lora_rank;
    int32_t rope_dim;
} proa_kv_layer;

/* Rows of one sequence within a step: positions are consecutive from position_first. */
typedef struct proa_segment {
    int32_t row_first;      /* first row of this segment in the step's buffers */
    int32_t row_count;      /* >= 1 */
    int32_t position_first; /* position of the first row; positions below it are in the cache already */
    const int32_t *blocks;  /* KV block numbers for positions 0 .. position_first + row_count - 1 */
    bool absorbed;          /* attention form: false for prompt tokens (expanded), true for generated ones.
                             * A property of the token, never of the batch (law 2). */
} proa_segment;

/* What a host op runs with. `scratch` is reserved before the first step; an op asserts that its
 * proa_<op>_scratch_bytes() fits, and two ops never run at once. */
typedef struct proa_host {
    proa_pool *pool;
    proa_isa isa; /* not above proa_cpu_isa(); lowered by tests to reach the other kernels */
    proa_precision precision;
    bool ue8m0; /* activation scales are powers of two (quantization_config.scale_fmt "ue8m0") */
    void *scratch;
    size_t scratch_bytes;
} proa_host;

#endif
