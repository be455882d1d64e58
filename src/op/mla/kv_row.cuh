/* kv_row.cuh - FP8 latents of the cache (kv_row.h) as the bf16 numbers that they stand for, in few instructions.
 *
 * A code s eeee mmm is moved to the bits s 0000eeee mmm0000 of a bf16: that is its value by 2^-120, of codes below e4m3's normal numbers
 * too, since a bf16 product takes subnormal operands as they are. Two exact products follow: by 2^120, and by the group's scale. (One by
 * both would have to reach 2^239.) The code of a NaN would be read as 480; nobody writes it.
 */
#ifndef PROA_OP_MLA_KV_ROW_CUH
#define PROA_OP_MLA_KV_ROW_CUH

#include "op/mla/kv_row.h"

#include <cuda_bf16.h>
#include <stdint.h>

namespace proa
{

__device__ __forceinline__ uint32_t kv_times(uint32_t x, uint32_t y)
{
    const __nv_bfloat162 product = __hmul2_rn(*(const __nv_bfloat162 *)&x, *(const __nv_bfloat162 *)&y);
    return *(const uint32_t *)&product;
}

/* A scale, 2^(exponent - 127), in both halves; from the eight bits of a float's exponent. */
__device__ __forceinline__ uint32_t kv_scale_pair(uint32_t exponent)
{
    return exponent * 0x00800080u;
}

/* Four codes to two pairs. */
__device__ __forceinline__ uint2 kv_widen(uint32_t codes, uint32_t scale_pair)
{
    constexpr uint32_t power = 0x7b807b80u; /* 2^120 */
    const uint32_t upper = (codes & 0x80808080u) | (codes >> 4 & 0x07070707u),
                   lower = codes << 4 & 0xf0f0f0f0u;
    const uint32_t first = __byte_perm(lower, upper, 0x5140), second = __byte_perm(lower, upper, 0x7362);
    return make_uint2(kv_times(kv_times(first, power), scale_pair),
                      kv_times(kv_times(second, power), scale_pair));
}

/* Eight codes to 16 bytes. */
__device__ __forceinline__ uint4 kv_widen(uint2 codes, uint32_t scale_pair)
{
    const uint2 first = kv_widen(codes.x, scale_pair), second = kv_widen(codes.y, scale_pair);
    return make_uint4(first.x, first.y, second.x, second.y);
}

} // namespace proa

#endif
