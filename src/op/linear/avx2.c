/* avx2.c - the forms of processors with AVX2, FMA and F16C: float32, fused multiply-adds of 8, 16 registers.
 *
 * e4m3 widens over float16, whose exponent has a bit more: moved up by 7 it is the value times 2^-8, denormals
 * included; NaN is put in by mask.
 */
#include "op/linear/form.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>
#include <string.h>

#define TARGET PROA_TARGET_AVX2
#define INLINE TARGET static inline __attribute__((always_inline))

/* --- widening 8 weights --- */

INLINE __m256 widen_bf16(__m128i h)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

INLINE __m256 widen_e4m3(__m128i q)
{
    const __m128i sign = _mm_set1_epi16((short)0x8000), all = _mm_set1_epi16((short)0xbf80);
    __m128i wide = _mm_srai_epi16(_mm_unpacklo_epi8(_mm_setzero_si128(), q), 1);
    __m128i half = _mm_and_si128(wide, all); /* without the copy of the sign that the shift made */
    __m128i nan = _mm_cmpeq_epi16(_mm_or_si128(half, sign), all);
    __m256 value = _mm256_mul_ps(_mm256_cvtph_ps(half), _mm256_set1_ps(0x1p8f));
    return _mm256_blendv_ps(value, _mm256_set1_ps(NAN), _mm256_castsi256_ps(_mm256_cvtepi16_epi32(nan)));
}

INLINE __m256 load_f32(const char *at)
{
    return _mm256_loadu_ps((const float *)(const void *)at);
}

INLINE __m256 load_bf16(const char *at)
{
    return widen_bf16(_mm_loadu_si128((const __m128i *)(const void *)at));
}

INLINE __m256 load_e4m3(const char *at)
{
    return widen_e4m3(_mm_loadl_epi64((const __m128i *)(const void *)at));
}

/* --- packing: whole vectors from where they lie, the last chunk from a copy that is padded --- */

enum { LANES = 8 };

/* Element i of `count`, or, from the last chunk on, of the copy made of it. */
INLINE const char *source(const char *in, char tail[PROA_FORM_CHUNK * 4], int32_t i, int32_t count,
                          int element_bytes)
{
    int32_t whole = count / PROA_FORM_CHUNK * PROA_FORM_CHUNK;
    if (i < whole)
        return in + i * element_bytes;
    if (i == whole) {
        memset(tail, 0, PROA_FORM_CHUNK * 4);
        memcpy(tail, in + i * element_bytes, (size_t)((count - whole) * element_bytes));
    }
    return tail + (i - whole) * element_bytes;
}

TARGET static void pack_f32(void *to, const void *from, int32_t count)
{
    char tail[PROA_FORM_CHUNK * 4];
    float *out = to;
    for (int32_t i = 0; i < count || i % PROA_FORM_CHUNK != 0; i += LANES)
        _mm256_storeu_ps(out + i, load_f32(source(from, tail, i, count, 4)));
}

TARGET static void pack_bf16(void *to, const void *from, int32_t count)
{
    char tail[PROA_FORM_CHUNK * 4];
    float *out = to;
    for (int32_t i = 0; i < count || i % PROA_FORM_CHUNK != 0; i += LANES)
        _mm256_storeu_ps(out + i, load_bf16(source(from, tail, i, count, 2)));
}

TARGET static void pack_e4m3(void *to, const void *from, int32_t count)
{
    char tail[PROA_FORM_CHUNK * 4];
    float *out = to;
    for (int32_t i = 0; i < count || i % PROA_FORM_CHUNK != 0; i += LANES)
        _mm256_storeu_ps(out + i, load_e4m3(source(from, tail, i, count, 1)));
}

/* --- tiles --- */

INLINE __m256 tile_zero(void)
{
    return _mm256_setzero_ps();
}

INLINE __m256 tile_load(const float *at)
{
    return _mm256_loadu_ps(at);
}

INLINE void tile_store(float *at, __m256 v)
{
    _mm256_storeu_ps(at, v);
}

INLINE __m256 multiply_add(__m256 sum, __m256 x, __m256 w)
{
    return _mm256_fmadd_ps(x, w, sum);
}

INLINE __m256 tile_scale_add(__m256 sum, __m256 part, float scale)
{
    return _mm256_fmadd_ps(part, _mm256_set1_ps(scale), sum);
}

INLINE __m128 fold(__m256 v)
{
    return _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
}

INLINE proa_float4 tile_add_lanes(__m256 a, __m256 b, __m256 c, __m256 d)
{
    return (proa_float4)_mm_hadd_ps(_mm_hadd_ps(fold(a), fold(b)), _mm_hadd_ps(fold(c), fold(d)));
}

#define TILE_TARGET TARGET
#define TILE_SUM    __m256
#define TILE_LANES  8

#define TILE              plain
#define TILE_ROWS         3
#define TILE_COLUMNS      4
#define TILE_STEP         8
#define TILE_X_BYTES      32
#define TILE_W_BYTES      32
#define TILE_X            __m256
#define TILE_W            __m256
#define TILE_LOAD_X       load_f32
#define TILE_LOAD_W       load_f32
#define TILE_MULTIPLY_ADD multiply_add
#define TILE_GROUPED      0
#define TILE_STORED       0
#include "op/linear/tile.inc"

#define TILE              f32_stored
#define TILE_ROWS         3
#define TILE_COLUMNS      4
#define TILE_STEP         8
#define TILE_X_BYTES      32
#define TILE_W_BYTES      32
#define TILE_X            __m256
#define TILE_W            __m256
#define TILE_LOAD_X       load_f32
#define TILE_LOAD_W       load_f32
#define TILE_MULTIPLY_ADD multiply_add
#define TILE_GROUPED      0
#define TILE_STORED       1
#include "op/linear/tile.inc"

#define TILE              bf16_stored
#define TILE_ROWS         3
#define TILE_COLUMNS      4
#define TILE_STEP         8
#define TILE_X_BYTES      32
#define TILE_W_BYTES      16
#define TILE_X            __m256
#define TILE_W            __m256
#define TILE_LOAD_X       load_f32
#define TILE_LOAD_W       load_bf16
#define TILE_MULTIPLY_ADD multiply_add
#define TILE_GROUPED      0
#define TILE_STORED       1
#include "op/linear/tile.inc"

#define TILE              recipe
#define TILE_ROWS         2
#define TILE_COLUMNS      3
#define TILE_STEP         8
#define TILE_X_BYTES      32
#define TILE_W_BYTES      32
#define TILE_X            __m256
#define TILE_W            __m256
#define TILE_LOAD_X       load_f32
#define TILE_LOAD_W       load_f32
#define TILE_MULTIPLY_ADD multiply_add
#define TILE_GROUPED      1
#define TILE_STORED       0
#include "op/linear/tile.inc"

#define TILE              recipe_stored
#define TILE_ROWS         2
#define TILE_COLUMNS      3
#define TILE_STEP         8
#define TILE_X_BYTES      32
#define TILE_W_BYTES      8
#define TILE_X            __m256
#define TILE_W            __m256
#define TILE_LOAD_X       load_f32
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

const proa_form *proa_form_avx2(proa_dtype w_dtype, bool recipe, bool bf16_x)
{
    (void)bf16_x;
    if (recipe)
        return &recipe_form;
    return w_dtype == PROA_DTYPE_F32 ? &f32_form : w_dtype == PROA_DTYPE_BF16 ? &bf16_form : &e4m3_form;
}

#else
const proa_form *proa_form_avx2(proa_dtype w_dtype, bool recipe, bool bf16_x)
{
    (void)w_dtype, (void)recipe, (void)bf16_x;
    return NULL;
}
#endif
