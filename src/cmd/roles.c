/* roles.c - see roles.h. */
#include "cmd/roles.h"

#include "base/clock.h"
#include "cmd/cluster_flags.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { READY_US = 10000000, POLL_US = 5000, WORKERS_MAX = 64 };

typedef struct role {
    proa_worker *worker;
    proa_rank rank;
} role;

struct proa_roles {
    proa_registry *registry;
    proa_kv_local_registry *local;
    proa_discovery *discovery;
    proa_cluster_flags flags;
    proa_client *client;
    proa_server_cluster cluster;
    role *roles;
    int32_t prefill;
    int32_t count; /* prefill ones first */
};

static bool write_instances(void *context, proa_buf *out)
{
    const proa_roles *r = context;
    return proa_client_write_instances(r->client, out);
}

static void write_metrics(void *context, proa_buf *out)
{
    const proa_roles *r = context;
    proa_client_write_metrics(r->client, out);
}

static proa_status create(proa_roles *r, const proa_options *o, proa_error *err)
{
    r->registry = proa_registry_create();
    r->local = proa_kv_local_registry_create();
    r->roles = calloc((size_t)r->count, sizeof *r->roles);
    if (r->registry == NULL || r->local == NULL || r->roles == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the roles");
    const proa_discovery_options discovery = {.backend = "mem", .registry = r->registry};
    proa_status status = proa_discovery_create(&discovery, &r->discovery, err);
    if (status != PROA_OK)
        return status;
    proa_client_options options = proa_cluster_client_options(o, &r->flags, r->discovery);
    options.wants_files = false; /* they are this process's own */
    return proa_client_create(&options, &r->client, err);
}

proa_status proa_roles_create(const proa_options *o, proa_roles **roles, proa_error *err)
{
    int64_t prefill = proa_options_int(o, "prefill-workers"), decode = proa_options_int(o, "decode-workers");
    if (prefill < 1 || decode < 1 || prefill + decode > WORKERS_MAX)
        return proa_error_set(
            err, PROA_ERR_INVALID,
            "--prefill-workers %lld and --decode-workers %lld: give one of each at least, and %d in "
            "all at most",
            (long long)prefill, (long long)decode, WORKERS_MAX);
    proa_roles *r = calloc(1, sizeof *r);
    if (r == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the roles");
    r->prefill = (int32_t)prefill;
    r->count = (int32_t)(prefill + decode);
    r->cluster = (proa_server_cluster){write_instances, write_metrics, r};
    proa_status status = create(r, o, err);
    if (status != PROA_OK) {
        proa_roles_free(r);
        return status;
    }
    *roles = r;
    return PROA_OK;
}

static proa_status open_role(proa_roles *r, const proa_options *o, const char *dir, const char *name,
                             int32_t i, proa_error *err)
{
    role *one = &r->roles[i];
    bool prefill = i < r->prefill;
    proa_worker_options options =
        proa_cluster_worker_options(o, &r->flags, prefill ? PROA_LEG_PREFILL : PROA_LEG_DECODE, r->discovery);
    options.transfer = PROA_KV_TRANSFER_LOCAL;
    options.transfer_options.local_registry = r->local;
    options.host = "127.0.0.1";
    proa_status status = proa_worker_create(&options, &one->worker, err);
    if (status != PROA_OK)
        return status;
    char mine[32];
    snprintf(mine, sizeof mine, "%s%d", prefill ? "prefill" : "decode", prefill ? i : i - r->prefill);
    const proa_rank_use use = {
        .name = mine,
        .role = prefill ? PROA_ENGINE_PREFILL : PROA_ENGINE_DECODE,
        .kv_event = prefill ? proa_worker_kv_event : NULL,
        .kv_event_context = one->worker,
        .memory_share = 1.0 / (r->count - i),
    };
    proa_worker_model model = {0};
    status = proa_rank_open(o, &use, &one->rank, err);
    if (status == PROA_OK)
        status = proa_cluster_card(o, dir, name, &model.card, err);
    if (status != PROA_OK)
        return status;
    proa_rank_describe(&one->rank, &model);
    return proa_worker_start(one->worker, &model, err);
}

static proa_status wait_for_client(proa_roles *r, proa_error *err)
{
    for (int64_t end = proa_clock_us() + READY_US; proa_clock_us() < end; usleep(POLL_US)) {
        proa_buf unused = {0};
        bool ready = proa_client_write_instances(r->client, &unused);
        proa_buf_free(&unused);
        if (ready)
            return PROA_OK;
    }
    return proa_error_set(err, PROA_ERR_DEADLINE,
                          "the roles of this process have not found each other in %d s", READY_US / 1000000);
}

proa_status proa_roles_open(const proa_options *o, const char *dir, const char *name, proa_roles *r,
                            proa_error *err)
{
    proa_status status = PROA_OK;
    for (int32_t i = 0; i < r->count && status == PROA_OK; i++)
        status = open_role(r, o, dir, name, i, err);
    return status == PROA_OK ? wait_for_client(r, err) : status;
}

proa_client *proa_roles_client(proa_roles *r)
{
    return r->client;
}

const proa_rank *proa_roles_rank(const proa_roles *r)
{
    return &r->roles[0].rank;
}

const proa_server_cluster *proa_roles_cluster(proa_roles *r)
{
    return &r->cluster;
}

void proa_roles_stop(proa_roles *r)
{
    if (r == NULL)
        return;
    for (int32_t i = 0; r->roles != NULL && i < r->count; i++) {
        if (r->roles[i].worker != NULL)
            proa_worker_stop(r->roles[i].worker);
    }
    proa_discovery_free(r->discovery); /* before the client, into which its hooks lead */
    r->discovery = NULL;
    proa_client_free(r->client);
    r->client = NULL;
    for (int32_t i = 0; r->roles != NULL && i < r->count; i++)
        proa_rank_stop(&r->roles[i].rank);
}

void proa_roles_free(proa_roles *r)
{
    if (r == NULL)
        return;
    proa_roles_stop(r);
    for (int32_t i = 0; r->roles != NULL && i < r->count; i++) {
        proa_worker_free(r->roles[i].worker);
        proa_rank_close(&r->roles[i].rank);
    }
    proa_kv_local_registry_free(r->local);
    proa_registry_free(r->registry);
    free(r->roles);
    free(r);
}
