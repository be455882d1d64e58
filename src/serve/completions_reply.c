/* completions_reply.c - text_completion. */
#include "base/json.h"
#include "serve/reply.h"
#include "serve/sse.h"

#include <string.h>

enum { TOKENS, LOGPROBS, TOP, OFFSETS };

static size_t count_characters(const char *text, size_t length)
{
    size_t count = 0;
    for (size_t i = 0; i < length; i++)
        count += ((unsigned char)text[i] & 0xc0) != 0x80;
    return count;
}

static void write_pair(const proa_reply *reply, int32_t id, float logprob, bool first, proa_buf *out)
{
    if (!first)
        proa_buf_append_char(out, ',');
    proa_reply_write_token(reply, id, out);
    proa_buf_append_char(out, ':');
    proa_reply_write_logprob(logprob, out);
}

static void completions_token(const proa_reply *reply, proa_reply_choice *choice,
                              const proa_reply_token *token)
{
    if (reply->params->top_logprobs < 0)
        return;
    proa_reply_next_entry(choice, PROA_REPLY_LISTS);
    proa_buf *lists = choice->lists;
    proa_reply_write_token(reply, token->id, &lists[TOKENS]);
    proa_reply_write_logprob(token->logprob, &lists[LOGPROBS]);
    bool drawn = false; /* the drawn token stands in the map even when it is not among the best */
    proa_buf_append_char(&lists[TOP], '{');
    for (int32_t i = 0; i < token->top_count; i++) {
        write_pair(reply, token->top_ids[i], token->top_logprobs[i], i == 0, &lists[TOP]);
        drawn = drawn || token->top_ids[i] == token->id;
    }
    if (!drawn)
        write_pair(reply, token->id, token->logprob, token->top_count == 0, &lists[TOP]);
    proa_buf_append_char(&lists[TOP], '}');
    proa_buf_append_format(&lists[OFFSETS], "%zu", choice->text_offset);
    size_t length = 0;
    const char *bytes = proa_tokenizer_bytes(reply->tokenizer, token->id, &length);
    choice->text_offset += count_characters(bytes, length);
}

static bool completions_pending(const proa_reply *reply, const proa_reply_choice *choice)
{
    (void)reply;
    return choice->content.length > 0 || choice->list_count > 0;
}

static void write_head(const proa_reply *reply, proa_buf *out)
{
    proa_buf_append_text(out, "{\"id\":\"cmpl-");
    proa_buf_append_text(out, reply->id);
    proa_buf_append_format(
        out, "\",\"object\":\"text_completion\",\"created\":%lld,\"model\":", (long long)reply->created);
    proa_json_write_string(reply->model, strlen(reply->model), out);
}

static void write_choice(const proa_reply *reply, const proa_reply_choice *c, proa_buf *out)
{
    proa_buf_append_format(out, "{\"index\":%d,\"text\":", c->index);
    proa_reply_write_text(&c->content, out);
    if (reply->params->top_logprobs < 0 || c->list_count == 0)
        proa_buf_append_text(out, ",\"logprobs\":null");
    else
        proa_buf_append_format(out,
                               ",\"logprobs\":{\"tokens\":[%s],\"token_logprobs\":[%s],"
                               "\"top_logprobs\":[%s],\"text_offset\":[%s]}",
                               proa_buf_text(&c->lists[TOKENS]), proa_buf_text(&c->lists[LOGPROBS]),
                               proa_buf_text(&c->lists[TOP]), proa_buf_text(&c->lists[OFFSETS]));
    proa_buf_append_text(out, ",\"finish_reason\":");
    proa_reply_write_end(c, out);
    proa_buf_append_text(out, ",\"matched_stop\":");
    proa_reply_write_matched(c, out);
    proa_buf_append_char(out, '}');
}

/* Choices carry their end in the last chunk: its text is empty then. */
static void completions_chunk(const proa_reply *reply, proa_reply_choice *choice, proa_buf *out)
{
    proa_sse_begin(out);
    write_head(reply, out);
    proa_buf_append_text(out, ",\"choices\":[");
    write_choice(reply, choice, out);
    proa_buf_append_char(out, ']');
    if (reply->params->continuous_usage)
        proa_reply_write_usage(reply, out);
    else if (reply->params->include_usage)
        proa_buf_append_text(out, ",\"usage\":null");
    proa_buf_append_char(out, '}');
    proa_sse_end(out);
    proa_reply_clear(choice);
}

static void completions_end(const proa_reply *reply, proa_buf *out)
{
    if (reply->params->include_usage) {
        proa_sse_begin(out);
        write_head(reply, out);
        proa_buf_append_text(out, ",\"choices\":[]");
        proa_reply_write_usage(reply, out);
        proa_buf_append_char(out, '}');
        proa_sse_end(out);
    }
    proa_sse_done(out);
}

static void completions_whole(const proa_reply *reply, proa_buf *out)
{
    write_head(reply, out);
    proa_buf_append_text(out, ",\"choices\":[");
    for (int32_t i = 0; i < reply->choice_count; i++) {
        if (i > 0)
            proa_buf_append_char(out, ',');
        write_choice(reply, &reply->choices[i], out);
    }
    proa_buf_append_char(out, ']');
    proa_reply_write_usage(reply, out);
    proa_buf_append_char(out, '}');
}

const proa_reply_format proa_reply_completions = {
    .token = completions_token,
    .pending = completions_pending,
    .chunk = completions_chunk,
    .last = completions_chunk,
    .end = completions_end,
    .whole = completions_whole,
};
