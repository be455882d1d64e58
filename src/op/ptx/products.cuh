/* products.cuh - what kernels multiply tiles by: d [64, N] (+)= a [64, K] b [N, K]^T, of a warpgroup's 128 threads.
 *
 *   product_e4m3          K 32    N 32, 64, 96, 128
 *   product_bf16          K 16    N 32, 64, 128, 256
 *   product_bf16_values   K 16    N 128, 256: b is N-major, rows of K, as values under probabilities are. a is in registers, or for N 128
 *                                 in shared memory
 *   product_bf16_held     K 16    N 64: a is in registers
 *
 * Operands stand in shared memory, K-major, and are told by descriptors (descriptors.cuh), unless it says otherwise; one in registers
 * has the layout of an accumulator of [64, 16], packed in pairs. keep 0: d = a b, else d += a b. The accumulator: thread t has rows
 * 16 (t / 32) + t % 32 / 4 and that plus 8; element i is of the second row when i & 2, and of column 8 (i / 4) + 2 (t % 4) + (i & 1).
 *
 * product_fence comes before the first product after a wait or a write of d, product_commit ends a group, and after product_wait<P> all
 * groups but the last P are done: of this warp. Other warps' may still run, so that a tile is free again when each of its warps has said
 * so (barriers count warps), and what one warp writes for another meets a barrier first.
 *
 * A kernel has one of two implementations of the same names. PROA_WARP_PRODUCTS takes the second on sm_90a too, so that an H100 can
 * test what other GPUs run. */
#ifndef PROA_OP_PTX_PRODUCTS_CUH
#define PROA_OP_PTX_PRODUCTS_CUH

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) && !defined(PROA_WARP_PRODUCTS)

#include "op/ptx/products_warpgroup.cuh"

namespace proa
{
using namespace by_warpgroup;
}

#else

#include "op/ptx/products_warp.cuh"

namespace proa
{
using namespace by_warp;
}

#endif

#endif
