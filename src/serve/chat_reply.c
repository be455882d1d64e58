/* chat_reply.c - chat.completion and chat.completion.chunk.
 *
 * Reasoning goes into reasoning_content, the name that DeepSeek's API, SGLang and most clients use. The first chunk of a choice
 * has the role, the last one its finish_reason and an empty delta.
 */
#include "base/json.h"
#include "serve/reply.h"
#include "serve/sse.h"

#include <string.h>

static void write_bytes(const proa_reply *reply, int32_t id, proa_buf *out)
{
    size_t length = 0;
    const unsigned char *bytes = (const unsigned char *)proa_tokenizer_bytes(reply->tokenizer, id, &length);
    proa_buf_append_text(out, ",\"bytes\":[");
    for (size_t i = 0; i < length; i++)
        proa_buf_append_format(out, i > 0 ? ",%u" : "%u", bytes[i]);
    proa_buf_append_char(out, ']');
}

static void write_entry(const proa_reply *reply, int32_t id, float logprob, proa_buf *out)
{
    proa_buf_append_text(out, "{\"token\":");
    proa_reply_write_token(reply, id, out);
    proa_buf_append_text(out, ",\"logprob\":");
    proa_reply_write_logprob(logprob, out);
    write_bytes(reply, id, out);
}

static void chat_token(const proa_reply *reply, proa_reply_choice *choice, const proa_reply_token *token)
{
    if (reply->params->top_logprobs < 0)
        return;
    proa_reply_next_entry(choice, 1);
    proa_buf *out = &choice->lists[0];
    write_entry(reply, token->id, token->logprob, out);
    proa_buf_append_text(out, ",\"top_logprobs\":[");
    for (int32_t i = 0; i < token->top_count; i++) {
        if (i > 0)
            proa_buf_append_char(out, ',');
        write_entry(reply, token->top_ids[i], token->top_logprobs[i], out);
        proa_buf_append_char(out, '}');
    }
    proa_buf_append_text(out, "]}");
}

static bool chat_pending(const proa_reply *reply, const proa_reply_choice *choice)
{
    (void)reply;
    return choice->content.length > 0 || choice->reasoning.length > 0 || choice->list_count > 0;
}

static void write_logprobs(const proa_reply *reply, const proa_reply_choice *choice, proa_buf *out)
{
    if (reply->params->top_logprobs < 0) {
        proa_buf_append_text(out, ",\"logprobs\":null");
        return;
    }
    proa_buf_append_format(out, ",\"logprobs\":{\"content\":[%s],\"refusal\":null}",
                           proa_buf_text(&choice->lists[0]));
}

static void write_head(const proa_reply *reply, const char *object, proa_buf *out)
{
    proa_buf_append_text(out, "{\"id\":\"chatcmpl-");
    proa_buf_append_text(out, reply->id);
    proa_buf_append_format(out, "\",\"object\":\"%s\",\"created\":%lld,\"model\":", object,
                           (long long)reply->created);
    proa_json_write_string(reply->model, strlen(reply->model), out);
}

static void begin_chunk(const proa_reply *reply, const proa_reply_choice *choice, proa_buf *out)
{
    proa_sse_begin(out);
    write_head(reply, "chat.completion.chunk", out);
    proa_buf_append_format(out, ",\"choices\":[{\"index\":%d,\"delta\":{", choice->index);
}

static void end_chunk(const proa_reply *reply, proa_buf *out)
{
    proa_buf_append_text(out, "}]");
    if (reply->params->continuous_usage)
        proa_reply_write_usage(reply, out);
    else if (reply->params->include_usage)
        proa_buf_append_text(out, ",\"usage\":null");
    proa_buf_append_char(out, '}');
    proa_sse_end(out);
}

/* A chunk of its own: some clients look for the role only where there is nothing else. */
static void write_role(const proa_reply *reply, proa_reply_choice *choice, proa_buf *out)
{
    if (choice->started)
        return;
    choice->started = true;
    begin_chunk(reply, choice, out);
    proa_buf_append_text(out,
                         "\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null");
    end_chunk(reply, out);
}

static void chat_chunk(const proa_reply *reply, proa_reply_choice *choice, proa_buf *out)
{
    write_role(reply, choice, out);
    begin_chunk(reply, choice, out);
    bool reasoning = choice->reasoning.length > 0;
    if (reasoning) {
        proa_buf_append_text(out, "\"reasoning_content\":");
        proa_reply_write_text(&choice->reasoning, out);
    }
    if (choice->content.length > 0 || !reasoning) {
        proa_buf_append_text(out, reasoning ? ",\"content\":" : "\"content\":");
        proa_reply_write_text(&choice->content, out);
    }
    proa_buf_append_char(out, '}');
    write_logprobs(reply, choice, out);
    proa_buf_append_text(out, ",\"finish_reason\":null");
    end_chunk(reply, out);
    proa_reply_clear(choice);
}

static void chat_last(const proa_reply *reply, proa_reply_choice *choice, proa_buf *out)
{
    write_role(reply, choice, out);
    begin_chunk(reply, choice, out);
    proa_buf_append_text(out, "},\"logprobs\":null,\"finish_reason\":");
    proa_reply_write_end(choice, out);
    proa_buf_append_text(out, ",\"matched_stop\":");
    proa_reply_write_matched(choice, out);
    end_chunk(reply, out);
}

static void chat_end(const proa_reply *reply, proa_buf *out)
{
    if (reply->params->include_usage) {
        proa_sse_begin(out);
        write_head(reply, "chat.completion.chunk", out);
        proa_buf_append_text(out, ",\"choices\":[]");
        proa_reply_write_usage(reply, out);
        proa_buf_append_char(out, '}');
        proa_sse_end(out);
    }
    proa_sse_done(out);
}

static void write_message(const proa_reply_choice *choice, proa_buf *out)
{
    proa_buf_append_text(out, "{\"role\":\"assistant\",\"content\":");
    if (choice->content.length == 0 && choice->reasoning.length > 0)
        proa_buf_append_text(out, "null"); /* cut off while still thinking */
    else
        proa_reply_write_text(&choice->content, out);
    proa_buf_append_text(out, ",\"refusal\":null,\"reasoning_content\":");
    if (choice->reasoning.length > 0)
        proa_reply_write_text(&choice->reasoning, out);
    else
        proa_buf_append_text(out, "null");
    proa_buf_append_char(out, '}');
}

static void chat_whole(const proa_reply *reply, proa_buf *out)
{
    write_head(reply, "chat.completion", out);
    proa_buf_append_text(out, ",\"choices\":[");
    for (int32_t i = 0; i < reply->choice_count; i++) {
        const proa_reply_choice *c = &reply->choices[i];
        proa_buf_append_format(out, "%s{\"index\":%d,\"message\":", i > 0 ? "," : "", c->index);
        write_message(c, out);
        write_logprobs(reply, c, out);
        proa_buf_append_text(out, ",\"finish_reason\":");
        proa_reply_write_end(c, out);
        proa_buf_append_text(out, ",\"matched_stop\":");
        proa_reply_write_matched(c, out);
        proa_buf_append_char(out, '}');
    }
    proa_buf_append_char(out, ']');
    proa_reply_write_usage(reply, out);
    proa_buf_append_char(out, '}');
}

const proa_reply_format proa_reply_chat = {
    .token = chat_token,
    .pending = chat_pending,
    .chunk = chat_chunk,
    .last = chat_last,
    .end = chat_end,
    .whole = chat_whole,
};
