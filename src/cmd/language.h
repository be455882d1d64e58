/* language.h - what a server needs to speak a model's language, without its weights: tokenizer, chat template, defaults of
 * sampling. For `serve`, which has the checkpoint, and `frontend`, which has its small files.
 */
#ifndef PROA_CMD_LANGUAGE_H
#define PROA_CMD_LANGUAGE_H

#include "base/option.h"
#include "model/config.h"
#include "serve/prepare.h"

typedef struct proa_language {
    proa_tokenizer *tokenizer;
    proa_chat_format *chat;
    char dir[4096];
    proa_serve_model model;
} proa_language;

/* `dir` is the model's folder; --tokenizer-path and --chat-template say otherwise. The rest fills the limits. */
proa_status proa_language_open(const proa_options *options, const char *dir, const char *name,
                               const proa_model_config *config, const proa_generation_config *generation,
                               int32_t context_length, int32_t kv_tokens, proa_language *language,
                               proa_error *err);
void proa_language_close(proa_language *language); /* accepts a half-built one */

#endif
