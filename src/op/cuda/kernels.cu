/* kernels.cu - see kernels.h. A file of kernels is one module of the driver, which lists what is in it; PROA_CUDA_KERNELS of launch.cuh gives
 * one kernel of each. tools/check/check_kernels.py compares the list here with the files. */
#include "op/cuda/kernels.h"

#include "op/cuda/launch.cuh"

#include <cudaTypedefs.h>
#include <stdlib.h>

extern "C" {
typedef const void *kernel_of_file(void);
kernel_of_file proa_cuda_kernels_combine, proa_cuda_kernels_embed, proa_cuda_kernels_fill,
    proa_cuda_kernels_linear_bf16, proa_cuda_kernels_linear_fp8, proa_cuda_kernels_mla_decode,
    proa_cuda_kernels_mla_prefill, proa_cuda_kernels_quantise, proa_cuda_kernels_rmsnorm,
    proa_cuda_kernels_rope, proa_cuda_kernels_router, proa_cuda_kernels_sample, proa_cuda_kernels_swiglu;
}

namespace
{

kernel_of_file *const files[] = {
    proa_cuda_kernels_combine,     proa_cuda_kernels_embed,      proa_cuda_kernels_fill,
    proa_cuda_kernels_linear_bf16, proa_cuda_kernels_linear_fp8, proa_cuda_kernels_mla_decode,
    proa_cuda_kernels_mla_prefill, proa_cuda_kernels_quantise,   proa_cuda_kernels_rmsnorm,
    proa_cuda_kernels_rope,        proa_cuda_kernels_router,     proa_cuda_kernels_sample,
    proa_cuda_kernels_swiglu,
};

enum {
    FILES = sizeof files / sizeof *files,
    LISTS = 12040 /* the CUDA version whose driver lists a module */
};

struct driver {
    PFN_cuFuncGetModule_v11000 module_of;
    PFN_cuModuleGetFunctionCount_v12040 count;
    PFN_cuModuleEnumerateFunctions_v12040 list;
    PFN_cuFuncLoad_v12040 load;
    PFN_cuFuncGetName_v12030 name;
    PFN_cuFuncGetAttribute_v2020 attribute;
};

proa_status find_driver(driver *d, proa_error *err)
{
    const struct {
        const char *name;
        void **function;
    } calls[] = {
        {"cuFuncGetModule", (void **)&d->module_of},
        {"cuModuleGetFunctionCount", (void **)&d->count},
        {"cuModuleEnumerateFunctions", (void **)&d->list},
        {"cuFuncLoad", (void **)&d->load},
        {"cuFuncGetName", (void **)&d->name},
        {"cuFuncGetAttribute", (void **)&d->attribute},
    };
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        cudaDriverEntryPointQueryResult found;
        const cudaError_t result = cudaGetDriverEntryPointByVersion(calls[i].name, calls[i].function, LISTS,
                                                                    cudaEnableDefault, &found);
        if (result != cudaSuccess || found != cudaDriverEntryPointSuccess)
            return proa_error_set(err, PROA_ERR_UNSUPPORTED,
                                  "the NVIDIA driver has no %s: CUDA 13 needs a newer one", calls[i].name);
    }
    return PROA_OK;
}

proa_status driver_status(CUresult result, const char *what, proa_error *err)
{
    if (result == CUDA_SUCCESS)
        return PROA_OK;
    return proa_error_set(err, PROA_ERR_DEVICE, "%s: CUDA driver error %d", what, (int)result);
}

proa_status look_at(const driver *d, CUfunction function, int32_t wanted, proa_cuda_kernel *kernel,
                    proa_error *err)
{
    int binary = 0;
    *kernel = {"?", 0};
    proa_status status = driver_status(d->name(&kernel->name, function), "asking for a kernel's name", err);
    if (status == PROA_OK)
        status = driver_status(d->load(function), "loading a kernel", err);
    if (status == PROA_OK)
        status = driver_status(d->attribute(&binary, CU_FUNC_ATTRIBUTE_BINARY_VERSION, function),
                               "asking for a kernel's machine code", err);
    if (status != PROA_OK)
        return proa_error_prefix(err, "kernel %s", kernel->name);
    kernel->capability = binary;
    if (binary == wanted)
        return PROA_OK;
    return proa_error_set(err, PROA_ERR_DEVICE,
                          "kernel %s is machine code for compute capability %d.%d, the GPU has %d.%d: build "
                          "proa for this GPU (gpu_targets)",
                          kernel->name, binary / 10, binary % 10, wanted / 10, wanted % 10);
}

proa_status load_module(const driver *d, CUmodule module, int32_t wanted,
                        void (*seen)(void *context, const proa_cuda_kernel *kernel), void *context,
                        proa_error *err)
{
    unsigned count = 0;
    proa_status status = driver_status(d->count(&count, module), "counting kernels", err);
    if (status != PROA_OK)
        return status;
    CUfunction *functions = (CUfunction *)calloc(count > 0 ? count : 1, sizeof *functions);
    if (functions == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a list of %u kernels", count);
    status = driver_status(d->list(functions, count, module), "listing kernels", err);
    for (unsigned i = 0; i < count && status == PROA_OK; i++) {
        proa_cuda_kernel kernel;
        status = look_at(d, functions[i], wanted, &kernel, err);
        if (status == PROA_OK && seen != NULL)
            seen(context, &kernel);
    }
    free(functions);
    return status;
}

} // namespace

proa_status proa_cuda_kernels_load(proa_gpu *gpu, void (*seen)(void *context, const proa_cuda_kernel *kernel),
                                   void *context, proa_error *err)
{
    driver d;
    proa_status status = find_driver(&d, err);
    for (int i = 0; i < FILES && status == PROA_OK; i++) {
        cudaFunction_t function;
        CUmodule module;
        status = proa_cuda_status(cudaGetFuncBySymbol(&function, files[i]()), "finding a kernel", err);
        if (status == PROA_OK)
            status = driver_status(d.module_of(&module, function), "finding a kernel's module", err);
        if (status == PROA_OK)
            status = load_module(&d, module, proa_gpu_facts_of(gpu)->capability, seen, context, err);
    }
    return status;
}
