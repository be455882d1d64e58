/* portable.c - the forms that every processor runs: float32 in vectors of four, which is what the baselines of
 * x86-64 (SSE2) and arm64 (NEON) have. No fused multiply-add: x86-64's baseline lacks it. */
#include "op/linear/form.h"

#include "base/number.h"

#include <string.h>

typedef proa_float4 float4;

/* --- packing --- */

static void pad(float *packed, int32_t count)
{
    for (int32_t i = count; i % PROA_FORM_CHUNK != 0; i++)
        packed[i] = 0;
}

static void pack_f32(void *to, const void *from, int32_t count)
{
    memcpy(to, from, (size_t)count * sizeof(float));
    pad(to, count);
}

static void pack_bf16(void *to, const void *from, int32_t count)
{
    float *packed = to;
    for (int32_t i = 0; i < count; i++) {
        uint16_t h;
        memcpy(&h, (const char *)from + 2 * i, sizeof h);
        packed[i] = proa_bf16_to_f32(h);
    }
    pad(packed, count);
}

/* Moved to the top of a float32, exponent and mantissa are the value times 2^-120, denormals included. Without
 * branches, which random signs would mispredict. */
static inline float widen_e4m3(uint32_t q)
{
    uint32_t nan = (uint32_t)((q & 0x7f) == 0x7f) * 0x7fc00000u;
    uint32_t bits = (q & 0x7f) << 20 | (q & 0x80) << 24 | nan;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value * 0x1p120f;
}

static void pack_e4m3(void *to, const void *from, int32_t count)
{
    const uint8_t *q = from;
    float *packed = to;
    for (int32_t i = 0; i < count; i++)
        packed[i] = widen_e4m3(q[i]);
    pad(packed, count);
}

/* --- tiles --- */

static inline float4 tile_zero(void)
{
    return (float4){0, 0, 0, 0};
}

static inline float4 tile_load(const void *at)
{
    float4 v;
    memcpy(&v, at, sizeof v);
    return v;
}

static inline void tile_store(float *at, float4 v)
{
    memcpy(at, &v, sizeof v);
}

static inline float4 multiply_add(float4 sum, float4 x, float4 w)
{
    return sum + x * w;
}

static inline float4 tile_scale_add(float4 sum, float4 part, float scale)
{
    return sum + part * scale;
}

static inline float4 tile_add_lanes(float4 a, float4 b, float4 c, float4 d)
{
    return (float4){(a[0] + a[2]) + (a[1] + a[3]), (b[0] + b[2]) + (b[1] + b[3]),
                    (c[0] + c[2]) + (c[1] + c[3]), (d[0] + d[2]) + (d[1] + d[3])};
}

#define TILE_TARGET
#define TILE_SUM   float4
#define TILE_LANES 4

#define TILE              plain
#define TILE_ROWS         2
#define TILE_COLUMNS      4
#define TILE_STEP         4
#define TILE_X_BYTES      16
#define TILE_W_BYTES      16
#define TILE_X            float4
#define TILE_W            float4
#define TILE_LOAD_X       tile_load
#define TILE_LOAD_W       tile_load
#define TILE_MULTIPLY_ADD multiply_add
#define TILE_GROUPED      0
#define TILE_STORED       0
#include "op/linear/tile.inc"

#define TILE              recipe
#define TILE_ROWS         2
#define TILE_COLUMNS      2
#define TILE_STEP         4
#define TILE_X_BYTES      16
#define TILE_W_BYTES      16
#define TILE_X            float4
#define TILE_W            float4
#define TILE_LOAD_X       tile_load
#define TILE_LOAD_W       tile_load
#define TILE_MULTIPLY_ADD multiply_add
#define TILE_GROUPED      1
#define TILE_STORED       0
#include "op/linear/tile.inc"

static const proa_form f32_form = {
    .name = "f32",
    .element_bytes = 4,
    .lanes = TILE_LANES,
    .tile_columns = 4,
    .pack_x = pack_f32,
    .pack_w = pack_f32,
    .multiply = plain_multiply,
    .multiply_stored = plain_multiply,
    .stored_rows_max = 4,
};

static const proa_form bf16_form = {
    .name = "bf16 as f32",
    .element_bytes = 4,
    .lanes = TILE_LANES,
    .tile_columns = 4,
    .pack_x = pack_f32,
    .pack_w = pack_bf16,
    .multiply = plain_multiply,
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
    .tile_columns = 2,
    .grouped = true,
    .pack_x = pack_e4m3,
    .pack_w = pack_e4m3,
    .multiply = recipe_multiply,
};

const proa_form *proa_form_portable(proa_dtype w_dtype, bool recipe, bool bf16_x)
{
    (void)bf16_x;
    if (recipe)
        return &recipe_form;
    return w_dtype == PROA_DTYPE_F32 ? &f32_form : w_dtype == PROA_DTYPE_BF16 ? &bf16_form : &e4m3_form;
}
