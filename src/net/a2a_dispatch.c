/* a2a_dispatch.c - the way of the rows: packed once a destination, sent, and put together at the experts' rank. */
#include "net/a2a_internal.h"

#include "base/bf16.h"

#include <string.h>

/* ---- home ---- */

static bool is_sent(const proa_a2a *a, const a2a_lane *lane, int32_t rank)
{
    (void)lane;
    return proa_post_pending(a->post, rank) == 0;
}

static int32_t host_of(const proa_a2a *a, const proa_dispatch_args *args, int64_t slot)
{
    int32_t rank = args->physical[slot] / a->options.local_experts;
    PROA_ASSERT(args->physical[slot] >= 0);
    PROA_ASSERT(rank < a->options.ranks);
    PROA_ASSERT(a->live[rank]); /* placements name live ranks alone */
    return rank;
}

/* headers [ranks]: rows and slots that go to each rank. */
static void count(const proa_a2a *a, a2a_lane *lane, const proa_dispatch_args *args, a2a_header *headers)
{
    for (int32_t i = 0; i < a->options.ranks; i++)
        lane->packers[i].row = -1;
    for (int64_t row = 0; row < args->x.rows; row++) {
        for (int32_t k = 0; k < args->top_k; k++) {
            int32_t rank = host_of(a, args, row * args->top_k + k);
            headers[rank].slots++;
            headers[rank].rows += lane->packers[rank].row != row;
            lane->packers[rank].row = row;
        }
    }
}

static void copy_row(const proa_a2a *a, const proa_rows *x, int64_t row, uint8_t *rows, uint8_t *scales,
                     size_t index)
{
    int64_t hidden = a->options.hidden;
    switch (a->options.format) {
    case PROA_EXCHANGE_F32: memcpy(rows + index * a->row_bytes, x->x + row * hidden, a->row_bytes); break;
    case PROA_EXCHANGE_BF16:
        proa_bf16_from_floats((uint16_t *)(void *)(rows + index * a->row_bytes), x->x + row * hidden,
                              (size_t)hidden);
        break;
    case PROA_EXCHANGE_FP8: {
        size_t scale_bytes = (size_t)a->groups * sizeof(float);
        memcpy(rows + index * (size_t)hidden, x->q + row * hidden, (size_t)hidden);
        memcpy(scales + index * scale_bytes, x->s + row * a->groups, scale_bytes);
        break;
    }
    }
}

/* Where each destination's payload begins; nothing is in it yet. */
static void begin_packing(const proa_a2a *a, a2a_lane *lane, const a2a_header *headers)
{
    for (int32_t rank = 0; rank < a->options.ranks; rank++) {
        a2a_packer *p = &lane->packers[rank];
        uint8_t *to = rank == a->options.rank ? proa_a2a_region(lane, rank, lane->turn)->data
                                              : proa_a2a_packed(a, lane, rank);
        a2a_parts parts = proa_a2a_parts(a, headers[rank].rows, headers[rank].slots);
        *p = (a2a_packer){.counts = to,
                          .experts = (uint16_t *)(void *)(to + parts.experts),
                          .rows = to + parts.rows,
                          .scales = to + parts.scales,
                          .row = -1};
    }
}

/* All destinations' payloads, in one pass over the slots; and `place` of each slot. */
static void pack(const proa_a2a *a, a2a_lane *lane, const proa_dispatch_args *args, const a2a_header *headers)
{
    begin_packing(a, lane, headers);
    for (int64_t row = 0; row < args->x.rows; row++) {
        for (int32_t k = 0; k < args->top_k; k++) {
            int64_t slot = row * args->top_k + k;
            int32_t rank = host_of(a, args, slot);
            a2a_packer *p = &lane->packers[rank];
            if (p->row != row) {
                copy_row(a, &args->x, row, p->rows, p->scales, p->row_count);
                p->counts[p->row_count++] = 0;
                p->row = row;
            }
            p->counts[p->row_count - 1]++;
            lane->place[slot] = lane->output_offsets[rank] + (int32_t)p->slot_count;
            p->experts[p->slot_count++] = (uint16_t)(args->physical[slot] % a->options.local_experts);
        }
    }
    for (int32_t rank = 0; rank < a->options.ranks; rank++) {
        PROA_ASSERT(lane->packers[rank].row_count == headers[rank].rows);
        PROA_ASSERT(lane->packers[rank].slot_count == headers[rank].slots);
    }
}

static proa_status send_to(proa_a2a *a, a2a_lane *lane, const a2a_header *h, int32_t rank, proa_error *err)
{
    if (rank == a->options.rank) {
        a2a_region *own = proa_a2a_region(lane, rank, lane->turn);
        own->header = *h;
        own->there = true;
        return PROA_OK;
    }
    size_t bytes = h->rows > 0 ? proa_a2a_parts(a, h->rows, h->slots).bytes : 0;
    a->stats.dispatch_bytes += bytes;
    return proa_a2a_send(a, lane, rank, h, proa_a2a_packed(a, lane, rank), bytes, err);
}

proa_status proa_a2a_dispatch(void *context, int32_t number, const proa_dispatch_args *args, proa_error *err)
{
    proa_a2a *a = context;
    a2a_lane *lane = &a->lanes[number];
    a2a_header headers[PROA_A2A_RANKS_MAX];
    int32_t offset = 0;
    PROA_ASSERT(args->x.rows <= a->options.rows_max);
    PROA_ASSERT(args->top_k == a->options.top_k);
    PROA_ASSERT(lane->state == A2A_IDLE);
    lane->layer = args->layer;
    proa_status status = proa_a2a_wait(a, lane, is_sent, "end of what was sent", err);
    if (status != PROA_OK)
        return status;
    lane->turn++;
    lane->state = A2A_SENT;
    lane->rows = args->x.rows;
    a->stats.windows++;
    atomic_store_explicit(&a->watch.layer, args->layer, memory_order_relaxed);
    atomic_store_explicit(&a->watch.window, lane->turn, memory_order_relaxed);
    proa_a2a_moved(a);
    for (int32_t i = 0; i < a->options.ranks; i++)
        headers[i] = (a2a_header){.epoch = a->epoch,
                                  .turn = lane->turn,
                                  .layer = (uint16_t)args->layer,
                                  .kind = A2A_DISPATCH,
                                  .lane = (uint8_t)number};
    count(a, lane, args, headers);
    for (int32_t i = 0; i < a->options.ranks; i++) {
        lane->sent_slots[i] = (int32_t)headers[i].slots;
        lane->output_there[i] = lane->output_landing[i] = false;
        lane->output_offsets[i] = offset;
        offset += (int32_t)headers[i].slots;
    }
    pack(a, lane, args, headers);
    for (int32_t i = 1; i <= a->options.ranks && status == PROA_OK; i++) {
        int32_t rank = (a->options.rank + i) % a->options.ranks; /* not all at once to the same one */
        if (a->live[rank])
            status = send_to(a, lane, &headers[rank], rank, err);
    }
    return status;
}

/* ---- experts' rank ---- */

static bool is_there(const proa_a2a *a, const a2a_lane *lane, int32_t rank)
{
    (void)a;
    return proa_a2a_region(lane, rank, lane->turn)->there;
}

/* The slots of a home; false when they contradict each other. */
static bool take_slots(const proa_a2a *a, a2a_lane *lane, const a2a_region *region, int32_t row_first,
                       int32_t slot_first)
{
    a2a_parts parts = proa_a2a_parts(a, region->header.rows, region->header.slots);
    const uint16_t *experts = (const uint16_t *)(const void *)(region->data + parts.experts);
    uint32_t slot = 0;
    for (uint32_t row = 0; row < region->header.rows; row++) {
        uint32_t found = region->data[row];
        if (found == 0 || found > region->header.slots - slot)
            return false;
        for (uint32_t i = 0; i < found; i++, slot++) {
            uint16_t expert = experts[slot]; /* once: nobody should write there, but a peer might */
            if (expert >= a->options.local_experts)
                return false;
            lane->slot_row[slot_first + (int32_t)slot] = row_first + (int32_t)row;
            lane->slot_expert[slot_first + (int32_t)slot] = expert;
        }
    }
    return slot == region->header.slots;
}

static void take_rows(const proa_a2a *a, a2a_lane *lane, const a2a_region *region, int64_t row_first)
{
    size_t count = region->header.rows;
    int64_t hidden = a->options.hidden;
    a2a_parts parts = proa_a2a_parts(a, count, region->header.slots);
    const uint8_t *rows = region->data + parts.rows;
    switch (a->options.format) {
    case PROA_EXCHANGE_F32: memcpy(lane->x + row_first * hidden, rows, count * a->row_bytes); break;
    case PROA_EXCHANGE_BF16:
        proa_bf16_to_floats(lane->x + row_first * hidden, (const uint16_t *)(const void *)rows,
                            count * (size_t)hidden);
        break;
    case PROA_EXCHANGE_FP8:
        memcpy(lane->q + row_first * hidden, rows, count * (size_t)hidden);
        memcpy(lane->s + row_first * a->groups, region->data + parts.scales,
               count * (size_t)a->groups * sizeof(float));
        break;
    }
}

proa_status proa_a2a_receive(void *context, int32_t number, proa_dispatched *work, proa_error *err)
{
    proa_a2a *a = context;
    a2a_lane *lane = &a->lanes[number];
    int32_t rows = 0, slots = 0;
    PROA_ASSERT(lane->state == A2A_SENT);
    proa_status status = proa_a2a_wait(a, lane, is_there, "rows", err);
    if (status != PROA_OK)
        return status;
    lane->state = A2A_WORKING;
    for (int32_t i = 0; i < a->options.ranks; i++) {
        const a2a_region *region = proa_a2a_region(lane, i, lane->turn);
        lane->slot_offsets[i] = slots;
        if (!a->live[i] || region->header.rows == 0)
            continue;
        if (region->header.layer != lane->layer || !take_slots(a, lane, region, rows, slots)) {
            proa_a2a_break(a, lane, i, PROA_ERR_PROTOCOL);
            return proa_error_set(
                err, PROA_ERR_PROTOCOL,
                "rank %d sent rows of layer %u whose counts contradict each other (layer %d here)", i,
                region->header.layer, lane->layer);
        }
        take_rows(a, lane, region, rows);
        rows += (int32_t)region->header.rows;
        slots += (int32_t)region->header.slots;
    }
    lane->slot_offsets[a->options.ranks] = slots;
    *work = (proa_dispatched){
        .x = {.rows = rows, .cols = a->options.hidden, .x = lane->x, .q = lane->q, .s = lane->s},
        .slots = slots,
        .slot_row = lane->slot_row,
        .slot_expert = lane->slot_expert,
    };
    return PROA_OK;
}
