/* form.h - internal to product.c and the instruction sets: the inner loops, and the operands as they want them.
 *
 * A form is a way to multiply: the element that both operands are packed to, and the sums that an output has.
 *
 *   plain:   sum[lane] += x[i] * w[i], i = lane, lane + step, ...; the lanes are added up at the end of k.
 *   grouped: per 128 of k, part[lane] = the same sum over the group, then sum[lane] += part[lane] * scale.
 *
 * Packed rows are padded with zeros to whole chunks of 64, so no loop has a tail. An output's operations and their
 * order are a function of k alone: a tile of another size, a k block (its sums rest in memory in between) or
 * weights unpacked on the fly change nothing of it. That is law 2, and test_linear checks it bit for bit.
 */
#ifndef PROA_OP_LINEAR_FORM_H
#define PROA_OP_LINEAR_FORM_H

#include "op/tensor.h"

enum {
    PROA_FORM_CHUNK = 64,     /* elements of k */
    PROA_FORM_LANES_MAX = 16, /* sums of an output */
    PROA_FORM_TILE_COLUMNS_MAX = 4,
};

/* The outputs of a row and four columns. */
typedef float proa_float4 __attribute__((vector_size(16)));

/* proa_round_bf16 of each. */
static inline __attribute__((always_inline)) proa_float4 proa_round_bf16_4(proa_float4 v)
{
    typedef uint32_t word4 __attribute__((vector_size(16)));
    word4 bits = (word4)v;
    word4 nan = (word4)((bits & 0x7fffffffu) > 0x7f800000u);
    word4 rounded = bits + 0x7fffu + (bits >> 16 & 1u);
    return (proa_float4)(((nan & (bits | 0x400000u)) | (~nan & rounded)) & 0xffff0000u);
}

/* Some rows of x times some rows of W ("columns" of y) over a block of k. */
typedef struct proa_panel {
    const void *x; /* packed; x_stride bytes between rows */
    size_t x_stride;
    int32_t rows;
    const void *w; /* packed, or as stored for multiply_stored; w_stride bytes between rows */
    size_t w_stride;
    int32_t columns;
    int32_t chunks; /* of k */

    float
        *sums;  /* [rows][columns][lanes]: kept from one k block to the next; untouched when first and last */
    bool first; /* sums start at zero */
    bool last;  /* add up the lanes and write y */

    /* Grouped forms: the scale of row r, column c, group g (of this block) is
     * scales[scale_block[c] * rows * groups + r * groups + g]. */
    const float *scales;
    const int32_t *scale_block;
    int32_t groups;

    /* What to load into the cache meanwhile, as many columns, ahead_lines of 64 bytes each; NULL: nothing. */
    const char *ahead;
    size_t ahead_stride;
    int32_t ahead_lines;

    float *y;
    int64_t y_stride;
    bool round_bf16;
} proa_panel;

typedef struct proa_form {
    const char *name;
    size_t element_bytes; /* of a packed element */
    int32_t lanes;
    int32_t tile_columns; /* panels are best a multiple of it */
    bool grouped;

    /* Packs `count` elements, zeros up to a whole chunk. x comes as float32, or e4m3 in grouped forms. */
    void (*pack_x)(void *to, const void *from, int32_t count);
    void (*pack_w)(void *to, const void *from, int32_t count);
    void (*multiply)(const proa_panel *panel);

    /* The same over weights as they are stored, for few rows and whole chunks; NULL: always pack. */
    void (*multiply_stored)(const proa_panel *panel);
    int32_t stored_rows_max;
} proa_form;

/* What meets: weights of a type, with float32 x or (recipe) e4m3 x. `bf16_x`: x holds bf16 values. NULL when the
 * instruction set has nothing of its own: ask the next lower one. */
const proa_form *proa_form_portable(proa_dtype w_dtype, bool recipe, bool bf16_x);
const proa_form *proa_form_avx2(proa_dtype w_dtype, bool recipe, bool bf16_x);
const proa_form *proa_form_avx512(proa_dtype w_dtype, bool recipe, bool bf16_x);
const proa_form *proa_form_avx512_bf16(proa_dtype w_dtype, bool recipe, bool bf16_x);

#endif
