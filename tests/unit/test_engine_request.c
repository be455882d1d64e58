/* test_engine_request.c - what is refused with which words, when a request ends, what its sampler is told. */
#include "engine/request.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

static const int32_t prompt[] = {5, 6, 5, 7};
static const proa_logit_bias good_bias[] = {{1, -100}, {2, 3.5f}};
static const proa_logit_bias foreign_bias[] = {{100, 1}};
static const proa_logit_bias endless_bias[] = {{1, INFINITY}};

static proa_model_config model(void)
{
    return (proa_model_config){.vocab_size = 100, .eos_token_ids = {9, 3}, .eos_count = 2};
}

static proa_engine_request plain(void)
{
    return (proa_engine_request){
        .prompt_ids = prompt,
        .prompt_count = 4,
        .max_new_tokens = 10,
        .top_p = 1,
        .repetition_penalty = 1,
        .top_logprobs = -1,
        .credit = 1,
    };
}

enum { BAD_CASES = 23 };

/* Each has one thing wrong. */
static void make_bad_requests(proa_engine_request *table)
{
    static const int32_t foreign[] = {5, 100}, negative[] = {-1};
    static int32_t longest[20];
    for (int i = 0; i < BAD_CASES; i++)
        table[i] = plain();
    table[0].prompt_count = 0;
    table[1].prompt_ids = longest;
    table[1].prompt_count = 20;
    table[2].prompt_ids = foreign;
    table[2].prompt_count = 2;
    table[3].prompt_ids = negative;
    table[3].prompt_count = 1;
    table[4].max_new_tokens = 0;
    table[5].min_new_tokens = -1;
    table[6].stop_ids = foreign;
    table[6].stop_count = 2;
    table[7].temperature = -0.5f;
    table[8].temperature = NAN;
    table[9].top_p = 0;
    table[10].top_p = 1.5f;
    table[11].min_p = 2;
    table[12].repetition_penalty = 0;
    table[13].frequency_penalty = INFINITY;
    table[14].presence_penalty = NAN;
    table[15].top_logprobs = 21;
    table[16].bias = foreign_bias;
    table[16].bias_count = 1;
    table[17].bias = endless_bias;
    table[17].bias_count = 1;
    table[18].credit = 0;
    for (int i = 19; i < BAD_CASES; i++)
        table[i].output_ids = longest;
    table[19].output_count = -1;
    table[20].output_count = 10;
    table[21].output_count = 16;
    table[21].max_new_tokens = 17;
    table[22].output_ids = foreign;
    table[22].output_count = 2;
}

static void bad_requests_are_refused_with_field_and_value(void **state)
{
    (void)state;
    proa_engine_request table[BAD_CASES];
    static const char *const words[BAD_CASES] = {
        "prompt_count is 0",
        "prompt has 20 tokens, but at most 19",
        "prompt_ids[1] is 100",
        "prompt_ids[0] is -1",
        "max_new_tokens is 0",
        "min_new_tokens is -1",
        "stop_ids[1] is 100",
        "temperature is -0.5",
        "temperature is nan",
        "top_p is 0",
        "top_p is 1.5",
        "min_p is 2",
        "repetition_penalty is 0",
        "frequency_penalty is inf",
        "presence_penalty is nan",
        "top_logprobs is 21",
        "logit_bias[0] is 100",
        "logit_bias of id 1",
        "credit is 0",
        "output_count is -1",
        "output_count is 10, but max_new_tokens is 10",
        "a prompt of 4 tokens and 16 generated before fill the context of 20",
        "output_ids[1] is 100",
    };
    static const proa_status statuses[BAD_CASES] = {[1] = PROA_ERR_TOO_LONG, [21] = PROA_ERR_TOO_LONG};
    make_bad_requests(table);
    proa_model_config config = model();
    for (int i = 0; i < BAD_CASES; i++) {
        proa_request *request = NULL;
        proa_error err = {0};
        proa_status status = proa_request_create(&table[i], &config, 20, &request, &err);
        assert_int_equal(status, statuses[i] != 0 ? statuses[i] : PROA_ERR_INVALID);
        assert_null(request);
        if (strstr(err.text, words[i]) == NULL)
            fail_msg("case %d says: %s", i, err.text);
    }
}

static proa_request *create(const proa_engine_request *asked)
{
    proa_model_config config = model();
    proa_request *request = NULL;
    proa_error err = {0};
    assert_int_equal(proa_request_create(asked, &config, 20, &request, &err), PROA_OK);
    return request;
}

/* Tokens are appended until the request ends; `end` is how, with the last of them. */
static void requests_end_as_asked(void **state)
{
    (void)state;
    static const int32_t stops[] = {40, 8};
    static const struct {
        bool ignore_eos;
        int32_t stop_count, max_new;
        int32_t tokens[20];
        proa_request_end end;
    } table[] = {
        {false, 0, 3, {1, 2, 4, -1}, PROA_REQUEST_FULL},
        {false, 0, 9, {1, 3, -1}, PROA_REQUEST_STOPS},
        {false, 0, 9, {9, -1}, PROA_REQUEST_STOPS},
        {false, 2, 9, {1, 8, -1}, PROA_REQUEST_STOPS},
        {false, 2, 9, {1, 40, -1}, PROA_REQUEST_STOPS},
        {true, 0, 4, {9, 3, 8, 40, -1}, PROA_REQUEST_FULL},
        {true, 2, 4, {9, 3, 8, -1}, PROA_REQUEST_STOPS},
        {false, 0, 3, {1, 2, 3, -1}, PROA_REQUEST_STOPS}, /* an end that comes last is an end */
        {false, 0, 100, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1}, PROA_REQUEST_FULL},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        proa_engine_request asked = plain();
        asked.ignore_eos = table[i].ignore_eos;
        asked.stop_ids = stops;
        asked.stop_count = table[i].stop_count;
        asked.max_new_tokens = table[i].max_new;
        proa_request *request = create(&asked);
        proa_request_end end = PROA_REQUEST_GOES_ON;
        for (int t = 0; table[i].tokens[t] >= 0; t++) {
            assert_int_equal(end, PROA_REQUEST_GOES_ON);
            end = proa_request_append(request, table[i].tokens[t]);
        }
        assert_int_equal(end, table[i].end);
        proa_request_free(request);
    }
}

static void ends_are_banned_below_the_minimum(void **state)
{
    (void)state;
    static const int32_t stops[] = {40};
    proa_sample_params params;
    proa_engine_request asked = plain();
    asked.stop_ids = stops;
    asked.stop_count = 1;
    asked.min_new_tokens = 2;
    proa_request *request = create(&asked);
    proa_request_sample_params(request, &params);
    assert_int_equal(params.banned_count, 3);
    assert_int_equal(params.banned[0], 3);
    assert_int_equal(params.banned[1], 9);
    assert_int_equal(params.banned[2], 40);
    assert_int_equal(params.position, 4);
    assert_int_equal(params.count_count, 0);
    proa_request_append(request, 50);
    proa_request_sample_params(request, &params);
    assert_int_equal(params.banned_count, 3);
    proa_request_append(request, 50);
    proa_request_sample_params(request, &params);
    assert_int_equal(params.banned_count, 0);
    assert_int_equal(params.position, 6);
    proa_request_free(request);

    asked.ignore_eos = true; /* what does not end it need not be banned */
    request = create(&asked);
    proa_request_sample_params(request, &params);
    assert_int_equal(params.banned_count, 1);
    assert_int_equal(params.banned[0], 40);
    proa_request_free(request);
}

static void occurrences_are_counted(void **state)
{
    (void)state;
    proa_sample_params params;
    proa_engine_request asked = plain();
    asked.presence_penalty = 0.5f;
    asked.seed = 77;
    asked.bias = good_bias;
    asked.bias_count = 2;
    proa_request *request = create(&asked);
    static const int32_t output[] = {5, 8, 8, 99, 0};
    for (int i = 0; i < 5; i++)
        proa_request_append(request, output[i]);
    proa_request_sample_params(request, &params);
    static const proa_token_count expected[] = {{5, 2, 1}, {6, 1, 0},  {7, 1, 0},
                                                {8, 0, 2}, {99, 0, 1}, {0, 0, 1}};
    assert_int_equal(params.count_count, 6);
    assert_memory_equal(params.counts, expected, sizeof expected);
    assert_int_equal(params.seed, 77);
    assert_int_equal(params.bias_count, 2);
    assert_memory_equal(params.bias, good_bias, sizeof good_bias);
    assert_ptr_not_equal(params.bias, good_bias);
    proa_request_free(request);
}

/* Earlier output counts as if it had been drawn here: position, penalties, the minimum, the end. */
static void earlier_output_is_output(void **state)
{
    (void)state;
    static const int32_t earlier[] = {7, 8, 8};
    proa_engine_request asked = plain();
    proa_sample_params params, drawn;
    asked.repetition_penalty = 1.5f;
    asked.max_new_tokens = 5;
    asked.min_new_tokens = 4;
    proa_request *whole = create(&asked);
    for (int i = 0; i < 3; i++)
        assert_int_equal(proa_request_append(whole, earlier[i]), PROA_REQUEST_GOES_ON);
    asked.output_ids = earlier;
    asked.output_count = 3;
    proa_request *resumed = create(&asked);
    assert_int_equal(resumed->output_count, 3);
    assert_memory_equal(resumed->tokens, whole->tokens, 7 * sizeof whole->tokens[0]);
    for (int round = 0; round < 2; round++) {
        proa_request_sample_params(whole, &drawn);
        proa_request_sample_params(resumed, &params);
        assert_int_equal(params.position, 7 + round);
        assert_int_equal(params.position, drawn.position);
        assert_int_equal(params.banned_count, drawn.banned_count);
        assert_int_equal(params.banned_count > 0, round == 0);
        assert_int_equal(params.count_count, drawn.count_count);
        assert_memory_equal(params.counts, drawn.counts, (size_t)params.count_count * sizeof *params.counts);
        proa_request_end end = proa_request_append(whole, 5);
        assert_int_equal(proa_request_append(resumed, 5), end);
        assert_int_equal(end, round == 0 ? PROA_REQUEST_GOES_ON : PROA_REQUEST_FULL);
    }
    proa_request_free(whole);
    proa_request_free(resumed);
}

/* Every id of the vocabulary, many times: the table of places neither fills nor loses one. */
static void all_ids_can_be_counted(void **state)
{
    (void)state;
    proa_model_config config = {.vocab_size = 3000};
    proa_engine_request asked = plain();
    asked.max_new_tokens = 9000;
    asked.frequency_penalty = 1;
    proa_request *request = NULL;
    assert_int_equal(proa_request_create(&asked, &config, 10000, &request, NULL), PROA_OK);
    for (int32_t i = 0; i < 9000; i++)
        proa_request_append(request, i * 7 % 3000);
    proa_sample_params params;
    proa_request_sample_params(request, &params);
    assert_int_equal(params.count_count, 3000);
    for (int32_t i = 0; i < 3000; i++)
        assert_int_equal(params.counts[i].output, 3);
    proa_request_free(request);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_requests_are_refused_with_field_and_value),
        cmocka_unit_test(requests_end_as_asked),
        cmocka_unit_test(ends_are_banned_below_the_minimum),
        cmocka_unit_test(occurrences_are_counted),
        cmocka_unit_test(earlier_output_is_output),
        cmocka_unit_test(all_ids_can_be_counted),
    };
    return cmocka_run_group_tests_name("engine_request", tests, NULL, NULL);
}
