/* metrics.c - histograms, counters and the page. */
#include "serve/metrics.h"

#include "base/file.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* SGLang's buckets, so that dashboards keep working. */
static const double seconds_bounds[] = {0.1, 0.2, 0.4, 0.6, 0.8, 1,   2,   4,   6,    8,    10,
                                        20,  40,  60,  80,  100, 200, 400, 600, 1200, 1800, 2400};
enum { FIRST_TOKEN_BOUNDS = 18 }; /* of seconds_bounds */
static const double token_bounds[] = {0.002, 0.004, 0.006, 0.008, 0.010, 0.015, 0.020, 0.025,
                                      0.030, 0.035, 0.040, 0.060, 0.080, 0.100, 0.200, 0.400,
                                      0.600, 0.800, 1,     2,     4,     6,     8};
static const double length_bounds[] = {1,    10,   50,   100,   200,   500,   1000,
                                       2000, 4000, 8000, 16000, 32000, 64000, 128000};

#define COUNT(array) ((int)(sizeof(array) / sizeof(array)[0]))

void proa_histogram_add(proa_histogram *histogram, double value)
{
    int i = 0;
    while (i < histogram->bound_count && value > histogram->bounds[i])
        i++;
    histogram->buckets[i]++;
    histogram->sum += value;
}

void proa_metrics_init(proa_metrics *metrics)
{
    *metrics = (proa_metrics){
        .time_to_first_token = {.bounds = seconds_bounds, .bound_count = FIRST_TOKEN_BOUNDS},
        .inter_token_latency = {.bounds = token_bounds, .bound_count = COUNT(token_bounds)},
        .request_latency = {.bounds = seconds_bounds, .bound_count = COUNT(seconds_bounds)},
        .prompt_tokens = {.bounds = length_bounds, .bound_count = COUNT(length_bounds)},
        .generation_tokens = {.bounds = length_bounds, .bound_count = COUNT(length_bounds)},
    };
}

void proa_metrics_count_response(proa_metrics *metrics, const char *endpoint, int status)
{
    for (int i = 0; i < metrics->response_kinds; i++) {
        proa_response_count *r = &metrics->responses[i];
        if (r->status == status && r->endpoint == endpoint) {
            r->count++;
            return;
        }
    }
    if (metrics->response_kinds < PROA_METRICS_RESPONSES_MAX)
        metrics->responses[metrics->response_kinds++] = (proa_response_count){endpoint, status, 1};
}

void proa_metrics_sample(proa_metrics *metrics, const proa_engine_stats *stats, int64_t now_us)
{
    double seconds = (double)(now_us - metrics->seen_us) / 1e6;
    if (seconds < 1)
        return;
    metrics->generated_per_second = (double)(stats->output_tokens - metrics->seen_tokens) / seconds;
    metrics->seen_tokens = stats->output_tokens;
    metrics->seen_us = now_us;
}

/* --- the page --- */

typedef struct page {
    proa_buf *out;
    const char *labels; /* model_name="...",engine_type="unified" */
} page;

static void headline(const page *p, const char *name, const char *type, const char *help)
{
    proa_buf_append_format(p->out, "# HELP proa:%s %s\n# TYPE proa:%s %s\n", name, help, name, type);
}

static void value(const page *p, const char *name, const char *type, const char *help, double number)
{
    headline(p, name, type, help);
    proa_buf_append_format(p->out, "proa:%s{%s} %.17g\n", name, p->labels, number);
}

static void histogram(const page *p, const char *name, const char *help, const proa_histogram *h)
{
    uint64_t total = 0;
    headline(p, name, "histogram", help);
    for (int i = 0; i <= h->bound_count; i++) {
        char bound[32] = "+Inf";
        if (i < h->bound_count)
            snprintf(bound, sizeof bound, "%g", h->bounds[i]);
        total += h->buckets[i];
        proa_buf_append_format(p->out, "proa:%s_bucket{%s,le=\"%s\"} %llu\n", name, p->labels, bound,
                               (unsigned long long)total);
    }
    proa_buf_append_format(p->out, "proa:%s_sum{%s} %.17g\nproa:%s_count{%s} %llu\n", name, p->labels, h->sum,
                           name, p->labels, (unsigned long long)total);
}

/* Backslash, quote and line feed are escaped in label values. */
static void append_label_value(const char *text, proa_buf *out)
{
    for (; *text != 0; text++) {
        if (*text == '\\' || *text == '"')
            proa_buf_append_char(out, '\\');
        if (*text == '\n')
            proa_buf_append_text(out, "\\n");
        else
            proa_buf_append_char(out, *text);
    }
}

/* The second number of /proc/self/statm, in pages. */
static size_t resident_bytes(void)
{
    proa_buf text = {0};
    unsigned long long pages = 0;
    if (proa_file_read("/proc/self/statm", 1000, &text, NULL) == PROA_OK) {
        const char *second = strchr(proa_buf_text(&text), ' ');
        pages = second != NULL ? strtoull(second, NULL, 10) : 0;
    }
    proa_buf_free(&text);
    return (size_t)pages * (size_t)sysconf(_SC_PAGESIZE);
}

static int open_descriptors(void)
{
    int count = -3; /* . and .. and the one that lists */
    DIR *folder = opendir("/proc/self/fd");
    if (folder == NULL)
        return 0;
    while (readdir(folder) != NULL)
        count++;
    closedir(folder);
    return count;
}

static void write_engine(const page *p, const proa_engine_stats *s)
{
    double capacity = (double)s->kv_blocks_total * PROA_KV_BLOCK_TOKENS;
    double used = (double)s->kv_blocks_used * PROA_KV_BLOCK_TOKENS;
    value(p, "num_running_reqs", "gauge", "Requests that take part in steps.", s->running);
    value(p, "num_queue_reqs", "gauge", "Requests that wait.", s->queued);
    value(p, "num_used_tokens", "gauge", "KV cache held by requests, in tokens of whole blocks.", used);
    value(p, "kv_evictable_tokens", "gauge", "KV cache held by the prefix cache alone.",
          (double)s->kv_blocks_cached * PROA_KV_BLOCK_TOKENS);
    value(p, "max_total_num_tokens", "gauge", "Capacity of the KV cache in tokens.", capacity);
    value(p, "token_usage", "gauge", "Used share of the KV cache.", capacity > 0 ? used / capacity : 0);
    value(p, "cache_hit_rate", "gauge", "Share of prompt tokens found in the prefix cache, since the start.",
          s->prompt_tokens > 0 ? (double)s->cached_tokens / (double)s->prompt_tokens : 0);
    value(p, "prompt_tokens_total", "counter", "Prompt tokens.", (double)s->prompt_tokens);
    value(p, "generation_tokens_total", "counter", "Generated tokens.", (double)s->output_tokens);
    value(p, "cached_tokens_total", "counter", "Prompt tokens found in the prefix cache.",
          (double)s->cached_tokens);
    value(p, "num_retracted_requests_total", "counter", "Requests put back for want of memory.",
          (double)s->retractions);
    value(p, "forward_steps_total", "counter", "Steps of the engine.", (double)s->steps);
    value(p, "forward_execution_seconds_total", "counter", "Time spent in steps.",
          (double)s->step_us_total / 1e6);
}

static void write_server(const page *p, const proa_metrics *m, const proa_http_stats *http)
{
    value(p, "gen_throughput", "gauge", "Generated tokens a second, lately.", m->generated_per_second);
    value(p, "num_requests_total", "counter", "Generations begun, one a choice.", (double)m->requests);
    value(p, "num_aborted_requests_total", "counter",
          "Generations cancelled, failed or left by their client.", (double)m->aborted);
    value(p, "http_connections", "gauge", "Open connections.", http->connections);
    value(p, "http_connections_total", "counter", "Accepted connections.", (double)http->accepted);
    value(p, "http_connections_refused_total", "counter", "Connections over the limit.",
          (double)http->refused);
    value(p, "http_request_body_bytes", "gauge", "Request bodies in memory.", (double)http->bodies_bytes);
    headline(p, "http_responses_total", "counter", "Responses by endpoint and status.");
    for (int i = 0; i < m->response_kinds; i++)
        proa_buf_append_format(
            p->out, "proa:http_responses_total{%s,endpoint=\"%s\",status_code=\"%d\"} %llu\n", p->labels,
            m->responses[i].endpoint, m->responses[i].status, (unsigned long long)m->responses[i].count);
    histogram(p, "time_to_first_token_seconds", "From a request's arrival to its first token.",
              &m->time_to_first_token);
    histogram(p, "inter_token_latency_seconds", "Between two tokens of a request.", &m->inter_token_latency);
    histogram(p, "e2e_request_latency_seconds", "From a request's arrival to its end.", &m->request_latency);
    histogram(p, "prompt_tokens_histogram", "Prompt tokens a request.", &m->prompt_tokens);
    histogram(p, "generation_tokens_histogram", "Generated tokens a request.", &m->generation_tokens);
    proa_buf_append_format(p->out,
                           "# HELP process_resident_memory_bytes Resident memory.\n"
                           "# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes %zu\n"
                           "# HELP process_open_fds Open file descriptors.\n"
                           "# TYPE process_open_fds gauge\nprocess_open_fds %d\n",
                           resident_bytes(), open_descriptors());
}

void proa_metrics_write(const proa_metrics *metrics, const proa_engine_stats *stats,
                        const proa_http_stats *http, const char *model_name, proa_buf *out)
{
    proa_buf labels = {0};
    proa_buf_append_text(&labels, "model_name=\"");
    append_label_value(model_name, &labels);
    proa_buf_append_text(&labels, "\",engine_type=\"unified\"");
    const page p = {out, proa_buf_text(&labels)};
    write_engine(&p, stats);
    write_server(&p, metrics, http);
    proa_buf_free(&labels);
}
