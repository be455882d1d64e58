/* cuda_decode.cuh - absorbed latent attention of a decode step on a Hopper GPU (mla.h, absorbed form).
 *
 *   q      bf16 [rows, heads, 576]: 512 of q_lat, 64 of q_pe
 *   cache  bf16 [blocks, 64, 576] of one layer: 512 of kv_lora, 64 of k_pe; or FP8 rows of 656 bytes (cuda_decode_fp8.cuh)
 *   out    bf16 [rows, heads, 512]; lse float32 [rows, heads], natural, or NULL
 *   s = scale (q . k) over the row's keys 0 .. length - 1, out = softmax(s) . kv_lora
 *
 * Work. A tile is 64 heads of one row; a row's keys are cut into splits at multiples of MLA_SPLIT positions, whatever the batch is.
 * A split's partial result (largest score, sum, weighed values, all float32) never depends on who computes it; a row's splits are merged
 * in their order (mla_merge): by the block that has all of them, else by a second kernel, with the same bits; a single split is written
 * at once. So a row's bits depend on its own q, keys and length (law 2). mla_plan, once a step, cuts the list of all splits into a
 * stretch a block, by cost. The plan and a block's walk are cuda_decode_plan.cuh's, ends and merges cuda_decode_merge.cuh's.
 *
 * A block: four warps copy, three warpgroups compute.
 *
 *   producers   [Q | K0 | K1 | K2 ... | Q' | ...], each 64 x 576, into a ring of 11 units (64 x 128 latent columns, four a block of
 *               keys, a warp each) and one of three slots (64 x 64 rotary columns)
 *   score       Q held in registers but for its last three pieces of 64 columns: S = Q K^T, softmax, P to the block's slot, whose
 *               rotary keys are dead by then
 *   value L, R  O[:, 0..255] and O[:, 256..511], in registers: O = O shrink + P V, V the block's units
 *
 * Score hands P of block b on when S of block b + 1 is two thirds done: the values' products then fill the tensor cores during the
 * softmax of b + 1, and their units are free again in time. Held queries spare shared memory (2.75 blocks of keys fit, not two), and
 * its bandwidth: a product of [64, 16] by [64, 16]^T takes about 54 cycles with both operands from there, 34 with one.
 * One block a multiprocessor: 226 KB; registers 24 + 168 + 2 x 160 a thread (a product into 128 registers needs 154 at least); with an
 * FP8 cache 32 + 160 + 2 x 160.
 *
 * Bound: per 64 keys and tile 64 x 64 x (576 + 512) x 2 = 8.9 MFLOP = 2,176 cycles of the tensor cores; bytes 64 x 1,152 a row from
 * device memory. B 128, L 4,096, 128 heads: 146 GFLOP = 148 us at 989 TFLOP/s; 604 MB = 180 us at 3.35 TB/s.
 * Measured, kernel and merge: 279 us in a step on an H100, 245 us on an H200. A block of keys takes about 3,000 cycles, of which the score
 * warpgroup's chain is the longest: S 1,700, softmax 750, handing over 450.
 *
 * Lost: copying keys ahead to the second-level cache (+60 us), evict-first copies (+4 us), handing P on at once (+9 us) or after S (+3 us).
 */
#ifndef PROA_OP_MLA_CUDA_DECODE_CUH
#define PROA_OP_MLA_CUDA_DECODE_CUH

#include "op/mla/cuda_decode_fp8.cuh"
#include "op/mla/cuda_decode_merge.cuh"

namespace proa
{

/* ---- producer ---- */

/* One thread of each of four warps, for one unit of every block each, so that no unit waits for another's; the first copies the rotary
 * pieces too. All of them wait for the slot: a unit's next use is another warp's, and one that was a whole turn of the ring ahead of that
 * warp, where the two sides of values are far apart, would take the end of the use before for that of its own. The loop is kept small:
 * what it spends on a block delays the block. */
__device__ __forceinline__ void mla_produce(const MlaDecode &d, const MlaMaps &maps, MlaShared &m,
                                            int32_t part)
{
    MlaUnitRing unit = {part, 0};
    MlaSlotRing slot = {0, 0};
    MlaWalk walk(d);
    MlaRun run;
    while (walk.step(d, &run)) {
        const int32_t *table = d.table + (int64_t)(run.row / d.rows_per_table) * d.table_stride + run.first;
        int32_t next = __ldg(table);
#pragma unroll 1
        for (int32_t i = run.new_row ? -1 : 0; i < run.blocks; i++) {
            const CUtensorMap *map = i < 0 ? maps.q : maps.cache;
            const int32_t y =
                i < 0 ? run.row * d.heads + (int32_t)blockIdx.x % mla_tiles(d) * MLA_HEADS : next * MLA_BLOCK;
            if (i + 1 < run.blocks)
                next = __ldg(table + i + 1);
            barrier_wait(&m.slot_empty[slot.at], slot.phase ^ 1);
            barrier_wait(&m.unit_empty[unit.at], unit.phase ^ 1);
            barrier_expect(&m.unit_full[unit.at], MLA_UNIT_BYTES);
            copy_tile(m.units[unit.at], map, 0, y, 2 * part, &m.unit_full[unit.at]);
            unit.advance(4);
            if (part == 0) {
                barrier_expect(&m.slot_full[slot.at], MLA_PIECE_BYTES);
                copy_tile(m.slots[slot.at], map + 1, 0, y, 8, &m.slot_full[slot.at]);
            }
            slot.advance(1);
        }
    }
}

/* ---- score: one warpgroup ---- */

/* The first pieces of the queries to registers; the others to their own place. */
__device__ __forceinline__ void mla_take_queries(MlaShared &m, MlaUnitRing *unit, const MlaSlotRing &slot,
                                                 uint32_t (&q)[16 * MLA_HELD])
{
    const int32_t thread = (int32_t)threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
    const int32_t row = warp * 16 + lane % 16;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint8_t *from = m.units[unit->at];
        barrier_wait(&m.unit_full[unit->at], unit->phase);
        if (i < MLA_HELD / 2) {
#pragma unroll
            for (int j = 0; j < 8; j++) /* 16 columns each */
                load_matrices(q + 32 * i + 4 * j, from + j / 4 * MLA_PIECE_BYTES + row * 128 +
                                                      (((j % 4 * 2 + lane / 16) ^ row % 8) << 4));
        } else {
#pragma unroll
            for (int j = 0; j < 8; j++)
                ((uint4 *)m.q[i * 2 - MLA_HELD])[j * 128 + thread] = ((const uint4 *)from)[j * 128 + thread];
        }
        unit->advance(1);
    }
    barrier_wait(&m.slot_full[slot.at], slot.phase);
#pragma unroll
    for (int j = 0; j < 4; j++)
        ((uint4 *)m.q[8 - MLA_HELD])[j * 128 + thread] = ((const uint4 *)m.slots[slot.at])[j * 128 + thread];
    copy_fence();
    threads_meet<1, 128>();
}

/* After a __syncwarp. */
__device__ __forceinline__ void mla_hand_on(MlaShared &m, int32_t *pending, int32_t speaker)
{
    if (*pending >= 0 && speaker == 0)
        barrier_arrive(&m.ready[*pending]);
    *pending = -1;
}

/* S of a block. `pending` is handed on on the way: its values' products then fill the tensor cores during the softmax to come. */
__device__ __forceinline__ void mla_scores(MlaShared &m, MlaUnitRing *unit, const MlaSlotRing &slot,
                                           const uint32_t (&q)[16 * MLA_HELD], float (&s)[32],
                                           int32_t *pending, int32_t speaker)
{
    const uint64_t q_rest = tile_descriptor(m.q), piece = MLA_PIECE_BYTES >> 4;
    product_pin(s);
#pragma unroll
    for (int i = 0; i < 5; i++) {
        if (i == 3) { /* the last unit is the last to arrive */
            mla_hand_on(m, pending, speaker);
            barrier_wait(&m.slot_full[slot.at], slot.phase);
            const uint64_t keys = tile_descriptor(m.slots[slot.at]);
            product_fence();
#pragma unroll
            for (int j = 0; j < 4; j++)
                product_bf16(s, q_rest + (8 - MLA_HELD) * piece + j * 2, keys + j * 2, 1);
            continue;
        }
        barrier_wait(&m.unit_full[unit->at], unit->phase);
        const uint64_t keys = tile_descriptor(m.units[unit->at]);
        product_fence();
#pragma unroll
        for (int j = 0; j < 8; j++) {
            if (i < MLA_HELD / 2)
                product_bf16_held(s, q + 32 * i + 4 * j, keys + j / 4 * piece + j % 4 * 2, i + j);
            else
                product_bf16(s, q_rest + (6 - MLA_HELD + j / 4) * piece + j % 4 * 2,
                             keys + j / 4 * piece + j % 4 * 2, 1);
        }
        unit->advance(1);
    }
    product_commit();
    product_wait<0>();
    product_pin(s);
    if (speaker == 0)
        barrier_arrive(&m.scored);
}

/* s becomes 2^(scale_log2 (s - top)). top, the row's own reference, follows the largest score once that is 2^8 above it: as exact, and
 * seldom a shrink other than 1. Returns by what the earlier ones shrink. */
__device__ __forceinline__ void mla_softmax(float (&s)[32], int32_t keys, float scale_log2, float (&top)[2],
                                            float (&sum)[2], float (&shrink)[2])
{
    if (keys < MLA_BLOCK) {
        const int32_t column = (int32_t)threadIdx.x % 4 * 2;
#pragma unroll
        for (int i = 0; i < 32; i++)
            if (i / 4 * 8 + column + (i & 1) >= keys)
                s[i] = -INFINITY;
    }
    float largest[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float a = fmaxf(s[2 * r], s[2 * r + 1]), b = fmaxf(s[4 + 2 * r], s[5 + 2 * r]);
#pragma unroll
        for (int i = 8; i < 32; i += 8) {
            a = fmaxf(a, fmaxf(s[i + 2 * r], s[i + 2 * r + 1]));
            b = fmaxf(b, fmaxf(s[i + 4 + 2 * r], s[i + 5 + 2 * r]));
        }
        largest[r] = fmaxf(a, b);
    }
#pragma unroll
    for (int step = 1; step < 4; step *= 2)
#pragma unroll
        for (int r = 0; r < 2; r++)
            largest[r] = fmaxf(largest[r], __shfl_xor_sync(~0u, largest[r], step));
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const bool follow = (largest[r] - top[r]) * scale_log2 > 8;
        shrink[r] = follow ? exp2_fast((top[r] - largest[r]) * scale_log2) : 1;
        top[r] = follow ? largest[r] : top[r];
        const float base = top[r] * scale_log2;
        float even = 0, odd = 0;
#pragma unroll
        for (int i = 0; i < 32; i += 4) {
            s[i + 2 * r] = exp2_fast(fmaf(s[i + 2 * r], scale_log2, -base));
            s[i + 2 * r + 1] = exp2_fast(fmaf(s[i + 2 * r + 1], scale_log2, -base));
            even += s[i + 2 * r];
            odd += s[i + 2 * r + 1];
        }
        sum[r] = fmaf(sum[r], shrink[r], even + odd);
    }
}

/* P, rounded to bf16, as operand a of the values' products. */
__device__ __forceinline__ void mla_put(uint8_t *p, const float (&s)[32])
{
    const int32_t lane = (int32_t)threadIdx.x % 32, row = (int32_t)threadIdx.x % 128 / 32 * 16 + lane % 16;
    uint8_t *to = p + row * 128;
#pragma unroll
    for (int i = 0; i < 4; i++) { /* 16 keys each */
        uint32_t packed[4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            packed[j] = packed_bf16(s[8 * i + 2 * j], s[8 * i + 2 * j + 1]);
        }
        store_matrices(to + (((2 * i + lane / 16) ^ row % 8) << 4), packed);
    }
}

/* A split's end: sums of the four threads of a row, to the values' warpgroups and, for the merge or the caller, out. A row of whose splits
 * others have none is merged here, at the place of its first one; the same thread writes and reads it. */
__device__ __forceinline__ void mla_finish(const MlaDecode &d, const MlaRun &run, MlaEnd *end,
                                           float scale_log2, const float (&top)[2], float (&sum)[2],
                                           MlaNote *note)
{
    const int32_t thread = (int32_t)threadIdx.x % 128, row = thread / 32 * 16 + thread % 32 / 4;
    const int32_t tiles = mla_tiles(d), tile = (int32_t)blockIdx.x % tiles;
    const bool out = (run.ends & MLA_NOTE_OUT) != 0, merge = (run.ends & MLA_NOTE_MERGE) != 0;
    const int32_t place = mla_first(d, run.row) + run.part;
    note->what |= run.ends;
    note->to = out ? run.row : place;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
        sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
        if (thread % 4 != 0)
            continue;
        const int32_t at = row + 8 * r, head = tile * MLA_HEADS + at;
        float2 *kept = d.part_sum + ((int64_t)place * tiles + tile) * MLA_HEADS + at;
        float2 total = make_float2(top[r], sum[r]);
        if (merge) {
            total = *kept;
            mla_merge(&total, make_float2(top[r], sum[r]), scale_log2, &end->old[at], &end->added[at]);
        }
        end->inverse[at] = 1 / total.y;
        if (!out)
            *kept = total;
        else if (d.lse != nullptr && head < d.heads)
            d.lse[(int64_t)run.row * d.heads + head] = total.x * d.scale + logf(total.y);
    }
}

__device__ __forceinline__ void mla_score(const MlaDecode &d, MlaShared &m)
{
    const int32_t thread = (int32_t)threadIdx.x % 128, lane = thread % 32, row = thread / 32 * 16 + lane / 4;
    const int32_t speaker = thread % ARRIVAL_LANES; /* 0: arrives */
    const float scale_log2 = d.scale * 1.4426950408889634f;
    uint32_t q[16 * MLA_HELD];
    float s[32], top[2], sum[2], shrink[2];
    uint32_t scored = 0, turn = 0;
    int32_t pending = -1; /* the slot whose P is written and not handed on */
    MlaUnitRing unit = {0, 0};
    MlaSlotRing slot = {0, 0};
    MlaWalk walk(d);
    MlaRun run;
    while (walk.step(d, &run)) {
        if (run.new_row) {
            mla_hand_on(m, &pending, speaker);
            mla_take_queries(m, &unit, slot, q);
            if (speaker == 0) {
                if (lane == 0)
                    m.note[slot.at][thread / 32].what = 0;
                barrier_arrive(&m.ready[slot.at]);
            }
            slot.advance(1);
        }
        top[0] = top[1] = -INFINITY;
        sum[0] = sum[1] = 0;
        for (int32_t i = 0; i < run.blocks; i++) {
            const int32_t keys = i + 1 == run.blocks ? run.tail : MLA_BLOCK;
            mla_scores(m, &unit, slot, q, s, &pending, speaker);
            mla_softmax(s, keys, scale_log2, top, sum, shrink);
            MlaNote note = {keys | (i == 0 ? MLA_NOTE_FIRST : 0), 0};
            if (__any_sync(~0u, shrink[0] != 1 || shrink[1] != 1)) {
                note.what |= MLA_NOTE_SHRINK;
                if (lane % 4 == 0) {
                    m.shrink[slot.at][row] = shrink[0];
                    m.shrink[slot.at][row + 8] = shrink[1];
                }
            }
            if (i + 1 == run.blocks) {
                note.what |= turn != 0 ? MLA_NOTE_TURN : 0;
                mla_finish(d, run, &m.end[turn], scale_log2, top, sum, &note);
                turn ^= 1;
            }
            if (lane == 0)
                m.note[slot.at][thread / 32] = note;
            barrier_wait(&m.scored, scored); /* all four warps have read the rotary keys */
            scored ^= 1;
            mla_put(m.slots[slot.at], s);
            copy_fence();
            __syncwarp();
            pending = slot.at;
            slot.advance(1);
        }
    }
    mla_hand_on(m, &pending, speaker);
    barrier_wait(&m.slot_empty[slot.at], slot.phase ^ 1);
    if (speaker == 0) {
        if (lane == 0)
            m.note[slot.at][thread / 32].what = -1;
        barrier_arrive(&m.ready[slot.at]);
    }
}

/* ---- value: two warpgroups ---- */

/* The last block's rows beyond its keys may hold anything, NaN too, and P's zeros would not hide that. */
__device__ __forceinline__ void mla_clear_tail(uint8_t *left, uint8_t *right, int32_t keys, int32_t side)
{
    const int32_t thread = (int32_t)threadIdx.x % 128, each = (MLA_BLOCK - keys) * 8;
    for (int32_t i = thread; i < 4 * each; i += 128)
        *(uint4 *)((i < 2 * each ? left : right) + i / each % 2 * MLA_PIECE_BYTES + keys * 128 +
                   i % each * 16) = make_uint4(0, 0, 0, 0);
    copy_fence();
    if (side == 0)
        threads_meet<2, 128>();
    else
        threads_meet<3, 128>();
}

__device__ __forceinline__ void mla_value(const MlaDecode &d, MlaShared &m, int32_t side)
{
    const int32_t row = (int32_t)threadIdx.x % 128 / 32 * 16 + (int32_t)threadIdx.x % 32 / 4;
    float o[2][64]; /* 128 columns each */
    MlaUnitRing left = {2 * side, 0}, right = {2 * side + 1, 0};
    for (MlaSlotRing slot = {0, 0};; slot.advance(1)) {
        barrier_wait(&m.ready[slot.at], slot.phase);
        const MlaNote note = m.note[slot.at][threadIdx.x % 128 / 32];
        const int32_t keys = note.what & MLA_NOTE_KEYS;
        if (note.what < 0)
            break;
        if (keys > 0) {
            const int32_t more = (note.what & MLA_NOTE_FIRST) == 0;
            if (more && (note.what & MLA_NOTE_SHRINK) != 0) { /* leaving out a product by 1 changes no bit */
                const float shrink0 = m.shrink[slot.at][row], shrink1 = m.shrink[slot.at][row + 8];
#pragma unroll
                for (int j = 0; j < 128; j += 4) {
                    o[j / 64][j % 64] *= shrink0;
                    o[j / 64][j % 64 + 1] *= shrink0;
                    o[j / 64][j % 64 + 2] *= shrink1;
                    o[j / 64][j % 64 + 3] *= shrink1;
                }
            }
            if ((note.what & MLA_NOTE_MERGE) != 0)
                mla_call_part(d, (note.what & MLA_NOTE_OUT) != 0 ? mla_first(d, note.to) : note.to, side);
            if (keys < MLA_BLOCK)
                mla_clear_tail(m.units[left.at], m.units[right.at], keys, side);
            const uint64_t p = tile_descriptor(m.slots[slot.at]);
            const uint64_t v0 = values_descriptor(m.units[left.at], MLA_PIECE_BYTES);
            const uint64_t v1 = values_descriptor(m.units[right.at], MLA_PIECE_BYTES);
            product_pin(o[0]);
            product_pin(o[1]);
            product_fence();
#pragma unroll
            for (int j = 0; j < 4; j++) /* 16 keys each */
                product_bf16_values(o[0], p + 2 * j, v0 + 128 * j, j > 0 ? 1 : more);
            product_commit();
#pragma unroll
            for (int j = 0; j < 4; j++)
                product_bf16_values(o[1], p + 2 * j, v1 + 128 * j, j > 0 ? 1 : more);
            product_commit();
            product_wait<1>();
            if (threadIdx.x % ARRIVAL_LANES == 0)
                barrier_arrive(&m.unit_empty[left.at]);
            product_wait<0>();
            product_pin(o[0]);
            product_pin(o[1]);
        }
        MlaFactors factors = {};
        const bool ends = (note.what & (MLA_NOTE_OUT | MLA_NOTE_PART)) != 0;
        if (ends) { /* else score may be writing the next end */
            const MlaEnd &end = m.end[(note.what & MLA_NOTE_TURN) != 0];
            factors = {{end.old[row], end.old[row + 8]},
                       {end.added[row], end.added[row + 8]},
                       {end.inverse[row], end.inverse[row + 8]}};
        }
        __syncwarp();
        if (threadIdx.x % ARRIVAL_LANES == 0) {
            if (keys == 0)
                barrier_arrive(&m.unit_empty[left.at]);
            barrier_arrive(&m.unit_empty[right.at]);
            barrier_arrive(&m.slot_empty[slot.at]);
        }
        left.advance(4);
        right.advance(4);
        if (ends)
            mla_end_split(d, note, factors, o, row, side);
    }
}

/* Registers a thread of the copying warps, and of the score's: together 192. */
template <bool FP8> struct MlaRegisters {
    static constexpr int COPY = FP8 ? 32 : 24, SCORE = 192 - COPY;
};

template <bool FP8>
__global__ void __launch_bounds__(MLA_THREADS, 1)
    mla_decode(const __grid_constant__ MlaMaps maps, const MlaDecode d)
{
    extern __shared__ __align__(1024) uint8_t memory[];
    MlaShared &m = *(MlaShared *)memory;
    const int32_t warpgroup = __shfl_sync(~0u, (int32_t)threadIdx.x / 128, 0);

    if (threadIdx.x == 0) {
        for (int i = 0; i < MLA_UNITS; i++) {
            barrier_init(&m.unit_full[i], FP8 ? 4 * WARP_ARRIVES : 1);
            if (FP8)
                barrier_init(&m.unit_copied[i], 1);
            barrier_init(&m.unit_empty[i], 4 * WARP_ARRIVES); /* warps of one side */
        }
        for (int i = 0; i < MLA_SLOTS; i++) {
            barrier_init(&m.slot_full[i], 1);
            barrier_init(&m.slot_empty[i], 8 * WARP_ARRIVES);
            barrier_init(&m.ready[i], 4 * WARP_ARRIVES);
        }
        barrier_init(&m.scored, 4 * WARP_ARRIVES);
        barrier_init_fence();
        for (int i = 0; i < 2; i++) {
            prefetch_map(&maps.q[i]);
            prefetch_map(&maps.cache[i]);
        }
    }
    __syncthreads();
    follow_allow();
    follow_wait();

    if (warpgroup == 0) {
        registers_fewer<MlaRegisters<FP8>::COPY>();
        if constexpr (FP8)
            mla_produce_fp8(d, maps, m);
        else if (threadIdx.x % 32 == 0)
            mla_produce(d, maps, m, (int32_t)threadIdx.x / 32);
    } else if (warpgroup == 1) {
        registers_more<MlaRegisters<FP8>::SCORE>();
        mla_score(d, m);
    } else {
        registers_more<160>();
        mla_value(d, m, warpgroup - 2);
    }
}

} // namespace proa

#endif
