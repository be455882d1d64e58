/* swap.c - see swap.h.
 *
 *   prepare   waits until the post needs nothing that was sent to members
 *   swap      turn + 1: one message to each member, then until theirs of this turn are there
 */
#include "net/swap.h"

#include "base/clock.h"
#include "net/a2a_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 64, DEADLINE_US = 3000000, NAP_US = 2000, CHANNEL = 1 };

typedef struct swap_header {
    uint64_t epoch;
    uint64_t turn;
} swap_header;
_Static_assert(sizeof(swap_header) <= PROA_POST_CHANNEL, "a header travels in that of a message");

typedef struct region {
    uint8_t *data; /* [message_max] */
    size_t bytes;
    bool landing;
    bool there;
} region;

struct proa_swap {
    proa_swap_options options;
    proa_a2a *a2a;
    proa_post *post;
    int32_t member;
    uint64_t epoch;                   /* 0: none */
    uint64_t turn;                    /* of the latest swap */
    region regions[PROA_TEAM_MAX][2]; /* by the turn's lowest bit */
    uint8_t *buffer;
    void *memory;
    size_t memory_bytes;
};

static region *region_of(proa_swap *s, int32_t member, uint64_t turn)
{
    return &s->regions[member][turn & 1];
}

/* ---- messages in ---- */

static void *on_land(void *context, int32_t from, const uint8_t *header, size_t bytes)
{
    proa_swap *s = context;
    swap_header h;
    int32_t member = from - s->options.first;
    memcpy(&h, header, sizeof h);
    if (s->epoch == 0 || h.epoch != s->epoch || member < 0 || member >= s->options.size ||
        bytes > s->options.bytes.message_max || (h.turn != s->turn && h.turn != s->turn + 1))
        return NULL;
    region *r = region_of(s, member, h.turn);
    if (r->there || r->landing)
        return NULL;
    r->landing = true;
    return r->data;
}

static void on_landed(void *context, int32_t from, const uint8_t *header, size_t bytes)
{
    proa_swap *s = context;
    swap_header h;
    memcpy(&h, header, sizeof h);
    if (s->epoch == 0 || h.epoch != s->epoch)
        return; /* begun before the epoch changed */
    region *r = region_of(s, from - s->options.first, h.turn);
    r->bytes = bytes;
    r->landing = false;
    r->there = true;
}

/* ---- waits ---- */

static bool is_sent(proa_swap *s, int32_t member)
{
    return proa_post_pending(s->post, s->options.first + member) == 0;
}

static bool has_come(proa_swap *s, int32_t member)
{
    return region_of(s, member, s->turn)->there;
}

/* As the all-to-all's waits, it shows for whom it waits. */
static int32_t count_missing(proa_swap *s, bool (*ready)(proa_swap *, int32_t))
{
    int32_t count = 0;
    for (int32_t i = 0; i < s->a2a->options.ranks; i++) {
        int32_t member = i - s->options.first;
        bool missing = member >= 0 && member < s->options.size && member != s->member && !ready(s, member);
        atomic_store_explicit(&s->a2a->watch.missing[i], missing, memory_order_relaxed);
        count += missing;
    }
    return count;
}

static void blame_nobody(proa_swap *s)
{
    memset(s->a2a->suspects, 0, (size_t)s->a2a->options.ranks * sizeof *s->a2a->suspects);
}

static proa_status blame(proa_swap *s, int32_t member, proa_status status)
{
    blame_nobody(s);
    s->a2a->suspects[s->options.first + member] = true;
    return status;
}

/* The members that are missing are suspects; their ranks as far as there is room, "3, 7". */
static proa_status give_up(proa_swap *s, bool (*ready)(proa_swap *, int32_t), const char *what, int32_t layer,
                           int64_t waited_us, proa_error *err)
{
    char missing[100] = "";
    size_t used = 0;
    blame_nobody(s);
    for (int32_t i = 0; i < s->options.size; i++) {
        if (i == s->member || ready(s, i))
            continue;
        s->a2a->suspects[s->options.first + i] = true;
        if (used + 16 < sizeof missing)
            used += (size_t)snprintf(missing + used, sizeof missing - used, "%s%d", used > 0 ? ", " : "",
                                     s->options.first + i);
    }
    return proa_error_set(err, PROA_ERR_DEADLINE,
                          "no %s from rank %s, which shares the heads of attention, for %.1f s (layer %d, "
                          "swap %llu of epoch %llx)",
                          what, missing, (double)waited_us / 1e6, layer, (unsigned long long)s->turn,
                          (unsigned long long)s->epoch);
}

static proa_status wait_for_all(proa_swap *s, bool (*ready)(proa_swap *, int32_t), const char *what,
                                int32_t layer, proa_error *err)
{
    int64_t last = proa_clock_us();
    int32_t missing = s->options.size, left;
    while ((left = count_missing(s, ready)) > 0) {
        if (proa_a2a_is_abandoned(s->a2a)) {
            blame_nobody(s);
            return proa_error_set(err, PROA_ERR_CANCELLED, "the ranks of the group have changed");
        }
        bool any = proa_post_progress(s->post);
        int64_t now = proa_clock_us();
        if (left < missing)
            last = now;
        missing = left;
        if (now - last >= s->options.deadline_us &&
            count_missing(s, ready) > 0) /* this thread may have slept */
            return give_up(s, ready, what, layer, now - last, err);
        if (!any && now - last >= s->options.spin_us)
            proa_post_wait(s->post, NAP_US);
    }
    return PROA_OK;
}

static proa_status wait_for(proa_swap *s, bool (*ready)(proa_swap *, int32_t), const char *what,
                            int32_t layer, proa_error *err)
{
    proa_a2a_wait_begins(s->a2a, what);
    proa_status status = wait_for_all(s, ready, what, layer, err);
    proa_a2a_wait_ends(s->a2a);
    return status;
}

/* ---- swaps ---- */

static proa_status prepare(void *context, uint8_t **buffer, proa_error *err)
{
    proa_swap *s = context;
    PROA_ASSERT(s->epoch != 0);
    *buffer = s->buffer;
    return wait_for(s, is_sent, "end of what was sent", -1, err);
}

static proa_status send(proa_swap *s, int32_t member, const proa_team_swap *swap, proa_error *err)
{
    uint8_t raw[PROA_POST_HEADER_BYTES] = {0};
    const swap_header h = {.epoch = s->epoch, .turn = s->turn};
    int32_t rank = s->options.first + member;
    PROA_ASSERT(swap->send_bytes[member] <= s->options.bytes.message_max);
    memcpy(raw, &h, sizeof h);
    raw[PROA_POST_CHANNEL] = CHANNEL;
    proa_status status =
        proa_post_send(s->post, rank, raw, swap->send[member], swap->send_bytes[member], err);
    return status == PROA_OK ? status : blame(s, member, status);
}

static proa_status take(proa_swap *s, int32_t member, proa_team_swap *swap, proa_error *err)
{
    const region *r = region_of(s, member, s->turn);
    size_t *expected = &swap->receive_bytes[member];
    swap->received[member] = r->data;
    if (*expected == PROA_TEAM_ANY_BYTES)
        *expected = r->bytes;
    if (*expected == r->bytes)
        return PROA_OK;
    proa_error_set(err, PROA_ERR_PROTOCOL, "rank %d sent %zu bytes of %s (layer %d), not %zu",
                   s->options.first + member, r->bytes, swap->what, swap->layer, *expected);
    return blame(s, member, PROA_ERR_PROTOCOL);
}

static proa_status run(void *context, proa_team_swap *swap, proa_error *err)
{
    proa_swap *s = context;
    proa_status status = PROA_OK;
    PROA_ASSERT(s->epoch != 0);
    for (int32_t i = 0; i < s->options.size; i++)
        region_of(s, i, s->turn)->there = false; /* what the last one has received is done with */
    s->turn++;
    for (int32_t i = 1; i < s->options.size && status == PROA_OK; i++)
        status = send(s, (s->member + i) % s->options.size, swap, err);
    if (status == PROA_OK)
        status = wait_for(s, has_come, swap->what, swap->layer, err);
    for (int32_t i = 0; i < s->options.size && status == PROA_OK; i++) {
        if (i != s->member)
            status = take(s, i, swap, err);
    }
    return status;
}

void proa_swap_blame(proa_swap *s, int32_t member)
{
    blame(s, member, PROA_ERR_PROTOCOL);
}

/* ---- epochs ---- */

void proa_swap_leave(proa_swap *s)
{
    s->epoch = 0;
}

void proa_swap_begin(proa_swap *s, uint64_t epoch)
{
    for (int32_t i = 0; i < s->options.size; i++) {
        for (int32_t k = 0; k < 2; k++)
            s->regions[i][k].landing = s->regions[i][k].there = false;
    }
    s->turn = 0;
    s->epoch = epoch;
}

/* ---- life ---- */

proa_status proa_swap_create(const proa_swap_options *options, proa_a2a *a2a, proa_swap **swap,
                             proa_error *err)
{
    PROA_ASSERT(options->size >= 2);
    PROA_ASSERT(options->size <= PROA_TEAM_MAX);
    PROA_ASSERT(options->rank >= options->first);
    PROA_ASSERT(options->rank < options->first + options->size);
    PROA_ASSERT(options->bytes.message_max % ALIGNMENT == 0);
    size_t regions = options->bytes.message_max * 2 * (size_t)options->size;
    size_t bytes = (regions + options->bytes.buffer + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    *swap = NULL;
    proa_swap *s = calloc(1, sizeof *s);
    if (s != NULL)
        s->memory = aligned_alloc(ALIGNMENT, bytes);
    if (s == NULL || s->memory == NULL) {
        free(s);
        return proa_error_set(err, PROA_ERR_MEMORY,
                              "no memory for %zu MiB of buffers for the heads of other ranks", bytes >> 20);
    }
    memset(s->memory, 0, bytes);
    s->memory_bytes = bytes;
    s->options = *options;
    if (s->options.deadline_us == 0)
        s->options.deadline_us = DEADLINE_US;
    s->a2a = a2a;
    s->post = proa_a2a_post(a2a);
    s->member = options->rank - options->first;
    uint8_t *at = s->memory;
    for (int32_t i = 0; i < 2 * options->size; i++, at += options->bytes.message_max)
        s->regions[i / 2][i % 2].data = at;
    s->buffer = at;
    proa_a2a_set_beside(a2a,
                        &(proa_post_hooks){.land = on_land, .landed = on_landed, .lost = NULL, .context = s});
    *swap = s;
    return PROA_OK;
}

void proa_swap_free(proa_swap *s)
{
    if (s == NULL)
        return;
    proa_a2a_set_beside(s->a2a, &(proa_post_hooks){0});
    free(s->memory);
    free(s);
}

size_t proa_swap_bytes(const proa_swap *s)
{
    return s->memory_bytes;
}

proa_team proa_swap_team(proa_swap *s)
{
    return (proa_team){
        .context = s, .size = s->options.size, .member = s->member, .prepare = prepare, .swap = run};
}
