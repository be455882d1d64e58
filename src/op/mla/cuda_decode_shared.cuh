/* cuda_decode_shared.cuh - what the warps of a block of decode attention share: rings of tiles in shared memory, and the maps that fill them
 * (cuda_decode.cuh).
 */
#ifndef PROA_OP_MLA_CUDA_DECODE_SHARED_CUH
#define PROA_OP_MLA_CUDA_DECODE_SHARED_CUH

#include "op/mla/cuda_decode_plan.cuh"

namespace proa
{

/* Where a role stands in the ring of units, or in that of slots. */
template <int COUNT> struct MlaRing {
    int32_t at;
    uint32_t phase;

    __device__ __forceinline__ void advance(int32_t steps)
    {
        at += steps;
        if (at >= COUNT) {
            at -= COUNT;
            phase ^= 1;
        }
    }
};

typedef MlaRing<MLA_UNITS> MlaUnitRing;
typedef MlaRing<MLA_SLOTS> MlaSlotRing;

/* With a split's last block. */
struct MlaEnd {
    float inverse[MLA_HEADS];               /* 1 / sum */
    float old[MLA_HEADS], added[MLA_HEADS]; /* by what the row's splits before shrink, and this one */
};

/* Where a warp that copies an FP8 cache stands in its walk; one lane's. */
struct MlaItems {
    MlaWalk walk;
    int32_t at, blocks; /* of keys, in the run at hand; -1: its queries come first */
    int32_t queries;
    int32_t next; /* what is copied next */
    const int32_t *table;
    MlaSlotRing slot;
};

struct MlaShared {
    uint8_t units[MLA_UNITS][MLA_UNIT_BYTES];  /* four for a block's latent columns */
    uint8_t slots[MLA_SLOTS][MLA_PIECE_BYTES]; /* a block's rotary piece; then P */
    uint8_t q[MLA_PIECES - MLA_HELD][MLA_PIECE_BYTES];
    float shrink[MLA_SLOTS][MLA_HEADS]; /* what O so far shrinks by before the slot's P V */
    MlaEnd end[2]; /* of splits, in turn: the third comes when the first one's slot is taken anew */
    MlaNote note[MLA_SLOTS][4];
    uint64_t unit_full[MLA_UNITS];
    uint64_t unit_empty[MLA_UNITS];
    uint64_t slot_full[MLA_SLOTS];
    uint64_t slot_empty[MLA_SLOTS];
    uint64_t scored;           /* a block by all four warps */
    uint64_t ready[MLA_SLOTS]; /* P, factors and note are there; or the queries are taken */
    /* with an FP8 cache */
    uint64_t unit_copied[MLA_UNITS]; /* a unit's codes, which are still to be widened */
    MlaItems items[4];               /* of the copying warps */
};
static_assert(sizeof(MlaShared) <= 232448, "one block's shared memory");

struct MlaMaps {
    CUtensorMap q[2]; /* [9][rows * heads][64], boxes of 64 heads and two pieces, or one */
    CUtensorMap cache
        [2]; /* [9][blocks * 64][64], boxes of 64 keys and two pieces, or one; of an FP8 cache its codes [blocks * 64][512] in
                           * boxes of 64 keys and a unit, and its rotary keys [blocks * 64][64] */
};

} // namespace proa

#endif
