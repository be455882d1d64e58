/* cuda_fp8.cuh - block-FP8 product of a Hopper GPU: y = x W^T for one weight, or for one weight a group of rows.
 *
 *   x  e4m3 [rows, k], float32 scales [k / 128][scale_stride], one a row and 128 channels
 *   W  e4m3 [groups, n, k], float32 scales [groups, ceil(n / 128), k / 128]
 *   y  bf16 [rows, n]
 *
 * Persistent blocks walk tiles of [BM, BN]. One warp of a block fills a ring of stages by the tensor memory accelerator, a stage a
 * 128 of K; warpgroups of 64 rows each multiply a stage into a fresh accumulator, and add it, scaled, to the tile's: DeepSeek-V3's
 * two-level accumulation (technical report, 3.3.2). A sum's order is that of K whatever the tile is, so that a row has the same bits in
 * any batch and with any of the kernels (law 2).
 *
 * Where rows are grouped, group g has rows first[g] .. first[g] + count[g] - 1 of x and y, known on the device alone; first[g] is a
 * multiple of 128, and what lies between the groups is neither read into a result nor written.
 */
#ifndef PROA_OP_LINEAR_CUDA_FP8_CUH
#define PROA_OP_LINEAR_CUDA_FP8_CUH

#include "op/cuda/products.cuh"

namespace proa {

struct Fp8Gemm {
    int32_t rows; /* one group alone: its rows */
    int32_t n;    /* a multiple of 8 */
    int32_t k;    /* a multiple of 128 */
    int32_t groups;
    const int32_t *first; /* [groups]; NULL: one group, from row 0 */
    const int32_t *count; /* [groups] */
    const float *x_scale;
    int64_t scale_stride; /* a multiple of 4 */
    const float *w_scale;
    __nv_bfloat16 *y;
    int64_t y_stride; /* a multiple of 8 */
};

enum { FP8_K = 128, FP8_SCALE_N = 128, FP8_RASTER = 16 };

template <int BM, int BN> struct Fp8Layout {
    static constexpr int X_BYTES = BM * FP8_K;
    static constexpr int W_BYTES = BN * FP8_K;
    static constexpr int SCALE_BYTES = BM * 4;
    static constexpr int Y_PITCH = BN * 2 + 16; /* bytes: rows of eight threads meet different banks */
    static constexpr int Y_BYTES = (BM * Y_PITCH + 1023) / 1024 * 1024;
    static constexpr int STAGE_BYTES = X_BYTES + W_BYTES + SCALE_BYTES;
    static constexpr int LIMIT = 232448 - 1024 - 256; /* of a block's shared memory, less alignment and barriers */
    static constexpr int FITTING = (LIMIT - Y_BYTES) / STAGE_BYTES;
    static constexpr int STAGES = FITTING < 10 ? FITTING : 10;
    static constexpr int BYTES = STAGES * STAGE_BYTES + Y_BYTES + 1024 + 256;
    static_assert(STAGES >= 3, "a ring of fewer hides nothing");
};

/* Where a block's walk stands. */
struct Fp8Tile {
    int32_t group;
    int32_t row;    /* first one of x and y */
    int32_t rows;   /* of the group, from `row` on */
    int32_t column; /* first one of y */
};

/* Tiles of a group go in bands of FP8_RASTER rows of tiles, down the band first: blocks that run at once share rows and columns. */
template <int BM, int BN> struct Fp8Walk {
    int32_t group, before; /* tiles of the groups before */
    int32_t next;

    __device__ Fp8Walk() : group(0), before(0), next((int32_t)blockIdx.x) {}

    __device__ bool step(const Fp8Gemm &g, Fp8Tile *tile)
    {
        const int32_t across = (g.n + BN - 1) / BN;
        for (;;) {
            if (group == g.groups)
                return false;
            const int32_t count = g.first != nullptr ? __ldg(g.count + group) : g.rows;
            const int32_t down = (count + BM - 1) / BM;
            const int32_t at = next - before;
            if (at < down * across) {
                const int32_t band = at / (FP8_RASTER * across);
                const int32_t height = min(FP8_RASTER, down - band * FP8_RASTER);
                const int32_t in = at - band * FP8_RASTER * across;
                const int32_t m = band * FP8_RASTER + in % height;
                tile->group = group;
                tile->row = (g.first != nullptr ? __ldg(g.first + group) : 0) + m * BM;
                tile->rows = count - m * BM;
                tile->column = in / height * BN;
                next += (int32_t)gridDim.x;
                return true;
            }
            before += down * across;
            group++;
        }
    }
};

struct Fp8Ring {
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

template <int BN> __device__ __forceinline__ void fp8_product(float (&d)[BN / 2], const uint8_t *x, const uint8_t *w)
{
    const uint64_t a = tile_descriptor(x), b = tile_descriptor(w);
    product_pin(d);
    product_fence();
#pragma unroll
    for (int i = 0; i < 4; i++) /* 32 of K each */
        product_e4m3(d, a + 2 * i, b + 2 * i, i);
    product_commit();
}

/* total += part, by the scales of this thread's two rows; columns from `border` on have the second scale of W. */
template <int BN>
__device__ __forceinline__ void fp8_promote(float (&total)[BN / 2], const float (&part)[BN / 2], float x0, float x1, float w0,
                                            float w1, int32_t border)
{
    if (FP8_SCALE_N % BN == 0) {
        const float s0 = x0 * w0, s1 = x1 * w0;
#pragma unroll
        for (int i = 0; i < BN / 2; i += 4) {
            total[i] = fmaf(part[i], s0, total[i]);
            total[i + 1] = fmaf(part[i + 1], s0, total[i + 1]);
            total[i + 2] = fmaf(part[i + 2], s1, total[i + 2]);
            total[i + 3] = fmaf(part[i + 3], s1, total[i + 3]);
        }
    } else {
        const float s00 = x0 * w0, s01 = x0 * w1, s10 = x1 * w0, s11 = x1 * w1;
#pragma unroll
        for (int i = 0; i < BN / 2; i += 4) {
            const bool second = 2 * i >= border;
            const float s0 = second ? s01 : s00, s1 = second ? s11 : s10;
            total[i] = fmaf(part[i], s0, total[i]);
            total[i + 1] = fmaf(part[i + 1], s0, total[i + 1]);
            total[i + 2] = fmaf(part[i + 2], s1, total[i + 2]);
            total[i + 3] = fmaf(part[i + 3], s1, total[i + 3]);
        }
    }
}

/* This warpgroup's [64, BN] through shared memory to y, which has whole pieces of 16 bytes then. */
template <int BN>
__device__ __forceinline__ void fp8_store(const Fp8Gemm &g, const Fp8Tile &tile, int32_t group_row, const float (&total)[BN / 2],
                                          uint8_t *staging)
{
    constexpr int PITCH = BN * 2 + 16, PIECES = BN / 8;
    const int32_t thread = (int32_t)threadIdx.x % 128, id = 1 + (int32_t)threadIdx.x / 128;
    const int32_t row = thread / 32 * 16 + thread % 32 / 4, column = thread % 4 * 2;
    asm volatile("bar.sync %0, 128;" ::"r"(id) : "memory"); /* the last tile has left */
#pragma unroll
    for (int i = 0; i < BN / 2; i += 4) {
        const __nv_bfloat162 upper = __floats2bfloat162_rn(total[i], total[i + 1]);
        const __nv_bfloat162 lower = __floats2bfloat162_rn(total[i + 2], total[i + 3]);
        *(__nv_bfloat162 *)(staging + row * PITCH + (2 * i + column) * 2) = upper;
        *(__nv_bfloat162 *)(staging + (row + 8) * PITCH + (2 * i + column) * 2) = lower;
    }
    asm volatile("bar.sync %0, 128;" ::"r"(id) : "memory");
    const int32_t rows = min(64, tile.rows - group_row), columns = min(BN, g.n - tile.column);
    for (int32_t at = thread; at < 64 * PIECES; at += 128) {
        const int32_t r = at / PIECES, c = at % PIECES * 8;
        if (r < rows && c < columns)
            *(uint4 *)(g.y + (int64_t)(tile.row + group_row + r) * g.y_stride + tile.column + c) =
                *(const uint4 *)(staging + r * PITCH + c * 2);
    }
}

template <int BM, int BN>
__global__ void __launch_bounds__(BM * 2 + 128, 1)
    fp8_gemm(const __grid_constant__ CUtensorMap x_map, const __grid_constant__ CUtensorMap w_map, const Fp8Gemm g)
{
    using Layout = Fp8Layout<BM, BN>;
    constexpr int WORKERS = BM / 64; /* warpgroups that multiply */
    constexpr int STAGES = Layout::STAGES;
    extern __shared__ uint8_t raw[];
    uint8_t *memory = (uint8_t *)(((uintptr_t)raw + 1023) / 1024 * 1024);
    uint8_t *x_tiles = memory, *w_tiles = x_tiles + STAGES * Layout::X_BYTES;
    uint8_t *staging = w_tiles + STAGES * Layout::W_BYTES;
    float *scales = (float *)(staging + Layout::Y_BYTES);
    uint64_t *full = (uint64_t *)(scales + STAGES * BM), *empty = full + STAGES;
    const int32_t warpgroup = __shfl_sync(~0u, (int32_t)threadIdx.x / 128, 0);
    const int32_t steps = g.k / FP8_K;

    if (threadIdx.x == 0) {
        prefetch_map(&x_map);
        prefetch_map(&w_map);
        for (int i = 0; i < STAGES; i++) {
            barrier_init(full + i, 1);
            barrier_init(empty + i, WORKERS * 4);
        }
        barrier_init_fence();
    }
    __syncthreads();

    Fp8Walk<BM, BN> walk;
    Fp8Tile tile;
    Fp8Ring ring = {0, 0};
    if (warpgroup == WORKERS) {
        if (WORKERS > 1)
            registers_fewer<40>();
        if (threadIdx.x != WORKERS * 128)
            return;
        while (walk.step(g, &tile)) {
            for (int32_t i = 0; i < steps; i++) {
                barrier_wait(empty + ring.stage, ring.phase ^ 1);
                barrier_expect(full + ring.stage, Layout::STAGE_BYTES);
                copy_tile(w_tiles + ring.stage * Layout::W_BYTES, &w_map, i * FP8_K, tile.group * g.n + tile.column,
                          full + ring.stage);
                copy_tile(x_tiles + ring.stage * Layout::X_BYTES, &x_map, i * FP8_K, tile.row, full + ring.stage);
                copy_bytes(scales + ring.stage * BM, g.x_scale + i * g.scale_stride + tile.row, Layout::SCALE_BYTES,
                           full + ring.stage);
                ring.advance<STAGES>();
            }
        }
        return;
    }
    if (WORKERS > 1)
        registers_more<232>();
    const int32_t group_row = warpgroup * 64;
    const int32_t row = group_row + (int32_t)threadIdx.x % 128 / 32 * 16 + (int32_t)threadIdx.x % 32 / 4;
    const int32_t scale_rows = (g.n + FP8_SCALE_N - 1) / FP8_SCALE_N;
    while (walk.step(g, &tile)) {
        float total[BN / 2], part[BN / 2];
        const int32_t scale_row = tile.column / FP8_SCALE_N;
        const float *w0 = g.w_scale + (int64_t)(tile.group * scale_rows + scale_row) * steps;
        const float *w1 = scale_row + 1 < scale_rows ? w0 + steps : w0;
        const int32_t border = (scale_row + 1) * FP8_SCALE_N - tile.column;
        float next0 = __ldg(w0), next1 = __ldg(w1);
#pragma unroll
        for (int i = 0; i < BN / 2; i++)
            total[i] = 0;
        for (int32_t i = 0; i < steps; i++) {
            const float s0 = next0, s1 = next1;
            if (i + 1 < steps) {
                next0 = __ldg(w0 + i + 1);
                next1 = __ldg(w1 + i + 1);
            }
            barrier_wait(full + ring.stage, ring.phase);
            const float x0 = scales[ring.stage * BM + row], x1 = scales[ring.stage * BM + row + 8];
            fp8_product<BN>(part, x_tiles + ring.stage * Layout::X_BYTES + group_row * FP8_K,
                            w_tiles + ring.stage * Layout::W_BYTES);
            product_wait<0>();
            product_pin(part);
            __syncwarp();
            if (threadIdx.x % 32 == 0)
                barrier_arrive(empty + ring.stage);
            fp8_promote<BN>(total, part, x0, x1, s0, s1, border);
            ring.advance<STAGES>();
        }
        fp8_store<BN>(g, tile, group_row, total, staging + group_row * Layout::Y_PITCH);
    }
}

} // namespace proa

#endif
