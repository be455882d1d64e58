/* cuda_bf16.cuh - bf16 product of a Hopper GPU: y = x W^T for a weight, for one a head, or for one a group of rows.
 *
 *   groups are      x                              W               y (bf16 or float32), row r at y + g * y_group_stride + r * y_stride
 *   rows            [rows, k]                      [groups, n, k]
 *   heads           [rows, heads, k]               [heads, n, k]
 *   slices of K     [rows, slices * k]             [n, slices * k] parts of sums, for whoever adds them up in order: where n is small
 *                                                  and K is long, blocks that would have no work have some
 *
 * Tensor maps: x by (k, head, row), W by (k, row).
 *
 * Built as cuda_fp8.cuh; a tile's sum stays in one float32 accumulator over all of K, in the order of K (law 2).
 */
#ifndef PROA_OP_LINEAR_CUDA_BF16_CUH
#define PROA_OP_LINEAR_CUDA_BF16_CUH

#include "op/cuda/tiles.cuh"

namespace proa
{

enum Bf16Groups { BF16_GROUPS_ROWS, BF16_GROUPS_HEADS, BF16_GROUPS_SLICES };

template <typename OUT> struct Bf16Gemm {
    proa_cuda_groups rows;
    Bf16Groups groups;
    int32_t n; /* a multiple of 8 */
    int32_t k; /* a multiple of 8; of slices, of 64 */
    OUT *y;
    int64_t y_stride;
    int64_t y_group_stride;
};

enum { BF16_K = 64 };

template <int BM, int BN, typename OUT> struct Bf16Layout {
    static constexpr int X_BYTES = BM * BF16_K * 2;
    static constexpr int W_BYTES = BN * BF16_K * 2;
    static constexpr int Y_PITCH = StagingPitch<BN>::BYTES;
    static constexpr int Y_BYTES = sizeof(OUT) == 2 ? (BM * Y_PITCH + 1023) / 1024 * 1024 : 0;
    static constexpr int STAGE_BYTES = X_BYTES + W_BYTES;
    static constexpr int LIMIT =
        232448 - 1024 - 256; /* of a block's shared memory, less alignment and barriers */
    static constexpr int FITTING = (LIMIT - Y_BYTES) / STAGE_BYTES;
    static constexpr int STAGES = FITTING < 10 ? FITTING : 10;
    static constexpr int BYTES = STAGES * STAGE_BYTES + Y_BYTES + 1024 + 256;
};

/* One thread: a tile's stages, as they become free. `first`: of an empty ring, so that the weights of its stages are sent for before
 * earlier kernels have ended. */
template <typename LAYOUT, typename OUT>
__device__ __forceinline__ void bf16_fill(const CUtensorMap &x_map, const CUtensorMap &w_map,
                                          const Bf16Gemm<OUT> &g, uint8_t *x_tiles, uint8_t *w_tiles,
                                          uint64_t *full, uint64_t *empty, const Tile &tile, int32_t steps,
                                          bool first, Ring &ring)
{
    const bool slices = g.groups == BF16_GROUPS_SLICES;
    const int32_t k_first = slices ? tile.group * g.k : 0;
    const int32_t w_row = slices ? tile.column : tile.group * g.n + tile.column;
    const int32_t head = g.groups == BF16_GROUPS_HEADS ? tile.group : 0;
    const int32_t ahead = first ? min(steps, LAYOUT::STAGES) : 0;
    for (int32_t i = 0; i < ahead; i++) {
        barrier_expect(full + i, LAYOUT::STAGE_BYTES);
        copy_tile(w_tiles + i * LAYOUT::W_BYTES, &w_map, k_first + i * BF16_K, w_row, full + i);
    }
    if (first)
        follow_wait();
    for (int32_t i = 0; i < steps; i++) {
        uint64_t *arrived = full + ring.stage;
        if (i >= ahead) {
            barrier_wait(empty + ring.stage, ring.phase ^ 1);
            barrier_expect(arrived, LAYOUT::STAGE_BYTES);
            copy_tile(w_tiles + ring.stage * LAYOUT::W_BYTES, &w_map, k_first + i * BF16_K, w_row, arrived);
        }
        copy_tile(x_tiles + ring.stage * LAYOUT::X_BYTES, &x_map, k_first + i * BF16_K, head, tile.row,
                  arrived);
        ring.template advance<LAYOUT::STAGES>();
    }
}

template <int BM, int BN, typename OUT>
__global__ void __launch_bounds__(BM * 2 + 128, 1)
    bf16_gemm(const __grid_constant__ CUtensorMap x_map, const __grid_constant__ CUtensorMap w_map,
              const Bf16Gemm<OUT> g)
{
    using Layout = Bf16Layout<BM, BN, OUT>;
    constexpr int WORKERS = BM / 64; /* warpgroups that multiply */
    constexpr int STAGES = Layout::STAGES;
    extern __shared__ uint8_t raw[];
    uint8_t *memory = (uint8_t *)(((uintptr_t)raw + 1023) / 1024 * 1024);
    uint8_t *x_tiles = memory, *w_tiles = x_tiles + STAGES * Layout::X_BYTES;
    uint8_t *staging = w_tiles + STAGES * Layout::W_BYTES;
    uint64_t *full = (uint64_t *)(staging + Layout::Y_BYTES), *empty = full + STAGES;
    const int32_t warpgroup = __shfl_sync(~0u, (int32_t)threadIdx.x / 128, 0);
    const int32_t steps = (g.k + BF16_K - 1) / BF16_K;

    if (threadIdx.x == 0) {
        prefetch_map(&x_map);
        prefetch_map(&w_map);
        for (int i = 0; i < STAGES; i++) {
            barrier_init(full + i, 1);
            barrier_init(empty + i, WORKERS * 4 * WARP_ARRIVES);
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
        if (threadIdx.x != WORKERS * 128)
            return;
        for (bool first = known; walk.step(g.rows, g.n, &tile); first = false)
            bf16_fill<Layout>(x_map, w_map, g, x_tiles, w_tiles, full, empty, tile, steps, first, ring);
        return;
    }
    follow_wait();
    const int32_t group_row = warpgroup * 64;
    while (walk.step(g.rows, g.n, &tile)) {
        float total[BN / 2];
        int32_t last = 0; /* the stage whose product may still run */
        for (int32_t step = 0; step < steps; step++) {
            barrier_wait(full + ring.stage, ring.phase);
            const uint64_t a =
                tile_descriptor(x_tiles + ring.stage * Layout::X_BYTES + group_row * BF16_K * 2);
            const uint64_t b = tile_descriptor(w_tiles + ring.stage * Layout::W_BYTES);
            product_fence();
#pragma unroll
            for (int i = 0; i < 4; i++) /* 16 of K each */
                product_bf16(total, a + 2 * i, b + 2 * i, step + i);
            product_commit();
            product_wait<1>();
            if (step > 0 && threadIdx.x % ARRIVAL_LANES == 0)
                barrier_arrive(empty + last);
            last = ring.stage;
            ring.advance<STAGES>();
        }
        product_wait<0>();
        product_pin(total);
        if (threadIdx.x % ARRIVAL_LANES == 0)
            barrier_arrive(empty + last);
        store_tile<BN>(g.y + tile.group * g.y_group_stride, g.y_stride, g.n, tile, group_row, total,
                       staging + group_row * Layout::Y_PITCH);
    }
}

} // namespace proa

#endif
