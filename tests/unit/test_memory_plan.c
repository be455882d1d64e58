/* test_memory_plan.c - how memory is divided among weights, buffers and KV cache, and what is said when it is too little. */
#include "cmd/memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static const uint64_t gib = 1ull << 30, mib = 1ull << 20;

static void test_what_is_left_goes_to_the_cache(void **state)
{
    proa_error err;
    proa_memory_plan plan = {.available_bytes = 80 * gib,
                             .weight_bytes = 40 * gib,
                             .buffer_bytes = 8 * gib,
                             .block_bytes = 4 * mib,
                             .where = "GPU memory"};
    (void)state;
    assert_int_equal(proa_memory_plan_kv(&plan, 0.9, 0, 1000, 8192, &err), PROA_OK);
    assert_int_equal(plan.kv_tokens, 24 * 1024 / 4 * 64); /* 0.9 * 80 - 40 - 8 = 24 GiB */
    assert_int_equal(proa_memory_plan_kv(&plan, 0.9, 0, 2, 100, &err), PROA_OK);
    assert_int_equal(plan.kv_tokens, 256); /* no more than two requests of 100 tokens fill */
    assert_int_equal(proa_memory_plan_kv(&plan, 0.9, 1000, 1, 100, &err), PROA_OK);
    assert_int_equal(plan.kv_tokens, 1024);
}

static void test_too_little(void **state)
{
    proa_error err;
    proa_memory_plan plan = {.available_bytes = 80 * gib,
                             .weight_bytes = 70 * gib,
                             .buffer_bytes = 4 * gib,
                             .block_bytes = 4 * mib,
                             .where = "GPU memory"};
    (void)state;
    assert_int_equal(proa_memory_plan_kv(&plan, 0.9, 0, 8, 8192, &err), PROA_ERR_MEMORY);
    assert_non_null(strstr(err.text, "80.0 GiB of GPU memory"));
    assert_non_null(strstr(err.text, "70.0 GiB of weights"));
    assert_non_null(strstr(err.text, "4.0 GiB of step buffers"));
    assert_int_equal(proa_memory_plan_kv(&plan, 0.9, 1000000, 8, 8192, &err), PROA_ERR_MEMORY);
    assert_non_null(strstr(err.text, "at most 98304 tokens fit")); /* 6 GiB */
    assert_int_equal(proa_memory_plan_kv(&plan, 0.9, 98304, 8, 8192, &err), PROA_OK);
    plan.buffer_bytes = 0; /* on a host, memory that is asked for is not yet taken */
    assert_int_equal(proa_memory_plan_kv(&plan, 0.9, 1000000, 8, 8192, &err), PROA_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_what_is_left_goes_to_the_cache),
                                       cmocka_unit_test(test_too_little)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
