/* test_kernels.c - every kernel of this program is machine code for this GPU and can be loaded: nothing is compiled at run time. */
#include "gpu_test.h"
#include "op/cuda/kernels.h"

enum { KERNELS_LEAST = 30 }; /* products alone have sixteen */

static void count(void *context, const proa_cuda_kernel *kernel)
{
    int32_t *seen = context;
    assert_non_null(kernel->name);
    assert_true(kernel->name[0] != '\0');
    assert_int_equal(kernel->capability, seen[1]);
    seen[0]++;
}

static void test_all_kernels_load(void **state)
{
    proa_gpu *gpu = gpu_of(state);
    proa_error err = {0};
    int32_t seen[2] = {0, proa_gpu_facts_of(gpu)->capability};
    gpu_good(proa_cuda_kernels_load(gpu, count, seen, &err), &err);
    assert_true(seen[0] >= (gpu_is_slow(gpu) ? 1 : KERNELS_LEAST));
    gpu_good(proa_cuda_kernels_load(gpu, NULL, NULL, &err), &err);
    assert_int_equal(strlen(proa_cuda_kernels_digest), 16);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_all_kernels_load)};
    return cmocka_run_group_tests(tests, gpu_open_state, gpu_close_state);
}
