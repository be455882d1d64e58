/* ep_team.c - see ep_team.h. */
#include "engine/ep_team.h"

#include "engine/team_kv.h"
#include "engine/team_wire.h"
#include "net/swap.h"

#include <stdlib.h>
#include <string.h>

/* Bytes of blocks that a step brings: others wait for it meanwhile. */
enum { BROUGHT_BYTES = 16 << 20, ALIGNMENT = 64 };

struct proa_ep_team {
    proa_ep_team_options options;
    proa_swap *swap;
    proa_team team;
    proa_forward *forward;
    proa_team_kv *kv; /* the followers', as the leader knows it */
    proa_team_reader *reader;
    int32_t layers;
    size_t block_bytes; /* of all layers */
    size_t message_max;
    int32_t brought_max;
    int32_t *brought; /* [brought_max] */
};

/* ---- one way ---- */

/* The leader sends the same to all, followers nothing; *bytes is what came. */
static proa_status tell(proa_ep_team *t, const char *what, const uint8_t *data, size_t *bytes,
                        const uint8_t **received, proa_error *err)
{
    proa_team_swap swap = {.what = what, .layer = -1};
    bool leads = proa_ep_team_leads(t);
    for (int32_t i = 1; i < t->options.size && leads; i++) {
        swap.send[i] = data;
        swap.send_bytes[i] = *bytes;
    }
    if (!leads)
        swap.receive_bytes[0] = *bytes;
    proa_status status = t->team.swap(t->team.context, &swap, err);
    if (status == PROA_OK && !leads) {
        *received = swap.received[0];
        *bytes = swap.receive_bytes[0];
    }
    return status;
}

/* ---- blocks ---- */

/* Copies a block out of the cache, or into it. */
static void copy_block(const proa_ep_team *t, int32_t block, uint8_t *outside, bool out)
{
    proa_forward_kv kv = proa_forward_kv_memory(t->forward);
    size_t bytes = kv.row_bytes * PROA_KV_BLOCK_TOKENS;
    for (int32_t layer = 0; layer < t->layers; layer++, outside += bytes) {
        uint8_t *inside = (uint8_t *)kv.base + (size_t)layer * kv.layer_bytes + (size_t)block * bytes;
        memcpy(out ? outside : inside, out ? inside : outside, bytes);
    }
}

static int32_t blocks_of_message(const proa_team_note *note, int32_t done)
{
    int32_t left = note->brought_count - done;
    return left < note->brought_per_message ? left : note->brought_per_message;
}

static proa_status send_blocks(proa_ep_team *t, const proa_team_note *note, proa_error *err)
{
    proa_status status = PROA_OK;
    const uint8_t *unused;
    for (int32_t done = 0; done < note->brought_count && status == PROA_OK;) {
        int32_t count = blocks_of_message(note, done);
        size_t bytes = (size_t)count * t->block_bytes;
        uint8_t *to;
        status = t->team.prepare(t->team.context, &to, err);
        for (int32_t i = 0; i < count && status == PROA_OK; i++)
            copy_block(t, note->brought[done + i], to + (size_t)i * t->block_bytes, true);
        if (status == PROA_OK)
            status = tell(t, "blocks of the KV cache", to, &bytes, &unused, err);
        done += count;
    }
    return status;
}

static proa_status take_blocks(proa_ep_team *t, const proa_team_note *note, proa_error *err)
{
    proa_status status = PROA_OK;
    for (int32_t done = 0; done < note->brought_count && status == PROA_OK;) {
        int32_t count = blocks_of_message(note, done);
        size_t bytes = (size_t)count * t->block_bytes;
        const uint8_t *from;
        status = tell(t, "blocks of the KV cache", NULL, &bytes, &from, err);
        for (int32_t i = 0; i < count && status == PROA_OK; i++)
            copy_block(t, note->brought[done + i], (uint8_t *)(uintptr_t)from + (size_t)i * t->block_bytes,
                       false);
        done += count;
    }
    return status;
}

/* ---- steps ---- */

static proa_status lead(proa_ep_team *t, const proa_step *step, float **logits, bool *computed,
                        proa_error *err)
{
    proa_team_note note = {.brought = t->brought,
                           .brought_per_message = (int32_t)(t->message_max / t->block_bytes)};
    uint8_t *to;
    const uint8_t *unused;
    note.brought_count = proa_team_kv_missing(t->kv, step, t->brought, t->brought_max, computed);
    if (*computed)
        note.step = *step;
    note.step.windows = step->windows;
    proa_status status = t->team.prepare(t->team.context, &to, err);
    if (status != PROA_OK)
        return status;
    size_t bytes = proa_team_note_write(&note, to);
    status = tell(t, "note of the step", to, &bytes, &unused, err);
    if (status == PROA_OK)
        status = send_blocks(t, &note, err);
    if (status == PROA_OK)
        status = proa_forward_step(t->forward, &note.step, logits, err);
    if (status != PROA_OK)
        return status;
    proa_team_kv_brought(t->kv, note.brought, note.brought_count);
    proa_team_kv_computed(t->kv, &note.step);
    return PROA_OK;
}

/* The leader's note of a step of so many windows. */
static proa_status read_note(proa_ep_team *t, const uint8_t *from, size_t bytes, int32_t windows,
                             proa_team_note *note, proa_error *err)
{
    proa_status status = proa_team_note_read(t->reader, from, bytes, note, err);
    if (status == PROA_OK && proa_forward_windows(t->forward, note->step.row_count) > windows)
        status = proa_error_set(err, PROA_ERR_PROTOCOL, "a note has %d rows, too many for %d windows",
                                note->step.row_count, windows);
    if (status == PROA_OK && note->brought_count > 0 &&
        (size_t)note->brought_per_message > t->message_max / t->block_bytes)
        status = proa_error_set(err, PROA_ERR_PROTOCOL, "a note announces messages of %d blocks",
                                note->brought_per_message);
    if (status != PROA_OK)
        proa_swap_blame(t->swap, 0);
    return status;
}

static proa_status follow(proa_ep_team *t, int32_t windows, proa_error *err)
{
    proa_team_note note;
    const uint8_t *from;
    float *unused;
    size_t bytes = PROA_TEAM_ANY_BYTES;
    proa_status status = tell(t, "note of the step", NULL, &bytes, &from, err);
    if (status == PROA_OK)
        status = read_note(t, from, bytes, windows, &note, err);
    if (status == PROA_OK)
        status = take_blocks(t, &note, err);
    if (status != PROA_OK)
        return status;
    note.step.windows = windows;
    return proa_forward_step(t->forward, &note.step, &unused, err);
}

proa_status proa_ep_team_step(proa_ep_team *t, const proa_step *step, float **logits, bool *computed,
                              proa_error *err)
{
    *computed = true;
    if (!proa_team_kv_is_whole(t->kv)) {
        PROA_ASSERT(step->row_count == 0);
        return proa_forward_step(t->forward, step, logits, err);
    }
    return proa_ep_team_leads(t) ? lead(t, step, logits, computed, err) : follow(t, step->windows, err);
}

void proa_ep_team_written(proa_ep_team *t, const int32_t *blocks, int32_t count)
{
    proa_team_kv_written(t->kv, blocks, count);
}

/* ---- views ---- */

bool proa_ep_team_leads(const proa_ep_team *t)
{
    return t->options.rank == t->options.first;
}

void proa_ep_team_leave(proa_ep_team *t)
{
    proa_swap_leave(t->swap);
}

void proa_ep_team_begin(proa_ep_team *t, uint64_t epoch, const uint64_t *lives)
{
    proa_team_kv_view(t->kv, lives);
    if (proa_team_kv_is_whole(t->kv))
        proa_swap_begin(t->swap, epoch);
}

bool proa_ep_team_is_whole(const proa_ep_team *t)
{
    return proa_team_kv_is_whole(t->kv);
}

/* ---- life ---- */

static size_t aligned(size_t bytes)
{
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static proa_status create_swap(proa_ep_team *t, const proa_model_config *config, proa_precision precision,
                               proa_a2a *a2a, size_t note_bytes, proa_error *err)
{
    const proa_ep_team_options *o = &t->options;
    proa_swap_options swap = {.first = o->first,
                              .size = o->size,
                              .rank = o->rank,
                              .deadline_us = o->deadline_us,
                              .spin_us = o->spin_us};
    proa_status status = proa_forward_team_bytes(config, precision, &o->limits, o->size, &swap.bytes, err);
    if (status != PROA_OK)
        return status;
    size_t least = note_bytes > t->block_bytes ? note_bytes : t->block_bytes;
    if (swap.bytes.message_max < least)
        swap.bytes.message_max = aligned(least);
    if (swap.bytes.buffer < swap.bytes.message_max)
        swap.bytes.buffer = swap.bytes.message_max;
    t->message_max = swap.bytes.message_max;
    status = proa_swap_create(&swap, a2a, &t->swap, err);
    if (status == PROA_OK)
        t->team = proa_swap_team(t->swap);
    return status;
}

static int32_t brought_max(const proa_ep_team_options *o, size_t block_bytes)
{
    size_t fitting = BROUGHT_BYTES / block_bytes;
    if (o->brought_max > 0)
        return o->brought_max;
    if (fitting > (size_t)o->limits.kv_blocks)
        return o->limits.kv_blocks;
    return fitting > 0 ? (int32_t)fitting : 1;
}

proa_status proa_ep_team_create(const proa_ep_team_options *options, const proa_model_config *config,
                                proa_precision precision, proa_a2a *a2a, proa_ep_team **team, proa_error *err)
{
    *team = NULL;
    proa_ep_team *t = calloc(1, sizeof *t);
    if (t == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the ranks that share heads");
    const proa_forward_limits *l = &options->limits;
    t->options = *options;
    t->layers = config->num_hidden_layers;
    t->block_bytes = proa_forward_kv_block_bytes(config, precision, l->kv_cache);
    t->brought_max = brought_max(options, t->block_bytes);
    const proa_team_limits limits = {.rows_max = l->rows_max,
                                     .segments_max = l->logit_rows_max,
                                     .logit_rows_max = l->logit_rows_max,
                                     .positions_max = l->positions_max,
                                     .kv_blocks = l->kv_blocks,
                                     .vocab = config->vocab_size,
                                     .brought_max = t->brought_max};
    t->kv = proa_team_kv_create(options->size, l->kv_blocks);
    t->reader = proa_team_reader_create(&limits);
    t->brought = calloc((size_t)t->brought_max, sizeof *t->brought);
    proa_status status =
        t->kv != NULL && t->reader != NULL && t->brought != NULL
            ? create_swap(t, config, precision, a2a, proa_team_note_bytes(&limits), err)
            : proa_error_set(err, PROA_ERR_MEMORY, "no memory for the ranks that share heads");
    if (status != PROA_OK) {
        proa_ep_team_free(t);
        return status;
    }
    *team = t;
    return PROA_OK;
}

void proa_ep_team_free(proa_ep_team *t)
{
    if (t == NULL)
        return;
    proa_swap_free(t->swap);
    proa_team_kv_free(t->kv);
    proa_team_reader_free(t->reader);
    free(t->brought);
    free(t);
}

size_t proa_ep_team_bytes(const proa_ep_team *t)
{
    return proa_swap_bytes(t->swap);
}

proa_team proa_ep_team_members(proa_ep_team *t)
{
    return t->team;
}

void proa_ep_team_attach(proa_ep_team *t, proa_forward *forward)
{
    t->forward = forward;
    proa_team_reader_narrow(t->reader, proa_forward_limits_of(forward));
}
