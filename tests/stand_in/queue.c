/* queue.c - the stream and graphs: calls with copies of their arguments, run late. */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

struct proa_gpu_graph {
    work_list list;
};

void stand_in_list_init(work_list *list)
{
    list->first = NULL;
    list->end = &list->first;
}

void stand_in_list_free(work_list *list)
{
    while (list->first != NULL) {
        work *w = list->first;
        list->first = w->next;
        free(w);
    }
    list->end = &list->first;
}

static proa_status append(work_list *list, stand_in_run *run, const void *args, size_t bytes, proa_error *err)
{
    work *w = malloc(sizeof *w + bytes);
    if (w == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a call of the stand-in");
    w->next = NULL;
    w->run = run;
    w->bytes = bytes;
    memcpy(w->args, args, bytes);
    *list->end = w;
    list->end = &w->next;
    return PROA_OK;
}

static work_list *first_of(proa_gpu *gpu)
{
    return gpu->recording ? &gpu->recorded : &gpu->queue;
}

proa_status stand_in_queue(proa_gpu *gpu, stand_in_run *run, const void *args, size_t bytes, proa_error *err)
{
    stand_in_assert_owner(gpu);
    PROA_ASSERT(gpu->forked || !gpu->beside);
    return append(gpu->beside ? &gpu->second : first_of(gpu), run, args, bytes, err);
}

proa_status proa_gpu_fork(proa_gpu *gpu, proa_error *err)
{
    (void)err;
    stand_in_assert_owner(gpu);
    PROA_ASSERT(!gpu->forked);
    gpu->forked = true;
    return PROA_OK;
}

void proa_gpu_beside(proa_gpu *gpu, bool beside)
{
    stand_in_assert_owner(gpu);
    gpu->beside = beside;
}

proa_status proa_gpu_join(proa_gpu *gpu, proa_error *err)
{
    work_list *to = first_of(gpu);
    (void)err;
    stand_in_assert_owner(gpu);
    PROA_ASSERT(gpu->forked);
    gpu->beside = gpu->forked = false;
    if (gpu->second.first == NULL)
        return PROA_OK;
    *to->end = gpu->second.first;
    to->end = gpu->second.end;
    stand_in_list_init(&gpu->second);
    return PROA_OK;
}

void stand_in_drain(proa_gpu *gpu)
{
    PROA_ASSERT(!gpu->recording);
    while (gpu->queue.first != NULL) {
        work *w = gpu->queue.first;
        gpu->queue.first = w->next;
        if (w->next == NULL)
            gpu->queue.end = &gpu->queue.first;
        w->run(gpu, w->args);
        free(w);
    }
}

proa_status stand_in_not_recording(const proa_gpu *gpu, const char *what, proa_error *err)
{
    if (gpu->forked)
        return proa_error_set(err, PROA_ERR_DEVICE,
                              "%s: work on the second stream has not been joined (the stand-in's GPU)", what);
    if (!gpu->recording)
        return PROA_OK;
    return proa_error_set(err, PROA_ERR_DEVICE,
                          "%s: operation not permitted while a graph is recorded (the stand-in's GPU)", what);
}

proa_status proa_gpu_graph_begin(proa_gpu *gpu, proa_error *err)
{
    stand_in_assert_owner(gpu);
    const proa_status status = stand_in_not_recording(gpu, "beginning a graph", err);
    gpu->recording = gpu->recording || status == PROA_OK; /* one that is recorded already goes on */
    return status;
}

proa_status proa_gpu_graph_end(proa_gpu *gpu, proa_gpu_graph **out, proa_error *err)
{
    stand_in_assert_owner(gpu);
    *out = NULL;
    if (!gpu->recording)
        return proa_error_set(err, PROA_ERR_DEVICE, "making a graph: none was begun (the stand-in's GPU)");
    gpu->recording = false;
    if (gpu->forked) { /* and the graph is no graph */
        gpu->beside = gpu->forked = false;
        stand_in_list_free(&gpu->second);
        stand_in_list_free(&gpu->recorded);
        return proa_error_set(
            err, PROA_ERR_DEVICE,
            "making a graph: work on the second stream has not been joined (the stand-in's GPU)");
    }
    proa_gpu_graph *graph = malloc(sizeof *graph);
    if (graph == NULL) {
        stand_in_list_free(&gpu->recorded);
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a graph");
    }
    stand_in_list_init(&graph->list);
    if (gpu->recorded.first != NULL) {
        graph->list = gpu->recorded;
        stand_in_list_init(&gpu->recorded);
    }
    *out = graph;
    return PROA_OK;
}

size_t proa_gpu_graph_nodes(const proa_gpu_graph *graph)
{
    size_t count = 0;
    for (const work *w = graph->list.first; w != NULL; w = w->next)
        count++;
    return count;
}

/* Its calls are copied, so that the graph may be freed before they have run. */
proa_status proa_gpu_graph_run(proa_gpu *gpu, proa_gpu_graph *graph, proa_error *err)
{
    stand_in_assert_owner(gpu);
    proa_status status = stand_in_not_recording(gpu, "starting a graph", err);
    for (const work *w = graph->list.first; w != NULL && status == PROA_OK; w = w->next)
        status = append(&gpu->queue, w->run, w->args, w->bytes, err);
    return status;
}

void proa_gpu_graph_free(proa_gpu_graph *graph)
{
    if (graph == NULL)
        return;
    stand_in_list_free(&graph->list);
    free(graph);
}
