/* lanes.h - plain C that compilers turn into vector code: for the ops whose loops are simple. For the .c files of src/op.
 *
 * A loop marked PROA_VECTORISED has independent turns. A function marked PROA_BODY holds such loops and is inlined into
 * one function for each instruction set (PROA_TARGET_AVX2 ... in cpu.h), which differ in their vectors alone: products
 * and sums are never fused (-ffp-contract=off), so all of them give the same bits. */
#ifndef PROA_OP_LANES_H
#define PROA_OP_LANES_H

#include "base/cpu.h"

#include <stdint.h>
#include <string.h>

#define PROA_VECTORISED _Pragma("omp simd")
#define PROA_BODY       static inline __attribute__((always_inline))

/* The nearest bf16 value (ties to even, NaN stays NaN), without a branch. */
PROA_BODY float proa_lane_round_bf16(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u;
    uint32_t nan = 0u - (uint32_t)((bits & 0x7fffffffu) > 0x7f800000u); /* all ones or nothing */
    rounded = (rounded & ~nan) | ((bits | 0x400000u) & nan);
    memcpy(&f, &rounded, sizeof f);
    return f;
}

PROA_BODY float proa_lane_load_bf16(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* The nearest bf16 (as above) in its own 16 bits. */
PROA_BODY uint16_t proa_lane_to_bf16(float f)
{
    uint32_t bits;
    f = proa_lane_round_bf16(f);
    memcpy(&bits, &f, sizeof bits);
    return (uint16_t)(bits >> 16);
}

/* e4m3 without a branch, to nearest even, saturating, NaN becomes 0x7f: as proa_f32_to_e4m3. */
PROA_BODY uint8_t proa_lane_to_e4m3(float f)
{
    uint32_t bits, tiny;
    memcpy(&bits, &f, sizeof bits);
    uint32_t sign = bits >> 24 & 0x80u, magnitude = bits & 0x7fffffffu;
    uint32_t nan = 0u - (uint32_t)(magnitude > 0x7f800000u);
    magnitude = magnitude < 0x43e00000u ? magnitude : 0x43e00000u; /* 448 */
    memcpy(&f, &magnitude, sizeof f);
    f = f * 0x1p9f + 0x1p23f; /* denormals are multiples of 2^-9; the sum rounds to them */
    memcpy(&tiny, &f, sizeof tiny);
    tiny -= 0x4b000000u;
    uint32_t normal = ((magnitude + 0x7ffffu + (magnitude >> 20 & 1u)) >> 20) - ((127u - 7u) << 3);
    uint32_t code = magnitude < 0x3c800000u ? tiny : normal; /* 2^-6 */
    return (uint8_t)(((sign | code) & ~nan) | (0x7fu & nan));
}

/* Denormals by way of whole numbers: a float that is denormal itself, even between two steps, costs a hundred cycles. */
PROA_BODY float proa_lane_load_e4m3(uint8_t code)
{
    uint32_t magnitude = code & 0x7fu, sign = (uint32_t)(code & 0x80u) << 24, bits, tiny_bits;
    uint32_t nan = 0u - (uint32_t)(magnitude == 0x7fu), tiny = 0u - (uint32_t)(magnitude < 8);
    float f = (float)(int32_t)magnitude * 0x1p-9f;
    memcpy(&tiny_bits, &f, sizeof tiny_bits);
    bits = (magnitude << 20) + ((127u - 7u) << 23);
    bits = (tiny_bits & tiny) | (bits & ~tiny) | sign | (0x7fc00000u & nan);
    memcpy(&f, &bits, sizeof f);
    return f;
}

#endif
