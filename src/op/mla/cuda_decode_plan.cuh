/* cuda_decode_plan.cuh - the work of decode attention: its shapes, how a step's splits are spread over blocks, and a block's walk through its
 * own. cuda_decode.cuh says what splits and stretches are.
 */
#ifndef PROA_OP_MLA_CUDA_DECODE_PLAN_CUH
#define PROA_OP_MLA_CUDA_DECODE_PLAN_CUH

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
    float *part;          /* [splits, tiles, 2, 32, 128, 4]: accumulators as the value warpgroups hold them */
    float2 *part_sum;     /* [splits, tiles, 64]: largest score, and sum of e^(score - largest) */
    const uint8_t *codes; /* the cache, where it is FP8: [blocks * 64, 656] */
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

} // namespace proa

#endif
