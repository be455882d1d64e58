/* reply.c - what the formats share. */
#include "serve/reply.h"

#include "base/json.h"

#include <math.h>
#include <string.h>

void proa_reply_choice_free(proa_reply_choice *choice)
{
    proa_buf_free(&choice->reasoning);
    proa_buf_free(&choice->content);
    for (int i = 0; i < PROA_REPLY_LISTS; i++)
        proa_buf_free(&choice->lists[i]);
    proa_ids_free(&choice->ids);
}

bool proa_reply_choice_failed(const proa_reply_choice *choice)
{
    bool failed = choice->reasoning.failed || choice->content.failed;
    for (int i = 0; i < PROA_REPLY_LISTS; i++)
        failed = failed || choice->lists[i].failed;
    return failed;
}

void proa_reply_write_text(const proa_buf *text, proa_buf *out)
{
    proa_json_write_string(proa_buf_text(text), text->length, out);
}

void proa_reply_write_logprob(float logprob, proa_buf *out)
{
    if (isfinite(logprob))
        proa_buf_append_format(out, "%.9g", (double)logprob); /* 9 digits give back the same float */
    else
        proa_buf_append_text(out, "-9999.0");
}

void proa_reply_write_end(const proa_reply_choice *choice, proa_buf *out)
{
    static const char *const words[] = {"null", "\"stop\"", "\"length\""};
    proa_buf_append_text(out, words[choice->end]);
}

void proa_reply_write_matched(const proa_reply_choice *choice, proa_buf *out)
{
    if (choice->matched_text != NULL)
        proa_json_write_string(choice->matched_text, strlen(choice->matched_text), out);
    else if (choice->matched_id >= 0)
        proa_buf_append_format(out, "%d", choice->matched_id);
    else
        proa_buf_append_text(out, "null");
}

void proa_reply_write_usage(const proa_reply *reply, proa_buf *out)
{
    long long prompt = 0, cached = 0, completion = 0, reasoning = 0;
    for (int32_t i = 0; i < reply->choice_count; i++) {
        const proa_reply_choice *c = &reply->choices[i];
        if (c->counts_prompt) {
            prompt += c->prompt_tokens;
            cached += c->cached_tokens;
        }
        completion += c->completion_tokens;
        reasoning += c->reasoning_tokens;
    }
    proa_buf_append_format(
        out,
        ",\"usage\":{\"prompt_tokens\":%lld,\"total_tokens\":%lld,\"completion_tokens\":%lld,"
        "\"prompt_tokens_details\":{\"cached_tokens\":%lld},"
        "\"completion_tokens_details\":{\"reasoning_tokens\":%lld}}",
        (long long)prompt, (long long)(prompt + completion), (long long)completion, (long long)cached,
        (long long)reasoning);
}

void proa_reply_write_token(const proa_reply *reply, int32_t id, proa_buf *out)
{
    size_t length = 0;
    const char *bytes = proa_tokenizer_bytes(reply->tokenizer, id, &length);
    proa_json_write_string(bytes != NULL ? bytes : "", length, out);
}

void proa_reply_next_entry(proa_reply_choice *choice, int lists)
{
    for (int i = 0; i < lists && choice->list_count > 0; i++)
        proa_buf_append_char(&choice->lists[i], ',');
    choice->list_count++;
}

void proa_reply_clear(proa_reply_choice *choice)
{
    proa_buf_clear(&choice->reasoning);
    proa_buf_clear(&choice->content);
    for (int i = 0; i < PROA_REPLY_LISTS; i++)
        proa_buf_clear(&choice->lists[i]);
    choice->list_count = 0;
}
