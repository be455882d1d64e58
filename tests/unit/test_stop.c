/* test_stop.c - stop strings against a plain search, over every way to cut the text in two and byte by byte. */
#include "serve/stop.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static const struct stop_case {
    const char *text;
    const char *stops[4];
    const char *out;          /* without the stop string */
    const char *out_included; /* with it */
    int index;
} cases[] = {
    {"hello world", {0}, "hello world", "hello world", -1},
    {"hello world", {"xyz"}, "hello world", "hello world", -1},
    {"hello world", {"o w"}, "hell", "hello w", 0},
    {"hello world", {"h"}, "", "h", 0},
    {"hello world", {"d"}, "hello worl", "hello world", 0},
    {"hello", {"hello!"}, "hello", "hello", -1},
    {"aaaab", {"aab"}, "aa", "aaaab", 0},
    {"abababac", {"abac"}, "abab", "abababac", 0},
    {"aXbYc", {"Y", "X"}, "a", "aX", 1},           /* the first to be complete */
    {"xabcx", {"bc", "abc", "c"}, "x", "xabc", 1}, /* same end: the longest */
    {"abcd", {"abcde", "bc"}, "a", "abc", 1},      /* complete before the longer one could be */
    {"\xe6\xaf\x95\xe8\x80\x81", {"\xe8\x80\x81"}, "\xe6\xaf\x95", "\xe6\xaf\x95\xe8\x80\x81", 0},
    {"a\n\nb", {"\n\n"}, "a", "a\n\n", 0},
};

static int run(const struct stop_case *c, const size_t *cuts, size_t cut_count, bool include, char *out,
               size_t size)
{
    proa_stop_string stops[4];
    int32_t count = 0;
    for (; count < 4 && c->stops[count] != NULL; count++)
        stops[count] = (proa_stop_string){c->stops[count], strlen(c->stops[count])};
    proa_arena *arena = proa_arena_create(0);
    proa_stop_set set;
    proa_stop_matcher matcher;
    proa_buf text = {0};
    assert_true(proa_stop_set_init(&set, stops, count, arena));
    proa_stop_matcher_init(&matcher, &set);
    int index = -1;
    size_t at = 0, length = strlen(c->text);
    for (size_t i = 0; i <= cut_count && index < 0; i++) {
        size_t end = i < cut_count ? cuts[i] : length;
        index = proa_stop_matcher_push(&matcher, c->text + at, end - at, include, &text);
        at = end;
    }
    if (index < 0)
        proa_stop_matcher_finish(&matcher, &text);
    snprintf(out, size, "%s", proa_buf_text(&text));
    proa_buf_free(&text);
    proa_stop_matcher_free(&matcher);
    proa_arena_free(arena);
    return index;
}

static void check(const struct stop_case *c, const size_t *cuts, size_t cut_count)
{
    char out[100];
    assert_int_equal(run(c, cuts, cut_count, false, out, sizeof out), c->index);
    assert_string_equal(out, c->out);
    assert_int_equal(run(c, cuts, cut_count, true, out, sizeof out), c->index);
    assert_string_equal(out, c->out_included);
}

static void stops_are_found_wherever_the_text_is_cut(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t length = strlen(cases[i].text), every[100];
        for (size_t cut = 0; cut <= length; cut++)
            check(&cases[i], &cut, 1);
        for (size_t k = 0; k < length; k++)
            every[k] = k;
        check(&cases[i], every, length);
    }
}

/* The place where a plain search finds the first complete stop string; the longest of those that end there. */
static int plain_search(const char *text, const proa_stop_string *stops, int count, size_t *start)
{
    for (size_t end = 1; end <= strlen(text); end++) {
        int best = -1;
        for (int i = 0; i < count; i++) {
            size_t n = stops[i].length;
            if (n <= end && memcmp(text + end - n, stops[i].text, n) == 0 &&
                (best < 0 || n > stops[best].length))
                best = i;
        }
        if (best >= 0) {
            *start = end - stops[best].length;
            return best;
        }
    }
    *start = strlen(text);
    return -1;
}

static void random_texts_agree_with_a_plain_search(void **state)
{
    (void)state;
    uint32_t seed = 1;
    for (int round = 0; round < 20000; round++) {
        char text[40], words[3][6];
        proa_stop_string stops[3];
        for (size_t i = 0; i < sizeof text; i++) {
            seed = seed * 1664525 + 1013904223;
            text[i] = i + 1 < sizeof text ? (char)('a' + (seed >> 28) % 3) : 0;
        }
        for (int i = 0; i < 3; i++) {
            seed = seed * 1664525 + 1013904223;
            stops[i] = (proa_stop_string){words[i], 2 + (seed >> 24) % 4};
            for (size_t k = 0; k < sizeof words[i]; k++) {
                seed = seed * 1664525 + 1013904223;
                words[i][k] = (char)('a' + (seed >> 28) % 3);
            }
        }
        proa_arena *arena = proa_arena_create(0);
        proa_stop_set set;
        proa_stop_matcher matcher;
        proa_buf out = {0};
        proa_stop_set_init(&set, stops, 3, arena);
        proa_stop_matcher_init(&matcher, &set);
        int index = -1;
        for (size_t at = 0, step; at < strlen(text) && index < 0; at += step) {
            step = 1 + at % 3;
            if (step > strlen(text) - at)
                step = strlen(text) - at;
            index = proa_stop_matcher_push(&matcher, text + at, step, false, &out);
        }
        if (index < 0)
            proa_stop_matcher_finish(&matcher, &out);
        size_t start;
        int wanted = plain_search(text, stops, 3, &start);
        assert_int_equal(index < 0, wanted < 0);
        assert_int_equal(out.length, start);
        assert_memory_equal(proa_buf_text(&out), text, start);
        proa_buf_free(&out);
        proa_stop_matcher_free(&matcher);
        proa_arena_free(arena);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stops_are_found_wherever_the_text_is_cut),
        cmocka_unit_test(random_texts_agree_with_a_plain_search),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
