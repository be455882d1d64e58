/* endpoints.c - the endpoints that answer at once: models, health, metrics, information. */
#include "base/clock.h"
#include "base/json.h"
#include "serve/server_internal.h"

#include <string.h>

static void reply_json(proa_http_exchange *exchange, int status, proa_buf *body)
{
    proa_http_reply(exchange, status, "application/json", proa_buf_text(body), body->length);
    proa_buf_free(body);
}

static void write_text(const char *text, proa_buf *out)
{
    proa_json_write_string(text, strlen(text), out);
}

/* --- models --- */

static void write_model(const proa_server *server, proa_buf *out)
{
    const proa_serve_model *model = server->model;
    proa_buf_append_text(out, "{\"id\":");
    write_text(proa_server_model_name(server), out);
    proa_buf_append_text(out, ",\"object\":\"model\",\"created\":0,\"owned_by\":\"proa\",\"root\":");
    write_text(model != NULL ? model->path : proa_server_model_name(server), out);
    proa_buf_append_text(out, ",\"parent\":null,\"max_model_len\":");
    if (model != NULL)
        proa_buf_append_format(out, "%d}", model->limits.context_length);
    else
        proa_buf_append_text(out, "null}");
}

void proa_endpoint_models(proa_server *server, proa_http_exchange *exchange)
{
    proa_buf body = {0};
    proa_buf_append_text(&body, "{\"object\":\"list\",\"data\":[");
    write_model(server, &body);
    proa_buf_append_text(&body, "]}");
    reply_json(exchange, 200, &body);
}

static int hex_value(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* Is `encoded`, percent-decoded, `plain`? */
static bool decodes_to(const char *encoded, const char *plain)
{
    for (; *plain != 0; plain++) {
        char c = *encoded;
        if (c == '%' && hex_value(encoded[1]) >= 0 && hex_value(encoded[2]) >= 0) {
            c = (char)(hex_value(encoded[1]) << 4 | hex_value(encoded[2]));
            encoded += 2;
        }
        if (c != *plain || c == 0)
            return false;
        encoded++;
    }
    return *encoded == 0;
}

void proa_endpoint_model(proa_server *server, proa_http_exchange *exchange)
{
    const char *id = proa_http_exchange_request(exchange)->path + strlen("/v1/models/");
    if (!decodes_to(id, proa_server_model_name(server))) {
        proa_api_error error;
        proa_api_error_set(&error, 404, "model", "model_not_found",
                           "the model \"%.200s\" does not exist here; this server has \"%.200s\"", id,
                           proa_server_model_name(server));
        proa_http_reply_error(exchange, &error);
        return;
    }
    proa_buf body = {0};
    write_model(server, &body);
    reply_json(exchange, 200, &body);
}

/* --- health --- */

bool proa_server_check_health(const proa_server *server, proa_api_error *error)
{
    if (server->draining)
        return proa_api_error_set(error, 503, NULL, NULL, "the server is shutting down");
    if (server->model == NULL)
        return proa_api_error_set(error, 503, NULL, NULL, "the model is loading: try again later");
    if (server->device_lost)
        return proa_api_error_set(error, 503, NULL, NULL,
                                  "the engine has lost its device: start the server again");
    double stalled = (double)(proa_clock_us() - server->progress_us) / 1e6;
    if (stalled > server->options.stall_s)
        return proa_api_error_set(error, 503, NULL, NULL, "requests run, but no step was made for %.0f s",
                                  stalled);
    return true;
}

/* As Dynamo's frontend says it, which scripts parse: {"status", "endpoints", "instances"}. Scripts send requests once they count
 * enough instances, so none is shown before the model's files are here. */
static void reply_cluster_health(proa_server *server, proa_http_exchange *exchange)
{
    proa_api_error error;
    proa_buf instances = {0}, body = {0};
    bool healthy = proa_server_check_health(server, &error);
    if (server->model != NULL)
        healthy &= server->cluster.write_instances(server->cluster.context, &instances);
    else
        proa_buf_append_text(&instances, "[]");
    proa_buf_append_format(&body, "{\"status\":\"%s\",\"endpoints\":[\"generate\"],\"instances\":%s}",
                           healthy ? "healthy" : "unhealthy", proa_buf_text(&instances));
    proa_buf_free(&instances);
    reply_json(exchange, healthy ? 200 : 503, &body);
}

void proa_endpoint_health(proa_server *server, proa_http_exchange *exchange)
{
    proa_api_error error;
    proa_buf body = {0};
    if (server->cluster.write_instances != NULL) {
        reply_cluster_health(server, exchange);
        return;
    }
    if (proa_server_check_health(server, &error)) {
        proa_buf_append_text(&body, "{\"status\":\"ok\"}");
        reply_json(exchange, 200, &body);
    } else {
        proa_http_reply_error(exchange, &error);
    }
}

void proa_endpoint_ping(proa_server *server, proa_http_exchange *exchange)
{
    (void)server;
    proa_http_reply(exchange, 200, "text/plain; charset=utf-8", "", 0);
}

/* --- metrics and information --- */

static void get_stats(const proa_server *server, proa_engine_stats *stats)
{
    *stats = (proa_engine_stats){0};
    if (server->model != NULL)
        server->backend.get_stats(server->backend.context, stats);
}

void proa_endpoint_metrics(proa_server *server, proa_http_exchange *exchange)
{
    proa_engine_stats stats;
    get_stats(server, &stats);
    proa_http_stats http = proa_http_get_stats(server->http);
    proa_buf body = {0};
    proa_metrics_write(&server->metrics, &stats, &http, proa_server_model_name(server), &body);
    if (server->cluster.write_metrics != NULL)
        server->cluster.write_metrics(server->cluster.context, &body);
    proa_http_reply(exchange, 200, "text/plain; version=0.0.4; charset=utf-8", proa_buf_text(&body),
                    body.length);
    proa_buf_free(&body);
}

void proa_endpoint_model_info(proa_server *server, proa_http_exchange *exchange)
{
    const char *path = server->model != NULL ? server->model->path : "";
    proa_buf body = {0};
    proa_buf_append_text(&body, "{\"model_path\":");
    write_text(path, &body);
    proa_buf_append_text(&body, ",\"tokenizer_path\":");
    write_text(path, &body);
    proa_buf_append_text(&body, ",\"is_generation\":true,\"preferred_sampling_params\":null,"
                                "\"weight_version\":\"default\",\"has_image_understanding\":false,"
                                "\"has_audio_understanding\":false}");
    reply_json(exchange, 200, &body);
}

void proa_endpoint_server_info(proa_server *server, proa_http_exchange *exchange)
{
    proa_engine_stats stats;
    get_stats(server, &stats);
    const proa_serve_model *model = server->model;
    const char *kv_dtype = model != NULL ? model->kv_dtype : NULL;
    proa_buf body = {0};
    proa_buf_append_text(&body, "{\"model_path\":");
    write_text(model != NULL ? model->path : "", &body);
    proa_buf_append_text(&body, ",\"served_model_name\":");
    write_text(proa_server_model_name(server), &body);
    proa_buf_append_text(&body, ",\"version\":");
    write_text(server->options.version, &body);
    proa_buf_append_format(
        &body,
        ",\"status\":\"%s\",\"tp_size\":1,\"dp_size\":1,\"ep_size\":1,\"pp_size\":1,"
        "\"context_length\":%d,\"max_total_num_tokens\":%d,%s%s%s\"disaggregation_mode\":\"null\","
        "\"internal_states\":[{\"num_running_reqs\":%d,\"num_queue_reqs\":%d,"
        "\"last_gen_throughput\":%.3f}]}",
        model != NULL ? "ready" : "starting", model != NULL ? model->limits.context_length : 0,
        model != NULL ? model->kv_tokens : 0, kv_dtype != NULL ? "\"kv_cache_dtype\":\"" : "",
        kv_dtype != NULL ? kv_dtype : "", kv_dtype != NULL ? "\"," : "", stats.running, stats.queued,
        server->metrics.generated_per_second);
    reply_json(exchange, 200, &body);
}

/* Asks the backend only when it is idle: it would answer after its step, and the loop must not wait for that. */
static proa_status flush_cache(proa_server *server, proa_api_error *error)
{
    proa_engine_stats stats;
    get_stats(server, &stats);
    proa_status status = PROA_BUSY;
    if (server->model == NULL) {
        proa_api_error_set(error, 503, NULL, NULL, "the model is loading: try again later");
        return status;
    }
    if (stats.running == 0 && stats.queued == 0)
        status = server->backend.flush_cache(server->backend.context);
    if (status == PROA_BUSY)
        proa_api_error_set(error, 400, NULL, NULL,
                           "the cache is not flushed while requests run: try again later");
    else if (status != PROA_OK)
        proa_api_error_set(error, 503, NULL, NULL, "the cache was not flushed: %s", proa_status_name(status));
    return status;
}

void proa_endpoint_flush_cache(proa_server *server, proa_http_exchange *exchange)
{
    static const char body[] = "Cache flushed.\n";
    proa_api_error error;
    if (flush_cache(server, &error) == PROA_OK)
        proa_http_reply(exchange, 200, "text/plain; charset=utf-8", body, sizeof body - 1);
    else
        proa_http_reply_error(exchange, &error);
}

/* The workers are told; what they write, and where, they log. */
static void record(proa_server *server, proa_http_exchange *exchange, proa_wire_record action,
                   const char *done)
{
    proa_api_error error;
    proa_status status = PROA_ERR_UNSUPPORTED;
    if (server->backend.record != NULL)
        status = server->backend.record(server->backend.context, action);
    if (status == PROA_OK) {
        proa_http_reply(exchange, 200, "text/plain; charset=utf-8", done, strlen(done));
        return;
    }
    if (status == PROA_ERR_UNSUPPORTED)
        proa_api_error_set(
            &error, 400, NULL, NULL,
            "one process records with `proa eval --expert-load FILE`; these endpoints are for the "
            "workers of several ranks of a `proa frontend`");
    else
        proa_api_error_set(&error, 503, NULL, NULL, "the workers were not told: %s",
                           proa_status_name(status));
    proa_http_reply_error(exchange, &error);
}

void proa_endpoint_start_record(proa_server *server, proa_http_exchange *exchange)
{
    record(server, exchange, PROA_RECORD_START, "Start recording expert distribution.\n");
}

void proa_endpoint_stop_record(proa_server *server, proa_http_exchange *exchange)
{
    record(server, exchange, PROA_RECORD_STOP, "Stop recording expert distribution.\n");
}

void proa_endpoint_dump_record(proa_server *server, proa_http_exchange *exchange)
{
    record(
        server, exchange, PROA_RECORD_DUMP,
        "Dump expert distribution: rank 0 of each worker writes expert_distribution_recorder_TIME.json into "
        "its --expert-distribution-recorder-dir.\n");
}

void proa_endpoint_version(proa_server *server, proa_http_exchange *exchange)
{
    proa_buf body = {0};
    proa_buf_append_text(&body, "{\"version\":");
    write_text(server->options.version, &body);
    proa_buf_append_char(&body, '}');
    reply_json(exchange, 200, &body);
}
