/* avx512.c - the forms of processors with AVX-512 F, BW, DQ, VL: float32, fused multiply-adds of 16.
 *
 * e4m3 widens over float16, whose exponent has a bit more: moved up by 7 it is the value times 2^-8, denormals
 * included; NaN is put in by mask.
 */
#include "op/linear/form.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>

#define TARGET PROA_TARGET_AVX512
#define INLINE TARGET static inline __attribute__((always_inline))

/* --- widening 16 weights --- */

INLINE __m512 widen_bf16(__m256i h)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

INLINE __m512 widen_e4m3(__m128i q)
{
    const __m256i sign = _mm256_set1_epi16((short)0x8000), all = _mm256_set1_epi16((short)0xbf80);
    __m256i wide = _mm256_srai_epi16(_mm256_slli_epi16(_mm256_cvtepu8_epi16(q), 8), 1);
    __m256i half = _mm256_and_si256(wide, all); /* without the copy of the sign that the shift made */
    __mmask16 nan = _mm256_cmpeq_epi16_mask(_mm256_or_si256(half, sign), all);
    __m512 value = _mm512_mul_ps(_mm512_cvtph_ps(half), _mm512_set1_ps(0x1p8f));
    return _mm512_mask_mov_ps(value, nan, _mm512_set1_ps(NAN));
}

/* --- packing --- */

INLINE __mmask16 mask_of(int32_t left)
{
    return (__mmask16)(left >= 16 ? 0xffff : left <= 0 ? 0 : (1 << left) - 1);
}

INLINE int32_t whole_chunks(int32_t count)
{
    return (count + PROA_FORM_CHUNK - 1) / PROA_FORM_CHUNK * PROA_FORM_CHUNK;
}

TARGET static void pack_f32(void *to, const void *from, int32_t count)
{
    const char *in = from;
    for (int32_t i = 0; i < whole_chunks(count); i += 16)
        _mm512_storeu_ps((float *)to + i, _mm512_maskz_loadu_ps(mask_of(count - i), in + 4 * i));
}

TARGET static void pack_bf16(void *to, const void *from, int32_t count)
{
    const char *in = from;
    for (int32_t i = 0; i < whole_chunks(count); i += 16)
        _mm512_storeu_ps((float *)to + i,
                         widen_bf16(_mm256_maskz_loadu_epi16(mask_of(count - i), in + 2 * i)));
}

TARGET static void pack_e4m3(void *to, const void *from, int32_t count)
{
    const char *in = from;
    for (int32_t i = 0; i < whole_chunks(count); i += 16)
        _mm512_storeu_ps((float *)to + i, widen_e4m3(_mm_maskz_loadu_epi8(mask_of(count - i), in + i)));
}

/* --- tiles --- */

INLINE __m512 tile_zero(void)
{
    return _mm512_setzero_ps();
}

INLINE __m512 tile_load(const void *at)
{
    return _mm512_loadu_ps(at);
}

INLINE void tile_store(float *at, __m512 v)
{
    _mm512_storeu_ps(at, v);
}

INLINE __m512 multiply_add(__m512 sum, __m512 x, __m512 w)
{
    return _mm512_fmadd_ps(x, w, sum);
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

INLINE __m512 load_bf16(const char *at)
{
    return widen_bf16(_mm256_loadu_si256((const __m256i *)(const void *)at));
}

INLINE __m512 load_e4m3(const char *at)
{
    return widen_e4m3(_mm_loadu_si128((const __m128i *)(const void *)at));
}

#define TILE_TARGET TARGET
#define TILE_SUM    __m512
#define TILE_LANES  16

#define TILE              plain
#define TILE_ROWS         4
#define TILE_COLUMNS      4
#define TILE_STEP         16
#define TILE_X_BYTES      64
#define TILE_W_BYTES      64
#define TILE_X            __m512
#define TILE_W            __m512
#define TILE_LOAD_X       tile_load
#define TILE_LOAD_W       tile_load
#define TILE_MULTIPLY_ADD multiply_add
#define TILE_GROUPED      0
#define TILE_STORED       0
#include "op/linear/tile.inc"

#define TILE              f32_stored
#define TILE_ROWS         4
#define TILE_COLUMNS      4
#define TILE_STEP         16
#define TILE_X_BYTES      64
#define TILE_W_BYTES      64
#define TILE_X            __m512
#define TILE_W            __m512
#define TILE_LOAD_X       tile_load
#define TILE_LOAD_W       tile_load
#define TILE_MULTIPLY_ADD multiply_add
#define TILE_GROUPED      0
#define TILE_STORED       1
#include "op/linear/tile.inc"

#define TILE              bf16_stored
#define TILE_ROWS         4
#define TILE_COLUMNS      4
#define TILE_STEP         16
#define TILE_X_BYTES      64
#define TILE_W_BYTES      32
#define TILE_X            __m512
#define TILE_W            __m512
#define TILE_LOAD_X       tile_load
#define TILE_LOAD_W       load_bf16
#define TILE_MULTIPLY_ADD multiply_add
#define TILE_GROUPED      0
#define TILE_STORED       1
#include "op/linear/tile.inc"

#define TILE              recipe
#define TILE_ROWS         4
#define TILE_COLUMNS      3
#define TILE_STEP         16
#define TILE_X_BYTES      64
#define TILE_W_BYTES      64
#define TILE_X            __m512
#define TILE_W            __m512
#define TILE_LOAD_X       tile_load
#define TILE_LOAD_W       tile_load
#define TILE_MULTIPLY_ADD multiply_add
#define TILE_GROUPED      1
#define TILE_STORED       0
#include "op/linear/tile.inc"

#define TILE              recipe_stored
#define TILE_ROWS         2
#define TILE_COLUMNS      3
#define TILE_STEP         16
#define TILE_X_BYTES      64
#define TILE_W_BYTES      16
#define TILE_X            __m512
#define TILE_W            __m512
#define TILE_LOAD_X       tile_load
#define TILE_LOAD_W       load_e4m3
#define TILE_MULTIPLY_ADD multiply_add
#define TILE_GROUPED      1
#define TILE_STORED       1
#include "op/linear/tile.inc"

static const proa_form f32_form = {
    .name = "f32",
    .element_bytes = 4,
    .lanes = TILE_LANES,
    .tile_columns = 4,
    .pack_x = pack_f32,
    .pack_w = pack_f32,
    .multiply = plain_multiply,
    .multiply_stored = f32_stored_multiply,
    .stored_rows_max = 16,
};

static const proa_form bf16_form = {
    .name = "bf16 as f32",
    .element_bytes = 4,
    .lanes = TILE_LANES,
    .tile_columns = 4,
    .pack_x = pack_f32,
    .pack_w = pack_bf16,
    .multiply = plain_multiply,
    .multiply_stored = bf16_stored_multiply,
    .stored_rows_max = 8,
};

static const proa_form e4m3_form = {
    .name = "e4m3 as f32",
    .element_bytes = 4,
    .lanes = TILE_LANES,
    .tile_columns = 4,
    .pack_x = pack_f32,
    .pack_w = pack_e4m3,
    .multiply = plain_multiply,
};

static const proa_form recipe_form = {
    .name = "recipe in f32",
    .element_bytes = 4,
    .lanes = TILE_LANES,
    .tile_columns = 3,
    .grouped = true,
    .pack_x = pack_e4m3,
    .pack_w = pack_e4m3,
    .multiply = recipe_multiply,
    .multiply_stored = recipe_stored_multiply,
    .stored_rows_max = 2,
};

const proa_form *proa_form_avx512(proa_dtype w_dtype, bool recipe, bool bf16_x)
{
    (void)bf16_x;
    if (recipe)
        return &recipe_form;
    return w_dtype == PROA_DTYPE_F32 ? &f32_form : w_dtype == PROA_DTYPE_BF16 ? &bf16_form : &e4m3_form;
}

#else
const proa_form *proa_form_avx512(proa_dtype w_dtype, bool recipe, bool bf16_x)
{
    (void)w_dtype, (void)recipe, (void)bf16_x;
    return NULL;
}
#endif
