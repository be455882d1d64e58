/* cuda_decode_fp8.cuh - the copying warps of decode attention over an FP8 cache (kv_row.h): what arrives is widened in its place.
 *
 * The computing warps find the same bf16 tiles as with a bf16 cache, of the same numbers, so that results have the same bits. A unit
 * (64 keys by 128 columns, which share a scale a key) is copied as the codes it is, 8 KiB, into its second half, where row r of the codes
 * and row r of that half's columns are the same 128 bytes:
 *
 *             half 0: columns 0 .. 63       half 1: columns 64 .. 127
 *   copied    -                             codes of row r, in the 128-byte swizzle
 *   widened   row r, swizzled               row r, swizzled
 *
 * A row belongs to eight lanes of one warp: they read it, meet, and write it twice as wide over both halves; no other warp waits. All four
 * warps widen 16 rows of every unit each, and one lane of each copies one unit of every block of keys, as with bf16.
 *
 * When. Units 0 to 2 of block b use room that block b - 3's values left, a whole block of keys' time before they are wanted; unit 3 uses
 * room of block b - 2, whose values' products run when S of block b - 1 nears its end. So a warp widens units 0 to 2 of a block before
 * it waits for that room; then it asks for unit 3, units 0 to 2 of the next block, and the scales of that one, and what it waits for next,
 * unit 3, comes no sooner.
 *
 *   ... | widen 0 1 2 of b | copy 3 of b, 0 1 2 and scales of b + 1 | widen 3 of b | widen 0 1 2 of b + 1 | ...
 *
 * Rotary keys are bf16 in the cache and copied as they are, and so are queries, whose units pass by unchanged.
 *
 * Bound: 64 x 656 bytes a block of keys from device memory, for 64 x 1,152 of bf16; products as there. Widening takes six instructions
 * of half rate and five of full rate for four values: about 770 cycles a block of keys of the pipe that has the first ones.
 * Measured, B 128, L 4,096: 453 us on an H100, 487 us on an H200, where bf16 has 283 and 254. A block of keys takes about 4,900 cycles on both,
 * whatever memory gives: sixteen rounds of read, meet, multiply twice and write, one after another in the one copying warp of each scheduler.
 * Next: scales below 2^8 alone, so that one multiplication does; or a cluster of a row's two blocks, each of which widens half for both.
 */
#ifndef PROA_OP_MLA_CUDA_DECODE_FP8_CUH
#define PROA_OP_MLA_CUDA_DECODE_FP8_CUH

#include "op/mla/cuda_decode_shared.cuh"
#include "op/mla/kv_row.cuh"

namespace proa
{

enum {
    MLA_FP8_ROW = 656,
    MLA_FP8_SCALES = 512, /* where they begin, a float for each of four units */
    MLA_FP8_K_PE = 528,
};
static_assert((int)MLA_FP8_SCALES == (int)MLA_LATENT &&
                  MLA_FP8_K_PE == MLA_FP8_SCALES + (int)MLA_LATENT / (int)PROA_KV_SCALE_GROUP * 4 &&
                  MLA_FP8_ROW == MLA_FP8_K_PE + 64 * 2 && (int)MLA_FP8_ROW % (int)PROA_KV_ROW_ALIGNMENT == 0,
              "an E4M3 row of 512 + 64 values, as proa_kv_row_of has it");
static_assert((int)PROA_KV_SCALE_GROUP == 128, "a unit's columns share a scale");

/* Items of a warp's walk: queries, or a block of keys. An item is its row in the map of the cache; queries are the complement of theirs. */
constexpr int32_t MLA_NO_ITEM = INT32_MIN;

__device__ __forceinline__ void mla_items_begin(const MlaDecode &d, MlaItems *items)
{
    items->walk = MlaWalk(d);
    items->at = items->blocks = 0;
    items->slot = {0, 0};
}

__device__ __forceinline__ void mla_items_advance(const MlaDecode &d, MlaItems *items)
{
    int32_t at = items->at;
    if (at == items->blocks) {
        MlaRun run;
        MlaWalk walk = items->walk;
        if (!walk.step(d, &run)) {
            items->next = MLA_NO_ITEM;
            return;
        }
        items->walk = walk;
        items->table = d.table + (int64_t)(run.row / d.rows_per_table) * d.table_stride + run.first;
        items->queries = run.row * d.heads + (int32_t)blockIdx.x % mla_tiles(d) * MLA_HEADS;
        items->blocks = run.blocks;
        at = run.new_row ? -1 : 0;
    }
    items->next = at < 0 ? ~items->queries : __ldg(items->table + at) * MLA_BLOCK;
    items->at = at + 1;
}

/* Unit `part` of an item, and with the first the rotary piece. */
__device__ __forceinline__ void mla_copy_codes(const MlaMaps &maps, MlaShared &m, int32_t item, int32_t part,
                                               const MlaUnitRing &unit, const MlaSlotRing &slot)
{
    const bool queries = item < 0;
    const int32_t row = queries ? ~item : item;
    uint8_t *to = m.units[unit.at];
    uint64_t *copied = &m.unit_copied[unit.at];
    barrier_wait(&m.slot_empty[slot.at], slot.phase ^ 1);
    barrier_wait(&m.unit_empty[unit.at], unit.phase ^ 1);
    barrier_expect(copied, queries ? MLA_UNIT_BYTES : MLA_PIECE_BYTES);
    if (queries)
        copy_tile(to, maps.q, 0, row, 2 * part, copied);
    else
        copy_tile(to + MLA_PIECE_BYTES, maps.cache, part * 128, row, copied);
    if (part != 0)
        return;
    barrier_expect(&m.slot_full[slot.at], MLA_PIECE_BYTES);
    if (queries)
        copy_tile(m.slots[slot.at], maps.q + 1, 0, row, 8, &m.slot_full[slot.at]);
    else
        copy_tile(m.slots[slot.at], maps.cache + 1, 0, row, &m.slot_full[slot.at]);
}

/* A warp's 16 rows of a unit, in places 0 .. 15: a lane widens its piece of those of a place from 0 to 3, and 4, 8 and 12 further, which are 16
 * rows apart. Rows that differ by 1 and by 4 stand side by side, since pieces of such rows are in different banks, of codes and of columns. */
__device__ __forceinline__ int32_t mla_row_at(int32_t warp, int32_t place)
{
    return ((warp % 2 * 2 + place / 2 % 2) ^ (place % 2 != 0 ? 5 : 0)) + warp / 2 * 8 + place / 4 * 16;
}

/* The exponents of the four scales of the key at `place` of a block of keys, unit 0's lowest. */
__device__ __forceinline__ uint32_t mla_exponents(const MlaDecode &d, int32_t item, int32_t place)
{
    const int32_t row = item + mla_row_at((int32_t)threadIdx.x / 32, place);
    const uint4 s = *(const uint4 *)(d.codes + (int64_t)row * MLA_FP8_ROW + MLA_FP8_SCALES);
    return s.x >> 23 | s.y >> 23 << 8 | s.z >> 23 << 16 | s.w >> 23 << 24;
}

/* What a lane widens: its piece of four rows, 16 apart. In bytes of a unit. */
struct MlaPiece {
    uint32_t from; /* the codes; and in the lowest four bits the first one's place */
    uint32_t to;

    __device__ __forceinline__ MlaPiece()
    {
        const uint32_t lane = threadIdx.x % 32, piece = lane % 4 + lane / 8 % 2 * 4,
                       place = lane / 4 % 2 + lane / 16 * 2;
        const uint32_t row = (uint32_t)mla_row_at((int32_t)threadIdx.x / 32, (int32_t)place);
        from = (MLA_PIECE_BYTES + row * 128 + ((piece ^ row % 8) << 4)) | place;
        to = piece / 4 * MLA_PIECE_BYTES + row * 128 + ((piece % 4 * 2 ^ row % 8) << 4);
    }
};

/* The warp's rows of a unit that has arrived; lane l has the exponent of place l, in the lowest bits of `scales`. */
__device__ __forceinline__ void mla_widen(uint8_t *unit, const MlaPiece &piece, uint32_t scales)
{
    constexpr int32_t APART = 16 * 128;
    const uint32_t codes_at = worked_out_here(piece.from), columns_at = worked_out_here(piece.to);
    const uint8_t *from = unit + (codes_at & ~15u);
    uint8_t *to = unit + columns_at, *next = unit + (columns_at ^ 16);
    const int32_t place = (int32_t)(codes_at % 16);
    uint4 codes = *(const uint4 *)from;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint32_t scale = kv_scale_pair(__shfl_sync(~0u, scales, place + i * 4) & 255);
        const uint4 following = i < 3 ? *(const uint4 *)(from + (i + 1) * APART) : make_uint4(0, 0, 0, 0);
        __syncwarp(); /* the rows have been read */
        *(uint4 *)(to + i * APART) = kv_widen(make_uint2(codes.x, codes.y), scale);
        *(uint4 *)(next + i * APART) = kv_widen(make_uint2(codes.z, codes.w), scale);
        codes = following;
    }
    copy_fence();
}

/* A warp of the four, a unit a turn; see above. Lanes 0 to 15 have the scales of the block of keys at hand, the others those of the next one. */
__device__ __forceinline__ void mla_produce_fp8(const MlaDecode &d, const MlaMaps &maps, MlaShared &m)
{
    const int32_t part = (int32_t)threadIdx.x / 32, lane = (int32_t)threadIdx.x % 32;
    const MlaPiece piece;
    MlaItems *items = &m.items[part];
    MlaUnitRing unit = {MLA_UNITS - 1, 1}; /* the one before the first */
    int32_t now = MLA_NO_ITEM;
    uint32_t scales = 0;
    if (lane == 0) {
        mla_items_begin(d, items);
        mla_items_advance(d, items);
    }
    __syncwarp();
#pragma unroll 1
    for (int32_t i = 3;; i = (i + 1) % 4) {
        if (i == 3) {
            const int32_t next = items->next;
            if (lane == 0 && (part < 3 ? next : now) != MLA_NO_ITEM) {
                MlaUnitRing own = unit;
                own.advance(part < 3 ? part + 1 : 0);
                mla_copy_codes(maps, m, part < 3 ? next : now, part, own, items->slot);
                items->slot.advance(1);
            }
            __syncwarp();
            if (next >= 0 && lane >= 16)
                scales = mla_exponents(d, next, lane % 16);
        }
        if (now != MLA_NO_ITEM) {
            barrier_wait(&m.unit_copied[unit.at], unit.phase);
            if (now >= 0) /* queries stay as they are */
                mla_widen(m.units[unit.at], piece, scales >> i * 8);
            warp_arrive(&m.unit_full[unit.at]);
        }
        unit.advance(1);
        if (i == 3) {
            now = items->next;
            if (now == MLA_NO_ITEM)
                break;
            scales = __shfl_xor_sync(~0u, scales, 16);
            __syncwarp(); /* all have read the item */
            if (lane == 0)
                mla_items_advance(d, items);
            __syncwarp();
        }
    }
}

} // namespace proa

#endif
