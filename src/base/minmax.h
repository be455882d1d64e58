/* minmax.h - the smaller and the larger of two, by type, and rounding up. */
#ifndef PROA_BASE_MINMAX_H
#define PROA_BASE_MINMAX_H

#include <stddef.h>
#include <stdint.h>

static inline int32_t proa_min_i32(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static inline int32_t proa_max_i32(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

static inline int64_t proa_min_i64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t proa_max_i64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static inline size_t proa_max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* The next multiple of `to`, a power of two or not. */
static inline size_t proa_round_up(size_t bytes, size_t to)
{
    return (bytes + to - 1) / to * to;
}

#endif
