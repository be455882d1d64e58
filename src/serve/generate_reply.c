/* generate_reply.c - SGLang's own format: text and output_ids with meta_info; streaming, both are cumulative. */
#include "base/json.h"
#include "serve/reply.h"
#include "serve/sse.h"

#include <string.h>

enum { TOKENS, TOP };

/* [logprob, id, null]: SGLang gives the text only on demand (return_text_in_logprobs). */
static void write_triple(int32_t id, float logprob, proa_buf *out)
{
    proa_buf_append_char(out, '[');
    proa_reply_write_logprob(logprob, out);
    proa_buf_append_format(out, ",%d,null]", id);
}

static void generate_token(const proa_reply *reply, proa_reply_choice *choice, const proa_reply_token *token)
{
    if (!proa_ids_push(&choice->ids, token->id))
        choice->content.failed = true;
    if (reply->params->top_logprobs < 0)
        return;
    proa_reply_next_entry(choice, 2);
    write_triple(token->id, token->logprob, &choice->lists[TOKENS]);
    proa_buf_append_char(&choice->lists[TOP], '[');
    for (int32_t i = 0; i < token->top_count; i++) {
        if (i > 0)
            proa_buf_append_char(&choice->lists[TOP], ',');
        write_triple(token->top_ids[i], token->top_logprobs[i], &choice->lists[TOP]);
    }
    proa_buf_append_char(&choice->lists[TOP], ']');
}

static bool generate_pending(const proa_reply *reply, const proa_reply_choice *choice)
{
    (void)reply;
    (void)choice;
    return true; /* every token has its id to tell */
}

static void write_finish_reason(const proa_reply_choice *c, proa_buf *out)
{
    switch (c->end) {
    case PROA_REPLY_OPEN: proa_buf_append_text(out, "null"); break;
    case PROA_REPLY_STOP:
        proa_buf_append_text(out, "{\"type\":\"stop\",\"matched\":");
        proa_reply_write_matched(c, out);
        proa_buf_append_char(out, '}');
        break;
    case PROA_REPLY_LENGTH:
        proa_buf_append_format(out, "{\"type\":\"length\",\"length\":%d}", c->completion_tokens);
        break;
    }
}

static void write_meta_info(const proa_reply *reply, const proa_reply_choice *c, proa_buf *out)
{
    proa_buf_append_text(out, "\"meta_info\":{\"id\":");
    proa_json_write_string(reply->id, strlen(reply->id), out);
    proa_buf_append_text(out, ",\"finish_reason\":");
    write_finish_reason(c, out);
    proa_buf_append_format(out,
                           ",\"prompt_tokens\":%d,\"completion_tokens\":%d,\"cached_tokens\":%d,"
                           "\"total_retractions\":%d,\"weight_version\":\"default\"",
                           c->prompt_tokens, c->completion_tokens, c->cached_tokens, c->retractions);
    if (reply->params->top_logprobs >= 0)
        proa_buf_append_format(out, ",\"input_token_logprobs\":[],\"output_token_logprobs\":[%s]",
                               proa_buf_text(&c->lists[TOKENS]));
    if (reply->params->top_logprobs > 0)
        proa_buf_append_format(out, ",\"input_top_logprobs\":[],\"output_top_logprobs\":[%s]",
                               proa_buf_text(&c->lists[TOP]));
    if (c->end != PROA_REPLY_OPEN)
        proa_buf_append_format(out, ",\"e2e_latency\":%.6f", c->seconds);
    proa_buf_append_char(out, '}');
}

static void write_choice(const proa_reply *reply, const proa_reply_choice *c, bool with_index, proa_buf *out)
{
    proa_buf_append_text(out, "{\"text\":");
    proa_reply_write_text(&c->content, out);
    proa_buf_append_text(out, ",\"output_ids\":[");
    for (size_t i = 0; i < c->ids.count; i++)
        proa_buf_append_format(out, i > 0 ? ",%d" : "%d", c->ids.data[i]);
    proa_buf_append_text(out, "],");
    write_meta_info(reply, c, out);
    if (with_index)
        proa_buf_append_format(out, ",\"index\":%d", c->index);
    proa_buf_append_char(out, '}');
}

static bool is_list(const proa_reply *reply)
{
    return reply->batch || reply->choice_count > 1;
}

static void generate_chunk(const proa_reply *reply, proa_reply_choice *choice, proa_buf *out)
{
    proa_sse_begin(out);
    write_choice(reply, choice, is_list(reply), out);
    proa_sse_end(out);
}

static void generate_end(const proa_reply *reply, proa_buf *out)
{
    (void)reply;
    proa_sse_done(out);
}

static void generate_whole(const proa_reply *reply, proa_buf *out)
{
    if (is_list(reply))
        proa_buf_append_char(out, '[');
    for (int32_t i = 0; i < reply->choice_count; i++) {
        if (i > 0)
            proa_buf_append_char(out, ',');
        write_choice(reply, &reply->choices[i], false, out);
    }
    if (is_list(reply))
        proa_buf_append_char(out, ']');
}

const proa_reply_format proa_reply_generate = {
    .token = generate_token,
    .pending = generate_pending,
    .chunk = generate_chunk,
    .last = generate_chunk,
    .end = generate_end,
    .cumulative = true,
    .whole = generate_whole,
};
