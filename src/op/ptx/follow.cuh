/* follow.cuh - kernels that follow one another on a stream (launch.cuh's proa_cuda_follow), from their side. */
#ifndef PROA_OP_PTX_FOLLOW_CUH
#define PROA_OP_PTX_FOLLOW_CUH

namespace proa
{

/* The next kernel's blocks may start where there is room. */
__device__ __forceinline__ void follow_allow()
{
    asm volatile("griddepcontrol.launch_dependents;");
}

/* What earlier kernels wrote is there, and they read no more. What a kernel wrote is not for __ldg, which may be moved before this. */
__device__ __forceinline__ void follow_wait()
{
    asm volatile("griddepcontrol.wait;" ::: "memory");
}

/* For a kernel that has nothing to do before. */
__device__ __forceinline__ void follow()
{
    follow_allow();
    follow_wait();
}

} // namespace proa

#endif
