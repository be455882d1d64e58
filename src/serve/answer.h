/* answer.h - from tokens to what the client reads: detokenise, stop strings, reasoning apart from content.
 *
 *   id ──detokenizer──> text ──stop matcher──> text ──reasoning parser──> reasoning | content
 *         (half characters)     (half stop strings)     (half tags)           held back until certain
 *
 * Stop strings are looked for in the whole answer, reasoning included, as SGLang and vLLM do. Pure: the same ids give
 * the same text however they arrive. One owner thread.
 */
#ifndef PROA_SERVE_ANSWER_H
#define PROA_SERVE_ANSWER_H

#include "serve/stop.h"
#include "text/reasoning.h"
#include "text/tokenizer.h"

/* Shared by the answers of a request. */
typedef struct proa_answer_options {
    const proa_tokenizer *tokenizer;
    const proa_stop_set *stops;
    bool include_stop; /* a stop string or stop token stays in the text */
    bool skip_special_tokens;
    int32_t min_tokens; /* stop strings are not looked for before that many */
    proa_reasoning_kind reasoning;
    bool thinking; /* of proa_reasoning_init */
} proa_answer_options;

typedef struct proa_answer {
    const proa_answer_options *options;
    proa_detokenizer detokenizer;
    proa_stop_matcher matcher;
    proa_reasoning reasoning;
    proa_buf text;    /* scratch between detokenizer and matcher */
    proa_buf checked; /* scratch between matcher and reasoning parser */
    int32_t token_count;
    int32_t reasoning_token_count;
    int matched_stop; /* index of the stop string that ended the answer, or -1 */
} proa_answer;

void proa_answer_init(proa_answer *answer, const proa_answer_options *options);
void proa_answer_free(proa_answer *answer);

/* Takes one token; `stop` when it is the end-of-sequence or stop id that ended the answer. Appends what has become certain.
 * False when a stop string is complete: the answer has ended, and takes no more tokens. */
bool proa_answer_push(proa_answer *answer, int32_t id, bool stop, proa_buf *reasoning, proa_buf *content);

/* The answer has ended without a stop string: what was held back is text. */
void proa_answer_finish(proa_answer *answer, proa_buf *reasoning, proa_buf *content);

#endif
