/* test_tokenizer_file.c - tokenizer.json files: what is refused and how, what is spelt in several ways. */
#include "text/tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#define BYTE_LEVEL           "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}"
#define REST                 ",\"pre_tokenizer\":" BYTE_LEVEL ",\"decoder\":" BYTE_LEVEL
#define MODEL(vocab, merges) "\"model\":{\"type\":\"BPE\",\"vocab\":" vocab ",\"merges\":" merges "}"
#define AB                   "{\"a\":0,\"b\":1,\"ab\":2}"
#define ADDED(list)          "{" MODEL(AB, "[]") REST ",\"added_tokens\":[" list "]}"
#define PRE(value)           "{" MODEL(AB, "[]") ",\"decoder\":" BYTE_LEVEL ",\"pre_tokenizer\":" value "}"
#define SPLIT(pattern)                                                                                       \
    "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":{"  \
    "\"Regex\":\"" pattern "\"}}," BYTE_LEVEL "]}"

/* Files that are refused, and a part of the message. */
static const struct {
    const char *json;
    const char *says;
} bad_files[] = {
    {"", "not valid JSON"},
    {"[]", "an object is needed"},
    {"{}", "no ByteLevel"},
    {"{\"model\":1" REST "}", "\"model\" is integer"},
    {"{\"model\":{\"type\":\"Unigram\"}" REST "}", "Unigram"},
    {"{\"model\":{\"type\":\"BPE\"}" REST "}", "model.vocab"},
    {"{" MODEL("{}", "[]") REST "}", "empty"},
    {"{" MODEL("[]", "[]") REST "}", "model.vocab"},
    {"{" MODEL("{\"a\":\"0\"}", "[]") REST "}", "\"a\""},
    {"{" MODEL("{\"a\":1.0}", "[]") REST "}", "\"a\""},
    {"{" MODEL("{\"a\":-1}", "[]") REST "}", "id -1"},
    {"{" MODEL("{\"a\":4194304}", "[]") REST "}", "4194304"},
    {"{" MODEL("{\"a\":9223372036854775807}", "[]") REST "}", "9223372036854775807"},
    {"{" MODEL("{\"a\":0,\"b\":0}", "[]") REST "}", "belongs to \"a\""},
    {"{" MODEL(AB, "{}") REST "}", "model.merges"},
    {"{" MODEL(AB, "[\"ab\"]") REST "}", "merges[0] is no pair"},
    {"{" MODEL(AB, "[\"a b\",\"a b c\"]") REST "}", "merges[1] is no pair"},
    {"{" MODEL(AB, "[[\"a\"]]") REST "}", "merges[0] is no pair"},
    {"{" MODEL(AB, "[[\"a\",1]]") REST "}", "merges[0] is no pair"},
    {"{" MODEL(AB, "[\"a x\"]") REST "}", "names \"x\""},
    {"{" MODEL(AB, "[\"b a\"]") REST "}", "makes \"ba\""},
    {"{\"model\":{\"vocab\":" AB ",\"merges\":[],\"byte_fallback\":true}" REST "}", "byte_fallback"},
    {"{\"model\":{\"vocab\":" AB ",\"merges\":[],\"dropout\":0.1}" REST "}", "dropout"},
    {"{\"model\":{\"vocab\":" AB ",\"merges\":[],\"unk_token\":\"u\"}" REST "}", "unk_token \"u\""},
    {"{\"model\":{\"vocab\":" AB ",\"merges\":[],\"ignore_merges\":1}" REST "}", "ignore_merges"},
    {"{\"model\":{\"vocab\":" AB ",\"merges\":[],\"end_of_word_suffix\":\"</w>\"}" REST "}",
     "end_of_word_suffix"},
    {"{" MODEL(AB, "[]") REST ",\"normalizer\":{\"type\":\"NFC\"}}", "NFC"},
    {"{" MODEL(AB, "[]") ",\"pre_tokenizer\":" BYTE_LEVEL "}", "decoder"},
    {"{" MODEL(AB, "[]") ",\"pre_tokenizer\":" BYTE_LEVEL ",\"decoder\":{\"type\":\"WordPiece\"}}",
     "WordPiece"},
    {ADDED("1"), "added_tokens[0]"},
    {ADDED("{\"id\":3}"), "added_tokens[0]"},
    {ADDED("{\"id\":\"3\",\"content\":\"c\"}"), "added_tokens[0]"},
    {ADDED("{\"id\":3,\"content\":\"c\",\"special\":1}"), "\"special\""},
    {ADDED("{\"id\":3,\"content\":\"a\"}"), "has id 3 here and 0"},
    {ADDED("{\"id\":1,\"content\":\"c\"}"), "belongs to \"b\""},
    {ADDED("{\"id\":-5,\"content\":\"c\"}"), "id -5"},
    {ADDED("{\"id\":3,\"content\":\"c\"},{\"id\":3,\"content\":\"c\"}"), "added before"},
    {ADDED("{\"id\":3,\"content\":\"c\"},{\"id\":4,\"content\":\"c\"}"), "has id 4 here and 3"},
    {PRE("null"), "no ByteLevel"},
    {PRE("{\"type\":\"Metaspace\"}"), "Metaspace"},
    {PRE("{\"type\":\"Sequence\"}"), "pretokenizers"},
    {PRE("{\"type\":\"Sequence\",\"pretokenizers\":[" BYTE_LEVEL ",{\"type\":\"Digits\"}]}"),
     "ByteLevel must"},
    {PRE("{\"type\":\"Split\"}"), "behavior"},
    {PRE("{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":{}}"), "pattern"},
    {PRE("{\"type\":\"Digits\",\"individual_digits\":1}"), "individual_digits"},
    {PRE(SPLIT("(")), "stage 1: pattern, byte 1: '(' without ')'"},
    {PRE(SPLIT("a\\\\R")), "byte 1: the escape \\R"},
    {PRE(SPLIT("\\\\p{Klingon}")), "cannot be compiled"},
};

static void bad_files_are_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad_files / sizeof bad_files[0]; i++) {
        proa_tokenizer *tokenizer;
        proa_error err = {0};
        proa_status status =
            proa_tokenizer_parse(bad_files[i].json, strlen(bad_files[i].json), "T", &tokenizer, &err);
        if (!proa_failed(status) || err.status != status || strstr(err.text, bad_files[i].says) == NULL ||
            strncmp(err.text, "T: ", 3) != 0)
            fail_msg("%s\ngives %d: %s\nnot: %s", bad_files[i].json, status, err.text, bad_files[i].says);
        assert_null(tokenizer);
        assert_int_not_equal(
            proa_tokenizer_parse(bad_files[i].json, strlen(bad_files[i].json), "T", &tokenizer, NULL),
            PROA_OK);
    }
}

static void spellings_of_one_file_agree(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        const char *text;
        int32_t ids[4]; /* up to -1 */
    } cases[] = {
        {"{" MODEL(AB, "[\"a b\"]") REST "}", "aab", {0, 2, -1}},
        {"{" MODEL(AB, "[[\"a\",\"b\"]]") REST "}", "aab", {0, 2, -1}},
        {"{" MODEL(AB, "[\"#version: 0.2\",\"a b\"]") REST "}", "aab", {0, 2, -1}},
        {"{" MODEL(AB, "[]") REST "}", "ab", {0, 1, -1}},
        {"{\"model\":{\"vocab\":" AB ",\"merges\":[],\"ignore_merges\":true}" REST "}", "ab", {2, -1}},
        {"{" MODEL(AB, "[]") REST "}", "axb", {0, 1, -1}}, /* no token and no unk_token: dropped */
        {"{\"model\":{\"vocab\":" AB ",\"merges\":[],\"unk_token\":\"b\"}" REST "}", "axx", {0, 1, 1, -1}},
        {"{\"model\":{\"vocab\":" AB ",\"merges\":[],\"unk_token\":\"b\",\"fuse_unk\":true}" REST "}",
         "axx",
         {0, 1, -1}},
        {ADDED("{\"id\":0,\"content\":\"a\",\"special\":true},{\"id\":7,\"content\":\"\"}"),
         "ab",
         {0, 1, -1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        proa_tokenizer *tokenizer;
        proa_error err = {0};
        if (proa_tokenizer_parse(cases[i].json, strlen(cases[i].json), "T", &tokenizer, &err) != PROA_OK)
            fail_msg("%s\n%s", cases[i].json, err.text);
        proa_encoder *encoder = proa_encoder_create(tokenizer);
        proa_ids ids = {0};
        assert_int_equal(proa_encode(encoder, cases[i].text, strlen(cases[i].text), true, &ids, &err),
                         PROA_OK);
        assert_true(proa_ids_push(&ids, -1));
        assert_memory_equal(ids.data, cases[i].ids, ids.count * sizeof *ids.data);
        proa_ids_free(&ids);
        proa_encoder_free(encoder);
        proa_tokenizer_free(tokenizer);
    }
}

static void hostile_patterns_end(void **state)
{
    (void)state;
    static const char json[] = PRE(SPLIT("(x+x+)+[yz]"));
    proa_tokenizer *tokenizer;
    proa_error err = {0};
    assert_int_equal(proa_tokenizer_parse(json, sizeof json - 1, "T", &tokenizer, &err), PROA_OK);
    proa_encoder *encoder = proa_encoder_create(tokenizer);
    char text[200];
    memset(text, 'x', sizeof text);
    proa_ids ids = {0};
    assert_int_equal(proa_encode(encoder, text, sizeof text, true, &ids, &err), PROA_ERR_TOO_LONG);
    assert_non_null(strstr(err.text, "too many steps"));
    proa_ids_free(&ids);
    proa_encoder_free(encoder);
    proa_tokenizer_free(tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_files_are_refused),
        cmocka_unit_test(spellings_of_one_file_agree),
        cmocka_unit_test(hostile_patterns_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
