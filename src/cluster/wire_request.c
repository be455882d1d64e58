/* wire_request.c - messages of one request: SUBMIT, CANCEL, GRANT, TOKENS, FINISH, TAKEN.
 *
 * Ranges of sampling parameters are the engine's to refuse, with its own words, so that a request with a bad one fails alone
 * and not the link; here they are only finite numbers.
 */
#include "cluster/wire_internal.h"

#include <inttypes.h>

static void put_bias(proa_buf *out, const proa_engine_request *r)
{
    proa_put_u32(out, (uint32_t)r->bias_count);
    for (int32_t i = 0; i < r->bias_count; i++) {
        proa_put_i32(out, r->bias[i].id);
        proa_put_f32(out, r->bias[i].bias);
    }
}

static void put_request(proa_buf *out, const proa_engine_request *r)
{
    PROA_ASSERT(r->prompt_count >= 0 && r->prompt_count <= PROA_WIRE_PROMPT_MAX);
    PROA_ASSERT(r->output_count >= 0 && r->output_count <= PROA_WIRE_PROMPT_MAX);
    PROA_ASSERT(r->stop_count >= 0 && r->stop_count <= PROA_WIRE_STOPS_MAX);
    PROA_ASSERT(r->bias_count >= 0 && r->bias_count <= PROA_WIRE_BIAS_MAX);
    proa_put_u32(out, (uint32_t)r->prompt_count);
    proa_wire_put_i32s(out, r->prompt_ids, (uint32_t)r->prompt_count);
    proa_put_u32(out, (uint32_t)r->output_count);
    proa_wire_put_i32s(out, r->output_ids, (uint32_t)r->output_count);
    proa_put_i32(out, r->max_new_tokens);
    proa_put_i32(out, r->min_new_tokens);
    proa_wire_put_bool(out, r->ignore_eos);
    proa_put_u32(out, (uint32_t)r->stop_count);
    proa_wire_put_i32s(out, r->stop_ids, (uint32_t)r->stop_count);
    proa_put_f32(out, r->temperature);
    proa_put_i32(out, r->top_k);
    proa_put_f32(out, r->top_p);
    proa_put_f32(out, r->min_p);
    proa_put_f32(out, r->repetition_penalty);
    proa_put_f32(out, r->frequency_penalty);
    proa_put_f32(out, r->presence_penalty);
    proa_put_u64(out, r->seed);
    put_bias(out, r);
    proa_put_i32(out, r->top_logprobs);
    proa_put_i32(out, r->credit);
}

void proa_wire_put_submit(proa_buf *out, const proa_wire_submit *m)
{
    proa_put_u64(out, m->id);
    proa_put_u64(out, m->epoch);
    proa_put_u8(out, m->leg);
    proa_put_u64(out, m->room);
    proa_put_u64(out, m->peer_instance);
    proa_put_u64(out, m->peer_epoch);
    proa_put_text(out, m->bootstrap);
    proa_put_u32(out, m->dp_rank);
    put_request(out, &m->request);
}

/* Who the other worker is: said for the legs of a hand-off, and not for a combined one. */
static void get_peer(proa_wire_in *in, proa_wire_submit *m)
{
    bool apart = m->leg != PROA_LEG_COMBINED;
    const struct {
        const char *field;
        uint64_t *value;
    } table[] = {{"room", &m->room}, {"peer_instance", &m->peer_instance}, {"peer_epoch", &m->peer_epoch}};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        uint64_t value = proa_wire_in_u64(in, table[i].field);
        if ((value != 0) != apart)
            proa_wire_refuse(in, table[i].field, "is %" PRIx64 ", it must %sbe 0 for leg %u", value,
                             apart ? "not " : "", m->leg);
        *table[i].value = value;
    }
    proa_wire_in_address(in, "bootstrap", m->leg == PROA_LEG_DECODE, m->bootstrap, sizeof m->bootstrap);
}

static void get_bias(proa_wire_in *in, proa_engine_request *r)
{
    uint32_t count = proa_wire_in_count(in, "bias_count", PROA_WIRE_BIAS_MAX, 8);
    proa_logit_bias *bias = proa_wire_in_array(in, "bias", count, sizeof *bias);
    for (uint32_t i = 0; i < count && !in->failed; i++) {
        bias[i].id = proa_wire_in_i32(in, "bias.id", 0);
        bias[i].bias = proa_wire_in_finite(in, "bias.bias");
    }
    r->bias = bias;
    r->bias_count = (int32_t)count;
}

static void get_request(proa_wire_in *in, proa_engine_request *r)
{
    r->prompt_count = (int32_t)proa_wire_in_count(in, "prompt_count", PROA_WIRE_PROMPT_MAX, 4);
    r->prompt_ids = proa_wire_in_i32s(in, "prompt_ids", (uint32_t)r->prompt_count, 0);
    if (r->prompt_count < 1)
        proa_wire_refuse(in, "prompt_count", "is 0, a request has at least one token");
    r->output_count = (int32_t)proa_wire_in_count(in, "output_count", PROA_WIRE_PROMPT_MAX, 4);
    r->output_ids = proa_wire_in_i32s(in, "output_ids", (uint32_t)r->output_count, 0);
    r->max_new_tokens = proa_wire_in_i32(in, "max_new_tokens", 1);
    if (r->output_count >= r->max_new_tokens)
        proa_wire_refuse(in, "output_count", "is %" PRId32 ", which leaves none of max_new_tokens %" PRId32,
                         r->output_count, r->max_new_tokens);
    r->min_new_tokens = proa_wire_in_i32(in, "min_new_tokens", 0);
    r->ignore_eos = proa_wire_in_bool(in, "ignore_eos");
    r->stop_count = (int32_t)proa_wire_in_count(in, "stop_count", PROA_WIRE_STOPS_MAX, 4);
    r->stop_ids = proa_wire_in_i32s(in, "stop_ids", (uint32_t)r->stop_count, 0);
    r->temperature = proa_wire_in_finite(in, "temperature");
    r->top_k = proa_wire_in_i32(in, "top_k", INT32_MIN);
    r->top_p = proa_wire_in_finite(in, "top_p");
    r->min_p = proa_wire_in_finite(in, "min_p");
    r->repetition_penalty = proa_wire_in_finite(in, "repetition_penalty");
    r->frequency_penalty = proa_wire_in_finite(in, "frequency_penalty");
    r->presence_penalty = proa_wire_in_finite(in, "presence_penalty");
    r->seed = proa_wire_in_u64(in, "seed");
    get_bias(in, r);
    r->top_logprobs = proa_wire_in_i32(in, "top_logprobs", -1);
    if (r->top_logprobs > PROA_SAMPLE_MAX_TOP_LOGPROBS)
        proa_wire_refuse(in, "top_logprobs", "is %" PRId32 ", it must be at most %d", r->top_logprobs,
                         PROA_SAMPLE_MAX_TOP_LOGPROBS);
    r->credit = proa_wire_in_i32(in, "credit", 1);
}

bool proa_wire_get_submit(const void *body, size_t length, proa_arena *arena, proa_wire_submit *m,
                          proa_error *err)
{
    proa_wire_in in = proa_wire_in_of(body, length, "SUBMIT", arena, err);
    *m = (proa_wire_submit){0};
    m->id = proa_wire_in_u64(&in, "id");
    m->epoch = proa_wire_in_nonzero(&in, "epoch");
    m->leg = proa_wire_in_u8(&in, "leg", PROA_LEG_DECODE);
    get_peer(&in, m);
    m->dp_rank = proa_wire_in_u32(&in, "dp_rank");
    get_request(&in, &m->request);
    return proa_wire_in_done(&in);
}

void proa_wire_put_cancel(proa_buf *out, const proa_wire_cancel *m)
{
    proa_put_u64(out, m->id);
}

bool proa_wire_get_cancel(const void *body, size_t length, proa_wire_cancel *m, proa_error *err)
{
    proa_wire_in in = proa_wire_in_of(body, length, "CANCEL", NULL, err);
    m->id = proa_wire_in_u64(&in, "id");
    return proa_wire_in_done(&in);
}

void proa_wire_put_grant(proa_buf *out, const proa_wire_grant *m)
{
    proa_put_u64(out, m->id);
    proa_put_u32(out, m->tokens);
}

bool proa_wire_get_grant(const void *body, size_t length, proa_wire_grant *m, proa_error *err)
{
    proa_wire_in in = proa_wire_in_of(body, length, "GRANT", NULL, err);
    m->id = proa_wire_in_u64(&in, "id");
    m->tokens = proa_wire_in_u32(&in, "tokens");
    if (m->tokens < 1 || m->tokens > INT32_MAX)
        proa_wire_refuse(&in, "tokens", "is %" PRIu32 ", it must be 1 to %d", m->tokens, INT32_MAX);
    return proa_wire_in_done(&in);
}

void proa_wire_put_tokens(proa_buf *out, const proa_wire_tokens *m)
{
    PROA_ASSERT(m->count >= 1 && m->count <= PROA_WIRE_TOKENS_MAX);
    proa_put_u64(out, m->id);
    proa_put_u32(out, m->count);
    for (uint32_t i = 0; i < m->count; i++)
        proa_wire_put_sample(out, &m->tokens[i]);
    proa_wire_put_bool(out, m->stop);
}

bool proa_wire_get_tokens(const void *body, size_t length, proa_arena *arena, proa_wire_tokens *m,
                          proa_error *err)
{
    proa_wire_in in = proa_wire_in_of(body, length, "TOKENS", arena, err);
    m->id = proa_wire_in_u64(&in, "id");
    m->count = proa_wire_in_count(&in, "count", PROA_WIRE_TOKENS_MAX, PROA_WIRE_SAMPLE_BYTES_MIN);
    if (m->count == 0)
        proa_wire_refuse(&in, "count", "is 0");
    proa_sample_result *tokens = proa_wire_in_array(&in, "tokens", m->count, sizeof *tokens);
    for (uint32_t i = 0; i < m->count && !in.failed; i++)
        proa_wire_in_sample(&in, "tokens", &tokens[i]);
    m->tokens = tokens;
    m->stop = proa_wire_in_bool(&in, "stop");
    return proa_wire_in_done(&in);
}

void proa_wire_put_finish(proa_buf *out, const proa_wire_finish *m)
{
    const proa_engine_finish *f = &m->finish;
    proa_put_u64(out, m->id);
    proa_put_u8(out, (uint8_t)f->reason);
    proa_put_i32(out, f->matched);
    proa_put_i32(out, f->usage.prompt_tokens);
    proa_put_i32(out, f->usage.cached_tokens);
    proa_put_i32(out, f->usage.output_tokens);
    proa_put_i32(out, f->usage.retractions);
    proa_wire_put_error(out, &f->error);
    proa_put_u64(out, m->blame);
}

bool proa_wire_get_finish(const void *body, size_t length, proa_wire_finish *m, proa_error *err)
{
    proa_wire_in in = proa_wire_in_of(body, length, "FINISH", NULL, err);
    proa_engine_finish *f = &m->finish;
    *m = (proa_wire_finish){0};
    m->id = proa_wire_in_u64(&in, "id");
    f->reason = (proa_finish_reason)proa_wire_in_u8(&in, "reason", PROA_FINISH_ABORT);
    f->matched = proa_wire_in_i32(&in, "matched", -1);
    f->usage.prompt_tokens = proa_wire_in_i32(&in, "usage.prompt_tokens", 0);
    f->usage.cached_tokens = proa_wire_in_i32(&in, "usage.cached_tokens", 0);
    f->usage.output_tokens = proa_wire_in_i32(&in, "usage.output_tokens", 0);
    f->usage.retractions = proa_wire_in_i32(&in, "usage.retractions", 0);
    proa_wire_in_error(&in, "error", &f->error);
    if ((f->reason == PROA_FINISH_ABORT) != proa_failed(f->error.status))
        proa_wire_refuse(&in, "error", "has the status %d (%s), which does not go with reason %d",
                         f->error.status, proa_status_name(f->error.status), f->reason);
    m->blame = proa_wire_in_u64(&in, "blame");
    return proa_wire_in_done(&in);
}

void proa_wire_put_taken(proa_buf *out, const proa_wire_taken *m)
{
    proa_put_u64(out, m->sequence);
}

bool proa_wire_get_taken(const void *body, size_t length, proa_wire_taken *m, proa_error *err)
{
    proa_wire_in in = proa_wire_in_of(body, length, "TAKEN", NULL, err);
    m->sequence = proa_wire_in_nonzero(&in, "sequence");
    return proa_wire_in_done(&in);
}
