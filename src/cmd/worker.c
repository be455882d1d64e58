/* worker.c - `proa worker`: a prefill, decode or combined worker of a cluster.
 *
 * The main thread loads the model, starts the engine and the worker's thread (cluster/worker.h), and then waits for signals: the
 * first SIGTERM or SIGINT drains, a second one ends at once. With several ranks, this process is the parent of the node's ranks or one
 * of them (worker_ranks.h); a rank serves once it has made a step with the others (rank_group.h).
 */
#include "base/clock.h"
#include "base/log.h"
#include "base/stacks.h"
#include "cmd/cluster_flags.h"
#include "cmd/cmd.h"
#include "cmd/rank.h"
#include "cmd/rank_record.h"
#include "cmd/watchdog.h"
#include "cmd/worker_ranks.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef struct service {
    const proa_options *options;
    proa_rank_world world;
    proa_cluster_flags flags;
    proa_discovery *discovery;
    proa_worker *worker;
    proa_rank rank;
} service;

static proa_wire_leg leg_of(const char *mode)
{
    return strcmp(mode, "prefill") == 0  ? PROA_LEG_PREFILL
           : strcmp(mode, "decode") == 0 ? PROA_LEG_DECODE
                                         : PROA_LEG_COMBINED;
}

/* The host of --dist-init-addr is this worker's first node: what others dial, if this is it. */
static void advertise(const service *s, proa_worker_options *w, char *host, size_t bytes)
{
    const char *given = proa_options_string(s->options, "advertise-host");
    const char *init = s->world.node == 0 ? proa_options_string(s->options, "dist-init-addr") : NULL;
    const char *colon = init != NULL ? strrchr(init, ':') : NULL;
    if (given != NULL)
        w->advertise_host = given;
    else if (colon != NULL && colon > init && (size_t)(colon - init) < bytes && w->security.key != NULL) {
        bool v6 = init[0] == '[' && colon[-1] == ']';
        snprintf(host, bytes, "%.*s", (int)(colon - init) - 2 * v6, init + v6);
        w->advertise_host = host;
    }
}

/* The ranks of a node have ports side by side. */
static int port_of(const service *s, const char *flag)
{
    int port = (int)proa_options_int(s->options, flag);
    return port > 0 ? port + s->world.local_rank : 0;
}

static proa_status open_worker(service *s, proa_error *err)
{
    const proa_options *o = s->options;
    char host[128];
    proa_status status = proa_cluster_flags_read(o, &s->flags, err);
    if (!proa_rank_world_leads(&s->world))
        return status; /* nobody sends requests here */
    if (status == PROA_OK)
        status = proa_discovery_create(&s->flags.discovery, &s->discovery, err);
    if (status != PROA_OK)
        return status;
    proa_wire_leg leg = leg_of(proa_options_string(o, "disaggregation-mode"));
    proa_worker_options options = proa_cluster_worker_options(o, &s->flags, leg, s->discovery);
    if (options.transfer == PROA_KV_TRANSFER_LOCAL && leg != PROA_LEG_COMBINED)
        return proa_error_set(
            err, PROA_ERR_INVALID,
            "--disaggregation-transfer-backend local is for the workers of one process, which `proa "
            "serve` starts: give ucx or nixl here");
    options.host = proa_options_string(o, "host");
    options.port = port_of(s, "port");
    options.bootstrap_port = port_of(s, "disaggregation-bootstrap-port");
    advertise(s, &options, host, sizeof host);
    return proa_worker_create(&options, &s->worker, err);
}

static proa_status load(service *s, proa_error *err)
{
    const proa_options *o = s->options;
    proa_wire_leg leg = leg_of(proa_options_string(o, "disaggregation-mode"));
    const proa_rank_use use = {
        .role = leg == PROA_LEG_PREFILL  ? PROA_ENGINE_PREFILL
                : leg == PROA_LEG_DECODE ? PROA_ENGINE_DECODE
                                         : PROA_ENGINE_COMBINED,
        .kv_event = leg != PROA_LEG_DECODE && s->worker != NULL ? proa_worker_kv_event : NULL,
        .kv_event_context = s->worker,
        .memory_share = 1.0 / s->world.local_size,
        .world = &s->world,
    };
    proa_status status = proa_rank_open(o, &use, &s->rank, err);
    if (status == PROA_OK && s->rank.group != NULL)
        status = proa_rank_group_join(s->rank.group, &s->flags.security, err);
    return status;
}

/* A rank without requests of its own only says what it does. */
static proa_status start(service *s, proa_error *err)
{
    if (s->worker == NULL) {
        proa_log(PROA_LOG_INFO, "worker", "computes attention heads for the requests of rank %d",
                 s->world.rank - s->world.attention_tp_rank);
        return PROA_OK;
    }
    const proa_options *o = s->options;
    proa_worker_model model = {.layout = &s->rank.layout};
    proa_status status = proa_cluster_card(o, s->rank.loaded.dir,
                                           proa_served_model_name(o, s->rank.loaded.dir), &model.card, err);
    if (status != PROA_OK)
        return status;
    proa_rank_describe(&s->rank, &model);
    proa_worker_ranks_card(o, &s->world, &model.card);
    return proa_worker_start(s->worker, &model, err);
}

/* Waits for a signal; false when `seconds` have passed. */
static bool wait_signal(const sigset_t *signals, double seconds)
{
    struct timespec limit = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    return sigtimedwait(signals, NULL, &limit) > 0;
}

/* Until a step was made with the other ranks; false: a signal came first. */
static bool wait_for_ranks(service *s, const sigset_t *signals, proa_status *status, proa_error *err)
{
    *status = PROA_OK;
    while (s->rank.group != NULL && (*status = proa_rank_group_wait(s->rank.group, 0.1, err)) == PROA_BUSY) {
        if (wait_signal(signals, 1e-6))
            return false;
    }
    return true;
}

/* Until a signal comes, or other ranks no longer take this one as theirs. A rank of several is watched by its group. */
static proa_status serve(service *s, const sigset_t *signals, proa_error *err)
{
    enum { LOOK_S = 1 };
    double limit_s = proa_options_real(s->options, "watchdog-timeout");
    proa_status status = PROA_OK;
    while (status == PROA_OK && !wait_signal(signals, LOOK_S)) {
        double busy_s = (double)proa_engine_busy_us(s->rank.engine) / 1e6;
        if (s->rank.group != NULL)
            status = proa_rank_group_wait(s->rank.group, 0, err);
        else if (busy_s > limit_s)
            proa_watchdog_end(
                "worker", "a step has been running for %.0f s (--watchdog-timeout): the worker ends", busy_s);
    }
    return status;
}

/* Until no request is left; and with several ranks, until none is left at those that end too, for they need the experts of all. */
static void drain(service *s, const sigset_t *signals)
{
    const double nap_s = 0.1;
    double timeout = proa_options_real(s->options, "shutdown-timeout");
    int64_t until_us = proa_clock_us() + (int64_t)(timeout * 1e6);
    proa_rank_group *group = s->rank.group;
    bool drained = false, ends = false;
    proa_log(PROA_LOG_INFO, "worker",
             "stopping: requests in flight may take %.0f s; a second signal ends them", timeout);
    if (group != NULL)
        proa_rank_group_drain(group);
    while (!ends && proa_clock_us() < until_us) {
        if (!drained && (s->worker == NULL || proa_worker_drain(s->worker, nap_s))) {
            drained = true;
            if (group != NULL)
                proa_rank_group_drained(group);
        }
        if (drained && (group == NULL || proa_rank_group_may_go(group)))
            return;
        ends = wait_signal(signals, drained ? nap_s : 1e-6);
    }
}

/* From a loaded model to the end. */
static proa_status run(service *s, const sigset_t *signals, proa_error *err)
{
    proa_status status;
    if (!wait_for_ranks(s, signals, &status, err) || status != PROA_OK)
        return status == PROA_BUSY ? PROA_OK : status;
    status = start(s, err);
    if (status != PROA_OK)
        return status;
    if (s->worker != NULL)
        printf("proa: %s worker ready on %s\n", proa_options_string(s->options, "disaggregation-mode"),
               proa_worker_address(s->worker));
    fflush(stdout);
    proa_worker_ranks_tell_ready(s->options);
    status = serve(s, signals, err);
    drain(s, signals);
    return status;
}

static void close_service(service *s)
{
    if (s->worker != NULL)
        proa_worker_stop(s->worker);
    proa_rank_stop(&s->rank);
    proa_worker_free(s->worker);
    proa_rank_close(&s->rank);
    proa_discovery_free(s->discovery);
    proa_cluster_flags_free(&s->flags);
}

static int work(service *s)
{
    const proa_options *o = s->options;
    proa_error err = {0};
    sigset_t signals;
    proa_stacks_prepare();
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals, NULL); /* in all threads that follow: the main one asks for them */
    proa_status status = open_worker(s, &err);
    if (status == PROA_OK)
        status = load(s, &err);
    if (status == PROA_OK)
        status = run(s, &signals, &err);
    close_service(s);
    if (s->world.world > 1)
        proa_error_prefix(&err, "rank %d", s->world.rank);
    int exit_status = status == PROA_OK ? PROA_EXIT_OK : proa_cmd_fail(&err);
    if (strcmp(proa_options_string(o, "disaggregation-transfer-backend"), "nixl") == 0) {
        /* NIXL's wheel brings libraries that this system has too (libnl), and their destructors crash on each other. */
        fflush(NULL);
        _exit(exit_status);
    }
    return exit_status;
}

/* Flags that one rank has no use for. */
static void say_what_is_idle(const proa_options *options)
{
    if (proa_options_bool(options, "enable-two-batch-overlap"))
        proa_log(PROA_LOG_INFO, "worker",
                 "--enable-two-batch-overlap has nothing to do: of one rank, nothing travels to others");
    if (proa_options_bool(options, "enable-eplb"))
        proa_log(PROA_LOG_INFO, "worker", "--enable-eplb has nothing to do: one rank has all experts");
}

int proa_cmd_worker(const proa_options *options)
{
    service s = {.options = options};
    proa_error err = {0};
    proa_log_set_level(proa_options_string(options, "log-level"));
    if (proa_worker_ranks_world(options, &s.world, &err) != PROA_OK ||
        proa_rank_record_check(options, &s.world, &err) != PROA_OK)
        return proa_cmd_fail(&err);
    if (proa_worker_ranks_is_parent(options, &s.world))
        return proa_worker_ranks_run(options, &s.world);
    if (s.world.world > 1)
        proa_log_set_rank(s.world.rank);
    else
        say_what_is_idle(options);
    return work(&s);
}
