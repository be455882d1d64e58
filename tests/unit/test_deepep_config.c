/* test_deepep_config.c - what --deepep-config takes, and the text of what it refuses. */
#include "cmd/deepep_config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#define PART(sms)                                                                                            \
    "{\"num_sms\": " sms                                                                                     \
    ", \"num_max_nvl_chunked_send_tokens\": 6, \"num_max_rdma_chunked_recv_tokens\": 128}"

static void texts(void **state)
{
    static const struct {
        const char *given, *says; /* NULL: taken */
    } table[] = {
        {"{\"normal_dispatch\": " PART("24") ", \"normal_combine\": " PART("24") "}", NULL},
        {" {\"normal_dispatch\": {\"num_sms\": 8}, \"normal_combine\": {\"num_sms\": 8}, \"comment\": 1}",
         NULL},
        {"{\"normal_dispatch\": " PART("24") ", \"normal_combine\": " PART("20") "}",
         "num_sms is 24 and normal_combine.num_sms 20"},
        {"{\"normal_dispatch\": " PART("24") "}", "\"normal_combine\" must be there"},
        {"{\"normal_dispatch\": 3, \"normal_combine\": {}}",
         "\"normal_dispatch\" must be there and be an object"},
        {"{\"normal_dispatch\": {}, \"normal_combine\": {}}", "normal_dispatch.num_sms is missing"},
        {"{\"normal_dispatch\": {\"num_sms\": 0}, \"normal_combine\": {\"num_sms\": 0}}",
         "must be an integer from 1 on"},
        {"{\"normal_dispatch\": {\"num_sms\": 2.5}, \"normal_combine\": {\"num_sms\": 2}}",
         "must be an integer from 1 on"},
        {"{\"normal_dispatch\": {\"num_sm\": 2}, \"normal_combine\": {\"num_sms\": 2}}",
         "normal_dispatch.num_sm is no setting"},
        {"{\"normal_dispatch\": ", "line 1"},
        {"/nowhere/deepep.json", "/nowhere/deepep.json"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        proa_error err = {0};
        proa_status status = proa_deepep_config_check(table[i].given, &err);
        if (table[i].says == NULL)
            assert_int_equal(status, PROA_OK);
        else if (status == PROA_OK || strstr(err.text, table[i].says) == NULL)
            fail_msg("%s: \"%s\" does not say \"%s\"", table[i].given, err.text, table[i].says);
    }
}

static void a_file(void **state)
{
    char path[] = "/tmp/test_deepep_config.XXXXXX";
    const char *text = "{\"normal_dispatch\": {\"num_sms\": 8}, \"normal_combine\": {\"num_sms\": 9}}";
    proa_error err = {0};
    int fd = mkstemp(path);
    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    assert_int_equal(proa_deepep_config_check(path, &err), PROA_ERR_INVALID);
    assert_non_null(strstr(err.text, "they must be the same"));
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(texts), cmocka_unit_test(a_file)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
