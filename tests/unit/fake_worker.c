/* fake_worker.c - a worker's request link, and a model that is a hash. */
#include "fake_worker.h"

#include "base/digest.h"
#include "cluster/instance.h"
#include "net/link.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TICK_US = 1000, LINKS_MAX = 8 };

typedef struct fake_call {
    struct fake_call *next;
    proa_link *link;
    uint64_t id;
    proa_wire_leg leg;
    int32_t *prompt, *output;
    int32_t prompt_count, output_count, base; /* base: output that came with the SUBMIT */
    int32_t max_new_tokens, credit;
    int32_t top;
    int64_t next_us;
    bool over;
} fake_call;

struct fake_worker {
    fake_options options;
    proa_link_identity self;
    proa_instance instance;
    char key[PROA_DISCOVERY_KEY_BYTES_MAX];
    proa_wire_card card;
    proa_discovery *discovery;
    proa_loop *loop;
    proa_listener *listener;
    pthread_t thread;
    bool alive;
    _Atomic int mood;
    _Atomic bool hang_up, drain, stop;
    fake_counts counts;
    proa_link *links[LINKS_MAX];
    fake_call *calls;
    proa_arena *arena;
    proa_buf scratch;
    int64_t clock_us; /* ticks */
};

static void must(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "fake worker: %s\n", what);
    abort();
}

/* ---- the model ---- */

const fake_file fake_files[FAKE_FILES] = {{"config.json", 700}, {"empty.txt", 0}, {"tokenizer.json", 900001}};

uint8_t fake_file_byte(int file, size_t offset)
{
    return (uint8_t)(offset * 31 + offset / 1000 + (size_t)file);
}

int32_t fake_token(const int32_t *prompt, int32_t prompt_count, const int32_t *output, int32_t output_count)
{
    uint64_t h = proa_digest(prompt, (size_t)prompt_count * sizeof *prompt, 1);
    h = proa_digest(output, (size_t)output_count * sizeof *output, h);
    return (int32_t)(h % FAKE_VOCAB);
}

int32_t fake_token_stop(const int32_t *prompt, int32_t prompt_count)
{
    uint64_t h = proa_digest(prompt, (size_t)prompt_count * sizeof *prompt, 2);
    return h % 2 == 0 ? (int32_t)(h / 2 % 60) : -1;
}

/* ---- answering ---- */

static void send_scratch(fake_worker *w, proa_link *link, proa_wire_type type)
{
    proa_link_send(link, (uint16_t)type, w->scratch.data, w->scratch.length);
}

static void send_kv_events(fake_worker *w, const fake_call *c)
{
    enum { BLOCKS_MAX = 64 };
    uint64_t hashes[BLOCKS_MAX], hash = 0;
    bool stored[BLOCKS_MAX];
    uint32_t count = 0;
    for (; count < BLOCKS_MAX && (int32_t)(count + 1) * PROA_KV_BLOCK_TOKENS <= c->prompt_count; count++) {
        hash = proa_digest(c->prompt + (size_t)count * PROA_KV_BLOCK_TOKENS,
                           PROA_KV_BLOCK_TOKENS * sizeof *c->prompt, hash);
        hashes[count] = hash;
        stored[count] = true;
    }
    proa_buf_clear(&w->scratch);
    proa_wire_put_kv_events(&w->scratch,
                            &(proa_wire_kv_events){.count = count, .hashes = hashes, .stored = stored});
    send_scratch(w, c->link, PROA_WIRE_KV_EVENTS);
}

static void finish(fake_worker *w, fake_call *c, proa_finish_reason reason, proa_status status,
                   uint64_t blame)
{
    proa_wire_finish m = {.id = c->id, .blame = blame};
    m.finish = (proa_engine_finish){.reason = reason, .matched = -1};
    m.finish.usage.output_tokens = c->output_count;
    m.finish.usage.prompt_tokens = c->prompt_count;
    if (status != PROA_OK)
        proa_error_set(&m.finish.error, status, "the fake is in a mood");
    if (w->options.kv_events && reason != PROA_FINISH_ABORT && c->leg != PROA_LEG_DECODE)
        send_kv_events(w, c);
    proa_buf_clear(&w->scratch);
    proa_wire_put_finish(&w->scratch, &m);
    send_scratch(w, c->link, PROA_WIRE_FINISH);
    c->over = true;
    w->counts.running--;
}

static void send_tokens(fake_worker *w, fake_call *c, int32_t count)
{
    proa_sample_result *tokens = proa_arena_array(w->arena, (size_t)count, sizeof *tokens);
    bool stop = false;
    for (int32_t i = 0; i < count; i++) {
        tokens[i].token = fake_token(c->prompt, c->prompt_count, c->output, c->output_count);
        tokens[i].logprob = -(float)(tokens[i].token % 100) / 8;
        tokens[i].top_count = c->top > 0 ? c->top : 0;
        stop = fake_token_stop(c->prompt, c->prompt_count) == c->output_count;
        c->output[c->output_count++] = tokens[i].token;
    }
    proa_wire_tokens m = {.id = c->id, .count = (uint32_t)count, .tokens = tokens, .stop = stop};
    proa_buf_clear(&w->scratch);
    proa_wire_put_tokens(&w->scratch, &m);
    send_scratch(w, c->link, PROA_WIRE_TOKENS);
    c->credit -= count;
    if (stop)
        finish(w, c, PROA_FINISH_STOP, PROA_OK, 0);
    else if (c->output_count == c->max_new_tokens)
        finish(w, c, PROA_FINISH_LENGTH, PROA_OK, 0);
}

static void hang_up(fake_worker *w)
{
    for (fake_call *c = w->calls; c != NULL; c = c->next) {
        w->counts.running -= !c->over;
        c->over = true;
    }
    for (int i = 0; i < LINKS_MAX; i++) {
        proa_link_close(w->links[i]);
        w->counts.links -= w->links[i] != NULL;
        w->links[i] = NULL;
    }
}

/* What a mood does after two tokens; true: the call has been dealt with. */
static bool misbehave(fake_worker *w, fake_call *c)
{
    int mood = w->mood;
    if (mood == FAKE_WELL || c->leg == PROA_LEG_PREFILL || c->output_count < c->base + 2)
        return false;
    switch (mood) {
    case FAKE_FAILS: finish(w, c, PROA_FINISH_ABORT, PROA_ERR_DEVICE, 0); return true;
    case FAKE_CUTS_SHORT: finish(w, c, PROA_FINISH_LENGTH, PROA_OK, 0); return true;
    case FAKE_BABBLES: proa_link_send(c->link, PROA_WIRE_TOKENS, "\1\2\3", 3); return true;
    case FAKE_HANGS_UP: hang_up(w); return true;
    case FAKE_OVERSPENDS:
        if (c->max_new_tokens - c->output_count > c->credit + 1 && c->credit < 1000) {
            while (!c->over && c->credit >= 0 &&
                   fake_token_stop(c->prompt, c->prompt_count) != c->output_count)
                send_tokens(w, c, 1);
            return c->credit < 0; /* else the next token is the last */
        }
        return false;
    default: return false;
    }
}

static void step_call(fake_worker *w, fake_call *c)
{
    if (c->over || w->clock_us < c->next_us)
        return;
    if (c->leg == PROA_LEG_PREFILL) {
        finish(w, c, PROA_FINISH_LENGTH, PROA_OK, 0);
        return;
    }
    proa_arena_reset(w->arena);
    if (misbehave(w, c) || c->credit <= 0)
        return;
    c->next_us = w->clock_us + w->options.token_us;
    send_tokens(w, c, 1);
}

static void sweep(fake_worker *w)
{
    for (fake_call **at = &w->calls; *at != NULL;) {
        fake_call *c = *at;
        if (!c->over) {
            at = &c->next;
            continue;
        }
        *at = c->next;
        free(c->prompt);
        free(c->output);
        free(c);
    }
}

static void send_load(fake_worker *w, proa_link *link)
{
    proa_wire_load load = {.draining = w->drain};
    load.stats.running = w->counts.running;
    load.stats.kv_blocks_total = 1000;
    load.stats.output_tokens = 1;
    proa_buf_clear(&w->scratch);
    proa_wire_put_load(&w->scratch, &load);
    send_scratch(w, link, PROA_WIRE_LOAD);
}

static void on_tick(void *context)
{
    fake_worker *w = context;
    w->clock_us += TICK_US;
    for (fake_call *c = w->calls; c != NULL; c = c->next)
        step_call(w, c);
    sweep(w);
    for (int i = 0; i < LINKS_MAX && w->clock_us % 50000 == 0; i++) {
        if (w->links[i] != NULL)
            send_load(w, w->links[i]);
    }
}

static void on_wake(void *context)
{
    fake_worker *w = context;
    if (atomic_exchange(&w->hang_up, false))
        hang_up(w);
    while (w->stop)
        usleep(1000);
    for (int i = 0; i < LINKS_MAX && w->drain; i++) {
        if (w->links[i] != NULL)
            send_load(w, w->links[i]);
    }
}

/* ---- messages ---- */

static bool fits(const fake_worker *w, const proa_wire_submit *m)
{
    bool pair = m->leg != PROA_LEG_COMBINED;
    return m->leg == w->card.leg && m->epoch == w->self.epoch && (m->room != 0) == pair &&
           (m->peer_instance != 0) == pair && (m->peer_epoch != 0) == pair &&
           (m->bootstrap[0] != 0) == (m->leg == PROA_LEG_DECODE);
}

static int32_t *copy_ids(const int32_t *ids, int32_t count, int32_t room)
{
    int32_t *copy = calloc((size_t)room + 1, sizeof *copy);
    must(copy != NULL, "out of memory");
    if (count > 0)
        memcpy(copy, ids, (size_t)count * sizeof *copy);
    return copy;
}

static void take_submit(fake_worker *w, proa_link *link, const uint8_t *body, size_t length)
{
    proa_wire_submit m;
    proa_error err = {0};
    proa_arena_reset(w->arena);
    must(proa_wire_get_submit(body, length, w->arena, &m, &err), err.text);
    w->counts.submits++;
    w->counts.rooms_wrong += !fits(w, &m);
    const proa_engine_request *r = &m.request;
    int32_t left = FAKE_CONTEXT - r->prompt_count;
    fake_call *c = calloc(1, sizeof *c);
    must(c != NULL, "out of memory");
    *c = (fake_call){.next = w->calls, .link = link, .id = m.id, .leg = m.leg};
    c->prompt_count = r->prompt_count;
    c->output_count = c->base = r->output_count;
    c->max_new_tokens = r->max_new_tokens < left ? r->max_new_tokens : left;
    c->prompt = copy_ids(r->prompt_ids, r->prompt_count, r->prompt_count);
    c->output = copy_ids(r->output_ids, r->output_count, c->max_new_tokens);
    c->credit = r->credit;
    c->top = r->top_logprobs;
    c->next_us = w->clock_us + (m.leg == PROA_LEG_PREFILL ? 2 * TICK_US : 0);
    w->calls = c;
    w->counts.running++;
    if (w->mood == FAKE_REFUSES || w->drain)
        finish(w, c, PROA_FINISH_ABORT, PROA_ERR_OVERLOADED, 0);
    else if (w->mood == FAKE_BLAMES && m.leg == PROA_LEG_DECODE)
        finish(w, c, PROA_FINISH_ABORT, PROA_ERR_UNREACHABLE, m.peer_instance);
    else if (w->mood == FAKE_HANGS_UP_NOW)
        hang_up(w);
    else if (w->options.poison != 0 && r->prompt_ids[0] == w->options.poison)
        hang_up(w);
}

static fake_call *find(const fake_worker *w, const proa_link *link, uint64_t id)
{
    fake_call *c = w->calls;
    while (c != NULL && (c->link != link || c->id != id || c->over))
        c = c->next;
    return c;
}

static void send_files(fake_worker *w, proa_link *link)
{
    uint8_t *piece = malloc(PROA_WIRE_CHUNK_MAX);
    must(piece != NULL, "out of memory");
    for (int f = 0; f < FAKE_FILES; f++) {
        size_t bytes = fake_files[f].bytes, at = 0;
        do {
            size_t n = bytes - at < PROA_WIRE_CHUNK_MAX ? bytes - at : PROA_WIRE_CHUNK_MAX;
            if (w->mood == FAKE_SLOW_FILES && at > bytes / 2) {
                hang_up(w);
                free(piece);
                return;
            }
            if (w->mood == FAKE_WRONG_FILES && at + n == bytes && f == 2)
                n++;
            for (size_t i = 0; i < n; i++)
                piece[i] = fake_file_byte(f, at + i);
            proa_wire_file m = {.index = (uint32_t)f, .offset = at, .data = piece, .length = (uint32_t)n};
            proa_buf_clear(&w->scratch);
            proa_wire_put_file(&w->scratch, &m);
            send_scratch(w, link, PROA_WIRE_FILE);
            at += n;
        } while (at < bytes);
    }
    free(piece);
}

static void on_message(void *context, proa_link *link, uint16_t type, const uint8_t *body, size_t length)
{
    fake_worker *w = context;
    proa_wire_cancel cancel;
    proa_wire_grant grant;
    proa_error err;
    fake_call *c;
    switch ((proa_wire_type)type) {
    case PROA_WIRE_SUBMIT: take_submit(w, link, body, length); break;
    case PROA_WIRE_CANCEL:
        must(proa_wire_get_cancel(body, length, &cancel, &err), "a bad CANCEL");
        if (w->counts.cancels++ == 0 && w->mood == FAKE_HARD_OF_HEARING)
            break;
        c = find(w, link, cancel.id);
        if (c != NULL)
            finish(w, c, PROA_FINISH_ABORT, PROA_ERR_CANCELLED, 0);
        break;
    case PROA_WIRE_GRANT:
        must(proa_wire_get_grant(body, length, &grant, &err), "a bad GRANT");
        w->counts.grants++;
        c = find(w, link, grant.id);
        if (c != NULL)
            c->credit += (int32_t)grant.tokens;
        break;
    case PROA_WIRE_ASK_FILES: send_files(w, link); break;
    case PROA_WIRE_FLUSH: w->counts.flushes++; break;
    default: must(false, "a message that is not for a worker");
    }
}

static void on_up(void *context, proa_link *link)
{
    fake_worker *w = context;
    for (int i = 0; i < LINKS_MAX; i++) {
        if (w->links[i] != NULL)
            continue;
        w->links[i] = link;
        w->counts.links++;
        w->card.draining = w->drain;
        proa_buf_clear(&w->scratch);
        proa_wire_put_card(&w->scratch, &w->card);
        send_scratch(w, link, PROA_WIRE_CARD);
        return;
    }
    proa_link_close(link);
}

static void on_down(void *context, proa_link *link, const proa_error *why)
{
    fake_worker *w = context;
    (void)why;
    for (int i = 0; i < LINKS_MAX; i++) {
        w->counts.links -= w->links[i] == link;
        if (w->links[i] == link)
            w->links[i] = NULL;
    }
    for (fake_call *c = w->calls; c != NULL; c = c->next) {
        if (c->link == link && !c->over) {
            c->over = true;
            w->counts.running--;
        }
    }
}

/* ---- life ---- */

static void fill_card(fake_worker *w)
{
    const fake_options *o = &w->options;
    w->card = (proa_wire_card){
        .leg = (uint8_t)o->leg,
        .model_digest = o->model_digest != 0 ? o->model_digest : FAKE_DIGEST,
        .model_name = "fake",
        .model_path = "/fake",
        .context_length = FAKE_CONTEXT,
        .vocab_size = FAKE_VOCAB,
        .kv_tokens = 64000,
        .running_max = o->running_max != 0 ? o->running_max : 64,
        .queued_max = o->queued_max,
        .file_count = FAKE_FILES,
    };
    if (o->leg == PROA_LEG_PREFILL)
        snprintf(w->card.bootstrap, sizeof w->card.bootstrap, "127.0.0.1:%d", 8998);
    for (int i = 0; i < FAKE_FILES; i++) {
        snprintf(w->card.files[i].name, sizeof w->card.files[i].name, "%s", fake_files[i].name);
        w->card.files[i].bytes = fake_files[i].bytes;
    }
}

static void *run(void *context)
{
    proa_loop_run(((fake_worker *)context)->loop);
    return NULL;
}

static void announce(fake_worker *w, proa_registry *registry)
{
    proa_error err = {0};
    const proa_discovery_options discovery = {.backend = "mem", .registry = registry};
    const char *component = w->options.leg == PROA_LEG_PREFILL ? "prefill" : "backend";
    w->instance = (proa_instance){
        .endpoint = "generate", .namespace_name = "test", .id = w->self.instance, .epoch = w->self.epoch};
    snprintf(w->instance.component, sizeof w->instance.component, "%s",
             w->options.component != NULL ? w->options.component : component);
    snprintf(w->instance.address, sizeof w->instance.address, "127.0.0.1:%d",
             proa_listener_port(w->listener));
    proa_instance_key(&w->instance, w->key, sizeof w->key);
    must(proa_discovery_create(&discovery, &w->discovery, &err) == PROA_OK, err.text);
    if (w->options.unlisted)
        return;
    proa_buf value = {0};
    proa_instance_write(&w->instance, &value);
    must(proa_discovery_register(w->discovery, w->key, proa_buf_text(&value), &err) == PROA_OK, err.text);
    proa_buf_free(&value);
}

fake_worker *fake_worker_start(proa_registry *registry, const fake_options *options)
{
    fake_worker *w = calloc(1, sizeof *w);
    proa_error err = {0};
    must(w != NULL, "out of memory");
    w->options = *options;
    w->mood = (int)options->mood;
    w->arena = proa_arena_create(64 << 20);
    proa_random_bytes(&w->self.instance, sizeof w->self.instance);
    proa_random_bytes(&w->self.epoch, sizeof w->self.epoch);
    w->self.instance = options->instance != 0 ? options->instance : w->self.instance >> 12 | 1;
    snprintf(w->self.role, sizeof w->self.role, "backend");
    snprintf(w->self.name, sizeof w->self.name, "fake");
    fill_card(w);
    must(proa_loop_create(on_wake, w, &w->loop, &err) == PROA_OK, err.text);
    must(proa_loop_add_timer(w->loop, TICK_US, on_tick, w) != NULL, "no timer");
    const proa_link_hooks hooks = {.up = on_up, .message = on_message, .down = on_down, .context = w};
    const proa_link_security security = {0};
    must(proa_listener_create(w->loop, &security, &w->self, "127.0.0.1", 0, &hooks, &w->listener, &err) ==
             PROA_OK,
         err.text);
    must(pthread_create(&w->thread, NULL, run, w) == 0, "no thread");
    w->alive = true;
    announce(w, registry);
    return w;
}

void fake_worker_kill(fake_worker *w)
{
    if (!w->alive)
        return;
    w->alive = w->stop = false;
    proa_loop_stop(w->loop);
    pthread_join(w->thread, NULL);
    hang_up(w);
    sweep(w);
    proa_listener_free(w->listener);
    proa_loop_free(w->loop);
}

void fake_worker_free(fake_worker *w)
{
    fake_worker_kill(w);
    proa_discovery_free(w->discovery);
    proa_arena_free(w->arena);
    proa_buf_free(&w->scratch);
    free(w);
}

void fake_worker_unlist(fake_worker *w)
{
    proa_discovery_unregister(w->discovery, w->key);
}

void fake_worker_set_mood(fake_worker *w, fake_mood mood)
{
    w->mood = (int)mood;
}

void fake_worker_hang_up(fake_worker *w)
{
    w->hang_up = true;
    proa_loop_wake(w->loop);
}

void fake_worker_stop(fake_worker *w, bool stop)
{
    w->stop = stop;
    proa_loop_wake(w->loop);
}

void fake_worker_drain(fake_worker *w)
{
    w->drain = true;
    proa_loop_wake(w->loop);
}

uint64_t fake_worker_instance(const fake_worker *w)
{
    return w->self.instance;
}

fake_counts *fake_worker_counts(fake_worker *w)
{
    return &w->counts;
}
