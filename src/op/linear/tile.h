/* tile.h - the register tiles of every instruction set, as a template without include guard: each inclusion
 * makes `static void TILE_multiply(const proa_panel *)`, named by TILE. The includer defines
 *
 *   TILE               prefix of the names made here
 *   TILE_TARGET        function attribute of the instruction set
 *   TILE_ROWS          rows of x a tile holds in registers, at most 4
 *   TILE_COLUMNS       rows of W, at most 4
 *   TILE_STEP          elements of k that one multiply takes
 *   TILE_X_BYTES       bytes of such a step of x, packed, and
 *   TILE_W_BYTES       of w
 *   TILE_SUM           vector type of TILE_LANES partial sums of one output
 *   TILE_LANES
 *   TILE_X, TILE_W     types of a step of x and w, and their loads: TILE_LOAD_X(pointer), TILE_LOAD_W(pointer)
 *   TILE_MULTIPLY_ADD  (sum, x, w): the new sum
 *   TILE_GROUPED       1: the sums of each 128 of k are scaled
 *   TILE_STORED        1: w is the matrix itself, whose next rows are asked for on the way; 0: w is packed, and
 *                      tiles ask for parts of panel->ahead
 *
 * and static inline functions tile_zero(), tile_load(floats), tile_store(floats, sum), tile_scale_add(sum, part,
 * scale), and tile_add_lanes(floats[4], four sums). All TILE macros but TILE_TARGET and TILE_SUM, TILE_LANES are
 * undefined at the end.
 *
 * Columns beyond the panel's last repeat it: the same bits are computed again and stored to the same place.
 */
#include "base/number.h"

#define PASTE_TOKENS(a, b) a##_##b
#define PASTE(a, b)        PASTE_TOKENS(a, b)
#define NAME(name)         PASTE(TILE, name)
#define TILE_INLINE        TILE_TARGET static inline __attribute__((always_inline))
/* Loops over a tile are unrolled whole, so that its arrays are registers; a group's steps too, where it helps. */
#if defined(__clang__)
#define UNROLLED _Pragma("clang loop unroll(full)") for
#define STEPS    for
#else
#define UNROLLED _Pragma("GCC unroll 4") for
#if TILE_GROUPED
#define STEPS _Pragma("GCC unroll 4") for
#else
#define STEPS for
#endif
#endif

/* sums += x w^T over `steps` steps. */
TILE_INLINE void NAME(accumulate)(TILE_SUM sums[TILE_ROWS][TILE_COLUMNS], const char *x, size_t x_stride,
                                  const char *const w[TILE_COLUMNS], size_t step_first, int rows, int steps,
                                  size_t ahead)
{
    (void)ahead;
    STEPS(int step = 0; step < steps; step++)
    {
        const char *x_at = x + (step_first + (size_t)step) * TILE_X_BYTES;
        size_t w_at = (step_first + (size_t)step) * TILE_W_BYTES;
        TILE_W w_step[TILE_COLUMNS];
        UNROLLED(int c = 0; c < TILE_COLUMNS; c++)
        {
            w_step[c] = TILE_LOAD_W(w[c] + w_at);
#if TILE_STORED
            __builtin_prefetch(w[c] + w_at + ahead, 0, 2);
#endif
        }
        UNROLLED(int r = 0; r < rows; r++)
        {
            TILE_X x_step = TILE_LOAD_X(x_at + (size_t)r * x_stride);
            UNROLLED(int c = 0; c < TILE_COLUMNS; c++)
            {
                sums[r][c] = TILE_MULTIPLY_ADD(sums[r][c], x_step, w_step[c]);
            }
        }
    }
}

#if TILE_GROUPED
/* One group's sums, scaled, into the sums; `steps` is the group's. */
TILE_INLINE void NAME(add_group)(TILE_SUM sums[TILE_ROWS][TILE_COLUMNS], const char *x, size_t x_stride,
                                 const char *const w[TILE_COLUMNS], const float *const scales[TILE_COLUMNS],
                                 int scale_stride, size_t step_first, int rows, int steps, size_t ahead)
{
    TILE_SUM parts[TILE_ROWS][TILE_COLUMNS];
    UNROLLED(int r = 0; r < rows; r++)
    {
        UNROLLED(int c = 0; c < TILE_COLUMNS; c++)
        {
            parts[r][c] = tile_zero();
        }
    }
    NAME(accumulate)(parts, x, x_stride, w, step_first, rows, steps, ahead);
    UNROLLED(int r = 0; r < rows; r++)
    {
        UNROLLED(int c = 0; c < TILE_COLUMNS; c++)
        {
            sums[r][c] = tile_scale_add(sums[r][c], parts[r][c], scales[c][r * scale_stride]);
        }
    }
}
#endif

/* Adds up the lanes of a row's outputs and writes them. */
TILE_INLINE void NAME(finish)(const proa_panel *p, TILE_SUM sums[TILE_COLUMNS], int row, int column)
{
    float y[4];
    tile_add_lanes(y, sums[0], sums[TILE_COLUMNS > 1 ? 1 : 0], sums[TILE_COLUMNS > 2 ? 2 : 0],
                   sums[TILE_COLUMNS > 3 ? 3 : 0]);
    float *to = p->y + row * p->y_stride + column;
    for (int c = 0; c < TILE_COLUMNS && column + c < p->columns; c++)
        to[c] = p->round_bf16 ? proa_round_bf16(y[c]) : y[c];
}

#if !TILE_STORED
/* Asks for this tile's part of the weights that come next: each tile of a column takes `share` of their lines. */
TILE_INLINE void NAME(prefetch)(const proa_panel *p, int row, int column, int share)
{
    int first = row / TILE_ROWS * share,
        last = first + share < p->ahead_lines ? first + share : p->ahead_lines;
    UNROLLED(int c = 0; c < TILE_COLUMNS; c++)
    {
        const char *at = p->ahead + (size_t)(column + c) * p->ahead_stride;
        for (int line = first; line < last; line++)
            __builtin_prefetch(at + (size_t)line * 64, 0, 2);
    }
}
#endif

/* `rows` is a constant in every call: the arrays become registers. */
TILE_INLINE void NAME(tile)(const proa_panel *p, int row, int column, int rows, int ahead_share)
{
    TILE_SUM sums[TILE_ROWS][TILE_COLUMNS];
    const char *x = (const char *)p->x + (size_t)row * p->x_stride, *w[TILE_COLUMNS];
    float *kept[TILE_COLUMNS];
#if TILE_STORED
    (void)ahead_share;
#else
    if (p->ahead != NULL)
        NAME(prefetch)(p, row, column, ahead_share);
#endif
    size_t kept_stride = (size_t)p->columns * TILE_LANES, ahead = TILE_COLUMNS * p->w_stride;
    UNROLLED(int c = 0; c < TILE_COLUMNS; c++)
    {
        int at = column + c < p->columns ? column + c : p->columns - 1;
        w[c] = (const char *)p->w + (size_t)at * p->w_stride;
        kept[c] = p->sums + (size_t)row * kept_stride + (size_t)at * TILE_LANES;
        UNROLLED(int r = 0; r < rows; r++)
        {
            sums[r][c] = p->first ? tile_zero() : tile_load(kept[c] + (size_t)r * kept_stride);
        }
    }
#if TILE_GROUPED
    enum { GROUP_STEPS = PROA_QUANT_GROUP / TILE_STEP, CHUNK_STEPS = PROA_FORM_CHUNK / TILE_STEP };
    const float *scales[TILE_COLUMNS];
    UNROLLED(int c = 0; c < TILE_COLUMNS; c++)
    {
        int at = column + c < p->columns ? column + c : p->columns - 1;
        scales[c] =
            p->scales + ((size_t)p->scale_block[at] * (size_t)p->rows + (size_t)row) * (size_t)p->groups;
    }
    size_t step = 0;
    for (int chunk = 2; chunk <= p->chunks; chunk += 2, step += GROUP_STEPS) {
        NAME(add_group)(sums, x, p->x_stride, w, scales, p->groups, step, rows, GROUP_STEPS, ahead);
        UNROLLED(int c = 0; c < TILE_COLUMNS; c++)
        {
            scales[c]++;
        }
    }
    if (p->chunks % 2 != 0)
        NAME(add_group)(sums, x, p->x_stride, w, scales, p->groups, step, rows, CHUNK_STEPS, ahead);
#else
    NAME(accumulate)(sums, x, p->x_stride, w, 0, rows, p->chunks * (PROA_FORM_CHUNK / TILE_STEP), ahead);
#endif
    UNROLLED(int r = 0; r < rows; r++)
    {
        if (p->last)
            NAME(finish)(p, sums[r], row + r, column);
        else
            UNROLLED(int c = 0; c < TILE_COLUMNS; c++)
            {
                tile_store(kept[c] + (size_t)r * kept_stride, sums[r][c]);
            }
    }
}

/* All columns for `rows` rows. */
TILE_INLINE void NAME(row_of_tiles)(const proa_panel *p, int row, int rows, int ahead_share)
{
    for (int column = 0; column < p->columns; column += TILE_COLUMNS)
        NAME(tile)(p, row, column, rows, ahead_share);
}

TILE_TARGET static void NAME(multiply)(const proa_panel *p)
{
    int row = 0, tiles = (p->rows + TILE_ROWS - 1) / TILE_ROWS,
        ahead_share = (p->ahead_lines + tiles - 1) / tiles;
    for (; p->rows - row >= TILE_ROWS; row += TILE_ROWS)
        NAME(row_of_tiles)(p, row, TILE_ROWS, ahead_share);
    switch (p->rows - row) {
    case 3: NAME(row_of_tiles)(p, row, TILE_ROWS > 3 ? 3 : 1, ahead_share); break;
    case 2: NAME(row_of_tiles)(p, row, TILE_ROWS > 2 ? 2 : 1, ahead_share); break;
    case 1: NAME(row_of_tiles)(p, row, 1, ahead_share); break;
    default: break;
    }
}

#undef PASTE_TOKENS
#undef PASTE
#undef NAME
#undef TILE_INLINE
#undef UNROLLED
#undef STEPS
#undef TILE
#undef TILE_ROWS
#undef TILE_COLUMNS
#undef TILE_STEP
#undef TILE_X_BYTES
#undef TILE_W_BYTES
#undef TILE_X
#undef TILE_W
#undef TILE_LOAD_X
#undef TILE_LOAD_W
#undef TILE_MULTIPLY_ADD
#undef TILE_GROUPED
#undef TILE_STORED
