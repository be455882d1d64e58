/* kernels.h - all kernels of this program as the driver has them: that each is machine code for this GPU, and in its memory.
 *
 * No kernel is compiled when the program runs: no PTX is built in (cuda_arch in meson.build; tests/system/test_gpu_targets.py looks), and
 * what is here for another GPU is refused, by name.
 */
#ifndef PROA_OP_CUDA_KERNELS_H
#define PROA_OP_CUDA_KERNELS_H

#include "op/cuda/gpu.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct proa_cuda_kernel {
    const char *name;   /* as the compiler has it; valid until the call returns */
    int32_t capability; /* whose machine code it is: 90 */
} proa_cuda_kernel;

/* Loads each kernel, which is done at its first use otherwise, and shows it to `seen`. PROA_ERR_DEVICE names one that is of no use here. */
proa_status proa_cuda_kernels_load(proa_gpu *gpu, void (*seen)(void *context, const proa_cuda_kernel *kernel),
                                   void *context, proa_error *err);

/* Of the sources and the compiler that the kernels were made from: what was measured with others may not hold. */
extern const char proa_cuda_kernels_digest[];

#ifdef __cplusplus
}
#endif

#endif
