/* test_gpu_target.c - a GPU that no kernel of the build is for is told so, with what would do. */
#include "op/cuda/target.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static const struct {
    int32_t capability;
    int32_t built[3], built_count;
    const char *text; /* NULL: it will do */
} cases[] = {
    {90, {90}, 1, NULL},
    {90, {90, 100}, 2, NULL},
    {100, {90, 100}, 2, NULL},
    {100, {90}, 1, "GPU 3 is a Some GPU of compute capability 10.0; kernels are built for 9.0 (H100, H200)"},
    {90, {100}, 1, "GPU 3 is a Some GPU of compute capability 9.0; kernels are built for 10.0 (B200, GB200)"},
    {103,
     {90, 100},
     2,
     "GPU 3 is a Some GPU of compute capability 10.3; kernels are built for 9.0 (H100, H200) and 10.0 (B200, "
     "GB200)"},
    {80,
     {90, 100, 121},
     3,
     "GPU 3 is a Some GPU of compute capability 8.0; kernels are built for 9.0 (H100, H200), 10.0 (B200, "
     "GB200) "
     "and 12.1"},
};

static void test_targets(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const proa_gpu_facts facts = {.name = "Some GPU", .ordinal = 3, .capability = cases[i].capability};
        proa_error err = {0};
        const proa_status status = proa_gpu_target_check(&facts, cases[i].built, cases[i].built_count, &err);
        assert_int_equal(status, cases[i].text == NULL ? PROA_OK : PROA_ERR_UNSUPPORTED);
        if (cases[i].text != NULL)
            assert_string_equal(err.text, cases[i].text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_targets)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
