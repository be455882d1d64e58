/* cuda.cu - a warp routes a row; a block spreads one. */
#include "op/router/cuda.h"

#include "op/cuda/launch.cuh"
#include "op/cuda/vectors.cuh"

namespace proa
{

enum { ROUTER_WARPS = 4, ROUTER_LANES = 32, ROUTER_EACH = 32 /* experts of a lane, at most */ };

/* The greatest value and its place among the warp's, ties to the lower place. */
__device__ __forceinline__ void warp_best(float &value, int32_t &place)
{
#pragma unroll
    for (int i = 16; i > 0; i /= 2) {
        const float other = __shfl_xor_sync(~0u, value, i);
        const int32_t where = __shfl_xor_sync(~0u, place, i);
        if (other > value || (other == value && where < place)) {
            value = other;
            place = where;
        }
    }
}

/* Takes the experts of groups that do not stay out of `choice` [experts]: -inf. */
__device__ __forceinline__ void drop_groups(const proa_cuda_router_args &g, float *choice, int32_t lane)
{
    const int32_t size = g.experts / g.n_group;
    uint32_t stays = 0; /* up to 32 groups: a lane each */
    float first = -INFINITY, second = -INFINITY;
    for (int32_t i = 0; lane < g.n_group && i < size; i++) {
        const float c = choice[lane * size + i];
        if (c > first) {
            second = first;
            first = c;
        } else if (c > second) {
            second = c;
        }
    }
    float score = lane >= g.n_group ? -INFINITY : size > 1 ? first + second : first;
    bool in = lane < g.n_group;
    for (int32_t i = 0; i < g.topk_group; i++) {
        float best = in ? score : -INFINITY;
        int32_t place = in ? lane : ROUTER_LANES;
        warp_best(best, place);
        stays |= 1u << place;
        in = in && place != lane;
    }
    __syncwarp();
    for (int32_t e = lane; e < g.experts; e += ROUTER_LANES)
        if ((stays >> (e / size) & 1) == 0)
            choice[e] = -INFINITY;
    __syncwarp();
}

__global__ void __launch_bounds__(ROUTER_WARPS *ROUTER_LANES) router(const proa_cuda_router_args g)
{
    extern __shared__ float memory[]; /* [warps][2][experts] */
    const int32_t lane = (int32_t)threadIdx.x % 32, warp = (int32_t)threadIdx.x / 32;
    const int32_t row = (int32_t)blockIdx.x * ROUTER_WARPS + warp;
    float *s = memory + warp * 2 * g.experts, *choice = s + g.experts;
    if (row >= g.rows)
        return;
    for (int32_t e = lane; e < g.experts; e += ROUTER_LANES) {
        float logit = 0;
        for (int32_t p = 0; p < g.parts; p++)
            logit += g.logits[((int64_t)p * g.rows + row) * g.experts + e];
        s[e] = __fdiv_rn(1.0f, 1.0f + expf(-logit));
        const float c = g.bias != nullptr ? s[e] + g.bias[e] : s[e];
        choice[e] = isnan(c) ? -INFINITY : c;
    }
    __syncwarp();
    if (g.n_group > 1)
        drop_groups(g, choice, lane);
    uint32_t taken = 0; /* of this lane's experts; those that are dropped come after all others */
    float sum = 0, mine = 0;
    int32_t mine_id = 0;
    for (int32_t k = 0; k < g.top_k; k++) {
        float best = -INFINITY;
        int32_t place = g.experts;
        for (int32_t i = 0, e = lane; e < g.experts; i++, e += ROUTER_LANES) {
            if ((taken >> i & 1) == 0 && (choice[e] > best || (place == g.experts && choice[e] == best))) {
                best = choice[e];
                place = e;
            }
        }
        warp_best(best, place);
        if (place % ROUTER_LANES == lane)
            taken |= 1u << place / ROUTER_LANES;
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

enum { SPREAD_EXPERTS = 1024 };

/* A block a row. */
__global__ void __launch_bounds__(ROW_THREADS) spread(const proa_cuda_spread_args g)
{
    __shared__ int32_t sums[ROW_THREADS / 32 + 1];
    __shared__ int32_t firsts[SPREAD_EXPERTS];
    __shared__ int32_t places[32];
    const int32_t thread = (int32_t)threadIdx.x, row = (int32_t)blockIdx.x;
    int32_t carry = 0;
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
    const int32_t blocks = (a->rows + proa::ROUTER_WARPS - 1) / proa::ROUTER_WARPS;
    const size_t bytes = sizeof(float) * 2 * proa::ROUTER_WARPS * (size_t)a->experts;
    proa::router<<<blocks, proa::ROUTER_WARPS * proa::ROUTER_LANES, bytes, proa_cuda_stream(gpu)>>>(*a);
    return proa_cuda_launched("router", err);
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
    proa::spread<<<a->rows, proa::ROW_THREADS, 0, proa_cuda_stream(gpu)>>>(*a);
    return proa_cuda_launched("spread", err);
}

PROA_CUDA_KERNELS(router, proa::router)
