/* template.h - the Jinja subset that chat templates use; values in, text out, nothing else reachable.
 *
 * Bounded: steps, nesting depth and output bytes (law 9). Output is a list of pieces that remember whether they
 * come from the template or from a value under `messages`/`tools`: so that special tokens which come from user text
 * stay text (tokenizer.h, parse_added). Whitespace control as Hugging Face renders: trim_blocks and lstrip_blocks
 * on, keep_trailing_newline off. A parsed template is immutable: any thread may render it.
 */
#ifndef PROA_TEXT_TEMPLATE_H
#define PROA_TEXT_TEMPLATE_H

#include "base/buf.h"
#include "base/json.h"
#include "base/status.h"

typedef struct proa_template proa_template;

/* Errors have line and column and name what is not supported. */
proa_status proa_template_parse(const char *source, size_t length, proa_template **template_out,
                                proa_error *err);
void proa_template_free(proa_template *template_in); /* accepts NULL */

typedef struct proa_template_limits {
    int64_t steps_max;       /* evaluated nodes; 0: 10 million */
    size_t output_bytes_max; /* 0: 64 MiB */
    int32_t depth_max;       /* of expressions and blocks; 0: 200 */
} proa_template_limits;

/* A run of output of one origin. */
typedef struct proa_template_piece {
    size_t start; /* in the output's bytes */
    size_t length;
    bool from_user; /* came (even in part) from a value of `tainted` */
} proa_template_piece;

typedef struct proa_template_output {
    proa_buf text;
    proa_template_piece *pieces; /* cover the text in order, neighbours differ in from_user */
    size_t piece_count;
    size_t piece_capacity;
} proa_template_output;
void proa_template_output_free(proa_template_output *output);

/* Renders with the variables of `variables` (trusted: bos_token, add_generation_prompt, ...) and of `tainted` (the
 * user's: messages, tools, documents, chat_template_kwargs); both are JSON objects, `tainted` may be NULL. Strings that
 * descend from `tainted` keep their origin through every operation (concatenation keeps the parts apart; filters
 * and methods that rebuild a string mark the whole result); numbers have none. A name in both is the user's value, as a
 * request's chat_template_kwargs go before the server's. strftime_now exists when `variables` has a number of
 * that name: seconds since 1970 in the zone to be shown. raise_exception is PROA_ERR_INVALID with its message. After a failure
 * the output is empty. */
proa_status proa_template_render(const proa_template *template_in, const proa_json *variables,
                                 const proa_json *tainted, const proa_template_limits *limits,
                                 proa_template_output *output, proa_error *err);

#endif
