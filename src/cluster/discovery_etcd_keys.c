/* discovery_etcd_keys.c - the lease, and the keys that this process keeps under it.
 *
 *   no lease ──grant──> lease ──keep-alive every quarter──> lease, look at own keys
 *      ^                  │
 *      └── no TTL in the answer, "lease not found" for a put, or a key that is gone though the lease lives (3.4.23 confirms
 *          leases that it has revoked): a new lease, and all keys again
 *
 * A request that was given up after a second may still be carried out: a late put brings back an old value or a deleted
 * key. So the look compares values too, and goes on looking at deleted keys for a while (graves).
 * A discovery that only watches needs no lease; its beat asks for a count, to notice an endpoint that has stopped.
 */
#include "cluster/discovery_etcd.h"

#include "base/clock.h"
#include "base/log.h"

#include <stdlib.h>
#include <string.h>

enum { MEMORY_PAUSE_US = 1000000 };

static bool is_wanted(const proa_etcd_key *k)
{
    return k->key != NULL && k->value != NULL;
}

static bool is_grave(const proa_etcd_key *k)
{
    return k->key != NULL && k->value == NULL && k->let_go;
}

static bool is_placed(const proa_etcd_key *k)
{
    return is_wanted(k) && k->placed == k->version && k->op.call == NULL;
}

static void forget(proa_etcd_key *k)
{
    PROA_ASSERT(k->op.call == NULL);
    free(k->key);
    free(k->value);
    *k = (proa_etcd_key){0};
}

/* The lease is over, or not to be trusted: what is under it vanishes by itself. */
static void drop_lease(proa_etcd *e)
{
    e->lease = 0;
    e->moves++;
    for (size_t i = 0; i < sizeof e->keys / sizeof e->keys[0]; i++) {
        proa_etcd_key *k = &e->keys[i];
        k->placed = 0;
        if (k->key != NULL && k->value == NULL)
            k->let_go = true;
    }
}

/* --- what is wanted --- */

static proa_etcd_key *find(proa_etcd *e, const char *key)
{
    for (size_t i = 0; i < sizeof e->keys / sizeof e->keys[0]; i++) {
        if (e->keys[i].key != NULL && strcmp(e->keys[i].key, key) == 0)
            return &e->keys[i];
    }
    return NULL;
}

/* A free place; else that of the oldest grave. */
static proa_etcd_key *find_place(proa_etcd *e)
{
    proa_etcd_key *oldest = NULL;
    for (size_t i = 0; i < sizeof e->keys / sizeof e->keys[0]; i++) {
        proa_etcd_key *k = &e->keys[i];
        if (k->key == NULL)
            return k;
        if (k->value == NULL && (oldest == NULL || k->grave_us < oldest->grave_us))
            oldest = k;
    }
    PROA_ASSERT(oldest != NULL); /* half of the places are wanted at most */
    proa_etcd_cancel(&oldest->op);
    forget(oldest);
    return oldest;
}

void proa_etcd_keys_put(proa_etcd *etcd, char *key, char *value)
{
    proa_etcd_key *k = find(etcd, key);
    if (k == NULL) {
        k = find_place(etcd);
        k->key = key;
    } else {
        free(key);
        free(k->value);
    }
    k->value = value;
    k->version = ++etcd->versions;
    k->let_go = false;
    etcd->moves++;
}

void proa_etcd_keys_remove(proa_etcd *etcd, const char *key)
{
    proa_etcd_key *k = find(etcd, key);
    if (k == NULL)
        return;
    free(k->value);
    k->value = NULL;
    k->placed = 0;
    k->let_go = !k->tried || etcd->lease == 0;
    k->grave_us = proa_clock_us() + PROA_ETCD_GRAVE_US;
    etcd->moves++;
}

bool proa_etcd_keys_hold(const proa_etcd *etcd, const char *key)
{
    for (size_t i = 0; i < sizeof etcd->keys / sizeof etcd->keys[0]; i++) {
        const proa_etcd_key *k = &etcd->keys[i];
        if (k->key != NULL && strcmp(k->key, key) == 0)
            return !k->let_go;
    }
    return false;
}

/* --- puts and deletes --- */

static void on_no_lease(proa_etcd *e, int64_t lease)
{
    if (lease != e->lease || lease == 0)
        return;
    proa_log(
        PROA_LOG_INFO, "discovery",
        "etcd has ended this process's lease (one of both stood still, or it has lost its data): registering "
        "again");
    drop_lease(e);
}

static proa_status on_put(proa_etcd_op *op, const proa_etcd_reply *reply, proa_error *err)
{
    proa_etcd_key *k = op->owner;
    int64_t revision;
    proa_status status = PROA_OK;
    op->etcd->moves++;
    if (reply->no_lease)
        on_no_lease(op->etcd, k->sent_lease);
    else
        status = proa_etcd_read_header(reply->body, reply->length, &revision, err);
    if (!reply->no_lease && status == PROA_OK && k->value != NULL && k->sent_lease == op->etcd->lease)
        k->placed = k->sent;
    return status;
}

static proa_status on_delete(proa_etcd_op *op, const proa_etcd_reply *reply, proa_error *err)
{
    proa_etcd_key *k = op->owner;
    int64_t revision;
    proa_status status =
        reply->no_lease ? PROA_OK : proa_etcd_read_header(reply->body, reply->length, &revision, err);
    op->etcd->moves++;
    if (status == PROA_OK && k->value == NULL) {
        k->let_go = true;
        k->grave_us = proa_clock_us() + PROA_ETCD_GRAVE_US;
    }
    return status;
}

/* Sends what the key lacks. False: memory is out. */
static bool send_key(proa_etcd *e, proa_etcd_key *k)
{
    bool put = is_wanted(k) && k->placed != k->version && e->lease != 0;
    bool delete = k->key != NULL && k->value == NULL && !k->let_go;
    if (k->op.call != NULL || !(put || delete))
        return true;
    proa_buf body = {0};
    k->op.owner = k;
    k->op.answered = put ? on_put : on_delete;
    if (put) {
        proa_etcd_write_put(k->key, k->value, e->lease, &body);
        k->sent = k->version;
        k->sent_lease = e->lease;
        k->tried = true;
    } else {
        proa_etcd_write_delete(k->key, e->lease, &body);
    }
    e->moves++;
    bool sent = proa_etcd_start(e, &k->op, put ? "kv/put" : "kv/txn", &body);
    proa_buf_free(&body);
    return sent;
}

/* --- a look at what etcd has --- */

static const proa_etcd_kv *find_kv(const proa_etcd_list *list, const char *key)
{
    for (size_t i = 0; i < list->count; i++) {
        if (strcmp(list->kvs[i].key, key) == 0)
            return &list->kvs[i];
    }
    return NULL;
}

/* False: the key is gone though its lease is said to live. */
static bool judge_wanted(const proa_etcd *e, proa_etcd_key *k, const proa_etcd_kv *kv)
{
    if (kv == NULL) {
        bool was_lost = k->lost; /* to another owner, which has let it go */
        k->placed = 0;
        k->lost = false;
        return was_lost;
    }
    if (kv->lease != e->lease) {
        if (!k->lost)
            proa_log(PROA_LOG_WARN, "discovery", "another process has registered %s over this one's", k->key);
        k->lost = true;
        return true;
    }
    k->lost = false;
    if (kv->length != strlen(k->value) || memcmp(kv->value, k->value, kv->length) != 0)
        k->placed = 0; /* an older put came late */
    return true;
}

static proa_status on_look(proa_etcd_op *op, const proa_etcd_reply *reply, proa_error *err)
{
    proa_etcd *e = op->etcd;
    proa_etcd_list list;
    proa_status status =
        reply->no_lease ? PROA_OK : proa_etcd_read_look(reply->body, reply->length, e->arena, &list, err);
    if (status != PROA_OK || reply->no_lease || e->looked_at != e->moves) /* what was seen is history */
        return status;
    for (size_t i = 0; i < sizeof e->keys / sizeof e->keys[0]; i++) {
        proa_etcd_key *k = &e->keys[i];
        const proa_etcd_kv *kv = k->key != NULL ? find_kv(&list, k->key) : NULL;
        if (is_placed(k) && !judge_wanted(e, k, kv)) {
            proa_log(PROA_LOG_WARN, "discovery",
                     "etcd has lost %s under a lease that it says is alive: registering again", k->key);
            drop_lease(e);
            break;
        }
        if (is_grave(k) && kv != NULL && kv->lease == e->lease)
            k->let_go = false;
    }
    return PROA_OK;
}

static bool send_look(proa_etcd *e)
{
    const char *names[sizeof e->keys / sizeof e->keys[0]];
    size_t count = 0;
    for (size_t i = 0; i < sizeof e->keys / sizeof e->keys[0]; i++) {
        if (is_placed(&e->keys[i]) || is_grave(&e->keys[i]))
            names[count++] = e->keys[i].key;
    }
    if (count == 0 || e->look.call != NULL)
        return true;
    proa_buf body = {0};
    e->look.answered = on_look;
    e->looked_at = e->moves;
    proa_etcd_write_look(names, count, &body);
    bool sent = proa_etcd_start(e, &e->look, "kv/txn", &body);
    proa_buf_free(&body);
    return sent;
}

/* --- the lease --- */

static proa_status on_grant(proa_etcd_op *op, const proa_etcd_reply *reply, proa_error *err)
{
    proa_etcd *e = op->etcd;
    proa_etcd_lease lease;
    proa_status status = proa_etcd_read_lease(reply->body, reply->length, &lease, err);
    if (status == PROA_OK && lease.ttl_s == 0)
        status = proa_error_set(err, PROA_ERR_PROTOCOL, "it granted a lease of no time");
    if (status != PROA_OK)
        return status;
    int64_t ttl_us = lease.ttl_s * 1000000;
    e->lease = lease.id;
    e->beat_every_us = (ttl_us < e->lease_us ? ttl_us : e->lease_us) / 4;
    e->beat_us = proa_clock_us() + e->beat_every_us;
    e->moves++;
    return PROA_OK;
}

static proa_status on_keep_alive(proa_etcd_op *op, const proa_etcd_reply *reply, proa_error *err)
{
    proa_etcd *e = op->etcd;
    proa_etcd_lease lease = {0};
    proa_status status =
        reply->no_lease ? PROA_OK : proa_etcd_read_lease(reply->body, reply->length, &lease, err);
    if (status != PROA_OK)
        return status;
    if (lease.ttl_s == 0)
        on_no_lease(e, e->lease);
    else if (!send_look(e))
        e->beat_us = 0; /* with the next one */
    return PROA_OK;
}

static proa_status on_probe(proa_etcd_op *op, const proa_etcd_reply *reply, proa_error *err)
{
    (void)op;
    int64_t revision;
    return proa_etcd_read_header(reply->body, reply->length, &revision, err);
}

static proa_status on_revoke(proa_etcd_op *op, const proa_etcd_reply *reply, proa_error *err)
{
    (void)reply;
    (void)err;
    op->etcd->lease = 0;
    return PROA_OK;
}

static bool send_beat(proa_etcd *e, int64_t now)
{
    bool wanted = false;
    const char *path = NULL;
    proa_buf body = {0};
    for (size_t i = 0; i < sizeof e->keys / sizeof e->keys[0] && !wanted; i++)
        wanted = is_wanted(&e->keys[i]);
    if (e->beat.call != NULL) {
        return true;
    } else if (e->lease == 0 && wanted) {
        path = "lease/grant";
        e->beat.answered = on_grant;
        proa_etcd_write_grant((e->lease_us + 999999) / 1000000, &body);
    } else if (e->lease != 0 && now >= e->beat_us) {
        path = "lease/keepalive";
        e->beat.answered = on_keep_alive;
        proa_etcd_write_lease(e->lease, &body);
    } else if (e->watch_count > 0 && now >= e->beat_us) {
        path = "kv/range";
        e->beat.answered = on_probe;
        proa_etcd_write_count(e->watches[0].view->prefix, &body);
    } else {
        return true;
    }
    e->beat_us = now + e->beat_every_us;
    bool sent = proa_etcd_start(e, &e->beat, path, &body);
    proa_buf_free(&body);
    return sent;
}

/* --- turns --- */

int64_t proa_etcd_keys_step(proa_etcd *etcd, int64_t now_us)
{
    int64_t next = INT64_MAX;
    for (size_t i = 0; i < sizeof etcd->keys / sizeof etcd->keys[0]; i++) {
        proa_etcd_key *k = &etcd->keys[i];
        if (!is_grave(k) || k->op.call != NULL)
            continue;
        if (k->grave_us <= now_us || !k->tried)
            forget(k);
        else if (k->grave_us < next)
            next = k->grave_us;
    }
    int64_t usable = proa_etcd_usable_from(etcd, now_us);
    if (usable > now_us)
        return usable < next ? usable : next;
    bool sent = send_beat(etcd, now_us);
    for (size_t i = 0; i < sizeof etcd->keys / sizeof etcd->keys[0] && sent; i++)
        sent = send_key(etcd, &etcd->keys[i]);
    if (!sent)
        return now_us + MEMORY_PAUSE_US;
    bool beats = etcd->beat.call == NULL && (etcd->lease != 0 || etcd->watch_count > 0);
    return beats && etcd->beat_us < next ? etcd->beat_us : next;
}

void proa_etcd_keys_close(proa_etcd *etcd)
{
    proa_etcd_cancel(&etcd->beat);
    proa_etcd_cancel(&etcd->look);
    for (size_t i = 0; i < sizeof etcd->keys / sizeof etcd->keys[0]; i++)
        proa_etcd_cancel(&etcd->keys[i].op);
    if (etcd->lease == 0 || etcd->lost) /* then it ends by itself */
        return;
    proa_buf body = {0};
    etcd->beat.answered = on_revoke;
    proa_etcd_write_lease(etcd->lease, &body);
    proa_etcd_start(etcd, &etcd->beat, "lease/revoke", &body);
    proa_buf_free(&body);
}

void proa_etcd_keys_free(proa_etcd *etcd)
{
    for (size_t i = 0; i < sizeof etcd->keys / sizeof etcd->keys[0]; i++) {
        free(etcd->keys[i].key);
        free(etcd->keys[i].value);
    }
}
