/* test_products.cu - the products of op/ptx/products.cuh on a GPU, each of them by each implementation that the GPU has.
 *
 * Operands are small whole numbers, so that every sum is exact in any order: results are compared with the host's bit by bit. A block is
 * what kernels have: two warpgroups with 64 rows each of a, the same b, four steps of K. Exit status 77: there is no GPU. */
#include "cuda_good.h"
#include "op/ptx/products_warp.cuh"
#include "op/ptx/products_warpgroup.cuh"

#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum Kind { E4M3, BF16, HELD, VALUES, VALUES_SHARED };
enum { ROWS = 128, ROW_BYTES = 128, STEPS = 4, N_MAX = 256, VALUES_K = 64, SKIPPED = 77 };
enum { A_BYTES = ROWS * ROW_BYTES, B_BYTES = N_MAX * ROW_BYTES, BLOCK_BYTES = VALUES_K * ROW_BYTES };
enum { SHARED_BYTES = 1024 + A_BYTES + B_BYTES };

/* ---- one block ---- */

/* On other GPUs than sm_90a's the first one's kernels are not run. */
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
namespace whole = proa::by_warpgroup;
#else
namespace whole = proa::by_warp;
#endif

#define IMPLEMENTATION(NAME, SPACE)                                                                          \
    struct NAME {                                                                                            \
        static __device__ void fence()                                                                       \
        {                                                                                                    \
            SPACE::product_fence();                                                                          \
        }                                                                                                    \
        static __device__ void finish()                                                                      \
        {                                                                                                    \
            SPACE::product_commit();                                                                         \
            SPACE::product_wait<0>();                                                                        \
        }                                                                                                    \
        template <Kind KIND, int HALF>                                                                       \
        static __device__ void multiply(float (&d)[HALF], const uint32_t *held, uint64_t a, uint64_t b,      \
                                        int32_t keep)                                                        \
        {                                                                                                    \
            if constexpr (KIND == E4M3)                                                                      \
                SPACE::product_e4m3(d, a, b, keep);                                                          \
            else if constexpr (KIND == BF16)                                                                 \
                SPACE::product_bf16(d, a, b, keep);                                                          \
            else if constexpr (KIND == HELD)                                                                 \
                SPACE::product_bf16_held(d, held, b, keep);                                                  \
            else if constexpr (KIND == VALUES)                                                               \
                SPACE::product_bf16_values(d, held, b, keep);                                                \
            else                                                                                             \
                SPACE::product_bf16_values(d, a, b, keep);                                                   \
        }                                                                                                    \
    };

IMPLEMENTATION(Whole, whole)
IMPLEMENTATION(Warps, proa::by_warp)

/* Bytes as the tensor memory accelerator would lay them out. */
__device__ static void put_swizzled(uint8_t *to, const uint8_t *from, int32_t bytes)
{
    for (int32_t i = (int32_t)threadIdx.x * 16; i < bytes; i += (int32_t)blockDim.x * 16)
        *(uint4 *)(to + (i ^ (i / ROW_BYTES % 8 * 16))) = *(const uint4 *)(from + i);
}

/* a [128 rows, 128 bytes]; b as many bytes a row of N, or blocks of [64 of K, 64 of N]; d [128, N] goes in and comes out. */
template <typename PRODUCTS, Kind KIND, int N>
__global__ void __launch_bounds__(256, 1)
    multiply(const uint8_t *a_bytes, const uint8_t *b_bytes, float *d_values, int32_t keep)
{
    extern __shared__ uint8_t raw[];
    uint8_t *a = (uint8_t *)(((uintptr_t)raw + 1023) / 1024 * 1024), *b = a + A_BYTES;
    const int32_t thread = (int32_t)threadIdx.x % 128, warpgroup = (int32_t)threadIdx.x / 128,
                  lane = thread % 32;
    const int32_t row = warpgroup * 64 + thread / 32 * 16 + lane / 4;
    constexpr bool N_MAJOR = KIND == VALUES || KIND == VALUES_SHARED;
    put_swizzled(a, a_bytes, A_BYTES);
    put_swizzled(b, b_bytes, N * ROW_BYTES);
    proa::copy_fence();
    __syncthreads();

    float d[N / 2];
    const auto place = [&](int i) {
        return d_values + (row + (i & 2 ? 8 : 0)) * N + i / 4 * 8 + lane % 4 * 2 + (i & 1);
    };
    uint32_t held[4 * STEPS]; /* a step's: rows r, r + 8 at k, then at k + 8 */
#pragma unroll
    for (int i = 0; i < 4 * STEPS; i++)
        held[i] = *(const uint32_t *)(a_bytes + (row + i % 2 * 8) * ROW_BYTES + i / 2 * 16 + lane % 4 * 4);
#pragma unroll
    for (int i = 0; i < N / 2; i++)
        d[i] = *place(i);
    const uint64_t rows = proa::tile_descriptor(a + warpgroup * 64 * ROW_BYTES);
    const uint64_t columns = N_MAJOR ? proa::values_descriptor(b, BLOCK_BYTES) : proa::tile_descriptor(b);
    proa::product_pin(d);
    PRODUCTS::fence();
#pragma unroll
    for (int i = 0; i < STEPS; i++)
        PRODUCTS::template multiply<KIND>(d, held + 4 * i, rows + 2 * i, columns + (N_MAJOR ? 128 : 2) * i,
                                          i > 0 ? 1 : keep);
    PRODUCTS::finish();
    proa::product_pin(d);
#pragma unroll
    for (int i = 0; i < N / 2; i++)
        *place(i) = d[i];
}

/* ---- the host's side ---- */

static int32_t whole_number(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return (int32_t)(*state >> 16) % 7 - 3;
}

static void put_number(uint8_t *to, int32_t bytes, int32_t number)
{
    if (bytes == 1) {
        const __nv_fp8_e4m3 value((float)number);
        memcpy(to, &value, 1);
    } else {
        const __nv_bfloat16 value = __float2bfloat16((float)number);
        memcpy(to, &value, 2);
    }
}

struct Numbers {
    uint8_t a[A_BYTES], b[B_BYTES];
    float d[ROWS * N_MAX], wanted[ROWS * N_MAX];
};

static void make_numbers(Numbers *x, Kind kind, int32_t n, bool keep)
{
    static int32_t a[ROWS][ROW_BYTES], b[N_MAX][ROW_BYTES];
    const int32_t bytes = kind == E4M3 ? 1 : 2, k = ROW_BYTES / bytes;
    uint32_t state = 7 + (uint32_t)kind * 1000 + (uint32_t)n * 2 + keep;
    for (int32_t r = 0; r < ROWS; r++)
        for (int32_t i = 0; i < k; i++)
            put_number(x->a + r * ROW_BYTES + i * bytes, bytes, a[r][i] = whole_number(&state));
    for (int32_t c = 0; c < n; c++)
        for (int32_t i = 0; i < k; i++) {
            const int32_t at = kind >= VALUES ? c / 64 * BLOCK_BYTES + i * ROW_BYTES + c % 64 * bytes
                                              : c * ROW_BYTES + i * bytes;
            put_number(x->b + at, bytes, b[c][i] = whole_number(&state));
        }
    for (int32_t r = 0; r < ROWS; r++)
        for (int32_t c = 0; c < n; c++) {
            const int32_t before = whole_number(&state);
            int32_t sum = keep ? before : 0;
            for (int32_t i = 0; i < k; i++)
                sum += a[r][i] * b[c][i];
            x->d[r * n + c] = keep ? (float)before : NAN; /* what is not kept must not show */
            x->wanted[r * n + c] = (float)sum;
        }
}

static int32_t failures;

/* Differing elements, and the first one of them, aloud. */
static void compare(const char *name, int32_t n, bool keep, const float *got, const float *wanted)
{
    int32_t different = 0, first = 0;
    for (int32_t i = ROWS * n - 1; i >= 0; i--)
        if (got[i] != wanted[i]) {
            different++;
            first = i;
        }
    if (different == 0)
        printf("ok: %s, n %d, keep %d\n", name, n, keep);
    else
        printf("FAILED: %s, n %d, keep %d: %d of %d differ, the first at row %d, column %d: %g for %g\n",
               name, n, keep, different, ROWS * n, first / n, first % n, (double)got[first],
               (double)wanted[first]);
    failures += different > 0;
}

template <typename PRODUCTS, Kind KIND, int N> static void check(const char *name)
{
    Numbers *x = (Numbers *)malloc(sizeof *x);
    uint8_t *a, *b;
    float *d;
    CUDA(cudaMalloc(&a, A_BYTES));
    CUDA(cudaMalloc(&b, N * ROW_BYTES));
    CUDA(cudaMalloc(&d, ROWS * N * sizeof *d));
    CUDA(cudaFuncSetAttribute(multiply<PRODUCTS, KIND, N>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              SHARED_BYTES));
    for (int32_t keep = 0; keep < 2; keep++) {
        make_numbers(x, KIND, N, keep == 1);
        CUDA(cudaMemcpy(a, x->a, A_BYTES, cudaMemcpyHostToDevice));
        CUDA(cudaMemcpy(b, x->b, N * ROW_BYTES, cudaMemcpyHostToDevice));
        CUDA(cudaMemcpy(d, x->d, ROWS * N * sizeof *d, cudaMemcpyHostToDevice));
        multiply<PRODUCTS, KIND, N><<<1, 256, SHARED_BYTES>>>(a, b, d, keep);
        CUDA(cudaGetLastError());
        CUDA(cudaMemcpy(x->d, d, ROWS * N * sizeof *d, cudaMemcpyDeviceToHost));
        compare(name, N, keep == 1, x->d, x->wanted);
    }
    CUDA(cudaFree(a));
    CUDA(cudaFree(b));
    CUDA(cudaFree(d));
    free(x);
}

template <typename PRODUCTS> static void check_all(const char *by)
{
    printf("by %s\n", by);
    check<PRODUCTS, E4M3, 32>("e4m3");
    check<PRODUCTS, E4M3, 64>("e4m3");
    check<PRODUCTS, E4M3, 96>("e4m3");
    check<PRODUCTS, E4M3, 128>("e4m3");
    check<PRODUCTS, BF16, 32>("bf16");
    check<PRODUCTS, BF16, 64>("bf16");
    check<PRODUCTS, BF16, 128>("bf16");
    check<PRODUCTS, BF16, 256>("bf16");
    check<PRODUCTS, HELD, 64>("bf16, a held");
    check<PRODUCTS, VALUES, 128>("bf16 values, a held");
    check<PRODUCTS, VALUES, 256>("bf16 values, a held");
    check<PRODUCTS, VALUES_SHARED, 128>("bf16 values, a shared");
}

int main(void)
{
    int devices = 0;
    cudaDeviceProp device;
    const cudaError_t result = cudaGetDeviceCount(&devices);
    if (result != cudaSuccess || devices == 0) {
        printf("[  SKIPPED ] products: no GPU: %s\n", cudaGetErrorString(result));
        return SKIPPED;
    }
    CUDA(cudaGetDeviceProperties(&device, 0));
    printf("%s, compute capability %d.%d\n", device.name, device.major, device.minor);
    if (device.major == 9)
        check_all<Whole>("a warpgroup: wgmma");
    check_all<Warps>("warps: mma.sync");
    printf("%d failures\n", failures);
    return failures != 0;
}
