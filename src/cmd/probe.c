/* probe.c - see probe.h. */
#include "cmd/probe.h"

#include "base/clock.h"
#include "net/http_client.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FETCH_US = 2000000, LINK_US = 3000000, CARD_US = 500000, TICK_US = 10000 };

/* ---- HTTP ---- */

typedef struct fetched {
    bool done;
    proa_status status;
    int code;
    int64_t us;
    proa_json *json;
    proa_error *err;
} fetched;

static void on_done(void *context, const proa_http_result *result)
{
    fetched *f = context;
    f->done = true;
    f->status = result->status;
    f->code = result->code;
    f->us = result->us;
    if (result->status == PROA_OK)
        f->json = proa_json_parse(result->body, result->length, NULL);
    else if (f->err != NULL)
        *f->err = *result->error;
}

proa_status proa_probe_fetch(const char *url, const char *body, int *code, int64_t *us, proa_json **json,
                             proa_error *err)
{
    proa_http_client *client = NULL;
    fetched f = {.err = err};
    const proa_http_request request = {.url = url,
                                       .body = body,
                                       .length = body != NULL ? strlen(body) : 0,
                                       .connect_timeout_us = FETCH_US,
                                       .timeout_us = FETCH_US,
                                       .done = on_done,
                                       .context = &f};
    *json = NULL;
    proa_status status = proa_http_client_create(NULL, &client, err);
    if (status == PROA_OK)
        status = proa_http_client_start(client, &request, NULL, err);
    while (status == PROA_OK && !f.done)
        proa_http_client_run(client, -1, FETCH_US);
    proa_http_client_free(client);
    if (status == PROA_OK)
        status = f.status;
    *code = f.code;
    *us = f.us;
    *json = f.json;
    return status;
}

static proa_status probe_http(const char *base, proa_probe *probe, proa_error *err)
{
    char url[600];
    proa_json *json = NULL;
    if ((size_t)snprintf(url, sizeof url, "%s/health", base) >= sizeof url)
        return proa_error_set(err, PROA_ERR_TOO_LONG, "\"%.40s...\" is too long for an address", base);
    proa_status status = proa_probe_fetch(url, NULL, &probe->code, &probe->us, &json, err);
    const proa_json *instances = proa_json_get(json, "instances");
    probe->is_link = false;
    probe->instances = instances != NULL ? (int64_t)proa_json_size(instances) : -1;
    probe->serves = status == PROA_OK && probe->code == 200;
    proa_json_free(json);
    return status;
}

/* ---- links ---- */

typedef struct call {
    proa_loop *loop;
    proa_link *link;
    int64_t start_us, end_us;
    bool up;
    proa_probe *probe;
    proa_error why;
} call;

static void on_up(void *context, proa_link *link)
{
    call *c = context;
    int64_t now_us = proa_clock_us();
    c->up = true;
    c->probe->us = now_us - c->start_us;
    c->end_us = now_us + CARD_US; /* a bootstrap port sends none */
    c->probe->peer = *proa_link_peer(link);
}

static void on_message(void *context, proa_link *link, uint16_t type, const uint8_t *body, size_t length)
{
    call *c = context;
    (void)link;
    if (type != PROA_WIRE_CARD)
        return;
    c->probe->has_card = proa_wire_get_card(body, length, &c->probe->card, &c->why);
    proa_loop_stop(c->loop);
}

static void on_down(void *context, proa_link *link, const proa_error *why)
{
    call *c = context;
    (void)link;
    c->link = NULL;
    c->why = *why;
    proa_loop_stop(c->loop);
}

static void on_tick(void *context)
{
    call *c = context;
    if (proa_clock_us() < c->end_us)
        return;
    if (!c->up)
        proa_error_set(&c->why, PROA_ERR_DEADLINE, "no handshake within %d s", LINK_US / 1000000);
    proa_loop_stop(c->loop);
}

static proa_status dial(const proa_link_security *security, const char *address, proa_probe *probe,
                        proa_error *err)
{
    call c = {.probe = probe};
    const proa_link_identity self = proa_link_identity_draw("doctor");
    const proa_link_hooks hooks = {.up = on_up, .message = on_message, .down = on_down, .context = &c};
    proa_status status = proa_loop_create(NULL, NULL, &c.loop, err);
    if (status != PROA_OK)
        return status;
    c.start_us = proa_clock_us();
    c.end_us = c.start_us + LINK_US;
    if (proa_loop_add_timer(c.loop, TICK_US, on_tick, &c) == NULL)
        status = proa_error_set(err, PROA_ERR_MEMORY, "no memory for a timer");
    if (status == PROA_OK)
        status = proa_link_dial(c.loop, security, &self, address, &hooks, NULL, &c.link, err);
    if (status == PROA_OK)
        proa_loop_run(c.loop);
    proa_link_close(c.link);
    proa_loop_free(c.loop);
    if (status == PROA_OK && !c.up) {
        *err = c.why;
        status = err->status;
    }
    probe->is_link = probe->serves = status == PROA_OK;
    return status;
}

static proa_status probe_link(const proa_options *o, const char *address, proa_probe *probe, proa_error *err)
{
    char *key = NULL;
    proa_status status = proa_link_read_key(proa_options_string(o, "cluster-key"),
                                            proa_options_string(o, "cluster-key-file"), &key, err);
    const proa_link_security security = {.key = key,
                                         .tls_cert_path = proa_options_string(o, "cluster-tls-cert"),
                                         .tls_key_path = proa_options_string(o, "cluster-tls-key"),
                                         .tls_ca_path = proa_options_string(o, "cluster-tls-ca")};
    if (status == PROA_OK)
        status = dial(&security, address, probe, err);
    if (key != NULL)
        explicit_bzero(key, strlen(key));
    free(key);
    return status;
}

/* ---- both ---- */

proa_status proa_probe_address(const proa_options *options, const char *address, proa_probe *probe,
                               proa_error *err)
{
    char base[540];
    proa_error http = {0};
    *probe = (proa_probe){.instances = -1};
    if (strncmp(address, "http://", 7) == 0 || strncmp(address, "https://", 8) == 0)
        return probe_http(address, probe, err);
    proa_status status = probe_link(options, address, probe, err);
    if (status == PROA_OK)
        return PROA_OK;
    snprintf(base, sizeof base, "http://%s", address);
    return probe_http(base, probe, &http) == PROA_OK ? PROA_OK : status;
}

void proa_probe_describe(const proa_probe *p, char *text, size_t bytes)
{
    static const char *const legs[] = {"prefill and decode", "prefill", "decode"};
    double ms = (double)p->us / 1000;
    char workers[40] = ""; /* `proa serve` needs none elsewhere */
    if (p->instances >= 0)
        snprintf(workers, sizeof workers, ", workers: %" PRId64, p->instances);
    if (!p->is_link && p->serves)
        snprintf(text, bytes, "a server by HTTP, healthy%s, %.1f ms", workers, ms);
    else if (!p->is_link)
        snprintf(text, bytes, "a server by HTTP, whose /health has status %d%s", p->code, workers);
    else if (!p->has_card)
        snprintf(text, bytes, "%s (%s), epoch %016" PRIx64 ", handshake in %.1f ms", p->peer.role,
                 p->peer.name, p->peer.epoch, ms);
    else
        snprintf(text, bytes,
                 "worker for %s (%s), epoch %016" PRIx64
                 ", model %s, %d requests at a time%s, handshake in %.1f ms",
                 legs[p->card.leg], p->peer.name, p->peer.epoch, p->card.model_name, p->card.running_max,
                 p->card.draining ? ", draining" : "", ms);
}
