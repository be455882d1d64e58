/* cuda_shared.cuh - a row of logits over a cluster of blocks: what each holds in shared memory, sums over blocks and clusters.
 *
 * Block c of the cluster has ids c * slice .. of the row as floats, and every block comes to the same decisions from the same numbers:
 * what one tells the others it writes into its own memory before a cluster's barrier, and they read it after. Sums of floats have one
 * order: over a thread's ids, over a warp's lanes by halves, over warps, over blocks.
 */
#ifndef PROA_OP_SAMPLE_CUDA_SHARED_CUH
#define PROA_OP_SAMPLE_CUDA_SHARED_CUH

#include "op/sample/pack.h"

#include <cooperative_groups.h>
#include <cuda_runtime.h>
#include <float.h>

namespace proa
{

constexpr int32_t SAMPLE_CLUSTER = 8, SAMPLE_THREADS = 256, SAMPLE_WARPS = SAMPLE_THREADS / 32;
constexpr int32_t SAMPLE_BINS = 1024, SAMPLE_REFINED = 512, SAMPLE_LISTED = 512;
static_assert(SAMPLE_BINS / 4 == SAMPLE_THREADS, "a thread looks at four bins, a warp at those of one block");
static_assert(SAMPLE_REFINED / 2 == SAMPLE_THREADS, "or at two");
static_assert(SAMPLE_WARPS == SAMPLE_CLUSTER, "so that a warp has a block's bins");
static_assert(PROA_SAMPLE_MAX_TOP_LOGPROBS * SAMPLE_CLUSTER <= SAMPLE_LISTED,
              "alternatives of all blocks are sorted together");

/* Greater is earlier in descending order: the logit's bits in order, then the complement of the id. 0: none. */
typedef uint64_t Rank;

struct Bin {
    uint32_t count;
    float weight; /* of the bin's tokens, relative to e^-z where its bucket begins */
};

/* What a block tells the others. */
struct Told {
    Rank best[2]; /* raw, edited */
    float least[2];
    double sum;
    double tail_weight;
    uint32_t tail_count;
    uint32_t listed;
    uint32_t equal;
    int32_t found;
};

struct alignas(16) SampleShared {
    union {
        struct {
            uint32_t count[SAMPLE_BINS];
            uint32_t residual[SAMPLE_BINS];
        } bins;
        struct {
            unsigned long long weight[SAMPLE_REFINED];
            uint32_t count[SAMPLE_REFINED];
        } refined;
        struct {
            Rank own[SAMPLE_LISTED];
            Rank sorted[SAMPLE_LISTED];
        } list;
    };
    Bin merged[SAMPLE_BINS / SAMPLE_CLUSTER]; /* of all blocks: bins rank * 128 .. */
    Bin merged_refined[SAMPLE_REFINED / SAMPLE_CLUSTER];
    Told told;
    double warp_weight[SAMPLE_WARPS];
    Rank warp_rank[SAMPLE_WARPS];
    uint32_t warp_count[SAMPLE_WARPS];
    double place_weight;
    uint32_t place_count;
    uint32_t place_here;
};

static_assert(sizeof(SampleShared) + 129280 / SAMPLE_CLUSTER * sizeof(float) <= 75 * 1024,
              "three blocks share a multiprocessor's 228 KiB, of which each block costs one more");

/* A block's part of a row. */
struct Row {
    SampleShared *shared;
    float *logits; /* [length], clean */
    int32_t start; /* id of the first */
    int32_t length;
    int32_t slice; /* ids of a block; the last ones may have fewer */
    int32_t thread;
};

__device__ __forceinline__ uint32_t key_of(float logit)
{
    const uint32_t bits = __float_as_uint(logit + 0.0f); /* -0 becomes 0 */
    return bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float logit_of(uint32_t key)
{
    return __uint_as_float(key >> 31 != 0 ? key & 0x7fffffffu : ~key);
}

/* 0 for -inf. */
__device__ __forceinline__ Rank rank_of(float logit, int32_t id)
{
    return logit > -INFINITY ? (Rank)key_of(logit) << 32 | ~(uint32_t)id : 0;
}

__device__ __forceinline__ float rank_logit(Rank rank)
{
    return logit_of((uint32_t)(rank >> 32));
}

__device__ __forceinline__ int32_t rank_id(Rank rank)
{
    return (int32_t) ~(uint32_t)rank;
}

/* As proa_sample_clean. */
__device__ __forceinline__ float clean(float logit)
{
    return logit <= FLT_MAX ? logit : isnan(logit) ? -INFINITY : FLT_MAX;
}

/* ---- over blocks and clusters ---- */

__device__ __forceinline__ void cluster_sync()
{
    cooperative_groups::this_cluster().sync();
}

__device__ __forceinline__ int32_t cluster_rank()
{
    return (int32_t)cooperative_groups::this_cluster().block_rank();
}

/* The same place in another block's shared memory. */
template <typename T> __device__ __forceinline__ const T *of_block(const T *mine, int32_t block)
{
    return cooperative_groups::this_cluster().map_shared_rank(const_cast<T *>(mine), (unsigned)block);
}

/* The greatest of the block's, in all threads. */
__device__ __forceinline__ Rank block_max(const Row &r, Rank value)
{
#pragma unroll
    for (int i = 16; i > 0; i /= 2) {
        const Rank other = __shfl_xor_sync(~0u, value, i);
        value = other > value ? other : value;
    }
    __syncthreads(); /* others may still read what was there */
    if (r.thread % 32 == 0)
        r.shared->warp_rank[r.thread / 32] = value;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < SAMPLE_WARPS; i++)
        value = r.shared->warp_rank[i] > value ? r.shared->warp_rank[i] : value;
    return value;
}

/* The block's sum, in all threads. */
__device__ __forceinline__ double block_sum(const Row &r, double value)
{
#pragma unroll
    for (int i = 16; i > 0; i /= 2)
        value += __shfl_xor_sync(~0u, value, i);
    __syncthreads();
    if (r.thread % 32 == 0)
        r.shared->warp_weight[r.thread / 32] = value;
    __syncthreads();
    value = 0;
#pragma unroll
    for (int i = 0; i < SAMPLE_WARPS; i++)
        value += r.shared->warp_weight[i];
    return value;
}

/* Sorts `count` of shared->list.sorted, a power of two, the greatest first: a bitonic network. */
__device__ __forceinline__ void sort_list(const Row &r, int32_t count)
{
    Rank *list = r.shared->list.sorted;
    for (int32_t run = 2; run <= count; run *= 2)
        for (int32_t step = run / 2; step > 0; step /= 2) {
            __syncthreads();
            for (int32_t pair = r.thread; pair < count / 2; pair += SAMPLE_THREADS) {
                const int32_t low = pair / step * step * 2 + pair % step, high = low + step;
                const Rank a = list[low], b = list[high];
                if (((low & run) == 0) == (a < b)) {
                    list[low] = b;
                    list[high] = a;
                }
            }
        }
    __syncthreads();
}

/* Brings the lists of all blocks, told.listed entries each, together and sorts them; returns how many there are. After a cluster's
 * barrier. */
__device__ __forceinline__ int32_t gather_lists(const Row &r)
{
    int32_t count = 0, room = 1;
    for (int32_t c = 0; c < SAMPLE_CLUSTER; c++) {
        const SampleShared *there = of_block(r.shared, c);
        const int32_t listed = (int32_t)there->told.listed;
        for (int32_t i = r.thread; i < listed; i += SAMPLE_THREADS)
            r.shared->list.sorted[count + i] = there->list.own[i];
        count += listed;
    }
    while (room < count)
        room *= 2;
    for (int32_t i = count + r.thread; i < room; i += SAMPLE_THREADS)
        r.shared->list.sorted[i] = 0;
    sort_list(r, room);
    return count;
}

} // namespace proa

#endif
