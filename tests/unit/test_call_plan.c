/* test_call_plan.c - one request over its attempts: what each kind of end leads to, and random lives against an oracle.
 *
 * A life draws a request and workers that answer, refuse, fail, break the protocol, get lost and speak out of turn. Checked in
 * each: the sink sees the oracle's tokens, each once and in order, never more than its credit; one finish, a clean one only with
 * all tokens; at most migration_limit replays; every leg that was begun has ended, was lost or is cancelled, once; each
 * SUBMIT carries what was delivered and the credit that is left; nothing waits for ever.
 *
 * test_call_plan [LIVES [FIRST]]: a failure names its seed; run it alone with `test_call_plan 1 SEED`.
 */
#include "cluster/call_plan.h"

#include "base/random.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { VOCAB = 1000, CONTEXT = 4096 };

/* ---- one step after another ---- */

static const int32_t prompt[] = {5, 6, 7, 8, 9};

static proa_engine_request request_of(int32_t max_new_tokens, int32_t credit)
{
    return (proa_engine_request){.prompt_ids = prompt,
                                 .prompt_count = 5,
                                 .max_new_tokens = max_new_tokens,
                                 .seed = 42,
                                 .top_logprobs = 2,
                                 .repetition_penalty = 1.5f,
                                 .credit = credit};
}

static proa_call_plan *make(int32_t max_new_tokens, int32_t credit, int32_t migration_limit)
{
    proa_call_plan *plan = NULL;
    proa_error err = {0};
    proa_engine_request request = request_of(max_new_tokens, credit);
    assert_int_equal(proa_call_plan_create(&request, migration_limit, &plan, &err), PROA_OK);
    return plan;
}

static void pick(proa_call_plan *plan, bool pair)
{
    proa_call_pick to = {.pair = pair,
                         .room = pair ? 77 : 0,
                         .epochs = {11, 22},
                         .context_length = CONTEXT,
                         .vocab_size = VOCAB};
    proa_call_plan_picked(plan, &to);
}

static proa_call_plan *running(bool pair)
{
    proa_call_todo todo;
    proa_call_plan *plan = make(8, 64, 1);
    proa_call_plan_start(plan, &todo);
    assert_true(todo.pick);
    pick(plan, pair);
    return plan;
}

static void send_tokens(proa_call_plan *plan, int32_t first, uint32_t count, bool stop, proa_call_todo *todo)
{
    proa_sample_result tokens[64] = {0};
    for (uint32_t i = 0; i < count; i++)
        tokens[i].token = first + (int32_t)i;
    proa_wire_tokens message = {.count = count, .tokens = tokens, .stop = stop};
    proa_call_plan_tokens(plan, proa_call_plan_attempt(plan), &message, 0, todo);
}

static void end_leg(proa_call_plan *plan, proa_call_leg leg, proa_finish_reason reason, proa_status status,
                    bool blamed, int64_t now_us, proa_call_todo *todo)
{
    proa_engine_finish finish = {.reason = reason};
    if (status != PROA_OK)
        proa_error_set(&finish.error, status, "the worker says %s", proa_status_name(status));
    proa_call_plan_ended(plan, proa_call_plan_attempt(plan), leg, &finish, blamed, now_us, todo);
}

typedef struct failure_row {
    bool pair;
    proa_call_leg leg;
    proa_status status;
    bool blamed;
    bool ends, replays; /* neither: another worker is tried without counting */
    const char *faults; /* letters: m main, p prefill, b between the two */
} failure_row;

static void test_failures(void **state)
{
    (void)state;
    static const failure_row table[] = {
        {false, PROA_CALL_MAIN, PROA_ERR_INVALID, false, true, false, ""},
        {false, PROA_CALL_MAIN, PROA_ERR_TOO_LONG, false, true, false, ""},
        {true, PROA_CALL_MAIN, PROA_ERR_UNSUPPORTED, false, true, false, ""},
        {true, PROA_CALL_PREFILL, PROA_ERR_NOT_FOUND, false, true, false, ""},
        {false, PROA_CALL_MAIN, PROA_ERR_OVERLOADED, false, false, false, ""},
        {true, PROA_CALL_PREFILL, PROA_ERR_OVERLOADED, false, false, false, ""},
        {false, PROA_CALL_MAIN, PROA_ERR_CANCELLED, false, false, true, ""},
        {true, PROA_CALL_MAIN, PROA_ERR_CANCELLED, false, false, true, ""},
        {false, PROA_CALL_MAIN, PROA_ERR_DEADLINE, false, false, true, "m"},
        {true, PROA_CALL_MAIN, PROA_ERR_DEADLINE, false, false, true, "b"},
        {true, PROA_CALL_PREFILL, PROA_ERR_DEADLINE, false, false, true, "b"},
        {true, PROA_CALL_MAIN, PROA_ERR_UNREACHABLE, true, false, true, "b"},
        {true, PROA_CALL_MAIN, PROA_ERR_CORRUPT, true, false, true, "b"},
        {true, PROA_CALL_MAIN, PROA_ERR_CORRUPT, false, false, true, "m"},
        {true, PROA_CALL_PREFILL, PROA_ERR_DEVICE, false, false, true, "p"},
        {true, PROA_CALL_MAIN, PROA_ERR_DEVICE_MEMORY, false, false, true, "m"},
        {false, PROA_CALL_MAIN, PROA_ERR_MEMORY, false, false, true, "m"},
        {false, PROA_CALL_MAIN, PROA_ERR_INTERNAL, false, false, true, "m"},
        {false, PROA_CALL_MAIN, PROA_ERR_UNREACHABLE, true, false, true, "m"},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        const failure_row *row = &table[i];
        proa_call_plan *plan = running(row->pair);
        proa_call_todo todo;
        proa_call_leg other = row->leg == PROA_CALL_MAIN ? PROA_CALL_PREFILL : PROA_CALL_MAIN;
        end_leg(plan, row->leg, PROA_FINISH_ABORT, row->status, row->blamed, 0, &todo);
        char faults[4], *at = faults;
        if (todo.failed[PROA_CALL_MAIN])
            *at++ = 'm';
        if (todo.failed[PROA_CALL_PREFILL])
            *at++ = 'p';
        if (todo.pair_failed)
            *at++ = 'b';
        *at = 0;
        if (todo.finished != row->ends || todo.pick == row->ends || todo.replaying != row->replays ||
            strcmp(faults, row->faults) != 0 || todo.cancel[other] != row->pair || todo.cancel[row->leg])
            fail_msg("row %zu: %d %d %d %s", i, todo.finished, todo.pick, todo.replaying, faults);
        if (row->ends)
            assert_int_equal(todo.finish.error.status, row->status);
        proa_call_plan_free(plan);
    }
}

static void test_clean_ends(void **state)
{
    (void)state;
    proa_call_todo todo;
    proa_call_plan *plan = running(true);
    send_tokens(plan, 10, 3, false, &todo);
    assert_true(todo.deliver && !todo.finished);
    end_leg(plan, PROA_CALL_PREFILL, PROA_FINISH_LENGTH, PROA_OK, false, 0, &todo);
    assert_false(todo.finished || todo.pick);
    send_tokens(plan, 13, 1, true, &todo);
    end_leg(plan, PROA_CALL_MAIN, PROA_FINISH_STOP, PROA_OK, false, 0, &todo);
    assert_true(todo.finished && todo.worked[0] && todo.worked[1] && todo.pair_worked);
    assert_false(todo.cancel[0] || todo.cancel[1]);
    assert_int_equal(todo.finish.reason, PROA_FINISH_STOP);
    assert_int_equal(todo.finish.matched, 13);
    assert_int_equal(todo.finish.usage.output_tokens, 4);
    assert_int_equal(todo.finish.usage.prompt_tokens, 5);
    proa_call_plan_free(plan);

    plan = running(true); /* the prefill leg still runs: it is cancelled */
    send_tokens(plan, 10, 8, false, &todo);
    end_leg(plan, PROA_CALL_MAIN, PROA_FINISH_LENGTH, PROA_OK, false, 0, &todo);
    assert_true(todo.finished && todo.cancel[PROA_CALL_PREFILL]);
    assert_int_equal(todo.finish.reason, PROA_FINISH_LENGTH);
    proa_call_plan_cancel(plan, "too late", &todo);
    assert_false(todo.finished);
    proa_call_plan_free(plan);
}

/* No stream ends clean but short. */
static void test_protocol(void **state)
{
    (void)state;
    for (int what = 0; what < 6; what++) {
        proa_call_todo todo;
        proa_call_plan *plan = running(false);
        send_tokens(plan, 10, 2, what == 4, &todo);
        switch (what) {
        case 0: end_leg(plan, PROA_CALL_MAIN, PROA_FINISH_LENGTH, PROA_OK, false, 0, &todo); break;
        case 1: end_leg(plan, PROA_CALL_MAIN, PROA_FINISH_STOP, PROA_OK, false, 0, &todo); break;
        case 2: send_tokens(plan, 12, 7, false, &todo); break;        /* 9 of 8 */
        case 3: send_tokens(plan, VOCAB - 1, 2, false, &todo); break; /* one over the vocabulary */
        case 4: send_tokens(plan, 12, 1, false, &todo); break; /* after the stop: complete all the same */
        case 5: send_tokens(plan, 12, 0, false, &todo); break;
        default: break;
        }
        assert_false(todo.deliver);
        assert_true(todo.failed[PROA_CALL_MAIN]);
        assert_int_equal(todo.finished, what == 4);
        assert_int_equal(todo.replaying, what != 4);
        proa_call_plan_free(plan);
    }
}

static void test_lost_after_the_last_token(void **state)
{
    (void)state;
    for (int stop = 0; stop < 2; stop++) {
        proa_call_todo todo;
        proa_call_plan *plan = running(false);
        proa_error why = {.status = PROA_ERR_UNREACHABLE};
        send_tokens(plan, 10, stop ? 3 : 8, stop != 0, &todo);
        proa_call_plan_lost(plan, 1, PROA_CALL_MAIN, &why, 0, &todo);
        assert_true(todo.finished);
        assert_int_equal(todo.finish.reason, stop ? PROA_FINISH_STOP : PROA_FINISH_LENGTH);
        assert_int_equal(todo.finish.matched, stop ? 12 : -1);
        proa_call_plan_free(plan);
    }
}

static void test_prefill_lost_after_its_work(void **state)
{
    (void)state;
    proa_call_todo todo;
    proa_error why = {.status = PROA_ERR_UNREACHABLE};
    proa_call_plan *plan = running(true);
    send_tokens(plan, 10, 1, false, &todo);
    proa_call_plan_lost(plan, 1, PROA_CALL_PREFILL, &why, 0, &todo);
    assert_false(todo.pick || todo.finished || todo.cancel[PROA_CALL_MAIN]);
    proa_call_plan_free(plan);
    plan = running(true);
    proa_call_plan_lost(plan, 1, PROA_CALL_PREFILL, &why, 0, &todo);
    assert_true(todo.pick && todo.replaying && todo.cancel[PROA_CALL_MAIN]);
    pick(plan, true);
    proa_call_plan_lost(plan, 1, PROA_CALL_MAIN, &why, 0, &todo); /* of the attempt before */
    assert_false(todo.pick || todo.finished);
    proa_call_plan_free(plan);
}

static void test_poison_ends_at_the_limit(void **state)
{
    (void)state;
    proa_call_todo todo;
    proa_error why;
    proa_error_set(&why, PROA_ERR_UNREACHABLE, "connection reset");
    proa_call_plan *plan = make(8, 64, 3);
    proa_call_plan_start(plan, &todo);
    for (int i = 0; i < 4; i++) {
        assert_true(todo.pick);
        pick(plan, false);
        proa_call_plan_lost(plan, proa_call_plan_attempt(plan), PROA_CALL_MAIN, &why, 0, &todo);
    }
    assert_true(todo.finished);
    assert_int_equal(todo.finish.error.status, PROA_ERR_UNREACHABLE);
    assert_string_equal(todo.finish.error.text, "given up after 3 replays: connection reset");
    proa_call_plan_free(plan);
}

static void test_waits_for_a_worker(void **state)
{
    (void)state;
    proa_call_todo todo;
    proa_error none, full, lost;
    proa_error_set(&none, PROA_ERR_UNREACHABLE, "nobody");
    proa_error_set(&full, PROA_ERR_OVERLOADED, "full");
    proa_error_set(&lost, PROA_ERR_UNREACHABLE, "reset");
    /* a new request is refused by full workers at once, waits for one that has just gone */
    proa_call_plan *plan = make(8, 64, 3);
    proa_call_plan_start(plan, &todo);
    proa_call_plan_unpicked(plan, &none, 1000, &todo);
    assert_int_equal(proa_call_plan_state(plan), PROA_CALL_WAITING);
    proa_call_plan_retry(plan, &todo);
    assert_true(todo.pick);
    proa_call_plan_unpicked(plan, &full, 2000, &todo);
    assert_true(todo.finished);
    assert_int_equal(todo.finish.error.status, PROA_ERR_OVERLOADED);
    proa_call_plan_free(plan);
    /* those that refused a replay are asked again after a pause */
    const uint64_t *refused;
    plan = running(false);
    proa_call_plan_lost(plan, 1, PROA_CALL_MAIN, &lost, 1000, &todo);
    pick(plan, false);
    end_leg(plan, PROA_CALL_MAIN, PROA_FINISH_ABORT, PROA_ERR_OVERLOADED, false, 1000, &todo);
    assert_int_equal(proa_call_plan_refused(plan, &refused), 1);
    assert_int_equal(refused[0], 22);
    proa_call_plan_unpicked(plan, &full, 1000, &todo);
    assert_int_equal(proa_call_plan_refused(plan, &refused), 0);
    proa_call_plan_free(plan);
    /* a replay waits for either, to its deadline */
    plan = running(false);
    proa_call_plan_lost(plan, 1, PROA_CALL_MAIN, &lost, 1000, &todo);
    for (int64_t now = 1000; now < 1000 + PROA_CALL_WAIT_US; now += 500000) {
        proa_call_plan_unpicked(plan, now % 1000000 == 1000 ? &full : &none, now, &todo);
        assert_int_equal(proa_call_plan_state(plan), PROA_CALL_WAITING);
        proa_call_plan_retry(plan, &todo);
    }
    proa_call_plan_unpicked(plan, &none, 1000 + PROA_CALL_WAIT_US, &todo);
    assert_true(todo.finished);
    assert_non_null(strstr(todo.finish.error.text, "nobody; before, the attempt at a worker failed: reset"));
    proa_call_plan_free(plan);
}

static void test_held_without_credit(void **state)
{
    (void)state;
    proa_call_todo todo;
    proa_error lost = {.status = PROA_ERR_UNREACHABLE};
    proa_call_plan *plan = make(8, 3, 3);
    proa_call_plan_start(plan, &todo);
    pick(plan, false);
    proa_call_plan_grant(plan, 1, 0, &todo);
    assert_int_equal(todo.grant, 0); /* the SUBMIT may still be on its way */
    send_tokens(plan, 10, 3, false, &todo);
    assert_int_equal(todo.grant, 1);
    send_tokens(plan, 13, 1, false, &todo);
    proa_call_plan_lost(plan, 1, PROA_CALL_MAIN, &lost, 0, &todo);
    assert_false(todo.pick);
    assert_int_equal(proa_call_plan_state(plan), PROA_CALL_HELD);
    proa_call_plan_grant(plan, 5, 1000000000, &todo); /* the reader may take its time */
    assert_true(todo.pick);
    pick(plan, false);
    proa_wire_submit submit = {0};
    proa_call_plan_submit(plan, PROA_CALL_MAIN, &submit);
    assert_int_equal(submit.request.credit, 5);
    assert_int_equal(submit.request.output_count, 4);
    assert_int_equal(submit.request.output_ids[3], 13);
    proa_call_plan_free(plan);
}

static void test_refused_requests(void **state)
{
    (void)state;
    static const struct {
        const char *field;
        proa_engine_request request;
        proa_status status;
    } table[] = {
        {"prompt_count", {.max_new_tokens = 1, .credit = 1}, PROA_ERR_INVALID},
        {"prompt_count",
         {.prompt_count = PROA_WIRE_PROMPT_MAX + 1, .max_new_tokens = 1, .credit = 1},
         PROA_ERR_TOO_LONG},
        {"max_new_tokens", {.prompt_count = 1, .credit = 1}, PROA_ERR_INVALID},
        {"credit", {.prompt_count = 1, .max_new_tokens = 1}, PROA_ERR_INVALID},
        {"stop_count",
         {.prompt_count = 1, .max_new_tokens = 1, .credit = 1, .stop_count = PROA_WIRE_STOPS_MAX + 1},
         PROA_ERR_TOO_LONG},
        {"bias_count",
         {.prompt_count = 1, .max_new_tokens = 1, .credit = 1, .bias_count = -1},
         PROA_ERR_INVALID},
        {"top_logprobs",
         {.prompt_count = 1, .max_new_tokens = 1, .credit = 1, .top_logprobs = 21},
         PROA_ERR_TOO_LONG},
        {"output_count",
         {.prompt_count = 1, .max_new_tokens = 3, .credit = 1, .output_count = 3},
         PROA_ERR_INVALID},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        proa_call_plan *plan = NULL;
        proa_error err = {0};
        assert_int_equal(proa_call_plan_create(&table[i].request, 3, &plan, &err), table[i].status);
        if (strstr(err.text, table[i].field) == NULL)
            fail_msg("%s: %s", table[i].field, err.text);
    }
}

/* ---- random lives ---- */

typedef struct life {
    uint64_t seed, draws;
    int64_t now_us;
    proa_call_plan *plan;
    int32_t max_new_tokens; /* after the context's cut */
    int32_t stops_after;    /* the oracle's stop; over max_new_tokens: never */
    int32_t migration_limit;
    int32_t delivered, granted;
    int finishes, replays;
    proa_engine_finish finish;
    bool open[PROA_CALL_LEGS]; /* begun and neither ended, lost nor cancelled */
    bool cancelled;
    /* the main leg's worker */
    int32_t base, sent, credit;
    bool stopped;
    int32_t trouble_permille;
} life;

static uint64_t draw(life *l)
{
    uint32_t w[4];
    proa_random_philox(l->seed, ++l->draws, 1, w);
    return (uint64_t)w[0] << 32 | w[1];
}

static int32_t between(life *l, int32_t least, int32_t most)
{
    return least + (int32_t)(draw(l) % (uint64_t)(most - least + 1));
}

static bool chance(life *l, int32_t permille)
{
    return between(l, 0, 999) < permille;
}

static int32_t oracle(const life *l, int32_t position)
{
    uint32_t w[4];
    proa_random_philox(l->seed, (uint64_t)position, 2, w);
    return (int32_t)(w[0] % VOCAB);
}

#define REQUIRE(l, condition)                                                                                \
    do {                                                                                                     \
        if (!(condition))                                                                                    \
            fail_msg("seed %llu: %s (line %d)", (unsigned long long)(l)->seed, #condition, __LINE__);        \
    } while (0)

static void check_submit(life *l, bool pair)
{
    for (int leg = pair ? PROA_CALL_PREFILL : PROA_CALL_MAIN; leg < PROA_CALL_LEGS; leg++) {
        proa_wire_submit submit = {0};
        proa_call_plan_submit(l->plan, (proa_call_leg)leg, &submit);
        REQUIRE(l, submit.leg == (leg == PROA_CALL_PREFILL ? PROA_LEG_PREFILL
                                  : pair                   ? PROA_LEG_DECODE
                                                           : PROA_LEG_COMBINED));
        REQUIRE(l, submit.request.output_count == l->delivered);
        for (int32_t i = 0; i < l->delivered; i++)
            REQUIRE(l, submit.request.output_ids[i] == oracle(l, i));
        REQUIRE(l, submit.request.credit == l->granted - l->delivered && submit.request.credit >= 1);
        REQUIRE(l, submit.request.max_new_tokens == l->max_new_tokens);
        REQUIRE(l, submit.request.seed == 42 && submit.request.repetition_penalty == 1.5f);
        REQUIRE(l, memcmp(submit.request.prompt_ids, prompt, sizeof prompt) == 0);
        l->credit = submit.request.credit;
    }
    l->base = l->sent = l->delivered;
    l->stopped = false;
}

static void carry_out(life *l, proa_call_todo *todo, uint32_t tokens);

static void answer_pick(life *l)
{
    proa_call_todo todo;
    if (chance(l, l->trouble_permille / 2)) {
        proa_error why;
        proa_error_set(&why, chance(l, 500) ? PROA_ERR_UNREACHABLE : PROA_ERR_OVERLOADED, "no");
        proa_call_plan_unpicked(l->plan, &why, l->now_us, &todo);
        carry_out(l, &todo, 0);
        return;
    }
    bool pair = chance(l, 500);
    proa_call_pick to = {.pair = pair,
                         .room = draw(l),
                         .epochs = {draw(l), draw(l)},
                         .context_length = 5 + l->max_new_tokens,
                         .vocab_size = VOCAB};
    proa_call_plan_picked(l->plan, &to);
    REQUIRE(l, !l->open[0] && !l->open[1]);
    l->open[PROA_CALL_MAIN] = true;
    l->open[PROA_CALL_PREFILL] = pair;
    check_submit(l, pair);
}

static void carry_out(life *l, proa_call_todo *todo, uint32_t tokens)
{
    REQUIRE(l, l->finishes == 0 || !(todo->pick || todo->finished || todo->deliver || todo->grant > 0));
    for (int leg = 0; leg < PROA_CALL_LEGS; leg++) {
        REQUIRE(l, !todo->cancel[leg] || l->open[leg]);
        if (todo->cancel[leg])
            l->open[leg] = false;
    }
    if (todo->deliver)
        l->delivered += (int32_t)tokens;
    REQUIRE(l, l->delivered <= l->granted);
    REQUIRE(l, todo->grant == 0 || l->open[PROA_CALL_MAIN]);
    l->credit += todo->grant;
    l->replays += todo->replaying;
    REQUIRE(l, l->replays <= l->migration_limit);
    if (todo->finished) {
        l->finishes++;
        l->finish = todo->finish;
        REQUIRE(l, !l->open[0] && !l->open[1] && !todo->pick);
    }
    if (todo->pick)
        answer_pick(l);
}

/* What the main leg's worker sends; `wrong`: more than it may. */
static void say_tokens(life *l, uint32_t attempt, bool wrong)
{
    proa_sample_result tokens[64] = {0};
    int32_t end = l->stops_after < l->max_new_tokens && !wrong ? l->stops_after : l->max_new_tokens;
    int32_t credit =
        wrong ? l->granted - l->delivered : l->credit; /* a grant may be withheld from the worker */
    int32_t most = end - l->sent < credit ? end - l->sent : credit;
    if ((most <= 0 || l->stopped) && !wrong)
        return;
    int32_t count = wrong ? most + between(l, 1, 3) : between(l, 1, most);
    if (wrong && l->stopped)
        count = 1;
    if (count > 60 || count < 1)
        return;
    for (int32_t i = 0; i < count; i++)
        tokens[i].token = attempt == proa_call_plan_attempt(l->plan) ? oracle(l, l->sent + i) : VOCAB - 1;
    proa_wire_tokens message = {.count = (uint32_t)count, .tokens = tokens};
    message.stop = l->sent + count == l->stops_after && l->stops_after <= l->max_new_tokens;
    proa_call_todo todo;
    proa_call_plan_tokens(l->plan, attempt, &message, l->now_us, &todo);
    bool counts = l->open[PROA_CALL_MAIN] && attempt == proa_call_plan_attempt(l->plan) && !wrong;
    REQUIRE(l, todo.deliver == counts);
    if (counts) {
        l->sent += count;
        l->credit -= count;
        l->stopped = message.stop;
    }
    carry_out(l, &todo, message.count);
}

static void say_end(life *l, uint32_t attempt, proa_call_leg leg)
{
    static const proa_status statuses[] = {
        PROA_ERR_INVALID,  PROA_ERR_OVERLOADED,  PROA_ERR_OVERLOADED, PROA_ERR_DEADLINE, PROA_ERR_CANCELLED,
        PROA_ERR_PROTOCOL, PROA_ERR_UNREACHABLE, PROA_ERR_DEVICE,     PROA_ERR_CORRUPT,  PROA_ERR_INTERNAL};
    proa_engine_finish finish = {.reason = PROA_FINISH_LENGTH};
    bool complete = l->stopped || l->sent == l->max_new_tokens;
    if (chance(l, l->trouble_permille / 2)) {
        finish.reason = PROA_FINISH_ABORT;
        proa_error_set(&finish.error, statuses[between(l, 0, 9)], "trouble");
    } else if (leg == PROA_CALL_MAIN && !complete && !chance(l, l->trouble_permille / 8)) {
        return;
    } else if (l->stopped) {
        finish.reason = PROA_FINISH_STOP;
    }
    proa_call_todo todo;
    proa_call_plan_ended(l->plan, attempt, leg, &finish, chance(l, 300), l->now_us, &todo);
    if (attempt == proa_call_plan_attempt(l->plan))
        l->open[leg] = false;
    carry_out(l, &todo, 0);
}

static void say_lost(life *l, proa_call_leg leg)
{
    proa_error why;
    proa_error_set(&why, chance(l, 500) ? PROA_ERR_UNREACHABLE : PROA_ERR_DEADLINE, "lost");
    proa_call_todo todo;
    proa_call_plan_lost(l->plan, proa_call_plan_attempt(l->plan), leg, &why, l->now_us, &todo);
    l->open[leg] = false;
    carry_out(l, &todo, 0);
}

static void client_says(life *l)
{
    proa_call_todo todo;
    if (chance(l, 5) && l->finishes == 0) {
        l->cancelled = true;
        proa_call_plan_cancel(l->plan, "bye", &todo);
        REQUIRE(l, todo.finished);
    } else {
        int32_t tokens = between(l, 1, 9);
        proa_call_plan_grant(l->plan, tokens, l->now_us, &todo);
        l->granted += tokens;
    }
    carry_out(l, &todo, 0);
}

static void live(life *l)
{
    uint32_t attempt = proa_call_plan_attempt(l->plan);
    bool stale = attempt > 1 && chance(l, 50);
    proa_call_todo todo;
    int32_t what = between(l, 0, 99);
    l->now_us += between(l, 0, 200000);
    if (what < 40) {
        say_tokens(l, stale ? attempt - 1 : attempt, !stale && chance(l, l->trouble_permille / 20));
    } else if (what < 60) {
        say_end(l, stale ? attempt - 1 : attempt, chance(l, 500) ? PROA_CALL_MAIN : PROA_CALL_PREFILL);
    } else if (what < 62) {
        if (chance(l, l->trouble_permille))
            say_lost(l, chance(l, 500) ? PROA_CALL_MAIN : PROA_CALL_PREFILL);
    } else if (what < 80) {
        client_says(l);
    } else {
        proa_call_plan_retry(l->plan, &todo);
        carry_out(l, &todo, 0);
    }
}

static void check_end(const life *l)
{
    bool stops = l->stops_after <= l->max_new_tokens;
    int32_t whole = stops ? l->stops_after : l->max_new_tokens;
    REQUIRE(l, l->finish.usage.output_tokens == l->delivered);
    if (l->finish.reason == PROA_FINISH_ABORT) {
        REQUIRE(l, l->finish.error.status != PROA_OK);
        REQUIRE(l, !l->cancelled || l->finish.error.status == PROA_ERR_CANCELLED);
        return;
    }
    REQUIRE(l, l->delivered == whole);
    REQUIRE(l, l->finish.reason == (stops ? PROA_FINISH_STOP : PROA_FINISH_LENGTH));
    REQUIRE(l, l->finish.matched == (stops ? oracle(l, whole - 1) : -1));
}

static bool live_once(uint64_t seed)
{
    life l = {.seed = seed};
    l.max_new_tokens = between(&l, 1, 60);
    l.stops_after = between(&l, 1, 90);
    if (l.stops_after > l.max_new_tokens)
        l.stops_after = 1000;
    l.migration_limit = between(&l, 0, 4);
    l.trouble_permille = chance(&l, 300) ? 0 : between(&l, 1, 400);
    l.granted = between(&l, 1, 20);
    proa_engine_request request = request_of(chance(&l, 500) ? l.max_new_tokens : 1 << 20, l.granted);
    proa_error err = {0};
    REQUIRE(&l, proa_call_plan_create(&request, l.migration_limit, &l.plan, &err) == PROA_OK);
    proa_call_todo todo;
    proa_call_plan_start(l.plan, &todo);
    carry_out(&l, &todo, 0);
    int steps = 0;
    for (; l.finishes == 0 && steps < 20000; steps++)
        live(&l);
    REQUIRE(&l, l.finishes == 1);
    for (int i = 0; i < 20; i++) /* whatever comes afterwards changes nothing */
        live(&l);
    check_end(&l);
    REQUIRE(&l, l.trouble_permille > 0 || l.cancelled || l.finish.reason != PROA_FINISH_ABORT);
    proa_call_plan_free(l.plan);
    return l.finish.reason != PROA_FINISH_ABORT && l.replays > 0;
}

static uint64_t lives = 20000, first = 1;

static void test_random_lives(void **state)
{
    (void)state;
    uint64_t survived = 0;
    for (uint64_t seed = first; seed < first + lives; seed++)
        survived += live_once(seed);
    print_message("%llu lives, of which %llu ended well after replays\n", (unsigned long long)lives,
                  (unsigned long long)survived);
    assert_true(lives < 1000 || survived > lives / 20); /* else it tries little */
}

int main(int argc, char **argv)
{
    if (argc > 1)
        lives = strtoull(argv[1], NULL, 10);
    if (argc > 2)
        first = strtoull(argv[2], NULL, 10);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_failures),
        cmocka_unit_test(test_clean_ends),
        cmocka_unit_test(test_protocol),
        cmocka_unit_test(test_lost_after_the_last_token),
        cmocka_unit_test(test_prefill_lost_after_its_work),
        cmocka_unit_test(test_poison_ends_at_the_limit),
        cmocka_unit_test(test_waits_for_a_worker),
        cmocka_unit_test(test_held_without_credit),
        cmocka_unit_test(test_refused_requests),
        cmocka_unit_test(test_random_lives),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
