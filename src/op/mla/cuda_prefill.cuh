/* cuda_prefill.cuh - expanded attention of prompts on Hopper GPUs: causal, after a prefix, over segments of any length.
 *
 *   o[r, h] = softmax(scale * q[r, h] . k[0 .. p, h]) v[0 .. p, h],  p = position of row r,  k = k_nope[h] | k_pe
 *
 *   q     bf16 [rows, heads, 192]   nope 128 | rope 64
 *   kv    bf16 [keys, heads, 256]   kv_b_proj's output: k_nope 128 | v 128
 *   k_pe  bf16 [keys, 64]           of all heads
 *   out   bf16 [rows, heads, 128];  lse float32 [heads, rows], natural, of the scaled scores, or NULL
 *
 * The walk over keys is the online softmax of FlashAttention (arXiv 2205.14135, 2307.08691) with the overlap of FlashAttention-3
 * (arXiv 2407.08608, 3.2): a warpgroup issues the scores of tile j + 1 and the values of tile j, and takes the softmax of tile j + 1
 * while the other one's products run. A block has 128 rows of one head, 64 a warpgroup, and one warp that copies; Q stays in shared
 * memory, K and V have rings of two tiles of 128 keys each, probabilities stay in registers.
 *
 * Law 2. Tiles of keys start at multiples of 128 from position 0 and are walked upwards; a row's maximum, sum (four parts, one a
 * thread that holds the row, each over its own columns) and output are functions of its own scores alone. A tile that is masked wholly
 * for a row multiplies by 2^0 and adds zeros, which changes no bit but the sign of a zero, and the final product adds +0, which clears
 * that: so it does not matter which query tile a row is in, nor how far that walks. Values of keys past the segment's end are cleared
 * before use, whatever the buffer holds there. (A NaN or infinity among the segment's own values does reach earlier rows of its tile.)
 *
 * Keys may come in several calls, each with a piece that starts at a multiple of 128; maximum, sums and output are carried between
 * the calls in float32. The rows of a block are written by the call that has the last key of the last of them, and left alone by the
 * calls after that.
 *
 * FLOPs: 640 a head and pair of row and key. Bytes at least: q 384, out 256 a row and head, kv 512 a key and head. Bound by the
 * tensor cores from a few hundred keys on: the exponentials of a tile take 0.4 of its products' time, on other units. Measured on an
 * H100 (128 heads, two runs): 4 prompts of 4,096 3.97 and 4.06 ms (693 and 678 TFLOP/s; cuDNN 4.70 ms), one of 16,384 16.1 and 16.3 ms
 * (18.4), 16 of 1,024 1.32 and 1.37 ms (1.52). A plain product of bf16 reaches 780 TFLOP/s there.
 */
#ifndef PROA_OP_MLA_CUDA_PREFILL_CUH
#define PROA_OP_MLA_CUDA_PREFILL_CUH

#include "op/cuda/tiles.cuh"
#include "op/mla/cuda_prefill.h"

namespace proa
{

enum {
    PREFILL_NOPE = 128,
    PREFILL_ROPE = 64,
    PREFILL_QK = PREFILL_NOPE + PREFILL_ROPE,
    PREFILL_V = 128,
    PREFILL_KV = PREFILL_NOPE + PREFILL_V, /* columns of kv a head */
    PREFILL_ROWS = 128,                    /* of a block */
    PREFILL_KEYS = 128,                    /* of a tile */
    PREFILL_BOX = 64,                      /* columns of a copied box: 128 bytes */
    PREFILL_SUMS = 4,                      /* parts of a row's sum */
    PREFILL_STAGES = 2,                    /* of K, and of V */
    PREFILL_AHEAD = 4,                     /* works known at once */
    PREFILL_THREADS = 384,
};

using PrefillSegment = proa_mla_prefill_segment;

/* As in proa_mla_prefill_args. */
struct MlaPrefill {
    const PrefillSegment *segments;
    int32_t segment_count;
    int32_t heads;
    int32_t rows; /* of q; a head's rows of state and lse */
    float scale;
    __nv_bfloat16 *out;
    float *lse;
    float *state_max;
    float *state_sum;
    float *state_out;
    int32_t *tickets;
    int32_t l2_bytes;
};

enum { PREFILL_L2_BYTES = 16 << 20 }; /* 8 and 28 MB: 0 to 7 % slower */

/* bf16, two dimensions, 128-byte swizzle, zeros outside. */
struct PrefillMaps {
    CUtensorMap q;    /* [rows, heads * 192], boxes of [64, 64] */
    CUtensorMap kv;   /* [keys, heads * 256], boxes of [128, 64] */
    CUtensorMap k_pe; /* [keys, 64], boxes of [128, 64] */
};

struct PrefillMemory {
    static constexpr int BOX_BYTES = 128 * PREFILL_BOX * 2;
    static constexpr int Q_BOX_BYTES = 64 * PREFILL_BOX * 2;
    static constexpr int Q_BYTES = 2 * PREFILL_QK / PREFILL_BOX * Q_BOX_BYTES;
    static constexpr int K_BYTES = PREFILL_QK / PREFILL_BOX * BOX_BYTES;
    static constexpr int V_BYTES = PREFILL_V / PREFILL_BOX * BOX_BYTES;
    static constexpr int BYTES = Q_BYTES + PREFILL_STAGES * (K_BYTES + V_BYTES) + 1024 + 512;
    static_assert(BYTES <= 232448, "a block has 227 KB");
};

/* What a block does next: up to 128 rows of one head, over some tiles of keys. */
struct PrefillWork {
    int32_t head;     /* -1: no more */
    int32_t row;      /* first one of q and out */
    int32_t rows;     /* the segment's, from it on */
    int32_t position; /* of it */
    int32_t key_row;  /* first one of kv */
    int32_t key_first;
    int32_t key_count; /* of the segment in this call */
    int32_t tiles;     /* of keys that a row of these sees */
};

struct PrefillBarriers {
    uint64_t q_full[2], q_empty[2]; /* one a warpgroup */
    uint64_t k_full[PREFILL_STAGES], k_empty[PREFILL_STAGES];
    uint64_t v_full[PREFILL_STAGES], v_empty[PREFILL_STAGES];
    uint64_t work_full[PREFILL_AHEAD], work_empty[PREFILL_AHEAD];
    PrefillWork work[PREFILL_AHEAD];
};
static_assert(sizeof(PrefillBarriers) <= 512, "room left for barriers");

/* ---- the order of work ----
 *
 * Segment by segment; in it, groups of heads whose keys and values fit the cache together; in a group the rows with the most keys
 * first, and heads side by side. Blocks draw numbers, so that none waits for another at the end of a group. */
struct PrefillWalk {
    int32_t segment, before; /* pieces of the segments before */

    __device__ PrefillWalk() : segment(0), before(0)
    {
    }

    __device__ void at(const MlaPrefill &a, int32_t number, PrefillWork *work)
    {
        for (; segment < a.segment_count; segment++) {
            const PrefillSegment s = a.segments[segment];
            const int32_t skipped =
                max(0, s.key_first - s.position_first) / PREFILL_ROWS; /* done by an earlier call */
            const int32_t blocks = (s.row_count + PREFILL_ROWS - 1) / PREFILL_ROWS;
            const int32_t tiles = s.key_count > 0 ? max(0, blocks - skipped) : 0;
            const int32_t in = number - before;
            if (in < tiles * a.heads) {
                const int64_t head_bytes = (int64_t)s.key_count * (PREFILL_KV * 2);
                const int32_t group = min(a.heads, max(1, (int32_t)(a.l2_bytes / head_bytes)));
                const int32_t head = in / (tiles * group) * group;
                const int32_t width = min(group, a.heads - head), left = in - head * tiles;
                const int32_t row = (skipped + tiles - 1 - left / width) * PREFILL_ROWS;
                const int32_t seen = s.position_first + min(row + PREFILL_ROWS, s.row_count) - s.key_first;
                work->head = head + left % width;
                work->row = s.row_first + row;
                work->rows = s.row_count - row;
                work->position = s.position_first + row;
                work->key_row = s.key_row;
                work->key_first = s.key_first;
                work->key_count = s.key_count;
                work->tiles = (min(seen, s.key_count) + PREFILL_KEYS - 1) / PREFILL_KEYS;
                return;
            }
            before += tiles * a.heads;
        }
        work->head = -1;
    }
};

/* ---- the warp that copies: one thread ---- */

__device__ __forceinline__ void prefill_copy_keys(uint8_t *to, const PrefillMaps &maps, int32_t head,
                                                  int32_t key_row, uint64_t *barrier)
{
    barrier_expect(barrier, PrefillMemory::K_BYTES);
    copy_tile(to, &maps.kv, head * PREFILL_KV, key_row, barrier);
    copy_tile(to + PrefillMemory::BOX_BYTES, &maps.kv, head * PREFILL_KV + PREFILL_BOX, key_row, barrier);
    copy_tile(to + 2 * PrefillMemory::BOX_BYTES, &maps.k_pe, 0, key_row, barrier);
}

__device__ __forceinline__ void prefill_copy_values(uint8_t *to, const PrefillMaps &maps, int32_t head,
                                                    int32_t key_row, uint64_t *barrier)
{
    barrier_expect(barrier, PrefillMemory::V_BYTES);
    copy_tile(to, &maps.kv, head * PREFILL_KV + PREFILL_NOPE, key_row, barrier);
    copy_tile(to + PrefillMemory::BOX_BYTES, &maps.kv, head * PREFILL_KV + PREFILL_NOPE + PREFILL_BOX,
              key_row, barrier);
}

/* 64 rows, a warpgroup's. */
__device__ __forceinline__ void prefill_copy_queries(uint8_t *to, const PrefillMaps &maps, int32_t head,
                                                     int32_t row, uint64_t *barrier)
{
    barrier_expect(barrier, PrefillMemory::Q_BYTES / 2);
    for (int32_t i = 0; i < PREFILL_QK / PREFILL_BOX; i++)
        copy_tile(to + i * PrefillMemory::Q_BOX_BYTES, &maps.q, head * PREFILL_QK + i * PREFILL_BOX, row,
                  barrier);
}

/* Queries are new to the cache: on the way while the room for them is still in use. */
__device__ __forceinline__ void prefill_expect_queries(const PrefillMaps &maps, const PrefillWork &work)
{
    for (int32_t i = 0; i < 2 * PREFILL_QK / PREFILL_BOX; i++)
        prefetch_tile(&maps.q, work.head * PREFILL_QK + i / 2 * PREFILL_BOX, work.row + i % 2 * 64);
}

__device__ __forceinline__ void prefill_produce(const PrefillMaps &maps, const MlaPrefill &a, uint8_t *q,
                                                uint8_t *k, uint8_t *v, PrefillBarriers *b)
{
    PrefillWalk walk;
    Ring keys = {0, 0}, values = {0, 0}, slot = {0, 0};
    uint32_t q_phase = 1;
    int32_t number = (int32_t)blockIdx.x;
    for (;;) {
        PrefillWork work;
        walk.at(a, number, &work);
        barrier_wait(&b->work_empty[slot.stage], slot.phase ^ 1);
        b->work[slot.stage] = work;
        barrier_arrive(&b->work_full[slot.stage]);
        slot.advance<PREFILL_AHEAD>();
        if (work.head < 0)
            break;
        number = (int32_t)gridDim.x + atomicAdd(a.tickets, 1); /* comes back while the tiles are copied */
        prefill_expect_queries(maps, work);
        barrier_wait(&b->k_empty[keys.stage], keys.phase ^ 1);
        prefill_copy_keys(k + keys.stage * PrefillMemory::K_BYTES, maps, work.head, work.key_row,
                          &b->k_full[keys.stage]);
        keys.advance<PREFILL_STAGES>();
        for (int32_t i = 0; i < 2; i++) {
            barrier_wait(&b->q_empty[i], q_phase);
            prefill_copy_queries(q + i * PrefillMemory::Q_BYTES / 2, maps, work.head, work.row + 64 * i,
                                 &b->q_full[i]);
        }
        q_phase ^= 1;
#pragma unroll 1
        for (int32_t j = 0; j < work.tiles; j++) { /* in the order of use: keys go a tile ahead of values */
            const int32_t key_row = work.key_row + j * PREFILL_KEYS;
            if (j + 1 < work.tiles) {
                barrier_wait(&b->k_empty[keys.stage], keys.phase ^ 1);
                prefill_copy_keys(k + keys.stage * PrefillMemory::K_BYTES, maps, work.head,
                                  key_row + PREFILL_KEYS, &b->k_full[keys.stage]);
                keys.advance<PREFILL_STAGES>();
            }
            barrier_wait(&b->v_empty[values.stage], values.phase ^ 1);
            prefill_copy_values(v + values.stage * PrefillMemory::V_BYTES, maps, work.head, key_row,
                                &b->v_full[values.stage]);
            values.advance<PREFILL_STAGES>();
        }
    }
    /* The last block to come here resets the tickets: nobody draws any more. */
    __threadfence();
    if (atomicAdd(a.tickets + 1, 1) == (int32_t)gridDim.x - 1) {
        a.tickets[0] = 0;
        a.tickets[1] = 0;
    }
}

/* ---- the warpgroups that multiply ---- */

/* s [64, 128 keys] = q [64, 192] k [128, 192]^T, issued. */
__device__ __forceinline__ void prefill_scores(float (&s)[64], const uint8_t *q, const uint8_t *k)
{
    const uint64_t a = tile_descriptor(q), b = tile_descriptor(k);
    constexpr int Q_BOX = PrefillMemory::Q_BOX_BYTES / 16, K_BOX = PrefillMemory::BOX_BYTES / 16;
    product_pin(s);
    product_fence();
#pragma unroll
    for (int i = 0; i < PREFILL_QK / 16; i++)
        product_bf16(s, descriptor_step(a, i / 4 * Q_BOX + i % 4 * 2),
                     descriptor_step(b, i / 4 * K_BOX + i % 4 * 2), i);
    product_commit();
}

/* o [64, 128] += p [64, 128 keys] v [128 keys, 128], issued. */
__device__ __forceinline__ void prefill_values(float (&o)[64], uint32_t (&p)[32], const uint8_t *v)
{
    const uint64_t b = values_descriptor(v, PrefillMemory::BOX_BYTES);
    product_pin(o);
    product_fence();
#pragma unroll
    for (int i = 0; i < PREFILL_KEYS / 16; i++)
        product_bf16_values(o, p + 4 * i, descriptor_step(b, 128 * i), 1);
    product_commit();
}

/* Keys past a row's position: columns, from this thread's first, over `limit` of the first row and over limit + 8 of the second. */
__device__ __forceinline__ void prefill_mask(float (&s)[64], int32_t limit)
{
#pragma unroll
    for (int i = 0; i < 64; i++) {
        const int32_t column = 8 * (i / 4) + (i & 1);
        if (column > limit + (i & 2 ? 8 : 0))
            s[i] = -INFINITY;
    }
}

/* Of this thread's two rows. */
struct PrefillRows {
    float max[2];
    float sum[2]; /* over this thread's columns */
};

/* The rows' maxima with this tile's scores; shrink: what the sums and the output so far are to be multiplied with. */
__device__ __forceinline__ void prefill_top(const float (&s)[64], PrefillRows *rows, float (&shrink)[2],
                                            float scale_log2)
{
    float top[4]; /* of the rows' even and odd columns */
#pragma unroll
    for (int i = 0; i < 64; i++)
        top[i % 4] = i < 4 ? s[i] : fmaxf(top[i % 4], s[i]);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float highest = fmaxf(top[2 * r], top[2 * r + 1]);
        highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 1));
        highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 2));
        highest = fmaxf(highest, rows->max[r]);
        shrink[r] = exp2_fast((rows->max[r] - highest) * scale_log2);
        rows->max[r] = highest;
    }
}

/* Scores become probabilities, unnormalised and packed: an accumulator's columns 16 i .. 16 i + 15 are the operand's registers 4 i ..
 * 4 i + 3. Exponentials take the longest, and what else there is to do goes between them. */
__device__ __forceinline__ void prefill_weigh(float (&s)[64], uint32_t (&p)[32], float (&o)[64],
                                              PrefillRows *rows, const float (&shrink)[2], float scale_log2)
{
    const float offset[2] = {-rows->max[0] * scale_log2, -rows->max[1] * scale_log2};
    float sum[2] = {rows->sum[0] * shrink[0], rows->sum[1] * shrink[1]};
#pragma unroll
    for (int i = 0; i < 64; i++) {
        s[i] = exp2_fast(fmaf(s[i], scale_log2, offset[i / 2 % 2]));
        sum[i / 2 % 2] += s[i];
        o[i] *= shrink[i / 2 % 2];
        if (i % 2 == 1)
            p[i / 2] = packed_bf16(s[i - 1], s[i]);
    }
    rows->sum[0] = sum[0];
    rows->sum[1] = sum[1];
}

/* The operand's registers are read until the wait: they may not be reused before. */
__device__ __forceinline__ void prefill_pin(uint32_t (&p)[32])
{
#pragma unroll
    for (int i = 0; i < 32; i++)
        asm volatile("" : "+r"(p[i])::"memory");
}

/* Values of keys from `left` on of a tile become zeros: their probabilities are, but 0 times NaN is NaN. Each warpgroup does so for
 * itself; the other's products read the same zeros. */
__device__ __forceinline__ void prefill_clear_values(uint8_t *v, int32_t left, int32_t warpgroup)
{
    const int32_t thread = (int32_t)threadIdx.x % 128;
    for (int32_t at = left * 8 + thread; at < PREFILL_KEYS * 8; at += 128) {
        *(uint4 *)(v + at * 16) = make_uint4(0, 0, 0, 0);
        *(uint4 *)(v + PrefillMemory::BOX_BYTES + at * 16) = make_uint4(0, 0, 0, 0);
    }
    copy_fence();
    warpgroup_meet(1 + warpgroup);
}

/* ---- state and output ---- */

__device__ __forceinline__ void prefill_save(const MlaPrefill &a, int64_t at, int32_t valid,
                                             const float (&o)[64], const PrefillRows &rows)
{
    const int32_t quad = (int32_t)threadIdx.x % 4;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        if (8 * r >= valid)
            continue;
        if (quad == 0)
            a.state_max[at + 8 * r] = rows.max[r];
        a.state_sum[(at + 8 * r) * PREFILL_SUMS + quad] = rows.sum[r];
#pragma unroll
        for (int i = 0; i < 16; i++)
            *(float2 *)(a.state_out + (at + 8 * r) * PREFILL_V + 8 * i + 2 * quad) =
                make_float2(o[4 * i + 2 * r], o[4 * i + 2 * r + 1]);
    }
}

/* x[i] of the quad's thread j goes to x[j] of its thread i. */
__device__ __forceinline__ void prefill_transpose(uint32_t (&x)[4])
{
#pragma unroll
    for (int bit = 1; bit < 4; bit *= 2) {
        const bool upper = threadIdx.x & bit;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (i & bit)
                continue;
            const uint32_t got = __shfl_xor_sync(~0u, upper ? x[i] : x[i + bit], bit);
            x[i] = upper ? got : x[i];
            x[i + bit] = upper ? x[i + bit] : got;
        }
    }
}

/* `row` of q; `valid` rows from it on are the segment's. */
__device__ __forceinline__ void prefill_store(const MlaPrefill &a, int32_t head, int32_t row, int32_t valid,
                                              const float (&o)[64], const PrefillRows &rows)
{
    const int32_t quad = (int32_t)threadIdx.x % 4;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float sum = rows.sum[r];
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        const float inverse = 1.0f / sum;
        const bool has = 8 * r < valid;
        __nv_bfloat16 *to = a.out + ((int64_t)(row + 8 * r) * a.heads + head) * PREFILL_V + quad * 8;
#pragma unroll
        for (int g = 0; g < 4; g++) { /* 32 columns: 8 a thread */
            uint32_t x[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int at = 4 * (4 * g + i) + 2 * r;
                x[i] =
                    packed_bf16(fmaf(o[at], inverse, 0.0f), fmaf(o[at + 1], inverse, 0.0f)); /* + 0: no -0 */
            }
            prefill_transpose(x);
            if (has)
                *(uint4 *)(to + 32 * g) = make_uint4(x[0], x[1], x[2], x[3]);
        }
        if (has && quad == 0 && a.lse != nullptr)
            a.lse[(int64_t)head * a.rows + row + 8 * r] = rows.max[r] * a.scale + logf(sum);
    }
}

/* A warpgroup's 64 rows of a block's work, seen from one thread. */
struct PrefillView {
    int32_t row;       /* this thread's first of two, of q */
    int32_t valid;     /* rows from it on that are the segment's */
    int32_t position;  /* of it */
    int32_t key_end;   /* one past the last key there is in this call */
    int32_t key_first; /* of this call */
    int32_t head;
    int32_t tiles;
    bool done; /* the last row has no key after this call */
};

__device__ __forceinline__ PrefillView prefill_view(const PrefillWork &work, int32_t warpgroup)
{
    const int32_t thread = (int32_t)threadIdx.x % 128,
                  at = warpgroup * 64 + thread / 32 * 16 + thread % 32 / 4;
    PrefillView view;
    view.row = work.row + at;
    view.valid = work.rows - at;
    view.position = work.position + at;
    view.key_first = work.key_first;
    view.key_end = work.key_first + work.key_count;
    view.head = work.head;
    view.tiles = work.tiles;
    view.done = work.position + min(work.rows, PREFILL_ROWS) <= view.key_end;
    return view;
}

__device__ __forceinline__ void prefill_begin(const MlaPrefill &a, const PrefillView &view, PrefillRows *rows)
{
    const int64_t at = (int64_t)view.head * a.rows + view.row;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const bool has = view.key_first > 0 && 8 * r < view.valid;
        rows->max[r] = has ? a.state_max[at + 8 * r] : -INFINITY;
        rows->sum[r] = has ? a.state_sum[(at + 8 * r) * PREFILL_SUMS + threadIdx.x % 4] : 0;
    }
}

__device__ __forceinline__ void prefill_begin_out(const MlaPrefill &a, const PrefillView &view,
                                                  float (&o)[64])
{
#pragma unroll
    for (int i = 0; i < 64; i++)
        o[i] = 0;
    if (view.key_first == 0)
        return;
    const float *from =
        a.state_out + ((int64_t)view.head * a.rows + view.row) * PREFILL_V + threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < 64; i += 2) {
        if (i / 2 % 2 * 8 >= view.valid)
            continue;
        const float2 pair = *(const float2 *)(from + i / 2 % 2 * 8 * PREFILL_V + i / 4 * 8);
        o[i] = pair.x;
        o[i + 1] = pair.y;
    }
}

__device__ __forceinline__ void prefill_end(const MlaPrefill &a, const PrefillView &view,
                                            const float (&o)[64], const PrefillRows &rows)
{
    if (view.done)
        prefill_store(a, view.head, view.row, view.valid, o, rows);
    else
        prefill_save(a, (int64_t)view.head * a.rows + view.row, view.valid, o, rows);
}

/* The next work, where there is any. */
__device__ __forceinline__ bool prefill_take(PrefillBarriers *b, Ring *slot, int32_t warpgroup,
                                             PrefillView *view)
{
    barrier_wait(&b->work_full[slot->stage], slot->phase);
    const PrefillWork work = b->work[slot->stage];
    warp_arrive(&b->work_empty[slot->stage]);
    slot->advance<PREFILL_AHEAD>();
    if (work.head < 0)
        return false;
    *view = prefill_view(work, warpgroup);
    return true;
}

/* Where a warpgroup is. */
struct PrefillPlace {
    Ring keys, values, slot;
    uint32_t q_phase;
    int32_t first; /* position of the first key of the tile in hand */
};

struct PrefillRegisters {
    float o[64]; /* [64 rows, 128] of the warpgroup, unnormalised */
    float s[64]; /* [64 rows, 128 keys] */
    uint32_t p[32];
    PrefillRows rows;
};

/* The scores of a tile, and the values of the one before, whose probabilities are in p. */
template <bool FIRST>
__device__ __forceinline__ void
prefill_step(int32_t warpgroup, const uint8_t *q, const uint8_t *k, const uint8_t *v, PrefillBarriers *b,
             PrefillPlace *place, const PrefillView &view, bool last, PrefillRegisters *x, float scale_log2)
{
    Ring *keys = &place->keys, *values = &place->values;
    const int32_t column = (int32_t)threadIdx.x % 4 * 2, row_in_warp = (int32_t)threadIdx.x % 32 / 4;
    float shrink[2];
    barrier_wait(&b->k_full[keys->stage], keys->phase);
    prefill_scores(x->s, q, k + keys->stage * PrefillMemory::K_BYTES);
    if (!FIRST) {
        barrier_wait(&b->v_full[values->stage], values->phase);
        prefill_values(x->o, x->p, v + values->stage * PrefillMemory::V_BYTES);
    }
    product_wait<FIRST ? 0 : 1>();
    product_pin(x->s);
    warp_arrive(&b->k_empty[keys->stage]);
    keys->advance<PREFILL_STAGES>();
    if (last)
        warp_arrive(&b->q_empty[warpgroup]);
    if (place->first + PREFILL_KEYS - 1 >
        view.position - row_in_warp) /* some keys are not for some row of the warp */
        prefill_mask(x->s, view.position - place->first - column);
    prefill_top(x->s, &x->rows, shrink, scale_log2);
    if (!FIRST) {
        product_wait<0>();
        product_pin(x->o);
        prefill_pin(x->p);
        warp_arrive(&b->v_empty[values->stage]);
        values->advance<PREFILL_STAGES>();
    }
    prefill_weigh(x->s, x->p, x->o, &x->rows, shrink, scale_log2);
}

/* A warpgroup's way through its work. There is no overlap between works: the two warpgroups then start one after the other at the
 * tensor cores, which keeps their softmaxes apart. (With the next work's scores issued before the last values they drifted together,
 * and took 15 % longer; taking turns by a barrier at every tile gave nothing over this.) */
__device__ __forceinline__ void prefill_attend(const MlaPrefill &a, int32_t warpgroup, const uint8_t *q,
                                               const uint8_t *k, uint8_t *v, PrefillBarriers *b)
{
    const float scale_log2 = a.scale * 1.4426950408889634f;
    PrefillPlace place = {};
    PrefillView view;
    PrefillRegisters x;
    while (prefill_take(b, &place.slot, warpgroup, &view)) {
        prefill_begin(a, view, &x.rows);
        prefill_begin_out(a, view, x.o);
        place.first = view.key_first;
        barrier_wait(&b->q_full[warpgroup], place.q_phase);
        place.q_phase ^= 1;
        prefill_step<true>(warpgroup, q, k, v, b, &place, view, view.tiles == 1, &x, scale_log2);
        for (int32_t i = 1; i < view.tiles; i++) {
            place.first += PREFILL_KEYS;
            prefill_step<false>(warpgroup, q, k, v, b, &place, view, i == view.tiles - 1, &x, scale_log2);
        }
        uint8_t *last = v + place.values.stage * PrefillMemory::V_BYTES;
        const int32_t left = view.key_end - place.first; /* keys of the tile that are there */
        barrier_wait(&b->v_full[place.values.stage], place.values.phase);
        if (left < PREFILL_KEYS)
            prefill_clear_values(last, left, warpgroup);
        prefill_values(x.o, x.p, last);
        product_wait<0>();
        product_pin(x.o);
        prefill_pin(x.p);
        warp_arrive(&b->v_empty[place.values.stage]);
        place.values.advance<PREFILL_STAGES>();
        prefill_end(a, view, x.o, x.rows);
    }
}

__global__ void __launch_bounds__(PREFILL_THREADS, 1)
    mla_prefill(const __grid_constant__ PrefillMaps maps, const MlaPrefill a)
{
    extern __shared__ uint8_t raw[];
    uint8_t *q = (uint8_t *)(((uintptr_t)raw + 1023) / 1024 * 1024);
    uint8_t *k = q + PrefillMemory::Q_BYTES, *v = k + PREFILL_STAGES * PrefillMemory::K_BYTES;
    PrefillBarriers *b = (PrefillBarriers *)(v + PREFILL_STAGES * PrefillMemory::V_BYTES);
    const int32_t warpgroup = __shfl_sync(~0u, (int32_t)threadIdx.x / 128, 0);
    constexpr uint32_t ARRIVALS = 8 * WARP_ARRIVES; /* of the warps that multiply */

    if (threadIdx.x == 0) {
        prefetch_map(&maps.q);
        prefetch_map(&maps.kv);
        prefetch_map(&maps.k_pe);
        for (int i = 0; i < 2; i++) {
            barrier_init(&b->q_full[i], 1);
            barrier_init(&b->q_empty[i], ARRIVALS / 2);
            barrier_init(&b->k_full[i], 1);
            barrier_init(&b->k_empty[i], ARRIVALS);
            barrier_init(&b->v_full[i], 1);
            barrier_init(&b->v_empty[i], ARRIVALS);
        }
        for (int i = 0; i < PREFILL_AHEAD; i++) {
            barrier_init(&b->work_full[i], 1);
            barrier_init(&b->work_empty[i], ARRIVALS);
        }
        barrier_init_fence();
    }
    __syncthreads();

    if (warpgroup == 2) {
        registers_fewer<40>();
        if (threadIdx.x == 256)
            prefill_produce(maps, a, q, k, v, b);
        return;
    }
    registers_more<232>();
    prefill_attend(a, warpgroup, q + warpgroup * PrefillMemory::Q_BYTES / 2, k, v, b);
}

/* ---- any dimensions: a warp a row and head, on plain cores ----
 *
 * For small models. Keys go in pieces of 32 from position 0, a key a lane for the scores, a column a lane for the values. Of
 * state_sum it uses the first of the four; state_out has v_dim columns. A row is written by the call that has its last key. */
struct MlaPrefillGeneric {
    MlaPrefill a; /* tickets and l2_bytes are not used */
    const __nv_bfloat16 *q;
    const __nv_bfloat16 *kv;
    const __nv_bfloat16 *k_pe;
    int32_t nope_dim;
    int32_t rope_dim;
    int32_t v_dim; /* at most 32 * PREFILL_GENERIC_V */
};

enum { PREFILL_GENERIC_V = 16, PREFILL_GENERIC_WARPS = 4 };

__device__ __forceinline__ float prefill_dot(const __nv_bfloat16 *x, const __nv_bfloat16 *y, int32_t count,
                                             float sum)
{
    for (int32_t i = 0; i < count; i++)
        sum = fmaf(__bfloat162float(x[i]), __bfloat162float(y[i]), sum);
    return sum;
}

/* The segment that has the row, or NULL. */
__device__ __forceinline__ const PrefillSegment *prefill_segment(const MlaPrefill &a, int32_t row)
{
    for (int32_t i = 0; i < a.segment_count; i++)
        if (row >= a.segments[i].row_first && row - a.segments[i].row_first < a.segments[i].row_count)
            return a.segments + i;
    return nullptr;
}

/* grid: (ceil(rows / PREFILL_GENERIC_WARPS), heads) */
__global__ void __launch_bounds__(32 * PREFILL_GENERIC_WARPS) mla_prefill_generic(const MlaPrefillGeneric g)
{
    const MlaPrefill &a = g.a;
    const int32_t lane = (int32_t)threadIdx.x % 32, head = (int32_t)blockIdx.y;
    const int32_t row = (int32_t)blockIdx.x * PREFILL_GENERIC_WARPS + (int32_t)threadIdx.x / 32;
    const PrefillSegment *segment = row < a.rows ? prefill_segment(a, row) : nullptr;
    if (segment == nullptr)
        return;
    const PrefillSegment s = *segment;
    const int32_t position = s.position_first + row - s.row_first, end = s.key_first + s.key_count;
    if (position < s.key_first)
        return;
    const int64_t state = (int64_t)head * a.rows + row,
                  key_stride = (int64_t)a.heads * (g.nope_dim + g.v_dim);
    const __nv_bfloat16 *q = g.q + ((int64_t)row * a.heads + head) * (g.nope_dim + g.rope_dim);
    const __nv_bfloat16 *k = g.kv + s.key_row * key_stride + head * (g.nope_dim + g.v_dim);
    const __nv_bfloat16 *k_pe = g.k_pe + (int64_t)s.key_row * g.rope_dim;
    const bool fresh = s.key_first == 0;
    float top = fresh ? -INFINITY : a.state_max[state], sum = fresh ? 0 : a.state_sum[state * PREFILL_SUMS];
    float o[PREFILL_GENERIC_V];
#pragma unroll
    for (int i = 0; i < PREFILL_GENERIC_V; i++)
        o[i] = fresh || 32 * i + lane >= g.v_dim ? 0 : a.state_out[state * g.v_dim + 32 * i + lane];

    for (int32_t first = s.key_first; first < min(position + 1, end); first += 32) {
        const int64_t key = first - s.key_first + lane;
        float score = -INFINITY;
        if (first + lane <= position)
            score = a.scale * prefill_dot(q + g.nope_dim, k_pe + key * g.rope_dim, g.rope_dim,
                                          prefill_dot(q, k + key * key_stride, g.nope_dim, 0));
        float highest = score;
        for (int32_t i = 1; i < 32; i *= 2)
            highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, i));
        highest = fmaxf(highest, top);
        const float shrink = expf(top - highest), p = expf(score - highest);
        float added = p;
        for (int32_t i = 1; i < 32; i *= 2)
            added += __shfl_xor_sync(~0u, added, i);
        top = highest;
        sum = sum * shrink + added;
#pragma unroll
        for (int i = 0; i < PREFILL_GENERIC_V; i++)
            o[i] *= shrink;
        const float rounded = __bfloat162float(__float2bfloat16_rn(p));
        for (int32_t j = 0; j < 32 && first + j <= position; j++) {
            const float weight = __shfl_sync(~0u, rounded, j);
            const __nv_bfloat16 *v = k + (first - s.key_first + j) * key_stride + g.nope_dim;
#pragma unroll
            for (int i = 0; i < PREFILL_GENERIC_V; i++)
                if (32 * i + lane < g.v_dim)
                    o[i] = fmaf(weight, __bfloat162float(v[32 * i + lane]), o[i]);
        }
    }
    const bool done = position < end;
    if (lane == 0 && !done) {
        a.state_max[state] = top;
        a.state_sum[state * PREFILL_SUMS] = sum;
    }
    if (lane == 0 && done && a.lse != nullptr)
        a.lse[state] = top + logf(sum);
#pragma unroll
    for (int i = 0; i < PREFILL_GENERIC_V; i++) {
        const int32_t column = 32 * i + lane;
        if (column < g.v_dim && done)
            a.out[((int64_t)row * a.heads + head) * g.v_dim + column] =
                __float2bfloat16_rn(fmaf(o[i], 1.0f / sum, 0.0f));
        else if (column < g.v_dim)
            a.state_out[state * g.v_dim + column] = o[i];
    }
}

} // namespace proa

#endif
