/* client_fixture.h - what tests of the client share: requests whose sinks check what they are told, and a world of fake workers, a
 * registry and a client. Each test has a world of its own (TEST). */
#ifndef PROA_TESTS_CLIENT_FIXTURE_H
#define PROA_TESTS_CLIENT_FIXTURE_H

#include "base/clock.h"
#include "cluster/client.h"
#include "fake_worker.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WINDOW = 64, SECOND = 1000000, OUTPUT_MAX = 400, PROMPT_MAX = 300, ASKS_MAX = 400, WORKERS_MAX = 16 };

/* The bound is for a machine that does much else. */
#define WAIT_FOR(condition)                                                                                  \
    do {                                                                                                     \
        int64_t until = proa_clock_us() + 20 * SECOND;                                                       \
        while (!(condition) && proa_clock_us() < until)                                                      \
            usleep(500);                                                                                     \
        if (!(condition))                                                                                    \
            fail_msg("in vain: %s (line %d)", #condition, __LINE__);                                         \
    } while (0)

/* ---- requests ---- */

/* One request and what its sink has seen. */
typedef struct ask {
    proa_client *client;
    uint64_t id;
    int32_t prompt[PROMPT_MAX];
    int32_t prompt_count;
    int32_t max_new_tokens;
    int32_t window;         /* credit at first */
    _Atomic bool no_grants; /* the reader does not read */
    int32_t output[OUTPUT_MAX];
    bool stop; /* of the last token */
    _Atomic int32_t credit;
    _Atomic int32_t count;
    _Atomic int finishes;
    struct ask *then; /* asked by the sink's finish */
    proa_status then_status;
    int64_t finish_us;
    proa_engine_finish finish;
} ask;

/* A prompt, a length and a first credit, of `seed`. */
void ask_fill(ask *a, uint64_t seed);
proa_status ask_submit(proa_client *client, ask *a, proa_error *err);
/* Fills it and sends it; it must be accepted. */
void ask_begin(proa_client *client, ask *a, uint64_t seed);
/* As soon as it is accepted: a report of a worker may be older than what has ended there. */
void ask_begin_when_possible(proa_client *client, ask *a, uint64_t seed);
void ask_wait(ask *a);
/* Waits; the sink has seen the whole of what the model says, and nothing else. */
void ask_check_whole(ask *a);
/* Waits; it ended with this error. */
void ask_check_error(ask *a, proa_status status, const char *says);

/* ---- the world ---- */

typedef struct world {
    proa_registry *registry;
    proa_discovery *discovery;
    proa_client *client;
    fake_worker *workers[WORKERS_MAX];
    int worker_count;
    ask *asks;
    _Atomic int models;
    char dir[4096];
    char cache[64];
} world;

int world_setup(void **state);
int world_teardown(void **state);
fake_worker *world_add(world *w, fake_options options);
fake_worker *world_add_leg(world *w, proa_wire_leg leg);
/* Workers that are shown as ready. */
int world_ready(world *w);
void world_start_with(world *w, proa_client_options options);
/* A client, when all workers are known to it. */
void world_start(world *w);
void world_end_client(world *w);
/* Nothing is left at the workers. */
void world_check_idle(world *w);
double world_metric(world *w, const char *name);

#define TEST(name) cmocka_unit_test_setup_teardown(name, world_setup, world_teardown)

#endif
