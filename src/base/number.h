/* number.h - the small floating-point formats, exactly.
 *
 * bf16: 1 sign, 8 exponent, 7 mantissa bits; rounding to nearest even, NaN kept quiet.
 * e4m3 (the "fn" variant of the OCP 8-bit specification): bias 7, largest 448, no infinities, NaN 0x7f;
 * smallest normal 2^-6, smallest denormal 2^-9.
 */
#ifndef PROA_BASE_NUMBER_H
#define PROA_BASE_NUMBER_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* ---- a float's bits ---- */

static inline uint32_t proa_f32_to_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static inline float proa_bits_to_f32(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* ---- formats ---- */

static inline float proa_bf16_to_f32(uint16_t h)
{
    return proa_bits_to_f32((uint32_t)h << 16);
}

static inline uint16_t proa_f32_to_bf16(float f)
{
    uint32_t bits = proa_f32_to_bits(f);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

/* The nearest bf16 value, as a float. */
static inline float proa_round_bf16(float f)
{
    return proa_bf16_to_f32(proa_f32_to_bf16(f));
}

static inline float proa_e4m3_to_f32(uint8_t q)
{
    uint32_t exponent = q >> 3 & 15, mantissa = q & 7;
    float magnitude;
    if (exponent == 15 && mantissa == 7) {
        magnitude = NAN;
    } else if (exponent == 0) {
        magnitude = (float)mantissa * 0x1p-9f;
    } else {
        magnitude = proa_bits_to_f32((exponent + (127 - 7)) << 23 | mantissa << 20);
    }
    return q & 0x80 ? -magnitude : magnitude;
}

/* To nearest, ties to even; values beyond 448 saturate to 448, NaN becomes 0x7f. */
static inline uint8_t proa_f32_to_e4m3(float f)
{
    if (isnan(f))
        return 0x7f;
    uint8_t sign = signbit(f) ? 0x80 : 0;
    float magnitude = fabsf(f);
    if (magnitude >= 448.0f)
        return sign | 0x7e;
    if (magnitude < 0x1p-6f) /* denormals: multiples of 2^-9; 8 of them is the first normal */
        return (uint8_t)(sign | (uint8_t)rintf(magnitude * 0x1p9f));
    uint32_t bits = proa_f32_to_bits(magnitude);
    bits += 0x7ffffu + (bits >> 20 & 1u); /* keep 3 of 23 mantissa bits */
    uint32_t code = (bits >> 20) - ((127u - 7u) << 3);
    return (uint8_t)(sign | (code > 0x7e ? 0x7e : code));
}

#endif
