/* fake_server.c - the HTTP server over the fake backend, as a program: for system tests of what a model cannot be made to
 * do (fail in the middle, go silent, speak at a given pace).
 *
 *   fake_server MODEL_DIR [port=N] [step_us=N] [fail_after=N] [hang_after=N] [queue_max=N] [context=N] [loading_ms=N] ...
 */
#include "fake_backend.h"

#include "base/log.h"
#include "serve/server.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct setting {
    const char *name;
    double value;
} setting;

static double value_of(const setting *settings, const char *name)
{
    while (strcmp(settings->name, name) != 0)
        settings++;
    return settings->value;
}

typedef struct loader {
    proa_server *server;
    const proa_serve_model *model;
    proa_backend backend;
    int wait_ms;
} loader;

static void *load(void *context)
{
    loader *l = context;
    proa_error err;
    usleep((useconds_t)l->wait_ms * 1000);
    if (proa_server_set_ready(l->server, l->model, &l->backend, &err) != PROA_OK)
        fprintf(stderr, "%s\n", err.text);
    return NULL;
}

static proa_status load_text(const char *dir, proa_serve_model *model, proa_error *err)
{
    proa_tokenizer *tokenizer = NULL;
    proa_chat_format *chat = NULL;
    proa_status status = proa_tokenizer_load(dir, &tokenizer, err);
    if (status == PROA_OK)
        status = proa_chat_format_load(dir, NULL, &chat, err);
    if (status != PROA_OK)
        return status;
    model->path = dir;
    model->tokenizer = tokenizer;
    model->chat = chat;
    model->token_bytes_max = proa_serve_token_bytes_max(tokenizer);
    return PROA_OK;
}

static int serve(const char *dir, const setting *settings, const char *api_key)
{
    proa_error err;
    proa_serve_model model = {
        .limits = {.model_name = "fake", .choices_max = 128, .temperature = 0.6f, .top_p = 0.95f}};
    proa_server_options options = proa_server_default_options();
    options.http.port = (int)value_of(settings, "port");
    options.http.connections_max = (int)value_of(settings, "connections_max");
    options.http.limits.body_bytes_max = (size_t)value_of(settings, "body_max");
    options.http.head_s = value_of(settings, "head_s");
    options.http.body_s = value_of(settings, "body_s");
    options.http.idle_s = value_of(settings, "idle_s");
    options.http.write_stall_s = value_of(settings, "write_stall_s");
    options.model_name = "fake";
    options.version = "0";
    options.api_key = api_key;
    options.drain_s = value_of(settings, "drain_s");
    options.stall_s = value_of(settings, "stall_s");
    options.watchdog_s = value_of(settings, "watchdog_s");
    proa_server *server = NULL;
    if (proa_server_create(&options, &server, &err) != PROA_OK || load_text(dir, &model, &err) != PROA_OK) {
        fprintf(stderr, "fake_server: %s\n", err.text);
        return 1;
    }
    model.limits.vocab_size = proa_tokenizer_vocab_size(model.tokenizer);
    model.limits.top_k = -1;
    model.limits.context_length = (int32_t)value_of(settings, "context");
    const fake_options fake = {
        .step_us = (int32_t)value_of(settings, "step_us"),
        .fail_after = (int32_t)value_of(settings, "fail_after"),
        .hang_after = (int32_t)value_of(settings, "hang_after"),
        .queue_max = (int32_t)value_of(settings, "queue_max"),
        .eos_id = proa_tokenizer_id(model.tokenizer, "<\xef\xbd\x9c"
                                                     "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>"),
    };
    fake_backend *backend = fake_backend_start(&fake);
    loader l = {server, &model, fake_backend_interface(backend), (int)value_of(settings, "loading_ms")};
    pthread_t thread;
    pthread_create(&thread, NULL, load, &l);
    printf("listening on %d\n", proa_server_port(server));
    fflush(stdout);
    proa_server_run(server);
    pthread_join(thread, NULL);
    fake_backend_stop(backend);
    proa_server_free(server);
    proa_chat_format_free((proa_chat_format *)(uintptr_t)model.chat);
    proa_tokenizer_free((proa_tokenizer *)(uintptr_t)model.tokenizer);
    return 0;
}

int main(int argc, char **argv)
{
    static setting settings[] = {
        {"port", 0},          {"step_us", 1000}, {"fail_after", -1},  {"hang_after", -1},
        {"queue_max", 10000}, {"context", 4096}, {"loading_ms", 0},   {"connections_max", 4096},
        {"head_s", 10},       {"body_s", 30},    {"idle_s", 75},      {"write_stall_s", 300},
        {"drain_s", 5},       {"stall_s", 30},   {"watchdog_s", 300}, {"body_max", 32 << 20},
    };
    const char *api_key = NULL;
    for (int i = 2; i < argc; i++) {
        char *equals = strchr(argv[i], '=');
        if (equals == NULL)
            return 2;
        *equals = 0;
        if (strcmp(argv[i], "api_key") == 0)
            api_key = equals + 1;
        for (size_t k = 0; k < sizeof settings / sizeof settings[0]; k++) {
            if (strcmp(argv[i], settings[k].name) == 0)
                settings[k].value = atof(equals + 1);
        }
    }
    return argc >= 2 ? serve(argv[1], settings, api_key) : 2;
}
