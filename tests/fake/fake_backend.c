/* fake_backend.c - one thread, one list of requests under a lock. */
#include "fake_backend.h"

#include "base/clock.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct fake_request {
    struct fake_request *next;
    uint64_t id;
    int32_t *prompt;
    int32_t prompt_count;
    int32_t max_new_tokens;
    int32_t min_new_tokens;
    int32_t made;
    int32_t top_logprobs;
    int64_t credit;
    bool ignore_eos;
    bool cancelled;
    proa_engine_sink sink;
} fake_request;

struct fake_backend {
    fake_options options;
    pthread_t thread;
    pthread_mutex_t mutex;
    fake_request *requests;
    proa_engine_stats stats;
    uint64_t next_id;
    bool stopping;
};

static void finish(fake_backend *f, fake_request *r, proa_finish_reason reason, int32_t matched,
                   proa_status status, const char *text)
{
    proa_engine_finish end = {.reason = reason, .matched = matched};
    end.usage = (proa_engine_usage){r->prompt_count, 0, r->made, 0};
    if (status != PROA_OK)
        proa_error_set(&end.error, status, "%s", text);
    r->sink.finish(r->sink.context, &end);
    f->stats.requests_finished++;
    free(r->prompt);
    free(r);
}

/* One token; true when the request is over (and gone). */
static bool make_token(fake_backend *f, fake_request *r)
{
    int32_t id = r->prompt[r->made % r->prompt_count];
    bool eos = id == f->options.eos_id && !r->ignore_eos && r->made >= r->min_new_tokens;
    proa_sample_result token = {.token = id, .logprob = -0.5f};
    for (int32_t i = 0; i < r->top_logprobs; i++) {
        token.top_ids[i] = (id + i) % 256;
        token.top_logprobs[i] = -0.5f - (float)i;
        token.top_count++;
    }
    r->made++;
    r->credit--;
    f->stats.output_tokens++;
    r->sink.token(r->sink.context, &token, eos);
    if (eos)
        finish(f, r, PROA_FINISH_STOP, id, PROA_OK, NULL);
    else if (r->made == r->max_new_tokens)
        finish(f, r, PROA_FINISH_LENGTH, -1, PROA_OK, NULL);
    else
        return false;
    return true;
}

static bool step_request(fake_backend *f, fake_request *r)
{
    if (r->cancelled) {
        finish(f, r, PROA_FINISH_ABORT, -1, PROA_ERR_CANCELLED, "cancelled");
        return true;
    }
    if (f->options.fail_after >= 0 && r->made >= f->options.fail_after) {
        finish(f, r, PROA_FINISH_ABORT, -1, PROA_ERR_DEVICE, "the fake device is gone");
        return true;
    }
    return r->credit > 0 && make_token(f, r);
}

static void step(fake_backend *f)
{
    bool silent = f->options.hang_after >= 0 && f->stats.steps >= (uint64_t)f->options.hang_after;
    if (f->requests == NULL || (silent && !f->stopping))
        return;
    for (fake_request **at = &f->requests; *at != NULL;) {
        fake_request *r = *at, *next = r->next;
        if (step_request(f, r))
            *at = next;
        else
            at = &r->next;
    }
    f->stats.steps++;
    f->stats.last_step_us = proa_clock_us();
}

static void *run(void *context)
{
    fake_backend *f = context;
    for (bool more = true; more;) {
        pthread_mutex_lock(&f->mutex);
        for (fake_request *r = f->requests; f->stopping && r != NULL; r = r->next)
            r->cancelled = true;
        step(f);
        more = !f->stopping || f->requests != NULL;
        pthread_mutex_unlock(&f->mutex);
        usleep((useconds_t)f->options.step_us);
    }
    return NULL;
}

/* --- the interface --- */

static proa_status submit(void *context, const proa_engine_request *request, uint64_t *id, proa_error *err)
{
    fake_backend *f = context;
    fake_request *r = calloc(1, sizeof *r);
    int32_t running = 0;
    pthread_mutex_lock(&f->mutex);
    for (fake_request *other = f->requests; other != NULL; other = other->next)
        running++;
    if (running >= f->options.queue_max) {
        pthread_mutex_unlock(&f->mutex);
        free(r);
        return proa_error_set(err, PROA_ERR_OVERLOADED, "%d requests run already", running);
    }
    r->id = *id = ++f->next_id;
    r->prompt_count = request->prompt_count;
    r->prompt = malloc((size_t)request->prompt_count * sizeof *r->prompt);
    memcpy(r->prompt, request->prompt_ids, (size_t)request->prompt_count * sizeof *r->prompt);
    r->max_new_tokens = request->max_new_tokens;
    r->min_new_tokens = request->min_new_tokens;
    r->ignore_eos = request->ignore_eos;
    r->top_logprobs = request->top_logprobs;
    r->credit = request->credit;
    r->sink = request->sink;
    r->next = f->requests;
    f->requests = r;
    f->stats.prompt_tokens += (uint64_t)request->prompt_count;
    pthread_mutex_unlock(&f->mutex);
    return PROA_OK;
}

static fake_request *find(fake_backend *f, uint64_t id)
{
    fake_request *r = f->requests;
    while (r != NULL && r->id != id)
        r = r->next;
    return r;
}

static void cancel(void *context, uint64_t id)
{
    fake_backend *f = context;
    pthread_mutex_lock(&f->mutex);
    fake_request *r = find(f, id);
    if (r != NULL)
        r->cancelled = true;
    pthread_mutex_unlock(&f->mutex);
}

static void grant(void *context, uint64_t id, int32_t tokens)
{
    fake_backend *f = context;
    pthread_mutex_lock(&f->mutex);
    fake_request *r = find(f, id);
    if (r != NULL)
        r->credit += tokens;
    pthread_mutex_unlock(&f->mutex);
}

static void get_stats(void *context, proa_engine_stats *stats)
{
    fake_backend *f = context;
    pthread_mutex_lock(&f->mutex);
    *stats = f->stats;
    for (fake_request *r = f->requests; r != NULL; r = r->next)
        stats->running++;
    pthread_mutex_unlock(&f->mutex);
}

static proa_status flush_cache(void *context)
{
    fake_backend *f = context;
    pthread_mutex_lock(&f->mutex);
    bool busy = f->requests != NULL;
    pthread_mutex_unlock(&f->mutex);
    return busy ? PROA_BUSY : PROA_OK;
}

fake_backend *fake_backend_start(const fake_options *options)
{
    fake_backend *f = calloc(1, sizeof *f);
    f->options = *options;
    pthread_mutex_init(&f->mutex, NULL);
    pthread_create(&f->thread, NULL, run, f);
    return f;
}

void fake_backend_stop(fake_backend *fake)
{
    pthread_mutex_lock(&fake->mutex);
    fake->stopping = true;
    pthread_mutex_unlock(&fake->mutex);
    pthread_join(fake->thread, NULL);
    pthread_mutex_destroy(&fake->mutex);
    free(fake);
}

proa_backend fake_backend_interface(fake_backend *fake)
{
    return (proa_backend){.submit = submit,
                          .cancel = cancel,
                          .grant = grant,
                          .get_stats = get_stats,
                          .flush_cache = flush_cache,
                          .context = fake};
}
