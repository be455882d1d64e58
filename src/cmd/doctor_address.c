/* doctor_address.c - is there a worker or a frontend at an address, and would it let this one in?
 *
 * Workers listen for links: the handshake proves the cluster key both ways and tells the other end's role and epoch, and a worker's
 * first message is its card. Frontends listen for HTTP alone. "host:port" is tried as the first and then as the second;
 * "http://host:port" as the second only.
 */
#include "cmd/doctor.h"

#include "base/clock.h"
#include "cluster/wire.h"
#include "cmd/cluster_flags.h"
#include "net/link.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LINK_US = 3000000, CARD_US = 500000, TICK_US = 10000 };

/* ---- links ---- */

typedef struct call {
    proa_loop *loop;
    proa_link *link;
    int64_t start_us, end_us;
    int64_t up_us; /* 0: not yet */
    proa_link_identity peer;
    bool has_card;
    proa_wire_card card;
    proa_error why;
} call;

static void on_up(void *context, proa_link *link)
{
    call *c = context;
    c->up_us = proa_clock_us();
    c->end_us = c->up_us + CARD_US; /* a bootstrap port sends none */
    c->peer = *proa_link_peer(link);
}

static void on_message(void *context, proa_link *link, uint16_t type, const uint8_t *body, size_t length)
{
    call *c = context;
    (void)link;
    if (type != PROA_WIRE_CARD)
        return;
    c->has_card = proa_wire_get_card(body, length, &c->card, &c->why);
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
    if (c->up_us == 0)
        proa_error_set(&c->why, PROA_ERR_DEADLINE, "no handshake within %d s", LINK_US / 1000000);
    proa_loop_stop(c->loop);
}

static proa_status dial(call *c, const proa_link_security *security, const char *address, proa_error *err)
{
    const proa_link_identity self = proa_link_identity_draw("doctor");
    const proa_link_hooks hooks = {.up = on_up, .message = on_message, .down = on_down, .context = c};
    proa_status status = proa_loop_create(NULL, NULL, &c->loop, err);
    if (status != PROA_OK)
        return status;
    c->start_us = proa_clock_us();
    c->end_us = c->start_us + LINK_US;
    if (proa_loop_add_timer(c->loop, TICK_US, on_tick, c) == NULL)
        status = proa_error_set(err, PROA_ERR_MEMORY, "no memory for a timer");
    if (status == PROA_OK)
        status = proa_link_dial(c->loop, security, &self, address, &hooks, NULL, &c->link, err);
    if (status == PROA_OK)
        proa_loop_run(c->loop);
    proa_link_close(c->link);
    proa_loop_free(c->loop);
    if (status == PROA_OK && c->up_us == 0) {
        *err = c->why;
        status = err->status;
    }
    return status;
}

static void say_peer(proa_doctor *doctor, const char *address, const call *c)
{
    static const char *const legs[] = {"prefill and decode", "prefill", "decode"};
    double ms = (double)(c->up_us - c->start_us) / 1000;
    if (!c->has_card)
        proa_doctor_say(doctor, PROA_FINDING_GOOD, "address", NULL,
                        "%s: %s (%s), epoch %016" PRIx64 ", handshake in %.1f ms", address, c->peer.role,
                        c->peer.name, c->peer.epoch, ms);
    else
        proa_doctor_say(doctor, c->card.draining ? PROA_FINDING_WARNING : PROA_FINDING_GOOD, "address", NULL,
                        "%s: worker for %s (%s), epoch %016" PRIx64
                        ", model %s, %d requests at a time%s, handshake in "
                        "%.1f ms",
                        address, legs[c->card.leg], c->peer.name, c->peer.epoch, c->card.model_name,
                        c->card.running_max, c->card.draining ? ", draining" : "", ms);
}

/* ---- HTTP ---- */

/* True when something answered by HTTP, which is then said. */
static bool try_http(proa_doctor *doctor, const char *address, const char *base, proa_error *err)
{
    char url[600];
    int code = 0;
    int64_t us = 0;
    proa_json *json = NULL;
    snprintf(url, sizeof url, "%s/health", base);
    if (proa_doctor_fetch(url, NULL, &code, &us, &json, err) != PROA_OK)
        return false;
    char workers[40] = ""; /* `proa serve` needs none elsewhere */
    const proa_json *instances = proa_json_get(json, "instances");
    if (instances != NULL)
        snprintf(workers, sizeof workers, ", workers: %zu", proa_json_size(instances));
    if (code == 200)
        proa_doctor_say(doctor, PROA_FINDING_GOOD, "address", NULL,
                        "%s: a server by HTTP, healthy%s, %.1f ms", address, workers, (double)us / 1000);
    else
        proa_doctor_say(doctor, PROA_FINDING_FAILURE, "address",
                        "it serves nothing yet: are workers of its namespace up? Its /health names them",
                        "%s: a server by HTTP, whose /health has status %d%s", address, code, workers);
    proa_json_free(json);
    return true;
}

/* ---- all ---- */

static void visit(proa_doctor *doctor, const char *address)
{
    char base[540], *key = NULL;
    proa_error err = {0}, http = {0};
    const proa_options *o = doctor->options;
    if (strncmp(address, "http://", 7) == 0 || strncmp(address, "https://", 8) == 0) {
        if (!try_http(doctor, address, address, &err))
            proa_doctor_say(doctor, PROA_FINDING_FAILURE, "address",
                            "is it started, and is no firewall between?", "%s", err.text);
        return;
    }
    call *c = calloc(1, sizeof *c);
    proa_status status = c != NULL
                             ? proa_link_read_key(proa_options_string(o, "cluster-key"),
                                                  proa_options_string(o, "cluster-key-file"), &key, &err)
                             : proa_error_set(&err, PROA_ERR_MEMORY, "no memory for a link");
    const proa_link_security security = {.key = key,
                                         .tls_cert_path = proa_options_string(o, "cluster-tls-cert"),
                                         .tls_key_path = proa_options_string(o, "cluster-tls-key"),
                                         .tls_ca_path = proa_options_string(o, "cluster-tls-ca")};
    if (status == PROA_OK)
        status = dial(c, &security, address, &err);
    snprintf(base, sizeof base, "http://%s", address);
    if (status == PROA_OK)
        say_peer(doctor, address, c);
    else if (!try_http(doctor, address, base, &http))
        proa_doctor_say(doctor, PROA_FINDING_FAILURE, "address",
                        "is it started, is no firewall between, and does it have the same cluster key?",
                        "%s: %s", address, err.text);
    if (key != NULL)
        explicit_bzero(key, strlen(key));
    free(key);
    free(c);
}

void proa_doctor_addresses(proa_doctor *doctor)
{
    const char *list = proa_options_string(doctor->options, "address");
    if (list == NULL)
        proa_doctor_say(doctor, PROA_FINDING_PLAIN, "addresses", NULL,
                        "not asked for (--address host:port,host:port)");
    proa_doctor_each(list, visit, doctor);
}
