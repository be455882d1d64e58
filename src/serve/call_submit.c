/* call_submit.c - from a prepared request to requests of the backend, one a choice. */
#include "base/clock.h"
#include "base/random.h"
#include "serve/call_internal.h"

#include <stdlib.h>

static proa_engine_request engine_request(const proa_call *c, int32_t index)
{
    const proa_api_params *p = &c->job->request->params;
    const proa_ids *prompt = &c->job->prompts[index / p->n];
    uint32_t w[4];
    proa_random_philox(c->server->seed_key[0], c->server->seed_count++, c->server->seed_key[1], w);
    uint64_t seed = p->has_seed ? p->seed + (uint64_t)(index % p->n) : (uint64_t)w[0] << 32 | w[1];
    int32_t left = c->server->model->limits.context_length - (int32_t)prompt->count;
    return (proa_engine_request){
        .prompt_ids = prompt->data,
        .prompt_count = (int32_t)prompt->count,
        .max_new_tokens = p->max_tokens > 0 ? p->max_tokens : left,
        .min_new_tokens = p->min_tokens,
        .ignore_eos = p->ignore_eos,
        .stop_ids = p->stop_ids,
        .stop_count = p->stop_id_count,
        .temperature = p->temperature,
        .top_k = p->top_k,
        .top_p = p->top_p,
        .min_p = p->min_p,
        .repetition_penalty = p->repetition_penalty,
        .frequency_penalty = p->frequency_penalty,
        .presence_penalty = p->presence_penalty,
        .seed = seed,
        .bias = p->bias,
        .bias_count = p->bias_count,
        .top_logprobs = p->top_logprobs,
        .credit = PROA_STREAM_WINDOW,
        .sink = proa_stream_sink(&c->lanes[index].stream),
    };
}

void proa_call_submit(proa_call *c)
{
    proa_server *s = c->server;
    while (c->submitted < c->lane_count && !c->failed) {
        proa_lane *l = &c->lanes[c->submitted];
        proa_engine_request request = engine_request(c, c->submitted);
        proa_error err = {0};
        proa_status status = s->backend.submit(s->backend.context, &request, &l->id, &err);
        if (status == PROA_ERR_OVERLOADED && c->open > 0)
            return;
        if (status != PROA_OK) {
            proa_api_error error;
            proa_api_error_from(&error, &err, NULL);
            proa_call_fail(c, &error);
            return;
        }
        l->submitted = true;
        c->submitted++;
        c->open++;
        s->metrics.requests += !c->health;
    }
}

static const proa_reply_format *format_of(proa_api api)
{
    return api == PROA_API_CHAT          ? &proa_reply_chat
           : api == PROA_API_COMPLETIONS ? &proa_reply_completions
                                         : &proa_reply_generate;
}

static void set_up_reply(proa_call *c)
{
    const proa_api_request *r = c->job->request;
    c->answer_options = (proa_answer_options){
        .tokenizer = c->server->model->tokenizer,
        .stops = &c->job->stops,
        .include_stop = r->params.include_stop,
        .skip_special_tokens = r->params.skip_special_tokens,
        .min_tokens = r->params.min_tokens,
        .reasoning = c->job->reasoning.kind,
        .thinking = c->job->reasoning.thinking,
    };
    c->reply = (proa_reply){
        .format = format_of(r->api),
        .params = &r->params,
        .tokenizer = c->server->model->tokenizer,
        .id = r->rid != NULL ? r->rid : c->id,
        .model = proa_server_model_name(c->server),
        .created = proa_clock_unix_seconds(),
        .batch = r->batch,
        .choices = c->choices,
        .choice_count = c->lane_count,
    };
}

static bool set_up_lane(proa_call *c, int32_t index)
{
    const proa_api_request *r = c->job->request;
    proa_lane *l = &c->lanes[index];
    int32_t prompt = index / r->params.n;
    l->call = c;
    l->choice = &c->choices[index];
    l->choice->index = index;
    l->choice->matched_id = -1;
    l->choice->prompt_tokens = (int32_t)c->job->prompts[prompt].count;
    l->choice->counts_prompt = index % r->params.n == 0;
    proa_answer_init(&l->answer, &c->answer_options);
    if (c->job->echoes != NULL)
        proa_buf_append(&l->choice->content, proa_buf_text(&c->job->echoes[prompt]),
                        c->job->echoes[prompt].length);
    return proa_stream_init(&l->stream, c->server->stream_box, r->params.top_logprobs) &&
           !proa_reply_choice_failed(l->choice);
}

void proa_call_begin(proa_call *c)
{
    const proa_api_request *r = c->job->request;
    proa_server *s = c->server;
    int32_t count = r->prompt_count * r->params.n;
    if (s->stream_count + count > s->options.streams_max) {
        proa_api_error error;
        proa_api_error_set(&error, 503, NULL, "overloaded",
                           "%d generations are under way, at most %d are taken: try again later",
                           s->stream_count, s->options.streams_max);
        proa_call_fail(c, &error);
        return;
    }
    c->lanes = calloc((size_t)count, sizeof *c->lanes);
    c->choices = calloc((size_t)count, sizeof *c->choices);
    bool good = c->lanes != NULL && c->choices != NULL;
    if (good) {
        c->lane_count = count;
        s->stream_count += count;
        set_up_reply(c);
    }
    for (int32_t i = 0; good && i < count; i++)
        good = set_up_lane(c, i);
    if (good)
        proa_call_submit(c);
    else
        proa_call_fail_memory(c);
}
