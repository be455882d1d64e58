/* fuzz_chat_request.c - the bodies of the three generation endpoints: the first byte picks one. */
#include "serve/request.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const proa_api_limits limits = {.model_name = "m",
                                           .vocab_size = 100,
                                           .context_length = 64,
                                           .choices_max = 128,
                                           .temperature = 1,
                                           .top_p = 1};
    if (size < 1)
        return 0;
    proa_error err;
    proa_json *body = proa_json_parse((const char *)data + 1, size - 1, &err);
    if (body == NULL)
        return 0;
    proa_api_request *request;
    proa_api_error error = {0};
    bool good = data[0] % 3 == 0   ? proa_chat_request_parse(body, &limits, &request, &error)
                : data[0] % 3 == 1 ? proa_completions_request_parse(body, &limits, &request, &error)
                                   : proa_generate_request_parse(body, &limits, &request, &error);
    if (good != (request != NULL) || good != (error.status == 0))
        abort();
    if (good && (request->prompt_count * request->params.n > limits.choices_max || request->params.n < 1))
        abort();
    proa_buf text = {0};
    proa_api_error_write(&error, &text);
    proa_buf_free(&text);
    proa_api_request_free(request);
    return 0;
}
