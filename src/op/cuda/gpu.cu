/* gpu.cu - see gpu.h. */
#include "op/cuda/gpu.h"

#include "op/cuda/launch.cuh"
#include "op/cuda/target.h"

#include <stdlib.h>
#include <string.h>

enum { DRIVER_NEEDED = 13000 };

/* What nvcc was told to make machine code for, as 900 and 1000. */
static const int32_t architectures[] = {__CUDA_ARCH_LIST__};

enum { ARCHITECTURES = sizeof architectures / sizeof *architectures };

struct proa_gpu {
    proa_gpu_facts facts;
    cudaStream_t stream; /* the first */
    cudaStream_t second;
    cudaEvent_t forked, joined;
    bool beside;    /* the second takes what is queued */
    bool recording; /* a graph */
};

struct proa_gpu_graph {
    cudaGraph_t graph;
    cudaGraphExec_t runnable;
};

struct proa_gpu_mark {
    cudaEvent_t event;
};

proa_status proa_cuda_status(cudaError_t result, const char *what, proa_error *err)
{
    if (result == cudaSuccess)
        return PROA_OK;
    const proa_status status = result == cudaErrorMemoryAllocation ? PROA_ERR_DEVICE_MEMORY : PROA_ERR_DEVICE;
    return proa_error_set(err, status, "%s: %s", what, cudaGetErrorString(result));
}

int32_t proa_gpu_count(proa_error *err)
{
    int count = 0;
    const cudaError_t result = cudaGetDeviceCount(&count);
    if (result == cudaErrorInsufficientDriver)
        proa_error_set(err, PROA_ERR_UNSUPPORTED, "no NVIDIA driver that knows CUDA %d is loaded",
                       DRIVER_NEEDED / 1000);
    else if (result != cudaSuccess)
        proa_cuda_status(result, "looking for GPUs", err);
    else if (count == 0)
        proa_error_set(err, PROA_ERR_UNSUPPORTED, "the NVIDIA driver sees no GPU here");
    return result == cudaSuccess ? count : 0;
}

static proa_status read_facts(int32_t ordinal, proa_gpu_facts *facts, proa_error *err)
{
    struct cudaDeviceProp properties;
    int driver = 0;
    cudaError_t result = cudaGetDeviceProperties(&properties, ordinal);
    if (result == cudaSuccess)
        result = cudaDriverGetVersion(&driver);
    if (result != cudaSuccess)
        return proa_cuda_status(result, "reading a GPU's properties", err);
    memcpy(facts->name, properties.name, sizeof facts->name - 1);
    facts->name[sizeof facts->name - 1] = 0;
    facts->ordinal = ordinal;
    facts->capability = properties.major * 10 + properties.minor;
    facts->multiprocessors = properties.multiProcessorCount;
    facts->memory_bytes = properties.totalGlobalMem;
    facts->l2_bytes = (size_t)properties.l2CacheSize;
    facts->driver = driver;
    return PROA_OK;
}

/* Of lower priority is what runs beside: it fills what the first stream leaves. */
static cudaError_t make_streams(proa_gpu *gpu)
{
    int least, greatest;
    cudaError_t result = cudaDeviceGetStreamPriorityRange(&least, &greatest);
    if (result == cudaSuccess)
        result = cudaStreamCreateWithPriority(&gpu->stream, cudaStreamNonBlocking, greatest);
    if (result == cudaSuccess)
        result = cudaStreamCreateWithPriority(&gpu->second, cudaStreamNonBlocking, least);
    if (result == cudaSuccess)
        result = cudaEventCreateWithFlags(&gpu->forked, cudaEventDisableTiming);
    return result == cudaSuccess ? cudaEventCreateWithFlags(&gpu->joined, cudaEventDisableTiming) : result;
}

static proa_status check_target(const proa_gpu_facts *facts, proa_error *err)
{
    int32_t built[ARCHITECTURES];
    for (int32_t i = 0; i < ARCHITECTURES; i++)
        built[i] = architectures[i] / 10;
    return proa_gpu_target_check(facts, built, ARCHITECTURES, err);
}

proa_status proa_gpu_open(int32_t ordinal, proa_gpu **out, proa_error *err)
{
    const int32_t count = proa_gpu_count(err);
    *out = NULL;
    if (count == 0)
        return err->status;
    if (ordinal < 0 || ordinal >= count)
        return proa_error_set(err, PROA_ERR_INVALID, "there is no GPU %d: GPUs 0 to %d are here", ordinal,
                              count - 1);
    proa_gpu *gpu = (proa_gpu *)calloc(1, sizeof *gpu);
    if (gpu == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a GPU");
    proa_status status = read_facts(ordinal, &gpu->facts, err);
    if (status == PROA_OK)
        status = check_target(&gpu->facts, err);
    if (status == PROA_OK)
        status = proa_cuda_status(cudaSetDevice(ordinal), "taking the GPU", err);
    if (status == PROA_OK)
        status = proa_cuda_status(make_streams(gpu), "making streams", err);
    if (status != PROA_OK) {
        proa_gpu_close(gpu);
        return status;
    }
    *out = gpu;
    return PROA_OK;
}

void proa_gpu_close(proa_gpu *gpu)
{
    if (gpu == NULL)
        return;
    if (gpu->joined != NULL)
        cudaEventDestroy(gpu->joined);
    if (gpu->forked != NULL)
        cudaEventDestroy(gpu->forked);
    if (gpu->second != NULL)
        cudaStreamDestroy(gpu->second);
    if (gpu->stream != NULL)
        cudaStreamDestroy(gpu->stream);
    free(gpu);
}

proa_status proa_gpu_own(proa_gpu *gpu, proa_error *err)
{
    return proa_cuda_status(cudaSetDevice(gpu->facts.ordinal), "taking the GPU", err);
}

const proa_gpu_facts *proa_gpu_facts_of(const proa_gpu *gpu)
{
    return &gpu->facts;
}

void *proa_gpu_stream(const proa_gpu *gpu)
{
    return gpu->beside ? gpu->second : gpu->stream;
}

proa_status proa_gpu_fork(proa_gpu *gpu, proa_error *err)
{
    cudaError_t result = cudaEventRecord(gpu->forked, gpu->stream);
    if (result == cudaSuccess)
        result = cudaStreamWaitEvent(gpu->second, gpu->forked, 0);
    return proa_cuda_status(result, "forking a stream", err);
}

void proa_gpu_beside(proa_gpu *gpu, bool beside)
{
    gpu->beside = beside;
}

proa_status proa_gpu_join(proa_gpu *gpu, proa_error *err)
{
    gpu->beside = false;
    cudaError_t result = cudaEventRecord(gpu->joined, gpu->second);
    if (result == cudaSuccess)
        result = cudaStreamWaitEvent(gpu->stream, gpu->joined, 0);
    return proa_cuda_status(result, "joining a stream", err);
}

/* ---- memory ---- */

proa_status proa_gpu_alloc(proa_gpu *gpu, size_t bytes, void **memory, proa_error *err)
{
    *memory = NULL;
    const cudaError_t result = cudaMalloc(memory, bytes);
    if (result != cudaErrorMemoryAllocation)
        return proa_cuda_status(result, "reserving GPU memory", err);
    (void)cudaGetLastError();
    size_t left = 0;
    proa_error unused;
    (void)proa_gpu_memory(gpu, &left, &unused);
    return proa_error_set(err, PROA_ERR_DEVICE_MEMORY, "GPU %d has no %zu MiB left: %zu MiB of %zu are free",
                          gpu->facts.ordinal, bytes >> 20, left >> 20, gpu->facts.memory_bytes >> 20);
}

void proa_gpu_free(proa_gpu *, void *memory)
{
    cudaFree(memory);
}

proa_status proa_gpu_memory(const proa_gpu *, size_t *free_bytes, proa_error *err)
{
    size_t total;
    return proa_cuda_status(cudaMemGetInfo(free_bytes, &total), "asking for free GPU memory", err);
}

proa_status proa_gpu_alloc_host(proa_gpu *, size_t bytes, void **memory, proa_error *err)
{
    *memory = NULL;
    return proa_cuda_status(cudaMallocHost(memory, bytes), "reserving pinned memory", err);
}

void proa_gpu_free_host(proa_gpu *, void *memory)
{
    cudaFreeHost(memory);
}

proa_status proa_gpu_upload(proa_gpu *gpu, void *to, const void *from, size_t bytes, proa_error *err)
{
    return proa_cuda_status(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, proa_cuda_stream(gpu)),
                            "a copy to the GPU", err);
}

proa_status proa_gpu_download(proa_gpu *gpu, void *to, const void *from, size_t bytes, proa_error *err)
{
    return proa_cuda_status(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, proa_cuda_stream(gpu)),
                            "a copy from the GPU", err);
}

proa_status proa_gpu_copy_rows(proa_gpu *gpu, void *to, const void *from, size_t stride, size_t bytes,
                               size_t rows, proa_error *err)
{
    return proa_cuda_status(cudaMemcpy2DAsync(to, stride, from, stride, bytes, rows, cudaMemcpyDeviceToDevice,
                                              proa_cuda_stream(gpu)),
                            "a copy on the GPU", err);
}

proa_status proa_gpu_set(proa_gpu *gpu, void *to, int value, size_t bytes, proa_error *err)
{
    return proa_cuda_status(cudaMemsetAsync(to, value, bytes, proa_cuda_stream(gpu)), "filling GPU memory",
                            err);
}

proa_status proa_gpu_sync(proa_gpu *gpu, proa_error *err)
{
    return proa_cuda_status(cudaStreamSynchronize(gpu->stream), "work on the GPU", err);
}

/* ---- graphs ---- */

proa_status proa_gpu_graph_begin(proa_gpu *gpu, proa_error *err)
{
    const proa_status status = proa_cuda_status(
        cudaStreamBeginCapture(gpu->stream, cudaStreamCaptureModeThreadLocal), "beginning a graph", err);
    gpu->recording = gpu->recording || status == PROA_OK; /* one that is recorded already goes on */
    return status;
}

proa_status proa_gpu_graph_end(proa_gpu *gpu, proa_gpu_graph **out, proa_error *err)
{
    cudaGraph_t recorded = NULL;
    cudaError_t result =
        cudaStreamEndCapture(gpu->stream, &recorded); /* first: else the stream would record on */
    *out = NULL;
    gpu->beside = gpu->recording = false;
    proa_gpu_graph *graph = (proa_gpu_graph *)calloc(1, sizeof *graph);
    if (graph == NULL) {
        if (recorded != NULL)
            cudaGraphDestroy(recorded);
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a graph");
    }
    graph->graph = recorded;
    if (result == cudaSuccess)
        result = cudaGraphInstantiate(&graph->runnable, graph->graph, 0);
    if (result != cudaSuccess) {
        proa_gpu_graph_free(graph);
        return proa_cuda_status(result, "making a graph", err);
    }
    *out = graph;
    return PROA_OK;
}

proa_status proa_gpu_graph_run(proa_gpu *gpu, proa_gpu_graph *graph, proa_error *err)
{
    return proa_cuda_status(cudaGraphLaunch(graph->runnable, gpu->stream), "starting a graph", err);
}

void proa_gpu_graph_free(proa_gpu_graph *graph)
{
    if (graph == NULL)
        return;
    if (graph->runnable != NULL)
        cudaGraphExecDestroy(graph->runnable);
    if (graph->graph != NULL)
        cudaGraphDestroy(graph->graph);
    free(graph);
}

size_t proa_gpu_graph_nodes(const proa_gpu_graph *graph)
{
    size_t count = 0;
    (void)cudaGraphGetNodes(graph->graph, NULL, &count);
    return count;
}

/* ---- times ---- */

proa_status proa_gpu_mark_create(proa_gpu *, proa_gpu_mark **out, proa_error *err)
{
    proa_gpu_mark *mark = (proa_gpu_mark *)calloc(1, sizeof *mark);
    *out = mark;
    if (mark == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a mark");
    const proa_status status = proa_cuda_status(cudaEventCreate(&mark->event), "making a mark", err);
    if (status != PROA_OK) {
        free(mark);
        *out = NULL;
    }
    return status;
}

void proa_gpu_mark_free(proa_gpu_mark *mark)
{
    if (mark != NULL)
        cudaEventDestroy(mark->event);
    free(mark);
}

proa_status proa_gpu_mark_set(proa_gpu *gpu, proa_gpu_mark *mark, proa_error *err)
{
    /* in a graph, a node of its own: else the event would be no more than an edge of it, and would have no time */
    const unsigned flags = gpu->recording ? cudaEventRecordExternal : cudaEventRecordDefault;
    return proa_cuda_status(cudaEventRecordWithFlags(mark->event, proa_cuda_stream(gpu), flags),
                            "setting a mark", err);
}

proa_status proa_gpu_mark_wait(proa_gpu *, proa_gpu_mark *mark, proa_error *err)
{
    return proa_cuda_status(cudaEventSynchronize(mark->event), "work on the GPU", err);
}

double proa_gpu_mark_us(const proa_gpu_mark *from, const proa_gpu_mark *to)
{
    float ms = 0;
    if (cudaEventElapsedTime(&ms, from->event, to->event) == cudaSuccess)
        return (double)ms * 1e3;
    (void)cudaGetLastError(); /* it is told here, not by the next launch */
    return -1;
}
