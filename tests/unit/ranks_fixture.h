/* ranks_fixture.h - ranks that share their experts, each with its engine, as threads of one process; and the links among them, which can
 * be cut. A control thread for each rank carries its messages. */
#ifndef PROA_TESTS_RANKS_FIXTURE_H
#define PROA_TESTS_RANKS_FIXTURE_H

#include "engine/engine.h"
#include "engine/ep_group.h"
#include "model/checkpoint.h"

enum { FIXTURE_RANKS_MAX = 32 };

typedef struct ranks_fixture ranks_fixture;

typedef struct ranks_setup {
    int32_t ranks;
    int32_t redundant;
    int32_t window;      /* rows */
    bool overlap;        /* two halves of each step */
    int32_t brought_max; /* blocks that a step brings to followers; 0: many */
    int32_t team;        /* ranks that share heads: the first one of each team has requests; 0: 1 */
    proa_ep_group_dispatch dispatch;
    proa_ep_group_rebalance rebalance;
    const proa_expert_location *location; /* may be NULL */
    int64_t deadline_us;                  /* of an all-to-all's wait; longer where all is slow (patience.h) */
    proa_kv_cache kv_cache;
} ranks_setup;

/* All ranks are started; none needs to be waited for. */
ranks_fixture *ranks_fixture_open(const proa_model_config *config, const proa_weights *weights,
                                  const proa_engine_options *engine, const ranks_setup *setup);
void ranks_fixture_close(ranks_fixture *f);

proa_engine *ranks_fixture_engine(ranks_fixture *f, int32_t rank);
proa_forward *ranks_fixture_forward(ranks_fixture *f, int32_t rank);
proa_ep_group_stats ranks_fixture_stats(ranks_fixture *f, int32_t rank);

/* Until each rank that was not killed sees so many in its view and has made a step in it; false after 30 s, or longer where all is slow. */
bool ranks_fixture_wait_live(ranks_fixture *f, int32_t live);

/* The rank is gone at once, in whatever it does, and its links with it: its engine's requests end. */
void ranks_fixture_kill(ranks_fixture *f, int32_t rank);
/* Where a rank breaks: before the n-th such call of its exchange from now on. */
typedef enum ranks_stage { AT_DISPATCH, AT_RECEIVE, AT_PUT, AT_GIVE_BACK, AT_COLLECT, STAGES } ranks_stage;

/* The rank is gone when its engine comes there, in the middle of a step: from then on it says and hears nothing, its links are down, and its
 * engine does not return before ranks_fixture_bury, which waits for it to come there (false: not within 30 s). */
void ranks_fixture_break_at(ranks_fixture *f, int32_t rank, ranks_stage stage, int count);
bool ranks_fixture_bury(ranks_fixture *f, int32_t rank);
/* A new process in its place. */
void ranks_fixture_start(ranks_fixture *f, int32_t rank);

#endif
