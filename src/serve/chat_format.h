/* chat_format.h - from messages to a prompt: the checkpoint's chat template and its special tokens.
 *
 * Special tokens that the template writes are tokens; the same characters in a user's text stay text (tokenizer.h,
 * proa_encode_trusted). Immutable after loading: any thread may use it, each with an encoder of its own.
 */
#ifndef PROA_SERVE_CHAT_FORMAT_H
#define PROA_SERVE_CHAT_FORMAT_H

#include "serve/request.h"
#include "text/reasoning.h"
#include "text/template.h"
#include "text/tokenizer.h"

typedef struct proa_chat_format proa_chat_format;

/* How reasoning_content is told from content. AUTO looks at the template and at each prompt: a template that never
 * mentions <think> has none; a prompt that ends in <think> has the answer begin inside reasoning, one that ends in
 * </think> outside; after any other, the model is expected to open its reasoning itself (as R1-0528). */
typedef enum proa_reasoning_mode {
    PROA_REASONING_MODE_AUTO,
    PROA_REASONING_MODE_NONE,
    PROA_REASONING_MODE_R1,
    PROA_REASONING_MODE_V3,
} proa_reasoning_mode;

/* Reads `dir`/tokenizer_config.json (special tokens, chat_template: one or a list of named ones) and
 * `dir`/chat_template.jinja, which wins; `file` (may be NULL) wins over both. No template at all is no error: then
 * proa_chat_format_has_template is false. */
proa_status proa_chat_format_load(const char *dir, const char *file, proa_chat_format **format,
                                  proa_error *err);
/* The same from parsed tokenizer_config.json; `source` is the text of a template that wins, or NULL. */
proa_status proa_chat_format_parse(const proa_json *tokenizer_config, const char *where, const char *source,
                                   size_t source_length, proa_chat_format **format, proa_error *err);
void proa_chat_format_free(proa_chat_format *format); /* accepts NULL */

bool proa_chat_format_has_template(const proa_chat_format *format);
const char *proa_chat_format_bos(const proa_chat_format *format); /* "" without */
/* Do plain prompts get a bos (tokenizer_config.json's add_bos_token)? */
bool proa_chat_format_adds_bos(const proa_chat_format *format);

/* Renders a chat request's prompt. */
proa_status proa_chat_format_render(const proa_chat_format *format, const proa_api_request *request,
                                    proa_template_output *output, proa_error *err);

/* Appends the ids of a rendered prompt. */
proa_status proa_chat_format_encode(proa_encoder *encoder, const proa_template_output *prompt, proa_ids *ids,
                                    proa_error *err);

typedef struct proa_reasoning_choice {
    proa_reasoning_kind kind;
    bool thinking;
} proa_reasoning_choice;
proa_reasoning_choice proa_chat_format_reasoning(const proa_chat_format *format, proa_reasoning_mode mode,
                                                 const proa_api_request *request,
                                                 const proa_template_output *prompt);

#endif
