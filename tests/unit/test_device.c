/* test_device.c - both host devices exist, have every op, and keep their scratch. */
#include "op/device.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

static void host_devices_have_every_op(void **state)
{
    (void)state;
    static const char *const names[] = {"ref", "cpu"};
    for (size_t i = 0; i < 2; i++) {
        proa_device *device = NULL;
        proa_error err;
        assert_int_equal(proa_device_create(names[i], 2, PROA_PRECISION_DEFAULT, &device, &err), PROA_OK);
        assert_string_equal(device->ops->name, names[i]);
        assert_int_equal(proa_pool_threads(device->host.pool), 2);
        /* the table is a name and function pointers alone */
        void (*op[(sizeof(proa_ops) - sizeof(char *)) / sizeof(void (*)(void))])(void);
        memcpy(op, (const char *)device->ops + sizeof(char *), sizeof op);
        for (size_t k = 0; k < sizeof op / sizeof *op; k++)
            assert_non_null(op[k]);
        proa_device_free(device);
    }
    proa_device_free(NULL);
}

static void an_unknown_device_is_named(void **state)
{
    (void)state;
    proa_device *device = NULL;
    proa_error err;
    assert_int_equal(proa_device_create("gpu", 1, PROA_PRECISION_EXACT, &device, &err), PROA_ERR_INVALID);
    assert_non_null(strstr(err.text, "\"gpu\""));
    assert_null(device);
}

static void scratch_grows_and_is_aligned(void **state)
{
    (void)state;
    proa_device *device = NULL;
    assert_int_equal(proa_device_create("cpu", 1, PROA_PRECISION_EXACT, &device, NULL), PROA_OK);
    assert_int_equal(proa_device_reserve(device, 1001, NULL), PROA_OK);
    assert_true(device->host.scratch_bytes >= 1001);
    assert_int_equal((uintptr_t)device->host.scratch % 64, 0);
    void *before = device->host.scratch;
    assert_int_equal(proa_device_reserve(device, 10, NULL), PROA_OK); /* never shrinks */
    assert_ptr_equal(device->host.scratch, before);
    proa_device_free(device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(host_devices_have_every_op),
        cmocka_unit_test(an_unknown_device_is_named),
        cmocka_unit_test(scratch_grows_and_is_aligned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
