/* bench_load.c - `proa bench load`: so many clients at once against a running server, each with its next request as soon as its
 * last one has ended (a closed loop), as SGLang's bench_serving does with --max-concurrency. Requests are streams of /generate with
 * random prompts and outputs of one length, so that only what happens between first byte and last is measured.
 *
 * Latency is from the request's start: time to first token (TTFT) and between tokens (ITL: the mean of a request's gaps). An answer
 * that is not a whole stream of the asked length is an error, counted and shown.
 */
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/random.h"
#include "cmd/bench.h"
#include "cmd/cmd.h"
#include "net/http_client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TIMEOUT_US = 120000000, IDS = 256, WARM_UP = 16 };

typedef struct load load;

/* One client. */
typedef struct asker {
    load *load;
    int64_t start_us;
    int64_t first_us;
    int64_t last_us;
    int64_t first_tokens; /* that came with the first event: several may share one */
    int64_t tokens;       /* so far, as the server counts them */
    bool closed;          /* "[DONE]" has come */
    proa_buf line;        /* at hand */
} asker;

struct load {
    proa_http_client *client;
    char url[1024];
    char authorization[512];
    int64_t total, started, done, errors, tokens;
    int64_t input, output;
    double *ttft_ms, *itl_ms, *latency_ms; /* [total] of those that are well */
    int64_t samples;
    asker *askers;
    proa_error error; /* the first */
};

/* ---- a request ---- */

static void write_body(const load *l, uint64_t number, proa_buf *body)
{
    proa_buf_append_text(body, "{\"input_ids\":[");
    for (int64_t i = 0; i < l->input; i++) {
        uint32_t words[4];
        proa_random_philox(number, (uint64_t)i, 7, words);
        proa_buf_append_format(body, "%s%u", i > 0 ? "," : "", words[0] % IDS);
    }
    proa_buf_append_format(
        body,
        "],\"stream\":true,\"sampling_params\":{\"max_new_tokens\":%lld,\"ignore_eos\":true,"
        "\"temperature\":0}}",
        (long long)l->output);
}

/* A line of the stream has ended: an event, or the end. */
static void take_line(asker *a)
{
    static const char count[] = "\"completion_tokens\":";
    const char *line = proa_buf_text(&a->line), *found = strstr(line, count);
    if (found != NULL) {
        a->last_us = proa_clock_us();
        a->tokens = strtoll(found + sizeof count - 1, NULL, 10);
        if (a->first_us == 0) {
            a->first_us = a->last_us;
            a->first_tokens = a->tokens;
        }
    }
    a->closed |= strcmp(line, "data: [DONE]") == 0;
    proa_buf_clear(&a->line);
}

static void on_data(void *context, const char *bytes, size_t length)
{
    asker *a = context;
    while (length > 0) {
        const char *end = memchr(bytes, '\n', length);
        size_t n = end != NULL ? (size_t)(end - bytes) : length;
        proa_buf_append(&a->line, bytes, n);
        if (end == NULL)
            return;
        take_line(a);
        bytes += n + 1;
        length -= n + 1;
    }
}

static void start_one(asker *a);

static void on_done(void *context, const proa_http_result *result)
{
    asker *a = context;
    load *l = a->load;
    bool good = result->status == PROA_OK && result->code == 200 && a->closed && a->tokens == l->output;
    l->done++;
    if (good) {
        int64_t later = a->tokens - a->first_tokens;
        l->tokens += a->tokens;
        l->ttft_ms[l->samples] = (double)(a->first_us - a->start_us) / 1e3;
        l->itl_ms[l->samples] = later > 0 ? (double)(a->last_us - a->first_us) / 1e3 / (double)later : 0;
        l->latency_ms[l->samples++] = (double)(proa_clock_us() - a->start_us) / 1e3;
    } else if (l->errors++ == 0) {
        proa_error_set(&l->error, PROA_ERR_PROTOCOL, "status %d, %lld of %lld tokens, %s: %.200s",
                       result->code, (long long)a->tokens, (long long)l->output,
                       a->closed ? "ended" : "not ended",
                       result->status != PROA_OK ? result->cause : result->body);
    }
    start_one(a);
}

static void start_one(asker *a)
{
    load *l = a->load;
    if (l->started == l->total)
        return;
    proa_buf body = {0};
    const char *header = l->authorization;
    write_body(l, (uint64_t)l->started++, &body);
    a->start_us = proa_clock_us();
    a->first_us = a->last_us = a->tokens = a->first_tokens = 0;
    a->closed = false;
    proa_buf_clear(&a->line);
    const proa_http_request request = {.url = l->url,
                                       .body = body.data,
                                       .length = body.length,
                                       .headers = &header,
                                       .header_count = *header != 0,
                                       .timeout_us = TIMEOUT_US,
                                       .data = on_data,
                                       .done = on_done,
                                       .context = a};
    proa_error err = {0};
    if (proa_http_client_start(l->client, &request, NULL, &err) != PROA_OK) {
        l->done++;
        l->errors++;
        l->error = err;
    }
    proa_buf_free(&body);
}

/* ---- results ---- */

static double percentile(double *sorted, int64_t count, int percent)
{
    return count > 0 ? sorted[(count - 1) * percent / 100] : 0;
}

static void print_times(const char *name, double *values, int64_t count, proa_json *json)
{
    proa_bench_sort(values, (size_t)count);
    double p50 = percentile(values, count, 50), p90 = percentile(values, count, 90),
           p99 = percentile(values, count, 99);
    printf("  %-10s %10.3f %10.3f %10.3f   ms\n", name, p50, p90, p99);
    proa_json *row = proa_json_new_object();
    proa_json_set(row, "p50_ms", proa_json_new_real(p50));
    proa_json_set(row, "p90_ms", proa_json_new_real(p90));
    proa_json_set(row, "p99_ms", proa_json_new_real(p99));
    proa_json_set(json, name, row);
}

static proa_status report(load *l, double seconds, const char *json_path, proa_error *err)
{
    proa_json *json = proa_json_new_object();
    double requests = (double)l->samples / seconds, tokens = (double)l->tokens / seconds;
    printf("%lld requests of %lld + %lld tokens in %.2f s: %.1f requests/s, %.0f tokens/s, %lld errors\n",
           (long long)l->done, (long long)l->input, (long long)l->output, seconds, requests, tokens,
           (long long)l->errors);
    printf("  %-10s %10s %10s %10s\n", "", "median", "90 %", "99 %");
    print_times("ttft", l->ttft_ms, l->samples, json);
    print_times("itl", l->itl_ms, l->samples, json);
    print_times("latency", l->latency_ms, l->samples, json);
    proa_json_set(json, "requests_per_second", proa_json_new_real(requests));
    proa_json_set(json, "tokens_per_second", proa_json_new_real(tokens));
    proa_json_set(json, "errors", proa_json_new_int(l->errors));
    proa_buf text = {0};
    proa_status status = PROA_OK;
    if (json_path != NULL) {
        proa_json_write(json, 1, &text);
        status = proa_file_write(json_path, proa_buf_text(&text), text.length, err);
    }
    proa_buf_free(&text);
    proa_json_free(json);
    return status;
}

/* ---- the run ---- */

static void run(load *l, int64_t clients, int64_t total)
{
    l->total = total;
    l->started = l->done = l->errors = l->tokens = l->samples = 0;
    for (int64_t i = 0; i < clients; i++) {
        l->askers[i].load = l;
        start_one(&l->askers[i]);
    }
    while (l->done < l->total)
        proa_http_client_run(l->client, -1, 100000); /* each call has its own deadline */
}

static proa_status prepare(load *l, const proa_options *o, int64_t clients, proa_error *err)
{
    const char *url = proa_options_string(o, "url"), *key = proa_options_string(o, "api-key");
    if (url == NULL)
        return proa_error_set(err, PROA_ERR_INVALID,
                              "bench load needs --url, a server's address: http://127.0.0.1:8000");
    size_t length = strlen(url);
    snprintf(l->url, sizeof l->url, "%s%s", url,
             length > 0 && url[length - 1] == '/' ? "generate" : "/generate");
    if (key != NULL)
        snprintf(l->authorization, sizeof l->authorization, "Authorization: Bearer %s", key);
    int64_t total = proa_options_int(o, "num-prompts");
    size_t room = (size_t)(total > WARM_UP ? total : WARM_UP);
    l->input = proa_options_int(o, "random-input-len");
    l->output = proa_options_int(o, "random-output-len");
    l->askers = calloc((size_t)clients, sizeof *l->askers);
    l->ttft_ms = calloc(room, sizeof *l->ttft_ms);
    l->itl_ms = calloc(room, sizeof *l->itl_ms);
    l->latency_ms = calloc(room, sizeof *l->latency_ms);
    if (l->askers == NULL || l->ttft_ms == NULL || l->itl_ms == NULL || l->latency_ms == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for %lld requests", (long long)total);
    return proa_http_client_create(NULL, &l->client, err);
}

int proa_cmd_bench_load(const proa_options *o)
{
    load l = {0};
    proa_error err = {0};
    int64_t clients = proa_options_int(o, "max-concurrency"), total = proa_options_int(o, "num-prompts");
    proa_status status = prepare(&l, o, clients, &err);
    if (status == PROA_OK) {
        run(&l, clients, WARM_UP);
        int64_t start = proa_clock_us();
        if (l.errors == 0)
            run(&l, clients, total);
        status = report(&l, (double)(proa_clock_us() - start) / 1e6, proa_options_string(o, "json"), &err);
    }
    if (status == PROA_OK && l.errors > 0)
        status = proa_error_set(&err, l.error.status, "%lld requests failed, the first: %s",
                                (long long)l.errors, l.error.text);
    proa_http_client_free(l.client);
    for (int64_t i = 0; l.askers != NULL && i < clients; i++)
        proa_buf_free(&l.askers[i].line);
    free(l.askers);
    free(l.ttft_ms);
    free(l.itl_ms);
    free(l.latency_ms);
    return status == PROA_OK ? PROA_EXIT_OK : proa_cmd_fail(&err);
}
