/* test_pretokenize.c - pieces of texts against Hugging Face's: patterns of both dialects, each behavior. */
#include "text/pretokenize.h"

#include "base/file.h"
#include "text/unicode_shadow.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* What one text should be cut into. */
typedef struct expected {
    const proa_json *pieces;
    size_t next;
    bool equal;
} expected;

static proa_status compare(void *context, const char *word, size_t length)
{
    expected *e = context;
    const proa_json *piece = proa_json_at(e->pieces, e->next++);
    if (piece == NULL || proa_json_string_length(piece) != length ||
        memcmp(proa_json_string(piece, ""), word, length) != 0)
        e->equal = false;
    return PROA_OK;
}

static void check_text(const proa_pretokenizer *pre, proa_regex_scratch *scratch, const proa_json *split,
                       const proa_json *text, const proa_json *pieces)
{
    proa_buf shadow = {0};
    proa_text_piece piece = {proa_json_string(text, ""), NULL, proa_json_string_length(text)};
    piece.shadow = proa_unicode_shadow(piece.text, piece.length, &shadow);
    expected e = {.pieces = pieces, .equal = true};
    proa_error err;
    assert_int_equal(proa_pretokenize(pre, scratch, piece, compare, &e, &err), PROA_OK);
    if (!e.equal || e.next != proa_json_size(pieces)) {
        proa_buf shown = {0};
        proa_json_write(split, 0, &shown);
        fail_msg("%s cuts \"%s\" otherwise", proa_buf_text(&shown), piece.text);
    }
    proa_buf_free(&shadow);
}

/* {"type": "Sequence", "pretokenizers": [split, ByteLevel]} */
static proa_json *with_byte_level(proa_json *split)
{
    static const char text[] = "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}";
    proa_json *sequence = proa_json_new_object(), *list = proa_json_new_array();
    proa_json_append(list, proa_json_ref(split));
    proa_json_append(list, proa_json_parse(text, sizeof text - 1, NULL));
    proa_json_set(sequence, "type", proa_json_new_string("Sequence", 8));
    proa_json_set(sequence, "pretokenizers", list);
    return sequence;
}

static void splits_cut_as_the_reference(void **state)
{
    (void)state;
    char path[4096];
    const char *folder = getenv("PROA_TEST_SOURCE");
    snprintf(path, sizeof path, "%s/data/tokenizer/splits.jsonl", folder != NULL ? folder : ".");
    proa_buf file = {0};
    proa_error err = {0};
    assert_int_equal(proa_file_read(path, 1 << 26, &file, &err), PROA_OK);
    proa_regex_scratch *scratch = proa_regex_scratch_create();
    int count = 0;
    for (char *line = file.data, *end; (end = strchr(line, '\n')) != NULL; line = end + 1, count++) {
        proa_json *root = proa_json_parse(line, (size_t)(end - line), &err);
        assert_non_null(root);
        proa_json *split = proa_json_get(root, "split"), *sequence = with_byte_level(split);
        const proa_json *texts = proa_json_get(root, "texts"), *pieces = proa_json_get(root, "pieces");
        proa_pretokenizer pre;
        if (proa_pretokenizer_parse(sequence, &pre, &err) != PROA_OK)
            fail_msg("%s", err.text);
        for (size_t i = 0; i < proa_json_size(texts); i++)
            check_text(&pre, scratch, split, proa_json_at(texts, i), proa_json_at(pieces, i));
        proa_pretokenizer_free(&pre);
        proa_json_free(sequence);
        proa_json_free(root);
    }
    assert_in_range(count, 80, 1000);
    proa_regex_scratch_free(scratch);
    proa_buf_free(&file);
}

/* --- patterns that are refused --- */

static void other_patterns_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *pattern;
        const char *says;
    } cases[] = {
        {"(?x)a", "byte 0: this kind of group"},
        {"a\\R", "byte 1: the escape \\R"},
        {"\\X", "the escape \\X"},
        {"\\K", "the escape \\K"},
        {"\\G", "the escape \\G"},
        {"(a)\\1", "byte 3: the escape \\1"},
        {"(?R)", "this kind of group"},
        {"(?|a)", "this kind of group"},
        {"(?P<n>a)", "this kind of group"},
        {"(?s:.)", "this kind of group"},
        {"(?~a)", "this kind of group"},
        {"(*FAIL)", "a callout"},
        {"[[:alpha:]]", "byte 1: a POSIX bracket"},
        {"(", "'(' without ')'"},
        {"a)", "byte 1: ')' without '('"},
        {"(?<n", "name has no end"},
        {"(?#", "comment has no end"},
        {"[a", "the class has no end"},
        {"[]a]", "']' as a class's first member"},
        {"[a&&]", "is empty"},
        {"[&&a]", "is empty"},
        {"[z-a]", "range in a class is empty"},
        {"[a-\\d]", "ends with a set"},
        {"[\\w-.]", "begins with a set"},
        {"*a", "byte 0: nothing to repeat"},
        {"a|+", "nothing to repeat"},
        {"^*", "nothing to repeat"},
        {"(?=a)*", "nothing to repeat"},
        {"{2}", "nothing to repeat"},
        {"a{3,1}", "upper bound is below"},
        {"a{100000}", "more than 65535 times"},
        {"\\pL", "without braces"},
        {"\\p{L", "not a property's name"},
        {"\\p{}", "not a property's name"},
        {"\\p{L&}", "not a property's name"},
        {"\\p{Klingon}", "cannot be compiled"},
        {"\\x80", "over 7f"},
        {"\\x{d800}", "not a character's number"},
        {"\\x{110000}", "not a character's number"},
        {"\\x", "not a hexadecimal"},
        {"\\u12", "not a hexadecimal"},
        {"a\\", "byte 1: the pattern ends after a backslash"},
        {"[\\", "the pattern ends after a backslash"},
        {"\xff", "byte 0: not UTF-8"},
        {"[[[[[[[[[[[[a]]]]]]]]]]]]", "so deep a nesting of classes"},
        {"((a{9999}){9999}){9999}", "cannot be compiled"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        proa_regex *regex;
        proa_error err = {0};
        proa_status status = proa_regex_compile(cases[i].pattern, strlen(cases[i].pattern),
                                                PROA_REGEX_ONIGURUMA, "W", &regex, &err);
        if (!proa_failed(status) || strstr(err.text, cases[i].says) == NULL ||
            strncmp(err.text, "W: ", 3) != 0)
            fail_msg("%s gives %d: %s\nnot: %s", cases[i].pattern, status, err.text, cases[i].says);
        assert_null(regex);
    }
}

/* Each repeats a construct many times: groups, classes, quantifiers. None may take long, overflow or crash. */
static void deep_and_long_patterns_end(void **state)
{
    (void)state;
    static const char *const units[] = {"(",  "(?:a", "[a",    "[^",    "a*",   "*",   "(a)*",
                                        "a|", "\\w",  "[\\W]", "{1,2}", "(?i)", "(?=", "[a&&"};
    enum { BYTES = 60000 };
    char *pattern = malloc(BYTES);
    assert_non_null(pattern);
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        size_t n = strlen(units[i]);
        pattern[0] = 'a';
        for (size_t k = 1; k < BYTES; k++)
            pattern[k] = units[i][(k - 1) % n];
        proa_regex *regex;
        proa_error err = {0};
        proa_status status = proa_regex_compile(pattern, BYTES, PROA_REGEX_ONIGURUMA, "W", &regex, &err);
        assert_int_equal(status == PROA_OK, regex != NULL);
        proa_regex_free(regex);
    }
    free(pattern);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(splits_cut_as_the_reference),
        cmocka_unit_test(other_patterns_are_refused),
        cmocka_unit_test(deep_and_long_patterns_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
