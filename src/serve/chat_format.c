/* chat_format.c - loading templates, rendering, and where reasoning begins. */
#include "serve/chat_format.h"

#include "base/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TEMPLATE_BYTES_MAX = 4 << 20, CONFIG_BYTES_MAX = 16 << 20 };

struct proa_chat_format {
    proa_template *chat;
    proa_template *tool_use; /* the one named so, for requests with tools; NULL: `chat` serves both */
    bool mentions_think;
    bool adds_bos;
    char *bos;
    proa_json *variables; /* trusted: bos_token, eos_token, ... */
};

/* --- loading --- */

/* A special token is a string or an object with its content. NULL when there is none. */
static const proa_json *special_token(const proa_json *config, const char *name)
{
    const proa_json *value = proa_json_get(config, name);
    if (proa_json_is(value, PROA_JSON_OBJECT))
        value = proa_json_get(value, "content");
    return proa_json_is(value, PROA_JSON_STRING) ? value : NULL;
}

static bool read_special_tokens(proa_chat_format *f, const proa_json *config)
{
    static const char *const names[] = {"bos_token", "eos_token", "pad_token", "unk_token"};
    f->variables = proa_json_new_object();
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const proa_json *token = special_token(config, names[i]);
        if (token != NULL &&
            !proa_json_set(f->variables, names[i], proa_json_ref((proa_json *)(uintptr_t)token)))
            return false;
    }
    f->bos = strdup(proa_json_string(special_token(config, "bos_token"), ""));
    f->adds_bos =
        proa_json_bool(proa_json_get(config, "add_bos_token"), false) && f->bos != NULL && *f->bos != 0;
    return f->variables != NULL && f->bos != NULL;
}

static proa_status parse_template(proa_chat_format *f, const char *source, size_t length, const char *where,
                                  proa_template **out, proa_error *err)
{
    proa_status status = proa_template_parse(source, length, out, err);
    if (status != PROA_OK)
        return proa_error_prefix(err, "chat template of %s", where);
    f->mentions_think = f->mentions_think || strstr(source, "think>") != NULL;
    return PROA_OK;
}

static proa_status parse_named(proa_chat_format *f, const proa_json *entry, const char *where,
                               proa_error *err)
{
    const char *name = proa_json_string(proa_json_get(entry, "name"), NULL);
    const proa_json *source = proa_json_get(entry, "template");
    if (name == NULL || !proa_json_is(source, PROA_JSON_STRING))
        return proa_error_set(err, PROA_ERR_INVALID,
                              "%s: each entry of the list chat_template must have name and template", where);
    proa_template **slot = strcmp(name, "default") == 0    ? &f->chat
                           : strcmp(name, "tool_use") == 0 ? &f->tool_use
                                                           : NULL;
    if (slot == NULL || *slot != NULL)
        return PROA_OK; /* others are for callers who pick by name, which clients here cannot */
    return parse_template(f, proa_json_string(source, ""), proa_json_string_length(source), where, slot, err);
}

static proa_status read_templates(proa_chat_format *f, const proa_json *config, const char *where,
                                  proa_error *err)
{
    const proa_json *value = proa_json_get(config, "chat_template");
    if (value == NULL || proa_json_is(value, PROA_JSON_NULL))
        return PROA_OK;
    if (proa_json_is(value, PROA_JSON_STRING))
        return parse_template(f, proa_json_string(value, ""), proa_json_string_length(value), where, &f->chat,
                              err);
    if (!proa_json_is(value, PROA_JSON_ARRAY))
        return proa_error_set(err, PROA_ERR_INVALID,
                              "%s: chat_template must be a string or a list of named templates", where);
    proa_status status = PROA_OK;
    for (size_t i = 0; status == PROA_OK && i < proa_json_size(value); i++)
        status = parse_named(f, proa_json_at(value, i), where, err);
    return status;
}

proa_status proa_chat_format_parse(const proa_json *tokenizer_config, const char *where, const char *source,
                                   size_t source_length, proa_chat_format **format, proa_error *err)
{
    proa_chat_format *f = calloc(1, sizeof *f);
    if (f == NULL || !read_special_tokens(f, tokenizer_config)) {
        proa_chat_format_free(f);
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the chat template");
    }
    proa_status status = source != NULL ? parse_template(f, source, source_length, where, &f->chat, err)
                                        : read_templates(f, tokenizer_config, where, err);
    if (status != PROA_OK) {
        proa_chat_format_free(f);
        return status;
    }
    *format = f;
    return PROA_OK;
}

proa_status proa_chat_format_load(const char *dir, const char *file, proa_chat_format **format,
                                  proa_error *err)
{
    char config_path[4096], jinja_path[4096];
    snprintf(config_path, sizeof config_path, "%s/tokenizer_config.json", dir);
    snprintf(jinja_path, sizeof jinja_path, "%s/chat_template.jinja", dir);
    if (file == NULL && proa_file_exists(jinja_path))
        file = jinja_path;
    proa_json *config = NULL;
    proa_buf source = {0};
    proa_status status = PROA_OK;
    if (file != NULL)
        status = proa_file_read(file, TEMPLATE_BYTES_MAX, &source, err);
    if (status == PROA_OK && proa_file_exists(config_path)) {
        config = proa_json_parse_file(config_path, CONFIG_BYTES_MAX, err);
        status = config != NULL ? PROA_OK : err->status;
    }
    if (status == PROA_OK)
        status =
            proa_chat_format_parse(config, file != NULL ? file : config_path,
                                   file != NULL ? proa_buf_text(&source) : NULL, source.length, format, err);
    proa_buf_free(&source);
    proa_json_free(config);
    return status;
}

void proa_chat_format_free(proa_chat_format *format)
{
    if (format == NULL)
        return;
    proa_template_free(format->chat);
    proa_template_free(format->tool_use);
    proa_json_free(format->variables);
    free(format->bos);
    free(format);
}

bool proa_chat_format_has_template(const proa_chat_format *format)
{
    return format->chat != NULL;
}

const char *proa_chat_format_bos(const proa_chat_format *format)
{
    return format->bos;
}

bool proa_chat_format_adds_bos(const proa_chat_format *format)
{
    return format->adds_bos;
}

/* --- rendering --- */

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* The length without the blanks at the end. */
static size_t trimmed(const char *text, size_t length)
{
    while (length > 0 && is_blank(text[length - 1]))
        length--;
    return length;
}

/* As Hugging Face's apply_chat_template: the prompt ends where the last message's content ends, so that the model goes on
 * with it. It is looked for at the end of the last piece that came from the user, not in all of the prompt: the closing
 * words of a template cannot be mistaken for it, and the search cannot be made slow. */
static proa_status cut_after_final_message(const proa_api_request *request, proa_template_output *output,
                                           proa_error *err)
{
    const proa_json *messages = proa_json_get(request->variables, "messages");
    const proa_json *content = proa_json_get(proa_json_at(messages, proa_json_size(messages) - 1), "content");
    const char *text = proa_json_string(content, ""), *rendered = proa_buf_text(&output->text);
    size_t length = trimmed(text, proa_json_string_length(content));
    size_t skip = 0; /* templates may strip on both sides */
    while (skip < length && is_blank(text[skip]))
        skip++;
    while (output->piece_count > 0 && !output->pieces[output->piece_count - 1].from_user)
        output->piece_count--;
    proa_template_piece none = {0};
    proa_template_piece *piece = output->piece_count > 0 ? &output->pieces[output->piece_count - 1] : &none;
    size_t piece_length = trimmed(rendered + piece->start, piece->length), wanted = length - skip;
    if (wanted == 0 || piece_length < wanted ||
        memcmp(rendered + piece->start + piece_length - wanted, text + skip, wanted) != 0)
        return proa_error_set(
            err, PROA_ERR_INVALID,
            "continue_final_message: the chat template changes the last message, so that it cannot "
            "be continued");
    /* blanks at its end stay when the template keeps them */
    size_t blanks = proa_json_string_length(content) - length;
    size_t kept = piece->length - piece_length < blanks ? piece->length - piece_length : blanks;
    piece->length = piece_length + kept;
    proa_buf_truncate(&output->text, piece->start + piece->length);
    return PROA_OK;
}

proa_status proa_chat_format_render(const proa_chat_format *format, const proa_api_request *request,
                                    proa_template_output *output, proa_error *err)
{
    if (format->chat == NULL)
        return proa_error_set(
            err, PROA_ERR_UNSUPPORTED,
            "this model has no chat template: use /v1/completions, or start the server with "
            "--chat-template FILE");
    const proa_template *source =
        request->has_tools && format->tool_use != NULL ? format->tool_use : format->chat;
    proa_json *variables = proa_json_new_object();
    bool good = variables != NULL;
    for (void *it = proa_json_first(format->variables); good && it != NULL;
         it = proa_json_next(format->variables, it))
        good = proa_json_set(variables, proa_json_key(it), proa_json_ref(proa_json_value(it)));
    good = good && proa_json_set(variables, "add_generation_prompt",
                                 proa_json_new_bool(request->add_generation_prompt));
    proa_status status = PROA_OK;
    if (good)
        status = proa_template_render(source, variables, request->variables, NULL, output, err);
    else
        status = proa_error_set(err, PROA_ERR_MEMORY, "no memory to render the chat template");
    proa_json_free(variables);
    if (status == PROA_OK && request->continue_final_message)
        status = cut_after_final_message(request, output, err);
    return status;
}

proa_status proa_chat_format_encode(proa_encoder *encoder, const proa_template_output *prompt, proa_ids *ids,
                                    proa_error *err)
{
    proa_text_range *trusted = calloc(prompt->piece_count + 1, sizeof *trusted);
    if (trusted == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory to encode the prompt");
    size_t count = 0;
    for (size_t i = 0; i < prompt->piece_count; i++) {
        const proa_template_piece *piece = &prompt->pieces[i];
        if (piece->from_user || piece->length == 0)
            continue;
        if (count > 0 && trusted[count - 1].end == piece->start)
            trusted[count - 1].end += piece->length;
        else
            trusted[count++] = (proa_text_range){piece->start, piece->start + piece->length};
    }
    proa_status status = proa_encode_trusted(encoder, proa_buf_text(&prompt->text), prompt->text.length,
                                             trusted, count, ids, err);
    free(trusted);
    return status;
}

/* --- reasoning --- */

static bool ends_with(const char *text, size_t length, const char *end)
{
    size_t n = strlen(end);
    length = trimmed(text, length);
    return length >= n && memcmp(text + length - n, end, n) == 0;
}

/* Does `text` open reasoning without closing it? */
static bool opens_reasoning(const char *text)
{
    bool open = false;
    for (const char *at = text; (at = strstr(at, "think>")) != NULL; at++) {
        if (at > text && at[-1] == '<')
            open = true;
        else if (at > text + 1 && at[-1] == '/' && at[-2] == '<')
            open = false;
    }
    return open;
}

static proa_reasoning_kind detect(const proa_chat_format *format, const proa_api_request *request,
                                  const proa_template_output *prompt)
{
    const char *text = proa_buf_text(&prompt->text);
    bool inside = format->mentions_think;
    if (inside && request->continue_final_message) /* from the template's last words on */
        inside =
            prompt->piece_count >= 2 && opens_reasoning(text + prompt->pieces[prompt->piece_count - 2].start);
    else if (inside)
        inside = !ends_with(text, prompt->text.length, "</think>");
    return inside ? PROA_REASONING_DEEPSEEK_R1 : PROA_REASONING_NONE;
}

proa_reasoning_choice proa_chat_format_reasoning(const proa_chat_format *format, proa_reasoning_mode mode,
                                                 const proa_api_request *request,
                                                 const proa_template_output *prompt)
{
    proa_reasoning_choice choice = {PROA_REASONING_NONE, request->thinking};
    if (!request->separate_reasoning)
        return choice;
    switch (mode) {
    case PROA_REASONING_MODE_NONE: break;
    case PROA_REASONING_MODE_R1: choice.kind = PROA_REASONING_DEEPSEEK_R1; break;
    case PROA_REASONING_MODE_V3: choice.kind = PROA_REASONING_DEEPSEEK_V3; break;
    case PROA_REASONING_MODE_AUTO: choice.kind = detect(format, request, prompt); break;
    }
    return choice;
}
