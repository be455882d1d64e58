/* worker_ranks.c - see worker_ranks.h. */
#include "cmd/worker_ranks.h"

#include "base/digest.h"
#include "base/log.h"
#include "cmd/cluster_flags.h"
#include "cmd/cmd.h"
#include "cmd/deepep_config.h"
#include "cmd/load.h"
#include "cmd/ranks.h"
#include "cmd/ready.h"

#include <inttypes.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- the place ---- */

proa_rank_flags proa_worker_ranks_flags(const proa_options *o)
{
    const bool running_given = proa_options_given(o, "max-running-requests");
    return (proa_rank_flags){
        .tp_size = proa_options_int(o, "tp-size"),
        .dp_size = proa_options_int(o, "dp-size"),
        .nnodes = proa_options_int(o, "nnodes"),
        .node_rank = proa_options_int(o, "node-rank"),
        .enable_dp_attention = proa_options_bool(o, "enable-dp-attention"),
        .chunked_prefill_size = proa_options_int(o, "chunked-prefill-size"),
        .max_running_requests = running_given ? proa_options_int(o, "max-running-requests") : 0,
    };
}

proa_status proa_worker_ranks_world(const proa_options *o, proa_rank_world *world, proa_error *err)
{
    const proa_rank_flags flags = proa_worker_ranks_flags(o);
    const char *deepep = proa_options_string(o, "deepep-config");
    if (deepep != NULL && proa_deepep_config_check(deepep, err) != PROA_OK)
        return err->status;
    int64_t rank = proa_options_given(o, "rank") ? proa_options_int(o, "rank") : -1;
    proa_status status = proa_rank_world_make(&flags, rank, world, err);
    if (status == PROA_OK && world->nnodes > 1 && proa_options_string(o, "dist-init-addr") == NULL)
        return proa_error_set(
            err, PROA_ERR_INVALID,
            "--nnodes %d needs --dist-init-addr HOST:PORT, the first node's address, where the "
            "ranks meet",
            world->nnodes);
    if (status == PROA_OK && world->world > PROA_MESH_RANKS_MAX)
        return proa_error_set(err, PROA_ERR_TOO_LONG, "--tp-size %d: a worker has at most %d ranks",
                              world->world, PROA_MESH_RANKS_MAX);
    return status;
}

/* ---- the parent ---- */

/* Where the ranks of one node meet when nobody has said where: on loopback, at a port below those that the system gives to
 * connections, so that rank 0 gets it again when it is started anew. */
static bool choose_address(char *text, size_t bytes)
{
    enum { FIRST = 20000, COUNT = 12000, TRIES = 100 };
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    for (int i = 0; i < TRIES; i++) {
        int port = FIRST + (int)(((int64_t)getpid() * 7 + i) % COUNT);
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        at.sin_port = htons((uint16_t)port);
        bool is_free = fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof at) == 0;
        if (fd >= 0)
            close(fd);
        if (is_free) {
            snprintf(text, bytes, "--dist-init-addr=127.0.0.1:%d", port);
            return true;
        }
    }
    return false;
}

bool proa_worker_ranks_is_parent(const proa_options *o, const proa_rank_world *world)
{
    return world->world > 1 && !proa_options_given(o, "rank");
}

typedef struct announcement {
    const proa_options *options;
    const proa_rank_world *world;
} announcement;

static void announce(void *context)
{
    const announcement *a = context;
    printf("proa: %s worker ready, ranks %d to %d of %d\n",
           proa_options_string(a->options, "disaggregation-mode"), a->world->rank,
           a->world->rank + a->world->local_size - 1, a->world->world);
    fflush(stdout);
    proa_ready_tell(a->options);
}

/* Of a worker of one node, drawn: hosts may all have the same --dist-init-addr, on loopback. */
static void write_id(char *word, size_t bytes)
{
    uint64_t id;
    do
        proa_random_bytes(&id, sizeof id);
    while (id == 0);
    snprintf(word, bytes, "--worker-id=%016" PRIx64, id);
}

int proa_worker_ranks_run(const proa_options *o, const proa_rank_world *world)
{
    announcement told = {.options = o, .world = world};
    proa_error err = {0};
    char address[64], id[64];
    int word_count, more = 0, exit_status = PROA_EXIT_FAILED;
    proa_ranks_options ranks = {
        .first = world->rank,
        .count = world->local_size,
        .name = "proa",
        .words = proa_options_words(o, &word_count),
        .words_before = 1, /* "worker" */
        .crowded_word = proa_options_given(o, "threads") ? NULL : "--threads=1",
        .restart = strcmp(proa_options_string(o, "rank-restart"), "on") == 0,
        .shutdown_s = proa_options_real(o, "shutdown-timeout"),
        .ready = announce,
        .context = &told,
    };
    if (proa_options_string(o, "dist-init-addr") == NULL) {
        if (!choose_address(address, sizeof address)) {
            proa_error_set(&err, PROA_ERR_IO, "no port is free for the ranks to meet: give --dist-init-addr");
            return proa_cmd_fail(&err);
        }
        ranks.more_words[more++] = address;
    }
    if (world->nnodes == 1) {
        write_id(id, sizeof id);
        ranks.more_words[more++] = id;
    }
    proa_loaded_tell_of_idle_flags(o);
    if (proa_ranks_run(&ranks, &exit_status, &err) != PROA_OK)
        return proa_cmd_fail(&err);
    return exit_status;
}

/* ---- a rank ---- */

/* Flags that change what a rank computes, or how much of it is agreed upon with others. */
static const char *const int_terms[] = {"dp-size",
                                        "nnodes",
                                        "page-size",
                                        "chunked-prefill-size",
                                        "max-running-requests",
                                        "max-total-tokens",
                                        "context-length",
                                        "moe-dense-tp-size",
                                        "ep-num-redundant-experts",
                                        "eplb-rebalance-num-iterations",
                                        "eplb-rebalance-layers-per-chunk",
                                        "expert-distribution-recorder-buffer-size"};
static const char *const text_terms[] = {"disaggregation-mode",   "load-balance-method", "load-format",
                                         "activation-dtype",      "schedule-policy",     "moe-a2a-backend",
                                         "ep-dispatch-algorithm", "deepep-mode",         "eplb-algorithm"};
static const char *const bool_terms[] = {"enable-dp-attention", "enable-dp-lm-head", "disable-radix-cache",
                                         "enable-two-batch-overlap", "enable-eplb"};

static const char *const real_terms[] = {"tbo-token-distribution-threshold",
                                         "eplb-min-rebalancing-utilization-threshold"};

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

enum { TERMS = COUNT(int_terms) + COUNT(text_terms) + COUNT(bool_terms) + COUNT(real_terms) + 4 };
_Static_assert((int)TERMS <= (int)PROA_MESH_TERMS_MAX, "a greeting has room for all terms");

typedef struct terms {
    proa_mesh_term list[TERMS];
    int count;
    char names[TERMS][PROA_MESH_TERM_NAME_BYTES];
    char values[TERMS][PROA_MESH_TERM_VALUE_BYTES];
} terms;

static void add_term(terms *t, const char *dashes, const char *name, const char *value)
{
    PROA_ASSERT(t->count < (int)TERMS);
    snprintf(t->names[t->count], sizeof t->names[0], "%s%s", dashes, name);
    snprintf(t->values[t->count], sizeof t->values[0], "%s", value);
    t->list[t->count] = (proa_mesh_term){.name = t->names[t->count], .value = t->values[t->count]};
    t->count++;
}

static proa_status make_terms(const proa_options *o, uint64_t location, terms *t, proa_error *err)
{
    char dir[4096], text[32];
    proa_wire_card card;
    proa_status status = proa_model_dir(o, dir, sizeof dir, err);
    if (status == PROA_OK)
        status = proa_cluster_card(o, dir, "", &card, err);
    if (status != PROA_OK)
        return status;
    add_term(t, "", "the version of proa", proa_options_program(o)->version);
    for (int i = 0; i < COUNT(int_terms); i++) {
        snprintf(text, sizeof text, "%" PRId64, proa_options_int(o, int_terms[i]));
        add_term(t, "--", int_terms[i], text);
    }
    for (int i = 0; i < COUNT(text_terms); i++) {
        const char *value = proa_options_string(o, text_terms[i]);
        add_term(t, "--", text_terms[i], value != NULL ? value : "not given");
    }
    for (int i = 0; i < COUNT(bool_terms); i++)
        add_term(t, "--", bool_terms[i], proa_options_bool(o, bool_terms[i]) ? "on" : "off");
    for (int i = 0; i < COUNT(real_terms); i++) {
        snprintf(text, sizeof text, "%g", proa_options_real(o, real_terms[i]));
        add_term(t, "--", real_terms[i], text);
    }
    add_term(t, "--", "kv-cache-dtype", /* what it comes to: auto and bf16 are the same */
             proa_asked_kv_cache(o) == PROA_KV_CACHE_E4M3 ? "fp8_e4m3" : "auto");
    /* behind the flags, some of which go into it: these are what is named then */
    snprintf(text, sizeof text, "%016" PRIx64, card.model_digest);
    add_term(t, "", "the digest of --model-path", text);
    snprintf(text, sizeof text, "%016" PRIx64, location);
    add_term(t, "", "the digest of --init-expert-location", text);
    return PROA_OK;
}

proa_status proa_worker_ranks_join(const proa_options *o, const proa_link_security *security,
                                   const proa_rank_world *world, uint64_t location, const proa_buf *blob,
                                   const proa_mesh_hooks *hooks, void (*tick)(void *context),
                                   proa_rank_mesh **mesh, proa_error *err)
{
    terms t = {0};
    proa_status status = make_terms(o, location, &t, err);
    if (status != PROA_OK)
        return status;
    const char *init_address = proa_options_string(o, "dist-init-addr");
    if (init_address == NULL)
        return proa_error_set(err, PROA_ERR_INVALID, "--rank %d needs --dist-init-addr", world->rank);
    bool binds_host = world->rank > 0 && security->key != NULL && proa_options_given(o, "host");
    const proa_mesh_options options = {
        .rank = world->rank,
        .world = world->world,
        .init_address = init_address,
        .listen_host = binds_host ? proa_options_string(o, "host") : NULL,
        .advertise_host = proa_options_string(o, "advertise-host"),
        .security = *security,
        .terms = t.list,
        .term_count = t.count,
        .rendezvous_us = (int64_t)(proa_options_real(o, "dist-timeout") * 1e6),
        .blob = blob->data,
        .blob_bytes = blob->length,
        .hooks = *hooks,
    };
    return proa_rank_mesh_open(&options, tick, mesh, err);
}

/* ---- to frontends ---- */

static proa_wire_balance balance_of(const char *method, const char *mode)
{
    if (strcmp(method, "total_requests") == 0 || strcmp(method, "shortest_queue") == 0)
        return PROA_BALANCE_TOTAL_REQUESTS;
    if (strcmp(method, "total_tokens") == 0 || strcmp(method, "minimum_tokens") == 0)
        return PROA_BALANCE_TOTAL_TOKENS;
    bool follows = strcmp(method, "follow_bootstrap_room") == 0 ||
                   (strcmp(method, "auto") == 0 && strcmp(mode, "prefill") == 0);
    return follows ? PROA_BALANCE_FOLLOW_ROOM : PROA_BALANCE_ROUND_ROBIN;
}

/* The same at all ranks, also at those that are started again: where they meet says it when nodes share nothing else. */
static uint64_t worker_id(const proa_options *o)
{
    const char *drawn = proa_options_string(o, "worker-id"),
               *address = proa_options_string(o, "dist-init-addr");
    uint64_t id = drawn != NULL ? strtoull(drawn, NULL, 16) : proa_digest(address, strlen(address), 0);
    return id != 0 ? id : 1;
}

void proa_worker_ranks_card(const proa_options *o, const proa_rank_world *world, proa_wire_card *card)
{
    if (world->dp_size == 1)
        return;
    card->worker_id = worker_id(o);
    card->dp_rank = world->dp_rank;
    card->dp_size = world->dp_size;
    card->balance = (uint8_t)balance_of(proa_options_string(o, "load-balance-method"),
                                        proa_options_string(o, "disaggregation-mode"));
}

void proa_worker_ranks_tell_ready(const proa_options *o)
{
    if (!proa_options_given(o, "rank-ready-fd")) {
        proa_ready_tell(o);
        return;
    }
    int fd = (int)proa_options_int(o, "rank-ready-fd");
    if (write(fd, "r", 1) != 1)
        proa_log(PROA_LOG_WARN, "worker", "the parent does not hear that this rank is ready");
    close(fd);
}
