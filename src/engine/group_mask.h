/* group_mask.h - sets of ranks, one bit each, by value. Any thread; no state but the arguments. */
#ifndef PROA_ENGINE_GROUP_MASK_H
#define PROA_ENGINE_GROUP_MASK_H

#include <stdbool.h>
#include <stdint.h>

enum {
    PROA_GROUP_RANKS_MAX = 1024,
    PROA_GROUP_MASK_WORDS = PROA_GROUP_RANKS_MAX / 64,
};

typedef struct proa_group_mask {
    uint64_t bits[PROA_GROUP_MASK_WORDS]; /* rank r: bit r % 64 of word r / 64 */
} proa_group_mask;

static inline bool proa_group_mask_has(const proa_group_mask *mask, int32_t rank)
{
    return (mask->bits[rank / 64] >> (rank % 64) & 1) != 0;
}

static inline void proa_group_mask_add(proa_group_mask *mask, int32_t rank)
{
    mask->bits[rank / 64] |= (uint64_t)1 << (rank % 64);
}

static inline void proa_group_mask_remove(proa_group_mask *mask, int32_t rank)
{
    mask->bits[rank / 64] &= ~((uint64_t)1 << (rank % 64));
}

static inline proa_group_mask proa_group_mask_and(const proa_group_mask *a, const proa_group_mask *b)
{
    proa_group_mask both;
    for (int i = 0; i < PROA_GROUP_MASK_WORDS; i++)
        both.bits[i] = a->bits[i] & b->bits[i];
    return both;
}

/* Those of a that are not in b. */
static inline proa_group_mask proa_group_mask_minus(const proa_group_mask *a, const proa_group_mask *b)
{
    proa_group_mask rest;
    for (int i = 0; i < PROA_GROUP_MASK_WORDS; i++)
        rest.bits[i] = a->bits[i] & ~b->bits[i];
    return rest;
}

static inline proa_group_mask proa_group_mask_or(const proa_group_mask *a, const proa_group_mask *b)
{
    proa_group_mask either;
    for (int i = 0; i < PROA_GROUP_MASK_WORDS; i++)
        either.bits[i] = a->bits[i] | b->bits[i];
    return either;
}

static inline bool proa_group_mask_empty(const proa_group_mask *mask)
{
    uint64_t any = 0;
    for (int i = 0; i < PROA_GROUP_MASK_WORDS; i++)
        any |= mask->bits[i];
    return any == 0;
}

static inline bool proa_group_mask_within(const proa_group_mask *part, const proa_group_mask *whole)
{
    proa_group_mask rest = proa_group_mask_minus(part, whole);
    return proa_group_mask_empty(&rest);
}

static inline bool proa_group_mask_meets(const proa_group_mask *a, const proa_group_mask *b)
{
    proa_group_mask both = proa_group_mask_and(a, b);
    return !proa_group_mask_empty(&both);
}

static inline bool proa_group_mask_equal(const proa_group_mask *a, const proa_group_mask *b)
{
    uint64_t differ = 0;
    for (int i = 0; i < PROA_GROUP_MASK_WORDS; i++)
        differ |= a->bits[i] ^ b->bits[i];
    return differ == 0;
}

static inline int32_t proa_group_mask_count(const proa_group_mask *mask)
{
    int32_t count = 0;
    for (int i = 0; i < PROA_GROUP_MASK_WORDS; i++)
        count += __builtin_popcountll(mask->bits[i]);
    return count;
}

/* The first rank after `rank` that is in the mask, or -1; begin with -1. */
static inline int32_t proa_group_mask_next(const proa_group_mask *mask, int32_t rank)
{
    rank++;
    for (int32_t word = rank / 64; word < PROA_GROUP_MASK_WORDS; word++) {
        uint64_t bits = mask->bits[word];
        if (word == rank / 64)
            bits &= ~(uint64_t)0 << (rank % 64);
        if (bits != 0)
            return word * 64 + __builtin_ctzll(bits);
    }
    return -1;
}

static inline int32_t proa_group_mask_lowest(const proa_group_mask *mask)
{
    return proa_group_mask_next(mask, -1);
}

static inline proa_group_mask proa_group_mask_of(int32_t rank)
{
    proa_group_mask mask = {{0}};
    proa_group_mask_add(&mask, rank);
    return mask;
}

#endif
