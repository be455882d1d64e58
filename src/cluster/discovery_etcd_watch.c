/* discovery_etcd_watch.c - one watched prefix: a list, then a stream of events from the list's revision on.
 *
 *   list ──> stream ──(every 30 s: list again)──> stream
 *    ^         │
 *    └─────────┴── the endpoint failed: `away`; absent keys of the next list are in doubt for a lease's time
 *              └── history was compacted: nobody was away, the next list is believed
 *
 * A stream always begins behind the newest list, never behind the newest event: in 3.4 an answer's header may be ahead of
 * the events that it brings. What comes twice is recognised by its revision (discovery_view.h).
 *
 * A wiped data folder shows as a revision that goes back: in a list, or in the first line of a stream (which would otherwise wait
 * for ever for a revision of the old count). When the new count has overtaken the old one, nothing shows; but then the list is
 * right anyway, and doubt has been set because the connection broke.
 */
#include "cluster/discovery_etcd.h"

#include "base/clock.h"
#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    CREATE_US = 2000000,
    RELIST_US = 100000, /* after a stream that could not begin */
};

/* --- ending --- */

static void end_stream(proa_etcd_watch *w)
{
    proa_http_call_cancel(w->call);
    w->call = NULL;
    w->created = false;
    proa_etcd_lines_free(&w->lines);
}

void proa_etcd_watch_drop(proa_etcd_watch *watch)
{
    if (watch->view == NULL)
        return;
    end_stream(watch);
    proa_etcd_cancel(&watch->list);
    watch->away = true;
    watch->listed = false;
    watch->list_us = 0;
    proa_view_lost(watch->view);
}

void proa_etcd_watch_end(proa_etcd_watch *watch)
{
    end_stream(watch);
    proa_etcd_cancel(&watch->list);
    watch->view = NULL;
}

/* --- the list --- */

static void see_revision(proa_etcd_watch *w, int64_t revision)
{
    if (revision > w->revision)
        w->revision = revision;
}

static proa_status on_list(proa_etcd_op *op, const proa_etcd_reply *reply, proa_error *err)
{
    proa_etcd_watch *w = op->owner;
    proa_etcd_list list;
    proa_status status = proa_etcd_read_list(reply->body, reply->length, op->etcd->arena, &list, err);
    if (status != PROA_OK)
        return status;
    int64_t now = proa_clock_us();
    if (list.revision < w->asked_at) {
        proa_log(PROA_LOG_WARN, "discovery",
                 "etcd has lost its data: its revision is %lld after %lld; keys have %.1f s to come back",
                 (long long)list.revision, (long long)w->asked_at, (double)op->etcd->lease_us / 1e6);
        end_stream(w);
        proa_view_forget_revisions(w->view);
        w->revision = 0;
        w->away = true;
    }
    if (w->away)
        w->hold_until_us = now + op->etcd->lease_us;
    w->away = false;
    w->listed = true;
    w->list_revision = list.revision;
    w->list_us = now + PROA_ETCD_LIST_US;
    see_revision(w, list.revision);
    proa_view_list_begin(w->view, list.revision);
    for (size_t i = 0; i < list.count; i++)
        proa_view_list_put(w->view, list.kvs[i].key, list.kvs[i].value, list.kvs[i].length,
                           list.kvs[i].mod_revision);
    proa_view_list_end(w->view, now, w->hold_until_us);
    return PROA_OK;
}

static bool send_list(proa_etcd_watch *w)
{
    proa_buf body = {0};
    w->list.owner = w;
    w->list.answered = on_list;
    w->asked_at = w->revision;
    proa_etcd_write_list(w->view->prefix, &body);
    bool sent = proa_etcd_start(w->etcd, &w->list, "kv/range", &body);
    proa_buf_free(&body);
    return sent;
}

/* --- the stream --- */

static void apply_events(proa_etcd_watch *w, const proa_etcd_list *events)
{
    for (size_t i = 0; i < events->count; i++) {
        const proa_etcd_kv *kv = &events->kvs[i];
        if (kv->deleted)
            proa_view_event_gone(w->view, kv->key, kv->mod_revision);
        else
            proa_view_event_put(w->view, kv->key, kv->value, kv->length, kv->mod_revision);
    }
    see_revision(w, events->revision);
}

/* Everything that hangs on the endpoint ends, this stream included. */
static void fail(proa_etcd_watch *w, const char *cause)
{
    proa_etcd_fail_endpoint(w->etcd, w->endpoint, cause);
    if (w->call != NULL) /* it was not the current one */
        proa_etcd_watch_drop(w);
}

/* The stream cannot go on behind this list; the endpoint is good. */
static void list_again(proa_etcd_watch *w)
{
    end_stream(w);
    w->listed = false;
    w->list_us = proa_clock_us() + RELIST_US;
}

/* The stream may be ended by this. */
static void take_news(proa_etcd_watch *w, const proa_etcd_news *news)
{
    switch (news->kind) {
    case PROA_ETCD_CREATED:
        w->created = true;
        if (news->list.revision < w->list_revision)
            list_again(w); /* which sees that revisions begin anew */
        break;
    case PROA_ETCD_EVENTS: apply_events(w, &news->list); break;
    case PROA_ETCD_CANCELED:
        if (news->compact_revision == 0)
            fail(w, "it has cancelled a watch");
        else
            list_again(w);
        break;
    case PROA_ETCD_FAILED: fail(w, news->text); break;
    }
}

static void on_stream(void *context, const char *bytes, size_t length)
{
    proa_etcd_watch *w = context;
    proa_error err = {0};
    proa_etcd_news news;
    const char *line;
    if (!proa_etcd_lines_add(&w->lines, bytes, length)) {
        fail(w, "an event of a watch is too long");
        return;
    }
    while (w->call != NULL && (line = proa_etcd_lines_next(&w->lines, &length)) != NULL) {
        if (length == 0)
            continue;
        proa_arena_reset(w->etcd->arena);
        if (proa_etcd_read_news(line, length, w->etcd->arena, &news, &err) == PROA_OK)
            take_news(w, &news);
        else
            fail(w, err.text);
    }
}

/* A server that shuts down leaves its reason without a newline. */
static void on_stream_end(void *context, const proa_http_result *result)
{
    proa_etcd_watch *w = context;
    char cause[400] = "it has ended a watch";
    size_t length;
    proa_etcd_news news;
    const char *rest = proa_etcd_lines_rest(&w->lines, &length);
    w->call = NULL;
    proa_arena_reset(w->etcd->arena);
    if (result->status == PROA_OK && result->code != 200)
        proa_etcd_read_error(result->body, result->length, cause, sizeof cause);
    else if (length > 0 && proa_etcd_read_news(rest, length, w->etcd->arena, &news, NULL) == PROA_OK &&
             news.kind == PROA_ETCD_FAILED)
        snprintf(cause, sizeof cause, "%s", news.text);
    else if (result->status != PROA_OK)
        snprintf(cause, sizeof cause, "%s", result->cause);
    fail(w, cause);
}

static bool open_stream(proa_etcd_watch *w, int64_t now)
{
    static const char *const headers[] = {"Grpc-Metadata-hasleader: true"};
    char url[600];
    proa_buf body = {0};
    w->endpoint = w->etcd->current;
    snprintf(url, sizeof url, "%s/v3/watch", w->etcd->endpoints[w->endpoint].url);
    proa_etcd_write_watch(w->view->prefix, w->list_revision + 1, &body);
    const proa_http_request request = {
        .url = url,
        .body = body.data,
        .length = body.length,
        .headers = headers,
        .header_count = 1,
        .connect_timeout_us = PROA_ETCD_CALL_US,
        .data = on_stream,
        .done = on_stream_end,
        .context = w,
    };
    w->created_by_us = now + CREATE_US;
    bool opened =
        !body.failed && proa_http_client_start(w->etcd->client, &request, &w->call, NULL) == PROA_OK;
    proa_buf_free(&body);
    return opened;
}

/* --- turns --- */

void proa_etcd_watch_add(proa_etcd *etcd, proa_view *view)
{
    PROA_ASSERT(etcd->watch_count < PROA_DISCOVERY_WATCHES_MAX);
    etcd->watches[etcd->watch_count++] = (proa_etcd_watch){.view = view, .etcd = etcd};
}

int64_t proa_etcd_watch_step(proa_etcd_watch *watch, int64_t now_us)
{
    proa_etcd_watch *w = watch;
    if (w->call != NULL && !w->created && now_us >= w->created_by_us)
        fail(w, "it has not begun a watch");
    int64_t usable = proa_etcd_usable_from(w->etcd, now_us);
    if (usable > now_us)
        return usable;
    bool sent = true;
    if (w->list.call == NULL && now_us >= w->list_us)
        sent = send_list(w);
    if (w->listed && w->call == NULL && w->list.call == NULL)
        sent = open_stream(w, now_us);
    if (!sent)
        return now_us + PROA_ETCD_CALL_US;
    int64_t next = w->list.call == NULL ? w->list_us : INT64_MAX;
    return w->call != NULL && !w->created && w->created_by_us < next ? w->created_by_us : next;
}
