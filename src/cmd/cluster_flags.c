/* cluster_flags.c - see cluster_flags.h. */
#include "cmd/cluster_flags.h"

#include "base/log.h"
#include "cmd/load.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* /tmp/proa-UID: made if need be; must be this user's own and closed to others, since whoever can write there names workers. */
static proa_status user_folder(char *path, size_t bytes, proa_error *err)
{
    struct stat s;
    snprintf(path, bytes, "/tmp/proa-%u", (unsigned)getuid());
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return proa_error_set(err, PROA_ERR_IO, "mkdir %s: %s; give --discovery-path DIR", path,
                              strerror(errno));
    if (lstat(path, &s) != 0 || !S_ISDIR(s.st_mode) || s.st_uid != getuid() || (s.st_mode & 077) != 0)
        return proa_error_set(
            err, PROA_ERR_INVALID,
            "%s is not a folder that only this user can open: remove it or give --discovery-path DIR", path);
    snprintf(path + strlen(path), bytes - strlen(path), "/discovery");
    return PROA_OK;
}

static proa_status read_discovery(const proa_options *o, proa_cluster_flags *f, proa_error *err)
{
    const char *endpoints = proa_options_string(o, "etcd-endpoints");
    const char *backend = proa_options_string(o, "discovery-backend");
    const char *path = proa_options_string(o, "discovery-path");
    if (strcmp(backend, "auto") == 0)
        backend = endpoints != NULL && path == NULL ? "etcd" : "file";
    if (strcmp(backend, "etcd") == 0 && endpoints == NULL)
        endpoints = "http://127.0.0.1:2379";
    if (strcmp(backend, "mem") == 0)
        return proa_error_set(
            err, PROA_ERR_INVALID,
            "--discovery-backend mem is for the roles of one process, which `proa serve` starts: "
            "give file or etcd here");
    if (path != NULL)
        snprintf(f->discovery_path, sizeof f->discovery_path, "%s", path);
    else if (strcmp(backend, "file") == 0) {
        proa_status status = user_folder(f->discovery_path, sizeof f->discovery_path, err);
        if (status != PROA_OK)
            return status;
    }
    f->discovery = (proa_discovery_options){
        .backend = backend,
        .path = f->discovery_path,
        .endpoints = endpoints,
        .lease_s = proa_options_real(o, "discovery-lease"),
    };
    return PROA_OK;
}

proa_status proa_cluster_flags_read(const proa_options *o, proa_cluster_flags *f, proa_error *err)
{
    *f = (proa_cluster_flags){0};
    proa_status status = proa_link_read_key(proa_options_string(o, "cluster-key"),
                                            proa_options_string(o, "cluster-key-file"), &f->key, err);
    if (status == PROA_OK)
        status = read_discovery(o, f, err);
    if (status != PROA_OK)
        return status;
    f->security = (proa_link_security){
        .key = f->key,
        .tls_cert_path = proa_options_string(o, "cluster-tls-cert"),
        .tls_key_path = proa_options_string(o, "cluster-tls-key"),
        .tls_ca_path = proa_options_string(o, "cluster-tls-ca"),
    };
    if (strcmp(proa_options_string(o, "request-plane"), "nats") == 0) {
        f->nats_server = proa_options_string(o, "nats-server");
        if (f->nats_server == NULL)
            f->nats_server = "nats://127.0.0.1:4222";
    }
    return PROA_OK;
}

void proa_cluster_flags_free(proa_cluster_flags *f)
{
    free(f->key);
    *f = (proa_cluster_flags){0};
}

static proa_router_mode router_mode(const char *name)
{
    return strcmp(name, "random") == 0         ? PROA_ROUTER_RANDOM
           : strcmp(name, "least-loaded") == 0 ? PROA_ROUTER_LEAST_LOADED
           : strcmp(name, "kv") == 0           ? PROA_ROUTER_KV
                                               : PROA_ROUTER_ROUND_ROBIN;
}

proa_client_options proa_cluster_client_options(const proa_options *o, const proa_cluster_flags *f,
                                                proa_discovery *discovery)
{
    return (proa_client_options){
        .namespace_name = proa_options_string(o, "namespace"),
        .discovery = discovery,
        .security = f->security,
        .identity = proa_link_identity_draw("frontend"),
        .router_mode = router_mode(proa_options_string(o, "router-mode")),
        .kv_overlap_weight = proa_options_real(o, "router-kv-overlap-score-weight"),
        .migration_limit = (int32_t)proa_options_int(o, "migration-limit"),
        .nats_server = f->nats_server,
        .wants_files = true,
    };
}

static proa_kv_transfer_kind transfer_kind(const char *name)
{
    return strcmp(name, "local") == 0  ? PROA_KV_TRANSFER_LOCAL
           : strcmp(name, "nixl") == 0 ? PROA_KV_TRANSFER_NIXL
                                       : PROA_KV_TRANSFER_UCX;
}

proa_worker_options proa_cluster_worker_options(const proa_options *o, const proa_cluster_flags *f,
                                                proa_wire_leg leg, proa_discovery *discovery)
{
    return (proa_worker_options){
        .leg = leg,
        .namespace_name = proa_options_string(o, "namespace"),
        .discovery = discovery,
        .security = f->security,
        .transfer = transfer_kind(proa_options_string(o, "disaggregation-transfer-backend")),
        .transfer_options = {.nixl_library = proa_options_string(o, "nixl-library")},
        .limits =
            {
                .waiting_us = (int64_t)(proa_options_real(o, "disaggregation-waiting-timeout") * 1e6),
                .transfer_us = (int64_t)(proa_options_real(o, "disaggregation-transfer-timeout") * 1e6),
                .abort_us = 500000,
                .starved_us = 3000000,
            },
        .nats_server = f->nats_server,
    };
}

proa_status proa_cluster_card(const proa_options *o, const char *dir, const char *name, proa_wire_card *card,
                              proa_error *err)
{
    *card = (proa_wire_card){0};
    proa_status status = proa_worker_describe_model(dir, card, err);
    /* what changes tokens must be the same everywhere: PROA_WIRE_DIGEST_FLAGS */
    const char *format = proa_options_string(o, "load-format"),
               *dtype = proa_options_string(o, "activation-dtype");
    card->model_digest ^= (strcmp(format, "proof") == 0   ? 1u
                           : strcmp(format, "dummy") == 0 ? 2u
                                                          : 0u) |
                          (strcmp(dtype, "float32") == 0 ? 4u : 0u) |
                          (proa_asked_kv_cache(o) == PROA_KV_CACHE_E4M3 ? 8u : 0u);
    snprintf(card->model_name, sizeof card->model_name, "%s", name);
    snprintf(card->model_path, sizeof card->model_path, "%s", dir);
    return status;
}
