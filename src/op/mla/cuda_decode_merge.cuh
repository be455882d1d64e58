/* cuda_decode_merge.cuh - the end of a split: its accumulators to the workspace, merged with those before, or out as a row; and the
 * kernel that merges what several blocks have left (cuda_decode.cuh).
 */
#ifndef PROA_OP_MLA_CUDA_DECODE_MERGE_CUH
#define PROA_OP_MLA_CUDA_DECODE_MERGE_CUH

#include "op/mla/cuda_decode_shared.cuh"

namespace proa
{

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
