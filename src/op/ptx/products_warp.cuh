/* products_warp.cuh - the products of products.cuh by ldmatrix and mma.sync, for GPUs that have no wgmma: sm_100a.
 *
 * Each warp multiplies its own 16 rows of the 64: a row of an accumulator's eight columns is a fragment of m16n8, so the layouts are the
 * same. a is one ldmatrix, b one for every 16 columns. A product is done when the call returns: fence and wait only bring the warp's
 * threads together, so that one of them may speak for all. Nothing runs beside the kernel's other arithmetic, which is what wgmma and
 * sm_100a's own tcgen05 are for. */
#ifndef PROA_OP_PTX_PRODUCTS_WARP_CUH
#define PROA_OP_PTX_PRODUCTS_WARP_CUH

#include "op/ptx/descriptors.cuh"

namespace proa
{
namespace by_warp
{

__device__ __forceinline__ void product_fence()
{
    __syncwarp();
}

__device__ __forceinline__ void product_commit()
{
}

/* The warp's reads of the operands are before what any of its threads does next. */
template <int PENDING> __device__ __forceinline__ void product_wait()
{
    __syncwarp();
}

/* ---- fragments ---- */

/* Where the 16 bytes at an address of a tile without swizzle are. */
__device__ __forceinline__ uint32_t swizzled(uint32_t address)
{
    return address ^ (address >> 3 & 0x70);
}

/* Four matrices of eight rows of 16 bytes, the rows of matrix i at lanes 8 i .. 8 i + 7. */
__device__ __forceinline__ void load_fragments(uint32_t (&d)[4], uint32_t row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(row)
                 : "memory");
}

/* Each transposed. */
__device__ __forceinline__ void load_fragments_transposed(uint32_t (&d)[4], uint32_t row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(row)
                 : "memory");
}

/* a [16, 32 bytes of K], rows of this warp. */
__device__ __forceinline__ void load_rows(uint32_t (&a)[4], uint64_t tile)
{
    const uint32_t lane = threadIdx.x % 32, row = threadIdx.x % 128 / 32 * 16 + lane % 16;
    load_fragments(a, swizzled(descriptor_address(tile) + row * 128 + lane / 16 * 16));
}

struct MultiplyE4m3 {
    static __device__ __forceinline__ void add(float *d, const uint32_t *a, const uint32_t *b)
    {
        asm("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, "
            "%9}, "
            "{%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }
};

struct MultiplyBf16 {
    static __device__ __forceinline__ void add(float *d, const uint32_t *a, const uint32_t *b)
    {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, "
            "%9}, "
            "{%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }
};

template <int HALF> __device__ __forceinline__ void keep_or_clear(float (&d)[HALF], int32_t keep)
{
#pragma unroll
    for (int i = 0; i < HALF; i++)
        d[i] = keep != 0 ? d[i] : 0.0f;
}

/* ---- products: d has N / 2 elements ---- */

/* b K-major: of every 16 columns, eight rows of b with their 16 bytes each of the 32, then the next eight. */
template <typename MULTIPLY, int HALF>
__device__ __forceinline__ void multiply(float (&d)[HALF], const uint32_t *a, uint64_t b, int32_t keep)
{
    const uint32_t lane = threadIdx.x % 32, column = lane / 16 * 8 + lane % 8;
    const uint32_t from = swizzled(descriptor_address(b) + column * 128 + lane / 8 % 2 * 16);
    keep_or_clear(d, keep);
#pragma unroll
    for (int i = 0; i < HALF / 8; i++) {
        uint32_t columns[4];
        load_fragments(columns, from + i * 16 * 128);
        MULTIPLY::add(d + 8 * i, a, columns);
        MULTIPLY::add(d + 8 * i + 4, a, columns + 2);
    }
}

template <int HALF>
__device__ __forceinline__ void product_e4m3(float (&d)[HALF], uint64_t a, uint64_t b, int32_t keep)
{
    uint32_t rows[4];
    load_rows(rows, a);
    multiply<MultiplyE4m3>(d, rows, b, keep);
}

template <int HALF>
__device__ __forceinline__ void product_bf16(float (&d)[HALF], uint64_t a, uint64_t b, int32_t keep)
{
    uint32_t rows[4];
    load_rows(rows, a);
    multiply<MultiplyBf16>(d, rows, b, keep);
}

template <int HALF>
__device__ __forceinline__ void product_bf16_held(float (&d)[HALF], const uint32_t *a, uint64_t b,
                                                  int32_t keep)
{
    multiply<MultiplyBf16>(d, a, b, keep);
}

/* b N-major: 16 rows of K, of which every 64 columns are a block, and every eight of them a piece. b begins at a row's first piece, so
 * that a step of 16 columns is a bit of the swizzled address. */
template <int HALF>
__device__ __forceinline__ void product_bf16_values(float (&d)[HALF], const uint32_t *a, uint64_t b,
                                                    int32_t keep)
{
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t from = swizzled(descriptor_address(b) + lane % 16 * 128 + lane / 16 * 16);
    keep_or_clear(d, keep);
#pragma unroll
    for (int i = 0; i < HALF / 8; i++) {
        uint32_t columns[4];
        load_fragments_transposed(columns, (from ^ i % 4 * 32) + i / 4 * descriptor_block(b));
        MultiplyBf16::add(d + 8 * i, a, columns);
        MultiplyBf16::add(d + 8 * i + 4, a, columns + 2);
    }
}

template <int HALF>
__device__ __forceinline__ void product_bf16_values(float (&d)[HALF], uint64_t a, uint64_t b, int32_t keep)
{
    uint32_t rows[4];
    load_rows(rows, a);
    product_bf16_values(d, (const uint32_t *)rows, b, keep);
}

} // namespace by_warp
} // namespace proa

#endif
