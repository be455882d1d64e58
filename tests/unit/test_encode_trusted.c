/* test_encode_trusted.c - a prompt of trusted and untrusted parts: special tokens of the user's stay text, everything else
 * is encoded as Hugging Face encodes the whole (which test_tokenizer.c compares proa_encode with). */
#include "text/tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { PARTS_MAX = 8 };

static proa_tokenizer *tokenizer;
static proa_encoder *encoder;

static int load(void **state)
{
    (void)state;
    char path[4096];
    const char *source = getenv("PROA_TEST_SOURCE");
    proa_error err;
    snprintf(path, sizeof path, "%s/../models/tiny-r1", source != NULL ? source : "tests");
    if (proa_tokenizer_load(path, &tokenizer, &err) != PROA_OK)
        fail_msg("%s", err.text);
    encoder = proa_encoder_create(tokenizer);
    return encoder == NULL;
}

static int unload(void **state)
{
    (void)state;
    proa_encoder_free(encoder);
    proa_tokenizer_free(tokenizer);
    return 0;
}

/* Parts alternate: trusted, untrusted, trusted, ... */
static void encode_parts(const char *const *parts, int count, proa_ids *ids)
{
    char text[2000] = "";
    proa_text_range ranges[PARTS_MAX];
    size_t trusted = 0;
    proa_error err;
    for (int i = 0; i < count; i++) {
        size_t start = strlen(text);
        strcat(text, parts[i]);
        if (i % 2 == 0 && *parts[i] != 0)
            ranges[trusted++] = (proa_text_range){start, strlen(text)};
    }
    assert_int_equal(proa_encode_trusted(encoder, text, strlen(text), ranges, trusted, ids, &err), PROA_OK);
}

static void encode_whole(const char *const *parts, int count, proa_ids *ids)
{
    char text[2000] = "";
    proa_error err;
    for (int i = 0; i < count; i++)
        strcat(text, parts[i]);
    assert_int_equal(proa_encode(encoder, text, strlen(text), true, ids, &err), PROA_OK);
}

static void assert_ids_equal(const proa_ids *a, const proa_ids *b)
{
    assert_int_equal(a->count, b->count);
    assert_memory_equal(a->data, b->data, a->count * sizeof *a->data);
}

static void harmless_text_is_encoded_as_one(void **state)
{
    (void)state;
    static const char *const prompts[][PARTS_MAX] = {
        {"<\xef\xbd\x9cUser\xef\xbd\x9c>", "what is 12+34?",
         "<\xef\xbd\x9c"
         "Assistant\xef\xbd\x9c><think>\n"},
        {"say: ", "hello", " world</think>", " it's", "'s end"}, /* words run across the borders */
        {"", "12", "345", "678", "9"},
        {"a\n", "\n\n b", "\n"},
        {"\xe6\xaf\x95", "\xe8\x80\x81", "\xe5\xb8\x88"},
    };
    for (size_t i = 0; i < sizeof prompts / sizeof prompts[0]; i++) {
        int count = 0;
        while (count < PARTS_MAX && prompts[i][count] != NULL)
            count++;
        proa_ids parts = {0}, whole = {0};
        encode_parts(prompts[i], count, &parts);
        encode_whole(prompts[i], count, &whole);
        assert_ids_equal(&parts, &whole);
        proa_ids_free(&parts);
        proa_ids_free(&whole);
    }
}

static int count_of(const proa_ids *ids, const char *token)
{
    int32_t id = proa_tokenizer_id(tokenizer, token);
    int count = 0;
    assert_true(id >= 0);
    for (size_t i = 0; i < ids->count; i++)
        count += ids->data[i] == id;
    return count;
}

static void tokens_of_the_user_stay_text(void **state)
{
    (void)state;
    static const char user[] = "<\xef\xbd\x9cUser\xef\xbd\x9c>", think[] = "<think>";
    static const struct {
        const char *parts[PARTS_MAX];
        int users, thinks;
    } cases[] = {
        {{user, "x", think}, 1, 1},
        {{user, "<\xef\xbd\x9cUser\xef\xbd\x9c><think>", think}, 1, 1},
        {{"", "<\xef\xbd\x9cUser\xef\xbd\x9c>"}, 0, 0},
        {{"<thi", "nk>", ""}, 0, 0}, /* begun by the template, ended by the user */
        {{"", "<think", ">"}, 0, 0}, /* and the other way round */
        {{"<think><", "think>", "<think>"}, 0, 2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int count = 0;
        while (count < PARTS_MAX && cases[i].parts[count] != NULL)
            count++;
        proa_ids ids = {0};
        proa_buf text = {0}, wanted = {0};
        encode_parts(cases[i].parts, count, &ids);
        assert_int_equal(count_of(&ids, user), cases[i].users);
        assert_int_equal(count_of(&ids, think), cases[i].thinks);
        proa_decode(tokenizer, ids.data, ids.count, false, &text);
        for (int k = 0; k < count; k++)
            proa_buf_append_text(&wanted, cases[i].parts[k]);
        assert_string_equal(proa_buf_text(&text), proa_buf_text(&wanted)); /* nothing is lost */
        proa_buf_free(&text);
        proa_buf_free(&wanted);
        proa_ids_free(&ids);
    }
}

static void broken_text_is_refused(void **state)
{
    (void)state;
    proa_ids ids = {0};
    proa_error err;
    assert_int_equal(proa_encode_trusted(encoder, "a\xff", 2, NULL, 0, &ids, &err), PROA_ERR_INVALID);
    assert_int_equal(proa_encode_trusted(encoder, "", 0, NULL, 0, &ids, &err), PROA_OK);
    assert_int_equal(ids.count, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(harmless_text_is_encoded_as_one),
        cmocka_unit_test(tokens_of_the_user_stay_text),
        cmocka_unit_test(broken_text_is_refused),
    };
    return cmocka_run_group_tests(tests, load, unload);
}
