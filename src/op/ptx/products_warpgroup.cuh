/* products_warpgroup.cuh - the products of products.cuh by wgmma, which sm_90a has and no other.
 *
 * Shapes of operands and fragments are those of the PTX ISA, "Asynchronous warpgroup level matrix". */
#ifndef PROA_OP_PTX_PRODUCTS_WARPGROUP_CUH
#define PROA_OP_PTX_PRODUCTS_WARPGROUP_CUH

#include "op/ptx/descriptors.cuh"

namespace proa
{
namespace by_warpgroup
{

__device__ __forceinline__ void product_fence()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void product_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int PENDING> __device__ __forceinline__ void product_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

#define T0  "%0, %1, %2, %3, %4, %5, %6, %7"
#define T1  "%8, %9, %10, %11, %12, %13, %14, %15"
#define T2  "%16, %17, %18, %19, %20, %21, %22, %23"
#define T3  "%24, %25, %26, %27, %28, %29, %30, %31"
#define T4  "%32, %33, %34, %35, %36, %37, %38, %39"
#define T5  "%40, %41, %42, %43, %44, %45, %46, %47"
#define T6  "%48, %49, %50, %51, %52, %53, %54, %55"
#define T7  "%56, %57, %58, %59, %60, %61, %62, %63"
#define T8  "%64, %65, %66, %67, %68, %69, %70, %71"
#define T9  "%72, %73, %74, %75, %76, %77, %78, %79"
#define T10 "%80, %81, %82, %83, %84, %85, %86, %87"
#define T11 "%88, %89, %90, %91, %92, %93, %94, %95"
#define T12 "%96, %97, %98, %99, %100, %101, %102, %103"
#define T13 "%104, %105, %106, %107, %108, %109, %110, %111"
#define T14 "%112, %113, %114, %115, %116, %117, %118, %119"
#define T15 "%120, %121, %122, %123, %124, %125, %126, %127"
#define D8(i)                                                                                                \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]),              \
        "+f"(d[i + 6]), "+f"(d[i + 7])
#define T_32  T0 ", " T1
#define D_32  D8(0), D8(8)
#define T_64  T0 ", " T1 ", " T2 ", " T3
#define D_64  D8(0), D8(8), D8(16), D8(24)
#define T_96  T0 ", " T1 ", " T2 ", " T3 ", " T4 ", " T5
#define D_96  D8(0), D8(8), D8(16), D8(24), D8(32), D8(40)
#define T_128 T0 ", " T1 ", " T2 ", " T3 ", " T4 ", " T5 ", " T6 ", " T7
#define D_128 D8(0), D8(8), D8(16), D8(24), D8(32), D8(40), D8(48), D8(56)
#define T_256                                                                                                \
    T0 ", " T1 ", " T2 ", " T3 ", " T4 ", " T5 ", " T6 ", " T7 ", " T8 ", " T9 ", " T10 ", " T11 ", " T12    \
       ", " T13 ", " T14 ", " T15
#define D_256                                                                                                \
    D8(0), D8(8), D8(16), D8(24), D8(32), D8(40), D8(48), D8(56), D8(64), D8(72), D8(80), D8(88), D8(96),    \
        D8(104), D8(112), D8(120)

/* KEEP 0: d = a b, else d += a b. A, B and KEEP are numbers of operands: N / 2 and the next two. */
#define PRODUCT(NAME, N, TYPES, MORE, A, B, KEEP)                                                            \
    __device__ __forceinline__ void NAME(float(&d)[N / 2], uint64_t a, uint64_t b, int32_t keep)             \
    {                                                                                                        \
        asm volatile("{\n.reg .pred keeps;\nsetp.ne.b32 keeps, %" KEEP                                       \
                     ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N TYPES " {" T_##N                           \
                     "}, %" A ", %" B ", keeps, 1, 1" MORE ";\n}\n"                                          \
                     : D_##N                                                                                 \
                     : "l"(a), "l"(b), "r"(keep));                                                           \
    }

#define FP8_PRODUCT(N, A, B, KEEP) PRODUCT(product_e4m3, N, "k32.f32.e4m3.e4m3", "", A, B, KEEP)

FP8_PRODUCT(32, "16", "17", "18")
FP8_PRODUCT(64, "32", "33", "34")
FP8_PRODUCT(96, "48", "49", "50")
FP8_PRODUCT(128, "64", "65", "66")

#undef FP8_PRODUCT

#define BF16_PRODUCT(N, A, B, KEEP) PRODUCT(product_bf16, N, "k16.f32.bf16.bf16", ", 0, 0", A, B, KEEP)

BF16_PRODUCT(32, "16", "17", "18")
BF16_PRODUCT(64, "32", "33", "34")
BF16_PRODUCT(128, "64", "65", "66")
BF16_PRODUCT(256, "128", "129", "130")

#undef BF16_PRODUCT
#undef PRODUCT

#define VALUES_PRODUCT(N, A0, A1, A2, A3, B, KEEP)                                                           \
    __device__ __forceinline__ void product_bf16_values(float(&d)[N / 2], const uint32_t *a, uint64_t b,     \
                                                        int32_t keep)                                        \
    {                                                                                                        \
        asm volatile("{\n.reg .pred keeps;\nsetp.ne.b32 keeps, %" KEEP                                       \
                     ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" T_##N                \
                     "}, {%" A0 ", %" A1 ", %" A2 ", %" A3 "}, %" B ", keeps, 1, 1, 1;\n}\n"                 \
                     : D_##N                                                                                 \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(keep));                       \
    }

VALUES_PRODUCT(128, "64", "65", "66", "67", "68", "69")
VALUES_PRODUCT(256, "128", "129", "130", "131", "132", "133")

/* The same with a in shared memory, K-major. */
__device__ __forceinline__ void product_bf16_values(float (&d)[64], uint64_t a, uint64_t b, int32_t keep)
{
    asm volatile("{\n.reg .pred keeps;\nsetp.ne.b32 keeps, %66, "
                 "0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" T_128
                 "}, %64, %65, keeps, 1, 1, 0, 1;\n}\n"
                 : D_128
                 : "l"(a), "l"(b), "r"(keep));
}

/* a in registers, b K-major in shared memory: scores of queries that stay. */
__device__ __forceinline__ void product_bf16_held(float (&d)[32], const uint32_t *a, uint64_t b, int32_t keep)
{
    asm volatile("{\n.reg .pred keeps;\nsetp.ne.b32 keeps, %37, "
                 "0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" T_64
                 "}, {%32, %33, %34, %35}, %36, keeps, 1, 1, 0;\n}\n"
                 : D_64
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(keep));
}

#undef VALUES_PRODUCT

} // namespace by_warpgroup
} // namespace proa

#endif
