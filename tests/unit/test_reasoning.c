/* test_reasoning.c - answers cut at every place give the same reasoning and content. */
#include "text/reasoning.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#define NONE PROA_REASONING_NONE
#define R1   PROA_REASONING_DEEPSEEK_R1
#define V3   PROA_REASONING_DEEPSEEK_V3

static const struct {
    proa_reasoning_kind kind;
    bool thinking;
    const char *text, *reasoning, *content;
} answers[] = {
    {R1, true, "", "", ""},
    {R1, true, "because</think>so", "because", "so"},
    {R1, true, "<think>because</think>so", "because", "so"},
    {R1, true, "<think>\nbecause\n</think>\n\nso\n", "\nbecause\n", "so\n"},
    {R1, true, "because</think> \t\r\n\v\fso </think> far", "because", "so </think> far"},
    {R1, true, "because</think>so<think>on</think>", "because", "so<think>on</think>"},
    {R1, true, "<think></think>so", "", "so"},
    {R1, true, "</think>so", "", "so"},
    {R1, true, "</think>", "", ""},
    {R1, true, "</think>\n\n", "", ""},
    {R1, true, "<think>", "", ""},
    {R1, true, "<think><think>a</think>b", "<think>a", "b"},
    {R1, true, " <think>a</think>b", " <think>a", "b"},
    {R1, true, "cut off</thin", "cut off</thin", ""},
    {R1, true, "cut off <", "cut off <", ""},
    {R1, true, "<thin", "<thin", ""},
    {R1, true, "<", "<", ""},
    {R1, true, "</", "</", ""},
    {R1, true, "<<think>a</think>b", "<<think>a", "b"},
    {R1, true, "<th</think>b", "<th", "b"},
    {R1, true, "<</think>b", "<", "b"},
    {R1, true, "</</think>b", "</", "b"},
    {R1, true, "</think</think>b", "</think", "b"},
    {R1, true, "</thi<</think>b", "</thi<", "b"},
    {R1, true, "a < b </thin> c</THINK>", "a < b </thin> c</THINK>", ""},
    {R1, true, "<thhink>a</think>b", "<thhink>a", "b"},
    {R1, true, "<think >a</think>b", "<think >a", "b"},
    {R1, false, "because</think>so", "because", "so"},
    {R1, true, "\xe5\x9b\xa0\xe4\xb8\xba</think>\xe3\x80\x80\xe6\x89\x80\xe4\xbb\xa5",
     "\xe5\x9b\xa0\xe4\xb8\xba", "\xe3\x80\x80\xe6\x89\x80\xe4\xbb\xa5"},
    {V3, true, "<think>because</think>\nso", "because", "so"},
    {V3, false, "<think>because</think>\nso", "", "<think>because</think>\nso"},
    {V3, false, " so", "", " so"},
    {NONE, true, "<think>a</think> b", "", "<think>a</think> b"},
};

/* Reads answer i in the given parts (their ends, ascending), then ends. */
static void check(size_t i, const size_t *ends, size_t count)
{
    proa_buf reasoning = {0}, content = {0};
    proa_reasoning r;
    proa_reasoning_init(&r, answers[i].kind, answers[i].thinking);
    size_t at = 0;
    for (size_t k = 0; k < count; k++) {
        bool was_inside = proa_reasoning_inside(&r);
        proa_reasoning_push(&r, answers[i].text + at, ends[k] - at, &reasoning, &content);
        assert_true(was_inside || !proa_reasoning_inside(&r));
        assert_true(content.length == 0 || !proa_reasoning_inside(&r));
        /* only a beginning of a tag is ever held back */
        assert_true(r.held < strlen("</think>"));
        assert_memory_equal(r.hold, answers[i].text + ends[k] - r.held, r.held);
        at = ends[k];
    }
    proa_reasoning_finish(&r, &reasoning, &content);
    assert_string_equal(proa_buf_text(&reasoning), answers[i].reasoning);
    assert_string_equal(proa_buf_text(&content), answers[i].content);
    proa_buf_free(&reasoning);
    proa_buf_free(&content);
}

static void every_cut_gives_the_same(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++) {
        size_t length = strlen(answers[i].text), all[128];
        assert_in_range(length, 0, 127);
        for (size_t a = 0; a <= length; a++) {
            for (size_t b = a; b <= length; b++)
                check(i, (size_t[]){a, b, length}, 3);
            all[a] = a;
        }
        check(i, all, length + 1); /* byte by byte, and an empty push first */
    }
}

static void plain_text_is_not_held_back(void **state)
{
    (void)state;
    proa_buf reasoning = {0}, content = {0};
    proa_reasoning r;
    proa_reasoning_init(&r, PROA_REASONING_DEEPSEEK_R1, true);
    assert_true(proa_reasoning_inside(&r));
    proa_reasoning_push(&r, "x <y", 4, &reasoning, &content);
    assert_string_equal(proa_buf_text(&reasoning), "x <y");
    proa_reasoning_push(&r, "</", 2, &reasoning, &content);
    assert_string_equal(proa_buf_text(&reasoning), "x <y");
    assert_int_equal(r.held, 2);
    proa_reasoning_push(&r, "think>", 6, &reasoning, &content);
    assert_false(proa_reasoning_inside(&r));
    proa_reasoning_push(&r, "z<", 2, &reasoning, &content);
    assert_string_equal(proa_buf_text(&content), "z<");
    proa_buf_free(&reasoning);
    proa_buf_free(&content);
}

static void kinds_have_names(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int kind; /* -1: refused */
    } cases[] = {{"", NONE},          {"none", NONE},   {"deepseek-r1", R1},
                 {"deepseek-v3", V3}, {"deepseek", -1}, {"R1", -1}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        proa_reasoning_kind kind = PROA_REASONING_NONE;
        proa_error err = {0};
        proa_status status = proa_reasoning_kind_parse(cases[i].name, &kind, &err);
        assert_int_equal(status, cases[i].kind < 0 ? PROA_ERR_UNSUPPORTED : PROA_OK);
        if (cases[i].kind >= 0)
            assert_int_equal(kind, cases[i].kind);
        else
            assert_non_null(strstr(err.text, cases[i].name));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_cut_gives_the_same),
        cmocka_unit_test(plain_text_is_not_held_back),
        cmocka_unit_test(kinds_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
