/* deepep_config.c - see deepep_config.h. */
#include "cmd/deepep_config.h"

#include "base/json.h"

#include <inttypes.h>
#include <stdint.h>
#include <string.h>

enum { FILE_BYTES_MAX = 1 << 20 };

static const char *const settings[] = {
    "num_sms",
    "num_max_nvl_chunked_send_tokens",
    "num_max_nvl_chunked_recv_tokens",
    "num_max_rdma_chunked_send_tokens",
    "num_max_rdma_chunked_recv_tokens",
};

enum { SETTINGS = sizeof settings / sizeof *settings };

static bool is_setting(const char *key)
{
    for (int i = 0; i < SETTINGS; i++)
        if (strcmp(key, settings[i]) == 0)
            return true;
    return false;
}

static proa_status check_part(const proa_json *whole, const char *name, int64_t *num_sms, proa_error *err)
{
    const proa_json *part = proa_json_get(whole, name);
    if (!proa_json_is(part, PROA_JSON_OBJECT))
        return proa_error_set(err, PROA_ERR_INVALID, "--deepep-config: \"%s\" must be there and be an object",
                              name);
    for (void *it = proa_json_first(part); it != NULL; it = proa_json_next(part, it)) {
        const char *key = proa_json_key(it);
        if (!is_setting(key))
            return proa_error_set(err, PROA_ERR_INVALID,
                                  "--deepep-config: %s.%s is no setting of DeepEP: num_sms and "
                                  "num_max_{nvl,rdma}_chunked_{send,recv}_tokens are",
                                  name, key);
        if (!proa_json_is(proa_json_value(it), PROA_JSON_INT) || proa_json_int(proa_json_value(it), 0) < 1)
            return proa_error_set(err, PROA_ERR_INVALID,
                                  "--deepep-config: %s.%s must be an integer from 1 on", name, key);
    }
    *num_sms = proa_json_int(proa_json_get(part, "num_sms"), 0);
    if (*num_sms == 0)
        return proa_error_set(err, PROA_ERR_INVALID, "--deepep-config: %s.num_sms is missing", name);
    return PROA_OK;
}

static proa_status check_whole(const proa_json *whole, proa_error *err)
{
    int64_t dispatch = 0, combine = 0;
    if (!proa_json_is(whole, PROA_JSON_OBJECT))
        return proa_error_set(err, PROA_ERR_INVALID, "--deepep-config must be a JSON object");
    proa_status status = check_part(whole, "normal_dispatch", &dispatch, err);
    if (status == PROA_OK)
        status = check_part(whole, "normal_combine", &combine, err);
    if (status == PROA_OK && dispatch != combine)
        status = proa_error_set(err, PROA_ERR_INVALID,
                                "--deepep-config: normal_dispatch.num_sms is %" PRId64
                                " and normal_combine.num_sms %" PRId64 ": they must be the same",
                                dispatch, combine);
    return status;
}

proa_status proa_deepep_config_check(const char *given, proa_error *err)
{
    const char *text = given + strspn(given, " \t\r\n");
    proa_json *whole = *text == '{' ? proa_json_parse(text, strlen(text), err)
                                    : proa_json_parse_file(given, FILE_BYTES_MAX, err);
    if (whole == NULL)
        return proa_error_prefix(err, "--deepep-config");
    proa_status status = check_whole(whole, err);
    proa_json_free(whole);
    return status;
}
