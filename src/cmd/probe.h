/* probe.h - is there a worker or a frontend at an address, and does it serve? Asked once, with a deadline.
 *
 * Workers listen for links: the handshake proves the cluster key both ways and tells the other end's role and epoch, and a worker's
 * first message is its card; a worker whose model is not loaded has its port bound, and answers nothing there. Frontends and `proa serve`
 * listen for HTTP, and say by the status of /health whether they serve. "host:port" is tried as a link and then as HTTP;
 * "http://host:port" as HTTP only.
 *
 * One thread, the caller's, which nothing else may use meanwhile.
 */
#ifndef PROA_CMD_PROBE_H
#define PROA_CMD_PROBE_H

#include "base/json.h"
#include "base/option.h"
#include "cluster/wire.h"
#include "net/link.h"

typedef struct proa_probe {
    bool is_link;            /* else HTTP */
    int64_t us;              /* until the handshake was done, or the answer there */
    proa_link_identity peer; /* of a link */
    bool has_card;           /* a link's other end is a worker's port for requests */
    proa_wire_card card;     /* with has_card */
    int code;                /* HTTP: of GET /health */
    int64_t instances;       /* HTTP: workers that it lists; -1: it lists none, being no frontend */
    bool serves;             /* requests can be sent there */
} proa_probe;

/* Reads key and certificates from --cluster-key, --cluster-key-file and --cluster-tls-*. Fails when nothing answers there within 5 s, or
 * what answers knows another key. Large: allocate it. */
proa_status proa_probe_address(const proa_options *options, const char *address, proa_probe *probe,
                               proa_error *err);

/* The probe as a sentence without the address: "worker for decode (name), epoch ..., handshake in 0.4 ms". */
void proa_probe_describe(const proa_probe *probe, char *text, size_t bytes);

/* GET, or POST with a body; the answer parsed as JSON, which may be NULL when it is none. Waits 2 s at most. */
proa_status proa_probe_fetch(const char *url, const char *body, int *code, int64_t *us, proa_json **json,
                             proa_error *err);

#endif
