/* bf16.c - loops without branches, compiled for the processors that have wider vectors too. */
#include "base/bf16.h"

#include "base/cpu.h"

#include <string.h>

static inline __attribute__((always_inline)) void narrow(uint16_t *to, const float *from, size_t count)
{
    _Pragma("omp simd") for (size_t i = 0; i < count; i++)
    {
        uint32_t bits;
        memcpy(&bits, &from[i], sizeof bits);
        uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
        uint32_t nan = 0u - (uint32_t)((bits & 0x7fffffffu) > 0x7f800000u); /* all ones or nothing */
        to[i] = (uint16_t)((rounded & ~nan) | ((bits >> 16 | 0x40u) & nan));
    }
}

static inline __attribute__((always_inline)) void widen(float *to, const uint16_t *from, size_t count)
{
    _Pragma("omp simd") for (size_t i = 0; i < count; i++)
    {
        uint32_t bits = (uint32_t)from[i] << 16;
        memcpy(&to[i], &bits, sizeof bits);
    }
}

PROA_TARGET_AVX2 static void narrow_avx2(uint16_t *to, const float *from, size_t count)
{
    narrow(to, from, count);
}

PROA_TARGET_AVX2 static void widen_avx2(float *to, const uint16_t *from, size_t count)
{
    widen(to, from, count);
}

void proa_bf16_from_floats(uint16_t *to, const float *from, size_t count)
{
    if (proa_cpu_isa() >= PROA_ISA_AVX2) {
        narrow_avx2(to, from, count);
        return;
    }
    narrow(to, from, count);
}

void proa_bf16_to_floats(float *to, const uint16_t *from, size_t count)
{
    if (proa_cpu_isa() >= PROA_ISA_AVX2) {
        widen_avx2(to, from, count);
        return;
    }
    widen(to, from, count);
}
