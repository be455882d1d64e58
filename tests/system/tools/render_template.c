/* render_template.c - renders chat templates for the system tests.
 *
 * Reads JSON lines from standard input: {"template": text, "variables": {...}, "tainted": {...}, "limits": {"steps",
 * "output_bytes", "depth"}}; writes one line each: {"text": ..., "pieces": [[start, length, from_user], ...]} or
 * {"error": message, "status": number}. One process renders thousands of templates: that keeps the tests short.
 */
#include "base/buf.h"
#include "base/json.h"
#include "text/template.h"

#include <stdio.h>
#include <stdlib.h>

static proa_json *failure(proa_status status, const char *text)
{
    proa_json *answer = proa_json_new_object();
    proa_buf clean = {0}; /* a message cut at its limit may end inside a character */
    proa_json_write_string(text, __builtin_strlen(text), &clean);
    proa_json *message = proa_json_parse(clean.data, clean.length, NULL);
    proa_buf_free(&clean);
    proa_json_set(answer, "error", message);
    proa_json_set(answer, "status", proa_json_new_int(status));
    return answer;
}

static proa_json *success(const proa_template_output *output)
{
    proa_json *answer = proa_json_new_object(), *pieces = proa_json_new_array();
    proa_json_set(answer, "text", proa_json_new_string(proa_buf_text(&output->text), output->text.length));
    for (size_t i = 0; i < output->piece_count; i++) {
        proa_json *piece = proa_json_new_array();
        proa_json_append(piece, proa_json_new_int((int64_t)output->pieces[i].start));
        proa_json_append(piece, proa_json_new_int((int64_t)output->pieces[i].length));
        proa_json_append(piece, proa_json_new_bool(output->pieces[i].from_user));
        proa_json_append(pieces, piece);
    }
    proa_json_set(answer, "pieces", pieces);
    return answer;
}

static proa_json *answer_to(const proa_json *request)
{
    const proa_json *source = proa_json_get(request, "template"), *limits = proa_json_get(request, "limits");
    proa_error err = {0};
    proa_template *program = NULL;
    proa_template_output output = {0};
    proa_template_limits l = {
        .steps_max = proa_json_int(proa_json_get(limits, "steps"), 0),
        .output_bytes_max = (size_t)proa_json_int(proa_json_get(limits, "output_bytes"), 0),
        .depth_max = (int32_t)proa_json_int(proa_json_get(limits, "depth"), 0),
    };
    proa_status status =
        proa_template_parse(proa_json_string(source, ""), proa_json_string_length(source), &program, &err);
    if (status == PROA_OK)
        status = proa_template_render(program, proa_json_get(request, "variables"),
                                      proa_json_get(request, "tainted"), &l, &output, &err);
    proa_json *answer = status == PROA_OK ? success(&output) : failure(status, err.text);
    proa_template_output_free(&output);
    proa_template_free(program);
    return answer;
}

int main(void)
{
    char *line = NULL;
    size_t capacity = 0;
    ssize_t length;
    while ((length = getline(&line, &capacity, stdin)) > 0) {
        proa_error err = {0};
        proa_buf text = {0};
        proa_json *request = proa_json_parse(line, (size_t)length, &err);
        proa_json *answer = request != NULL ? answer_to(request) : failure(err.status, err.text);
        proa_json_write(answer, 0, &text);
        puts(proa_buf_text(&text));
        fflush(stdout);
        proa_buf_free(&text);
        proa_json_free(answer);
        proa_json_free(request);
    }
    free(line);
    return 0;
}
