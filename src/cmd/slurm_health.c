/* slurm_health.c - asks frontends how many ranks they can use; `proa slurm wait`, the step of a job that says when all are there. */
#include "cmd/slurm.h"

#include "base/clock.h"
#include "cmd/cmd.h"
#include "net/http_client.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { ANSWER_BYTES_MAX = 64 << 20, ASK_SECONDS = 5, SAY_SECONDS = 10, NAP_US = 500000 };

/* check_server_health.py's count: instances of the endpoint "generate" by component, of ours those that are ready. */
static void count(proa_slurm_health *health)
{
    const proa_json *instances = proa_json_get(health->answer, "instances");
    health->prefill = health->decode = 0;
    for (size_t i = 0; i < proa_json_size(instances); i++) {
        const proa_json *one = proa_json_at(instances, i);
        const char *component = proa_json_string(proa_json_get(one, "component"), "");
        if (strcmp(proa_json_string(proa_json_get(one, "endpoint"), ""), "generate") != 0 ||
            strcmp(proa_json_string(proa_json_get(one, "status"), "ready"), "ready") != 0)
            continue;
        health->prefill += strcmp(component, "prefill") == 0;
        health->decode += strcmp(component, "backend") == 0;
    }
}

proa_status proa_slurm_ask_health(const char *url, double seconds, proa_slurm_health *health, proa_error *err)
{
    char whole[512];
    int code;
    proa_buf body = {0};
    proa_http_client *client = NULL;
    *health = (proa_slurm_health){0};
    if (snprintf(whole, sizeof whole, "%s/health", url) >= (int)sizeof whole)
        return proa_error_set(err, PROA_ERR_TOO_LONG, "a URL of more than %zu bytes", sizeof whole);
    proa_http_request request = {
        .url = whole, .timeout_us = (int64_t)(seconds * 1e6), .body_limit = ANSWER_BYTES_MAX};
    proa_status status = proa_http_client_create(NULL, &client, err);
    if (status == PROA_OK)
        status = proa_http_client_fetch(client, &request, &code, &body, err);
    if (status == PROA_OK && (health->answer = proa_json_parse(body.data, body.length, err)) == NULL)
        status = proa_error_prefix(err, "%s", whole);
    if (status == PROA_OK) {
        health->healthy = code == 200;
        count(health);
    }
    proa_http_client_free(client);
    proa_buf_free(&body);
    return status;
}

typedef struct wanted {
    int prefill;
    int decode;
} wanted;

/* Whether the frontend can use all; else what is missing, as check_server_health.py says it. */
static bool ready(const char *url, const wanted *w, char *why, size_t bytes)
{
    proa_slurm_health health;
    proa_error err = {0};
    if (proa_slurm_ask_health(url, ASK_SECONDS, &health, &err) != PROA_OK) {
        snprintf(why, bytes, "no frontend answers yet: %s", err.text);
        return false;
    }
    proa_json_free(health.answer);
    int prefill = w->prefill - health.prefill, decode = w->decode - health.decode;
    snprintf(why, bytes,
             "Model is not ready, waiting for %d prefills and %d decodes to spin up (%d of %d and %d of %d "
             "are there, %s says)",
             prefill > 0 ? prefill : 0, decode > 0 ? decode : 0, health.prefill, w->prefill, health.decode,
             w->decode, url);
    return health.healthy && prefill <= 0 && decode <= 0;
}

/* Whether all of the URLs are ready; `why` is of the first that is not. */
static bool all_ready(const char *urls, const wanted *w, char *why, size_t bytes)
{
    char url[512];
    for (const char *rest = urls; *rest != '\0';) {
        size_t length = strcspn(rest, ",");
        snprintf(url, sizeof url, "%.*s", (int)length, rest);
        if (length > 0 && !ready(url, w, why, bytes))
            return false;
        rest += length + (rest[length] == ',');
    }
    return true;
}

int proa_cmd_slurm_wait(const proa_options *options)
{
    char why[1600] = "", said[1600] = "";
    const char *urls = proa_options_string(options, "url");
    const wanted w = {(int)proa_options_int(options, "prefill-instances"),
                      (int)proa_options_int(options, "decode-instances")};
    double seconds = (double)proa_options_int(options, "health-timeout");
    int64_t begin_us = proa_clock_us(), said_us = 0;
    if (urls == NULL) {
        fputs("proa: slurm wait needs --url: the frontends, with commas between\n", stderr);
        return PROA_EXIT_USAGE;
    }
    while (!all_ready(urls, &w, why, sizeof why)) {
        int64_t now_us = proa_clock_us();
        if ((double)(now_us - begin_us) > seconds * 1e6) {
            fprintf(stderr, "proa: not healthy after %.0f s: %s\n", seconds, why);
            return PROA_EXIT_FAILED;
        }
        if (strcmp(why, said) != 0 && (said_us == 0 || now_us - said_us > SAY_SECONDS * 1000000LL)) {
            printf("%s\n", why);
            fflush(stdout);
            strcpy(said, why);
            said_us = now_us;
        }
        usleep(NAP_US);
    }
    printf("Model is ready: %d prefill and %d decode instances after %.0f s\n", w.prefill, w.decode,
           (double)(proa_clock_us() - begin_us) / 1e6);
    return PROA_EXIT_OK;
}
