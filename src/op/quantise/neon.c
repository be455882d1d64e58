/* neon.c - quantise with NEON: a group of 128 is 32 vectors. */
#include "op/quantise/row.h"

#include <arm_neon.h>

#define TARGET
#define INLINE static inline __attribute__((always_inline))

enum { TOGETHER = 16 };

/* Rounds to e4m3 codes, ties to even; beyond 448 saturates, NaN becomes 0x7f: as proa_f32_to_e4m3. */
INLINE uint16x4_t round_e4m3(float32x4_t v)
{
    uint32x4_t bits = vreinterpretq_u32_f32(v);
    uint32x4_t magnitude = vandq_u32(bits, vdupq_n_u32(0x7fffffff));
    uint32x4_t sign = vandq_u32(vshrq_n_u32(bits, 24), vdupq_n_u32(0x80));
    uint32x4_t odd = vandq_u32(vshrq_n_u32(magnitude, 20), vdupq_n_u32(1));
    uint32x4_t rounded = vaddq_u32(vaddq_u32(magnitude, vdupq_n_u32(0x7ffff)), odd);
    /* below 2^-6 it wraps around, and `small` is taken */
    uint32x4_t code =
        vminq_u32(vsubq_u32(vshrq_n_u32(rounded, 20), vdupq_n_u32(120 << 3)), vdupq_n_u32(0x7e));
    float32x4_t size = vreinterpretq_f32_u32(magnitude);
    uint32x4_t small = vcvtnq_u32_f32(vmulq_n_f32(size, 0x1p9f));
    uint32x4_t denormal = vcltq_f32(size, vdupq_n_f32(0x1p-6f));
    code = vorrq_u32(vbslq_u32(denormal, small, code), sign);
    return vmovn_u32(vbslq_u32(vceqq_f32(v, v), code, vdupq_n_u32(0x7f)));
}

/* The scale of a whole group; a NaN does not count. */
INLINE float group_scale(const float x[PROA_QUANT_GROUP], bool ue8m0)
{
    float32x4_t amax[4];
    for (int j = 0; j < 4; j++)
        amax[j] = vdupq_n_f32(1e-4f);
    for (int i = 0; i < PROA_QUANT_GROUP; i += TOGETHER)
        for (int j = 0; j < 4; j++)
            amax[j] = vmaxnmq_f32(amax[j], vabsq_f32(vld1q_f32(x + i + 4 * j)));
    float32x4_t most = vmaxnmq_f32(vmaxnmq_f32(amax[0], amax[1]), vmaxnmq_f32(amax[2], amax[3]));
    return proa_quantise_scale(vmaxnmvq_f32(most), ue8m0);
}

INLINE float quantise_group(const float x[PROA_QUANT_GROUP], bool ue8m0, uint8_t q[PROA_QUANT_GROUP])
{
    float scale = group_scale(x, ue8m0);
    float32x4_t s = vdupq_n_f32(scale);
    for (int i = 0; i < PROA_QUANT_GROUP; i += TOGETHER) {
        uint16x4_t code[4];
        for (int j = 0; j < 4; j++)
            code[j] = round_e4m3(vdivq_f32(vld1q_f32(x + i + 4 * j), s));
        uint8x8_t low = vmovn_u16(vcombine_u16(code[0], code[1]));
        vst1q_u8(q + i, vcombine_u8(low, vmovn_u16(vcombine_u16(code[2], code[3]))));
    }
    return scale;
}

#include "op/quantise/row.inc"

proa_quantise_row proa_quantise_row_portable(void)
{
    return quantise_row;
}
