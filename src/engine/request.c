/* request.c - checks, copies and counts. Stop strings are not known here: they need text, which serve/ has. */
#include "engine/request.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- checks ---- */

static proa_status check_ids(const int32_t *ids, int32_t count, const char *what, int32_t vocab,
                             proa_error *err)
{
    for (int32_t i = 0; i < count; i++) {
        if (ids[i] < 0 || ids[i] >= vocab)
            return proa_error_set(err, PROA_ERR_INVALID,
                                  "%s[%d] is %d, but the model's ids are 0 to %d: use its own tokenizer",
                                  what, i, ids[i], vocab - 1);
    }
    return PROA_OK;
}

typedef struct range_check {
    const char *name;
    float value;
    float least, most;
    bool open; /* the least itself is not allowed */
} range_check;

static proa_status check_ranges(const proa_engine_request *asked, proa_error *err)
{
    const range_check table[] = {
        {"temperature", asked->temperature, 0, 1e6f, false},
        {"top_p", asked->top_p, 0, 1, true},
        {"min_p", asked->min_p, 0, 1, false},
        {"repetition_penalty", asked->repetition_penalty, 0, 1e6f, true},
        {"frequency_penalty", asked->frequency_penalty, -1e6f, 1e6f, false},
        {"presence_penalty", asked->presence_penalty, -1e6f, 1e6f, false},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        const range_check *c = &table[i];
        bool good = c->value >= c->least && c->value <= c->most && !(c->open && c->value <= c->least);
        if (!good) /* also when it is not a number */
            return proa_error_set(err, PROA_ERR_INVALID, "%s is %g; it must be %s %g and at most %g", c->name,
                                  (double)c->value, c->open ? "above" : "at least", (double)c->least,
                                  (double)c->most);
    }
    if (asked->top_logprobs < -1 || asked->top_logprobs > PROA_SAMPLE_MAX_TOP_LOGPROBS)
        return proa_error_set(err, PROA_ERR_INVALID, "top_logprobs is %d; it must be -1 (none) to %d",
                              asked->top_logprobs, PROA_SAMPLE_MAX_TOP_LOGPROBS);
    return PROA_OK;
}

static proa_status check_counts(const proa_engine_request *asked, int32_t context_length, proa_error *err)
{
    const struct {
        const char *name;
        int32_t value, least;
    } table[] = {
        {"prompt_count", asked->prompt_count, 1},
        {"max_new_tokens", asked->max_new_tokens, 1},
        {"output_count", asked->output_count, 0},
        {"min_new_tokens", asked->min_new_tokens, 0},
        {"stop_count", asked->stop_count, 0},
        {"bias_count", asked->bias_count, 0},
        {"credit", asked->credit, 1},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (table[i].value < table[i].least)
            return proa_error_set(err, PROA_ERR_INVALID, "%s is %d; it must be at least %d", table[i].name,
                                  table[i].value, table[i].least);
    }
    if (asked->prompt_count >= context_length)
        return proa_error_set(
            err, PROA_ERR_TOO_LONG,
            "the prompt has %d tokens, but at most %d fit here (the smaller of "
            "--context-length and --max-total-tokens, less one for the answer): shorten the "
            "prompt or start the server with larger limits",
            asked->prompt_count, context_length - 1);
    if (asked->output_count >= asked->max_new_tokens)
        return proa_error_set(err, PROA_ERR_INVALID,
                              "output_count is %d, but max_new_tokens is %d: nothing is left to generate",
                              asked->output_count, asked->max_new_tokens);
    if (asked->output_count >= context_length - asked->prompt_count)
        return proa_error_set(
            err, PROA_ERR_TOO_LONG,
            "a prompt of %d tokens and %d generated before fill the context of %d (the smaller "
            "of --context-length and --max-total-tokens): nothing is left to generate",
            asked->prompt_count, asked->output_count, context_length);
    return PROA_OK;
}

static proa_status check(const proa_engine_request *asked, const proa_model_config *config,
                         int32_t context_length, proa_error *err)
{
    proa_status status = check_counts(asked, context_length, err);
    if (status == PROA_OK)
        status = check_ranges(asked, err);
    if (status == PROA_OK)
        status = check_ids(asked->prompt_ids, asked->prompt_count, "prompt_ids", config->vocab_size, err);
    if (status == PROA_OK)
        status = check_ids(asked->output_ids, asked->output_count, "output_ids", config->vocab_size, err);
    if (status == PROA_OK)
        status = check_ids(asked->stop_ids, asked->stop_count, "stop_ids", config->vocab_size, err);
    for (int32_t i = 0; i < asked->bias_count && status == PROA_OK; i++) {
        status = check_ids(&asked->bias[i].id, 1, "logit_bias", config->vocab_size, err);
        if (status == PROA_OK && !isfinite(asked->bias[i].bias))
            status = proa_error_set(err, PROA_ERR_INVALID, "logit_bias of id %d is not a finite number",
                                    asked->bias[i].id);
    }
    return status;
}

/* ---- copies ---- */

static int ascending(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return x < y ? -1 : x > y;
}

/* The place of `id` in the table, or the empty place where it belongs. */
static int32_t *place_of(const proa_request *r, int32_t id)
{
    uint32_t i = (uint32_t)id * 0x9E3779B9u;
    i ^= i >> 16;
    for (;; i++) {
        int32_t *place = &r->places[i & r->place_mask];
        if (*place == 0 || r->counts[*place - 1].id == id)
            return place;
    }
}

static proa_token_count *count_of(proa_request *r, int32_t id)
{
    int32_t *place = place_of(r, id);
    if (*place == 0) {
        r->counts[r->count_count] = (proa_token_count){.id = id};
        *place = ++r->count_count;
    }
    return &r->counts[*place - 1];
}

static bool has_penalty(const proa_engine_request *asked)
{
    return asked->repetition_penalty != 1 || asked->frequency_penalty != 0 || asked->presence_penalty != 0;
}

static bool start_counts(proa_request *r, int32_t vocab)
{
    int64_t most = (int64_t)r->prompt_count + r->max_new_tokens;
    if (most > vocab)
        most = vocab;
    uint32_t places = 16;
    while (places < 2 * (uint64_t)most)
        places *= 2;
    r->counts = malloc((size_t)most * sizeof *r->counts);
    r->places = calloc(places, sizeof *r->places);
    r->place_mask = places - 1;
    if (r->counts == NULL || r->places == NULL)
        return false;
    for (int32_t i = 0; i < r->prompt_count; i++)
        count_of(r, r->tokens[i])->prompt++;
    for (int32_t i = 0; i < r->output_count; i++)
        count_of(r, r->tokens[r->prompt_count + i])->output++;
    return true;
}

static bool copy_lists(proa_request *r, const proa_engine_request *asked, const proa_model_config *config)
{
    r->tokens = malloc(((size_t)r->prompt_count + (size_t)r->max_new_tokens) * sizeof *r->tokens);
    r->ends = malloc(((size_t)asked->stop_count + PROA_MAX_EOS) * sizeof *r->ends);
    r->bias = malloc(((size_t)asked->bias_count + 1) * sizeof *r->bias);
    if (r->tokens == NULL || r->ends == NULL || r->bias == NULL)
        return false;
    memcpy(r->tokens, asked->prompt_ids, (size_t)r->prompt_count * sizeof *r->tokens);
    for (int32_t i = 0; i < r->output_count; i++)
        r->tokens[r->prompt_count + i] = asked->output_ids[i];
    for (int32_t i = 0; i < asked->bias_count; i++)
        r->bias[i] = asked->bias[i];
    for (int32_t i = 0; i < asked->stop_count; i++)
        r->ends[r->end_count++] = asked->stop_ids[i];
    for (int32_t i = 0; i < config->eos_count && !asked->ignore_eos; i++) {
        if (config->eos_token_ids[i] >= 0 && config->eos_token_ids[i] < config->vocab_size)
            r->ends[r->end_count++] = config->eos_token_ids[i];
    }
    qsort(r->ends, (size_t)r->end_count, sizeof *r->ends, ascending);
    return !has_penalty(asked) || start_counts(r, config->vocab_size);
}

proa_status proa_request_create(const proa_engine_request *asked, const proa_model_config *config,
                                int32_t context_length, proa_request **request, proa_error *err)
{
    proa_status status = check(asked, config, context_length, err);
    if (status != PROA_OK)
        return status;
    proa_request *r = calloc(1, sizeof *r);
    if (r == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "out of memory for a request");
    int32_t left = context_length - asked->prompt_count;
    r->prompt_count = asked->prompt_count;
    r->output_count = asked->output_count;
    r->max_new_tokens = asked->max_new_tokens < left ? asked->max_new_tokens : left;
    r->min_new_tokens = asked->min_new_tokens;
    r->credit = asked->credit;
    r->sink = asked->sink;
    if (!copy_lists(r, asked, config)) {
        proa_request_free(r);
        return proa_error_set(err, PROA_ERR_MEMORY, "out of memory for a request of %d + %d tokens",
                              asked->prompt_count, asked->max_new_tokens);
    }
    r->params = (proa_sample_params){
        .temperature = asked->temperature,
        .top_k = asked->top_k,
        .top_p = asked->top_p,
        .min_p = asked->min_p,
        .repetition_penalty = asked->repetition_penalty,
        .frequency_penalty = asked->frequency_penalty,
        .presence_penalty = asked->presence_penalty,
        .seed = asked->seed,
        .bias = r->bias,
        .bias_count = asked->bias_count,
        .top_logprobs = asked->top_logprobs,
    };
    *request = r;
    return PROA_OK;
}

void proa_request_free(proa_request *r)
{
    if (r == NULL)
        return;
    free(r->tokens);
    free(r->ends);
    free(r->bias);
    free(r->counts);
    free(r->places);
    free(r);
}

/* ---- tokens ---- */

void proa_request_sample_params(const proa_request *r, proa_sample_params *params)
{
    *params = r->params;
    params->position = (int64_t)r->prompt_count + r->output_count;
    params->counts = r->counts;
    params->count_count = r->count_count;
    if (r->output_count < r->min_new_tokens) {
        params->banned = r->ends;
        params->banned_count = r->end_count;
    }
}

proa_request_end proa_request_append(proa_request *r, int32_t token)
{
    PROA_ASSERT(r->output_count < r->max_new_tokens);
    r->tokens[r->prompt_count + r->output_count++] = token;
    if (r->counts != NULL)
        count_of(r, token)->output++;
    /* below min_new_tokens the ends are banned; one that is drawn all the same was all that the logits left */
    if (bsearch(&token, r->ends, (size_t)r->end_count, sizeof *r->ends, ascending) != NULL)
        return PROA_REQUEST_STOPS;
    return r->output_count == r->max_new_tokens ? PROA_REQUEST_FULL : PROA_REQUEST_GOES_ON;
}
