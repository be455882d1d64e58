/* a2a_outputs.c - the way back: outputs one a (row, slot), in the order in which their home sent the slots. */
#include "net/a2a_internal.h"

#include "base/bf16.h"

#include <string.h>

void proa_a2a_put(void *context, int32_t number, int32_t count, const int32_t *slots, const float *y)
{
    proa_a2a *a = context;
    a2a_lane *lane = &a->lanes[number];
    int64_t hidden = a->options.hidden;
    PROA_ASSERT(lane->state == A2A_WORKING);
    proa_a2a_moved(a);
    for (int32_t i = 0; i < count; i++, y += hidden) {
        uint8_t *to = lane->out + (size_t)slots[i] * a->output_bytes;
        if (a->options.precision == PROA_PRECISION_EXACT) {
            memcpy(to, y, a->output_bytes);
            continue;
        }
        proa_bf16_from_floats((uint16_t *)(void *)to, y, (size_t)hidden); /* exact: the op has rounded */
    }
}

proa_status proa_a2a_give_back(void *context, int32_t number, proa_error *err)
{
    proa_a2a *a = context;
    a2a_lane *lane = &a->lanes[number];
    proa_status status = PROA_OK;
    PROA_ASSERT(lane->state == A2A_WORKING);
    lane->state = A2A_RETURNED;
    for (int32_t i = 1; i <= a->options.ranks && status == PROA_OK; i++) {
        int32_t rank = (a->options.rank + i) % a->options.ranks;
        int32_t slots = lane->slot_offsets[rank + 1] - lane->slot_offsets[rank];
        const uint8_t *from = lane->out + (size_t)lane->slot_offsets[rank] * a->output_bytes;
        size_t bytes = (size_t)slots * a->output_bytes;
        if (slots == 0)
            continue;
        if (rank == a->options.rank) {
            memcpy(lane->outputs + (size_t)lane->output_offsets[rank] * a->output_bytes, from, bytes);
            lane->output_there[rank] = true;
            continue;
        }
        const a2a_header header = {.epoch = a->epoch,
                                   .turn = lane->turn,
                                   .slots = (uint32_t)slots,
                                   .layer = (uint16_t)lane->layer,
                                   .kind = A2A_OUTPUTS,
                                   .lane = (uint8_t)number};
        a->stats.output_bytes += bytes;
        status = proa_a2a_send(a, lane, rank, &header, from, bytes, err);
    }
    return status;
}

static bool has_answered(const proa_a2a *a, const a2a_lane *lane, int32_t rank)
{
    (void)a;
    return lane->sent_slots[rank] == 0 || lane->output_there[rank];
}

proa_status proa_a2a_collect(void *context, int32_t number, proa_collected *out, proa_error *err)
{
    proa_a2a *a = context;
    a2a_lane *lane = &a->lanes[number];
    int64_t values = (int64_t)lane->rows * a->options.top_k * a->options.hidden;
    PROA_ASSERT(lane->state == A2A_RETURNED);
    proa_status status = proa_a2a_wait(a, lane, has_answered, "outputs", err);
    if (status != PROA_OK)
        return status;
    lane->state = A2A_IDLE;
    for (int32_t i = 0; i < a->options.ranks; i++)
        proa_a2a_region(lane, i, lane->turn)->there = false;
    if (a->options.precision != PROA_PRECISION_EXACT)
        proa_bf16_to_floats(lane->slots, (const uint16_t *)(const void *)lane->outputs, (size_t)values);
    *out = (proa_collected){.slots = lane->slots, .place = lane->place};
    return PROA_OK;
}
