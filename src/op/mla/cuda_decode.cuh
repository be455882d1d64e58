/* cuda_decode.cuh - absorbed latent attention of a decode step on a Hopper GPU (mla.h, absorbed form).
 *
 *   q      bf16 [rows, heads, 576]: 512 of q_lat, 64 of q_pe
 *   cache  bf16 [blocks, 64, 576] of one layer: 512 of kv_lora, 64 of k_pe
 *   out    bf16 [rows, heads, 512]; lse float32 [rows, heads], natural, or NULL
 *   s = scale (q . k) over the row's keys 0 .. length - 1, out = softmax(s) . kv_lora
 *
 * Work. A tile is 64 heads of one row; a row's keys are cut into splits at multiples of MLA_SPLIT positions, whatever the batch is.
 * A split's partial result (largest score, sum, weighed values, all float32) never depends on who computes it; a row's splits are merged
 * in their order (mla_merge): by the block that has all of them, else by a second kernel, with the same bits; a single split is written
 * at once. So a row's bits depend on its own q, keys and length (law 2). mla_plan, once a step, cuts the list of all splits into a
 * stretch a block, by cost.
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
 * One block a multiprocessor: 226 KB; registers 24 + 168 + 2 x 160 a thread (a product into 128 registers needs 154 at least).
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

#include "op/ptx/products.cuh"

namespace proa
{

enum {
    MLA_BLOCK = 64, /* keys of a cache block */
    MLA_HEADS = 64, /* of a tile */
    MLA_LATENT = 512,
    MLA_PIECES = 9, /* of 64 columns in a row of the cache: eight latent, one rotary */
    MLA_PIECE_BYTES = MLA_BLOCK * 128,
    MLA_UNIT_BYTES = 2 * MLA_PIECE_BYTES, /* 128 columns */
    MLA_UNITS = 11,
    MLA_SLOTS = 3,
    MLA_HELD = 6, /* pieces of the queries in registers */
    MLA_THREADS = 512,
    MLA_ROWS_MAX = 8192,
    MLA_COST_SPLIT = 1, /* in blocks of keys: what a split costs beside its blocks */
    MLA_COST_ROW = 2,   /* and a row's first one in a stretch */
};
/* Keys of a split: a result of fewer (1,024: +50 us at B 128, L 4,096) costs more to write and merge, one of more (4,096: -37 us) leaves
 * small batches to few multiprocessors (B 1: 127 us for 70). Part of what a row's bits depend on. */
enum { MLA_SPLIT_BLOCKS = 32, MLA_SPLIT = MLA_SPLIT_BLOCKS * MLA_BLOCK };

/* Splits from (row, split) up to, not including, (row_end, split_end). */
struct MlaStretch {
    int32_t row;
    int32_t split;
    int32_t row_end;
    int32_t split_end;
};

struct MlaDecode {
    int32_t rows;
    int32_t heads;
    int32_t
        rows_per_table; /* new rows of a sequence, neighbours: row r is number r % rows_per_table of them */
    int32_t table_stride;
    const int32_t *table; /* [rows / rows_per_table, table_stride] */
    const int32_t
        *lengths; /* [rows / rows_per_table]: keys of the sequence, the new rows' own among them; 0: none */
    const MlaStretch *stretches; /* [grid / tiles] */
    const int32_t *
        first_split; /* [rows]: twice the splits of the rows before, plus 1 where the row's own are cut apart */
    float scale;
    __nv_bfloat16 *out;
    float *lse;
    float *part;      /* [splits, tiles, 2, 32, 128, 4]: accumulators as the value warpgroups hold them */
    float2 *part_sum; /* [splits, tiles, 64]: largest score, and sum of e^(score - largest) */
};

__device__ __forceinline__ int32_t mla_tiles(const MlaDecode &d)
{
    return (d.heads + MLA_HEADS - 1) / MLA_HEADS;
}

/* Keys that row r sees. */
__device__ __forceinline__ int32_t mla_length(const MlaDecode &d, int32_t r)
{
    return d.lengths[r / d.rows_per_table] - (d.rows_per_table - 1 - r % d.rows_per_table);
}

__device__ __forceinline__ int32_t mla_splits(int32_t length)
{
    return length <= 0 ? 0 : (length + MLA_SPLIT - 1) / MLA_SPLIT;
}

/* (m, l) of the splits so far takes in those of the next one; what is weighed alike shrinks by `old` and the next one's by `added`. */
__device__ __forceinline__ void mla_merge(float2 *total, float2 next, float scale_log2, float *old,
                                          float *added)
{
    const float top = fmaxf(total->x, next.x);
    *old = exp2_fast((total->x - top) * scale_log2);
    *added = exp2_fast((next.x - top) * scale_log2);
    total->x = top;
    total->y = fmaf(total->y, *old, next.y * *added);
}

/* ---- the plan ---- */

/* Cuts the list into stretches that cost at most `limit`; true if `parts` are enough. */
__device__ inline bool mla_cut(const int32_t *length, int32_t rows, int32_t parts, int32_t limit,
                               MlaStretch *stretches)
{
    int32_t part = 0, left = limit;
    MlaStretch now = {0, 0, 0, 0};
    for (int32_t row = 0; row < rows; row++) {
        const int32_t splits = mla_splits(length[row]);
        if (splits == 0)
            continue;
        const int32_t whole = MLA_SPLIT_BLOCKS + MLA_COST_SPLIT;
        const int32_t tail =
            (length[row] - (splits - 1) * MLA_SPLIT + MLA_BLOCK - 1) / MLA_BLOCK + MLA_COST_SPLIT;
        int32_t split = 0;
        for (;;) {
            const int32_t room = left - MLA_COST_ROW;
            const int32_t rest = (splits - split - 1) * whole + tail;
            if (room >= rest) {
                left = room - rest;
                break;
            }
            const int32_t fitting = room < 0 ? 0 : room / whole;
            split += min(fitting, splits - split - 1);
            if (stretches != nullptr) {
                now.row_end = row;
                now.split_end = split;
                stretches[part] = now;
                now.row = row;
                now.split = split;
            }
            if (++part == parts)
                return false;
            left = limit;
        }
    }
    if (stretches != nullptr) {
        now.row_end = rows;
        now.split_end = 0;
        stretches[part] = now;
        now.row = rows;
        now.split = 0;
        while (++part < parts)
            stretches[part] = now;
    }
    return true;
}

constexpr int32_t MLA_LIMITS =
    ((int32_t)MLA_SPLIT_BLOCKS + (int32_t)MLA_COST_SPLIT + 3 * (int32_t)MLA_COST_ROW + 2 + 31) / 32 * 32;

/* One block, each thread of which tries a limit: the smallest one that fits wins. A stretch is left at most a split and two rows' worth
 * unfilled, so this many limits are enough. Dynamic shared memory: 4 bytes a row. */
__global__ void __launch_bounds__(MLA_LIMITS)
    mla_plan(const MlaDecode d, int32_t parts, MlaStretch *stretches, int32_t *first_split)
{
    extern __shared__ int32_t length[];
    __shared__ int32_t total, best;
    follow();
    if (threadIdx.x == 0) {
        total = 0;
        best = INT32_MAX;
    }
    __syncthreads();
    for (int32_t r = (int32_t)threadIdx.x; r < d.rows; r += MLA_LIMITS) {
        length[r] = mla_length(d, r);
        const int32_t splits = mla_splits(length[r]);
        if (splits > 0)
            atomicAdd(&total,
                      (length[r] + MLA_BLOCK - 1) / MLA_BLOCK + splits * MLA_COST_SPLIT + MLA_COST_ROW);
    }
    __syncthreads();
    const int32_t limit = total / parts + 1 + (int32_t)threadIdx.x;
    if (mla_cut(length, d.rows, parts, limit, nullptr))
        atomicMin(&best, limit);
    __syncthreads();
    if (threadIdx.x == 0)
        mla_cut(length, d.rows, parts, best, stretches);
    if (threadIdx.x == MLA_LIMITS - 1) {
        int32_t before = 0;
        for (int32_t r = 0; r < d.rows; r++) {
            first_split[r] = before * 2;
            before += mla_splits(length[r]);
        }
    }
    __syncthreads();
    for (int32_t i = (int32_t)threadIdx.x; i < parts; i += MLA_LIMITS)
        if (stretches[i].row_end < d.rows && stretches[i].split_end > 0)
            first_split[stretches[i].row_end] |= 1; /* several may say so */
}

/* The first of a row's splits in the list of all. */
__device__ __forceinline__ int32_t mla_first(const MlaDecode &d, int32_t row)
{
    return d.first_split[row] / 2;
}

/* What the value warpgroups need to know of a slot: they have no registers to walk the plan themselves. A warp's note is for the two
 * that have its rows of O. */
struct __align__(8) MlaNote
{
    int32_t what; /* keys of the block, 0: the slot held queries, -1: there is no more; and flags */
    int32_t to;   /* at a split's end, the row, or the split's place in the list of all */
};

enum {
    MLA_NOTE_KEYS = 127,
    MLA_NOTE_FIRST = 128, /* block of its split */
    MLA_NOTE_SHRINK = 256,
    MLA_NOTE_OUT = 512, /* the end of a row */
    MLA_NOTE_PART =
        1024, /* the end of a split, which more have to follow, or others have to be merged with */
    MLA_NOTE_MERGE = 2048, /* the row's splits before are this block's, and merged: this one comes to them */
    MLA_NOTE_TURN = 4096,  /* which of the two ends */
};

/* ---- the walk of a block: every role takes the same one ---- */

struct MlaRun {
    int32_t row;
    int32_t
        part; /* where its result is kept, from the row's first place on: a row of one block alone has one */
    int32_t first;  /* block of keys */
    int32_t blocks; /* at least one */
    int32_t tail;   /* keys of the last one */
    bool new_row;   /* a slot with the row's queries comes first */
    int32_t ends;   /* how: flags of MlaNote */
};

struct MlaWalk {
    MlaStretch at;
    int32_t length;
    bool new_row, own;

    __device__ __forceinline__ MlaWalk(const MlaDecode &d)
    {
        const int4 s = ((const int4 *)d.stretches)[blockIdx.x / mla_tiles(d)];
        at = {s.x, s.y, s.z, s.w};
        new_row = true;
        own = false;
        length = 0;
    }

    __device__ __forceinline__ bool step(const MlaDecode &d, MlaRun *run)
    {
        for (;;) {
            if (at.row == at.row_end && at.split == at.split_end)
                return false;
            if (new_row) {
                length = mla_length(d, at.row);
                own = at.split == 0 && at.row < at.row_end;
            }
            if (length > 0)
                break;
            at.row++;
        }
        const int32_t splits = mla_splits(length), first = at.split * MLA_SPLIT,
                      keys = min(MLA_SPLIT, length - first);
        run->row = at.row;
        run->part = own ? 0 : at.split;
        run->first = first / MLA_BLOCK;
        run->blocks = (keys + MLA_BLOCK - 1) / MLA_BLOCK;
        run->tail = keys - (run->blocks - 1) * MLA_BLOCK;
        run->new_row = new_row;
        run->ends = own && at.split > 0 ? MLA_NOTE_MERGE : 0;
        new_row = ++at.split == splits;
        run->ends |= (own ? new_row : splits == 1) ? MLA_NOTE_OUT : MLA_NOTE_PART;
        if (new_row) {
            at.row++;
            at.split = 0;
        }
        return true;
    }
};

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

/* With a split's last block. */
struct MlaEnd {
    float inverse[MLA_HEADS];               /* 1 / sum */
    float old[MLA_HEADS], added[MLA_HEADS]; /* by what the row's splits before shrink, and this one */
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
};
static_assert(sizeof(MlaShared) <= 232448, "one block's shared memory");

/* ---- producer ---- */

struct MlaMaps {
    CUtensorMap q[2];     /* [9][rows * heads][64], boxes of 64 heads and two pieces, or one */
    CUtensorMap cache[2]; /* [9][blocks * 64][64], boxes of 64 keys and two pieces, or one */
};

/* One thread of each of four warps, for one unit of every block each, so that no unit waits for another's; the first copies the rotary
 * pieces too. All of them wait for the slot: a unit's next use is another warp's, and one that was a whole turn of the ring ahead of that
 * warp, where the two sides of values are far apart, would take the end of the use before for that of its own. The loop is kept small:
 * what it spends on a block delays the block. */
__device__ __forceinline__ void mla_produce(const MlaDecode &d, const MlaMaps &maps, MlaShared &m,
                                            int32_t part)
{
    MlaRing<MLA_UNITS> unit = {part, 0};
    MlaRing<MLA_SLOTS> slot = {0, 0};
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

typedef MlaRing<MLA_UNITS> MlaUnitRing;
typedef MlaRing<MLA_SLOTS> MlaSlotRing;

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

__device__ __forceinline__ void mla_write_part(const MlaDecode &d, int32_t place, const float (&o)[2][64],
                                               int32_t side)
{
    const int32_t tiles = mla_tiles(d), tile = (int32_t)blockIdx.x % tiles;
    const int64_t at = ((int64_t)place * tiles + tile) * 2 + side;
    float4 *to = (float4 *)d.part + at * 4096 + threadIdx.x % 128;
#pragma unroll
    for (int i = 0; i < 32; i++) {
        const float *from = &o[i / 16][i % 16 * 4];
        to[i * 128] = make_float4(from[0] + 0.0f, from[1] + 0.0f, from[2] + 0.0f, from[3] + 0.0f);
    }
}

/* Of a thread's two rows, at a split's end. */
struct MlaFactors {
    float old[2], added[2], inverse[2];
};

/* What will be merged, on its way to the second-level cache: it was written a split ago. */
__device__ __forceinline__ void mla_call_part(const MlaDecode &d, int32_t place, int32_t side)
{
    const int32_t tiles = mla_tiles(d), tile = (int32_t)blockIdx.x % tiles;
    const int64_t at = ((int64_t)place * tiles + tile) * 2 + side;
    const uint8_t *from = (const uint8_t *)((const float4 *)d.part + at * 4096) + threadIdx.x % 128 * 128;
#pragma unroll
    for (int i = 0; i < 4; i++) /* 64 KiB, a line of 128 bytes a thread */
        prefetch_line(from + i * 16384);
}

/* o = the splits before, which this thread wrote, and this one: as mla_combine merges them, to the bit (no part has a negative zero). */
__device__ __forceinline__ void mla_merge_part(const MlaDecode &d, int32_t place, const MlaFactors &by,
                                               float (&o)[2][64], int32_t side)
{
    constexpr int AT_ONCE = 4;
    const int32_t tiles = mla_tiles(d), tile = (int32_t)blockIdx.x % tiles;
    const int64_t at = ((int64_t)place * tiles + tile) * 2 + side;
    const float4 *from = (const float4 *)d.part + at * 4096 + threadIdx.x % 128;
#pragma unroll
    for (int i = 0; i < 32; i += AT_ONCE) {
        float4 before[AT_ONCE];
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++)
            before[j] = from[(i + j) * 128];
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++) {
            float *to = &o[(i + j) / 16][(i + j) % 16 * 4];
            to[0] = fmaf(before[j].x, by.old[0], (to[0] + 0.0f) * by.added[0]);
            to[1] = fmaf(before[j].y, by.old[0], (to[1] + 0.0f) * by.added[0]);
            to[2] = fmaf(before[j].z, by.old[1], (to[2] + 0.0f) * by.added[1]);
            to[3] = fmaf(before[j].w, by.old[1], (to[3] + 0.0f) * by.added[1]);
        }
    }
}

/* Four neighbours have the 8 columns of a piece between them; they trade, so that each has a piece of its own: of pieces 0 to 3 that of its
 * place. Two bf16 values a word, words[i] of piece i. */
__device__ __forceinline__ uint4 mla_trade(uint32_t (&words)[4])
{
    const int32_t place = (int32_t)threadIdx.x % 4;
#pragma unroll
    for (int step = 1; step < 4; step *= 2) /* a transpose of 4 x 4: by 2 x 2, then within */
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if ((i & step) != 0)
                continue;
            const bool upper = (place & step) != 0;
            const uint32_t give = upper ? words[i] : words[i + step];
            const uint32_t got = __shfl_xor_sync(~0u, give, step);
            words[i] = upper ? got : words[i];
            words[i + step] = upper ? words[i + step] : got;
        }
    return make_uint4(words[0], words[1], words[2], words[3]);
}

__device__ __forceinline__ void mla_write_out(const MlaDecode &d, int32_t q_row, int32_t row, int32_t side,
                                              const float (&o)[2][64], float inverse0, float inverse1)
{
    const int32_t head = (int32_t)blockIdx.x % mla_tiles(d) * MLA_HEADS + row;
    __nv_bfloat16 *to =
        d.out + ((int64_t)q_row * d.heads + head) * MLA_LATENT + side * 256 + (int32_t)threadIdx.x % 4 * 8;
#pragma unroll
    for (int i = 0; i < 128; i += 16) { /* four pieces of 8 columns */
        uint32_t first[4], second[4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const float *from = &o[i / 64][(i + 4 * j) % 64];
            first[j] = packed_bf16(from[0] * inverse0, from[1] * inverse0);
            second[j] = packed_bf16(from[2] * inverse1, from[3] * inverse1);
        }
        const uint4 upper = mla_trade(first), lower = mla_trade(second);
        if (head < d.heads)
            *(uint4 *)(to + 2 * i) = upper;
        if (head + 8 < d.heads)
            *(uint4 *)(to + 8 * MLA_LATENT + 2 * i) = lower;
    }
}

/* O of a split goes out, with those that are merged already. */
__device__ __forceinline__ void mla_end_split(const MlaDecode &d, const MlaNote &note, const MlaFactors &by,
                                              float (&o)[2][64], int32_t row, int32_t side)
{
    const bool out = (note.what & MLA_NOTE_OUT) != 0;
    if ((note.what & MLA_NOTE_MERGE) != 0)
        mla_merge_part(d, out ? mla_first(d, note.to) : note.to, by, o, side);
    if (out)
        mla_write_out(d, note.to, row, side, o, by.inverse[0], by.inverse[1]);
    else
        mla_write_part(d, note.to, o, side);
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
        const MlaEnd &end = m.end[(note.what & MLA_NOTE_TURN) != 0];
        const MlaFactors factors = {{end.old[row], end.old[row + 8]},
                                    {end.added[row], end.added[row + 8]},
                                    {end.inverse[row], end.inverse[row + 8]}};
        __syncwarp();
        if (threadIdx.x % ARRIVAL_LANES == 0) {
            if (keys == 0)
                barrier_arrive(&m.unit_empty[left.at]);
            barrier_arrive(&m.unit_empty[right.at]);
            barrier_arrive(&m.slot_empty[slot.at]);
        }
        left.advance(4);
        right.advance(4);
        if ((note.what & (MLA_NOTE_OUT | MLA_NOTE_PART)) != 0)
            mla_end_split(d, note, factors, o, row, side);
    }
}

__global__ void __launch_bounds__(MLA_THREADS, 1)
    mla_decode(const __grid_constant__ MlaMaps maps, const MlaDecode d)
{
    extern __shared__ __align__(1024) uint8_t memory[];
    MlaShared &m = *(MlaShared *)memory;
    const int32_t warpgroup = __shfl_sync(~0u, (int32_t)threadIdx.x / 128, 0);

    if (threadIdx.x == 0) {
        for (int i = 0; i < MLA_UNITS; i++) {
            barrier_init(&m.unit_full[i], 1);
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
        registers_fewer<24>();
        if (threadIdx.x % 32 == 0)
            mla_produce(d, maps, m, (int32_t)threadIdx.x / 32);
    } else if (warpgroup == 1) {
        registers_more<168>();
        mla_score(d, m);
    } else {
        registers_more<160>();
        mla_value(d, m, warpgroup - 2);
    }
}

/* ---- merging the splits of rows that are cut apart, in their order ---- */

enum { MLA_CHUNKS = 8 }; /* blocks that share a tile's columns */

/* Grid (rows, tiles * MLA_CHUNKS), 256 threads: those of the value warpgroups, whose accumulators were kept. */
__global__ void __launch_bounds__(256) mla_combine(const MlaDecode d)
{
    constexpr int EACH = 32 / MLA_CHUNKS;
    const int32_t row = (int32_t)blockIdx.x, tiles = mla_tiles(d), tile = (int32_t)blockIdx.y / MLA_CHUNKS;
    const int32_t chunk = (int32_t)blockIdx.y % MLA_CHUNKS, side = (int32_t)threadIdx.x / 128,
                  thread = (int32_t)threadIdx.x % 128;
    const int32_t lane = thread % 32, at = thread / 32 * 16 + lane / 4, head = tile * MLA_HEADS + at;
    follow();
    const int32_t splits = mla_splits(mla_length(d, row));
    if (splits > 0 && d.first_split[row] % 2 == 0)
        return; /* one block had them all */
    const int64_t first = splits == 0 ? 0 : mla_first(d, row);
    const float scale_log2 = d.scale * 1.4426950408889634f;
    const float2 none = make_float2(-INFINITY, 0);
    float4 o[EACH];
    float2 total[2] = {none, none};
    for (int i = 0; i < EACH; i++)
        o[i] = make_float4(0, 0, 0, 0);
    for (int32_t s = 0; s < splits; s++) {
        const float4 *from = (const float4 *)d.part + (((first + s) * tiles + tile) * 2 + side) * 4096 +
                             chunk * EACH * 128 + thread;
        const float2 *sums = d.part_sum + ((first + s) * tiles + tile) * MLA_HEADS + at;
        float old[2], added[2];
        float4 next[EACH];
#pragma unroll
        for (int i = 0; i < EACH; i++)
            next[i] = __ldcs(from + i * 128);
        mla_merge(total, sums[0], scale_log2, old, added);
        mla_merge(total + 1, sums[8], scale_log2, old + 1, added + 1);
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            o[i].x = fmaf(o[i].x, old[0], next[i].x * added[0]);
            o[i].y = fmaf(o[i].y, old[0], next[i].y * added[0]);
            o[i].z = fmaf(o[i].z, old[1], next[i].z * added[1]);
            o[i].w = fmaf(o[i].w, old[1], next[i].w * added[1]);
        }
    }
    const float inverse0 = splits == 0 ? 0 : 1 / total[0].y, inverse1 = splits == 0 ? 0 : 1 / total[1].y;
    __nv_bfloat16 *to =
        d.out + ((int64_t)row * d.heads + head) * MLA_LATENT + side * 256 + chunk * EACH * 8 + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        if (head < d.heads)
            *(__nv_bfloat162 *)(to + 8 * i) = __floats2bfloat162_rn(o[i].x * inverse0, o[i].y * inverse0);
        if (head + 8 < d.heads)
            *(__nv_bfloat162 *)(to + 8 * MLA_LATENT + 8 * i) =
                __floats2bfloat162_rn(o[i].z * inverse1, o[i].w * inverse1);
    }
    if (d.lse != nullptr && chunk == 0 && side == 0 && lane % 4 == 0) {
        float *lse = d.lse + (int64_t)row * d.heads + head;
        if (head < d.heads)
            lse[0] = splits == 0 ? -INFINITY : total[0].x * d.scale + logf(total[0].y);
        if (head + 8 < d.heads)
            lse[8] = splits == 0 ? -INFINITY : total[1].x * d.scale + logf(total[1].y);
    }
}

} // namespace proa

#endif
