/* answer.c - the pipeline of one answer. */
#include "serve/answer.h"

void proa_answer_init(proa_answer *answer, const proa_answer_options *options)
{
    *answer = (proa_answer){.options = options, .matched_stop = -1};
    proa_detokenizer_init(&answer->detokenizer, options->tokenizer, options->skip_special_tokens);
    proa_stop_matcher_init(&answer->matcher, options->stops);
    proa_reasoning_init(&answer->reasoning, options->reasoning, options->thinking);
}

void proa_answer_free(proa_answer *answer)
{
    proa_stop_matcher_free(&answer->matcher);
    proa_buf_free(&answer->text);
    proa_buf_free(&answer->checked);
}

/* Sends `text` on through the stop matcher and the reasoning parser. */
static void pass_on(proa_answer *a, proa_buf *reasoning, proa_buf *content)
{
    bool armed = a->token_count > a->options->min_tokens || a->options->min_tokens == 0;
    if (armed)
        a->matched_stop = proa_stop_matcher_push(&a->matcher, proa_buf_text(&a->text), a->text.length,
                                                 a->options->include_stop, &a->checked);
    else
        proa_buf_append(&a->checked, proa_buf_text(&a->text), a->text.length);
    content->failed = content->failed || a->text.failed || a->checked.failed;
    proa_reasoning_push(&a->reasoning, proa_buf_text(&a->checked), a->checked.length, reasoning, content);
    proa_buf_clear(&a->text);
    proa_buf_clear(&a->checked);
}

bool proa_answer_push(proa_answer *answer, int32_t id, bool stop, proa_buf *reasoning, proa_buf *content)
{
    PROA_ASSERT(answer->matched_stop < 0);
    answer->token_count++;
    if (proa_reasoning_inside(&answer->reasoning))
        answer->reasoning_token_count++;
    if (!stop || answer->options->include_stop)
        proa_detokenizer_push(&answer->detokenizer, id, &answer->text);
    pass_on(answer, reasoning, content);
    if (answer->matched_stop >= 0)
        proa_reasoning_finish(&answer->reasoning, reasoning, content);
    return answer->matched_stop < 0;
}

void proa_answer_finish(proa_answer *answer, proa_buf *reasoning, proa_buf *content)
{
    if (answer->matched_stop >= 0)
        return;
    proa_detokenizer_finish(&answer->detokenizer, &answer->text);
    pass_on(answer, reasoning, content);
    if (answer->matched_stop < 0) {
        proa_stop_matcher_finish(&answer->matcher, &answer->checked);
        proa_reasoning_push(&answer->reasoning, proa_buf_text(&answer->checked), answer->checked.length,
                            reasoning, content);
    }
    proa_reasoning_finish(&answer->reasoning, reasoning, content);
}
