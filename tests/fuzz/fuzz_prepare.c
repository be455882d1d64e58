/* fuzz_prepare.c - whole bodies of all endpoints, from JSON to token ids, with the bundled model's tokenizer and
 * template: the first byte picks the endpoint. Run it from the source tree or a build folder in it. */
#include "serve/prepare.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static proa_serve_model model;
static proa_encoder *encoder;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    static const char *const places[] = {"models/tiny-r1", "../models/tiny-r1", "../../../models/tiny-r1"};
    proa_tokenizer *tokenizer = NULL;
    proa_chat_format *chat = NULL;
    proa_error err;
    for (size_t i = 0; i < sizeof places / sizeof places[0] && tokenizer == NULL; i++) {
        if (proa_tokenizer_load(places[i], &tokenizer, &err) == PROA_OK &&
            proa_chat_format_load(places[i], NULL, &chat, &err) != PROA_OK)
            abort();
    }
    if (tokenizer == NULL)
        abort();
    model = (proa_serve_model){.path = "tiny", .tokenizer = tokenizer, .chat = chat};
    model.token_bytes_max = proa_serve_token_bytes_max(tokenizer);
    model.limits = (proa_api_limits){.model_name = "m",
                                     .vocab_size = proa_tokenizer_vocab_size(tokenizer),
                                     .context_length = 256,
                                     .choices_max = 16,
                                     .temperature = 1,
                                     .top_p = 1,
                                     .top_k = -1};
    encoder = proa_encoder_create(tokenizer);
    return encoder == NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    proa_job *job = calloc(1, sizeof *job);
    job->kind = (proa_job_kind)(data[0] % 5);
    proa_buf_append(&job->body, data + 1, size - 1);
    proa_job_run(job, &model, encoder);
    if (job->error.status == 0 && job->kind <= PROA_JOB_GENERATE) {
        const proa_api_request *r = job->request;
        if (r->prompt_count * r->params.n > model.limits.choices_max)
            abort();
        for (int32_t i = 0; i < r->prompt_count; i++) {
            if (job->prompts[i].count == 0 || job->prompts[i].count >= (size_t)model.limits.context_length)
                abort();
            for (size_t k = 0; k < job->prompts[i].count; k++) {
                if (job->prompts[i].data[k] < 0 || job->prompts[i].data[k] >= model.limits.vocab_size)
                    abort();
            }
        }
    }
    proa_job_free(job);
    return 0;
}
