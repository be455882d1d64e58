/* test_a2a.c - the all-to-all where it is not smooth: a rank that is silent, gone, late by an epoch or lying. Two or three ranks in one
 * thread, over the hub and over UCX; what travels is checked byte by byte. */
#include "net/a2a_internal.h"

#include "base/clock.h"
#include "base/number.h"

#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { RANKS = 3, LOCAL = 4, HIDDEN = 256, TOP_K = 2, ROWS = 64, DEADLINE_US = 200000 };

typedef struct scene {
    proa_post_hub *hub;  /* NULL: UCX */
    int64_t deadline_us; /* of those that are opened next */
    proa_a2a *a[RANKS];
    proa_exchange x[RANKS];
} scene;

static void open_rank(scene *s, int32_t rank)
{
    proa_error err = {0};
    const proa_a2a_options options = {.ranks = RANKS,
                                      .rank = rank,
                                      .local_experts = LOCAL,
                                      .hidden = HIDDEN,
                                      .top_k = TOP_K,
                                      .rows_max = ROWS,
                                      .lanes = 2,
                                      .format = PROA_EXCHANGE_F32,
                                      .precision = PROA_PRECISION_EXACT,
                                      .deadline_us = s->deadline_us};
    if (proa_a2a_create(&options, s->hub, &s->a[rank], &err) != PROA_OK)
        fail_msg("%s", err.text);
    s->x[rank] = proa_a2a_exchange(s->a[rank]);
}

static void connect_to(scene *s, int32_t from, int32_t to)
{
    size_t bytes;
    proa_error err = {0};
    const void *address = proa_post_address(proa_a2a_post(s->a[to]), &bytes);
    assert_int_equal(proa_post_connect(proa_a2a_post(s->a[from]), to, address, bytes, &err), PROA_OK);
}

static scene *open_scene(bool ucx)
{
    scene *s = calloc(1, sizeof *s);
    s->hub = ucx ? NULL : proa_post_hub_create(RANKS);
    s->deadline_us = DEADLINE_US;
    for (int32_t i = 0; i < RANKS; i++)
        open_rank(s, i);
    for (int32_t i = 0; i < RANKS; i++) {
        for (int32_t k = 0; k < RANKS; k++) {
            if (i != k)
                connect_to(s, i, k);
        }
    }
    return s;
}

static void close_scene(scene *s)
{
    for (int32_t i = 0; i < RANKS; i++)
        proa_a2a_free(s->a[i]);
    proa_post_hub_free(s->hub);
    free(s);
}

/* live: "110" for ranks 0 and 1 */
static void begin(scene *s, int32_t rank, uint64_t epoch, const char *live)
{
    bool mask[RANKS];
    proa_error err = {0};
    for (int32_t i = 0; i < RANKS; i++)
        mask[i] = live[i] == '1';
    if (proa_a2a_begin(s->a[rank], epoch, mask, &err) != PROA_OK)
        fail_msg("%s", err.text);
}

static void assert_suspects(scene *s, int32_t rank, const char *who)
{
    for (int32_t i = 0; i < RANKS; i++)
        assert_int_equal(proa_a2a_suspects(s->a[rank])[i], who[i] == '1');
}

static float value_of(int32_t rank, int32_t row, int32_t channel)
{
    return (float)(rank * 1000 + row) + (float)channel / 512;
}

/* Rank r sends rows that go to its own expert 1 and to expert 2 of `to`. */
static proa_status dispatch(scene *s, int32_t rank, int32_t lane, int32_t rows, int32_t to, proa_error *err)
{
    float x[ROWS * HIDDEN];
    int32_t physical[ROWS * TOP_K];
    for (int32_t i = 0; i < rows; i++) {
        for (int32_t c = 0; c < HIDDEN; c++)
            x[i * HIDDEN + c] = value_of(rank, i, c);
        physical[i * TOP_K] = to * LOCAL + 2;
        physical[i * TOP_K + 1] = rank * LOCAL + 1;
    }
    const proa_dispatch_args args = {
        .layer = 5 + lane, .x = {.rows = rows, .cols = HIDDEN, .x = x}, .top_k = TOP_K, .physical = physical};
    return s->x[rank].dispatch(s->x[rank].context, lane, &args, err);
}

/* The outputs of expert e are the rows times e + 1. */
static void work(scene *s, int32_t rank, int32_t lane)
{
    proa_dispatched in;
    proa_error err = {0};
    if (s->x[rank].receive(s->x[rank].context, lane, &in, &err) != PROA_OK)
        fail_msg("%s", err.text);
    for (int32_t i = in.slots - 1; i >= 0; i--) { /* any order */
        float y[HIDDEN];
        for (int32_t c = 0; c < HIDDEN; c++)
            y[c] = in.x.x[in.slot_row[i] * HIDDEN + c] * (float)(in.slot_expert[i] + 1);
        s->x[rank].put(s->x[rank].context, lane, 1, &i, y);
    }
    assert_int_equal(s->x[rank].give_back(s->x[rank].context, lane, &err), PROA_OK);
}

static void collect(scene *s, int32_t rank, int32_t lane, int32_t rows)
{
    proa_collected back;
    proa_error err = {0};
    if (s->x[rank].collect(s->x[rank].context, lane, &back, &err) != PROA_OK)
        fail_msg("%s", err.text);
    for (int32_t i = 0; i < rows * TOP_K; i++) {
        for (int32_t c = 0; c < HIDDEN; c++)
            assert_true(back.slots[back.place[i] * HIDDEN + c] ==
                        value_of(rank, i / TOP_K, c) * (i % TOP_K == 0 ? 3.0f : 2.0f));
    }
}

static void turn_all(scene *s)
{
    for (int32_t i = 0; i < RANKS; i++) {
        if (s->a[i] != NULL && !proa_post_progress(proa_a2a_post(s->a[i])))
            proa_post_wait(proa_a2a_post(s->a[i]), 200);
    }
}

static void progress(scene *s)
{
    for (int turn = 0; turn < 6; turn++)
        turn_all(s);
}

/* The rank has all rows, or all outputs, of its window. */
static bool has_all(const scene *s, int32_t rank, int32_t number, bool outputs)
{
    const proa_a2a *a = s->a[rank];
    const a2a_lane *lane = &a->lanes[number];
    for (int32_t i = 0; i < RANKS; i++) {
        bool there = outputs ? lane->sent_slots[i] == 0 || lane->output_there[i]
                             : proa_a2a_region(lane, i, lane->turn)->there;
        if (a->live[i] && i != rank && !there)
            return false;
    }
    return true;
}

/* Connections are made when they are first used, and by TCP that takes its time. */
static void progress_until(scene *s, const char *live, int32_t lane, bool outputs)
{
    int64_t until = proa_clock_us() + 20000000;
    for (int32_t i = 0; i < RANKS; i++) {
        while (live[i] == '1' && !has_all(s, i, lane, outputs) && proa_clock_us() < until)
            turn_all(s);
    }
}

/* One window of these ranks, interleaved as one thread can: sends first. */
static void window(scene *s, const char *live, int32_t lane, const int32_t *rows)
{
    proa_error err = {0};
    int32_t last = -1;
    for (int32_t i = 0; i < RANKS; i++)
        last = live[i] == '1' ? i : last;
    for (int32_t i = 0; i < RANKS; i++) {
        if (live[i] == '1' && dispatch(s, i, lane, rows[i], last, &err) != PROA_OK)
            fail_msg("%s", err.text);
    }
    progress_until(s, live, lane, false);
    for (int32_t i = 0; i < RANKS; i++) {
        if (live[i] == '1')
            work(s, i, lane);
    }
    progress_until(s, live, lane, true);
    for (int32_t i = 0; i < RANKS; i++) {
        if (live[i] == '1')
            collect(s, i, lane, rows[i]);
    }
}

static const struct {
    int32_t rows[RANKS];
} windows[] = {{{1, 1, 1}}, {{0, 0, 0}}, {{ROWS, 0, 3}}, {{0, ROWS, 0}}, {{ROWS, ROWS, ROWS}}, {{0, 1, 0}}};

static void check_rows_come_and_go(bool ucx)
{
    scene *s = open_scene(ucx);
    for (int32_t i = 0; i < RANKS; i++)
        begin(s, i, 1, "111");
    for (size_t i = 0; i < sizeof windows / sizeof windows[0]; i++) {
        window(s, "111", 0, windows[i].rows);
        window(s, "111", (int32_t)i % 2, windows[i].rows);
    }
    proa_a2a_stats stats;
    proa_a2a_get_stats(s->a[0], &stats);
    assert_int_equal(stats.windows, 2 * sizeof windows / sizeof windows[0]);
    assert_int_equal(stats.dropped, 0);
    close_scene(s);
}

static void rows_come_and_go(void **state)
{
    (void)state;
    check_rows_come_and_go(false);
    check_rows_come_and_go(true);
}

/* A queue in shared memory would let one rank that dies stop all that others send to its reader. */
static void ranks_share_no_queue(void **state)
{
    (void)state;
    if (getenv("UCX_TLS") != NULL)
        skip(); /* somebody has chosen */
    scene *s = open_scene(true);
    char line[1000];
    FILE *maps = fopen("/proc/self/maps", "r");
    assert_non_null(maps);
    for (int32_t i = 0; i < RANKS; i++)
        begin(s, i, 1, "111");
    window(s, "111", 0, windows[4].rows);
    while (fgets(line, sizeof line, maps) != NULL) {
        if (strstr(line, "ucx_shm") != NULL || strstr(line, "SYSV") != NULL)
            fail_msg("%s", line);
    }
    fclose(maps);
    close_scene(s);
}

/* Rank 2 says nothing: the wait ends at its deadline, names it, and the others go on without it. What it sends late changes nothing. */
static void check_silent_rank(bool ucx)
{
    scene *s = open_scene(ucx);
    proa_error err = {0};
    proa_dispatched in;
    for (int32_t i = 0; i < RANKS; i++)
        begin(s, i, 1, "111");
    /* UCX 1.13 aborts when an endpoint is closed while it is being connected, and the other end sends later */
    window(s, "111", 0, windows[4].rows);
    for (int32_t i = 0; i < 2; i++)
        assert_int_equal(dispatch(s, i, 0, 9, 1, &err), PROA_OK);
    progress(s);
    int64_t begun = proa_clock_us();
    assert_int_equal(s->x[0].receive(s->x[0].context, 0, &in, &err), PROA_ERR_DEADLINE);
    int64_t took = proa_clock_us() - begun;
    assert_true(took >= DEADLINE_US && took < 20 * DEADLINE_US);
    assert_non_null(strstr(err.text, "no rows from rank 2 for 0."));
    assert_non_null(strstr(err.text, "layer 5"));
    assert_suspects(s, 0, "001");
    proa_a2a_abandon(s->a[1]); /* rank 0 has told it */
    assert_int_equal(s->x[1].receive(s->x[1].context, 0, &in, &err), PROA_ERR_CANCELLED);
    for (int32_t i = 0; i < 2; i++)
        begin(s, i, 2, "110");
    dispatch(s, 2, 0, 9, 1, &err); /* it wakes, in the old epoch */
    progress(s);
    for (size_t i = 0; i < sizeof windows / sizeof windows[0]; i++) {
        const int32_t rows[RANKS] = {windows[i].rows[0], windows[i].rows[1], 0};
        window(s, "110", 0, rows);
    }
    close_scene(s);
}

static void a_silent_rank_is_named_and_left(void **state)
{
    (void)state;
    check_silent_rank(false);
    check_silent_rank(true);
}

/* Two at once say nothing: both are named, so that one view leaves both out. */
static void all_silent_ranks_are_named(void **state)
{
    (void)state;
    scene *s = open_scene(false);
    proa_error err = {0};
    proa_dispatched in;
    begin(s, 0, 1, "111");
    assert_int_equal(dispatch(s, 0, 0, 9, 1, &err), PROA_OK);
    assert_int_equal(s->x[0].receive(s->x[0].context, 0, &in, &err), PROA_ERR_DEADLINE);
    assert_non_null(strstr(err.text, "no rows from rank 1, 2 for 0."));
    assert_suspects(s, 0, "011");
    begin(s, 0, 2, "100");
    assert_suspects(s, 0, "000");
    close_scene(s);
}

/* Rank 1 is gone in the middle of a window, and a new one with its number takes part in a later epoch. */
static void check_gone_and_back(bool ucx)
{
    scene *s = open_scene(ucx);
    proa_error err = {0};
    proa_dispatched in;
    const int32_t two[RANKS] = {7, 0, 11}, three[RANKS] = {7, 5, 11};
    for (int32_t i = 0; i < RANKS; i++)
        begin(s, i, 1, "111");
    window(s, "111", 0, three);
    assert_int_equal(dispatch(s, 0, 0, ROWS, 1, &err), PROA_OK);
    progress(s);
    proa_a2a_free(s->a[1]);
    s->a[1] = NULL;
    assert_true(proa_failed(s->x[0].receive(s->x[0].context, 0, &in, &err)));
    begin(s, 0, 3, "101");
    begin(s, 2, 3, "101");
    window(s, "101", 0, two);
    open_rank(s, 1);
    for (int32_t i = 0; i < RANKS; i += 2) {
        connect_to(s, i, 1);
        connect_to(s, 1, i);
    }
    for (int32_t i = 0; i < RANKS; i++)
        begin(s, i, 4, "111");
    window(s, "111", 0, three);
    window(s, "111", 0, three);
    close_scene(s);
}

static void a_rank_goes_and_comes_back(void **state)
{
    (void)state;
    check_gone_and_back(false);
    check_gone_and_back(true);
}

/* A connection that breaks ends the wait for its rank, long before its deadline: nothing more can come. */
static void a_lost_connection_ends_the_wait(void **state)
{
    (void)state;
    scene *s = open_scene(true);
    proa_error err = {0};
    proa_dispatched in;
    const int32_t rows[RANKS] = {7, 5, 11};
    proa_a2a_free(s->a[0]);
    s->deadline_us = 60000000;
    open_rank(s, 0);
    for (int32_t i = 1; i < RANKS; i++) {
        connect_to(s, 0, i);
        connect_to(s, i, 0);
    }
    for (int32_t i = 0; i < RANKS; i++)
        begin(s, i, 1, "111");
    window(s, "111", 0, rows);
    assert_int_equal(dispatch(s, 0, 0, 3, 1, &err), PROA_OK);
    assert_int_equal(dispatch(s, 2, 0, 3, 1, &err), PROA_OK);
    progress(s);
    proa_a2a_free(s->a[1]);
    s->a[1] = NULL;
    int64_t begun = proa_clock_us();
    assert_int_equal(s->x[0].receive(s->x[0].context, 0, &in, &err), PROA_ERR_UNREACHABLE);
    assert_true(proa_clock_us() - begun < 30000000);
    assert_non_null(strstr(err.text, "rank 1 is lost"));
    assert_suspects(s, 0, "010");
    close_scene(s);
}

/* Messages that no honest rank sends. Header: epoch, turn, rows, slots, layer, kind, lane. */
typedef struct header {
    uint64_t epoch, turn;
    uint32_t rows, slots;
    uint16_t layer;
    uint8_t kind, lane;
} header;

static void strange_messages_are_dropped(void **state)
{
    (void)state;
    scene *s = open_scene(false);
    proa_error err = {0};
    static uint8_t body[1 << 20];
    const struct {
        header h;
        size_t bytes; /* right for the header, so that nothing else is wrong */
    } strange[] = {
        {{2, 1, 0, 0, 5, 1, 0}, 0},                   /* another epoch */
        {{1, 3, 0, 0, 5, 1, 0}, 0},                   /* too early */
        {{1, 1, ROWS + 1, ROWS + 1, 5, 1, 0}, 66768}, /* more rows than a window has */
        {{1, 1, 2, 1, 5, 1, 0}, 2064},                /* a row without a slot */
        {{1, 1, 0, 3, 5, 1, 0}, 0},                   /* slots without rows */
        {{1, 1, 1, 1, 5, 1, 2}, 1040},                /* a lane that is not there */
        {{1, 1, 1, 1, 5, 3, 0}, 1040},                /* no kind */
        {{1, 1, 1, 1, 5, 1, 0}, 1041},                /* of another length */
        {{1, 0, 0, 1, 5, 2, 0}, 1024},                /* outputs that nobody asked for */
        {{1, 1, 1, 1, 5, 1, 0}, 1040},                /* good, and taken */
        {{1, 1, 1, 1, 5, 1, 0}, 1040},                /* the same again */
        {{1, 2, 1, 1, 5, 1, 0}, 1040},                /* the next before this one is done */
        {{UINT64_MAX, UINT64_MAX, UINT32_MAX, UINT32_MAX, UINT16_MAX, 255, 255}, 77},
    };
    for (int32_t i = 0; i < RANKS; i++)
        begin(s, i, 1, "111");
    for (size_t i = 0; i < sizeof strange / sizeof strange[0]; i++) {
        uint8_t raw[PROA_POST_HEADER_BYTES] = {0};
        memcpy(raw, &strange[i].h, sizeof strange[i].h);
        assert_int_equal(proa_post_send(proa_a2a_post(s->a[1]), 0, raw, body, strange[i].bytes, &err),
                         PROA_OK);
    }
    progress(s);
    proa_a2a_stats stats;
    proa_a2a_get_stats(s->a[0], &stats);
    assert_int_equal(stats.dropped, sizeof strange / sizeof strange[0] - 1);
    for (int32_t i = 0; i < RANKS; i++)
        begin(s, i, 2, "111");
    window(s, "111", 0, windows[2].rows);
    close_scene(s);
}

/* Rows that contradict themselves: expert out of range, counts that do not add up. */
static void contradictions_end_the_window(void **state)
{
    (void)state;
    for (int variant = 0; variant < 3; variant++) {
        scene *s = open_scene(false);
        proa_error err = {0};
        proa_dispatched in;
        uint8_t raw[PROA_POST_HEADER_BYTES] = {0}, body[8 + 8 + HIDDEN * 4] = {1};
        const uint16_t expert = variant == 0 ? LOCAL : 0;
        const header h = {1, 1, 1, 1, variant == 2 ? 6 : 5, 1, 0};
        memcpy(raw, &h, sizeof h);
        memcpy(body + 8, &expert, sizeof expert);
        body[0] = variant == 1 ? 2 : 1;
        for (int32_t i = 0; i < RANKS; i++)
            begin(s, i, 1, "111");
        assert_int_equal(proa_post_send(proa_a2a_post(s->a[1]), 0, raw, body, sizeof body, &err), PROA_OK);
        assert_int_equal(dispatch(s, 2, 0, 0, 0, &err), PROA_OK);
        assert_int_equal(dispatch(s, 0, 0, 1, 0, &err), PROA_OK);
        assert_int_equal(s->x[0].receive(s->x[0].context, 0, &in, &err), PROA_ERR_PROTOCOL);
        assert_suspects(s, 0, "010");
        close_scene(s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_come_and_go),
        cmocka_unit_test(ranks_share_no_queue),
        cmocka_unit_test(a_silent_rank_is_named_and_left),
        cmocka_unit_test(all_silent_ranks_are_named),
        cmocka_unit_test(a_rank_goes_and_comes_back),
        cmocka_unit_test(a_lost_connection_ends_the_wait),
        cmocka_unit_test(strange_messages_are_dropped),
        cmocka_unit_test(contradictions_end_the_window),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
