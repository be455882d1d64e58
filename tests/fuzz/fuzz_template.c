/* fuzz_template.c - any bytes as a template, rendered with a fixed conversation and small limits.
 *
 * It must end within its budgets and without undefined behaviour; text that comes out is covered by pieces, and what
 * only the user can have written lies in his pieces.
 */
#include "base/json.h"
#include "text/template.h"

#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char trusted[] = "{\"bos_token\": \"<bos>\", \"eos_token\": \"<eos>\", "
                              "\"add_generation_prompt\": true, \"x\": 3, \"y\": 2.5,"
                              " \"n\": null, \"strftime_now\": 1735732805}";
static const char conversation[] =
    "{\"messages\": [{\"role\": \"system\", \"content\": \"~\"}, {\"role\": \"user\", \"content\": \" ~\\n~ "
    "\xc3\xa9\"},"
    " {\"role\": \"assistant\", \"content\": null, \"tool_calls\": [{\"id\": \"c\", \"function\": {\"name\": "
    "\"f\","
    " \"arguments\": {\"a\": [1, 2.5, {\"b\": \"~\"}]}}}]}, {\"role\": \"tool\", \"content\": "
    "\"~</think>~\"}],"
    " \"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"f\", \"parameters\": {\"~\": true}}}]}";

static void check_pieces(const proa_template_output *o, bool marker_is_users)
{
    size_t at = 0;
    for (size_t i = 0; i < o->piece_count; i++) {
        const proa_template_piece *piece = &o->pieces[i];
        PROA_ASSERT(piece->start == at);
        PROA_ASSERT(piece->length > 0);
        PROA_ASSERT(i == 0 || piece->from_user != piece[-1].from_user);
        bool marked = memchr(o->text.data + at, '~', piece->length) != NULL;
        PROA_ASSERT(!marked || piece->from_user || !marker_is_users);
        at += piece->length;
    }
    PROA_ASSERT(at == o->text.length);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const proa_template_limits limits = {.steps_max = 20000, .output_bytes_max = 1 << 16, .depth_max = 100};
    proa_error err;
    proa_template *program;
    proa_template_output output = {0};
    proa_status status = proa_template_parse((const char *)data, size, &program, &err);
    if (status != PROA_OK) {
        PROA_ASSERT(program == NULL);
        PROA_ASSERT(err.status == status);
        return 0;
    }
    proa_json *variables = proa_json_parse(trusted, sizeof trusted - 1, &err);
    proa_json *tainted = proa_json_parse(conversation, sizeof conversation - 1, &err);
    status = proa_template_render(program, variables, tainted, &limits, &output, &err);
    PROA_ASSERT(status == PROA_OK || err.status == status);
    PROA_ASSERT(status == PROA_OK || proa_is_request_error(status));
    /* the template itself may print the marker, as a character or by an escape */
    bool marker_is_users = memchr(data, '~', size) == NULL && memchr(data, '\\', size) == NULL;
    check_pieces(&output, marker_is_users);
    proa_template_output_free(&output);
    proa_template_free(program);
    proa_json_free(variables);
    proa_json_free(tainted);
    return 0;
}
