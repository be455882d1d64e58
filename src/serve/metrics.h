/* metrics.h - what /metrics shows, in Prometheus' text format. Names are SGLang's with the prefix proa:.
 *
 * Counted and written on the loop's thread alone.
 */
#ifndef PROA_SERVE_METRICS_H
#define PROA_SERVE_METRICS_H

#include "base/buf.h"
#include "engine/engine.h"
#include "serve/http.h"

enum { PROA_HISTOGRAM_BOUNDS_MAX = 32, PROA_METRICS_RESPONSES_MAX = 128 };

typedef struct proa_histogram {
    const double *bounds; /* ascending, +Inf left out */
    int bound_count;
    uint64_t buckets[PROA_HISTOGRAM_BOUNDS_MAX + 1]; /* not cumulative */
    double sum;
} proa_histogram;
void proa_histogram_add(proa_histogram *histogram, double value);

/* Responses of one endpoint with one status. `endpoint` is a literal. */
typedef struct proa_response_count {
    const char *endpoint;
    int status;
    uint64_t count;
} proa_response_count;

typedef struct proa_metrics {
    proa_histogram time_to_first_token;
    proa_histogram inter_token_latency;
    proa_histogram request_latency;
    proa_histogram prompt_tokens;
    proa_histogram generation_tokens;
    proa_response_count responses[PROA_METRICS_RESPONSES_MAX];
    int response_kinds;
    uint64_t requests;           /* generations begun, one a choice */
    uint64_t aborted;            /* cancelled, failed, or the client left */
    double generated_per_second; /* lately */
    uint64_t seen_tokens;        /* for it */
    int64_t seen_us;
} proa_metrics;

void proa_metrics_init(proa_metrics *metrics);
void proa_metrics_count_response(proa_metrics *metrics, const char *endpoint, int status);
/* Now and then, about once a second: updates generated_per_second. */
void proa_metrics_sample(proa_metrics *metrics, const proa_engine_stats *stats, int64_t now_us);

/* Appends the page. `model_name` becomes a label. */
void proa_metrics_write(const proa_metrics *metrics, const proa_engine_stats *stats,
                        const proa_http_stats *http, const char *model_name, proa_buf *out);

#endif
