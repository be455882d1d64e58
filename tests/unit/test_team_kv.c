/* test_team_kv.c - which blocks a leader brings to its followers: those whose rows they lack, and no others; against a model that keeps what
 * each row of both caches is. */
#include "engine/team_kv.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { BLOCK = PROA_KV_BLOCK_TOKENS, BLOCKS = 12, TABLE = 4 };

static const uint64_t lives[] = {7, 8}, other_life[] = {7, 9}, gone[] = {7, 0};

static proa_step step_of(proa_segment *s, const int32_t *blocks, int32_t first, int32_t rows)
{
    *s = (proa_segment){.row_count = rows, .position_first = first, .blocks = blocks};
    return (proa_step){.row_count = rows, .segments = s, .segment_count = 1};
}

static int32_t count_missing(proa_team_kv *kv, const int32_t *blocks, int32_t first, int32_t rows)
{
    int32_t found[BLOCKS];
    bool all;
    proa_segment s;
    const proa_step step = step_of(&s, blocks, first, rows);
    int32_t count = proa_team_kv_missing(kv, &step, found, BLOCKS, &all);
    assert_true(all);
    return count;
}

static void compute(proa_team_kv *kv, const int32_t *blocks, int32_t first, int32_t rows)
{
    proa_segment s;
    const proa_step step = step_of(&s, blocks, first, rows);
    proa_team_kv_computed(kv, &step);
}

/* ---- what views do ---- */

static void views(void **state)
{
    static const int32_t blocks[] = {3, 5};
    static const struct {
        const uint64_t *lives;
        bool whole;
        int32_t missing; /* of two blocks that were there in the view before */
    } table[] = {
        {lives, true, 0}, {lives, true, 0}, {gone, false, 2}, {lives, true, 2}, {other_life, true, 2}};
    (void)state;
    proa_team_kv *kv = proa_team_kv_create(2, BLOCKS);
    assert_false(proa_team_kv_is_whole(kv));
    proa_team_kv_view(kv, lives);
    assert_int_equal(count_missing(kv, blocks, 70, 1), 2);
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        compute(kv, blocks, 0, 70);
        assert_int_equal(count_missing(kv, blocks, 70, 1), 0);
        proa_team_kv_view(kv, table[i].lives);
        assert_int_equal(proa_team_kv_is_whole(kv), table[i].whole);
        assert_int_equal(count_missing(kv, blocks, 70, 1), table[i].missing);
    }
    proa_team_kv_free(kv);
}

static void at_most_so_many(void **state)
{
    static const int32_t blocks[] = {0, 1, 2, 3, 4}, again[] = {0, 7};
    int32_t found[BLOCKS];
    bool all;
    (void)state;
    proa_team_kv *kv = proa_team_kv_create(2, BLOCKS);
    proa_team_kv_view(kv, lives);
    const proa_segment segments[] = {{.row_count = 1, .position_first = 4 * BLOCK + 1, .blocks = blocks},
                                     {.row_count = 1, .position_first = BLOCK, .blocks = again}};
    const proa_step step = {.row_count = 2, .segments = segments, .segment_count = 2};
    assert_int_equal(proa_team_kv_missing(kv, &step, found, 2, &all), 2);
    assert_false(all);
    proa_team_kv_brought(kv, found, 2);
    assert_int_equal(proa_team_kv_missing(kv, &step, found, 3, &all), 3);
    assert_true(all); /* block 0 of both was brought; block 7 is only written */
    proa_team_kv_brought(kv, found, 3);
    assert_int_equal(proa_team_kv_missing(kv, &step, found, 1, &all), 0);
    assert_true(all);
    proa_team_kv_written(kv, blocks, 1);
    assert_int_equal(proa_team_kv_missing(kv, &step, found, 5, &all),
                     1); /* once, though two segments read it */
    assert_int_equal(found[0], 0);
    proa_team_kv_free(kv);
}

/* ---- random lives ---- */

typedef struct world {
    uint64_t leader[BLOCKS][BLOCK],
        follower[BLOCKS][BLOCK]; /* what a row is: a number that is never used again */
    uint64_t next;
    uint32_t random;
    int32_t table[TABLE]; /* of the one request */
    int32_t rows;         /* that it has */
} world;

static uint32_t draw(world *w, uint32_t below)
{
    w->random = w->random * 1664525u + 1013904223u;
    return (w->random >> 8) % below;
}

static void begin_request(world *w, proa_team_kv *kv)
{
    int32_t first = (int32_t)draw(w, BLOCKS);
    for (int32_t i = 0; i < TABLE; i++)
        w->table[i] = (first + i * 5) % BLOCKS;
    w->rows = 0;
    if (draw(w, 2) == 0)
        return;
    w->rows = 1 + (int32_t)draw(w, TABLE * BLOCK - 1); /* a peer has written these */
    for (int32_t i = 0; i < w->rows; i++)
        w->leader[w->table[i / BLOCK]][i % BLOCK] = ++w->next;
    proa_team_kv_written(kv, w->table, TABLE);
}

/* One step of the request; the follower must have read what the leader has. A step that breaks changes nothing that counts. */
static void run(world *w, proa_team_kv *kv)
{
    int32_t left = TABLE * BLOCK - w->rows, found[BLOCKS];
    int32_t rows = 1 + (int32_t)draw(w, (uint32_t)(left < 50 ? left : 50));
    bool breaks = draw(w, 8) == 0, all;
    proa_segment s;
    const proa_step step = step_of(&s, w->table, w->rows, rows);
    int32_t count = proa_team_kv_missing(kv, &step, found, 2, &all);
    for (int32_t i = 0; i < count; i++)
        memcpy(w->follower[found[i]], w->leader[found[i]], sizeof w->leader[0]);
    for (int32_t i = 0; i < w->rows && all; i++)
        assert_int_equal(w->leader[w->table[i / BLOCK]][i % BLOCK],
                         w->follower[w->table[i / BLOCK]][i % BLOCK]);
    for (int32_t i = w->rows; i < w->rows + rows && all; i++) {
        uint64_t row = ++w->next;
        w->leader[w->table[i / BLOCK]][i % BLOCK] = row;
        if (!breaks || draw(w, 2) == 0)
            w->follower[w->table[i / BLOCK]][i % BLOCK] = row;
    }
    if (breaks)
        return;
    proa_team_kv_brought(kv, found, count);
    if (!all)
        return;
    proa_team_kv_computed(kv, &step);
    w->rows += rows;
}

static void random_lives(void **state)
{
    (void)state;
    for (uint32_t seed = 1; seed <= 200; seed++) {
        static world w;
        w = (world){.random = seed};
        proa_team_kv *kv = proa_team_kv_create(2, BLOCKS);
        uint64_t now[] = {1, 1};
        proa_team_kv_view(kv, now);
        begin_request(&w, kv);
        for (int i = 0; i < 400; i++) {
            if (draw(&w, 60) == 0) { /* another follower, with nothing */
                now[1]++;
                proa_team_kv_view(kv, now);
                memset(w.follower, 0, sizeof w.follower);
            }
            if (w.rows == TABLE * BLOCK || draw(&w, 12) == 0)
                begin_request(&w, kv);
            else
                run(&w, kv);
        }
        proa_team_kv_free(kv);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(views),
        cmocka_unit_test(at_most_so_many),
        cmocka_unit_test(random_lives),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
