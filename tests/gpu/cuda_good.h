/* cuda_good.h - for programs that talk to CUDA themselves: the end, aloud, where a call fails. */
#ifndef PROA_TESTS_GPU_CUDA_GOOD_H
#define PROA_TESTS_GPU_CUDA_GOOD_H

#include <cuda_runtime.h>
#include <stdio.h>
#include <stdlib.h>

#define CUDA(call)                                                                                           \
    do {                                                                                                     \
        cudaError_t error_ = (call);                                                                         \
        if (error_ != cudaSuccess) {                                                                         \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(error_));       \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

#endif
