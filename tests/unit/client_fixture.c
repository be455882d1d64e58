/* client_fixture.c - requests and worlds. */
#include "client_fixture.h"

#include "base/random.h"

/* ---- requests ---- */

static void on_token(void *context, const proa_sample_result *token, bool stop)
{
    ask *a = context;
    int32_t count = atomic_load(&a->count);
    if (atomic_load(&a->finishes) != 0 || a->stop || count >= OUTPUT_MAX || a->credit <= 0)
        abort(); /* said after the end, or more than was granted */
    if (token->logprob > 0 || token->top_count != 2)
        abort();
    a->credit--;
    a->output[count] = token->token;
    a->stop = stop;
    atomic_store(&a->count, count + 1);
    if (!a->no_grants && ((count + 1) % 3 == 0 || a->credit == 0)) {
        a->credit += 3;
        proa_client_grant(a->client, a->id, 3);
    }
}

static void on_finish(void *context, const proa_engine_finish *finish)
{
    ask *a = context;
    a->finish = *finish;
    a->finish_us = proa_clock_us();
    if (a->then != NULL)
        a->then_status = ask_submit(a->client, a->then, NULL);
    atomic_fetch_add(&a->finishes, 1);
}

void ask_fill(ask *a, uint64_t seed)
{
    uint32_t w[4];
    proa_random_philox(seed, 0, 9, w);
    a->prompt_count = 1 + (int32_t)(w[0] % PROMPT_MAX);
    a->max_new_tokens = 1 + (int32_t)(w[1] % 100);
    a->window = 1 + (int32_t)(w[2] % WINDOW);
    for (int32_t i = 0; i < a->prompt_count; i++) {
        proa_random_philox(seed, (uint64_t)i, 8, w);
        a->prompt[i] = 1 + (int32_t)(w[0] % (FAKE_VOCAB - 1));
    }
}

proa_status ask_submit(proa_client *client, ask *a, proa_error *err)
{
    a->client = client;
    a->credit = a->window;
    proa_engine_request request = {
        .prompt_ids = a->prompt,
        .prompt_count = a->prompt_count,
        .max_new_tokens = a->max_new_tokens,
        .top_p = 1,
        .repetition_penalty = 1,
        .top_logprobs = 2,
        .credit = a->window,
        .sink = {.token = on_token, .finish = on_finish, .context = a},
    };
    return proa_client_submit(client, &request, &a->id, err);
}

void ask_begin_when_possible(proa_client *client, ask *a, uint64_t seed)
{
    int64_t until = proa_clock_us() + 20 * SECOND;
    proa_error err = {0};
    ask_fill(a, seed);
    while (ask_submit(client, a, &err) != PROA_OK) {
        if (proa_clock_us() > until)
            fail_msg("%s", err.text);
        usleep(1000);
    }
}

void ask_begin(proa_client *client, ask *a, uint64_t seed)
{
    proa_error err = {0};
    ask_fill(a, seed);
    if (ask_submit(client, a, &err) != PROA_OK)
        fail_msg("%s", err.text);
}

void ask_wait(ask *a)
{
    WAIT_FOR(a->finishes > 0);
}

void ask_check_whole(ask *a)
{
    ask_wait(a);
    if (a->finish.reason == PROA_FINISH_ABORT)
        fail_msg("%s", a->finish.error.text);
    int32_t count = 0;
    bool stop = false;
    for (; count < a->max_new_tokens && !stop; count++) {
        stop = fake_token_stop(a->prompt, a->prompt_count) == count;
        if (count >= a->count || a->output[count] != fake_token(a->prompt, a->prompt_count, a->output, count))
            fail_msg("token %d of %d is wrong or absent", count, a->count);
    }
    assert_int_equal(a->count, count);
    assert_int_equal(a->stop, stop);
    assert_int_equal(a->finish.reason, stop ? PROA_FINISH_STOP : PROA_FINISH_LENGTH);
    assert_int_equal(a->finish.matched, stop ? a->output[count - 1] : -1);
    assert_int_equal(a->finish.usage.output_tokens, count);
    assert_int_equal(a->finish.usage.prompt_tokens, a->prompt_count);
    assert_int_equal(a->finishes, 1);
}

void ask_check_error(ask *a, proa_status status, const char *says)
{
    ask_wait(a);
    assert_int_equal(a->finish.reason, PROA_FINISH_ABORT);
    if (a->finish.error.status != status || strstr(a->finish.error.text, says) == NULL)
        fail_msg("%s: %s", proa_status_name(a->finish.error.status), a->finish.error.text);
}

/* ---- the world ---- */

static void on_model(void *context, const proa_wire_card *card, const char *dir)
{
    world *w = context;
    assert_int_equal(card->model_digest, FAKE_DIGEST);
    snprintf(w->dir, sizeof w->dir, "%s", dir != NULL ? dir : "");
    atomic_fetch_add(&w->models, 1);
}

fake_worker *world_add(world *w, fake_options options)
{
    fake_worker *worker = fake_worker_start(w->registry, &options);
    w->workers[w->worker_count++] = worker;
    return worker;
}

fake_worker *world_add_leg(world *w, proa_wire_leg leg)
{
    return world_add(w, (fake_options){.leg = leg});
}

int world_ready(world *w)
{
    proa_buf out = {0};
    int count = 0;
    proa_client_write_instances(w->client, &out);
    for (const char *at = proa_buf_text(&out); (at = strstr(at, "\"status\":\"ready\"")) != NULL; at++)
        count++;
    proa_buf_free(&out);
    return count;
}

void world_start_with(world *w, proa_client_options options)
{
    proa_error err = {0};
    const proa_discovery_options discovery = {.backend = "mem", .registry = w->registry};
    if (proa_discovery_create(&discovery, &w->discovery, &err) != PROA_OK)
        fail_msg("%s", err.text);
    options.namespace_name = "test";
    options.discovery = w->discovery;
    options.identity = (proa_link_identity){.instance = 7, .epoch = 8, .role = "frontend", .name = "test"};
    options.on_model = on_model;
    options.context = w;
    if (proa_client_create(&options, &w->client, &err) != PROA_OK)
        fail_msg("%s", err.text);
}

void world_start(world *w)
{
    world_start_with(w, (proa_client_options){.router_mode = PROA_ROUTER_LEAST_LOADED, .migration_limit = 3});
    WAIT_FOR(world_ready(w) == w->worker_count);
}

int world_setup(void **state)
{
    world *w = calloc(1, sizeof *w);
    w->registry = proa_registry_create();
    w->asks = calloc(ASKS_MAX, sizeof *w->asks);
    *state = w;
    return 0;
}

void world_end_client(world *w)
{
    proa_discovery_free(w->discovery);
    proa_client_free(w->client);
    w->discovery = NULL;
    w->client = NULL;
}

int world_teardown(void **state)
{
    world *w = *state;
    world_end_client(w);
    for (int i = 0; i < w->worker_count; i++) {
        if (fake_worker_counts(w->workers[i])->rooms_wrong != 0)
            return -1;
        fake_worker_free(w->workers[i]);
    }
    proa_registry_free(w->registry);
    free(w->asks);
    free(w);
    return 0;
}

void world_check_idle(world *w)
{
    for (int i = 0; i < w->worker_count; i++)
        WAIT_FOR(fake_worker_counts(w->workers[i])->running == 0);
}

double world_metric(world *w, const char *name)
{
    proa_buf out = {0};
    char wanted[128];
    snprintf(wanted, sizeof wanted, "\nproa:%s ", name);
    proa_client_write_metrics(w->client, &out);
    const char *at = strstr(proa_buf_text(&out), wanted);
    if (at == NULL)
        fail_msg("no metric %s in %s", name, proa_buf_text(&out));
    double value = strtod(at + strlen(wanted), NULL);
    proa_buf_free(&out);
    return value;
}
