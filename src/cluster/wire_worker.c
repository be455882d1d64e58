/* wire_worker.c - what a worker says of itself: CARD, FILE, LOAD, KV_EVENTS. */
#include "cluster/wire_internal.h"

#include <inttypes.h>
#include <string.h>

void proa_wire_put_card(proa_buf *out, const proa_wire_card *m)
{
    PROA_ASSERT(m->file_count <= PROA_WIRE_FILES_MAX);
    proa_put_u8(out, m->leg);
    proa_wire_put_bool(out, m->draining);
    proa_put_u64(out, m->model_digest);
    proa_put_text(out, m->model_name);
    proa_put_text(out, m->model_path);
    proa_put_i32(out, m->context_length);
    proa_put_i32(out, m->vocab_size);
    proa_put_i32(out, m->kv_tokens);
    proa_put_i32(out, m->running_max);
    proa_put_i32(out, m->queued_max);
    proa_put_text(out, m->bootstrap);
    proa_put_u32(out, m->file_count);
    for (uint32_t i = 0; i < m->file_count; i++) {
        proa_put_text(out, m->files[i].name);
        proa_put_u64(out, m->files[i].bytes);
    }
    if (m->worker_id == 0)
        return;
    proa_put_u64(out, m->worker_id);
    proa_put_i32(out, m->dp_rank);
    proa_put_i32(out, m->dp_size);
    proa_put_u8(out, m->balance);
}

static void get_card_dp(proa_wire_in *in, proa_wire_card *m)
{
    m->worker_id = proa_wire_in_nonzero(in, "worker_id");
    m->dp_rank = proa_wire_in_i32(in, "dp_rank", 0);
    m->dp_size = proa_wire_in_i32(in, "dp_size", 2);
    m->balance = proa_wire_in_u8(in, "balance", PROA_BALANCE_COUNT - 1);
    if (m->dp_size > PROA_WIRE_DP_MAX)
        proa_wire_refuse(in, "dp_size", "is %d, it must be at most %d", m->dp_size, PROA_WIRE_DP_MAX);
    if (m->dp_rank >= m->dp_size)
        proa_wire_refuse(in, "dp_rank", "is %d, it must be below dp_size, %d", m->dp_rank, m->dp_size);
}

/* The name becomes that of a file in a folder of ours. */
static void get_card_file(proa_wire_in *in, proa_wire_card *m, uint32_t i)
{
    char *name = m->files[i].name;
    proa_wire_in_name(in, "files.name", name, sizeof m->files[i].name);
    if (name[0] == 0 || name[0] == '.' || strchr(name, '/') != NULL)
        proa_wire_refuse(in, "files.name",
                         "is \"%s\", it must be the plain name of a file, without slash or leading dot",
                         name);
    for (uint32_t before = 0; before < i; before++)
        if (strcmp(m->files[before].name, name) == 0)
            proa_wire_refuse(in, "files.name", "\"%s\" comes twice", name);
    m->files[i].bytes = proa_wire_in_u64(in, "files.bytes");
    if (m->files[i].bytes > PROA_WIRE_FILE_BYTES_MAX)
        proa_wire_refuse(in, "files.bytes", "of %s is %" PRIu64 ", it must be at most %d", name,
                         m->files[i].bytes, PROA_WIRE_FILE_BYTES_MAX);
}

const char *proa_wire_digest_hint(uint64_t a, uint64_t b)
{
    return (a ^ b) != 0 && (a ^ b) <= PROA_WIRE_DIGEST_FLAGS
               ? ", or the same one with another --kv-cache-dtype, --activation-dtype or --load-format"
               : "";
}

bool proa_wire_get_card(const void *body, size_t length, proa_wire_card *m, proa_error *err)
{
    proa_wire_in in = proa_wire_in_of(body, length, "CARD", NULL, err);
    *m = (proa_wire_card){0};
    m->leg = proa_wire_in_u8(&in, "leg", PROA_LEG_DECODE);
    m->draining = proa_wire_in_bool(&in, "draining");
    m->model_digest = proa_wire_in_u64(&in, "model_digest");
    proa_wire_in_name(&in, "model_name", m->model_name, sizeof m->model_name);
    proa_wire_in_name(&in, "model_path", m->model_path, sizeof m->model_path);
    m->context_length = proa_wire_in_i32(&in, "context_length", 1);
    m->vocab_size = proa_wire_in_i32(&in, "vocab_size", 1);
    m->kv_tokens = proa_wire_in_i32(&in, "kv_tokens", 1);
    m->running_max = proa_wire_in_i32(&in, "running_max", 1);
    m->queued_max = proa_wire_in_i32(&in, "queued_max", 0);
    proa_wire_in_address(&in, "bootstrap", m->leg == PROA_LEG_PREFILL, m->bootstrap, sizeof m->bootstrap);
    m->file_count = proa_wire_in_count(&in, "file_count", PROA_WIRE_FILES_MAX, 10);
    for (uint32_t i = 0; i < m->file_count && !in.failed; i++)
        get_card_file(&in, m, i);
    if (!in.failed && proa_reader_left(&in.reader) > 0)
        get_card_dp(&in, m);
    return proa_wire_in_done(&in);
}

void proa_wire_put_file(proa_buf *out, const proa_wire_file *m)
{
    PROA_ASSERT(m->length <= PROA_WIRE_CHUNK_MAX);
    proa_put_u32(out, m->index);
    proa_put_u64(out, m->offset);
    proa_put_u32(out, m->length);
    proa_buf_append(out, m->data, m->length);
}

bool proa_wire_get_file(const void *body, size_t length, proa_wire_file *m, proa_error *err)
{
    proa_wire_in in = proa_wire_in_of(body, length, "FILE", NULL, err);
    m->index = proa_wire_in_u32(&in, "index");
    if (m->index >= PROA_WIRE_FILES_MAX)
        proa_wire_refuse(&in, "index", "is %" PRIu32 ", it must be below %d", m->index, PROA_WIRE_FILES_MAX);
    m->offset = proa_wire_in_u64(&in, "offset");
    m->length = proa_wire_in_count(&in, "length", PROA_WIRE_CHUNK_MAX, 1);
    if (m->offset > PROA_WIRE_FILE_BYTES_MAX - (uint64_t)m->length)
        proa_wire_refuse(&in, "offset", "is %" PRIu64 ": files have at most %d bytes", m->offset,
                         PROA_WIRE_FILE_BYTES_MAX);
    m->data = proa_wire_in_bytes(&in, "data", m->length);
    return proa_wire_in_done(&in);
}

static void put_stats(proa_buf *out, const proa_engine_stats *s)
{
    proa_put_i32(out, s->running);
    proa_put_i32(out, s->queued);
    proa_put_i32(out, s->kv_blocks_total);
    proa_put_i32(out, s->kv_blocks_used);
    proa_put_i32(out, s->kv_blocks_cached);
    proa_put_i32(out, s->kv_blocks_lent);
    proa_put_u64(out, s->prompt_tokens);
    proa_put_u64(out, s->cached_tokens);
    proa_put_u64(out, s->output_tokens);
    proa_put_u64(out, s->steps);
    proa_put_u64(out, s->retractions);
    proa_put_u64(out, s->requests_finished);
    proa_put_u64(out, s->requests_aborted);
    proa_put_u64(out, s->step_us_total);
    proa_put_i64(out, s->last_step_us);
    proa_wire_put_bool(out, s->device_lost);
    proa_wire_put_bool(out, s->away);
}

void proa_wire_put_load(proa_buf *out, const proa_wire_load *m)
{
    proa_wire_put_bool(out, m->draining);
    proa_put_u64(out, m->transfers);
    proa_put_u64(out, m->transfer_bytes);
    proa_put_u64(out, m->transfer_us);
    proa_put_u64(out, m->transfers_failed);
    proa_put_u32(out, m->rooms);
    proa_put_u32(out, m->quarantined);
    put_stats(out, &m->stats);
}

static void get_stats(proa_wire_in *in, proa_engine_stats *s)
{
    s->running = proa_wire_in_i32(in, "stats.running", 0);
    s->queued = proa_wire_in_i32(in, "stats.queued", 0);
    s->kv_blocks_total = proa_wire_in_i32(in, "stats.kv_blocks_total", 0);
    s->kv_blocks_used = proa_wire_in_i32(in, "stats.kv_blocks_used", 0);
    s->kv_blocks_cached = proa_wire_in_i32(in, "stats.kv_blocks_cached", 0);
    s->kv_blocks_lent = proa_wire_in_i32(in, "stats.kv_blocks_lent", 0);
    s->prompt_tokens = proa_wire_in_u64(in, "stats.prompt_tokens");
    s->cached_tokens = proa_wire_in_u64(in, "stats.cached_tokens");
    s->output_tokens = proa_wire_in_u64(in, "stats.output_tokens");
    s->steps = proa_wire_in_u64(in, "stats.steps");
    s->retractions = proa_wire_in_u64(in, "stats.retractions");
    s->requests_finished = proa_wire_in_u64(in, "stats.requests_finished");
    s->requests_aborted = proa_wire_in_u64(in, "stats.requests_aborted");
    s->step_us_total = proa_wire_in_u64(in, "stats.step_us_total");
    s->last_step_us = proa_wire_in_i64(in, "stats.last_step_us", 0);
    s->device_lost = proa_wire_in_bool(in, "stats.device_lost");
    s->away = proa_wire_in_bool(in, "stats.away");
}

bool proa_wire_get_load(const void *body, size_t length, proa_wire_load *m, proa_error *err)
{
    proa_wire_in in = proa_wire_in_of(body, length, "LOAD", NULL, err);
    *m = (proa_wire_load){0};
    m->draining = proa_wire_in_bool(&in, "draining");
    m->transfers = proa_wire_in_u64(&in, "transfers");
    m->transfer_bytes = proa_wire_in_u64(&in, "transfer_bytes");
    m->transfer_us = proa_wire_in_u64(&in, "transfer_us");
    m->transfers_failed = proa_wire_in_u64(&in, "transfers_failed");
    m->rooms = proa_wire_in_u32(&in, "rooms");
    m->quarantined = proa_wire_in_u32(&in, "quarantined");
    get_stats(&in, &m->stats);
    return proa_wire_in_done(&in);
}

void proa_wire_put_kv_events(proa_buf *out, const proa_wire_kv_events *m)
{
    PROA_ASSERT(m->count <= PROA_WIRE_EVENTS_MAX);
    proa_wire_put_bool(out, m->snapshot);
    proa_put_u32(out, m->count);
    proa_wire_put_u64s(out, m->hashes, m->count);
    for (uint32_t i = 0; i < m->count; i++)
        proa_wire_put_bool(out, m->stored[i]);
}

bool proa_wire_get_kv_events(const void *body, size_t length, proa_arena *arena, proa_wire_kv_events *m,
                             proa_error *err)
{
    proa_wire_in in = proa_wire_in_of(body, length, "KV_EVENTS", arena, err);
    m->snapshot = proa_wire_in_bool(&in, "snapshot");
    m->count = proa_wire_in_count(&in, "count", PROA_WIRE_EVENTS_MAX, 9);
    m->hashes = proa_wire_in_u64s(&in, "hashes", m->count);
    bool *stored = proa_wire_in_array(&in, "stored", m->count, sizeof *stored);
    for (uint32_t i = 0; i < m->count && !in.failed; i++)
        stored[i] = proa_wire_in_bool(&in, "stored");
    m->stored = stored;
    return proa_wire_in_done(&in);
}
