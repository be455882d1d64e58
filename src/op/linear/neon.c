/* neon.c - the forms of arm64: float32, fused multiply-adds of 4, 32 registers. NEON is in every arm64 processor, so these stand in the place
 * of portable.c there.
 *
 * A tile of 4 rows and 4 columns has 16 chains of sums: as many as four pipes with a latency of four (Neoverse V2, Grace) keep busy. Weights
 * as they are stored are taken 8 at once, as two vectors that go into the same sums one after the other: the order of the packed ones.
 *
 * e4m3 widens over float16, whose exponent has a bit more: moved up by 7 it is the value times 2^-8, denormals included.
 */
#include "op/linear/form.h"

#include <arm_neon.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

typedef float32x4_t float4;
typedef float32x4x2_t float8;

/* --- widening 8 --- */

INLINE float8 widen_bf16(uint16x8_t h)
{
    return (float8){{vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(h), 16)),
                     vreinterpretq_f32_u32(vshll_n_u16(vget_high_u16(h), 16))}};
}

INLINE float8 widen_e4m3(uint8x8_t q)
{
    const uint16x8_t sign = vdupq_n_u16(0x8000), all = vdupq_n_u16(0xbf80);
    const float4 unit = vdupq_n_f32(0x1p8f);
    int16x8_t wide = vshrq_n_s16(vreinterpretq_s16_u16(vshll_n_u8(q, 8)), 1);
    uint16x8_t half =
        vandq_u16(vreinterpretq_u16_s16(wide), all); /* without the copy of the sign that the shift made */
    uint16x8_t nan = vceqq_u16(vorrq_u16(half, sign), all);
    float16x8_t value = vreinterpretq_f16_u16(vorrq_u16(half, vandq_u16(nan, vdupq_n_u16(0x7e00))));
    return (float8){
        {vmulq_f32(vcvt_f32_f16(vget_low_f16(value)), unit), vmulq_f32(vcvt_high_f32_f16(value), unit)}};
}

INLINE float4 load_4(const char *at)
{
    return vld1q_f32((const float *)(const void *)at);
}

INLINE float8 load_f32(const char *at)
{
    return (float8){{load_4(at), load_4(at + 16)}};
}

INLINE float8 load_bf16(const char *at)
{
    return widen_bf16(vld1q_u16((const uint16_t *)(const void *)at));
}

INLINE float8 load_e4m3(const char *at)
{
    return widen_e4m3(vld1_u8((const uint8_t *)at));
}

/* --- packing: whole vectors from where they lie, the last chunk from a copy that is padded --- */

enum { TOGETHER = 8 };

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

INLINE void store_8(float *to, float8 v)
{
    vst1q_f32(to, v.val[0]);
    vst1q_f32(to + 4, v.val[1]);
}

static void pack_f32(void *to, const void *from, int32_t count)
{
    char tail[PROA_FORM_CHUNK * 4];
    float *out = to;
    for (int32_t i = 0; i < count || i % PROA_FORM_CHUNK != 0; i += TOGETHER)
        store_8(out + i, load_f32(source(from, tail, i, count, 4)));
}

static void pack_bf16(void *to, const void *from, int32_t count)
{
    char tail[PROA_FORM_CHUNK * 4];
    float *out = to;
    for (int32_t i = 0; i < count || i % PROA_FORM_CHUNK != 0; i += TOGETHER)
        store_8(out + i, load_bf16(source(from, tail, i, count, 2)));
}

static void pack_e4m3(void *to, const void *from, int32_t count)
{
    char tail[PROA_FORM_CHUNK * 4];
    float *out = to;
    for (int32_t i = 0; i < count || i % PROA_FORM_CHUNK != 0; i += TOGETHER)
        store_8(out + i, load_e4m3(source(from, tail, i, count, 1)));
}

/* --- tiles --- */

INLINE float4 tile_zero(void)
{
    return vdupq_n_f32(0);
}

INLINE float4 tile_load(const float *at)
{
    return vld1q_f32(at);
}

INLINE void tile_store(float *at, float4 v)
{
    vst1q_f32(at, v);
}

INLINE float4 multiply_add(float4 sum, float4 x, float4 w)
{
    return vfmaq_f32(sum, x, w);
}

INLINE float4 multiply_add_8(float4 sum, float8 x, float8 w)
{
    return vfmaq_f32(vfmaq_f32(sum, x.val[0], w.val[0]), x.val[1], w.val[1]);
}

INLINE float4 tile_scale_add(float4 sum, float4 part, float scale)
{
    return vfmaq_n_f32(sum, part, scale);
}

INLINE proa_float4 tile_add_lanes(float4 a, float4 b, float4 c, float4 d)
{
    return (proa_float4)vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d));
}

#define TILE_TARGET
#define TILE_SUM   float4
#define TILE_LANES 4

#define TILE              plain
#define TILE_ROWS         4
#define TILE_COLUMNS      4
#define TILE_STEP         4
#define TILE_X_BYTES      16
#define TILE_W_BYTES      16
#define TILE_X            float4
#define TILE_W            float4
#define TILE_LOAD_X       load_4
#define TILE_LOAD_W       load_4
#define TILE_MULTIPLY_ADD multiply_add
#define TILE_GROUPED      0
#define TILE_STORED       0
#include "op/linear/tile.inc"

#define TILE              f32_stored
#define TILE_ROWS         4
#define TILE_COLUMNS      4
#define TILE_STEP         4
#define TILE_X_BYTES      16
#define TILE_W_BYTES      16
#define TILE_X            float4
#define TILE_W            float4
#define TILE_LOAD_X       load_4
#define TILE_LOAD_W       load_4
#define TILE_MULTIPLY_ADD multiply_add
#define TILE_GROUPED      0
#define TILE_STORED       1
#include "op/linear/tile.inc"

#define TILE              bf16_stored
#define TILE_ROWS         4
#define TILE_COLUMNS      4
#define TILE_STEP         8
#define TILE_X_BYTES      32
#define TILE_W_BYTES      16
#define TILE_X            float8
#define TILE_W            float8
#define TILE_LOAD_X       load_f32
#define TILE_LOAD_W       load_bf16
#define TILE_MULTIPLY_ADD multiply_add_8
#define TILE_GROUPED      0
#define TILE_STORED       1
#include "op/linear/tile.inc"

#define TILE              recipe
#define TILE_ROWS         4
#define TILE_COLUMNS      4
#define TILE_STEP         4
#define TILE_X_BYTES      16
#define TILE_W_BYTES      16
#define TILE_X            float4
#define TILE_W            float4
#define TILE_LOAD_X       load_4
#define TILE_LOAD_W       load_4
#define TILE_MULTIPLY_ADD multiply_add
#define TILE_GROUPED      1
#define TILE_STORED       0
#include "op/linear/tile.inc"

#define TILE              recipe_stored
#define TILE_ROWS         2
#define TILE_COLUMNS      4
#define TILE_STEP         8
#define TILE_X_BYTES      32
#define TILE_W_BYTES      8
#define TILE_X            float8
#define TILE_W            float8
#define TILE_LOAD_X       load_f32
#define TILE_LOAD_W       load_e4m3
#define TILE_MULTIPLY_ADD multiply_add_8
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
    .tile_columns = 4,
    .grouped = true,
    .pack_x = pack_e4m3,
    .pack_w = pack_e4m3,
    .multiply = recipe_multiply,
    .multiply_stored = recipe_stored_multiply,
    .stored_rows_max = 2,
};

const proa_form *proa_form_portable(proa_dtype w_dtype, bool recipe, bool bf16_x)
{
    (void)bf16_x;
    if (recipe)
        return &recipe_form;
    return w_dtype == PROA_DTYPE_F32 ? &f32_form : w_dtype == PROA_DTYPE_BF16 ? &bf16_form : &e4m3_form;
}
