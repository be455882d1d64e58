/* stand_in.c - see stand_in.h. */
#include "stand_in.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- nothing is allocated in a step: the linker sends every allocation here ---- */

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *old, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *old, size_t bytes);

static _Thread_local bool in_step;

void *__wrap_malloc(size_t bytes)
{
    PROA_ASSERT(!in_step);
    return __real_malloc(bytes);
}

void *__wrap_calloc(size_t count, size_t bytes)
{
    PROA_ASSERT(!in_step);
    return __real_calloc(count, bytes);
}

void *__wrap_realloc(void *old, size_t bytes)
{
    PROA_ASSERT(!in_step);
    return __real_realloc(old, bytes);
}

/* ---- the model ---- */

static proa_status stand_in_copy(void *context, const proa_kv_copy *copies, int32_t count, proa_error *err)
{
    (void)err;
    fake_model_copy(&((stand_in *)context)->fake, copies, count);
    return PROA_OK;
}

static proa_status stand_in_step(void *context, const proa_step *step, float **logits, proa_error *err)
{
    stand_in *s = context;
    pthread_mutex_lock(&s->gate);
    pthread_mutex_unlock(&s->gate);
    if (++s->steps == s->fail_at)
        return proa_error_set(err, s->fail_with, "the test pulled a cable at step %d", s->steps);
    PROA_ASSERT(step->logit_count <= STAND_IN_ROWS_MAX);
    fake_model_step(&s->fake, step, s->digests);
    *logits = s->logits;
    return PROA_OK;
}

int32_t stand_in_token(uint64_t digest, const proa_sample_params *params)
{
    uint64_t sum = 0;
    for (int32_t i = 0; i < params->count_count; i++) {
        const proa_token_count *c = &params->counts[i];
        sum += fake_mix((uint64_t)c->id, (uint64_t)c->prompt << 32 | (uint32_t)c->output);
    }
    uint64_t x = fake_mix(digest, sum);
    if (params->temperature > 0)
        x = fake_mix(fake_mix(x, params->seed), (uint64_t)params->position);
    for (;; x = fake_mix(x, 1)) {
        int32_t token = (int32_t)(x % STAND_IN_VOCAB);
        bool banned = false;
        for (int32_t i = 0; i < params->banned_count; i++)
            banned |= params->banned[i] == token;
        if (!banned)
            return token;
    }
}

static proa_status stand_in_sample(void *context, const proa_sample_args *args, proa_error *err)
{
    (void)err;
    stand_in *s = context;
    for (int32_t i = 0; i < args->rows; i++) {
        args->results[i] = (proa_sample_result){.token = stand_in_token(s->digests[i], &args->params[i])};
        if (s->steps == s->no_token_at)
            args->results[i].token = -1;
    }
    return PROA_OK;
}

static void stand_in_guard(void *context, bool inside)
{
    ((stand_in *)context)->guarded += inside;
    in_step = inside;
}

/* ---- the engine ---- */

proa_engine *stand_in_start(stand_in *s, const proa_engine_options *options)
{
    static const proa_model_config config = {
        .vocab_size = STAND_IN_VOCAB, .eos_token_ids = {STAND_IN_EOS}, .eos_count = 1};
    proa_error err = {0};
    proa_engine *engine = NULL;
    memset(s, 0, sizeof *s);
    fake_model_init(&s->fake, options->max_total_tokens / PROA_KV_BLOCK_TOKENS, STAND_IN_VOCAB);
    pthread_mutex_init(&s->gate, NULL);
    const proa_engine_model model = {
        .context = s,
        .copy = stand_in_copy,
        .step = stand_in_step,
        .sample_context = s,
        .sample = stand_in_sample,
        .guard = stand_in_guard,
    };
    if (proa_engine_start_with(options, &config, &model, &engine, &err) != PROA_OK) {
        printf("%s\n", err.text);
        abort();
    }
    return engine;
}

void stand_in_free(stand_in *s)
{
    fake_model_free(&s->fake);
    pthread_mutex_destroy(&s->gate);
}
