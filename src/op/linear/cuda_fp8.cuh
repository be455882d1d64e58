/* cuda_fp8.cuh - block-FP8 product of a Hopper GPU: y = x W^T for one weight, or for one weight a group of rows.
 *
 *   x  e4m3 [rows, k], float32 scales [ceil(k / 128)][scale_stride], one a row and 128 channels
 *   W  e4m3 [groups, n, k], float32 scales [groups, ceil(n / 128), ceil(k / 128)]
 *   y  bf16 [rows, n]
 *
 * Persistent blocks walk tiles of [BM, BN]. Two threads of a block fill a ring of stages by the tensor memory accelerator, a stage a
 * 128 of K: one copies W, the other x and its scales; warpgroups of 64 rows each multiply a stage into a fresh accumulator, and add it, scaled, to the tile's: DeepSeek-V3's
 * two-level accumulation (technical report, 3.3.2). A sum's order is that of K whatever the tile is, so that a row has the same bits in
 * any batch and by any of the kernels (law 2).
 *
 * What holds it up (H100, H200; docs/benchmarks.md): to 256 rows memory, and for few tiles of a long K a stage's own latency, about 180 ns;
 * from 4,096 rows on the limit of power: clocks fall from 1,980 to 1,450 .. 1,600 MHz within a tenth of a second. Lost there: two parts of a
 * sum in registers at 128 x 128 (+-0), x shared by the two blocks of a cluster (+-0 to 4 %; few rows: +7 %), tiles of 112 and 144 columns,
 * whose second scale costs more than the fuller last wave gains (+10 to 20 %), and of 16 (+5 %).
 */
#ifndef PROA_OP_LINEAR_CUDA_FP8_CUH
#define PROA_OP_LINEAR_CUDA_FP8_CUH

#include "op/cuda/tiles.cuh"

namespace proa
{

struct Fp8Gemm {
    proa_cuda_groups rows;
    int32_t n; /* a multiple of 8 */
    int32_t k; /* a multiple of 16; what the last 128 lack is zeros */
    const float *x_scale;
    int64_t scale_stride; /* a multiple of 4 */
    const float *w_scale;
    __nv_bfloat16 *y;
    int64_t y_stride; /* a multiple of 8 */
};

enum { FP8_K = 128, FP8_SCALE_N = 128 };

template <int BM, int BN> struct Fp8Layout {
    static constexpr int X_BYTES = BM * FP8_K;
    static constexpr int W_BYTES = BN * FP8_K;
    static constexpr int SCALE_BYTES = BM * 4;
    static constexpr int Y_BYTES = BM / 64 * StagedTile<BN>::BYTES;
    static constexpr int STAGE_BYTES = X_BYTES + W_BYTES + SCALE_BYTES;
    static constexpr int LIMIT =
        232448 - 1024 - 512; /* of a block's shared memory, less alignment and barriers */
    static constexpr int FITTING = (LIMIT - Y_BYTES) / STAGE_BYTES;
    static constexpr int STAGES = FITTING < 20 ? FITTING : 20;
    static constexpr int BYTES = STAGES * STAGE_BYTES + Y_BYTES + 1024 + 512;
    /* One part is added while the tensor cores make the next one. Registers bound it; two warpgroups hide one another's sums anyway. */
    static constexpr bool TWO_PARTS = BN <= 96;
    static_assert(STAGES >= 3, "a ring of fewer hides nothing");
};

template <int BN>
__device__ __forceinline__ void fp8_product(float (&d)[BN / 2], const uint8_t *x, const uint8_t *w)
{
    const uint64_t a = tile_descriptor(x), b = tile_descriptor(w);
    product_fence();
#pragma unroll
    for (int i = 0; i < 4; i++) /* 32 of K each */
        product_e4m3(d, descriptor_step(a, 2 * i), descriptor_step(b, 2 * i), i);
    product_commit();
}

/* total += part, by the scales of this thread's two rows; columns from `border` on have the second scale of W. */
template <int BN>
__device__ __forceinline__ void fp8_promote(float (&total)[BN / 2], const float (&part)[BN / 2], float x0,
                                            float x1, float w0, float w1, int32_t border)
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

/* What one stage adds, and by which scales. */
template <int BN> struct Fp8Part {
    float sum[BN / 2];
    float x0, x1; /* of this thread's two rows */
    float w0, w1;
    int32_t stage;
};

/* The product of the part is done: its stage may be filled again. */
template <int BN>
__device__ __forceinline__ void fp8_take(float (&total)[BN / 2], Fp8Part<BN> &part, uint64_t *empty,
                                         int32_t border)
{
    product_pin(part.sum);
    warp_arrive(empty + part.stage);
    fp8_promote<BN>(total, part.sum, part.x0, part.x1, part.w0, part.w1, border);
}

/* A block's shared memory. */
template <int BM, int BN> struct Fp8Memory {
    using Layout = Fp8Layout<BM, BN>;
    uint8_t *x_tiles, *w_tiles, *staging;
    float *scales;
    uint64_t *full, *empty;

    __device__ __forceinline__ Fp8Memory(uint8_t *raw)
    {
        x_tiles = (uint8_t *)(((uintptr_t)raw + 1023) / 1024 * 1024);
        w_tiles = x_tiles + Layout::STAGES * Layout::X_BYTES;
        staging = w_tiles + Layout::STAGES * Layout::W_BYTES;
        scales = (float *)(staging + Layout::Y_BYTES);
        full = (uint64_t *)(scales + Layout::STAGES * BM);
        empty = full + Layout::STAGES;
    }
};

/* One thread, before earlier kernels have ended: the weights of a tile's first stages, of an empty ring. Returns how many stages. */
template <int BM, int BN>
__device__ __forceinline__ int32_t fp8_fill_ahead(const CUtensorMap &w_map, const Fp8Gemm &g,
                                                  const Fp8Memory<BM, BN> &m, const Tile &tile, int32_t steps)
{
    using Layout = Fp8Layout<BM, BN>;
    const int32_t stages = min(steps, Layout::STAGES);
    for (int32_t i = 0; i < stages; i++) {
        barrier_expect(m.full + i, Layout::STAGE_BYTES);
        copy_tile(m.w_tiles + i * Layout::W_BYTES, &w_map, i * FP8_K, tile.group * g.n + tile.column,
                  m.full + i);
    }
    return stages;
}

/* One thread: the weights of a tile's stages, as they become free; the first `ahead` have them. */
template <int BM, int BN>
__device__ __forceinline__ void fp8_fill_w(const CUtensorMap &w_map, const Fp8Gemm &g,
                                           const Fp8Memory<BM, BN> &m, const Tile &tile, int32_t steps,
                                           int32_t ahead, Ring &ring)
{
    using Layout = Fp8Layout<BM, BN>;
    for (int32_t i = 0; i < steps; i++) {
        if (i >= ahead) {
            barrier_wait(m.empty + ring.stage, ring.phase ^ 1);
            barrier_expect(m.full + ring.stage, Layout::STAGE_BYTES);
            copy_tile(m.w_tiles + ring.stage * Layout::W_BYTES, &w_map, i * FP8_K,
                      tile.group * g.n + tile.column, m.full + ring.stage);
        }
        ring.template advance<Layout::STAGES>();
    }
}

/* Another one, of a warp of its own so that neither waits for what the other's copies take to start: the rows of x and their scales. What
 * comes before the first thread expects it is counted all the same. */
template <int BM, int BN>
__device__ __forceinline__ void fp8_fill_x(const CUtensorMap &x_map, const Fp8Gemm &g,
                                           const Fp8Memory<BM, BN> &m, const Tile &tile, int32_t steps,
                                           Ring &ring)
{
    using Layout = Fp8Layout<BM, BN>;
    for (int32_t i = 0; i < steps; i++) {
        uint64_t *arrived = m.full + ring.stage;
        barrier_wait(m.empty + ring.stage, ring.phase ^ 1);
        copy_tile(m.x_tiles + ring.stage * Layout::X_BYTES, &x_map, i * FP8_K, tile.row, arrived);
        copy_bytes(m.scales + ring.stage * BM, g.x_scale + i * g.scale_stride + tile.row, Layout::SCALE_BYTES,
                   arrived);
        ring.template advance<Layout::STAGES>();
    }
}

/* A warpgroup: its 64 rows of a tile, from row group_row of it on. */
template <int BM, int BN>
__device__ __forceinline__ void fp8_sum(const Fp8Gemm &g, const Fp8Memory<BM, BN> &m, const Tile &tile,
                                        int32_t group_row, int32_t steps, Ring &ring, float (&total)[BN / 2])
{
    using Layout = Fp8Layout<BM, BN>;
    const int32_t row = group_row + (int32_t)threadIdx.x % 128 / 32 * 16 + (int32_t)threadIdx.x % 32 / 4;
    const int32_t scale_rows = (g.n + FP8_SCALE_N - 1) / FP8_SCALE_N;
    const int32_t scale_row = tile.column / FP8_SCALE_N;
    const float *w0 = g.w_scale + (int64_t)(tile.group * scale_rows + scale_row) * steps;
    const float *w1 = scale_row + 1 < scale_rows ? w0 + steps : w0;
    const int32_t border = (scale_row + 1) * FP8_SCALE_N - tile.column;
    if ((int32_t)threadIdx.x % 32 * 32 < steps) {
        prefetch_near(w0 + (int32_t)threadIdx.x % 32 * 32);
        prefetch_near(w1 + (int32_t)threadIdx.x % 32 * 32);
    }
#pragma unroll
    for (int i = 0; i < BN / 2; i++)
        total[i] = 0;
    const auto begin = [&](Fp8Part<BN> &part, int32_t step) {
        part.w0 = __ldg(w0 + step);
        part.w1 = __ldg(w1 + step);
        barrier_wait(m.full + ring.stage, ring.phase);
        part.x0 = shared_float(m.scales + ring.stage * BM + row);
        part.x1 = shared_float(m.scales + ring.stage * BM + row + 8);
        part.stage = ring.stage;
        fp8_product<BN>(part.sum, m.x_tiles + ring.stage * Layout::X_BYTES + group_row * FP8_K,
                        m.w_tiles + ring.stage * Layout::W_BYTES);
        ring.template advance<Layout::STAGES>();
    };
    if (!Layout::TWO_PARTS) {
        Fp8Part<BN> part;
        for (int32_t step = 0; step < steps; step++) {
            begin(part, step);
            product_wait<0>();
            fp8_take<BN>(total, part, m.empty, border);
        }
        return;
    }
    Fp8Part<BN> even, odd;
    int32_t step = 1;
    begin(even, 0);
    for (; step + 1 < steps; step += 2) {
        begin(odd, step);
        product_wait<1>();
        fp8_take<BN>(total, even, m.empty, border);
        begin(even, step + 1);
        product_wait<1>();
        fp8_take<BN>(total, odd, m.empty, border);
    }
    if (step < steps) {
        begin(odd, step);
        product_wait<1>();
        fp8_take<BN>(total, even, m.empty, border);
        product_wait<0>();
        fp8_take<BN>(total, odd, m.empty, border);
    } else {
        product_wait<0>();
        fp8_take<BN>(total, even, m.empty, border);
    }
}

template <int BM, int BN>
__global__ void __launch_bounds__(BM * 2 + 128, 1)
    fp8_gemm(const __grid_constant__ CUtensorMap x_map, const __grid_constant__ CUtensorMap w_map,
             const __grid_constant__ CUtensorMap y_map, Fp8Gemm g)
{
    using Layout = Fp8Layout<BM, BN>;
    constexpr int WORKERS = BM / 64; /* warpgroups that multiply */
    extern __shared__ uint8_t raw[];
    const Fp8Memory<BM, BN> m(raw);
    const int32_t warpgroup = __shfl_sync(~0u, (int32_t)threadIdx.x / 128, 0);
    const int32_t steps = (g.k + FP8_K - 1) / FP8_K;
    const bool copies_w = threadIdx.x == WORKERS * 128, copies_x = threadIdx.x == WORKERS * 128 + 32;

    if (copies_w) {
        prefetch_map(&x_map);
        prefetch_map(&w_map);
        for (int i = 0; i < Layout::STAGES; i++) {
            barrier_init(m.full + i, 1);
            barrier_init(m.empty + i, WORKERS * 4 * WARP_ARRIVES);
        }
        barrier_init_fence();
    }
    __syncthreads();
    follow_allow();
    const bool known = g.rows.first == nullptr; /* else another kernel counts the rows */
    if (!known)
        follow_wait();

    TileWalk<BM, BN> walk;
    Tile tile;
    Ring ring = {0, 0};
    if (warpgroup == WORKERS) {
        if (WORKERS > 1)
            registers_fewer<40>();
        if (copies_w) {
            bool more = walk.step(g.rows, g.n, &tile);
            int32_t ahead = known && more ? fp8_fill_ahead<BM, BN>(w_map, g, m, tile, steps) : 0;
            for (; more; more = walk.step(g.rows, g.n, &tile), ahead = 0)
                fp8_fill_w<BM, BN>(w_map, g, m, tile, steps, ahead, ring);
        }
        if (copies_x) {
            follow_wait();
            while (walk.step(g.rows, g.n, &tile))
                fp8_fill_x<BM, BN>(x_map, g, m, tile, steps, ring);
        }
    } else {
        follow_wait();
        if (WORKERS > 1)
            registers_more<232>();
        const int32_t group_row = warpgroup * 64;
        Tile next;
        for (bool more_tiles = walk.step(g.rows, g.n, &tile); more_tiles; tile = next) {
            float total[BN / 2];
            fp8_sum<BM, BN>(g, m, tile, group_row, steps, ring, total);
            more_tiles = walk.step(g.rows, g.n, &next);
            store_tile_boxes<BN>(y_map, more_tiles, g.y, g.y_stride, g.n, tile, group_row, total,
                                 m.staging + warpgroup * StagedTile<BN>::BYTES);
        }
        store_wait();
    }
}

} // namespace proa

#endif
