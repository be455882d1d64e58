/* cuda.cu - a warp routes a row; a block spreads one. */
#include "op/router/cuda.h"

#include "op/cuda/launch.cuh"
#include "op/cuda/vectors.cuh"

namespace proa
{

enum { ROUTER_LANES = 32, ROUTER_WARPS = ROW_THREADS / 32 };

/* The greatest value and its place among the warp's, ties to the lower place. No value is a NaN or a negative zero. */
__device__ __forceinline__ void warp_best(float &value, int32_t &place)
{
    const int32_t bits = __float_as_int(value),
                  order = bits ^ ((bits >> 31) & 0x7fffffff); /* rises as floats do */
    const int32_t best = __reduce_max_sync(~0u, order);
    place = __reduce_min_sync(~0u, order == best ? place : INT32_MAX);
    value = __int_as_float(best ^ ((best >> 31) & 0x7fffffff));
}

/* A warp: the best of choice[0, count) and its place, `count` if all are -inf or less than that; `but` is passed over. */
__device__ __forceinline__ void best_of(const float *choice, int32_t count, int32_t but, float &best,
                                        int32_t &place)
{
    best = -INFINITY;
    place = count;
    for (int32_t i = (int32_t)threadIdx.x % 32; i < count; i += ROUTER_LANES)
        if (i != but && choice[i] > best) {
            best = choice[i];
            place = i;
        }
    warp_best(best, place);
}

/* Warp by warp: a group counts as much as its best two. */
__device__ __forceinline__ void score_groups(const proa_cuda_router_args &g, const float *choice,
                                             float *scores)
{
    const int32_t size = g.experts / g.n_group;
    for (int32_t group = (int32_t)threadIdx.x / 32; group < g.n_group; group += ROUTER_WARPS) {
        float first, second;
        int32_t place, other;
        best_of(choice + group * size, size, -1, first, place);
        best_of(choice + group * size, size, place, second, other);
        if (threadIdx.x % 32 == 0)
            scores[group] = size > 1 ? first + second : first;
    }
}

/* One warp: the groups that stay, as bits. */
__device__ __forceinline__ uint32_t staying_groups(const proa_cuda_router_args &g, const float *scores)
{
    const int32_t lane = (int32_t)threadIdx.x % 32;
    const float score = lane < g.n_group ? scores[lane] : -INFINITY;
    uint32_t stays = 0;
    bool in = lane < g.n_group;
    for (int32_t i = 0; i < g.topk_group; i++) {
        float best = in ? score : -INFINITY;
        int32_t place = in ? lane : ROUTER_LANES;
        warp_best(best, place);
        stays |= 1u << place;
        in = in && place != lane;
    }
    return stays;
}

/* One warp: the experts of a row by falling choice, a NaN once it is taken; those of groups that do not stay come after all others. */
__device__ __forceinline__ void choose_experts(const proa_cuda_router_args &g, int32_t row, const float *s,
                                               float *choice, uint32_t stays)
{
    const int32_t lane = (int32_t)threadIdx.x % 32, size = g.experts / g.n_group;
    float sum = 0, mine = 0;
    int32_t mine_id = 0;
    for (int32_t e = lane; e < g.experts; e += ROUTER_LANES)
        if ((stays >> (e / size) & 1) == 0)
            choice[e] = -INFINITY;
    float best = -INFINITY; /* of this lane's experts, and where */
    int32_t at = g.experts;
    const auto look = [&]() {
        best = -INFINITY;
        at = g.experts;
        for (int32_t e = lane; e < g.experts; e += ROUTER_LANES)
            if (choice[e] > best || (at == g.experts && choice[e] == best)) {
                best = choice[e];
                at = e;
            }
    };
    look();
    for (int32_t k = 0; k < g.top_k; k++) {
        float value = best;
        int32_t place = at;
        warp_best(value, place);
        if (place == at && at < g.experts) {
            choice[at] = NAN;
            look();
        }
        sum += s[place];
        if (lane == k) {
            mine = s[place];
            mine_id = place;
        }
    }
    if (lane >= g.top_k)
        return;
    const int32_t id = g.where != nullptr ? g.where[mine_id] : mine_id;
    g.ids[(int64_t)row * g.top_k + lane] = id;
    g.weights[(int64_t)row * g.top_k + lane] =
        (g.norm_topk_prob ? __fdiv_rn(mine, sum + 1e-20f) : mine) * g.routed_scaling_factor;
    if (g.counts != nullptr)
        atomicAdd(g.counts + id, 1);
}

/* A block a row. */
__global__ void __launch_bounds__(ROW_THREADS) router(const proa_cuda_router_args g)
{
    extern __shared__ float memory[]; /* [2][experts] */
    __shared__ float scores[ROUTER_LANES];
    float *s = memory, *choice = s + g.experts;
    const int32_t row = (int32_t)blockIdx.x;
    follow();
    for (int32_t e = (int32_t)threadIdx.x; e < g.experts; e += ROW_THREADS) {
        float logit = 0;
#pragma unroll 8
        for (int32_t p = 0; p < g.parts; p++)
            logit += g.logits[((int64_t)p * g.rows + row) * g.experts + e];
        s[e] = __fdiv_rn(1.0f, 1.0f + expf(-logit));
        const float c = g.bias != nullptr ? s[e] + g.bias[e] : s[e];
        choice[e] = isnan(c) ? -INFINITY : c + 0.0f; /* no negative zero */
    }
    __syncthreads();
    if (g.n_group > 1)
        score_groups(g, choice, scores);
    __syncthreads();
    if (threadIdx.x < 32)
        choose_experts(g, row, s, choice, g.n_group > 1 ? staying_groups(g, scores) : 1);
}

enum { SPREAD_EXPERTS = 1024 };

/* A block a row. */
__global__ void __launch_bounds__(ROW_THREADS) spread(const proa_cuda_spread_args g)
{
    __shared__ int32_t sums[ROW_THREADS / 32 + 1];
    __shared__ int32_t firsts[SPREAD_EXPERTS];
    __shared__ int32_t places[32];
    const int32_t thread = (int32_t)threadIdx.x, row = (int32_t)blockIdx.x;
    int32_t carry = 0;
    follow();
    for (int32_t base = 0; base < g.experts; base += ROW_THREADS) { /* rows of the experts before each */
        const int32_t e = base + thread, n = e < g.experts ? g.counts[e] : 0;
        const int32_t room = (n + PROA_CUDA_GROUP_ALIGN - 1) / PROA_CUDA_GROUP_ALIGN * PROA_CUDA_GROUP_ALIGN;
        int32_t sum = room;
#pragma unroll
        for (int i = 1; i < 32; i *= 2) {
            const int32_t other = __shfl_up_sync(~0u, sum, i);
            sum += thread % 32 >= i ? other : 0;
        }
        if (thread % 32 == 31)
            sums[thread / 32] = sum;
        __syncthreads();
        int32_t before = carry, all = 0;
        for (int32_t i = 0; i < ROW_THREADS / 32; i++) {
            before += i < thread / 32 ? sums[i] : 0;
            all += sums[i];
        }
        if (e < g.experts) {
            firsts[e] = before + sum - room;
            if (row == 0) {
                g.first[e] = firsts[e];
                g.count[e] = n;
            }
        }
        carry += all;
        __syncthreads();
    }
    for (int32_t i = thread; row == 0 && g.clear != nullptr && i < g.clear_count; i += ROW_THREADS)
        g.clear[i] = 0;
    if (thread < g.top_k) {
        const int32_t id = g.ids[(int64_t)row * g.top_k + thread];
        places[thread] = firsts[id] + atomicAdd(g.filled + id, 1);
        g.place[(int64_t)row * g.top_k + thread] = places[thread];
    }
    __syncthreads();
    const int32_t bytes = g.q.q != nullptr ? g.cols : 2 * g.cols;
    const uint8_t *from =
        g.q.q != nullptr ? g.q.q + (int64_t)row * bytes : (const uint8_t *)g.x + (int64_t)row * bytes;
    uint8_t *to = g.q.q != nullptr ? g.q_out.q : (uint8_t *)g.x_out;
    for (int32_t at = thread * 16; at < bytes; at += ROW_THREADS * 16) {
        const uint4 piece = *(const uint4 *)(from + at);
        for (int32_t k = 0; k < g.top_k; k++)
            *(uint4 *)(to + (int64_t)places[k] * bytes + at) = piece;
    }
    const int32_t groups = (g.cols + 127) / 128;
    for (int32_t i = thread; g.q.q != nullptr && i < groups * g.top_k; i += ROW_THREADS) {
        const int32_t group = i / g.top_k, k = i % g.top_k;
        g.q_out.scale[(int64_t)group * g.q_out.stride + places[k]] =
            g.q.scale[(int64_t)group * g.q.stride + row];
    }
}

} // namespace proa

proa_status proa_cuda_router(proa_gpu *gpu, const proa_cuda_router_args *a, proa_error *err)
{
    if (a->experts > proa::SPREAD_EXPERTS || a->n_group > proa::ROUTER_LANES || a->top_k > proa::ROUTER_LANES)
        return proa_error_set(
            err, PROA_ERR_UNSUPPORTED,
            "a router of %d experts in %d groups, %d chosen: the GPU takes up to %d in %d, %d chosen",
            a->experts, a->n_group, a->top_k, proa::SPREAD_EXPERTS, proa::ROUTER_LANES, proa::ROUTER_LANES);
    if (a->rows == 0)
        return PROA_OK;
    const size_t bytes = sizeof(float) * 2 * (size_t)a->experts;
    return proa_cuda_status(
        proa_cuda_follow(proa_cuda_stream(gpu), proa::router, dim3(a->rows), proa::ROW_THREADS, bytes, *a),
        "router", err);
}

proa_status proa_cuda_spread(proa_gpu *gpu, const proa_cuda_spread_args *a, proa_error *err)
{
    if (a->experts > proa::SPREAD_EXPERTS || a->top_k > proa::ROUTER_LANES || a->cols % 16 != 0)
        return proa_error_set(
            err, PROA_ERR_UNSUPPORTED,
            "rows of %d values to %d of %d experts: the GPU takes multiples of 16, %d of %d", a->cols,
            a->top_k, a->experts, proa::ROUTER_LANES, proa::SPREAD_EXPERTS);
    if (a->rows == 0)
        return PROA_OK;
    return proa_cuda_status(
        proa_cuda_follow(proa_cuda_stream(gpu), proa::spread, dim3(a->rows), proa::ROW_THREADS, 0, *a),
        "spread", err);
}

PROA_CUDA_KERNELS(router, proa::router)
