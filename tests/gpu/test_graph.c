/* test_graph.c - a graph's recording: it runs when asked, and what fails leaves a stream that records no more. */
#include "gpu_test.h"

enum { BYTES = 64, GRAPH_BYTES = 2 * sizeof(void *) };

/* Memory of a graph's size on the host; no other, since CUDA's runtime, which is a part of the program, takes some meanwhile. */
static bool refuse;

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);

void *__wrap_malloc(size_t bytes)
{
    return refuse && bytes == GRAPH_BYTES ? NULL : __real_malloc(bytes);
}

void *__wrap_calloc(size_t count, size_t bytes)
{
    return refuse && count * bytes == GRAPH_BYTES ? NULL : __real_calloc(count, bytes);
}

static uint8_t first_byte(proa_gpu *gpu, const void *there)
{
    uint8_t here[BYTES];
    gpu_read(gpu, here, there, sizeof here);
    return here[0];
}

/* A graph that sets the bytes; NULL where the end fails. */
static proa_status record(proa_gpu *gpu, void *there, int value, bool end_fails, proa_gpu_graph **graph)
{
    proa_error err = {0};
    gpu_good(proa_gpu_graph_begin(gpu, &err), &err);
    gpu_good(proa_gpu_set(gpu, there, value, BYTES, &err), &err);
    refuse = end_fails;
    proa_status status = proa_gpu_graph_end(gpu, graph, &err);
    refuse = false;
    return status;
}

static void test_no_memory_for_a_graph_ends_its_recording(void **state)
{
    proa_gpu *gpu = gpu_of(state);
    proa_error err = {0};
    proa_gpu_graph *graph;
    void *there = gpu_room(gpu, BYTES);
    assert_int_equal(record(gpu, there, 1, true, &graph), PROA_ERR_MEMORY);
    assert_null(graph);
    assert_int_equal(first_byte(gpu, there), 0xff); /* it can be read, and what was recorded has not run */
    gpu_good(proa_gpu_set(gpu, there, 2, BYTES, &err), &err);
    assert_int_equal(first_byte(gpu, there), 2);
    gpu_good(record(gpu, there, 3, false, &graph), &err);
    assert_int_equal(proa_gpu_graph_nodes(graph), 1);
    assert_int_equal(first_byte(gpu, there), 2);
    gpu_good(proa_gpu_graph_run(gpu, graph, &err), &err);
    assert_int_equal(first_byte(gpu, there), 3);
    proa_gpu_graph_free(graph);
    proa_gpu_free(gpu, there);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_memory_for_a_graph_ends_its_recording),
    };
    return cmocka_run_group_tests(tests, gpu_open_state, gpu_close_state);
}
