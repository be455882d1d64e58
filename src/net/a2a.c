/* a2a.c - life, messages and waits of an all-to-all. */
#include "net/a2a_internal.h"

#include "base/carver.h"
#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 64, DEADLINE_US = 3000000, NAP_US = 2000 };

a2a_parts proa_a2a_parts(const proa_a2a *a, size_t rows, size_t slots)
{
    a2a_parts p;
    size_t scales = (size_t)a->groups * sizeof(float);
    p.experts = proa_round_up(rows, 8);
    p.rows = p.experts + proa_round_up(slots * sizeof(uint16_t), 8);
    p.scales = p.rows + proa_round_up(rows * (a->row_bytes - scales), 8);
    p.bytes = p.scales + rows * scales;
    return p;
}

/* ---- messages in ---- */

static bool fits(const proa_a2a *a, const a2a_header *h, size_t bytes)
{
    size_t rows_max = (size_t)a->options.rows_max;
    if (a->epoch == 0 || h->epoch != a->epoch || h->lane >= a->options.lanes || h->rows > rows_max ||
        h->slots > rows_max * (size_t)a->most)
        return false;
    if (h->kind == A2A_DISPATCH)
        return h->slots >= h->rows && (h->rows > 0 || h->slots == 0) &&
               bytes == (h->rows > 0 ? proa_a2a_parts(a, h->rows, h->slots).bytes : 0);
    return h->kind == A2A_OUTPUTS && bytes == h->slots * a->output_bytes;
}

static void *land_rows(a2a_lane *lane, int32_t from, const a2a_header *h)
{
    a2a_region *region = proa_a2a_region(lane, from, h->turn);
    const a2a_region *before = proa_a2a_region(lane, from, h->turn - 1);
    bool now = h->turn == lane->turn && lane->state == A2A_SENT, early = h->turn == lane->turn + 1;
    bool busy = (before->landing || (before->there && before->header.rows > 0)) &&
                (lane->state == A2A_SENT || lane->state == A2A_WORKING);
    if (!(now || early) || lane->state == A2A_BROKEN || region->there || region->landing ||
        (early && h->rows > 0 && busy))
        return NULL;
    region->landing = true;
    return region->data;
}

static void *land_outputs(const proa_a2a *a, a2a_lane *lane, int32_t from, const a2a_header *h)
{
    bool wanted = h->turn == lane->turn &&
                  (lane->state == A2A_SENT || lane->state == A2A_WORKING || lane->state == A2A_RETURNED);
    if (!wanted || (int64_t)h->slots != lane->sent_slots[from] || lane->output_there[from] ||
        lane->output_landing[from])
        return NULL;
    lane->output_landing[from] = true;
    return lane->outputs + (size_t)lane->output_offsets[from] * a->output_bytes;
}

static void *on_land(void *context, int32_t from, const uint8_t *header, size_t bytes)
{
    proa_a2a *a = context;
    a2a_header h;
    memcpy(&h, header, sizeof h);
    void *to = NULL;
    if (header[PROA_POST_CHANNEL] != 0) {
        bool heard = a->live[from] && a->beside.land != NULL;
        to = heard ? a->beside.land(a->beside.context, from, header, bytes) : NULL;
    } else if (a->live[from] && fits(a, &h, bytes)) {
        a2a_lane *lane = &a->lanes[h.lane];
        to = h.kind == A2A_DISPATCH ? land_rows(lane, from, &h) : land_outputs(a, lane, from, &h);
    }
    a->stats.dropped += to == NULL;
    return to;
}

static void on_landed(void *context, int32_t from, const uint8_t *header, size_t bytes)
{
    proa_a2a *a = context;
    a2a_header h;
    memcpy(&h, header, sizeof h);
    if (header[PROA_POST_CHANNEL] != 0) {
        if (a->beside.landed != NULL)
            a->beside.landed(a->beside.context, from, header, bytes);
        return;
    }
    if (h.epoch != a->epoch)
        return; /* begun before the epoch changed */
    a2a_lane *lane = &a->lanes[h.lane];
    if (h.kind == A2A_DISPATCH) {
        a2a_region *region = proa_a2a_region(lane, from, h.turn);
        region->header = h;
        region->landing = false;
        region->there = true;
    } else {
        lane->output_landing[from] = false;
        lane->output_there[from] = true;
    }
}

/* A wait for it finds out, and a send. Mostly the links among ranks have said it first. */
static void on_lost(void *context, int32_t rank, const proa_error *why)
{
    proa_a2a *a = context;
    if (!a->live[rank])
        return;
    a->lost = rank;
    a->lost_why = *why;
}

/* ---- messages out ---- */

static void blame_nobody(proa_a2a *a)
{
    memset(a->suspects, 0, (size_t)a->options.ranks * sizeof *a->suspects);
}

proa_status proa_a2a_break(proa_a2a *a, a2a_lane *lane, int32_t suspect, proa_status status)
{
    lane->state = A2A_BROKEN;
    blame_nobody(a);
    if (suspect >= 0)
        a->suspects[suspect] = true;
    return status;
}

proa_status proa_a2a_send(proa_a2a *a, a2a_lane *lane, int32_t to, const a2a_header *header, const void *data,
                          size_t bytes, proa_error *err)
{
    uint8_t raw[PROA_POST_HEADER_BYTES] = {0};
    memcpy(raw, header, sizeof *header);
    proa_status status = proa_post_send(a->post, to, raw, data, bytes, err);
    if (status != PROA_OK)
        return proa_a2a_break(a, lane, to, status);
    a->stats.messages++;
    return PROA_OK;
}

/* ---- waits ---- */

static int32_t count_missing(const proa_a2a *a, const a2a_lane *lane,
                             bool (*ready)(const proa_a2a *, const a2a_lane *, int32_t))
{
    int32_t count = 0;
    for (int32_t i = 0; i < a->options.ranks; i++) {
        bool missing = a->live[i] && i != a->options.rank && !ready(a, lane, i);
        atomic_store_explicit(&a->watch.missing[i], missing, memory_order_relaxed);
        count += missing;
    }
    return count;
}

/* All that are missing are suspects; their numbers as far as there is room, "3, 7". */
static void blame_missing(proa_a2a *a, const a2a_lane *lane,
                          bool (*ready)(const proa_a2a *, const a2a_lane *, int32_t), char *text,
                          size_t bytes)
{
    size_t used = 0;
    text[0] = 0;
    for (int32_t i = 0; i < a->options.ranks; i++) {
        a->suspects[i] = a->live[i] && i != a->options.rank && !ready(a, lane, i);
        if (a->suspects[i] && used + 16 < bytes)
            used += (size_t)snprintf(text + used, bytes - used, "%s%d", used > 0 ? ", " : "", i);
    }
}

static proa_status give_up(proa_a2a *a, a2a_lane *lane,
                           bool (*ready)(const proa_a2a *, const a2a_lane *, int32_t), const char *what,
                           int64_t waited_us, proa_error *err)
{
    char missing[200];
    proa_a2a_break(a, lane, -1, PROA_ERR_DEADLINE);
    blame_missing(a, lane, ready, missing, sizeof missing);
    return proa_error_set(err, PROA_ERR_DEADLINE,
                          "no %s from rank %s for %.1f s (layer %d, window %llu of epoch %llx)", what,
                          missing, (double)waited_us / 1e6, lane->layer, (unsigned long long)lane->turn,
                          (unsigned long long)a->epoch);
}

static proa_status wait_for_all(proa_a2a *a, a2a_lane *lane,
                                bool (*ready)(const proa_a2a *, const a2a_lane *, int32_t), const char *what,
                                proa_error *err)
{
    int64_t begun = proa_clock_us(), last = begun, now = begun;
    int32_t missing = a->options.ranks, left;
    proa_status status = PROA_OK;
    while ((left = count_missing(a, lane, ready)) > 0) {
        if (proa_a2a_is_abandoned(a)) {
            proa_error_set(err, PROA_ERR_CANCELLED, "the ranks of the group have changed");
            status = proa_a2a_break(a, lane, -1, PROA_ERR_CANCELLED);
            break;
        }
        bool any = proa_post_progress(a->post);
        if (a->lost >= 0) {
            *err = a->lost_why;
            status = proa_a2a_break(a, lane, a->lost, PROA_ERR_UNREACHABLE);
            break;
        }
        now = proa_clock_us();
        if (left < missing)
            last = now; /* not what else may come: only who was waited for */
        missing = left;
        if (now - last >= a->options.deadline_us &&
            count_missing(a, lane, ready) > 0) /* this thread may have slept */
            return give_up(a, lane, ready, what, now - last, err);
        if (!any && now - last >= a->options.spin_us)
            proa_post_wait(a->post, NAP_US);
    }
    a->stats.wait_us += (uint64_t)(now - begun);
    return status;
}

proa_status proa_a2a_wait(proa_a2a *a, a2a_lane *lane,
                          bool (*ready)(const proa_a2a *, const a2a_lane *, int32_t), const char *what,
                          proa_error *err)
{
    proa_a2a_wait_begins(a, what);
    proa_status status = wait_for_all(a, lane, ready, what, err);
    proa_a2a_wait_ends(a);
    return status;
}

bool proa_a2a_progress(proa_a2a *a)
{
    bool any = false;
    while (proa_post_progress(a->post))
        any = true;
    return any;
}

bool proa_a2a_owes(const proa_a2a *a)
{
    bool any = false;
    for (int32_t i = 0; i < a->options.ranks; i++)
        any = any || (a->live[i] && i != a->options.rank && proa_post_pending(a->post, i) > 0);
    return any;
}

void proa_a2a_abandon(proa_a2a *a)
{
    atomic_store_explicit(&a->abandoned, true, memory_order_release);
    proa_post_wake(a->post);
}

bool proa_a2a_is_abandoned(const proa_a2a *a)
{
    return atomic_load_explicit(&a->abandoned, memory_order_acquire);
}

void proa_a2a_set_beside(proa_a2a *a, const proa_post_hooks *hooks)
{
    a->beside = *hooks;
}

const bool *proa_a2a_suspects(const proa_a2a *a)
{
    return a->suspects;
}

void proa_a2a_get_stats(const proa_a2a *a, proa_a2a_stats *stats)
{
    *stats = a->stats;
}

/* ---- epochs ---- */

static void reset_lane(const proa_a2a *a, a2a_lane *lane)
{
    lane->state = A2A_IDLE;
    lane->turn = 0;
    for (int32_t i = 0; i < a->options.ranks; i++) {
        lane->regions[2 * i].there = lane->regions[2 * i + 1].there = false;
        lane->regions[2 * i].landing = lane->regions[2 * i + 1].landing = false;
        lane->output_there[i] = lane->output_landing[i] = false;
        lane->sent_slots[i] = 0;
    }
}

/* Until nothing of a broken step is being written here by the rank; false when the deadline comes first. */
static bool settle(proa_a2a *a, int32_t rank, int64_t deadline)
{
    bool settled;
    proa_a2a_wait_begins(a, "the end of what comes");
    while (!(settled = proa_post_landing(a->post, rank) == 0) && proa_clock_us() < deadline) {
        if (!proa_post_progress(a->post))
            proa_post_wait(a->post, NAP_US);
    }
    proa_a2a_wait_ends(a);
    return settled;
}

proa_status proa_a2a_begin(proa_a2a *a, uint64_t epoch, const bool *live, proa_error *err)
{
    int64_t deadline = proa_clock_us() + a->options.deadline_us;
    PROA_ASSERT(live[a->options.rank]);
    a->epoch = 0; /* nothing fits meanwhile */
    proa_a2a_progress(a);
    for (int32_t i = 0; i < a->options.ranks; i++) {
        if (i == a->options.rank)
            continue;
        if (!live[i])
            proa_post_disconnect(a->post, i);
        if (!settle(a, i, deadline))
            return proa_error_set(err, PROA_ERR_DEADLINE,
                                  "a payload of rank %d is still under way after %.1f s", i,
                                  (double)a->options.deadline_us / 1e6);
    }
    memcpy(a->live, live, (size_t)a->options.ranks * sizeof *live);
    for (int32_t i = 0; i < a->options.lanes; i++)
        reset_lane(a, &a->lanes[i]);
    blame_nobody(a);
    a->lost = -1;
    a->epoch = epoch;
    atomic_store_explicit(&a->abandoned, false, memory_order_release);
    return PROA_OK;
}

/* ---- life ---- */

static void carve_lane(const proa_a2a *a, proa_carver *c, a2a_lane *lane)
{
    const proa_a2a_options *o = &a->options;
    int64_t ranks = o->ranks, received = ranks * o->rows_max, own = (int64_t)o->rows_max * o->top_k;
    lane->regions = proa_carve(c, 2 * ranks, sizeof *lane->regions);
    lane->region_data = proa_carve(c, ranks, a->payload_max);
    if (o->format == PROA_EXCHANGE_FP8) {
        lane->q = proa_carve(c, received * o->hidden, 1);
        lane->s = proa_carve(c, received * a->groups, sizeof(float));
    } else {
        lane->x = proa_carve(c, received * o->hidden, sizeof(float));
    }
    lane->slot_row = proa_carve(c, a->work_max, sizeof(int32_t));
    lane->slot_expert = proa_carve(c, a->work_max, sizeof(int32_t));
    lane->slot_offsets = proa_carve(c, ranks + 1, sizeof(int32_t));
    lane->out = proa_carve(c, a->work_max, a->output_bytes);
    lane->packed = proa_carve(c, ranks, a->payload_max);
    lane->packers = proa_carve(c, ranks, sizeof *lane->packers);
    lane->sent_slots = proa_carve(c, ranks, sizeof(int32_t));
    lane->output_offsets = proa_carve(c, ranks, sizeof(int32_t));
    lane->output_there = proa_carve(c, ranks, sizeof(bool));
    lane->output_landing = proa_carve(c, ranks, sizeof(bool));
    lane->outputs = proa_carve(c, own, a->output_bytes);
    lane->slots = o->precision == PROA_PRECISION_EXACT ? (float *)(void *)lane->outputs
                                                       : proa_carve(c, own * o->hidden, sizeof(float));
    lane->place = proa_carve(c, own, sizeof(int32_t));
    for (int64_t i = 0; i < 2 * ranks && c->base != NULL; i++)
        lane->regions[i].data = lane->region_data + (size_t)(i / 2) * a->payload_max;
}

/* What follows from the options; then the buffers, or with base NULL only their size. */
static size_t lay_out(proa_a2a *a, uint8_t *base)
{
    const proa_a2a_options *o = &a->options;
    proa_carver c = {.base = base, .alignment = ALIGNMENT};
    bool fp8 = o->format == PROA_EXCHANGE_FP8;
    a->groups = fp8 ? (o->hidden + PROA_QUANT_GROUP - 1) / PROA_QUANT_GROUP : 0;
    a->row_bytes = fp8 ? (size_t)o->hidden + (size_t)a->groups * sizeof(float)
                       : (size_t)o->hidden * (o->format == PROA_EXCHANGE_BF16 ? 2 : 4);
    a->output_bytes = (size_t)o->hidden * (o->precision == PROA_PRECISION_EXACT ? 4 : 2);
    a->most = o->top_k < o->local_experts ? o->top_k : o->local_experts;
    a->work_max = (int64_t)o->ranks * o->rows_max * a->most;
    a->payload_max = proa_round_up(
        proa_a2a_parts(a, (size_t)o->rows_max, (size_t)o->rows_max * (size_t)a->most).bytes, ALIGNMENT);
    a->live = proa_carve(&c, o->ranks, sizeof(bool));
    a->suspects = proa_carve(&c, o->ranks, sizeof(bool));
    a->watch.missing = proa_carve(&c, o->ranks, sizeof *a->watch.missing);
    for (int32_t i = 0; i < o->lanes; i++)
        carve_lane(a, &c, &a->lanes[i]);
    return c.used;
}

proa_status proa_a2a_create(const proa_a2a_options *options, proa_post_hub *hub, proa_a2a **out,
                            proa_error *err)
{
    PROA_ASSERT(options->lanes == 1 || options->lanes == 2);
    PROA_ASSERT(options->rows_max > 0);
    *out = NULL;
    proa_a2a *a = calloc(1, sizeof *a);
    if (a == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the all-to-all");
    a->options = *options;
    a->lost = -1;
    if (a->options.deadline_us == 0)
        a->options.deadline_us = DEADLINE_US;
    size_t bytes = lay_out(a, NULL);
    a->memory_bytes = proa_round_up(bytes, ALIGNMENT);
    a->memory = aligned_alloc(ALIGNMENT, a->memory_bytes);
    if (a->memory == NULL) {
        free(a);
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for %zu MiB of all-to-all buffers",
                              bytes >> 20);
    }
    memset(a->memory, 0, a->memory_bytes);
    lay_out(a, a->memory);
    const proa_post_hooks hooks = {.land = on_land, .landed = on_landed, .lost = on_lost, .context = a};
    proa_status status = hub != NULL
                             ? proa_post_local_create(hub, options->rank, &hooks, &a->post, err)
                             : proa_post_ucx_create(options->ranks, options->rank, &hooks, &a->post, err);
    if (status != PROA_OK) {
        proa_a2a_free(a);
        return status;
    }
    *out = a;
    return PROA_OK;
}

void proa_a2a_free(proa_a2a *a)
{
    if (a == NULL)
        return;
    proa_post_free(a->post);
    free(a->memory);
    free(a);
}

proa_post *proa_a2a_post(proa_a2a *a)
{
    return a->post;
}

size_t proa_a2a_bytes(const proa_a2a *a)
{
    return a->memory_bytes;
}

static void make_progress(void *context)
{
    proa_a2a_progress(context);
}

proa_exchange proa_a2a_exchange(proa_a2a *a)
{
    return (proa_exchange){
        .context = a,
        .format = a->options.format,
        .rows_max = a->options.rows_max,
        .lanes = a->options.lanes,
        .local_experts = a->options.local_experts,
        .received_max = a->options.ranks * a->options.rows_max,
        .dispatch = proa_a2a_dispatch,
        .receive = proa_a2a_receive,
        .put = proa_a2a_put,
        .give_back = proa_a2a_give_back,
        .collect = proa_a2a_collect,
        .progress = make_progress,
    };
}
