/* tiles.cuh - what the matrix products of a Hopper GPU share: a persistent block's walk over the tiles of y, the ring of stages
 * between the warp that copies and those that multiply, and the way of a finished tile to memory.
 *
 * Rows may stand in groups (rows.h). */
#ifndef PROA_OP_CUDA_TILES_CUH
#define PROA_OP_CUDA_TILES_CUH

#include "op/cuda/rows.h"
#include "op/ptx/products.cuh"

namespace proa
{

struct Tile {
    int32_t group;
    int32_t row;    /* first one of x and y */
    int32_t rows;   /* of the group, from `row` on */
    int32_t column; /* first one of y */
};

/* Block b takes tiles b, b + blocks, ... Tiles of a group go in bands of RASTER rows of tiles, down the band first: blocks that run at
 * once share rows of x and of W in the second-level cache. */
template <int BM, int BN> struct TileWalk {
    static constexpr int RASTER = 16;
    int32_t group, before; /* tiles of the groups before */
    int32_t next;

    __device__ TileWalk() : group(0), before(0), next((int32_t)blockIdx.x)
    {
    }

    __device__ bool step(const proa_cuda_groups &g, int32_t n, Tile *tile)
    {
        const int32_t across = (n + BN - 1) / BN;
        for (; group < g.groups; group++) {
            const int32_t count = g.first != nullptr ? g.count[group] : g.rows;
            const int32_t down = (count + BM - 1) / BM;
            const int32_t at = next - before;
            if (at < down * across) {
                const int32_t band = at / (RASTER * across);
                const int32_t height = min(RASTER, down - band * RASTER);
                const int32_t in = at - band * RASTER * across;
                const int32_t m = band * RASTER + in % height;
                tile->group = group;
                tile->row = (g.first != nullptr ? g.first[group] : 0) + m * BM;
                tile->rows = count - m * BM;
                tile->column = in / height * BN;
                next += (int32_t)gridDim.x;
                return true;
            }
            before += down * across;
        }
        return false;
    }
};

struct Ring {
    int32_t stage;
    uint32_t phase;

    template <int STAGES> __device__ __forceinline__ void advance()
    {
        if (++stage == STAGES) {
            stage = 0;
            phase ^= 1;
        }
    }
};

/* Bytes between rows of a staged tile: rows of eight threads meet different banks. */
template <int BN> struct StagingPitch {
    static constexpr int BYTES = BN * 2 + 16;
};

/* This warpgroup's [64, BN] in shared memory: boxes of 64 columns, in the 128-byte swizzle. */
template <int BN> struct StagedTile {
    static constexpr int BOX_BYTES = 64 * 128;
    static constexpr int BYTES = (BN + 63) / 64 * BOX_BYTES;
};

/* As bf16 through shared memory to y, whose map has such boxes: the copy goes on while the warpgroup makes its next tile. Where there is no
 * next one (`more`), and where boxes do not fit, in a tile of other columns or a group's last rows, the threads write y themselves. After
 * the last tile: store_wait(). */
template <int BN>
__device__ __forceinline__ void
store_tile_boxes(const CUtensorMap &map, bool more, __nv_bfloat16 *y, int64_t row_stride, int32_t n,
                 const Tile &tile, int32_t group_row, const float (&total)[BN / 2], uint8_t *staging)
{
    using Staged = StagedTile<BN>;
    const int32_t thread = (int32_t)threadIdx.x % 128, id = 1 + (int32_t)threadIdx.x / 128,
                  lane = thread % 32;
    if (thread == 0)
        store_wait_read();
    warpgroup_meet(id); /* the last tile has left */
    const int32_t to = thread / 32 * 16 + lane % 16;
    uint8_t *row = staging + to * 128;
#pragma unroll
    for (int i = 0; i < BN / 2; i += 8) {
        const uint32_t pieces[4] = {
            packed_bf16(total[i], total[i + 1]), packed_bf16(total[i + 2], total[i + 3]),
            packed_bf16(total[i + 4], total[i + 5]), packed_bf16(total[i + 6], total[i + 7])};
        const int32_t piece = i / 4 + lane / 16;
        store_matrices(row + i / 32 * Staged::BOX_BYTES + ((piece % 8 ^ to % 8) << 4), pieces);
    }
    copy_fence();
    warpgroup_meet(id);
    const int32_t rows = min(64, tile.rows - group_row);
    if (BN % 64 == 0 && more && rows == 64) {
        if (thread == 0) {
            for (int i = 0; i < BN / 64; i++)
                if (tile.column + i * 64 < n)
                    store_box(&map, tile.column + i * 64, tile.row + group_row,
                              staging + i * Staged::BOX_BYTES);
            store_commit();
        }
        return;
    }
    const int32_t columns = min(BN, n - tile.column);
    for (int32_t at = thread; at < 64 * (BN / 8); at += 128) {
        const int32_t r = at / (BN / 8), piece = at % (BN / 8);
        if (r < rows && piece * 8 < columns)
            *(uint4 *)(y + (int64_t)(tile.row + group_row + r) * row_stride + tile.column + piece * 8) =
                *(const uint4 *)(staging + piece / 8 * Staged::BOX_BYTES + r * 128 +
                                 ((piece % 8 ^ r % 8) << 4));
    }
}

/* This warpgroup's [64, BN] as bf16 through shared memory to y, which has whole pieces of 16 bytes then. y is that of the tile's
 * group; row_stride in elements, a multiple of 8, as n is. */
template <int BN>
__device__ __forceinline__ void store_tile(__nv_bfloat16 *y, int64_t row_stride, int32_t n, const Tile &tile,
                                           int32_t group_row, const float (&total)[BN / 2], uint8_t *staging)
{
    constexpr int PITCH = StagingPitch<BN>::BYTES, PIECES = BN / 8;
    const int32_t thread = (int32_t)threadIdx.x % 128, id = 1 + (int32_t)threadIdx.x / 128;
    const int32_t row = thread / 32 * 16 + thread % 32 / 4, column = thread % 4 * 2;
    warpgroup_meet(id); /* the last tile has left */
#pragma unroll
    for (int i = 0; i < BN / 2; i += 4) {
        const __nv_bfloat162 upper = __floats2bfloat162_rn(total[i], total[i + 1]);
        const __nv_bfloat162 lower = __floats2bfloat162_rn(total[i + 2], total[i + 3]);
        *(__nv_bfloat162 *)(staging + row * PITCH + (2 * i + column) * 2) = upper;
        *(__nv_bfloat162 *)(staging + (row + 8) * PITCH + (2 * i + column) * 2) = lower;
    }
    warpgroup_meet(id);
    const int32_t rows = min(64, tile.rows - group_row), columns = min(BN, n - tile.column);
    for (int32_t at = thread; at < 64 * PIECES; at += 128) {
        const int32_t r = at / PIECES, c = at % PIECES * 8;
        if (r < rows && c < columns)
            *(uint4 *)(y + (int64_t)(tile.row + group_row + r) * row_stride + tile.column + c) =
                *(const uint4 *)(staging + r * PITCH + c * 2);
    }
}

/* The same as float32, straight from the registers: a thread has two neighbours of a row. */
template <int BN>
__device__ __forceinline__ void store_tile(float *y, int64_t row_stride, int32_t n, const Tile &tile,
                                           int32_t group_row, const float (&total)[BN / 2], uint8_t *)
{
    const int32_t thread = (int32_t)threadIdx.x % 128;
    const int32_t row = thread / 32 * 16 + thread % 32 / 4, column = thread % 4 * 2;
    const int32_t rows = tile.rows - group_row, columns = n - tile.column;
    float *upper = y + (int64_t)(tile.row + group_row + row) * row_stride + tile.column + column;
    float *lower = upper + 8 * row_stride;
#pragma unroll
    for (int i = 0; i < BN / 2; i += 4) {
        const bool inside = 2 * i + column < columns; /* n is even */
        if (inside && row < rows)
            *(float2 *)(upper + 2 * i) = make_float2(total[i], total[i + 1]);
        if (inside && row + 8 < rows)
            *(float2 *)(lower + 2 * i) = make_float2(total[i + 2], total[i + 3]);
    }
}

} // namespace proa

#endif
