/* avx512_bf16.c - the forms of processors with AVX512_BF16 and VBMI: both operands as bf16, vdpbf16ps.
 *
 * vdpbf16ps adds two exact products to each of 16 sums and treats denormal inputs and results as zero: what a
 * bf16 below 2^-126 contributes is lost here. Every e4m3 is a normal bf16, so the recipe loses nothing.
 * e4m3 becomes bf16 through two tables of 128 bytes, one for each half, which are then woven together within
 * each 128 bits: the elements of a chunk come out in another order, the same for x and w.
 */
#include "op/linear/form.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET PROA_TARGET_AVX512_BF16
#define INLINE TARGET static inline __attribute__((always_inline))

/* --- e4m3 to bf16: high and low byte by the seven bits below the sign --- */

#define ROW_OF_16(b) b, b, b, b, b, b, b, b, b, b, b, b, b, b, b, b
#define MANTISSAS_8  0x80, 0x90, 0xa0, 0xb0, 0xc0, 0xd0, 0xe0, 0xf0
#define MANTISSAS    0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, MANTISSAS_8

/* Codes 0 to 7 are multiples of 2^-9, the others normal: exponent field + 120, mantissa moved up; 0x7f is NaN. */
static const uint8_t high_of_e4m3[128] __attribute__((aligned(64))) = {
    0,
    59,
    59,
    59,
    60,
    60,
    60,
    60,
    60,
    60,
    60,
    60,
    60,
    60,
    60,
    60,
    ROW_OF_16(61),
    ROW_OF_16(62),
    ROW_OF_16(63),
    ROW_OF_16(64),
    ROW_OF_16(65),
    ROW_OF_16(66),
    67,
    67,
    67,
    67,
    67,
    67,
    67,
    67,
    67,
    67,
    67,
    67,
    67,
    67,
    67,
    0x7f,
};
static const uint8_t low_of_e4m3[128] __attribute__((aligned(64))) = {
    0x00,      0x00,      0x80,      0xc0,      0x00, 0x20, 0x40, 0x60, MANTISSAS_8, MANTISSAS, MANTISSAS,
    MANTISSAS, MANTISSAS, MANTISSAS, MANTISSAS, 0x00, 0x10, 0x20, 0x30, 0x40,        0x50,      0x60,
    0x70,      0x80,      0x90,      0xa0,      0xb0, 0xc0, 0xd0, 0xe0, 0xc0,
};

typedef struct bf16_pair {
    __m512bh even, odd; /* alternating runs of 8 elements */
} bf16_pair;

INLINE bf16_pair widen_e4m3(__m512i q)
{
    __m512i high =
        _mm512_permutex2var_epi8(_mm512_load_si512(high_of_e4m3), q, _mm512_load_si512(high_of_e4m3 + 64));
    __m512i low =
        _mm512_permutex2var_epi8(_mm512_load_si512(low_of_e4m3), q, _mm512_load_si512(low_of_e4m3 + 64));
    high = _mm512_ternarylogic_epi32(high, q, _mm512_set1_epi8((char)0x80), 0xf8); /* high | (q & sign) */
    return (bf16_pair){(__m512bh)_mm512_unpacklo_epi8(low, high), (__m512bh)_mm512_unpackhi_epi8(low, high)};
}

INLINE bf16_pair load_e4m3(const void *at)
{
    return widen_e4m3(_mm512_loadu_si512(at));
}

/* --- packing --- */

TARGET static void pack_e4m3(void *to, const void *from, int32_t count)
{
    const char *q = from;
    char *out = to;
    for (int32_t i = 0; i < count; i += PROA_FORM_CHUNK, out += 2 * PROA_FORM_CHUNK) {
        int32_t left = count - i;
        __mmask64 mask = left >= PROA_FORM_CHUNK ? ~(__mmask64)0 : ((__mmask64)1 << left) - 1;
        bf16_pair pair = widen_e4m3(_mm512_maskz_loadu_epi8(mask, q + i));
        _mm512_storeu_si512(out, (__m512i)pair.even);
        _mm512_storeu_si512(out + 64, (__m512i)pair.odd);
    }
}

INLINE __mmask32 mask_of(int32_t left)
{
    return left >= 32 ? ~(__mmask32)0 : left <= 0 ? 0 : ((__mmask32)1 << left) - 1;
}

TARGET static void pack_bf16(void *to, const void *from, int32_t count)
{
    const char *in = from;
    char *out = to;
    int32_t padded = (count + PROA_FORM_CHUNK - 1) / PROA_FORM_CHUNK * PROA_FORM_CHUNK;
    for (int32_t i = 0; i < padded; i += 32)
        _mm512_storeu_si512(out + 2 * i, _mm512_maskz_loadu_epi16(mask_of(count - i), in + 2 * i));
}

TARGET static void pack_f32(void *to, const void *from, int32_t count)
{
    const float *in = from;
    char *out = to;
    int32_t padded = (count + PROA_FORM_CHUNK - 1) / PROA_FORM_CHUNK * PROA_FORM_CHUNK;
    for (int32_t i = 0; i < padded; i += 32) {
        __mmask32 mask = mask_of(count - i);
        __m512 a = _mm512_maskz_loadu_ps((__mmask16)mask, in + i);
        __m512 b = _mm512_maskz_loadu_ps((__mmask16)(mask >> 16), in + i + 16);
        _mm512_storeu_si512(out + 2 * i, (__m512i)_mm512_cvtne2ps_pbh(b, a));
    }
}

/* --- tiles --- */

INLINE __m512 tile_zero(void)
{
    return _mm512_setzero_ps();
}

INLINE __m512 tile_load(const float *at)
{
    return _mm512_loadu_ps(at);
}

INLINE void tile_store(float *at, __m512 v)
{
    _mm512_storeu_ps(at, v);
}

INLINE __m512 tile_scale_add(__m512 sum, __m512 part, float scale)
{
    return _mm512_fmadd_ps(part, _mm512_set1_ps(scale), sum);
}

INLINE __m128 fold(__m512 v)
{
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

INLINE proa_float4 tile_add_lanes(__m512 a, __m512 b, __m512 c, __m512 d)
{
    return (proa_float4)_mm_hadd_ps(_mm_hadd_ps(fold(a), fold(b)), _mm_hadd_ps(fold(c), fold(d)));
}

INLINE __m512bh load_bf16(const void *at)
{
    return (__m512bh)_mm512_loadu_si512(at);
}

INLINE bf16_pair load_pair(const char *at)
{
    return (bf16_pair){load_bf16(at), load_bf16(at + 64)};
}

INLINE __m512 multiply_add_pair(__m512 sum, bf16_pair x, bf16_pair w)
{
    return _mm512_dpbf16_ps(_mm512_dpbf16_ps(sum, x.even, w.even), x.odd, w.odd);
}

#define TILE_TARGET TARGET
#define TILE_SUM    __m512
#define TILE_LANES  16

#define TILE              bf16
#define TILE_ROWS         4
#define TILE_COLUMNS      4
#define TILE_STEP         32
#define TILE_X_BYTES      64
#define TILE_W_BYTES      64
#define TILE_X            __m512bh
#define TILE_W            __m512bh
#define TILE_LOAD_X       load_bf16
#define TILE_LOAD_W       load_bf16
#define TILE_MULTIPLY_ADD _mm512_dpbf16_ps
#define TILE_GROUPED      0
#define TILE_STORED       0
#include "op/linear/tile.inc"

#define TILE              bf16_stored
#define TILE_ROWS         4
#define TILE_COLUMNS      4
#define TILE_STEP         32
#define TILE_X_BYTES      64
#define TILE_W_BYTES      64
#define TILE_X            __m512bh
#define TILE_W            __m512bh
#define TILE_LOAD_X       load_bf16
#define TILE_LOAD_W       load_bf16
#define TILE_MULTIPLY_ADD _mm512_dpbf16_ps
#define TILE_GROUPED      0
#define TILE_STORED       1
#include "op/linear/tile.inc"

#define TILE              recipe
#define TILE_ROWS         4
#define TILE_COLUMNS      3
#define TILE_STEP         32
#define TILE_X_BYTES      64
#define TILE_W_BYTES      64
#define TILE_X            __m512bh
#define TILE_W            __m512bh
#define TILE_LOAD_X       load_bf16
#define TILE_LOAD_W       load_bf16
#define TILE_MULTIPLY_ADD _mm512_dpbf16_ps
#define TILE_GROUPED      1
#define TILE_STORED       0
#include "op/linear/tile.inc"

#define TILE              recipe_stored
#define TILE_ROWS         4
#define TILE_COLUMNS      3
#define TILE_STEP         64
#define TILE_X_BYTES      128
#define TILE_W_BYTES      64
#define TILE_X            bf16_pair
#define TILE_W            bf16_pair
#define TILE_LOAD_X       load_pair
#define TILE_LOAD_W       load_e4m3
#define TILE_MULTIPLY_ADD multiply_add_pair
#define TILE_GROUPED      1
#define TILE_STORED       1
#include "op/linear/tile.inc"

static const proa_form bf16_form = {
    .name = "bf16",
    .element_bytes = 2,
    .lanes = TILE_LANES,
    .tile_columns = 4,
    .pack_x = pack_f32,
    .pack_w = pack_bf16,
    .multiply = bf16_multiply,
    .multiply_stored = bf16_stored_multiply,
    .stored_rows_max = 16,
};

static const proa_form recipe_form = {
    .name = "recipe",
    .element_bytes = 2,
    .lanes = TILE_LANES,
    .tile_columns = 3,
    .grouped = true,
    .pack_x = pack_e4m3,
    .pack_w = pack_e4m3,
    .multiply = recipe_multiply,
    .multiply_stored = recipe_stored_multiply,
    .stored_rows_max = 4,
};

const proa_form *proa_form_avx512_bf16(proa_dtype w_dtype, bool recipe, bool bf16_x)
{
    if (recipe)
        return &recipe_form;
    return w_dtype == PROA_DTYPE_BF16 && bf16_x ? &bf16_form : NULL;
}

#else
const proa_form *proa_form_avx512_bf16(proa_dtype w_dtype, bool recipe, bool bf16_x)
{
    (void)w_dtype, (void)recipe, (void)bf16_x;
    return NULL;
}
#endif
