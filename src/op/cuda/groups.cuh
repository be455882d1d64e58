/* groups.cuh - groups of rows (rows.h) from inside a kernel. */
#ifndef PROA_OP_CUDA_GROUPS_CUH
#define PROA_OP_CUDA_GROUPS_CUH

#include "op/cuda/rows.h"

namespace proa
{

enum { GROUPS_NEAR = 64 };

/* Where the rows of groups stand, in the block's own memory: a walk that asks the second-level cache for each group spends microseconds.
 * Not for products: whose loops then have descriptors in registers that they must move (+7 to 25 %).
 * All threads of the block, once earlier kernels have ended; those of more groups stay where they are. */
struct NearGroups {
    int32_t first[GROUPS_NEAR], count[GROUPS_NEAR];

    __device__ __forceinline__ void take(proa_cuda_groups *g)
    {
        if (g->first == nullptr || g->groups > GROUPS_NEAR)
            return;
        for (int32_t i = (int32_t)threadIdx.x; i < g->groups; i += (int32_t)blockDim.x) {
            first[i] = g->first[i];
            count[i] = g->count[i];
        }
        __syncthreads();
        g->first = first;
        g->count = count;
    }
};

} // namespace proa

#endif
