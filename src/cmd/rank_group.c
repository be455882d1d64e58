/* rank_group.c - see rank_group.h. The mesh's blob is the life of the process, the rows of its windows, the blocks of its KV cache, and the
 * address of its all-to-all. */
#include "cmd/rank_group.h"

#include "base/clock.h"
#include "base/cpu.h"
#include "base/log.h"
#include "cmd/rank_experts.h"
#include "cmd/rank_fault.h"
#include "cmd/rank_record.h"
#include "cmd/rank_leave.h"
#include "cmd/watchdog.h"
#include "cmd/worker_ranks.h"
#include "engine/group_wire.h"
#include "engine/rebalance_wire.h"
#include "model/overlap.h"
#include "net/bytes.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    MESSAGE_GROUP = 1,        /* the mesh's type of all that the group says */
    MESSAGE_EXPERTS = 2,      /* and of what is said of loads and plans */
    MESSAGE_STANDING = 3,     /* u8, a proa_rank_standing: the sender drains, or is drained */
    MESSAGE_RECORD = 4,       /* of what experts had to do, to rank 0 */
    BUFFER_BYTES = 256 << 20, /* that windows of the normal mode may take for rows of other ranks, about */
    WINDOW_ROWS_MAX = 1024,
    WINDOW_ROWS_MIN = 16,
    SPIN_US = 50,
    WATCHDOG_S_MAX = 1000000,
};

struct proa_rank_group {
    const proa_options *options;
    proa_rank_world world;
    proa_ep_group *ep;
    proa_rank_fault *fault; /* NULL: without --fault-file */
    proa_rank_mesh *mesh;
    _Atomic(proa_engine *) engine;
    uint64_t life;
    int32_t window_rows;
    int32_t kv_blocks;       /* of this rank's cache */
    uint64_t *peer_lives;    /* [world] of those that are up; the mesh's thread */
    uint64_t *message_lives; /* [world] scratch; the mesh's thread */
    proa_expert_shape expert_shape;
    uint64_t location_digest;
    proa_rank_leave *leave;
    _Atomic(uint8_t) standing; /* of this rank. Relaxed: what is missed is sent once more */
    int64_t drains_since_us;
    proa_rank_record *record;      /* NULL: nothing is recorded */
    proa_rebalance_tables *tables; /* of the message that came last; the mesh's thread */
    proa_buf out;                  /* under the group's lock: send is called with it */
};

/* ---- the group's hooks ---- */

static void on_send(void *context, int32_t rank, const proa_group_message *message)
{
    proa_rank_group *g = context;
    if (g->mesh == NULL)
        return;
    if (g->fault != NULL)
        proa_rank_fault_message(g->fault, message->kind);
    proa_buf_clear(&g->out);
    proa_group_encode(message, g->world.world, &g->out);
    if (g->out.failed || !proa_rank_mesh_post(g->mesh, rank, MESSAGE_GROUP, g->out.data, g->out.length))
        proa_log(PROA_LOG_ERROR, "ranks", "out of memory for a message to rank %d: it will miss it", rank);
}

/* One text for all: a plan is long, and goes to many. */
static void on_send_rebalance(void *context, const proa_group_mask *to, const proa_rebalance_message *message)
{
    proa_rank_group *g = context;
    if (g->mesh == NULL)
        return;
    proa_buf_clear(&g->out);
    proa_rebalance_encode(message, &g->expert_shape, &g->out);
    bool good = !g->out.failed;
    for (int32_t i = proa_group_mask_lowest(to); i >= 0 && good; i = proa_group_mask_next(to, i))
        good = proa_rank_mesh_post(g->mesh, i, MESSAGE_EXPERTS, g->out.data, g->out.length);
    if (!good)
        proa_log(PROA_LOG_ERROR, "ranks", "out of memory for a message about experts: it is not sent");
}

static void on_nudge(void *context)
{
    proa_rank_group *g = context;
    proa_engine *engine = atomic_load_explicit(&g->engine, memory_order_acquire);
    if (engine != NULL)
        proa_engine_nudge(engine);
}

static void on_stuck(void *context, const char *why)
{
    const proa_rank_group *g = context;
    proa_watchdog_end("ranks", "rank %d cannot go on, and ends: %s", g->world.rank, why);
}

/* ---- the mesh's hooks ---- */

/* A rank that drains says so: to one that has come, and to all when that changes. */
static void tell_standing(proa_rank_group *g, int rank)
{
    uint8_t standing = atomic_load_explicit(&g->standing, memory_order_relaxed);
    if (standing != PROA_RANK_SERVES && g->mesh != NULL)
        proa_rank_mesh_post(g->mesh, rank, MESSAGE_STANDING, &standing, sizeof standing);
}

/* A follower has room for all rows of its leader. */
static bool caches_fit(const proa_rank_group *g, int rank, int32_t blocks)
{
    const proa_rank_world *w = &g->world;
    int32_t leader = w->rank - w->attention_tp_rank;
    bool theirs = rank != w->rank && rank / w->attention_tp_size == w->dp_rank;
    if (!theirs || (w->rank != leader && rank != leader))
        return true;
    int32_t leaders = rank == leader ? blocks : g->kv_blocks;
    int32_t followers = rank == leader ? g->kv_blocks : blocks;
    if (followers >= leaders)
        return true;
    proa_log(PROA_LOG_ERROR, "ranks",
             "rank %d has a KV cache of %d blocks, rank %d, which computes heads for its requests, one of "
             "%d: give "
             "all ranks the same --max-total-tokens, at most %lld",
             leader, leaders, rank == leader ? w->rank : rank, followers,
             (long long)followers * PROA_KV_BLOCK_TOKENS);
    return false;
}

static void on_peer_up(void *context, int rank, uint64_t incarnation, const uint8_t *blob, size_t bytes)
{
    proa_rank_group *g = context;
    proa_reader r = proa_reader_of(blob, bytes);
    uint64_t life = proa_get_u64(&r);
    int32_t rows = proa_get_i32(&r), blocks = proa_get_i32(&r);
    (void)incarnation;
    if (r.failed || life == 0 || rows != g->window_rows) {
        proa_log(PROA_LOG_ERROR, "ranks",
                 "rank %d has windows of %d rows, this one of %d, so they cannot step together: give all "
                 "ranks the same "
                 "--max-total-tokens, --chunked-prefill-size and --max-running-requests",
                 rank, rows, g->window_rows);
        return;
    }
    if (!caches_fit(g, rank, blocks))
        return;
    g->peer_lives[rank] = life;
    proa_rank_leave_note(g->leave, rank, PROA_RANK_SERVES);
    tell_standing(g, rank);
    proa_ep_group_peer_up(g->ep, rank, life, blob + r.at, proa_reader_left(&r));
}

static bool all_leave(const proa_rank_group *g)
{
    return atomic_load_explicit(&g->standing, memory_order_relaxed) == PROA_RANK_DRAINED &&
           proa_rank_leave_may_go(g->leave, 0);
}

static void on_peer_down(void *context, int rank, const proa_error *why)
{
    proa_rank_group *g = context;
    (void)why; /* the mesh has said it */
    uint64_t life = g->peer_lives[rank];
    if (life == 0)
        return;
    g->peer_lives[rank] = 0;
    proa_rank_leave_note(g->leave, rank, PROA_RANK_GONE);
    if (!all_leave(g)) /* else nothing is computed here any more: no view is needed */
        proa_ep_group_peer_down(g->ep, rank, life);
}

static void take_group(proa_rank_group *g, int rank, const uint8_t *body, size_t length, proa_error *err)
{
    proa_group_message message;
    if (proa_group_decode(body, length, g->world.world, g->message_lives, &message, err) != PROA_OK)
        return;
    if (message.from != rank || message.life != g->peer_lives[rank])
        proa_error_set(err, PROA_ERR_PROTOCOL, "it speaks for rank %d", message.from);
    else
        proa_ep_group_receive(g->ep, &message);
}

static void take_experts(proa_rank_group *g, int rank, const uint8_t *body, size_t length, proa_error *err)
{
    proa_rebalance_message message;
    if (proa_rebalance_decode(body, length, &g->expert_shape, g->tables, &message, err) != PROA_OK)
        return;
    if (message.from != rank)
        proa_error_set(err, PROA_ERR_PROTOCOL, "it speaks for rank %d", message.from);
    else
        proa_ep_group_receive_rebalance(g->ep, &message);
}

static void take_standing(proa_rank_group *g, int rank, const uint8_t *body, size_t length, proa_error *err)
{
    if (length != 1 || (body[0] != PROA_RANK_DRAINS && body[0] != PROA_RANK_DRAINED))
        proa_error_set(err, PROA_ERR_PROTOCOL, "%zu bytes are no standing", length);
    else if (g->peer_lives[rank] != 0)
        proa_rank_leave_note(g->leave, rank, (proa_rank_standing)body[0]);
}

static void on_message(void *context, int rank, uint16_t type, const uint8_t *body, size_t length)
{
    proa_rank_group *g = context;
    proa_error err = {0};
    switch (type) {
    case MESSAGE_GROUP: take_group(g, rank, body, length, &err); break;
    case MESSAGE_EXPERTS: take_experts(g, rank, body, length, &err); break;
    case MESSAGE_RECORD:
        if (g->record != NULL)
            proa_rank_record_receive(g->record, rank, body, length, &err);
        break;
    case MESSAGE_STANDING: take_standing(g, rank, body, length, &err); break;
    default: proa_error_set(&err, PROA_ERR_PROTOCOL, "type %u is not known", type); break;
    }
    if (err.status != PROA_OK)
        proa_log(PROA_LOG_WARN, "ranks", "refused a message of rank %d: %s", rank, err.text);
}

static void on_send_record(void *context, const proa_buf *body)
{
    const proa_rank_group *g = context;
    if (g->mesh != NULL &&
        (body->failed || !proa_rank_mesh_post(g->mesh, 0, MESSAGE_RECORD, body->data, body->length)))
        proa_log(PROA_LOG_ERROR, "ranks", "out of memory for a record's part: rank 0 will miss it");
}

static void on_tick(void *context)
{
    const proa_rank_group *g = context;
    if (g->fault != NULL)
        proa_rank_fault_tick(g->fault);
    proa_ep_group_tick(g->ep);
    if (g->record != NULL)
        proa_rank_record_tick(g->record);
}

/* ---- life ---- */

static uint64_t draw_life(void)
{
    uint64_t life;
    proa_random_bytes(&life, sizeof life);
    return life != 0 ? life : 1;
}

static bool overlaps(const proa_options *o)
{
    return proa_options_bool(o, "enable-two-batch-overlap");
}

static bool is_low_latency(const proa_options *o)
{
    return strcmp(proa_options_string(o, "deepep-mode"), "low_latency") == 0;
}

/* Rows of the one window that has all of a step, or of its larger half, or of a rank's slice of it. */
static int32_t whole_window(const proa_options *o, const proa_rank_world *w, int32_t step_rows)
{
    return overlaps(o)
               ? proa_overlap_half_rows(step_rows, proa_options_real(o, "tbo-token-distribution-threshold"))
               : proa_team_slice_max(step_rows, w->attention_tp_size);
}

int32_t proa_rank_group_chunk(const proa_options *o, const proa_rank_world *w, int32_t running)
{
    int32_t chunk = w->chunked_prefill_size;
    if (!is_low_latency(o) || w->world == 1 || chunk < 0 || whole_window(o, w, running + 1) > WINDOW_ROWS_MAX)
        return chunk;
    while (whole_window(o, w, running + chunk) > WINDOW_ROWS_MAX)
        chunk--;
    return chunk;
}

/* Rows of a window: the whole one in the low-latency mode; else what the buffers allow. */
static proa_status choose_window(const proa_options *o, const proa_rank_world *w, const proa_model_config *m,
                                 int32_t step_rows, int32_t *rows, proa_error *err)
{
    bool low_latency = is_low_latency(o);
    int32_t lanes = overlaps(o) ? 2 : 1;
    int32_t most = whole_window(o, w, step_rows);
    /* per row of a window: what comes from each rank as floats, and the outputs for them */
    int64_t row_bytes =
        (int64_t)lanes * w->world * m->hidden_size * (4 + 2 * (int64_t)m->num_experts_per_tok);
    int64_t fitting = BUFFER_BYTES / row_bytes;
    fitting = fitting < WINDOW_ROWS_MIN   ? WINDOW_ROWS_MIN
              : fitting > WINDOW_ROWS_MAX ? WINDOW_ROWS_MAX
                                          : fitting;
    *rows = low_latency || most < fitting ? most : (int32_t)fitting;
    if (*rows <= WINDOW_ROWS_MAX)
        return PROA_OK;
    return proa_error_set(
        err, PROA_ERR_TOO_LONG,
        "--deepep-mode low_latency: a step of a rank may have %d tokens (--chunked-prefill-size and "
        "--max-running-requests, divided by --dp-size), %d in a window, where %d are possible: lower "
        "--max-running-requests, or use normal",
        step_rows, most, WINDOW_ROWS_MAX);
}

static proa_status check_flags(const proa_options *o, const proa_rank_world *w, const proa_model_config *m,
                               proa_error *err)
{
    const char *dispatch = proa_options_string(o, "ep-dispatch-algorithm");
    if (w->attention_tp_size > 1 && overlaps(o))
        return proa_error_set(
            err, PROA_ERR_UNSUPPORTED,
            "--enable-two-batch-overlap with %d ranks that share the heads of attention (--tp-size %d / "
            "--dp-size %d): the two do not go together yet; leave it out, or give --dp-size %d "
            "--enable-dp-attention",
            w->attention_tp_size, w->world, w->dp_size, w->world);
    if (m->n_routed_experts == 0)
        return proa_error_set(err, PROA_ERR_UNSUPPORTED,
                              "--tp-size %d: the model has no routed experts that ranks could share",
                              w->world);
    if (dispatch != NULL && strcmp(dispatch, "fake") == 0 && w->rank == 0)
        proa_log(PROA_LOG_WARN, "ranks",
                 "--ep-dispatch-algorithm fake: tokens go to experts in turn, whatever the router says. The "
                 "loads are "
                 "even, for measurements; the answers mean nothing");
    return PROA_OK;
}

static proa_ep_group_dispatch dispatch_of(const char *name)
{
    if (name != NULL && strcmp(name, "dynamic") == 0)
        return PROA_EP_DISPATCH_DYNAMIC;
    return name != NULL && strcmp(name, "fake") == 0 ? PROA_EP_DISPATCH_FAKE : PROA_EP_DISPATCH_STATIC;
}

static proa_status make_ep(proa_rank_group *g, const proa_model_config *config, proa_precision precision,
                           const proa_forward_limits *limits, proa_error *err)
{
    const proa_options *o = g->options;
    const char *dispatch = proa_options_string(o, "ep-dispatch-algorithm");
    proa_rank_experts experts;
    proa_ep_group_options options = {
        .ranks = g->world.world,
        .rank = g->world.rank,
        .nodes = g->world.nnodes,
        .life = g->life,
        .redundant_experts = (int32_t)proa_options_int(o, "ep-num-redundant-experts"),
        .dispatch = dispatch_of(dispatch),
        .two_batch_overlap = overlaps(o),
        .rows_max = g->window_rows,
        .team_size = g->world.attention_tp_size,
        .step_limits = *limits,
        .deadline_us = (int64_t)(fmin(proa_options_real(o, "watchdog-timeout"), WATCHDOG_S_MAX) * 1e6),
        .spin_us = proa_cpu_core_count() > g->world.local_size ? SPIN_US : 0,
        .hooks = {.send = on_send,
                  .send_rebalance = on_send_rebalance,
                  .nudge = on_nudge,
                  .stuck = on_stuck,
                  .context = g},
    };
    if (!proa_eplb_algorithm_parse(proa_options_string(o, "eplb-algorithm"), &options.algorithm))
        options.algorithm = PROA_EPLB_AUTO;
    proa_status status = proa_rank_experts_read(o, &g->world, config, &experts, err);
    if (status != PROA_OK)
        return status;
    options.rebalance = experts.rebalance;
    options.record = g->record != NULL;
    options.location = &experts.location;
    g->location_digest = experts.digest;
    status = proa_ep_group_create(&options, config, precision, &g->ep, err);
    if (status == PROA_OK)
        g->expert_shape = proa_ep_group_expert_shape(g->ep);
    proa_rank_experts_free(&experts);
    return status;
}

proa_status proa_rank_group_create(const proa_options *o, const proa_rank_world *world,
                                   const proa_model_config *config, proa_precision precision,
                                   const proa_forward_limits *limits, proa_rank_group **out, proa_error *err)
{
    int32_t rows;
    *out = NULL;
    proa_status status = check_flags(o, world, config, err);
    if (status == PROA_OK)
        status = choose_window(o, world, config, limits->rows_max, &rows, err);
    if (status != PROA_OK)
        return status;
    int32_t chunk = limits->rows_max - limits->logit_rows_max;
    if (world->rank == 0 && is_low_latency(o) && chunk < world->chunked_prefill_size)
        proa_log(PROA_LOG_INFO, "ranks",
                 "--deepep-mode low_latency: prompts that this worker computes go %d tokens a step and rank, "
                 "not %d (--chunked-prefill-size): a step has %d at most, with its running requests",
                 chunk, world->chunked_prefill_size, WINDOW_ROWS_MAX);
    proa_rank_group *g = calloc(1, sizeof *g);
    if (g == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the group of ranks");
    g->options = o;
    g->world = *world;
    g->life = draw_life();
    g->window_rows = rows;
    g->peer_lives = calloc(2 * (size_t)world->world, sizeof *g->peer_lives);
    const char *fault_file = proa_options_string(o, "fault-file");
    if (fault_file != NULL)
        g->fault = proa_rank_fault_create(fault_file, world->rank);
    g->message_lives = g->peer_lives != NULL ? g->peer_lives + world->world : NULL;
    g->tables = calloc(1, sizeof *g->tables);
    g->leave = proa_rank_leave_create(world->world);
    atomic_init(&g->standing, PROA_RANK_SERVES);
    const proa_rank_record_hooks hooks = {.send = on_send_record, .context = g};
    bool records = proa_options_string(o, "expert-distribution-recorder-mode") != NULL;
    if (records)
        g->record = proa_rank_record_create(o, world, config, &hooks);
    status = g->peer_lives != NULL && g->tables != NULL && g->leave != NULL && (g->record != NULL || !records)
                 ? make_ep(g, config, precision, limits, err)
                 : proa_error_set(err, PROA_ERR_MEMORY, "no memory for the group of ranks");
    if (status != PROA_OK) {
        proa_rank_group_close(g);
        return status;
    }
    *out = g;
    return PROA_OK;
}

bool proa_rank_group_records(const proa_rank_group *g)
{
    return g->record != NULL;
}

void proa_rank_group_record(void *group, proa_wire_record action)
{
    proa_rank_group *g = group;
    proa_rank_record_act(g->record, g->ep, action);
}

proa_ep_group *proa_rank_group_ep(proa_rank_group *g)
{
    return g->ep;
}

proa_exchange proa_rank_group_exchange(proa_rank_group *g)
{
    proa_exchange exchange = proa_ep_group_exchange(g->ep);
    return g->fault != NULL ? proa_rank_fault_wrap(g->fault, &exchange) : exchange;
}

void proa_rank_group_set_engine(proa_rank_group *g, proa_engine *engine)
{
    atomic_store_explicit(&g->engine, engine, memory_order_release); /* made before: seen by who nudges */
    if (engine != NULL)
        proa_engine_nudge(engine);
}

proa_status proa_rank_group_join(proa_rank_group *g, const proa_link_security *security, proa_error *err)
{
    const proa_mesh_hooks hooks = {
        .peer_up = on_peer_up, .peer_down = on_peer_down, .message = on_message, .context = g};
    proa_buf blob = {0};
    size_t bytes;
    g->kv_blocks = proa_forward_limits_of(proa_ep_group_forward(g->ep))->kv_blocks;
    const void *address = proa_ep_group_address(g->ep, &bytes);
    proa_put_u64(&blob, g->life);
    proa_put_i32(&blob, g->window_rows);
    proa_put_i32(&blob, g->kv_blocks);
    proa_buf_append(&blob, address, bytes);
    proa_status status =
        blob.length <= PROA_MESH_BLOB_BYTES_MAX && !blob.failed
            ? proa_worker_ranks_join(g->options, security, &g->world, g->location_digest, &blob, &hooks,
                                     on_tick, &g->mesh, err)
            : proa_error_set(err, PROA_ERR_UNSUPPORTED,
                             "UCX's address has %zu bytes: name fewer devices in UCX_NET_DEVICES", bytes);
    proa_buf_free(&blob);
    return status;
}

proa_status proa_rank_group_wait(proa_rank_group *g, double seconds, proa_error *err)
{
    int64_t deadline = proa_clock_us() + (int64_t)(seconds * 1e6);
    proa_status status = proa_rank_mesh_wait(g->mesh, seconds, err);
    while (status == PROA_OK) {
        proa_ep_group_stats stats;
        proa_ep_group_get_stats(g->ep, &stats);
        if (stats.steps > 0)
            return PROA_OK;
        if (proa_clock_us() >= deadline)
            return PROA_BUSY;
        usleep(1000);
        status = proa_rank_mesh_wait(g->mesh, 0, err);
    }
    return status;
}

static void set_standing(proa_rank_group *g, proa_rank_standing standing)
{
    atomic_store_explicit(&g->standing, (uint8_t)standing, memory_order_relaxed);
    for (int i = 0; i < g->world.world; i++) {
        if (i != g->world.rank)
            tell_standing(g, i);
    }
}

void proa_rank_group_drain(proa_rank_group *g)
{
    g->drains_since_us = proa_clock_us();
    set_standing(g, PROA_RANK_DRAINS);
}

void proa_rank_group_drained(proa_rank_group *g)
{
    set_standing(g, PROA_RANK_DRAINED);
}

bool proa_rank_group_may_go(const proa_rank_group *g)
{
    return proa_rank_leave_may_go(g->leave, proa_clock_us() - g->drains_since_us);
}

void proa_rank_group_stop(proa_rank_group *g)
{
    if (g == NULL)
        return;
    proa_ep_group_stop(g->ep);
    atomic_store_explicit(&g->engine, NULL, memory_order_release);
    proa_rank_mesh_close(g->mesh); /* the others see that it goes, and nobody nudges any more */
    g->mesh = NULL;
}

void proa_rank_group_close(proa_rank_group *g)
{
    if (g == NULL)
        return;
    proa_rank_mesh_close(g->mesh);
    proa_ep_group_free(g->ep);
    proa_rank_record_free(g->record);
    proa_rank_fault_free(g->fault);
    proa_buf_free(&g->out);
    free(g->peer_lives);
    free(g->tables);
    proa_rank_leave_free(g->leave);
    free(g);
}
