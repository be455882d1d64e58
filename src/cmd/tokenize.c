/* tokenize.c - `proa tokenize` and `proa detokenize`: JSON lines {"text": ...} to {"ids": [...]} and back.
 *
 * One line in, one line out, in order; a bad line ends the work with its number. Added tokens in the text become
 * their ids, and ids of special tokens become their text: what goes in comes out.
 */
#include "base/file.h"
#include "base/json.h"
#include "cmd/cmd.h"
#include "text/tokenizer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LINE_BYTES_MAX = 1 << 30, TOKENIZER_BYTES_MAX = 256 << 20 };

/* One run of either command. */
typedef struct lines {
    proa_tokenizer *tokenizer;
    proa_encoder *encoder; /* tokenize only */
    proa_ids ids;
    proa_buf out; /* the line that goes out */
} lines;

typedef proa_status (*converter)(lines *l, const proa_json *line, proa_error *err);

static proa_status need_member(const proa_json *line, const char *key, proa_json_type type, proa_error *err)
{
    const proa_json *value = proa_json_is(line, PROA_JSON_OBJECT) ? proa_json_get(line, key) : NULL;
    if (proa_json_is(value, type))
        return PROA_OK;
    return proa_error_set(err, PROA_ERR_INVALID, "an object with \"%s\", a %s, is needed", key,
                          proa_json_type_name(type));
}

static proa_status text_to_ids(lines *l, const proa_json *line, proa_error *err)
{
    proa_status status = need_member(line, "text", PROA_JSON_STRING, err);
    if (status != PROA_OK)
        return status;
    const proa_json *text = proa_json_get(line, "text");
    l->ids.count = 0;
    status = proa_encode(l->encoder, proa_json_string(text, ""), proa_json_string_length(text), true, &l->ids,
                         err);
    proa_buf_append_text(&l->out, "{\"ids\":[");
    for (size_t i = 0; i < l->ids.count; i++)
        proa_buf_append_format(&l->out, i == 0 ? "%d" : ",%d", l->ids.data[i]);
    proa_buf_append_text(&l->out, "]}\n");
    return status;
}

static proa_status ids_to_text(lines *l, const proa_json *line, proa_error *err)
{
    proa_status status = need_member(line, "ids", PROA_JSON_ARRAY, err);
    if (status != PROA_OK)
        return status;
    const proa_json *ids = proa_json_get(line, "ids");
    l->ids.count = 0;
    for (size_t i = 0; i < proa_json_size(ids); i++) {
        const proa_json *id = proa_json_at(ids, i);
        int64_t value = proa_json_int(id, -1);
        if (value < 0 || value > INT32_MAX)
            return proa_error_set(err, PROA_ERR_INVALID,
                                  "ids[%zu] is no token id; integers from 0 are needed", i);
        if (!proa_ids_push(&l->ids, (int32_t)value))
            return proa_error_set(err, PROA_ERR_MEMORY, "no memory left for %zu ids", proa_json_size(ids));
    }
    proa_buf text = {0};
    proa_decode(l->tokenizer, l->ids.data, l->ids.count, false, &text);
    proa_buf_append_text(&l->out, "{\"text\":");
    proa_json_write_string(proa_buf_text(&text), text.length, &l->out);
    proa_buf_append_text(&l->out, "}\n");
    l->out.failed |= text.failed;
    proa_buf_free(&text);
    return PROA_OK;
}

static proa_status convert_line(lines *l, const char *line, size_t length, converter convert, proa_error *err)
{
    if (length > LINE_BYTES_MAX)
        return proa_error_set(err, PROA_ERR_TOO_LONG, "%zu bytes; at most %d are taken", length,
                              LINE_BYTES_MAX);
    proa_json *parsed = proa_json_parse(line, length, err);
    if (parsed == NULL)
        return PROA_ERR_INVALID;
    proa_buf_clear(&l->out);
    proa_status status = convert(l, parsed, err);
    proa_json_free(parsed);
    if (status == PROA_OK && l->out.failed)
        status = proa_error_set(err, PROA_ERR_MEMORY, "no memory left for the answer");
    if (status == PROA_OK && fwrite(proa_buf_text(&l->out), 1, l->out.length, stdout) != l->out.length)
        status = proa_error_set(err, PROA_ERR_IO, "cannot write to standard output: %s", strerror(errno));
    return status;
}

static bool is_blank(const char *line, size_t length)
{
    return strspn(line, " \t\r\n") == length;
}

static proa_status convert_all(lines *l, FILE *in, const char *name, converter convert, proa_error *err)
{
    char *line = NULL;
    size_t capacity = 0;
    ssize_t length;
    proa_status status = PROA_OK;
    for (long long number = 1; status == PROA_OK && (length = getline(&line, &capacity, in)) >= 0; number++) {
        if (is_blank(line, (size_t)length))
            continue;
        status = convert_line(l, line, (size_t)length, convert, err);
        if (status != PROA_OK)
            proa_error_prefix(err, "%s, line %lld", name, number);
    }
    free(line);
    if (status == PROA_OK && ferror(in))
        status = proa_error_set(err, PROA_ERR_IO, "cannot read %s: %s", name, strerror(errno));
    if (fflush(stdout) != 0 && status == PROA_OK)
        status = proa_error_set(err, PROA_ERR_IO, "cannot write to standard output: %s", strerror(errno));
    return status;
}

static proa_status convert_input(lines *l, const char *path, converter convert, proa_error *err)
{
    if (path == NULL || strcmp(path, "-") == 0)
        return convert_all(l, stdin, "standard input", convert, err);
    FILE *in = fopen(path, "r");
    if (in == NULL)
        return proa_error_set(err, PROA_ERR_IO, "cannot open --input %s: %s", path, strerror(errno));
    proa_status status = convert_all(l, in, path, convert, err);
    fclose(in);
    return status;
}

/* A folder with tokenizer.json, or the file itself. */
static proa_status load_tokenizer(const char *path, proa_tokenizer **tokenizer, proa_error *err)
{
    size_t length = strlen(path);
    if (length < 5 || strcmp(path + length - 5, ".json") != 0)
        return proa_tokenizer_load(path, tokenizer, err);
    proa_buf text = {0};
    proa_status status = proa_file_read(path, TOKENIZER_BYTES_MAX, &text, err);
    if (status == PROA_OK)
        status = proa_tokenizer_parse(proa_buf_text(&text), text.length, path, tokenizer, err);
    proa_buf_free(&text);
    return status;
}

int proa_cmd_open_tokenizer(const proa_options *options, proa_tokenizer **tokenizer)
{
    proa_error err = {0};
    const char *path = proa_options_string(options, "tokenizer-path");
    if (path == NULL)
        path = proa_options_string(options, "model-path");
    if (path == NULL) {
        proa_error_set(&err, PROA_ERR_INVALID, "--model-path DIR is needed, a folder with tokenizer.json");
        proa_cmd_fail(&err);
        return PROA_EXIT_USAGE;
    }
    return load_tokenizer(path, tokenizer, &err) == PROA_OK ? PROA_EXIT_OK : proa_cmd_fail(&err);
}

static int run(const proa_options *options, bool encodes)
{
    lines l = {0};
    int exit_status = proa_cmd_open_tokenizer(options, &l.tokenizer);
    if (exit_status != PROA_EXIT_OK)
        return exit_status;
    proa_error err = {0};
    proa_status status = PROA_OK;
    if (encodes) {
        l.encoder = proa_encoder_create(l.tokenizer);
        if (l.encoder == NULL)
            status = proa_error_set(&err, PROA_ERR_MEMORY, "no memory left to tokenize");
    }
    if (status == PROA_OK)
        status = convert_input(&l, proa_options_string(options, "input"), encodes ? text_to_ids : ids_to_text,
                               &err);
    proa_ids_free(&l.ids);
    proa_buf_free(&l.out);
    proa_encoder_free(l.encoder);
    proa_tokenizer_free(l.tokenizer);
    return status == PROA_OK ? PROA_EXIT_OK : proa_cmd_fail(&err);
}

int proa_cmd_tokenize(const proa_options *options)
{
    return run(options, true);
}

int proa_cmd_detokenize(const proa_options *options)
{
    return run(options, false);
}
