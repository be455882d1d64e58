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

#endif
