/* cuda.cu - see cuda.h. A cluster samples a row: its blocks load a slice each, edit it, and choose (cuda_select.cuh). */
#include "op/sample/cuda.h"

#include "op/cuda/launch.cuh"
#include "op/sample/cuda_select.cuh"

#include <stdlib.h>

namespace proa
{

struct SampleKernelArgs {
    const proa_sample_packed_row *rows;
    const proa_sample_entry *entries;
    const float *logits;
    proa_sample_result *results;
    int32_t vocab;
    int32_t slice; /* a multiple of 4 */
};

/* Of the clean logits above -inf. */
struct Extremes {
    float best; /* -inf: none */
    int32_t id;
    float least;
};

__device__ __forceinline__ void consider(Extremes *e, float logit, int32_t id)
{
    if (logit > e->best) {
        e->best = logit;
        e->id = id;
    }
    if (logit > -INFINITY)
        e->least = fminf(e->least, logit);
}

/* Tells the others this block's extremes; needs a cluster's barrier after. */
__device__ __forceinline__ void tell_extremes(const Row &r, const Extremes &e, int32_t edited)
{
    const Rank best = block_max(r, rank_of(e.best, e.id));
    const Rank least = block_max(r, (Rank)(uint32_t)~key_of(e.least));
    if (r.thread == 0) {
        r.shared->told.best[edited] = best;
        r.shared->told.least[edited] = logit_of((uint32_t)~least);
    }
}

__device__ __forceinline__ Rank read_extremes(const Row &r, int32_t edited, float *least)
{
    Rank best = 0;
    *least = INFINITY;
#pragma unroll
    for (int32_t c = 0; c < SAMPLE_CLUSTER; c++) {
        const Told *told = &of_block(r.shared, c)->told;
        best = told->best[edited] > best ? told->best[edited] : best;
        *least = fminf(*least, told->least[edited]);
    }
    return best;
}

/* The slice into shared memory, clean. */
__device__ __forceinline__ Extremes load(const Row &r, const float *row, bool vectors)
{
    Extremes e = {-INFINITY, 0, INFINITY};
    if (vectors) {
        const float4 *from = (const float4 *)(row + r.start);
#pragma unroll 4
        for (int32_t i = r.thread; i < r.length / 4; i += SAMPLE_THREADS) {
            const float4 raw = __ldg(from + i);
            const float4 x = {clean(raw.x), clean(raw.y), clean(raw.z), clean(raw.w)};
            ((float4 *)r.logits)[i] = x;
            consider(&e, x.x, r.start + i * 4);
            consider(&e, x.y, r.start + i * 4 + 1);
            consider(&e, x.z, r.start + i * 4 + 2);
            consider(&e, x.w, r.start + i * 4 + 3);
        }
    } else {
        for (int32_t i = r.thread; i < r.length; i += SAMPLE_THREADS) {
            const float x = clean(row[r.start + i]);
            r.logits[i] = x;
            consider(&e, x, r.start + i);
        }
    }
    return e;
}

/* ---- log probabilities ---- */

/* This block's first `wanted` tokens, in order, into list.own. A thread's best but those taken is what it offers. */
__device__ __forceinline__ void list_best(const Row &r, int32_t wanted)
{
    Rank taken = ~(Rank)0, mine = 0;
    int32_t listed = 0;
    bool stale = true;
    for (; listed < wanted; listed++) {
        for (int32_t i = r.thread; stale && i < r.length; i += SAMPLE_THREADS) {
            const Rank rank = rank_of(r.logits[i], r.start + i);
            mine = rank < taken && rank > mine ? rank : mine;
        }
        const Rank best = block_max(r, mine);
        if (best == 0)
            break;
        if (r.thread == 0)
            r.shared->list.own[listed] = best;
        stale = best == mine;
        if (stale) {
            taken = best;
            mine = 0;
        }
    }
    if (r.thread == 0)
        r.shared->told.listed = (uint32_t)listed;
}

/* Alternatives into the result; returns the log of the sum of e^logit. All logits are raw and one at least is above -inf. */
__device__ __forceinline__ double report(const Row &r, float max, int32_t wanted, proa_sample_result *result)
{
    float mine = 0;
#pragma unroll 4
    for (int32_t i = r.thread; i < r.length; i += SAMPLE_THREADS)
        mine += expf(r.logits[i] - max);
    const double block = block_sum(r, mine);
    if (r.thread == 0)
        r.shared->told.sum = block;
    list_best(r, wanted);
    cluster_sync();
    double sum = 0;
    for (int32_t c = 0; c < SAMPLE_CLUSTER; c++)
        sum += of_block(r.shared, c)->told.sum;
    const double log_sum = max + log(sum);
    if (cluster_rank() == 0 && wanted > 0) {
        const int32_t listed = gather_lists(r), count = listed < wanted ? listed : wanted;
        if (r.thread == 0)
            result->top_count = count;
        if (r.thread < count) {
            const Rank rank = r.shared->list.sorted[r.thread];
            result->top_ids[r.thread] = rank_id(rank);
            result->top_logprobs[r.thread] = (float)(rank_logit(rank) - log_sum);
        }
    }
    cluster_sync(); /* the lists have been read */
    return log_sum;
}

/* ---- edits: as edit.c has them, bit for bit ---- */

__device__ __forceinline__ bool mine(const Row &r, int32_t id)
{
    return id >= r.start && id < r.start + r.length;
}

/* An id may come several times: whoever has the first adds all, in order. */
__device__ __forceinline__ void add_bias(const Row &r, const proa_sample_entry *entries, int32_t count)
{
    for (int32_t i = r.thread; i < count; i += SAMPLE_THREADS) {
        const int32_t id = entries[i].id;
        if (!mine(r, id))
            continue;
        int32_t first = 0;
        while (entries[first].id != id)
            first++;
        if (first != i)
            continue;
        float logit = r.logits[id - r.start];
        for (int32_t j = i; j < count; j++)
            if (entries[j].id == id)
                logit = clean(__fadd_rn(logit, entries[j].bias));
        r.logits[id - r.start] = logit;
    }
}

__device__ __forceinline__ float penalise(const proa_sample_packed_row &p, int32_t output, float logit)
{
    if (p.repetition_penalty != 1)
        logit = logit > 0 ? __fdiv_rn(logit, p.repetition_penalty) : __fmul_rn(logit, p.repetition_penalty);
    if (output > 0) {
        logit = __fsub_rn(logit, __fmul_rn(p.frequency_penalty, (float)output));
        logit = __fsub_rn(logit, p.presence_penalty);
    }
    return clean(logit);
}

/* Then the extremes are others. */
__device__ __forceinline__ Extremes edit(const Row &r, const proa_sample_packed_row &p,
                                         const proa_sample_entry *entries)
{
    Extremes e = {-INFINITY, 0, INFINITY};
    entries += p.first;
    __syncthreads();
    add_bias(r, entries, p.bias_count);
    __syncthreads();
    entries += p.bias_count;
    for (int32_t i = r.thread; i < p.count_count; i += SAMPLE_THREADS) {
        const proa_sample_entry entry = entries[i];
        if (mine(r, entry.id))
            r.logits[entry.id - r.start] = penalise(p, entry.output, r.logits[entry.id - r.start]);
    }
    __syncthreads();
    entries += p.count_count;
    for (int32_t i = r.thread; i < p.banned_count; i += SAMPLE_THREADS)
        if (mine(r, entries[i].id))
            r.logits[entries[i].id - r.start] = -INFINITY;
    __syncthreads();
#pragma unroll 4
    for (int32_t i = r.thread; i < r.length; i += SAMPLE_THREADS)
        consider(&e, r.logits[i], r.start + i);
    return e;
}

/* ---- the draw ---- */

/* Bounds keep 0 * inf and inf - inf out at the ends of what temperatures and logits may be; z / bins stays at most 1/64. */
__device__ __forceinline__ Scale make_scale(float max, float least, float temperature)
{
    const float reach = fminf(fminf(16 * temperature, max - least), FLT_MAX);
    const float bins = fminf(SAMPLE_BINS / reach, 64e30f), z = fminf(1 / temperature, 1e30f);
    return {max, bins, z / bins};
}

/* Nearer than so, e^-z is 1 in ref's doubles: all such tokens have the largest probability. */
constexpr double ONE_BELOW = 0x1p-54;

__device__ __forceinline__ int32_t draw(const Row &r, const proa_sample_packed_row &p, float max, float least)
{
    const Scale s = make_scale(max, least, p.temperature);
    const Bins bins = make_bins(r, s);
    Chosen chosen = {bins.total_count, -1, bins.total};
    for (bool drawn = p.top_k <= 0 && p.top_p >= 1 && p.min_p <= 0;; drawn = true) {
        Limits limits = {chosen.count, true, INFINITY, p.uniform * chosen.weight};
        if (!drawn) { /* first what stays */
            limits.count = p.top_k > 0 ? (uint32_t)p.top_k : 0xffffffffu;
            limits.strict = false;
            limits.distance = p.min_p > 0 ? (float)((ONE_BELOW - log((double)p.min_p)) / s.z) : INFINITY;
            limits.weight = p.top_p < 1 ? p.top_p * bins.total : INFINITY;
        }
        chosen = choose(r, s, bins, limits);
        if (drawn)
            return chosen.last;
        cluster_sync();
    }
}

/* ---- the kernel ---- */

extern __shared__ float4 sample_memory[]; /* SampleShared, then the slice */

__device__ __forceinline__ Row make_row(const SampleKernelArgs &g)
{
    Row r;
    r.shared = (SampleShared *)sample_memory;
    r.logits = (float *)(r.shared + 1);
    r.slice = g.slice;
    r.start = cluster_rank() * g.slice;
    r.length = g.vocab > r.start ? g.vocab - r.start : 0;
    r.length = r.length < g.slice ? r.length : g.slice;
    r.thread = (int32_t)threadIdx.x;
    return r;
}

/* Three blocks a multiprocessor: 24 warps load while others count. */
__global__ void __cluster_dims__(SAMPLE_CLUSTER) __launch_bounds__(SAMPLE_THREADS, 3)
    sample(const SampleKernelArgs g)
{
    const Row r = make_row(g);
    const int32_t index = (int32_t)blockIdx.x / SAMPLE_CLUSTER;
    const proa_sample_packed_row &p = g.rows[index];
    const float *row = g.logits + (int64_t)p.logits_row * g.vocab;
    proa_sample_result *result = g.results + index;
    const bool reports = p.top_logprobs >= 0, edits = p.bias_count + p.count_count + p.banned_count > 0;
    Extremes e = load(r, row, g.vocab % 4 == 0);
    double log_sum = 0;
    float least;
    Rank best;
    if (cluster_rank() == 0 && r.thread == 0)
        result->top_count = 0;
    if (reports || !edits) {
        tell_extremes(r, e, 0);
        cluster_sync();
        best = read_extremes(r, 0, &least);
        if (reports && best != 0)
            log_sum = report(r, rank_logit(best), p.top_logprobs, result);
    }
    if (edits) {
        e = edit(r, p, g.entries);
        tell_extremes(r, e, 1);
        cluster_sync();
        best = read_extremes(r, 1, &least);
    }
    int32_t token = best != 0 ? rank_id(best) : -1;
    if (token >= 0 && p.temperature != 0)
        token = draw(r, p, rank_logit(best), least);
    if (cluster_rank() == 0 && r.thread == 0) {
        result->token = token;
        result->logprob = token < 0 ? -INFINITY : reports ? (float)(clean(row[token]) - log_sum) : 0;
    }
    cluster_sync(); /* no block leaves while others read its memory */
}

} // namespace proa

/* ---- the object ---- */

struct proa_cuda_sampler {
    proa_gpu *gpu;
    int32_t rows_max;
    int32_t vocab;
    int32_t slice;
    size_t shared_bytes;
    proa_sample_pack pack; /* pinned */
    void *block;           /* its copy on the GPU */
    proa_sample_result *there;
    proa_sample_result *results; /* pinned */
};

static proa_status reserve(proa_cuda_sampler *s, proa_error *err)
{
    enum { REPEATED = 8192 }; /* ids of biases and bans that come again */
    const int32_t entries_max = 3 * s->vocab + REPEATED;
    const size_t block = proa_sample_pack_bytes(s->rows_max, entries_max);
    const size_t results = (size_t)s->rows_max * sizeof *s->results;
    void *pinned = NULL;
    proa_status status = proa_gpu_alloc_host(s->gpu, block, &pinned, err);
    if (status == PROA_OK) {
        s->pack = proa_sample_pack_at(pinned, s->rows_max, entries_max);
        status = proa_gpu_alloc_host(s->gpu, results, (void **)&s->results, err);
    }
    if (status == PROA_OK)
        status = proa_gpu_alloc(s->gpu, block, &s->block, err);
    if (status == PROA_OK)
        status = proa_gpu_alloc(s->gpu, results, (void **)&s->there, err);
    return status;
}

proa_status proa_cuda_sampler_create(proa_gpu *gpu, int32_t rows_max, int32_t vocab, proa_cuda_sampler **out,
                                     proa_error *err)
{
    enum { SHARED_MAX = 227 * 1024, PER_SLICE = 4 * proa::SAMPLE_CLUSTER };
    const int32_t slice = (vocab + PER_SLICE - 1) / PER_SLICE * 4;
    const size_t bytes = sizeof(proa::SampleShared) + (size_t)slice * sizeof(float);
    *out = NULL;
    if (rows_max < 1 || vocab < 1 || bytes > SHARED_MAX)
        return proa_error_set(err, PROA_ERR_UNSUPPORTED,
                              "sampling %d rows of %d logits: a GPU takes 1 row or more of 1 to %d logits",
                              rows_max, vocab,
                              (int32_t)((SHARED_MAX - sizeof(proa::SampleShared)) / 16 * PER_SLICE));
    proa_cuda_sampler *s = (proa_cuda_sampler *)calloc(1, sizeof *s);
    if (s == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a sampler");
    s->gpu = gpu;
    s->rows_max = rows_max;
    s->vocab = vocab;
    s->slice = slice;
    s->shared_bytes = bytes;
    proa_status status = proa_cuda_status(
        cudaFuncSetAttribute(proa::sample, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_MAX),
        "taking shared memory for sampling", err);
    if (status == PROA_OK)
        status = reserve(s, err);
    if (status != PROA_OK) {
        proa_cuda_sampler_free(s);
        return status;
    }
    *out = s;
    return PROA_OK;
}

void proa_cuda_sampler_free(proa_cuda_sampler *s)
{
    if (s == NULL)
        return;
    proa_gpu_free_host(s->gpu, s->pack.rows);
    proa_gpu_free_host(s->gpu, s->results);
    proa_gpu_free(s->gpu, s->block);
    proa_gpu_free(s->gpu, s->there);
    free(s);
}

/* The packed rows, whose results are those from `first` on. */
static proa_status run_round(proa_cuda_sampler *s, const float *logits, int32_t first, proa_error *err)
{
    const proa_sample_pack *pack = &s->pack;
    proa_status status = proa_gpu_upload(s->gpu, s->block, pack->rows, proa_sample_pack_used(pack), err);
    if (status != PROA_OK)
        return status;
    const proa_sample_pack there = proa_sample_pack_at(s->block, pack->rows_max, pack->entries_max);
    const proa::SampleKernelArgs args = {.rows = there.rows,
                                         .entries = there.entries,
                                         .logits = logits,
                                         .results = s->there + first,
                                         .vocab = s->vocab,
                                         .slice = s->slice};
    proa::sample<<<pack->row_count * proa::SAMPLE_CLUSTER, proa::SAMPLE_THREADS, s->shared_bytes,
                   proa_cuda_stream(s->gpu)>>>(args);
    status = proa_cuda_launched("sampling", err);
    if (status != PROA_OK)
        return status;
    return proa_gpu_download(s->gpu, s->results + first, s->there + first,
                             (size_t)pack->row_count * sizeof *s->results, err);
}

proa_status proa_cuda_sampler_run(proa_cuda_sampler *s, const proa_cuda_sample_args *a, proa_error *err)
{
    PROA_ASSERT(a->rows <= s->rows_max);
    for (int32_t first = 0; first < a->rows; first += s->pack.row_count) {
        proa_status status = first > 0 ? proa_gpu_sync(s->gpu, err) : PROA_OK; /* the block has been read */
        if (status == PROA_OK)
            status = proa_sample_pack_fill(&s->pack, a->params, a->row_of, first, a->rows, s->vocab, err);
        if (status == PROA_OK || status == PROA_BUSY)
            status = run_round(s, a->logits, first, err);
        if (status != PROA_OK)
            return status;
    }
    return PROA_OK;
}

const proa_sample_result *proa_cuda_sampler_results(const proa_cuda_sampler *s)
{
    return s->results;
}

PROA_CUDA_KERNELS(sample, proa::sample)
