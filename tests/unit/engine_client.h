/* engine_client.h - one request at an engine, as another thread sees it: what the callbacks have told, and waits for
 * it with a deadline. Also what a transfer does between two engines: rows of one cache to blocks of another. */
#ifndef PROA_TESTS_ENGINE_CLIENT_H
#define PROA_TESTS_ENGINE_CLIENT_H

#include "engine/engine.h"
#include "net/kv_transfer.h"

#include <pthread.h>

enum {
    ENGINE_CLIENT_LONGEST = 1024,
    ENGINE_CLIENT_BLOCKS = ENGINE_CLIENT_LONGEST / PROA_KV_BLOCK_TOKENS + 1
};

typedef struct engine_client {
    int32_t prompt[ENGINE_CLIENT_LONGEST];
    proa_engine_request asked; /* what engine_client_init leaves plain may be changed before send */
    proa_engine *engine;
    uint64_t id;
    void (*copy)(struct engine_client *client, const proa_engine_rows *rows); /* of `computed`; may be NULL */
    void *copy_context;
    int32_t copied; /* for copy's use */

    /* under lock until the request has finished */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    proa_sample_result results[ENGINE_CLIENT_LONGEST];
    int32_t count;
    bool stopped; /* the last token came with `stop` */
    int finishes;
    proa_engine_finish finish;
    int32_t rows; /* as `computed` or `reserved` told last */
    int32_t block_count;
    int32_t blocks[ENGINE_CLIENT_BLOCKS];
    uint32_t generations[ENGINE_CLIENT_BLOCKS];
    int row_calls;
} engine_client;

/* A greedy request of max_new tokens with credit for all of them; the prompt is to be filled in. */
void engine_client_init(engine_client *client, proa_engine *engine, int32_t prompt_count, int32_t max_new);
void engine_client_free(engine_client *client);
/* A request drawn from `seed`, of an engine whose model has at least 440 ids: half are greedy; penalties, log probabilities; prompts begin
 * alike. */
void engine_client_draw(engine_client *client, proa_engine *engine, uint64_t seed, int32_t max_new);

/* Submits; prints why when that fails. */
proa_status engine_client_send(engine_client *client);

/* Wait until it has `count` tokens, has been told rows, or has finished; each ends with the finish at the latest. A minute
 * without that is a failed assertion. */
void engine_client_wait_tokens(engine_client *client, int32_t count);
void engine_client_wait_rows(engine_client *client);
void engine_client_wait_end(engine_client *client);

bool engine_client_ended(engine_client *client);

/* Rows first .. first + count - 1 in all layers. */
void engine_client_copy_rows(const proa_kv_layout *from, const int32_t *from_blocks, const proa_kv_layout *to,
                             const int32_t *to_blocks, int32_t first, int32_t count);

#endif
