/* test_tokenizer.c - ids and texts against Hugging Face's, text that comes in parts, long words. */
#include "text/tokenizer.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/random.h"
#include "text/utf8.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* Tests may read the environment; the program does not. */
static const char *path_below(const char *variable, const char *relative, char path[4096])
{
    const char *folder = getenv(variable);
    snprintf(path, 4096, "%s/%s", folder != NULL ? folder : ".", relative);
    return path;
}

/* --- vectors --- */

static void assert_text(const proa_buf *got, const proa_json *want)
{
    assert_false(got->failed);
    assert_int_equal(got->length, proa_json_string_length(want));
    assert_memory_equal(proa_buf_text(got), proa_json_string(want, ""), got->length);
}

static void assert_ids(proa_encoder *encoder, const proa_json *text, bool parse_added, const proa_json *want)
{
    proa_ids ids = {0};
    proa_error err;
    assert_int_equal(proa_encode(encoder, proa_json_string(text, ""), proa_json_string_length(text),
                                 parse_added, &ids, &err),
                     PROA_OK);
    bool equal = ids.count == proa_json_size(want);
    for (size_t i = 0; equal && i < ids.count; i++)
        equal = ids.data[i] == proa_json_int(proa_json_at(want, i), -1);
    if (!equal)
        print_error("wrong ids for \"%s\"\n", proa_json_string(text, ""));
    assert_true(equal);
    proa_ids_free(&ids);
}

static void assert_decodes(const proa_tokenizer *tokenizer, const proa_json *ids, bool skip,
                           const proa_json *want)
{
    proa_ids list = {0};
    proa_buf whole = {0}, parts = {0};
    proa_detokenizer d;
    proa_detokenizer_init(&d, tokenizer, skip);
    for (size_t i = 0; i < proa_json_size(ids); i++) {
        int32_t id = (int32_t)proa_json_int(proa_json_at(ids, i), -1);
        assert_true(proa_ids_push(&list, id));
        proa_detokenizer_push(&d, id, &parts);
        assert_int_equal(proa_utf8_valid_length(proa_buf_text(&parts), parts.length), parts.length);
    }
    proa_detokenizer_finish(&d, &parts);
    proa_decode(tokenizer, list.data, list.count, skip, &whole);
    assert_text(&whole, want);
    assert_text(&parts, want);
    proa_buf_free(&whole);
    proa_buf_free(&parts);
    proa_ids_free(&list);
}

/* Each line both ways; returns how many lines there were. */
static int check_vectors(const proa_tokenizer *tokenizer, const char *path)
{
    proa_buf file = {0};
    proa_error err = {0};
    assert_int_equal(proa_file_read(path, 1 << 26, &file, &err), PROA_OK);
    proa_encoder *encoder = proa_encoder_create(tokenizer);
    int count = 0;
    for (char *line = file.data, *end; (end = strchr(line, '\n')) != NULL; line = end + 1, count++) {
        proa_json *vector = proa_json_parse(line, (size_t)(end - line), &err);
        assert_non_null(vector);
        const proa_json *ids = proa_json_get(vector, "ids"), *plain = proa_json_get(vector, "plain");
        assert_ids(encoder, proa_json_get(vector, "text"), true, ids);
        if (plain != NULL)
            assert_ids(encoder, proa_json_get(vector, "text"), false, plain);
        assert_decodes(tokenizer, ids, false, proa_json_get(vector, "decoded"));
        assert_decodes(tokenizer, ids, true, proa_json_get(vector, "decoded_skip_special"));
        proa_json_free(vector);
    }
    proa_encoder_free(encoder);
    proa_buf_free(&file);
    return count;
}

static proa_tokenizer *load(const char *dir)
{
    proa_tokenizer *tokenizer;
    proa_error err = {0};
    if (proa_tokenizer_load(dir, &tokenizer, &err) != PROA_OK)
        fail_msg("%s", err.text);
    return tokenizer;
}

static proa_tokenizer *load_small(void)
{
    char path[4096];
    return load(path_below("PROA_TEST_SOURCE", "data/tokenizer", path));
}

static void small_vectors_match(void **state)
{
    (void)state;
    char path[4096];
    proa_tokenizer *tokenizer = load_small();
    int count =
        check_vectors(tokenizer, path_below("PROA_TEST_SOURCE", "data/tokenizer/vectors.jsonl", path));
    assert_in_range(count, 200, 1000);
    proa_tokenizer_free(tokenizer);
}

static void deepseek_vectors_match(void **state)
{
    (void)state;
    char path[4096];
    path_below("PROA_TEST_DATA", "tokenizer/deepseek-v3", path);
    if (!proa_file_exists(path)) {
        print_message("%s is absent: set PROA_TEST_DATA to the folder of the test data\n", path);
        skip();
    }
    int64_t start = proa_clock_us();
    proa_tokenizer *tokenizer = load(path);
    print_message("loaded in %.3f s\n", (double)(proa_clock_us() - start) * 1e-6);
    assert_int_equal(proa_tokenizer_vocab_size(tokenizer), 128815);
    int count =
        check_vectors(tokenizer, path_below("PROA_TEST_DATA", "tokenizer/deepseek-v3/vectors.jsonl", path));
    assert_int_equal(count, 1500);
    proa_tokenizer_free(tokenizer);
}

/* --- tokens --- */

static void tokens_have_names_and_bytes(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        const char *bytes; /* NULL: there is no such token */
        bool special;
    } cases[] = {
        {"<|bos|>", "<|bos|>", true},
        {"<think>", "<think>", false},
        {"<\xef\xbd\x9cUser\xef\xbd\x9c>", "<\xef\xbd\x9cUser\xef\xbd\x9c>", false},
        {"\xc4\xa0p", " p", false},
        {"!", "!", false},
        {"\xc4\xa0spelt", " spelt", false}, /* spelt in byte characters, as Hugging Face decodes it */
        {" p", NULL, false},
        {"no such token", NULL, false},
        {"", NULL, false},
    };
    proa_tokenizer *tokenizer = load_small();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int32_t id = proa_tokenizer_id(tokenizer, cases[i].name);
        assert_int_equal(id >= 0, cases[i].bytes != NULL);
        if (id < 0)
            continue;
        size_t length;
        const char *bytes = proa_tokenizer_bytes(tokenizer, id, &length);
        assert_int_equal(length, strlen(cases[i].bytes));
        assert_memory_equal(bytes, cases[i].bytes, length);
        assert_int_equal(proa_tokenizer_is_special(tokenizer, id), cases[i].special);
    }
    size_t length;
    static const int32_t absent[] = {-1, INT32_MIN, INT32_MAX, 435};
    for (size_t i = 0; i < sizeof absent / sizeof absent[0]; i++) {
        assert_null(proa_tokenizer_bytes(tokenizer, absent[i], &length));
        assert_false(proa_tokenizer_is_special(tokenizer, absent[i]));
    }
    proa_tokenizer_free(tokenizer);
}

/* --- decoding in parts --- */

static void random_ids_decode_alike_in_parts(void **state)
{
    (void)state;
    enum { ROUNDS = 2000, IDS = 40 };
    proa_tokenizer *tokenizer = load_small();
    int32_t size = proa_tokenizer_vocab_size(tokenizer);
    for (uint64_t round = 0; round < ROUNDS; round++) {
        int32_t ids[IDS];
        proa_buf whole = {0}, parts = {0};
        proa_detokenizer d;
        proa_detokenizer_init(&d, tokenizer, round % 2);
        for (int i = 0; i < IDS;
             i++) { /* a little beyond the vocabulary on both sides, mostly single bytes */
            double draw = proa_random_uniform(round, (uint64_t)i);
            ids[i] = (int32_t)(draw * (round % 4 < 2 ? 260 : size + 2)) - 1;
            size_t before = parts.length;
            proa_detokenizer_push(&d, ids[i], &parts);
            assert_int_equal(proa_utf8_valid_length(proa_buf_text(&parts) + before, parts.length - before),
                             parts.length - before);
        }
        proa_detokenizer_finish(&d, &parts);
        proa_decode(tokenizer, ids, IDS, round % 2, &whole);
        assert_string_equal(proa_buf_text(&parts), proa_buf_text(&whole));
        assert_int_equal(parts.length, whole.length);
        proa_buf_free(&whole);
        proa_buf_free(&parts);
    }
    proa_tokenizer_free(tokenizer);
}

static void characters_come_whole(void **state)
{
    (void)state;
    /* Unicode 16, 3.9: what each next byte makes certain. */
    static const struct {
        const char *bytes;
        const char *shown[6]; /* after each byte, and after the end */
    } cases[] = {
        {"\xe6\xaf\x95", {"", "", "\xe6\xaf\x95", ""}},
        {"\xf0\x9f\x91\xa9", {"", "", "", "\xf0\x9f\x91\xa9", ""}},
        {"\xe6\xaf"
         "a",
         {"", "",
          "\xef\xbf\xbd"
          "a",
          ""}},
        {"\xe6\xe6\xaf\x95", {"", "\xef\xbf\xbd", "", "\xe6\xaf\x95", ""}},
        {"\xf0\x9f\x91", {"", "", "", "\xef\xbf\xbd"}},
        {"\xff\x80", {"\xef\xbf\xbd", "\xef\xbf\xbd", ""}},
        {"\xe0\x80", {"", "\xef\xbf\xbd\xef\xbf\xbd", ""}},
        {"\xed\xa0\x80", {"", "\xef\xbf\xbd\xef\xbf\xbd", "\xef\xbf\xbd", ""}},
        {"\xf4\x90", {"", "\xef\xbf\xbd\xef\xbf\xbd", ""}},
        {"\xc3", {"", "\xef\xbf\xbd"}},
    };
    proa_tokenizer *tokenizer = load_small();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        proa_detokenizer d;
        proa_detokenizer_init(&d, tokenizer, false);
        size_t n = strlen(cases[i].bytes);
        for (size_t k = 0; k <= n; k++) {
            proa_buf out = {0};
            int32_t id = -1;
            for (int32_t t = 0; k < n && t < 256; t++) { /* the token of this byte */
                size_t length;
                const char *bytes = proa_tokenizer_bytes(tokenizer, t, &length);
                if (length == 1 && bytes[0] == cases[i].bytes[k])
                    id = t;
            }
            if (k < n) {
                assert_true(id >= 0);
                proa_detokenizer_push(&d, id, &out);
            } else {
                proa_detokenizer_finish(&d, &out);
            }
            assert_string_equal(proa_buf_text(&out), cases[i].shown[k]);
            proa_buf_free(&out);
        }
    }
    proa_tokenizer_free(tokenizer);
}

static void broken_text_is_replaced(void **state)
{
    (void)state;
    static const struct {
        const char *text, *as;
    } cases[] = {
        {"a\xff"
         "b",
         "a\xef\xbf\xbd"
         "b"},
        {"\xe6\xaf", "\xef\xbf\xbd"},
        {"\xed\xa0\x80<think>", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd<think>"},
    };
    proa_tokenizer *tokenizer = load_small();
    proa_encoder *encoder = proa_encoder_create(tokenizer);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        proa_ids got = {0}, want = {0};
        assert_int_equal(proa_encode(encoder, cases[i].text, strlen(cases[i].text), true, &got, NULL),
                         PROA_OK);
        assert_int_equal(proa_encode(encoder, cases[i].as, strlen(cases[i].as), true, &want, NULL), PROA_OK);
        assert_int_equal(got.count, want.count);
        assert_memory_equal(got.data, want.data, got.count * sizeof *got.data);
        proa_ids_free(&got);
        proa_ids_free(&want);
    }
    proa_encoder_free(encoder);
    proa_tokenizer_free(tokenizer);
}

/* --- long words --- */

static void long_words_take_linear_time(void **state)
{
    (void)state;
    static const char *const units[] = {"a", " ", "\n",       "the", "\xe8\x88\xb9",
                                        "1", "'", "\xcc\x81", "<|",  "\xff"};
    enum { BYTES = 1 << 20 };
    proa_tokenizer *tokenizer = load_small();
    proa_encoder *encoder = proa_encoder_create(tokenizer);
    char *text = malloc(BYTES);
    assert_non_null(text);
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        size_t n = strlen(units[i]);
        for (size_t k = 0; k < BYTES; k++)
            text[k] = units[i][k % n];
        proa_ids ids = {0};
        int64_t start = proa_clock_us();
        proa_error err = {0};
        if (proa_encode(encoder, text, BYTES, true, &ids, &err) != PROA_OK)
            fail_msg("a run of \"%s\": %s", units[i], err.text);
        int64_t took_us = proa_clock_us() - start;
        if (took_us > 5000000) /* quadratic would be hours; a slow machine with sanitizers is not */
            fail_msg("a run of \"%s\" took %lld us", units[i], (long long)took_us);
        assert_true(ids.count > 0);
        proa_ids_free(&ids);
    }
    free(text);
    proa_encoder_free(encoder);
    proa_tokenizer_free(tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_vectors_match),         cmocka_unit_test(deepseek_vectors_match),
        cmocka_unit_test(tokens_have_names_and_bytes), cmocka_unit_test(random_ids_decode_alike_in_parts),
        cmocka_unit_test(characters_come_whole),       cmocka_unit_test(broken_text_is_replaced),
        cmocka_unit_test(long_words_take_linear_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
