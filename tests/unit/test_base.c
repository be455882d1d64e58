/* test_base.c - the base room: numbers, buffers, JSON strings, random words, pool, mailbox. */
#include "base/bf16.h"
#include "base/arena.h"
#include "base/buf.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mailbox.h"
#include "base/number.h"
#include "base/pool.h"
#include "base/progress.h"
#include "base/random.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static void e4m3_round_trips_every_code(void **state)
{
    (void)state;
    for (int code = 0; code < 256; code++) {
        float value = proa_e4m3_to_f32((uint8_t)code);
        if (isnan(value))
            assert_int_equal(code & 0x7f, 0x7f);
        else
            assert_int_equal(proa_f32_to_e4m3(value), code);
    }
    assert_float_equal(proa_e4m3_to_f32(0x7e), 448.0f, 0);
    assert_float_equal(proa_e4m3_to_f32(0x01), 0x1p-9f, 0);
}

static void e4m3_rounds_ties_to_even(void **state)
{
    (void)state;
    for (int code = 0; code < 0x7e; code++) {
        float low = proa_e4m3_to_f32((uint8_t)code), high = proa_e4m3_to_f32((uint8_t)(code + 1));
        float middle = (low + high) / 2;
        int even = code % 2 == 0 ? code : code + 1;
        assert_int_equal(proa_f32_to_e4m3(middle), even);
        assert_int_equal(proa_f32_to_e4m3(nextafterf(middle, 0)), code);
        assert_int_equal(proa_f32_to_e4m3(nextafterf(middle, 1000)), code + 1);
    }
    assert_int_equal(proa_f32_to_e4m3(1e9f), 0x7e);
    assert_int_equal(proa_f32_to_e4m3(-1e9f), 0xfe);
}

static void bf16_rounds_ties_to_even(void **state)
{
    (void)state;
    assert_int_equal(proa_f32_to_bf16(1.0f), 0x3f80);
    assert_int_equal(proa_f32_to_bf16(1.00390625f), 0x3f80); /* half way, down to even */
    assert_int_equal(proa_f32_to_bf16(1.01171875f), 0x3f82); /* half way, up to even */
    assert_true(isnan(proa_round_bf16(NAN)));
    assert_true(isinf(proa_round_bf16(3.4e38f)));
}

/* Known answers of Random123's kat_vectors for philox4x32 10. */
static void philox_gives_known_answers(void **state)
{
    (void)state;
    uint32_t out[4];
    proa_random_philox(0, 0, 0, out);
    assert_int_equal(out[0], 0x6627e8d5);
    assert_int_equal(out[1], 0xe169c58d);
    assert_int_equal(out[2], 0xbc57ac4c);
    assert_int_equal(out[3], 0x9b00dbd8);
    proa_random_philox(UINT64_MAX, UINT64_MAX, UINT64_MAX, out);
    assert_int_equal(out[0], 0x408f276d);
    assert_int_equal(out[1], 0x41c83b0e);
    assert_int_equal(out[2], 0xa20bc7c6);
    assert_int_equal(out[3], 0x6d5451fd);
    assert_true(proa_random_uniform(1, 2) < 1.0);
}

static void buffer_stops_at_its_limit(void **state)
{
    (void)state;
    proa_buf buf;
    proa_buf_init(&buf, 4);
    proa_buf_append_text(&buf, "abc");
    assert_false(buf.failed);
    proa_buf_append_text(&buf, "de");
    assert_true(buf.failed);
    assert_string_equal(proa_buf_text(&buf), "abc");
    proa_buf_free(&buf);
}

static void arena_stops_at_its_limit(void **state)
{
    (void)state;
    proa_arena *arena = proa_arena_create(100000);
    assert_non_null(proa_arena_alloc(arena, 90000));
    assert_null(proa_arena_alloc(arena, 20000));
    assert_null(proa_arena_array(arena, SIZE_MAX / 2, 16));
    proa_arena_reset(arena);
    char *memory = proa_arena_alloc(arena, 20000);
    assert_non_null(memory);
    assert_int_equal(memory[19999], 0);
    proa_arena_free(arena);
}

static void json_strings_are_escaped(void **state)
{
    (void)state;
    static const struct {
        const char *in;
        const char *out;
    } cases[] = {
        {"", "\"\""},
        {"a\"b\\c\n\t\x01", "\"a\\\"b\\\\c\\n\\t\\u0001\""},
        {"\xe6\xaf\x95", "\"\xe6\xaf\x95\""},
        {"\xff", "\"\xef\xbf\xbd\""},
        {"\xe6\xaf", "\"\xef\xbf\xbd\xef\xbf\xbd\""},
        {"\xed\xa0\x80", "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\""},
        {"a\xc2\x85"
         "b\xe2\x80\xa8\xe2\x80\xa9\xe2\x80\xa7",
         "\"a\\u0085b\\u2028\\u2029\xe2\x80\xa7\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        proa_buf buf = {0};
        proa_json_write_string(cases[i].in, strlen(cases[i].in), &buf);
        assert_string_equal(proa_buf_text(&buf), cases[i].out);
        proa_buf_free(&buf);
    }
}

static void count_task(void *context, int task, int thread)
{
    (void)thread;
    _Atomic int *counts = context;
    atomic_fetch_add(&counts[task], 1);
}

static void pool_runs_every_task_once(void **state)
{
    (void)state;
    enum { TASKS = 97, ROUNDS = 2000 };
    for (int threads = 1; threads <= 4; threads++) {
        proa_pool *pool = proa_pool_create(threads);
        static _Atomic int counts[TASKS];
        memset(counts, 0, sizeof counts);
        for (int i = 0; i < ROUNDS; i++)
            proa_pool_run(pool, count_task, (void *)counts, TASKS);
        for (int i = 0; i < TASKS; i++)
            assert_int_equal(counts[i], ROUNDS);
        proa_pool_free(pool);
    }
}

static void mailbox_is_bounded_and_ordered(void **state)
{
    (void)state;
    int messages[3];
    proa_mailbox *box = proa_mailbox_create(2, NULL, NULL);
    assert_int_equal(proa_mailbox_send(box, &messages[0]), PROA_OK);
    assert_int_equal(proa_mailbox_send(box, &messages[1]), PROA_OK);
    assert_int_equal(proa_mailbox_send(box, &messages[2]), PROA_BUSY);
    assert_ptr_equal(proa_mailbox_take(box), &messages[0]);
    assert_ptr_equal(proa_mailbox_wait(box, 1000), &messages[1]);
    assert_null(proa_mailbox_wait(box, 1000));
    proa_mailbox_close(box);
    assert_int_equal(proa_mailbox_send(box, &messages[0]), PROA_ERR_CANCELLED);
    proa_mailbox_free(box);
}

static void progress_lines_are_scaled(void **state)
{
    (void)state;
    static const struct {
        const char *unit;
        uint64_t total, done;
        double seconds;
        const char *line;
    } cases[] = {
        {"B", 2700000000u, 1350000000u, 3,
         "x  [##########----------]  50%  1.4 GB of 2.7 GB  450 MB/s  3 s left"},
        {"B", 1000, 0, 0, "x  [--------------------]   0%  0 B of 1.0 kB  0 B/s"},
        {"B", 1000, 1000, 2, "x  [####################] 100%  1.0 kB of 1.0 kB  500 B/s"},
        {"files", 4, 1, 1, "x  [#####---------------]  25%  1 files of 4 files  1 files/s  3 s left"},
        {"B", 10, 20, 1, "x  [####################] 100%  20 B of 10 B  20 B/s"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        proa_progress p;
        char line[160];
        proa_progress_start(&p, "x", cases[i].total, cases[i].unit);
        size_t n = proa_progress_line(&p, cases[i].done, cases[i].seconds, line, sizeof line);
        assert_string_equal(line, cases[i].line);
        assert_int_equal(n, strlen(line));
        assert_int_equal(proa_progress_line(&p, cases[i].done, cases[i].seconds, line, 8), 7);
        proa_progress_add(&p, 1);
        assert_true(proa_progress_finish(&p) > 0);
    }
    char text[24];
    assert_string_equal(proa_format_bytes(999, text), "999 B");
    assert_string_equal(proa_format_bytes(999.9, text), "1.0 kB");
    assert_string_equal(proa_format_bytes(688.57e9, text), "689 GB");
}

/* What one line of the log is, in `text`. */
static void logged_line(char *text, size_t bytes)
{
    int ends[2], saved = dup(STDERR_FILENO);
    assert_int_equal(pipe(ends), 0);
    dup2(ends[1], STDERR_FILENO);
    proa_log(PROA_LOG_WARN, "area", "%d things", 3);
    dup2(saved, STDERR_FILENO);
    ssize_t n = read(ends[0], text, bytes - 1);
    assert_true(n > 0);
    text[n] = '\0';
    close(ends[0]);
    close(ends[1]);
    close(saved);
}

static void log_lines_name_the_rank(void **state)
{
    char text[200];
    (void)state;
    logged_line(text, sizeof text);
    assert_string_equal(text + strlen("12:31:07.123 "), "warn  area: 3 things\n");
    proa_log_set_rank(31);
    logged_line(text, sizeof text);
    assert_string_equal(text + strlen("12:31:07.123 "), "warn  rank 31 area: 3 things\n");
}

/* Every exponent, sign and the mantissas around a tie; also lengths that leave a rest beside whole vectors. */
static void bf16_arrays_are_as_single_values(void **state)
{
    enum { COUNT = 512 * 9 + 5 };
    static float floats[COUNT], back[COUNT];
    static uint16_t halves[COUNT];
    (void)state;
    for (uint32_t i = 0; i < COUNT; i++) {
        static const uint32_t low[] = {0, 1, 0x7fff, 0x8000, 0x8001, 0xffff, 0x17fff, 0x18000, 0x7fffff};
        uint32_t bits = (i / 9 % 512) << 23 | low[i % 9];
        memcpy(&floats[i], &bits, sizeof bits);
    }
    proa_bf16_from_floats(halves, floats, COUNT);
    proa_bf16_to_floats(back, halves, COUNT);
    for (uint32_t i = 0; i < COUNT; i++) {
        float one = proa_bf16_to_f32(halves[i]);
        assert_int_equal(halves[i], proa_f32_to_bf16(floats[i]));
        assert_memory_equal(&back[i], &one, sizeof one);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(e4m3_round_trips_every_code),    cmocka_unit_test(e4m3_rounds_ties_to_even),
        cmocka_unit_test(bf16_rounds_ties_to_even),       cmocka_unit_test(philox_gives_known_answers),
        cmocka_unit_test(buffer_stops_at_its_limit),      cmocka_unit_test(arena_stops_at_its_limit),
        cmocka_unit_test(json_strings_are_escaped),       cmocka_unit_test(pool_runs_every_task_once),
        cmocka_unit_test(mailbox_is_bounded_and_ordered), cmocka_unit_test(progress_lines_are_scaled),
        cmocka_unit_test(log_lines_name_the_rank),        cmocka_unit_test(bf16_arrays_are_as_single_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
