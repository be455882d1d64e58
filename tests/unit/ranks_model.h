/* ranks_model.h - tiny-r1, loaded once, and what one engine with all of it answers to some requests: what engines of several ranks must answer,
 * bit for bit. */
#ifndef PROA_TESTS_RANKS_MODEL_H
#define PROA_TESTS_RANKS_MODEL_H

#include "engine_client.h"

#include "model/checkpoint.h"
#include "ranks_fixture.h"

enum { RANKS_MODEL_CLIENTS = 12, RANKS_MODEL_NEW = 40 };

typedef struct ranks_model {
    proa_model_config config;
    proa_checkpoint *checkpoint;
    proa_kv_cache kv_cache;
    engine_client alone
        [RANKS_MODEL_CLIENTS]; /* request i is engine_client_draw's of seed i + 1, with RANKS_MODEL_NEW tokens */
} ranks_model;

extern const proa_engine_options ranks_model_options;

/* For cmocka_run_group_tests: *state is the ranks_model. */
int ranks_model_load(void **state);
int ranks_model_load_for_fp8_cache(void **state); /* the same with PROA_KV_CACHE_E4M3 */
int ranks_model_unload(void **state);

/* Fails unless the request of that number has ended well, with the right tokens and log probabilities. */
void ranks_model_check(const ranks_model *m, const engine_client *client, int32_t number);

/* The rank that request i goes to: i * 5 % ranks, but not `spared` (-1: none is). */
int32_t ranks_model_home(int32_t number, int32_t ranks, int32_t spared);
/* All requests, each to its rank; clients [RANKS_MODEL_CLIENTS]. */
void ranks_model_send(engine_client *clients, ranks_fixture *f, int32_t ranks, int32_t spared);
/* Waits for the end of each, checks and frees it. */
void ranks_model_check_all(const ranks_model *m, engine_client *clients);

#endif
