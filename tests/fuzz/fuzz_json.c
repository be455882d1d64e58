/* fuzz_json.c - any bytes: a JSON value is parsed, written and parsed again to the same text, or refused. */
#include "base/json.h"

#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    proa_error err;
    proa_json *value = proa_json_parse((const char *)data, size, &err);
    if (value == NULL)
        return 0;
    proa_buf once = {0}, twice = {0};
    proa_json_write(value, 0, &once);
    proa_json *again = proa_json_parse(once.data, once.length, &err);
    PROA_ASSERT(again != NULL);
    proa_json_write(again, 0, &twice);
    PROA_ASSERT(once.length == twice.length);
    PROA_ASSERT(memcmp(once.data, twice.data, once.length) == 0);
    proa_buf_free(&once);
    proa_buf_free(&twice);
    proa_json_free(value);
    proa_json_free(again);
    return 0;
}
