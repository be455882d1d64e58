/* test_team_wire.c - a step's note comes back as it was written, and one that contradicts itself or the limits is refused. */
#include "engine/team_wire.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const proa_team_limits limits = {.rows_max = 100,
                                        .segments_max = 3,
                                        .logit_rows_max = 3,
                                        .positions_max = 200,
                                        .kv_blocks = 10,
                                        .vocab = 50,
                                        .brought_max = 4};

static const int32_t ids[] = {4, 49, 0, 7, 8}, first_table[] = {9}, second_table[] = {1, 2},
                     last_rows[] = {2, 4}, brought[] = {2, 0, 9};
static const proa_segment segments[] = {
    {.row_first = 0, .row_count = 3, .position_first = 0, .blocks = first_table},
    {.row_first = 3, .row_count = 2, .position_first = 63, .blocks = second_table, .absorbed = true}};
static const proa_team_note note = {.step = {.row_count = 5,
                                             .token_ids = ids,
                                             .segments = segments,
                                             .segment_count = 2,
                                             .logit_rows = last_rows,
                                             .logit_count = 2},
                                    .brought_count = 3,
                                    .brought = brought,
                                    .brought_per_message = 2};

static size_t write_note(uint8_t *bytes)
{
    size_t length = proa_team_note_write(&note, bytes);
    assert_true(length <= proa_team_note_bytes(&limits));
    return length;
}

static void it_comes_back(void **state)
{
    uint8_t bytes[4096];
    proa_team_note back;
    proa_error err;
    (void)state;
    proa_team_reader *reader = proa_team_reader_create(&limits);
    size_t length = write_note(bytes);
    assert_int_equal(proa_team_note_read(reader, bytes, length, &back, &err), PROA_OK);
    assert_int_equal(back.step.row_count, 5);
    assert_memory_equal(back.step.token_ids, ids, sizeof ids);
    assert_int_equal(back.step.segment_count, 2);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(back.step.segments[i].row_first, segments[i].row_first);
        assert_int_equal(back.step.segments[i].row_count, segments[i].row_count);
        assert_int_equal(back.step.segments[i].position_first, segments[i].position_first);
        assert_int_equal(back.step.segments[i].absorbed, segments[i].absorbed);
    }
    assert_memory_equal(back.step.segments[0].blocks, first_table, sizeof first_table);
    assert_memory_equal(back.step.segments[1].blocks, second_table, sizeof second_table);
    assert_int_equal(back.step.logit_count, 2);
    assert_memory_equal(back.step.logit_rows, last_rows, sizeof last_rows);
    assert_int_equal(back.brought_count, 3);
    assert_memory_equal(back.brought, brought, sizeof brought);
    assert_int_equal(back.brought_per_message, 2);

    const proa_team_note empty = {0};
    length = proa_team_note_write(&empty, bytes);
    assert_int_equal(proa_team_note_read(reader, bytes, length, &back, &err), PROA_OK);
    assert_int_equal(back.step.row_count, 0);
    assert_int_equal(back.brought_count, 0);
    length = write_note(bytes);
    proa_team_reader_narrow(
        reader,
        &(proa_forward_limits){.rows_max = 100, .logit_rows_max = 3, .positions_max = 200, .kv_blocks = 9});
    assert_int_equal(proa_team_note_read(reader, bytes, length, &back, &err),
                     PROA_ERR_PROTOCOL); /* block 9 */
    proa_team_reader_free(reader);
}

/* One word of a good note is another: each of these is refused. */
static void one_word_is_wrong(void **state)
{
    enum { IDS = 6, PARTS = IDS + 5, TABLES = PARTS + 8, LOGITS = TABLES + 3, BROUGHT = LOGITS + 2 };
    static const struct {
        int word;
        int32_t value;
    } table[] = {
        {0, 4},
        {0, -1},
        {0, 101},
        {1, 1},
        {1, 4},
        {1, INT32_MAX},
        {2, 2},
        {2, -3},
        {3, 1},
        {3, 4},
        {4, 2},
        {4, 5},
        {5, 0},
        {5, -1},
        {IDS, 50},
        {IDS + 4, -1},
        {PARTS, 0},
        {PARTS, 2},
        {PARTS, -1},
        {PARTS + 1, -1},
        {PARTS + 1, 64},
        {PARTS + 2, 2},
        {PARTS + 3, 2},
        {PARTS + 5, 62},
        {PARTS + 5, INT32_MAX},
        {TABLES, 10},
        {TABLES + 2, -1},
        {LOGITS, 5},
        {LOGITS, 4},
        {LOGITS + 1, 2},
        {LOGITS, -1},
        {BROUGHT, 10},
        {BROUGHT + 2, -1},
    };
    uint8_t bytes[4096];
    proa_team_note back;
    (void)state;
    proa_team_reader *reader = proa_team_reader_create(&limits);
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        proa_error err = {0};
        size_t length = write_note(bytes);
        memcpy(bytes + (size_t)table[i].word * sizeof(int32_t), &table[i].value, sizeof(int32_t));
        if (proa_team_note_read(reader, bytes, length, &back, &err) != PROA_ERR_PROTOCOL)
            fail_msg("word %d as %d was taken", table[i].word, table[i].value);
        assert_true(err.text[0] != 0);
    }
    proa_team_reader_free(reader);
}

static void any_length(void **state)
{
    uint8_t bytes[4096] = {0};
    proa_team_note back;
    proa_error err;
    (void)state;
    proa_team_reader *reader = proa_team_reader_create(&limits);
    size_t good = write_note(bytes);
    for (size_t length = 0; length < sizeof bytes; length++) {
        proa_status status = proa_team_note_read(reader, bytes, length, &back, &err);
        assert_int_equal(status, length == good ? PROA_OK : PROA_ERR_PROTOCOL);
    }
    proa_team_reader_free(reader);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_comes_back),
        cmocka_unit_test(one_word_is_wrong),
        cmocka_unit_test(any_length),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
