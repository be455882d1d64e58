/* cuda_select.cuh - a row's tokens in descending order up to a limit (a rank, a sum of weights, a distance), without sorting them.
 *
 * z = (max - logit) / temperature is a token's distance from the best, e^-z its weight. Distances up to 16, or up to the row's least logit,
 * are cut into 1,024 bins; what is farther is the tail. A bin is at most 1/64 wide, so that its weight is e^-z0 (count - sum of residuals),
 * each 1 - e^-(z - z0) < 1/64 and added as an integer: atomics in any order give the same sum. Counts and weights say in which bin the limit
 * lies. Its tokens are listed and sorted when they are few, else their keys (the logit's bits in order) are cut into 512 bins by the next
 * nine bits of the key, until they are few or all the same.
 */
#ifndef PROA_OP_SAMPLE_CUDA_SELECT_CUH
#define PROA_OP_SAMPLE_CUDA_SELECT_CUH

#include "op/sample/cuda_shared.cuh"

namespace proa
{

constexpr float RESIDUALS = 0x1p22f; /* to 1: a slice of 65,536 tokens sums below 2^32 */
constexpr float REFINED_ONE = 0x1p40f;
constexpr int32_t NOWHERE = 0x7fffffff;

/* Distances in bins. */
struct Scale {
    float max;
    float bins; /* a unit of logits */
    float z;    /* a bin's width in z */
};

/* Selects the shortest beginning that has `count` tokens, or a weight of `weight` (over it: strict); nothing beyond `distance` bins. */
struct Limits {
    uint32_t count;
    bool strict;
    float distance;
    double weight;
};

struct Chosen {
    uint32_t count;
    int32_t last; /* id of the last one; means nothing where only rounding or a distance ended it */
    double weight;
};

/* Counts and weights of the row's bins: four of each thread, and the tail. */
struct Bins {
    Bin mine[4];
    uint32_t total_count, tail_count;
    double total, tail_weight;
};

/* Tokens of bin `bin` up to a distance, with keys from high down to high - 2^shift + 1. */
struct Part {
    int32_t bin;
    float distance;
    uint32_t high;
    int32_t shift;
};

__device__ __forceinline__ float distance_of(const Scale &s, float logit)
{
    return __fmul_rn(s.max - logit, s.bins); /* rounded before anything is taken from it */
}

__device__ __forceinline__ int32_t bin_of(float distance)
{
    return distance < (float)SAMPLE_BINS ? (int32_t)distance : SAMPLE_BINS;
}

/* Relative to the bin's beginning. */
__device__ __forceinline__ float weight_in(const Scale &s, float distance, int32_t bin)
{
    return expf((distance - (float)bin) * -s.z);
}

__device__ __forceinline__ double bin_weight(const Scale &s, int32_t bin)
{
    return exp((double)bin * -(double)s.z);
}

__device__ __forceinline__ bool in_part(const Scale &s, const Part &p, float logit)
{
    const float distance = distance_of(s, logit);
    if (!(logit > -INFINITY) || bin_of(distance) != p.bin || !(distance <= p.distance))
        return false;
    const uint32_t key = key_of(logit);
    return p.shift == 32 || (key <= p.high && p.high - key < 1u << p.shift);
}

/* ---- the row's bins ---- */

__device__ __forceinline__ void count_bins(const Row &r, const Scale &s)
{
    SampleShared *shared = r.shared;
    uint32_t tail_count = 0;
    float tail = 0;
    for (int32_t i = r.thread; i < SAMPLE_BINS; i += SAMPLE_THREADS)
        shared->bins.count[i] = shared->bins.residual[i] = 0;
    __syncthreads();
#pragma unroll 4
    for (int32_t i = r.thread; i < r.length; i += SAMPLE_THREADS) {
        const float logit = r.logits[i], distance = distance_of(s, logit);
        if (distance < (float)SAMPLE_BINS) {
            const int32_t bin = (int32_t)distance;
            const float t = (distance - (float)bin) * s.z;
            const float residual = t * (1.0f - t * (0.5f - t * (1.0f / 6))); /* 1 - e^-t, t < 1/64 */
            atomicAdd(&shared->bins.count[bin], 1u);
            atomicAdd(&shared->bins.residual[bin], (uint32_t)(residual * RESIDUALS + 0.5f));
        } else if (logit > -INFINITY) {
            tail_count++;
            tail += weight_in(s, distance, SAMPLE_BINS);
        }
    }
    const double tail_weight = block_sum(r, tail), counted = block_sum(r, tail_count); /* exact */
    if (r.thread == 0) {
        shared->told.tail_count = (uint32_t)counted;
        shared->told.tail_weight = tail_weight;
    }
}

/* This block's share of the bins, over all blocks. */
__device__ __forceinline__ void merge_bins(const Row &r)
{
    constexpr int32_t SHARE = SAMPLE_BINS / SAMPLE_CLUSTER;
    if (r.thread >= SHARE)
        return;
    const int32_t bin = cluster_rank() * SHARE + r.thread;
    uint32_t count = 0;
    uint64_t residual = 0;
#pragma unroll
    for (int32_t c = 0; c < SAMPLE_CLUSTER; c++) {
        const SampleShared *there = of_block(r.shared, c);
        count += there->bins.count[bin];
        residual += there->bins.residual[bin];
    }
    r.shared->merged[r.thread] = {count, (float)((double)count - (double)residual / (double)RESIDUALS)};
}

__device__ __forceinline__ Bins make_bins(const Row &r, const Scale &s)
{
    Bins b = {};
    count_bins(r, s);
    cluster_sync();
    merge_bins(r);
    cluster_sync();
    const Bin *there = of_block(r.shared, r.thread / 32)->merged + r.thread % 32 * 4;
    double weight = 0, step = bin_weight(s, 1), at = bin_weight(s, r.thread * 4);
    uint32_t count = 0;
#pragma unroll
    for (int32_t i = 0; i < 4; i++) {
        b.mine[i] = there[i];
        count += b.mine[i].count;
        weight += b.mine[i].weight * at;
        at *= step;
    }
    for (int32_t c = 0; c < SAMPLE_CLUSTER; c++) {
        const Told *told = &of_block(r.shared, c)->told;
        b.tail_count += told->tail_count;
        b.tail_weight += told->tail_weight;
    }
    b.tail_weight *= bin_weight(s, SAMPLE_BINS);
    b.total = block_sum(r, weight) + b.tail_weight;
    b.total_count = (uint32_t)block_sum(r, count) + b.tail_count;
    return b;
}

/* ---- where a limit is reached ---- */

/* Tokens and weight that come before something. */
struct Before {
    uint32_t count;
    double weight;
};

__device__ __forceinline__ bool reached(const Limits &l, const Before &b)
{
    return b.count >= l.count || (l.strict ? b.weight > l.weight : b.weight >= l.weight);
}

/* What the block's threads before this one have; all that they have goes to `all`. */
__device__ __forceinline__ Before scan(const Row &r, const Before &mine, Before *all)
{
    const int32_t lane = r.thread % 32, warp = r.thread / 32;
    Before sum = mine;
#pragma unroll
    for (int i = 1; i < 32; i *= 2) {
        const uint32_t count = __shfl_up_sync(~0u, sum.count, i);
        const double weight = __shfl_up_sync(~0u, sum.weight, i);
        sum.count += lane >= i ? count : 0;
        sum.weight += lane >= i ? weight : 0;
    }
    __syncthreads();
    if (lane == 31) {
        r.shared->warp_count[warp] = sum.count;
        r.shared->warp_weight[warp] = sum.weight;
    }
    __syncthreads();
    const uint32_t count = __shfl_up_sync(~0u, sum.count, 1);
    const double weight = __shfl_up_sync(~0u, sum.weight, 1);
    Before before = {lane > 0 ? count : 0, lane > 0 ? weight : 0};
    *all = {0, 0};
    double earlier = 0;
    for (int32_t i = 0; i < SAMPLE_WARPS; i++) {
        before.count += i < warp ? r.shared->warp_count[i] : 0;
        earlier += i < warp ? r.shared->warp_weight[i] : 0;
        all->count += r.shared->warp_count[i];
        all->weight += r.shared->warp_weight[i];
    }
    before.weight += earlier;
    return before;
}

/* The first of the block's things, K of each thread, with which the limits are reached, or `stop` if that comes earlier; NOWHERE if
 * neither. `before` becomes what comes before it, or all; *here the tokens in it. */
template <int K>
__device__ __forceinline__ int32_t locate(const Row &r, const Limits &limits, int32_t stop,
                                          const uint32_t (&count)[K], const double (&weight)[K],
                                          Before *before, uint32_t *here)
{
    Before mine = {0, 0}, all, at;
    int32_t first = NOWHERE;
#pragma unroll
    for (int32_t i = 0; i < K; i++) {
        mine.count += count[i];
        mine.weight += weight[i];
    }
    at = scan(r, mine, &all);
    at.count += before->count;
    at.weight += before->weight;
#pragma unroll
    for (int32_t i = 0; i < K; i++) {
        const Before next = {at.count + count[i], at.weight + weight[i]};
        if (first == NOWHERE && ((count[i] > 0 && reached(limits, next)) || r.thread * K + i >= stop)) {
            first = r.thread * K + i;
            *here = count[i];
        }
        if (first == NOWHERE)
            at = next;
    }
    const int32_t found = NOWHERE - (int32_t)block_max(r, (Rank)(NOWHERE - first));
    if (found == NOWHERE) {
        *before = {before->count + all.count, before->weight + all.weight};
        *here = 0;
        return NOWHERE;
    }
    if (found == first) {
        r.shared->place_count = at.count;
        r.shared->place_weight = at.weight;
        r.shared->place_here = *here;
    }
    __syncthreads();
    *before = {r.shared->place_count, r.shared->place_weight};
    *here = r.shared->place_here;
    return found;
}

/* ---- inside a bin ---- */

/* Cuts the part into bins of 2^shift keys and goes to the one where the limits are reached: false if none is. */
__device__ __forceinline__ bool refine(const Row &r, const Scale &s, const Limits &limits, int32_t shift,
                                       Part *part, Before *before, uint32_t *here)
{
    constexpr int32_t SHARE = SAMPLE_REFINED / SAMPLE_CLUSTER;
    SampleShared *shared = r.shared;
    for (int32_t i = r.thread; i < SAMPLE_REFINED; i += SAMPLE_THREADS) {
        shared->refined.weight[i] = 0;
        shared->refined.count[i] = 0;
    }
    __syncthreads();
    for (int32_t i = r.thread; i < r.length; i += SAMPLE_THREADS) {
        const float logit = r.logits[i];
        if (!in_part(s, *part, logit))
            continue;
        const uint32_t at = (part->high - key_of(logit)) >> shift;
        const float weight = weight_in(s, distance_of(s, logit), part->bin);
        atomicAdd(&shared->refined.count[at], 1u);
        atomicAdd(&shared->refined.weight[at], (unsigned long long)(weight * REFINED_ONE));
    }
    cluster_sync();
    if (r.thread < SHARE) {
        const int32_t at = cluster_rank() * SHARE + r.thread;
        uint32_t count = 0;
        uint64_t weight = 0;
        for (int32_t c = 0; c < SAMPLE_CLUSTER; c++) {
            count += of_block(shared, c)->refined.count[at];
            weight += of_block(shared, c)->refined.weight[at];
        }
        shared->merged_refined[r.thread] = {count, (float)((double)weight / (double)REFINED_ONE)};
    }
    cluster_sync();
    const Bin *there = of_block(shared, r.thread / 32)->merged_refined + r.thread % 32 * 2;
    const double one = bin_weight(s, part->bin);
    const uint32_t count[2] = {there[0].count, there[1].count};
    const double weight[2] = {there[0].weight * one, there[1].weight * one};
    const int32_t at = locate(r, limits, NOWHERE, count, weight, before, here);
    if (at == NOWHERE)
        return false;
    part->high -= (uint32_t)at << shift;
    part->shift = shift;
    return true;
}

/* The n-th id, from 0, of those with the part's only key. */
__device__ __forceinline__ int32_t find_equal(const Row &r, const Scale &s, const Part &part, uint32_t n)
{
    SampleShared *shared = r.shared;
    uint32_t equal = 0;
    for (int32_t i = r.thread; i < r.length; i += SAMPLE_THREADS)
        equal += in_part(s, part, r.logits[i]);
    const double all = block_sum(r, equal);
    if (r.thread == 0)
        shared->told.equal = (uint32_t)all;
    cluster_sync();
    int32_t owner = 0;
    while (owner < SAMPLE_CLUSTER - 1 && n >= of_block(shared, owner)->told.equal)
        n -= of_block(shared, owner++)->told.equal;
    for (int32_t base = 0; cluster_rank() == owner && base < r.length; base += SAMPLE_THREADS) {
        const int32_t i = base + r.thread;
        const bool match = i < r.length && in_part(s, part, r.logits[i]);
        const uint32_t votes = __ballot_sync(~0u, match);
        const uint32_t before_me = (uint32_t)__popc(votes & ((1u << r.thread % 32) - 1));
        if (r.thread % 32 == 0)
            shared->warp_count[r.thread / 32] = (uint32_t)__popc(votes);
        __syncthreads();
        uint32_t before = 0, here = 0;
        for (int32_t w = 0; w < SAMPLE_WARPS; w++) {
            before += w < r.thread / 32 ? shared->warp_count[w] : 0;
            here += shared->warp_count[w];
        }
        if (match && before + before_me == n)
            shared->told.found = r.start + i;
        __syncthreads();
        if (n < here)
            break;
        n -= here;
    }
    cluster_sync();
    return of_block(shared, owner)->told.found;
}

/* Of `here` tokens of one logit, the lower ids first. */
__device__ __forceinline__ Chosen choose_equal(const Row &r, const Scale &s, const Limits &limits,
                                               const Part &part, const Before &before, uint32_t here)
{
    const double each = weight_in(s, distance_of(s, logit_of(part.high)), part.bin) * bin_weight(s, part.bin);
    const double need = (limits.weight - before.weight) / each; /* may be NaN or inf where each is 0 */
    const double reach = limits.strict ? floor(need) + 1 : ceil(need);
    uint32_t n = reach < (double)here ? reach > 1 ? (uint32_t)reach : 1 : here;
    n = limits.count - before.count < n ? limits.count - before.count : n;
    const int32_t last = find_equal(r, s, part, n - 1);
    return {before.count + n, last, before.weight + n * each};
}

/* Of a part's few tokens. */
__device__ __forceinline__ Chosen choose_listed(const Row &r, const Scale &s, const Limits &limits,
                                                const Part &part, Before before)
{
    SampleShared *shared = r.shared;
    if (r.thread == 0)
        shared->told.listed = 0;
    __syncthreads();
    for (int32_t i = r.thread; i < r.length; i += SAMPLE_THREADS)
        if (in_part(s, part, r.logits[i]))
            shared->list.own[atomicAdd(&shared->told.listed, 1u)] = rank_of(r.logits[i], r.start + i);
    cluster_sync();
    const int32_t listed = gather_lists(r);
    const double one = bin_weight(s, part.bin);
    uint32_t count[2], here;
    double weight[2];
#pragma unroll
    for (int32_t i = 0; i < 2; i++) {
        const int32_t at = r.thread * 2 + i;
        count[i] = at < listed;
        weight[i] = at < listed
                        ? one * weight_in(s, distance_of(s, rank_logit(shared->list.sorted[at])), part.bin)
                        : 0;
    }
    const int32_t at = locate(r, limits, NOWHERE, count, weight, &before, &here);
    if (at == NOWHERE)
        return {before.count, -1, before.weight};
    const Rank last = shared->list.sorted[at];
    const double weighs = one * weight_in(s, distance_of(s, rank_logit(last)), part.bin);
    return {before.count + 1, rank_id(last), before.weight + weighs};
}

/* A cluster's barrier must stand between two calls. */
__device__ __forceinline__ Chosen choose(const Row &r, const Scale &s, const Bins &bins, const Limits &limits)
{
    uint32_t count[4], here;
    double weight[4], step = bin_weight(s, 1), scale = bin_weight(s, r.thread * 4);
    Before before = {0, 0};
#pragma unroll
    for (int32_t i = 0; i < 4; i++) {
        count[i] = bins.mine[i].count;
        weight[i] = bins.mine[i].weight * scale;
        scale *= step;
    }
    int32_t bin = locate(r, limits, bin_of(limits.distance), count, weight, &before, &here);
    if (bin == NOWHERE) {
        bin = SAMPLE_BINS;
        here = bins.tail_count;
    }
    Part part = {bin, limits.distance, 0xffffffffu, 32};
    while (here > SAMPLE_LISTED && part.shift > 0)
        if (!refine(r, s, limits, part.shift > 9 ? part.shift - 9 : 0, &part, &before, &here))
            return {before.count, -1, before.weight};
    if (here > SAMPLE_LISTED)
        return choose_equal(r, s, limits, part, before, here);
    return choose_listed(r, s, limits, part, before);
}

} // namespace proa

#endif
