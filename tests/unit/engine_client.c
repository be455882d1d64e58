/* engine_client.c - see engine_client.h. */
#include "engine_client.h"
#include "patience.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { WAIT_SECONDS = 60 };

static void on_token(void *context, const proa_sample_result *token, bool stop)
{
    engine_client *c = context;
    pthread_mutex_lock(&c->lock);
    PROA_ASSERT(c->finishes == 0);
    PROA_ASSERT(!c->stopped);
    PROA_ASSERT(c->count < ENGINE_CLIENT_LONGEST);
    c->results[c->count++] = *token;
    c->stopped = stop;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

static void on_finish(void *context, const proa_engine_finish *finish)
{
    engine_client *c = context;
    pthread_mutex_lock(&c->lock);
    c->finishes++;
    c->finish = *finish;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

static void note_rows(engine_client *c, const proa_engine_rows *rows)
{
    pthread_mutex_lock(&c->lock);
    PROA_ASSERT(c->finishes == 0);
    PROA_ASSERT(rows->id == c->id);
    PROA_ASSERT(rows->rows > c->rows);
    PROA_ASSERT(rows->block_count <= ENGINE_CLIENT_BLOCKS);
    /* a block that was told of stays */
    for (int32_t i = 0; i < (c->rows + PROA_KV_BLOCK_TOKENS - 1) / PROA_KV_BLOCK_TOKENS; i++) {
        PROA_ASSERT(rows->blocks[i] == c->blocks[i]);
        PROA_ASSERT(rows->generations[i] == c->generations[i]);
    }
    c->rows = rows->rows;
    c->block_count = rows->block_count;
    memcpy(c->blocks, rows->blocks, (size_t)rows->block_count * sizeof c->blocks[0]);
    memcpy(c->generations, rows->generations, (size_t)rows->block_count * sizeof c->generations[0]);
    c->row_calls++;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

static void on_computed(void *context, const proa_engine_rows *rows)
{
    engine_client *c = context;
    note_rows(c, rows);
    if (c->copy != NULL)
        c->copy(c, rows);
}

static void on_reserved(void *context, const proa_engine_rows *rows)
{
    engine_client *c = context;
    PROA_ASSERT(c->row_calls == 0);
    note_rows(c, rows);
}

void engine_client_init(engine_client *c, proa_engine *engine, int32_t prompt_count, int32_t max_new)
{
    memset(c, 0, sizeof *c);
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->changed, NULL);
    c->engine = engine;
    c->asked = (proa_engine_request){
        .prompt_ids = c->prompt,
        .prompt_count = prompt_count,
        .max_new_tokens = max_new,
        .top_p = 1,
        .repetition_penalty = 1,
        .top_logprobs = 0,
        .credit = max_new,
        .sink = {on_token, on_finish, c, on_computed, on_reserved},
    };
}

void engine_client_draw(engine_client *c, proa_engine *engine, uint64_t seed, int32_t max_new)
{
    int32_t count = 20 + (int32_t)(seed * 37 % 200);
    engine_client_init(c, engine, count, max_new);
    for (int32_t i = 0; i < count; i++)
        c->prompt[i] = (int32_t)((i < 60 ? (uint64_t)i * 7 + 3 : (uint64_t)i * (seed + 5) + 11 * seed) % 440);
    c->asked.min_new_tokens = 25;
    c->asked.ignore_eos = true;
    c->asked.temperature = seed % 2 == 0 ? 0 : 0.9f;
    c->asked.top_p = 0.95f;
    c->asked.repetition_penalty = seed % 3 == 0 ? 1.2f : 1;
    c->asked.frequency_penalty = seed % 3 == 1 ? 0.5f : 0;
    c->asked.seed = seed;
    c->asked.top_logprobs = 5;
}

void engine_client_free(engine_client *c)
{
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->changed);
}

proa_status engine_client_send(engine_client *c)
{
    proa_error err = {0};
    proa_status status = proa_engine_submit(c->engine, &c->asked, &c->id, &err);
    if (status != PROA_OK)
        printf("%s\n", err.text);
    return status;
}

/* ---- waits ---- */

static bool has_tokens(const engine_client *c, int32_t count)
{
    return c->count >= count;
}

static bool has_rows(const engine_client *c, int32_t count)
{
    (void)count;
    return c->row_calls > 0;
}

static bool has_finished(const engine_client *c, int32_t count)
{
    (void)count;
    return c->finishes > 0;
}

static void wait_until(engine_client *c, bool (*what)(const engine_client *, int32_t), int32_t count)
{
    struct timespec deadline;
    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += (time_t)WAIT_SECONDS * test_patience();
    pthread_mutex_lock(&c->lock);
    while (!what(c, count) && c->finishes == 0)
        PROA_ASSERT(pthread_cond_timedwait(&c->changed, &c->lock, &deadline) != ETIMEDOUT);
    pthread_mutex_unlock(&c->lock);
}

void engine_client_wait_tokens(engine_client *c, int32_t count)
{
    wait_until(c, has_tokens, count);
}

void engine_client_wait_rows(engine_client *c)
{
    wait_until(c, has_rows, 0);
}

void engine_client_wait_end(engine_client *c)
{
    wait_until(c, has_finished, 0);
}

bool engine_client_ended(engine_client *c)
{
    pthread_mutex_lock(&c->lock);
    bool ended = c->finishes > 0;
    pthread_mutex_unlock(&c->lock);
    return ended;
}

/* ---- rows ---- */

static char *row_at(const proa_kv_layout *layout, int32_t layer, const int32_t *blocks, int32_t position)
{
    int32_t block = blocks[position / PROA_KV_BLOCK_TOKENS];
    PROA_ASSERT(block >= 0 && block < layout->blocks);
    return (char *)layout->base + (size_t)layer * layout->layer_bytes + (size_t)block * layout->block_bytes +
           (size_t)(position % PROA_KV_BLOCK_TOKENS) * layout->row_bytes;
}

void engine_client_copy_rows(const proa_kv_layout *from, const int32_t *from_blocks, const proa_kv_layout *to,
                             const int32_t *to_blocks, int32_t first, int32_t count)
{
    PROA_ASSERT(from->row_bytes == to->row_bytes);
    PROA_ASSERT(from->layers == to->layers);
    for (int32_t p = first; p < first + count; p++) {
        for (int32_t l = 0; l < from->layers; l++)
            memcpy(row_at(to, l, to_blocks, p), row_at(from, l, from_blocks, p), from->row_bytes);
    }
}
