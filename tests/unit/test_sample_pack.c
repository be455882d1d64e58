/* test_sample_pack.c - parameters of rows as one block: entries and their order, what is left out, rounds, a row that is too much. */
#include "base/random.h"
#include "op/sample/pack.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { VOCAB = 100 };

static const proa_logit_bias biases[] = {{7, 1.5f}, {7, -2}, {0, 3}};
static const proa_token_count counts[] = {{5, 2, 0}, {6, 0, 3}, {8, 0, 0}, {99, 4, 1}};
static const int32_t banned[] = {1, 99};

static const proa_sample_params plain = {
    .temperature = 1, .top_p = 1, .repetition_penalty = 1, .top_logprobs = -1};

static proa_sample_params edited(void)
{
    proa_sample_params p = plain;
    p.bias = biases;
    p.bias_count = 3;
    p.counts = counts;
    p.count_count = 4;
    p.banned = banned;
    p.banned_count = 2;
    return p;
}

/* A block that ends where it should: what writes beyond it is seen by the memory checkers. */
static proa_sample_pack make_pack(int32_t rows_max, int32_t entries_max)
{
    void *block = malloc(proa_sample_pack_bytes(rows_max, entries_max));
    assert_non_null(block);
    return proa_sample_pack_at(block, rows_max, entries_max);
}

static void rows_carry_their_parameters(void **state)
{
    (void)state;
    proa_error err = {0};
    proa_sample_pack pack = make_pack(4, 10);
    const proa_sample_params p[] = {
        {.temperature = 0, .top_p = 1, .repetition_penalty = 1, .seed = 3, .top_logprobs = 20},
        {.temperature = 0.6f,
         .top_k = 40,
         .top_p = 0.95f,
         .min_p = 0.1f,
         .repetition_penalty = 1.2f,
         .frequency_penalty = 0.3f,
         .presence_penalty = -0.4f,
         .seed = 42,
         .position = 17,
         .top_logprobs = -1}};
    const int32_t row_of[] = {9, 2};
    assert_int_equal(proa_sample_pack_fill(&pack, p, row_of, 0, 2, VOCAB, &err), PROA_OK);
    assert_int_equal(pack.row_count, 2);
    assert_int_equal(pack.entry_count, 0);
    assert_int_equal(proa_sample_pack_used(&pack),
                     2 * sizeof *pack.rows); /* no entries: they do not travel */
    const proa_sample_packed_row *row = pack.rows;
    assert_int_equal(row[0].logits_row, 9);
    assert_int_equal(row[0].top_logprobs, 20);
    assert_true(row[0].temperature == 0);
    assert_int_equal(row[1].logits_row, 2);
    assert_true(row[1].temperature == 0.6f && row[1].top_p == 0.95f && row[1].min_p == 0.1f);
    assert_true(row[1].repetition_penalty == 1.2f && row[1].frequency_penalty == 0.3f);
    assert_true(row[1].presence_penalty == -0.4f);
    assert_int_equal(row[1].top_k, 40);
    assert_int_equal(row[1].top_logprobs, -1);
    assert_true(row[1].uniform == proa_random_uniform(42, 17));
    free(pack.rows);
}

static void entries_follow_each_other_by_kind(void **state)
{
    (void)state;
    proa_error err = {0};
    proa_sample_pack pack = make_pack(2, 100);
    proa_sample_params p[] = {edited(), edited()};
    p[0].frequency_penalty = 1;  /* moves what is in the output */
    p[1].repetition_penalty = 2; /* and this what is in either */
    assert_int_equal(proa_sample_pack_fill(&pack, p, NULL, 0, 2, VOCAB, &err), PROA_OK);
    static const int32_t ids[] = {7, 7, 0, 6, 99, 1, 99, 7, 7, 0, 5, 6, 99, 1, 99};
    assert_int_equal(pack.entry_count, 15);
    assert_int_equal(proa_sample_pack_used(&pack), 2 * sizeof *pack.rows + 15 * sizeof *pack.entries);
    for (int32_t i = 0; i < 15; i++)
        assert_int_equal(pack.entries[i].id, ids[i]);
    assert_true(pack.entries[0].bias == 1.5f && pack.entries[1].bias == -2 && pack.entries[2].bias == 3);
    assert_int_equal(pack.entries[3].output, 3);
    assert_int_equal(pack.entries[4].output, 1);
    assert_int_equal(pack.entries[10].output, 0);
    for (int32_t r = 0; r < 2; r++) {
        assert_int_equal(pack.rows[r].logits_row, r);
        assert_int_equal(pack.rows[r].first, 7 * r);
        assert_int_equal(pack.rows[r].bias_count, 3);
        assert_int_equal(pack.rows[r].count_count, 2 + r);
        assert_int_equal(pack.rows[r].banned_count, 2);
    }
    free(pack.rows);
}

static void counts_without_penalties_stay_behind(void **state)
{
    (void)state;
    proa_error err = {0};
    proa_sample_pack pack = make_pack(1, 5);
    const proa_sample_params p = edited();
    assert_int_equal(proa_sample_pack_fill(&pack, &p, NULL, 0, 1, VOCAB, &err), PROA_OK);
    assert_int_equal(pack.entry_count, 5);
    assert_int_equal(pack.rows[0].count_count, 0);
    free(pack.rows);
}

/* Rows of 5 entries, into each room: every row comes once, in order. */
static void rows_go_in_rounds(void **state)
{
    (void)state;
    static const struct {
        int32_t rows_max, entries_max, rounds;
    } rooms[] = {{7, 35, 1}, {7, 34, 2}, {7, 14, 4}, {7, 5, 7}, {3, 100, 3}, {1, 100, 7}};
    proa_sample_params p[7];
    int32_t row_of[7];
    for (int32_t r = 0; r < 7; r++) {
        p[r] = edited();
        row_of[r] = 10 * r;
    }
    for (size_t i = 0; i < sizeof rooms / sizeof *rooms; i++) {
        proa_error err = {0};
        proa_sample_pack pack = make_pack(rooms[i].rows_max, rooms[i].entries_max);
        int32_t rounds = 0, first = 0;
        for (; first < 7; first += pack.row_count, rounds++) {
            proa_status status = proa_sample_pack_fill(&pack, p, row_of, first, 7, VOCAB, &err);
            assert_int_equal(status, first + pack.row_count < 7 ? PROA_BUSY : PROA_OK);
            assert_true(pack.row_count > 0);
            assert_int_equal(pack.entry_count, 5 * pack.row_count); /* none of the row that did not fit */
            for (int32_t r = 0; r < pack.row_count; r++) {
                assert_int_equal(pack.rows[r].logits_row, 10 * (first + r));
                assert_int_equal(pack.rows[r].first, 5 * r);
            }
        }
        assert_int_equal(first, 7);
        assert_int_equal(rounds, rooms[i].rounds);
        free(pack.rows);
    }
}

static void a_row_that_is_too_much_is_named(void **state)
{
    (void)state;
    proa_error err = {0};
    proa_sample_pack pack = make_pack(2, 4);
    const proa_sample_params p[] = {plain, edited()};
    assert_int_equal(proa_sample_pack_fill(&pack, p, NULL, 0, 2, VOCAB, &err), PROA_BUSY);
    assert_int_equal(pack.row_count, 1);
    assert_int_equal(proa_sample_pack_fill(&pack, p, NULL, 1, 2, VOCAB, &err), PROA_ERR_TOO_LONG);
    assert_string_equal(err.text,
                        "a request's 3 logit biases, 4 counts for penalties and 2 banned ids are more "
                        "than the sampler's 4 entries: send fewer");
    assert_int_equal(pack.row_count, 0);
    free(pack.rows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_carry_their_parameters),
        cmocka_unit_test(entries_follow_each_other_by_kind),
        cmocka_unit_test(counts_without_penalties_stay_behind),
        cmocka_unit_test(rows_go_in_rounds),
        cmocka_unit_test(a_row_that_is_too_much_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
