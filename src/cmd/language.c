/* language.c - tokenizer, template and limits from the command line. */
#include "cmd/language.h"

#include "base/log.h"

#include <stdio.h>
#include <string.h>

static proa_reasoning_mode reasoning_mode(const char *name)
{
    return strcmp(name, "none") == 0          ? PROA_REASONING_MODE_NONE
           : strcmp(name, "deepseek-r1") == 0 ? PROA_REASONING_MODE_R1
           : strcmp(name, "deepseek-v3") == 0 ? PROA_REASONING_MODE_V3
                                              : PROA_REASONING_MODE_AUTO;
}

static proa_status load_text(const proa_options *o, proa_language *l, int32_t rows, proa_error *err)
{
    const char *dir = proa_options_string(o, "tokenizer-path");
    if (dir == NULL)
        dir = l->dir;
    proa_status status = proa_tokenizer_load(dir, &l->tokenizer, err);
    if (status == PROA_OK)
        status = proa_chat_format_load(dir, proa_options_string(o, "chat-template"), &l->chat, err);
    if (status != PROA_OK)
        return status;
    int32_t tokens = proa_tokenizer_vocab_size(l->tokenizer);
    if (tokens > rows)
        return proa_error_set(
            err, PROA_ERR_INVALID,
            "%s/tokenizer.json has token ids up to %d, but the model's vocab_size is %d: they do not "
            "belong together",
            dir, tokens - 1, rows);
    if (!proa_chat_format_has_template(l->chat))
        proa_log(PROA_LOG_WARN, "serve", "%s has no chat template: /v1/chat/completions will refuse requests",
                 dir);
    return PROA_OK;
}

proa_status proa_language_open(const proa_options *o, const char *dir, const char *name,
                               const proa_model_config *config, const proa_generation_config *generation,
                               int32_t context_length, int32_t kv_tokens, proa_language *l, proa_error *err)
{
    *l = (proa_language){0};
    snprintf(l->dir, sizeof l->dir, "%s", dir);
    proa_status status = load_text(o, l, config->vocab_size, err);
    if (status != PROA_OK)
        return status;
    bool openai = strcmp(proa_options_string(o, "sampling-defaults"), "openai") == 0;
    l->model = (proa_serve_model){
        .path = l->dir,
        .tokenizer = l->tokenizer,
        .chat = l->chat,
        .reasoning = reasoning_mode(proa_options_string(o, "reasoning-parser")),
        .token_bytes_max = proa_serve_token_bytes_max(l->tokenizer),
        .kv_tokens = kv_tokens,
    };
    l->model.limits.model_name = name;
    l->model.limits.vocab_size = config->vocab_size;
    l->model.limits.context_length = context_length;
    l->model.limits.choices_max = 1024;
    l->model.limits.temperature = openai ? 1 : generation->temperature;
    l->model.limits.top_p = openai ? 1 : generation->top_p;
    l->model.limits.top_k = openai ? -1 : generation->top_k;
    return PROA_OK;
}

void proa_language_close(proa_language *l)
{
    proa_chat_format_free(l->chat);
    proa_tokenizer_free(l->tokenizer);
    *l = (proa_language){0};
}
