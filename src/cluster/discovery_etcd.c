/* discovery_etcd.c - etcd through its JSON gateway: endpoints, requests, and the turn that drives keys and watches.
 *
 * What etcd 3.4 is known for, and where it is borne:
 *   - an isolated member answers after 7 to 8 s, a stopped one never: each request has one second here;
 *   - an isolated member keeps a watch open for ever without a word: the header hasleader ends it, and a regular beat goes to
 *     the endpoint of the watches, whose failure ends them too;
 *   - a host without power says nothing either: the HTTP client bounds unacknowledged time;
 *   - keep-alives that succeed for a dead lease, keys that vanish under a lease that lives: own keys are looked at after each
 *     keep-alive (discovery_etcd_keys.c);
 *   - events twice, events lost, history compacted, revisions that begin anew with a wiped data folder: discovery_etcd_watch.c.
 *
 * People read one line when no endpoint works any more, with the cause, and one when one does again.
 */
#include "cluster/discovery_etcd.h"

#include "base/clock.h"
#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PAUSE_MIN_US = 100000,
    PAUSE_MAX_US = 1000000,
    ANSWER_BYTES_MAX = 16 << 20, /* a list of some ten thousand instances */
    ARENA_BYTES_MAX = 64 << 20,
};

/* --- endpoints --- */

static void use_best_endpoint(proa_etcd *e, const char *cause)
{
    size_t before = e->current, best = (before + 1) % e->endpoint_count;
    for (size_t i = 1; i <= e->endpoint_count; i++) {
        size_t at = (before + i) % e->endpoint_count;
        if (e->endpoints[at].usable_us < e->endpoints[best].usable_us)
            best = at;
    }
    e->current = best;
    if (best != before && !e->lost)
        proa_log(PROA_LOG_INFO, "discovery", "etcd at %s fails (%s); using %s", e->endpoints[before].url,
                 cause, e->endpoints[best].url);
}

void proa_etcd_fail_endpoint(proa_etcd *etcd, size_t endpoint, const char *cause)
{
    proa_etcd *e = etcd;
    struct proa_etcd_endpoint *failed = &e->endpoints[endpoint];
    int64_t now = proa_clock_us();
    failed->pause_us = failed->pause_us == 0 ? PAUSE_MIN_US : failed->pause_us * 2;
    failed->pause_us = failed->pause_us < PAUSE_MAX_US ? failed->pause_us : PAUSE_MAX_US;
    failed->usable_us = now + failed->pause_us;
    if (endpoint != e->current) /* of a request that began before the change */
        return;
    e->failures++;
    if (e->failures > e->endpoint_count && !e->lost) {
        e->lost = true; /* each has failed, and one has again: no passing cut */
        e->lost_us = now;
        if (!e->closing)
            proa_log(PROA_LOG_WARN, "discovery",
                     "etcd at %s does not work: %s; what was seen stays, and it is tried again", failed->url,
                     cause);
    }
    use_best_endpoint(e, cause);
    for (size_t i = 0; i < e->watch_count; i++)
        proa_etcd_watch_drop(&e->watches[i]);
}

void proa_etcd_praise_endpoint(proa_etcd *etcd, size_t endpoint)
{
    proa_etcd *e = etcd;
    e->endpoints[endpoint].pause_us = 0;
    e->endpoints[endpoint].usable_us = 0;
    if (endpoint != e->current)
        return;
    e->failures = 0;
    if (e->lost) {
        int64_t now = proa_clock_us();
        e->lost = false;
        e->beat_us = now; /* it may have forgotten the lease */
        proa_log(PROA_LOG_INFO, "discovery", "etcd works again at %s, after %.1f s",
                 e->endpoints[endpoint].url, (double)(now - e->lost_us) / 1e6);
    }
}

int64_t proa_etcd_usable_from(const proa_etcd *etcd, int64_t at_us)
{
    int64_t usable = etcd->endpoints[etcd->current].usable_us;
    return at_us > usable ? at_us : usable;
}

/* --- requests --- */

static void on_done(void *context, const proa_http_result *result)
{
    proa_etcd_op *op = context;
    proa_etcd *e = op->etcd;
    proa_etcd_reply reply = {.body = result->body, .length = result->length};
    proa_error err = {0};
    proa_status status = result->status;
    op->call = NULL;
    if (status != PROA_OK) {
        proa_error_set(&err, status, "%s", result->cause);
    } else if (result->code != 200) {
        char text[200];
        int grpc = proa_etcd_read_error(result->body, result->length, text, sizeof text);
        reply.no_lease = result->code == 404 && grpc == PROA_ETCD_GRPC_NOT_FOUND;
        if (!reply.no_lease)
            status = proa_error_set(&err, PROA_ERR_UNREACHABLE, "HTTP %d, %s", result->code, text);
    }
    if (status == PROA_OK) {
        proa_arena_reset(e->arena);
        status = op->answered(op, &reply, &err);
    } else if (op->failed != NULL) {
        op->failed(op);
    }
    if (status == PROA_OK)
        proa_etcd_praise_endpoint(e, op->endpoint);
    else
        proa_etcd_fail_endpoint(e, op->endpoint, err.text);
}

bool proa_etcd_start(proa_etcd *etcd, proa_etcd_op *op, const char *path, const proa_buf *body)
{
    static const char *const headers[] = {"Grpc-Metadata-hasleader: true"};
    char url[600];
    PROA_ASSERT(op->call == NULL);
    if (body->failed)
        return false;
    op->etcd = etcd;
    op->endpoint = etcd->current;
    snprintf(url, sizeof url, "%s/v3/%s", etcd->endpoints[op->endpoint].url, path);
    const proa_http_request request = {
        .url = url,
        .body = body->data,
        .length = body->length,
        .headers = headers,
        .header_count = 1,
        .connect_timeout_us = PROA_ETCD_CALL_US,
        .timeout_us = PROA_ETCD_CALL_US,
        .body_limit = ANSWER_BYTES_MAX,
        .done = on_done,
        .context = op,
    };
    return proa_http_client_start(etcd->client, &request, &op->call, NULL) == PROA_OK;
}

void proa_etcd_cancel(proa_etcd_op *op)
{
    proa_http_call_cancel(op->call);
    op->call = NULL;
}

/* --- the backend --- */

static void free_endpoints(proa_etcd *e)
{
    for (size_t i = 0; i < e->endpoint_count; i++)
        free(e->endpoints[i].url);
}

static proa_status add_endpoint(proa_etcd *e, const char *text, size_t length, proa_error *err)
{
    char given[480], url[512];
    while (length > 0 && text[length - 1] == '/')
        length--;
    snprintf(given, sizeof given, "%.*s", (int)(length < sizeof given ? length : sizeof given), text);
    snprintf(url, sizeof url, "%s%s", strstr(given, "://") != NULL ? "" : "http://", given);
    bool web = strncmp(url, "http://", 7) == 0 || strncmp(url, "https://", 8) == 0;
    if (length == 0 || length >= sizeof given || !web)
        return proa_error_set(err, PROA_ERR_INVALID,
                              "--etcd-endpoints: \"%.100s\" is no URL: write http://host:2379", given);
    if (strchr(url, '@') != NULL) /* and it is not shown: a password may stand there */
        return proa_error_set(err, PROA_ERR_INVALID,
                              "--etcd-endpoints: a URL with a user name is not supported; etcd's own users "
                              "are not either: protect etcd by its network");
    if (e->endpoint_count == PROA_ETCD_ENDPOINTS_MAX)
        return proa_error_set(err, PROA_ERR_INVALID, "--etcd-endpoints: at most %d endpoints are used",
                              PROA_ETCD_ENDPOINTS_MAX);
    e->endpoints[e->endpoint_count].url = strdup(url);
    if (e->endpoints[e->endpoint_count].url == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for discovery");
    e->endpoint_count++;
    return PROA_OK;
}

/* "http://a:2379,http://b:2379"; blanks around, a slash behind and a missing scheme are forgiven, as by etcdctl. */
static proa_status read_endpoints(proa_etcd *e, const char *text, proa_error *err)
{
    static const char between[] = ", \t\n";
    proa_status status = PROA_OK;
    for (const char *next = text + strspn(text, between); *next != 0 && status == PROA_OK;) {
        size_t length = strcspn(next, between);
        status = add_endpoint(e, next, length, err);
        next += length;
        next += strspn(next, between);
    }
    if (status == PROA_OK && e->endpoint_count == 0)
        status = proa_error_set(err, PROA_ERR_INVALID,
                                "--discovery-backend etcd needs --etcd-endpoints (ETCD_ENDPOINTS), such as "
                                "http://127.0.0.1:2379");
    return status;
}

static void etcd_free(void *state)
{
    proa_etcd *e = state;
    if (e == NULL)
        return;
    proa_http_client_free(e->client); /* calls under way end without a hook */
    for (size_t i = 0; i < e->watch_count; i++)
        proa_etcd_lines_free(&e->watches[i].lines);
    proa_etcd_keys_free(e);
    proa_arena_free(e->arena);
    free_endpoints(e);
    free(e);
}

static proa_status etcd_open(const proa_discovery_options *options, int wake_fd, void **state,
                             proa_error *err)
{
    proa_etcd *e = calloc(1, sizeof *e);
    proa_status status = PROA_OK;
    if (e == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for discovery");
    e->wake_fd = wake_fd;
    e->lease_us = (int64_t)(options->lease_s * 1e6);
    e->beat_every_us = e->lease_us / 4;
    status = read_endpoints(e, options->endpoints != NULL ? options->endpoints : "", err);
    if (status == PROA_OK)
        status = proa_http_client_create(NULL, &e->client, err);
    if (status == PROA_OK && (e->arena = proa_arena_create(ARENA_BYTES_MAX)) == NULL)
        status = proa_error_set(err, PROA_ERR_MEMORY, "no memory for discovery");
    if (status != PROA_OK) {
        etcd_free(e);
        return status;
    }
    *state = e;
    return PROA_OK;
}

static void etcd_put(void *state, char *key, char *value)
{
    proa_etcd_keys_put(state, key, value);
}

static void etcd_remove(void *state, const char *key)
{
    proa_etcd_keys_remove(state, key);
}

static bool etcd_holds(const void *state, const char *key)
{
    return proa_etcd_keys_hold(state, key);
}

static void etcd_watch(void *state, proa_view *view)
{
    proa_etcd_watch_add(state, view);
}

static void etcd_run(void *state, int64_t until_us)
{
    proa_etcd *e = state;
    int64_t now = proa_clock_us();
    if (!e->closing) {
        int64_t next = proa_etcd_keys_step(e, now);
        until_us = next < until_us ? next : until_us;
        for (size_t i = 0; i < e->watch_count; i++) {
            next = proa_etcd_watch_step(&e->watches[i], now);
            until_us = next < until_us ? next : until_us;
        }
    }
    now = proa_clock_us();
    proa_http_client_run(e->client, e->wake_fd, until_us > now ? until_us - now : 0);
}

static void etcd_close(void *state)
{
    proa_etcd *e = state;
    e->closing = true;
    for (size_t i = 0; i < e->watch_count; i++)
        proa_etcd_watch_end(&e->watches[i]);
    proa_etcd_keys_close(e);
}

static bool etcd_closed(const void *state)
{
    return ((const proa_etcd *)state)->beat.call == NULL;
}

const proa_discovery_backend proa_discovery_etcd = {
    .name = "etcd",
    .open = etcd_open,
    .put = etcd_put,
    .remove = etcd_remove,
    .holds = etcd_holds,
    .watch = etcd_watch,
    .run = etcd_run,
    .close = etcd_close,
    .closed = etcd_closed,
    .free = etcd_free,
};
