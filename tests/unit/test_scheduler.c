/* test_scheduler.c - the scheduler's decisions, one rule a test, as scripts of events and the plans they must give.
 *
 * A plan is written as its segments: "slot:form first+rows", form e (expanded) or a (absorbed), "!" with logits; after
 * them what it reserves: "slot:r rows/blocks". */
#include "engine/scheduler.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

enum { SLOTS = 8, LONGEST = 1024 };

typedef struct bench {
    proa_scheduler *scheduler;
    int32_t prompts[SLOTS][LONGEST];
    int64_t now_us;
    proa_schedule_plan plan;
} bench;

static const proa_scheduler_limits roomy = {
    .slots = SLOTS,
    .running_max = 4,
    .chunk = 64,
    .kv_blocks = 64,
    .context_length = LONGEST,
    .page_size = 1,
    .cache = true,
    .policy = PROA_SCHEDULE_FCFS,
};

static void set_up(bench *b, proa_scheduler_limits limits)
{
    memset(b, 0, sizeof *b);
    b->scheduler = proa_scheduler_create(&limits);
    assert_non_null(b->scheduler);
}

/* A prompt of `count` tokens: `family` for the first `shared`, then the slot's own. */
static void submit(bench *b, int32_t slot, int32_t family, int32_t shared, int32_t count, int32_t max_new,
                   int32_t credit)
{
    for (int32_t i = 0; i < count; i++)
        b->prompts[slot][i] = i < shared ? family : 1000 + slot;
    proa_scheduler_submit(b->scheduler, slot,
                          &(proa_scheduler_request){.prompt_ids = b->prompts[slot],
                                                    .prompt_count = count,
                                                    .max_new_tokens = max_new,
                                                    .credit = credit});
}

/* Plans a step, has it done with a token for each segment that draws one, and tells the plan. */
static const char *step_with(bench *b, proa_outcome outcome)
{
    static char text[1000];
    proa_outcome outcomes[SLOTS];
    size_t used = 0;
    text[0] = 0;
    proa_scheduler_plan(b->scheduler, b->now_us, &b->plan);
    for (int32_t i = 0; i < b->plan.segment_count; i++) {
        const proa_plan_segment *s = &b->plan.segments[i];
        outcomes[i] = outcome;
        used +=
            (size_t)snprintf(text + used, sizeof text - used, "%s%d:%c %d+%d%s", i > 0 ? ", " : "", s->slot,
                             s->absorbed ? 'a' : 'e', s->position_first, s->row_count, s->logits ? "!" : "");
    }
    for (int32_t i = 0; i < b->plan.reserved_count; i++) {
        proa_engine_rows rows = {0};
        proa_scheduler_rows(b->scheduler, b->plan.reserved[i], &rows);
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%d:r %d/%d", used > 0 ? ", " : "",
                                 b->plan.reserved[i], rows.rows, rows.block_count);
    }
    if (b->plan.segment_count > 0)
        proa_scheduler_complete(b->scheduler, outcomes);
    proa_scheduler_check(b->scheduler);
    return text;
}

static const char *step(bench *b)
{
    return step_with(b, PROA_OUTCOME_TOKEN);
}

static void steps(bench *b, int32_t count)
{
    for (int32_t i = 0; i < count; i++)
        step(b);
}

static void tear_down(bench *b)
{
    proa_scheduler_view view;
    proa_scheduler_look(b->scheduler, &view);
    assert_int_equal(view.running + view.waiting + view.blocks_used, 0);
    proa_scheduler_free(b->scheduler);
}

static void prompts_are_chunked_beside_decode_rows(void **state)
{
    (void)state;
    bench b;
    set_up(&b, roomy);
    submit(&b, 0, 0, 0, 10, 100, 100);
    assert_string_equal(step(&b), "0:e 0+10!");
    submit(&b, 1, 0, 0, 150, 100, 100);
    submit(&b, 2, 0, 0, 20, 100, 100);
    assert_string_equal(step(&b), "0:a 10+1!, 1:e 0+64");
    assert_string_equal(step(&b), "0:a 11+1!, 1:e 64+64");
    assert_string_equal(step(&b), "0:a 12+1!, 1:e 128+22!, 2:e 0+20!");
    assert_int_equal(b.plan.row_count, 43);
    assert_int_equal(b.plan.decode_rows, 1);
    assert_int_equal(b.plan.prefill_rows, 42);
    assert_int_equal(b.plan.logit_count, 3);
    assert_string_equal(step(&b), "0:a 13+1!, 1:a 150+1!, 2:a 20+1!");
    assert_string_equal(step_with(&b, PROA_OUTCOME_DONE), "0:a 14+1!, 1:a 151+1!, 2:a 21+1!");
    assert_string_equal(step(&b), "");
    tear_down(&b);
}

static void no_more_run_than_allowed(void **state)
{
    (void)state;
    bench b;
    proa_scheduler_limits limits = roomy;
    proa_scheduler_view view;
    limits.running_max = 2;
    set_up(&b, limits);
    for (int32_t i = 0; i < 4; i++)
        submit(&b, i, 0, 0, 5, 10, 100);
    assert_string_equal(step(&b), "0:e 0+5!, 1:e 0+5!");
    proa_scheduler_look(b.scheduler, &view);
    assert_int_equal(view.running, 2);
    assert_int_equal(view.waiting, 2);
    assert_true(view.blocked);
    proa_scheduler_cancel(b.scheduler, 0);
    proa_scheduler_cancel(b.scheduler, 2); /* a waiting one */
    assert_string_equal(step(&b), "1:a 5+1!, 3:e 0+5!");
    proa_scheduler_cancel(b.scheduler, 1);
    proa_scheduler_cancel(b.scheduler, 3);
    tear_down(&b);
}

static void credit_is_spent_and_granted(void **state)
{
    (void)state;
    bench b;
    set_up(&b, roomy);
    submit(&b, 0, 0, 0, 5, 10, 2);
    assert_string_equal(step(&b), "0:e 0+5!");
    assert_string_equal(step(&b), "0:a 5+1!");
    assert_string_equal(step(&b), "");
    proa_scheduler_grant(b.scheduler, 0, 1);
    assert_string_equal(step(&b), "0:a 6+1!");
    assert_string_equal(step(&b), "");
    proa_scheduler_grant(b.scheduler, 0, INT32_MAX); /* does not wrap */
    proa_scheduler_grant(b.scheduler, 0, INT32_MAX);
    assert_string_equal(step_with(&b, PROA_OUTCOME_DONE), "0:a 7+1!");
    tear_down(&b);
}

static void prefixes_are_shared_and_copied(void **state)
{
    (void)state;
    bench b;
    set_up(&b, roomy);
    submit(&b, 0, 7, 100, 100, 10, 100);
    assert_string_equal(step(&b), "0:e 0+64");
    submit(&b, 1, 7, 100, 100, 10, 100); /* block 0 is shared at once; the tail is still slot 0's to write */
    assert_string_equal(step(&b), "0:e 64+36!, 1:e 64+28");
    assert_string_equal(step_with(&b, PROA_OUTCOME_DONE), "0:a 100+1!, 1:e 92+8!");
    submit(&b, 2, 7, 90, 100, 10, 100);
    assert_string_equal(step(&b), "2:e 90+10!");
    assert_int_equal(b.plan.copy_count, 1);
    assert_int_equal(b.plan.copies[0].tokens, 26);
    assert_int_equal(b.plan.cached_tokens, 90);
    assert_int_equal(proa_scheduler_cached_tokens(b.scheduler, 2), 90);
    submit(&b, 3, 7, 100, 100, 10, 100); /* all but the last token, whose logits are wanted */
    assert_string_equal(step_with(&b, PROA_OUTCOME_DONE), "2:a 100+1!, 3:e 99+1!");
    proa_scheduler_flush(b.scheduler);
    submit(&b, 4, 7, 100, 100, 10, 100);
    assert_string_equal(step(&b), "4:e 0+64");
    proa_scheduler_cancel(b.scheduler, 4);
    tear_down(&b);
}

/* Generated tokens are never shared: a later prompt that quotes them computes them. */
static void output_is_not_cached(void **state)
{
    (void)state;
    bench b;
    proa_scheduler_limits limits = roomy;
    limits.chunk = 1024;
    set_up(&b, limits);
    submit(&b, 0, 7, 60, 60, 200, 1000);
    steps(&b, 150);
    assert_string_equal(step_with(&b, PROA_OUTCOME_DONE), "0:a 209+1!");
    submit(&b, 1, 7, 200, 200, 10, 100);
    assert_string_equal(step_with(&b, PROA_OUTCOME_DONE), "1:e 60+140!");
    tear_down(&b);
}

static void the_longest_prefix_goes_first_but_not_for_ever(void **state)
{
    (void)state;
    bench b;
    proa_scheduler_limits limits = roomy;
    limits.policy = PROA_SCHEDULE_LPM;
    limits.running_max = 1;
    set_up(&b, limits);
    submit(&b, 0, 7, 64, 64, 10, 100);
    assert_string_equal(step_with(&b, PROA_OUTCOME_DONE), "0:e 0+64!");
    submit(&b, 1, 0, 0, 10, 10, 100);
    submit(&b, 2, 7, 30, 64, 10, 100);
    submit(&b, 3, 7, 60, 64, 10, 100);
    assert_string_equal(step_with(&b, PROA_OUTCOME_DONE), "3:e 60+4!");
    assert_string_equal(step_with(&b, PROA_OUTCOME_DONE), "2:e 30+34!");
    for (int32_t i = 2; i < PROA_SCHEDULER_PASSES_MAX; i++) {
        submit(&b, 4, 7, 63, 64, 10, 100);
        assert_string_equal(step_with(&b, PROA_OUTCOME_DONE), "4:e 63+1!");
    }
    submit(&b, 4, 7, 63, 64, 10, 100);
    assert_string_equal(step_with(&b, PROA_OUTCOME_DONE), "1:e 0+10!");
    assert_string_equal(step_with(&b, PROA_OUTCOME_DONE), "4:e 63+1!");
    tear_down(&b);
}

/* Three requests of one block each on four blocks: the first two to need a second one. */
static void the_one_with_least_output_is_retracted(void **state)
{
    (void)state;
    bench b;
    proa_scheduler_limits limits = roomy;
    limits.kv_blocks = 4;
    limits.context_length = 256;
    set_up(&b, limits);
    submit(&b, 0, 0, 0, 62, 100, 1000);
    submit(&b, 1, 0, 0, 32, 100, 1000);
    submit(&b, 2, 0, 0, 30, 100, 1000);
    assert_string_equal(step(&b), "0:e 0+62!, 1:e 0+2");
    assert_string_equal(step(&b), "0:a 62+1!, 1:e 2+30!, 2:e 0+30!");
    steps(&b, 31); /* slot 0 starts its second block at 64, the last one that is free */
    assert_string_equal(step(&b), "0:a 94+1!, 1:a 63+1!, 2:a 61+1!");
    assert_string_equal(step(&b), "0:a 95+1!, 1:a 64+1!"); /* 2 has as much output as 1 and came later */
    assert_int_equal(proa_scheduler_retractions(b.scheduler, 2), 1);
    assert_int_equal(b.plan.retracted, 1);
    submit(&b, 3, 0, 0, 10, 10, 100); /* waits behind the retracted one */
    assert_string_equal(step_with(&b, PROA_OUTCOME_DONE), "0:a 96+1!, 1:a 65+1!");
    /* its 33 tokens are computed again in their own form */
    assert_string_equal(step(&b), "2:e 0+30, 3:e 0+10!");
    assert_string_equal(step_with(&b, PROA_OUTCOME_DONE), "3:a 10+1!, 2:a 30+33!");
    tear_down(&b);
}

static void the_retracted_return_in_their_order(void **state)
{
    (void)state;
    bench b;
    proa_scheduler_limits limits = roomy;
    limits.kv_blocks = 4;
    limits.context_length = 256;
    set_up(&b, limits);
    submit(&b, 0, 7, 30, 30, 10, 1);
    submit(&b, 1, 8, 10, 10, 10, 1);
    submit(&b, 2, 0, 0, 20, 200, 1000);
    steps(&b, 128 - 20 + 1);
    assert_int_equal(proa_scheduler_retractions(b.scheduler, 1), 0);
    steps(&b, 1); /* slot 2 starts its third block */
    assert_int_equal(proa_scheduler_retractions(b.scheduler, 1), 1);
    submit(&b, 3, 0, 0, 5, 10, 1);
    steps(&b, 64); /* and its fourth, with all the rest */
    assert_int_equal(proa_scheduler_retractions(b.scheduler, 0), 1);
    proa_scheduler_grant(b.scheduler, 0, 10);
    proa_scheduler_grant(b.scheduler, 1, 10);
    assert_string_equal(step_with(&b, PROA_OUTCOME_DONE), "2:a 193+1!");
    assert_string_equal(step(&b), "0:e 0+30, 1:e 0+10, 3:e 0+5!");
    assert_string_equal(step(&b), "0:a 30+1!, 1:a 10+1!");
    for (int32_t slot = 0; slot < 4; slot += slot == 1 ? 2 : 1)
        proa_scheduler_cancel(b.scheduler, slot);
    tear_down(&b);
}

/* With room in the cache, a retracted prompt is shared and copied; only the output is computed again. */
static void a_replay_starts_from_the_cache(void **state)
{
    (void)state;
    bench b;
    proa_scheduler_limits limits = roomy;
    limits.running_max = 1;
    set_up(&b, limits);
    submit(&b, 0, 7, 100, 100, 100, 3);
    steps(&b, 4);
    submit(&b, 1, 0, 0, 5, 10, 1);
    assert_string_equal(step_with(&b, PROA_OUTCOME_DONE), "1:e 0+5!"); /* slot 0 has no credit and gave way */
    proa_scheduler_grant(b.scheduler, 0, 5);
    assert_string_equal(step(&b), "0:a 100+3!");
    assert_int_equal(b.plan.copy_count, 1);
    assert_int_equal(b.plan.copies[0].tokens, 36);
    assert_int_equal(b.plan.cached_tokens, 0); /* what it found at its first admission counts */
    assert_string_equal(step_with(&b, PROA_OUTCOME_DONE), "0:a 103+1!");
    tear_down(&b);
}

static void the_paused_are_retracted_first(void **state)
{
    (void)state;
    bench b;
    proa_scheduler_limits limits = roomy;
    limits.kv_blocks = 2;
    limits.context_length = 128;
    limits.cache = false;
    set_up(&b, limits);
    submit(&b, 0, 0, 0, 4, 100, 61);
    submit(&b, 1, 0, 0, 4, 100, 1000);
    steps(&b, 61); /* slot 0 has 61 tokens and no credit, slot 1 fills its block */
    assert_string_equal(step(&b), "1:a 64+1!");
    assert_int_equal(proa_scheduler_retractions(b.scheduler, 0), 1);
    assert_string_equal(step(&b), "1:a 65+1!"); /* without credit it does not come back */
    proa_scheduler_grant(b.scheduler, 0, 10);
    assert_string_equal(step_with(&b, PROA_OUTCOME_DONE), "1:a 66+1!");
    assert_string_equal(step(&b), "0:e 0+4");
    assert_string_equal(step(&b), "0:a 4+61!");
    assert_string_equal(step_with(&b, PROA_OUTCOME_DONE), "0:a 65+1!");
    tear_down(&b);
}

static void the_paused_give_way_to_the_waiting(void **state)
{
    (void)state;
    bench b;
    proa_scheduler_limits limits = roomy;
    limits.running_max = 2;
    set_up(&b, limits);
    b.now_us = 5000000;
    submit(&b, 0, 0, 0, 4, 10, 1);
    submit(&b, 1, 0, 0, 4, 100, 100);
    assert_string_equal(step(&b), "0:e 0+4!, 1:e 0+4!");
    submit(&b, 2, 0, 0, 6, 10, 100);
    assert_string_equal(step(&b), "1:a 4+1!"); /* for a while it keeps its place */
    b.now_us += PROA_SCHEDULER_PAUSE_US - 1;
    assert_string_equal(step(&b), "1:a 5+1!");
    b.now_us += 1;
    assert_string_equal(step(&b), "1:a 6+1!, 2:e 0+6!");
    proa_scheduler_cancel(b.scheduler, 1);
    proa_scheduler_cancel(b.scheduler, 2);
    proa_scheduler_grant(b.scheduler, 0, 1);
    assert_string_equal(step(&b), "0:a 4+1!");
    submit(&b, 3, 0, 0, 6, 10, 1);
    assert_string_equal(step(&b), "3:e 0+6!");
    submit(&b, 4, 0, 0, 6, 10, 1);
    assert_string_equal(step(&b), "4:e 0+6!"); /* at once, when nothing else can run */
    for (int32_t slot = 0; slot < 5; slot += slot == 0 ? 3 : 1)
        proa_scheduler_cancel(b.scheduler, slot);
    tear_down(&b);
}

/* Admission keeps room for what the running ones may still take. */
static void admission_leaves_room_to_grow(void **state)
{
    (void)state;
    static const struct {
        int32_t permille;
        const char *second;
    } table[] = {{0, "0:a 10+1!, 1:e 0+10!"}, {1000, "0:a 10+1!"}};
    for (size_t i = 0; i < 2; i++) {
        bench b;
        proa_scheduler_limits limits = roomy;
        limits.kv_blocks = 3;
        limits.context_length = 192;
        limits.growth_permille = table[i].permille;
        set_up(&b, limits);
        submit(&b, 0, 0, 0, 10, 100, 1000);
        assert_string_equal(step(&b), "0:e 0+10!");
        submit(&b, 1, 0, 0, 10, 100, 1000);
        assert_string_equal(step(&b), table[i].second);
        proa_scheduler_cancel(b.scheduler, 0);
        proa_scheduler_cancel(b.scheduler, 1);
        tear_down(&b);
    }
}

static void a_failed_step_ends_its_requests_alone(void **state)
{
    (void)state;
    bench b;
    set_up(&b, roomy);
    submit(&b, 0, 7, 70, 70, 10, 1);
    steps(&b, 2); /* it pauses after its first token */
    submit(&b, 1, 8, 100, 100, 10, 100);
    steps(&b, 1);
    proa_scheduler_plan(b.scheduler, b.now_us, &b.plan);
    assert_int_equal(b.plan.segment_count, 1);
    proa_scheduler_fail(b.scheduler);
    proa_scheduler_check(b.scheduler);
    submit(&b, 2, 8, 100, 100, 10, 100); /* what was computed before is good, what failed is not there */
    assert_string_equal(step_with(&b, PROA_OUTCOME_DONE), "2:e 64+36!");
    proa_scheduler_grant(b.scheduler, 0, 5);
    assert_string_equal(step_with(&b, PROA_OUTCOME_LOST), "0:a 70+1!");
    tear_down(&b);
}

/* ---- hand-off ---- */

static int32_t rows_shown(const bench *b, int32_t slot)
{
    proa_engine_rows rows = {0};
    proa_scheduler_rows(b->scheduler, slot, &rows);
    return rows.rows;
}

static void a_prefilled_request_is_held(void **state)
{
    (void)state;
    bench b;
    proa_scheduler_view view;
    proa_scheduler_limits limits = roomy;
    limits.role = PROA_ENGINE_PREFILL;
    limits.chunk = 40;
    limits.running_max = 1;
    set_up(&b, limits);
    submit(&b, 0, 7, 100, 100, 10, 1);
    assert_string_equal(step(&b), "0:e 0+40");
    assert_int_equal(rows_shown(&b, 0), 0); /* whole blocks */
    assert_string_equal(step(&b), "0:e 40+40");
    assert_int_equal(rows_shown(&b, 0), 64);
    assert_string_equal(step(&b), "0:e 80+20!");
    assert_int_equal(rows_shown(&b, 0), 100);
    assert_int_equal(proa_scheduler_state(b.scheduler, 0), PROA_REQUEST_HELD);
    submit(&b, 1, 7, 100, 100, 10, 1);
    assert_string_equal(step(&b), ""); /* it keeps its place, and is no victim though without credit */
    proa_scheduler_release(b.scheduler, 0);
    assert_string_equal(step_with(&b, PROA_OUTCOME_DONE), "1:e 99+1!"); /* the tail came into the cache */
    assert_int_equal(proa_scheduler_state(b.scheduler, 1), PROA_REQUEST_HELD);
    proa_scheduler_cancel(b.scheduler, 1);
    proa_scheduler_look(b.scheduler, &view);
    assert_int_equal(proa_scheduler_state(b.scheduler, 1), PROA_REQUEST_LENT);
    assert_int_equal(view.running, 0);
    assert_int_equal(view.lent, 1);
    assert_int_equal(view.blocks_lent, 2);
    assert_int_equal(view.blocks_used, 2);
    submit(&b, 2, 8, 50, 50, 10, 1);
    assert_string_equal(step(&b), ""); /* a lent one keeps its place too */
    proa_scheduler_release(b.scheduler, 1);
    assert_string_equal(step(&b), "2:e 0+40");
    proa_scheduler_cancel(b.scheduler, 2); /* nothing was shown: gone at once */
    tear_down(&b);
}

static void earlier_output_is_replayed(void **state)
{
    (void)state;
    bench b;
    proa_scheduler_limits limits = roomy;
    for (int32_t role = PROA_ENGINE_COMBINED; role <= PROA_ENGINE_PREFILL; role++) {
        limits.role = (proa_engine_role)role;
        set_up(&b, limits);
        submit(&b, 0, 0, 0, 70, 40, 100);
        proa_scheduler_cancel(b.scheduler, 0);
        proa_scheduler_submit(b.scheduler, 0,
                              &(proa_scheduler_request){.prompt_ids = b.prompts[0],
                                                        .prompt_count = 70,
                                                        .output_count = 30,
                                                        .max_new_tokens = 40,
                                                        .credit = 100});
        assert_string_equal(step(&b), "0:e 0+64");
        assert_string_equal(step(&b), "0:e 64+6");
        assert_string_equal(step(&b), "0:a 70+30!");
        assert_string_equal(step(&b), role == PROA_ENGINE_PREFILL ? "" : "0:a 100+1!");
        proa_scheduler_release(b.scheduler, 0);
        tear_down(&b);
    }
}

static proa_scheduler_limits decoding(int32_t kv_blocks)
{
    proa_scheduler_limits limits = roomy;
    limits.role = PROA_ENGINE_DECODE;
    limits.cache = false;
    limits.kv_blocks = kv_blocks;
    limits.context_length = kv_blocks * 64;
    return limits;
}

static void reserved_blocks_wait_for_their_rows(void **state)
{
    (void)state;
    bench b;
    set_up(&b, decoding(16));
    submit(&b, 0, 0, 0, 64, 10, 3);
    submit(&b, 1, 0, 0, 63, 10, 2);
    assert_string_equal(step(&b), "0:r 64/2, 1:r 63/1"); /* one token more than rows */
    assert_string_equal(step(&b), "");
    proa_scheduler_adopt(b.scheduler, 0, 17, PROA_OUTCOME_TOKEN);
    assert_int_equal(proa_scheduler_cached_tokens(b.scheduler, 0), 17);
    assert_string_equal(step(&b), "0:a 64+1!");
    proa_scheduler_adopt(b.scheduler, 1, 0, PROA_OUTCOME_DONE); /* its first token was its last */
    assert_int_equal(proa_scheduler_state(b.scheduler, 1), PROA_REQUEST_FREE);
    assert_string_equal(step(&b), "0:a 65+1!");
    assert_string_equal(step(&b), ""); /* the adopted token took a credit */
    proa_scheduler_cancel(b.scheduler, 0);
    submit(&b, 2, 0, 0, 200, 10, 1);
    assert_string_equal(step(&b), "2:r 200/4");
    proa_scheduler_cancel(b.scheduler, 2);
    assert_int_equal(proa_scheduler_state(b.scheduler, 2), PROA_REQUEST_LENT);
    proa_scheduler_release(b.scheduler, 2);
    submit(&b, 2, 0, 0, 200, 10, 1);
    proa_scheduler_cancel(b.scheduler, 2); /* nobody was told */
    assert_int_equal(proa_scheduler_state(b.scheduler, 2), PROA_REQUEST_FREE);
    tear_down(&b);
}

/* Blocks in a peer's hands are nobody's to take: the row waits, and is the first to have one. */
static void a_row_waits_for_blocks_that_are_lent(void **state)
{
    (void)state;
    bench b;
    proa_scheduler_limits limits = decoding(4);
    limits.reserved_tokens = 0;
    set_up(&b, limits);
    submit(&b, 0, 0, 0, 62, 100, 1000);
    assert_string_equal(step(&b), "0:r 62/1");
    submit(&b, 1, 0, 0, 150, 40, 1000);
    submit(&b, 2, 0, 0, 10, 40, 1000);
    proa_scheduler_adopt(b.scheduler, 0, 0, PROA_OUTCOME_TOKEN);
    assert_string_equal(step(&b), "0:a 62+1!, 1:r 150/3");
    assert_string_equal(step(&b), "0:a 63+1!");
    assert_string_equal(step(&b), "");
    assert_string_equal(step(&b), "");
    assert_int_equal(proa_scheduler_retractions(b.scheduler, 0), 0);
    proa_scheduler_cancel(b.scheduler, 1);
    assert_string_equal(step(&b), ""); /* lent now: the peer may still write */
    proa_scheduler_release(b.scheduler, 1);
    assert_string_equal(step(&b), "0:a 64+1!, 2:r 10/1");
    proa_scheduler_release(b.scheduler, 2);
    proa_scheduler_cancel(b.scheduler, 0);
    tear_down(&b);
}

/* A retracted request computes its own rows again, and no reservation goes before it. */
static void the_retracted_go_before_reservations(void **state)
{
    (void)state;
    bench b;
    proa_scheduler_limits limits = decoding(4);
    limits.reserved_tokens = 0;
    set_up(&b, limits);
    submit(&b, 0, 0, 0, 126, 60, 1000);
    submit(&b, 1, 0, 0, 63, 60, 1000);
    assert_string_equal(step(&b), "0:r 126/2, 1:r 63/1");
    proa_scheduler_adopt(b.scheduler, 0, 0, PROA_OUTCOME_TOKEN);
    proa_scheduler_adopt(b.scheduler, 1, 0, PROA_OUTCOME_TOKEN);
    assert_string_equal(step(&b), "0:a 126+1!, 1:a 63+1!");
    assert_string_equal(step(&b), "0:a 127+1!, 1:a 64+1!");
    assert_string_equal(step(&b), "0:a 128+1!"); /* it needs a third block */
    assert_int_equal(proa_scheduler_retractions(b.scheduler, 1), 1);
    submit(&b, 2, 0, 0, 10, 40, 1000); /* would fit */
    assert_string_equal(step(&b), "0:a 129+1!");
    assert_string_equal(step_with(&b, PROA_OUTCOME_DONE), "0:a 130+1!");
    assert_string_equal(step(&b), "1:e 0+63, 2:r 10/1");
    assert_string_equal(step(&b), "1:a 63+3!");
    proa_scheduler_release(b.scheduler, 2);
    proa_scheduler_cancel(b.scheduler, 1);
    tear_down(&b);
}

static void a_reservation_leaves_room(void **state)
{
    (void)state;
    static const struct {
        int32_t tokens, permille;
        const char *second;
    } table[] = {
        {0, 1000, "0:a 10+1!, 1:r 10/1"}, {200, 0, "0:a 10+1!"},          {-1, 0, "0:a 10+1!, 1:r 10/1"},
        {-1, 1000, "0:a 10+1!"},          {50, 0, "0:a 10+1!, 1:r 10/1"},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        bench b;
        proa_scheduler_limits limits = decoding(3);
        limits.reserved_tokens = table[i].tokens;
        limits.growth_permille = table[i].permille;
        set_up(&b, limits);
        submit(&b, 0, 0, 0, 10, 100, 1000);
        submit(&b, 1, 0, 0, 10, 100, 1000);
        proa_scheduler_cancel(b.scheduler, 1);
        assert_string_equal(step(&b), "0:r 10/1");
        submit(&b, 1, 0, 0, 10, 100, 1000);
        proa_scheduler_adopt(b.scheduler, 0, 0, PROA_OUTCOME_TOKEN);
        assert_string_equal(step(&b), table[i].second);
        proa_scheduler_release(b.scheduler, 0);
        proa_scheduler_release(b.scheduler, 1);
        tear_down(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompts_are_chunked_beside_decode_rows),
        cmocka_unit_test(no_more_run_than_allowed),
        cmocka_unit_test(credit_is_spent_and_granted),
        cmocka_unit_test(prefixes_are_shared_and_copied),
        cmocka_unit_test(output_is_not_cached),
        cmocka_unit_test(the_longest_prefix_goes_first_but_not_for_ever),
        cmocka_unit_test(the_one_with_least_output_is_retracted),
        cmocka_unit_test(the_retracted_return_in_their_order),
        cmocka_unit_test(a_replay_starts_from_the_cache),
        cmocka_unit_test(the_paused_are_retracted_first),
        cmocka_unit_test(the_paused_give_way_to_the_waiting),
        cmocka_unit_test(admission_leaves_room_to_grow),
        cmocka_unit_test(a_failed_step_ends_its_requests_alone),
        cmocka_unit_test(a_prefilled_request_is_held),
        cmocka_unit_test(earlier_output_is_replayed),
        cmocka_unit_test(reserved_blocks_wait_for_their_rows),
        cmocka_unit_test(a_row_waits_for_blocks_that_are_lent),
        cmocka_unit_test(the_retracted_go_before_reservations),
        cmocka_unit_test(a_reservation_leaves_room),
    };
    return cmocka_run_group_tests_name("scheduler", tests, NULL, NULL);
}
