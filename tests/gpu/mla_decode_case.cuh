/* mla_decode_case.cuh - what the tests of decode attention share: a pool of cache blocks, cases over it, a double-precision reference, times.
 */
#ifndef PROA_TESTS_GPU_MLA_DECODE_CASE_CUH
#define PROA_TESTS_GPU_MLA_DECODE_CASE_CUH

#include "op/mla/cuda_decode.h"

#include <cuda_bf16.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(call)                                                                                          \
    do {                                                                                                     \
        cudaError_t e_ = (call);                                                                             \
        if (e_ != cudaSuccess) {                                                                             \
            printf("FAIL %s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(e_));               \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

enum { BLOCK = 64 };
static const float SCALE = 0.1352337747f; /* 192^-0.5 * 1.3689^2: R1's with YaRN */

static __device__ __host__ uint64_t mixed(uint64_t x)
{
    x += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

/* About normal: the sum of four uniform numbers. */
static __global__ void fill(__nv_bfloat16 *to, int64_t count, uint64_t seed, float size)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < count;
         i += (int64_t)gridDim.x * blockDim.x) {
        const uint64_t r = mixed(seed ^ (uint64_t)i);
        const float u =
            (float)(r & 0xffff) + (float)(r >> 16 & 0xffff) + (float)(r >> 32 & 0xffff) + (float)(r >> 48);
        to[i] = __float2bfloat16((u / 65536 - 2) * 1.7320508f * size);
    }
}

static float bf16_value(uint16_t x)
{
    const uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

typedef struct Case {
    proa_mla_decode_args args;
    int32_t sequences;
    int32_t *lengths; /* on the host */
    int32_t *table;
    size_t out_count;
} Case;

typedef struct Pool {
    void *cache;
    int32_t blocks;
    int32_t dim;
} Pool;

static void *device_bytes(size_t bytes)
{
    void *p = NULL;
    CHECK(cudaMalloc(&p, bytes));
    return p;
}

/* Random keys; says on which GPU. */
static Pool open_pool(int32_t blocks)
{
    Pool pool = {NULL, blocks, 576};
    cudaDeviceProp device;
    CHECK(cudaGetDeviceProperties(&device, 0));
    printf("%s, %d multiprocessors\n", device.name, device.multiProcessorCount);
    pool.cache = device_bytes((size_t)pool.blocks * BLOCK * 576 * 2);
    fill<<<4096, 256>>>((__nv_bfloat16 *)pool.cache, (int64_t)pool.blocks * BLOCK * 576, 3, 1.0f);
    CHECK(cudaDeviceSynchronize());
    return pool;
}

/* Sequences of these lengths over blocks of the pool in a random order that starts at `salt`. */
static Case make_case(const Pool *pool, int32_t sequences, const int32_t *lengths, int32_t s_q, int32_t heads,
                      int32_t lora, uint64_t salt)
{
    Case c;
    memset(&c, 0, sizeof c);
    int32_t most = 1, splits = 0;
    for (int32_t i = 0; i < sequences; i++) {
        most = lengths[i] > most ? lengths[i] : most;
        splits += proa_mla_decode_splits(lengths[i]) * s_q;
    }
    const int32_t stride = (most + BLOCK - 1) / BLOCK + 3, rows = sequences * s_q;
    c.sequences = sequences;
    c.lengths = (int32_t *)malloc((size_t)sequences * 4);
    memcpy(c.lengths, lengths, (size_t)sequences * 4);
    c.table = (int32_t *)malloc((size_t)sequences * stride * 4);
    uint64_t at = salt % (uint64_t)pool->blocks;
    for (int32_t i = 0; i < sequences; i++)
        for (int32_t j = 0; j < stride; j++) {
            const bool used = j < (lengths[i] + BLOCK - 1) / BLOCK;
            c.table[i * stride + j] = used ? (int32_t)(at * 40503 % (uint64_t)pool->blocks)
                                           : -1 - j; /* odd: a permutation of 2^n */
            at += used;
        }
    proa_mla_decode_args *a = &c.args;
    a->rows = rows;
    a->heads = heads;
    a->kv_lora_rank = lora;
    a->rope_dim = pool->dim - lora;
    a->rows_per_table = s_q;
    a->table_stride = stride;
    a->cache = pool->cache;
    a->cache_blocks = pool->blocks;
    a->scale = SCALE;
    a->splits_max = splits;
    int32_t *table = (int32_t *)device_bytes((size_t)sequences * stride * 4),
            *device_lengths = (int32_t *)device_bytes((size_t)sequences * 4);
    CHECK(cudaMemcpy(table, c.table, (size_t)sequences * stride * 4, cudaMemcpyHostToDevice));
    CHECK(cudaMemcpy(device_lengths, lengths, (size_t)sequences * 4, cudaMemcpyHostToDevice));
    a->table = table;
    a->lengths = device_lengths;
    c.out_count = (size_t)rows * heads * lora;
    void *q = device_bytes((size_t)rows * heads * pool->dim * 2);
    fill<<<1024, 256>>>((__nv_bfloat16 *)q, (int64_t)rows * heads * pool->dim, 7, 0.5f);
    a->q = q;
    a->out = device_bytes(c.out_count * 2);
    a->lse = (float *)device_bytes((size_t)rows * heads * 4);
    const size_t bytes = proa_mla_decode_workspace_bytes(rows, heads, splits);
    a->workspace = device_bytes(bytes);
    CHECK(cudaMemset(a->out, 0xff, c.out_count * 2));
    CHECK(cudaMemset(a->lse, 0xff, (size_t)rows * heads * 4));
    CHECK(cudaMemset(a->workspace, 0xff, bytes));
    return c;
}

static void drop_case(Case *c)
{
    void *all[] = {(void *)c->args.table, (void *)c->args.lengths, (void *)c->args.q, c->args.out,
                   c->args.lse,           c->args.workspace};
    for (void *p : all)
        CHECK(cudaFree(p));
    free(c->lengths);
    free(c->table);
}

static void run_case(const Case *c)
{
    CHECK(proa_mla_decode_plan(&c->args, 0));
    CHECK(proa_mla_decode(&c->args, 0));
    CHECK(cudaDeviceSynchronize());
}

typedef struct Result {
    uint16_t *out;
    float *lse;
} Result;

static Result take(const Case *c)
{
    const size_t lse = (size_t)c->args.rows * c->args.heads;
    Result r = {(uint16_t *)malloc(c->out_count * 2), (float *)malloc(lse * 4)};
    CHECK(cudaMemcpy(r.out, c->args.out, c->out_count * 2, cudaMemcpyDeviceToHost));
    CHECK(cudaMemcpy(r.lse, c->args.lse, lse * 4, cudaMemcpyDeviceToHost));
    return r;
}

static void drop(Result *r)
{
    free(r->out);
    free(r->lse);
}

static int32_t row_length(const Case *c, int32_t row)
{
    const int32_t s_q = c->args.rows_per_table;
    return c->lengths[row / s_q] - (s_q - 1 - row % s_q);
}

/* Relative error of one row's head against a double-precision reference; *lse_error is absolute. */
static double error_of(const Case *c, const Result *r, int32_t row, int32_t head, double *lse_error)
{
    const proa_mla_decode_args *a = &c->args;
    const int32_t dim = a->kv_lora_rank + a->rope_dim, length = row_length(c, row),
                  blocks = (length + BLOCK - 1) / BLOCK;
    uint16_t *q = (uint16_t *)malloc((size_t)dim * 2),
             *keys = (uint16_t *)malloc((size_t)(blocks + 1) * BLOCK * dim * 2);
    double *score = (double *)malloc((size_t)(length + 1) * sizeof(double)),
           *o = (double *)calloc((size_t)a->kv_lora_rank, sizeof(double));
    CHECK(cudaMemcpy(q, (const uint16_t *)a->q + ((size_t)row * a->heads + head) * dim, (size_t)dim * 2,
                     cudaMemcpyDeviceToHost));
    for (int32_t j = 0; j < blocks; j++)
        CHECK(cudaMemcpy(keys + (size_t)j * BLOCK * dim,
                         (const uint16_t *)a->cache +
                             (size_t)c->table[row / a->rows_per_table * a->table_stride + j] * BLOCK * dim,
                         (size_t)BLOCK * dim * 2, cudaMemcpyDeviceToHost));
    double top = -INFINITY, sum = 0, wrong = 0, norm = 0;
    for (int32_t t = 0; t < length; t++) {
        score[t] = 0;
        for (int32_t i = 0; i < dim; i++)
            score[t] += (double)bf16_value(q[i]) * bf16_value(keys[(size_t)t * dim + i]);
        score[t] *= (double)a->scale;
        top = score[t] > top ? score[t] : top;
    }
    for (int32_t t = 0; t < length; t++) {
        const double p = exp(score[t] - top);
        sum += p;
        for (int32_t i = 0; i < a->kv_lora_rank; i++)
            o[i] += p * bf16_value(keys[(size_t)t * dim + i]);
    }
    for (int32_t i = 0; i < a->kv_lora_rank; i++) {
        const double want = length > 0 ? o[i] / sum : 0;
        const double got = bf16_value(r->out[((size_t)row * a->heads + head) * a->kv_lora_rank + i]);
        wrong += (got - want) * (got - want);
        norm += want * want;
    }
    const double got = r->lse[(size_t)row * a->heads + head];
    *lse_error = length > 0 ? fabs(got - (top + log(sum))) : got == -INFINITY ? 0 : 1;
    free(q);
    free(keys);
    free(score);
    free(o);
    return length > 0 ? sqrt(wrong / norm) : sqrt(wrong);
}

static int compared(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

/* Median of replays of a graph of `layers` calls over other blocks each, a call. */
template <typename RUN> static float timed(int32_t layers, RUN run)
{
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaEvent_t from, to;
    float us[21];
    CHECK(cudaStreamCreate(&stream));
    CHECK(cudaEventCreate(&from));
    CHECK(cudaEventCreate(&to));
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    for (int32_t i = 0; i < layers; i++)
        run(i, stream);
    CHECK(cudaStreamEndCapture(stream, &graph));
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    for (int32_t i = -2; i < 11; i++) {
        CHECK(cudaEventRecord(from, stream));
        CHECK(cudaGraphLaunch(exec, stream));
        CHECK(cudaEventRecord(to, stream));
        CHECK(cudaEventSynchronize(to));
        if (i >= 0)
            CHECK(cudaEventElapsedTime(us + i, from, to));
    }
    qsort(us, 11, sizeof *us, compared);
    CHECK(cudaGraphExecDestroy(exec));
    CHECK(cudaGraphDestroy(graph));
    CHECK(cudaStreamDestroy(stream));
    CHECK(cudaEventDestroy(from));
    CHECK(cudaEventDestroy(to));
    return us[5] * 1000 / (float)layers;
}

#endif
