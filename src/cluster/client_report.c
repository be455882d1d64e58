/* client_report.c - what other threads see of the workers: sums of their loads, /health's instances, metrics. The loop copies
 * it under the lock whenever it changes. */
#include "base/json.h"
#include "cluster/client_internal.h"

#include <inttypes.h>
#include <string.h>

/* ---- the loop's thread ---- */

void proa_client_show(client_worker *worker)
{
    proa_client *client = worker->client;
    if (client->changed)
        proa_client_publish(client); /* first: whoever sees a worker ready may send it a request */
    pthread_mutex_lock(&client->lock);
    client->shown[worker->number] = (client_shown){
        .used = true,
        .state = worker->state,
        .leg = (proa_wire_leg)worker->card.leg,
        .draining = worker->load.draining,
        .instance = worker->instance,
        .load = worker->load,
        .requests = worker->requests,
        .worker_id = worker->card.worker_id,
        .dp_rank = worker->card.dp_rank,
        .dp_size = worker->card.dp_size,
    };
    pthread_mutex_unlock(&client->lock);
}

/* Adds what only ever grows. */
static void add_counters(proa_wire_load *sum, const proa_wire_load *load)
{
    sum->transfers += load->transfers;
    sum->transfer_bytes += load->transfer_bytes;
    sum->transfer_us += load->transfer_us;
    sum->transfers_failed += load->transfers_failed;
    sum->stats.prompt_tokens += load->stats.prompt_tokens;
    sum->stats.cached_tokens += load->stats.cached_tokens;
    sum->stats.output_tokens += load->stats.output_tokens;
    sum->stats.steps += load->stats.steps;
    sum->stats.retractions += load->stats.retractions;
    sum->stats.requests_finished += load->stats.requests_finished;
    sum->stats.requests_aborted += load->stats.requests_aborted;
    sum->stats.step_us_total += load->stats.step_us_total;
}

void proa_client_hide(client_worker *worker)
{
    proa_client *client = worker->client;
    pthread_mutex_lock(&client->lock);
    add_counters(&client->gone, &worker->load);
    client->shown[worker->number] = (client_shown){0};
    pthread_mutex_unlock(&client->lock);
}

/* Under lock. */
static proa_wire_load sum(const proa_client *client)
{
    proa_wire_load all = client->gone;
    for (int32_t i = 0; i < CLIENT_WORKERS_MAX; i++) {
        const client_shown *s = &client->shown[i];
        if (!s->used)
            continue;
        add_counters(&all, &s->load);
        all.rooms += s->load.rooms;
        all.quarantined += s->load.quarantined;
        all.stats.running += s->load.stats.running;
        all.stats.queued += s->load.stats.queued;
        all.stats.kv_blocks_total += s->load.stats.kv_blocks_total;
        all.stats.kv_blocks_used += s->load.stats.kv_blocks_used;
        all.stats.kv_blocks_cached += s->load.stats.kv_blocks_cached;
        all.stats.kv_blocks_lent += s->load.stats.kv_blocks_lent;
        if (s->load.stats.last_step_us > all.stats.last_step_us)
            all.stats.last_step_us = s->load.stats.last_step_us;
    }
    return all;
}

void proa_client_publish(proa_client *client)
{
    proa_error none = {0};
    int32_t room = proa_router_room(client->router, &none);
    pthread_mutex_lock(&client->lock);
    client->room = room;
    client->no_room = none;
    client->pending -= client->begun_count;
    client->published = client->counts;
    pthread_mutex_unlock(&client->lock);
    client->begun_count = 0;
    client->changed = false;
}

/* ---- any thread ---- */

void proa_client_get_stats(proa_client *client, proa_engine_stats *stats)
{
    pthread_mutex_lock(&client->lock);
    *stats = sum(client).stats;
    pthread_mutex_unlock(&client->lock);
}

static const char *const leg_names[] = {"combined", "prefill", "decode"};

static const char *status_of(const client_shown *s)
{
    static const char *const names[CLIENT_WORKER_STATES] = {"down", "connecting", "connecting", "ready",
                                                            "refused"};
    if (s->state != CLIENT_WORKER_READY)
        return names[s->state];
    return s->load.stats.device_lost ? "dead"
           : s->draining             ? "draining"
           : s->load.stats.away      ? "away"
                                     : "ready";
}

static void write_field(const char *name, const char *text, proa_buf *out)
{
    proa_buf_append_format(out, ",\"%s\":", name);
    proa_json_write_string(text, strlen(text), out);
}

static void write_instance(const client_shown *s, proa_buf *out)
{
    const proa_engine_stats *stats = &s->load.stats;
    const char *component = s->leg == PROA_LEG_PREFILL ? "prefill" : "backend";
    double used = stats->kv_blocks_total > 0 ? (double)stats->kv_blocks_used / stats->kv_blocks_total : 0;
    proa_buf_append_format(out, "{\"component\":\"%s\"", component);
    write_field("endpoint", s->instance.endpoint, out);
    proa_buf_append_format(out, ",\"instance_id\":%" PRIu64, s->instance.id);
    write_field("namespace", s->instance.namespace_name, out);
    proa_buf_append_text(out, ",\"transport\":{\"tcp\":");
    proa_json_write_string(s->instance.address, strlen(s->instance.address), out);
    proa_buf_append_char(out, '}');
    if (s->worker_id != 0)
        proa_buf_append_format(out, ",\"worker_id\":\"%016" PRIx64 "\",\"dp_rank\":%d,\"dp_size\":%d",
                               s->worker_id, s->dp_rank, s->dp_size);
    proa_buf_append_format(
        out, ",\"status\":\"%s\",\"leg\":\"%s\",\"running\":%d,\"queued\":%d,\"kv_usage\":%.3f}",
        status_of(s), leg_names[s->leg], stats->running, stats->queued, used);
}

/* Workers that are connected: what counts `instances` waits for ones that can serve. */
bool proa_client_write_instances(proa_client *client, proa_buf *out)
{
    bool first = true;
    proa_buf_append_char(out, '[');
    pthread_mutex_lock(&client->lock);
    for (int32_t i = 0; i < CLIENT_WORKERS_MAX; i++) {
        const client_shown *s = &client->shown[i];
        if (!s->used || s->state != CLIENT_WORKER_READY)
            continue;
        if (!first)
            proa_buf_append_char(out, ',');
        first = false;
        write_instance(s, out);
    }
    /* full is not broken: it is served later */
    bool serves = client->room > 0 || client->no_room.status == PROA_ERR_OVERLOADED;
    pthread_mutex_unlock(&client->lock);
    proa_buf_append_char(out, ']');
    return serves;
}

static void write_metric(proa_buf *out, const char *name, const char *type, const char *help, double value)
{
    proa_buf_append_format(out, "# HELP proa:%s %s\n# TYPE proa:%s %s\nproa:%s %.17g\n", name, help, name,
                           type, name, value);
}

/* Under lock: how many workers of each leg and status there are. */
static void write_workers(const proa_client *client, proa_buf *out)
{
    static const char *const statuses[] = {"ready", "draining", "dead", "connecting", "down", "refused"};
    proa_buf_append_text(out,
                         "# HELP proa:cluster_workers Workers known, by what they are for (connected ones) "
                         "and how they stand.\n# TYPE proa:cluster_workers gauge\n");
    for (size_t k = 0; k < sizeof statuses / sizeof statuses[0]; k++) {
        int counts[3] = {0};
        for (int32_t i = 0; i < CLIENT_WORKERS_MAX; i++) {
            const client_shown *s = &client->shown[i];
            if (s->used && strcmp(status_of(s), statuses[k]) == 0)
                counts[s->leg]++;
        }
        if (k >= 3) {
            proa_buf_append_format(out, "proa:cluster_workers{leg=\"any\",status=\"%s\"} %d\n", statuses[k],
                                   counts[0] + counts[1] + counts[2]);
            continue;
        }
        for (int leg = 0; leg < 3; leg++)
            proa_buf_append_format(out, "proa:cluster_workers{leg=\"%s\",status=\"%s\"} %d\n", leg_names[leg],
                                   statuses[k], counts[leg]);
    }
}

/* Under lock: how requests spread over workers and their dp ranks. */
static void write_spread(const proa_client *client, proa_buf *out)
{
    proa_buf_append_text(out, "# HELP proa:instance_requests_total Requests sent to each connected instance, "
                              "a hand-off at both ends.\n# TYPE proa:instance_requests_total counter\n");
    for (int32_t i = 0; i < CLIENT_WORKERS_MAX; i++) {
        const client_shown *s = &client->shown[i];
        if (!s->used || s->state != CLIENT_WORKER_READY)
            continue;
        proa_buf_append_format(out,
                               "proa:instance_requests_total{leg=\"%s\",instance=\"%016" PRIx64
                               "\",worker=\"%016" PRIx64 "\",dp_rank=\"%d\"} %" PRIu64 "\n",
                               leg_names[s->leg], s->instance.id,
                               s->worker_id != 0 ? s->worker_id : s->instance.id, s->dp_rank, s->requests);
    }
}

void proa_client_write_metrics(proa_client *client, proa_buf *out)
{
    pthread_mutex_lock(&client->lock);
    write_workers(client, out);
    write_spread(client, out);
    proa_wire_load all = sum(client);
    client_counts counts = client->published;
    pthread_mutex_unlock(&client->lock);
    const struct {
        const char *name, *type, *help;
        double value;
    } rows[] = {
        {"cluster_requests_total", "counter", "Requests sent to workers.", (double)counts.requests},
        {"cluster_migrations_total", "counter", "Replays of requests on other workers.",
         (double)counts.migrations},
        {"cluster_failures_total", "counter", "Requests that no worker could finish.",
         (double)counts.failures},
        {"cluster_links_lost_total", "counter", "Links to ready workers that were lost.",
         (double)counts.links_lost},
        {"cluster_nats_requests_total", "counter", "Requests given to nats-server.", (double)counts.by_nats},
        {"cluster_nats_relayed_total", "counter",
         "Requests given to nats-server that the link took in the end.", (double)counts.relayed},
        {"kv_transfers_total", "counter", "Hand-offs of KV rows from prefill to decode workers.",
         (double)all.transfers},
        {"kv_transfers_failed_total", "counter", "Hand-offs that failed.", (double)all.transfers_failed},
        {"kv_transfer_bytes_total", "counter", "Bytes of KV rows handed over.", (double)all.transfer_bytes},
        {"kv_transfer_seconds_total", "counter", "Time from first write to last completion, over hand-offs.",
         (double)all.transfer_us / 1e6},
        {"kv_rooms", "gauge", "Hand-offs under way, counted at both ends.", all.rooms},
        {"kv_blocks_quarantined", "gauge", "KV blocks that wait for a silent peer.", all.quarantined},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        write_metric(out, rows[i].name, rows[i].type, rows[i].help, rows[i].value);
}
