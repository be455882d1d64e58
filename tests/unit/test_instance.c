/* test_instance.c - discovery's records: there and back, and what is refused. */
#include "cluster/instance.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

static const proa_instance sample = {.namespace_name = "dynamo",
                                     .component = "prefill",
                                     .endpoint = "generate",
                                     .id = 0x1234567890abc,
                                     .epoch = 0x89abcdef01234567,
                                     .address = "10.0.0.1:41000",
                                     .nats_subject = "dynamo_prefill.generate-1234567890abc"};

static void test_round_trip(void **state)
{
    (void)state;
    char key[512];
    proa_buf out = {0};
    proa_error err = {0};
    proa_instance back;
    proa_instance_key(&sample, key, sizeof key);
    assert_string_equal(key, "v1/instances/dynamo/prefill/generate/0001234567890abc");
    proa_instance_write(&sample, &out);
    assert_int_equal(proa_instance_parse(key, proa_buf_text(&out), out.length, &back, &err), PROA_OK);
    assert_memory_equal(&back, &sample, sizeof back);
    proa_buf_free(&out);
}

static void test_refused(void **state)
{
    (void)state;
    static const char key[] = "v1/instances/dynamo/prefill/generate/0000000000000001";
    static const struct {
        const char *value, *names;
    } table[] = {
        {"", "line"},
        {"[]", "component"},
        {"{\"component\":\"Pre/fill\"}", "component"},
        {"{\"component\":\"prefill\",\"endpoint\":\"generate\",\"namespace\":\"dynamo\",\"instance_id\":-1}",
         "instance_id"},
        {"{\"component\":\"prefill\",\"endpoint\":\"generate\",\"namespace\":\"dynamo\",\"instance_id\":1}",
         "transport"},
        {"{\"component\":\"prefill\",\"endpoint\":\"generate\",\"namespace\":\"dynamo\",\"instance_id\":1,"
         "\"transport\":{\"tcp\":\"a:1\"},\"epoch\":\"0000000000000000\"}",
         "epoch"},
        {"{\"component\":\"backend\",\"endpoint\":\"generate\",\"namespace\":\"dynamo\",\"instance_id\":1,"
         "\"transport\":{\"tcp\":\"a:1\"},\"epoch\":\"0000000000000001\"}",
         "belongs to"},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        proa_instance back;
        proa_error err = {0};
        assert_true(
            proa_failed(proa_instance_parse(key, table[i].value, strlen(table[i].value), &back, &err)));
        if (strstr(err.text, table[i].names) == NULL)
            fail_msg("row %zu: \"%s\" does not name %s", i, err.text, table[i].names);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_round_trip), cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
