/* call_plan.c - the state machine drawn in call_plan.h. Every way out of an attempt leads through fail() or end_well(), every
 * end through finish(). */
#include "cluster/call_plan.h"

#include <stdlib.h>
#include <string.h>

enum { OUTPUT_FIRST = 256, CREDIT_MAX = INT32_MAX / 2 };

struct proa_call_plan {
    proa_call_state state;
    int32_t migration_limit;
    proa_engine_request
        request;     /* its arrays are ours; output_ids and output_count: tokens delivered so far */
    int32_t *output; /* = request.output_ids */
    int32_t output_capacity;
    int32_t credit;   /* granted by the sink and not used by a token */
    int32_t withheld; /* of that, not passed on to the main leg yet: it waits for the leg's first tokens */
    int32_t vocab_size;
    bool stopped; /* the last token ends the sequence */
    /* of the current attempt */
    uint32_t attempt;
    bool pair;
    bool heard; /* the main leg has sent tokens */
    bool open[PROA_CALL_LEGS];
    uint64_t room;
    uint64_t epochs[PROA_CALL_LEGS];
    /* over all attempts */
    int32_t replays;
    int64_t deadline_us; /* for a worker to be picked; 0: none set */
    proa_error last;     /* why the latest attempt failed */
    uint64_t refused[PROA_CALL_REFUSALS_MAX];
    int32_t refused_count;
};

/* ---- making ---- */

static proa_status check(const proa_engine_request *r, proa_error *err)
{
    const struct {
        const char *name;
        int32_t value, least, most;
    } table[] = {
        {"prompt_count", r->prompt_count, 1, PROA_WIRE_PROMPT_MAX},
        {"output_count", r->output_count, 0, PROA_WIRE_PROMPT_MAX},
        {"max_new_tokens", r->max_new_tokens, 1, INT32_MAX},
        {"stop_count", r->stop_count, 0, PROA_WIRE_STOPS_MAX},
        {"bias_count", r->bias_count, 0, PROA_WIRE_BIAS_MAX},
        {"top_logprobs", r->top_logprobs, -1, PROA_SAMPLE_MAX_TOP_LOGPROBS},
        {"credit", r->credit, 1, CREDIT_MAX},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (table[i].value < table[i].least)
            return proa_error_set(err, PROA_ERR_INVALID, "%s is %d; it must be at least %d", table[i].name,
                                  table[i].value, table[i].least);
        if (table[i].value > table[i].most)
            return proa_error_set(err, PROA_ERR_TOO_LONG, "%s is %d; it must be at most %d", table[i].name,
                                  table[i].value, table[i].most);
    }
    if (r->output_count >= r->max_new_tokens)
        return proa_error_set(err, PROA_ERR_INVALID, "output_count is %d; it must be below max_new_tokens %d",
                              r->output_count, r->max_new_tokens);
    return PROA_OK;
}

/* A copy of count elements; one of at least a byte, so that NULL means that memory is out. */
static void *copy(const void *from, int32_t count, size_t element_bytes)
{
    size_t bytes = (size_t)count * element_bytes;
    void *to = malloc(bytes + 1);
    if (to != NULL && bytes > 0)
        memcpy(to, from, bytes);
    return to;
}

proa_status proa_call_plan_create(const proa_engine_request *request, int32_t migration_limit,
                                  proa_call_plan **plan, proa_error *err)
{
    proa_status status = check(request, err);
    if (status != PROA_OK)
        return status;
    proa_call_plan *p = calloc(1, sizeof *p);
    if (p == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "out of memory for a request");
    p->migration_limit = migration_limit;
    p->request = *request;
    p->request.prompt_ids = copy(request->prompt_ids, request->prompt_count, sizeof(int32_t));
    p->request.stop_ids = copy(request->stop_ids, request->stop_count, sizeof(int32_t));
    p->request.bias = copy(request->bias, request->bias_count, sizeof(proa_logit_bias));
    p->output_capacity = request->output_count + OUTPUT_FIRST;
    p->output = malloc((size_t)p->output_capacity * sizeof *p->output);
    p->request.output_ids = p->output;
    if (p->request.prompt_ids == NULL || p->request.stop_ids == NULL || p->request.bias == NULL ||
        p->output == NULL) {
        proa_call_plan_free(p);
        return proa_error_set(err, PROA_ERR_MEMORY, "out of memory for a request of %d prompt tokens",
                              request->prompt_count);
    }
    if (request->output_count > 0)
        memcpy(p->output, request->output_ids, (size_t)request->output_count * sizeof *p->output);
    p->credit = request->credit;
    p->state = PROA_CALL_PICKING;
    *plan = p;
    return PROA_OK;
}

void proa_call_plan_free(proa_call_plan *p)
{
    if (p == NULL)
        return;
    free((void *)p->request.prompt_ids);
    free((void *)p->request.stop_ids);
    free((void *)p->request.bias);
    free(p->output);
    free(p);
}

/* ---- looking ---- */

proa_call_state proa_call_plan_state(const proa_call_plan *p)
{
    return p->state;
}

uint32_t proa_call_plan_attempt(const proa_call_plan *p)
{
    return p->attempt;
}

int32_t proa_call_plan_replays(const proa_call_plan *p)
{
    return p->replays;
}

const proa_engine_request *proa_call_plan_request(const proa_call_plan *p)
{
    return &p->request;
}

int32_t proa_call_plan_refused(const proa_call_plan *p, const uint64_t **epochs)
{
    *epochs = p->refused;
    return p->refused_count;
}

int32_t proa_call_plan_length(const proa_call_plan *p)
{
    int64_t tokens = (int64_t)p->request.prompt_count + p->request.output_count;
    return tokens < INT32_MAX / 2 ? (int32_t)tokens : INT32_MAX / 2;
}

/* ---- ends ---- */

typedef enum failure_class { REQUEST_FAILED, WORKER_REFUSED, ATTEMPT_FAILED } failure_class;

static failure_class classify(proa_status status)
{
    switch (status) {
    case PROA_ERR_INVALID:
    case PROA_ERR_TOO_LONG:
    case PROA_ERR_UNSUPPORTED:
    case PROA_ERR_NOT_FOUND: return REQUEST_FAILED;
    case PROA_ERR_OVERLOADED: return WORKER_REFUSED;
    default: return ATTEMPT_FAILED;
    }
}

static void close_legs(proa_call_plan *p, proa_call_todo *todo)
{
    for (int leg = 0; leg < PROA_CALL_LEGS; leg++) {
        todo->cancel[leg] |= p->open[leg];
        p->open[leg] = false;
    }
}

static void finish(proa_call_plan *p, proa_finish_reason reason, const proa_error *error,
                   const proa_engine_usage *usage, proa_call_todo *todo)
{
    PROA_ASSERT(p->state != PROA_CALL_FINISHED);
    close_legs(p, todo);
    p->state = PROA_CALL_FINISHED;
    todo->finished = true;
    todo->finish = (proa_engine_finish){.reason = reason, .matched = -1};
    if (usage != NULL)
        todo->finish.usage = *usage;
    todo->finish.usage.prompt_tokens = p->request.prompt_count;
    todo->finish.usage.output_tokens = p->request.output_count;
    if (reason == PROA_FINISH_STOP)
        todo->finish.matched = p->output[p->request.output_count - 1];
    if (error != NULL)
        todo->finish.error = *error;
}

/* All tokens are here, whatever became of the workers. */
static bool is_complete(const proa_call_plan *p)
{
    return p->stopped || p->request.output_count == p->request.max_new_tokens;
}

static void end_well(proa_call_plan *p, const proa_engine_usage *usage, proa_call_todo *todo)
{
    finish(p, p->stopped ? PROA_FINISH_STOP : PROA_FINISH_LENGTH, NULL, usage, todo);
}

static void end_badly(proa_call_plan *p, const proa_error *error, proa_call_todo *todo)
{
    proa_error said = *error;
    if (p->replays > 0 && classify(said.status) == ATTEMPT_FAILED)
        proa_error_prefix(&said, "given up after %d replays", p->replays);
    finish(p, PROA_FINISH_ABORT, &said, NULL, todo);
}

/* ---- from one attempt to the next ---- */

static void pick_again(proa_call_plan *p, proa_call_todo *todo)
{
    if (p->credit == 0) {
        p->state = PROA_CALL_HELD;
        return;
    }
    p->state = PROA_CALL_PICKING;
    todo->pick = true;
}

static void refuse(proa_call_plan *p, uint64_t epoch, const proa_error *why, int64_t now_us,
                   proa_call_todo *todo)
{
    bool late = p->deadline_us != 0 && now_us >= p->deadline_us;
    if (late || p->refused_count == PROA_CALL_REFUSALS_MAX) {
        end_badly(p, why, todo);
        return;
    }
    p->last = *why;
    p->refused[p->refused_count++] = epoch;
    pick_again(p, todo);
}

/* The attempt is over because of `why`, which one leg said or which was seen of it. */
static void fail(proa_call_plan *p, proa_call_leg leg, const proa_error *why, int64_t now_us,
                 proa_call_todo *todo)
{
    close_legs(p, todo);
    failure_class class = classify(why->status);
    if (is_complete(p)) {
        end_well(p, NULL, todo);
    } else if (class == WORKER_REFUSED) {
        refuse(p, p->epochs[leg], why, now_us, todo);
    } else if (class == REQUEST_FAILED || p->replays >= p->migration_limit) {
        end_badly(p, why, todo);
    } else {
        p->last = *why;
        p->replays++;
        p->refused_count = 0;
        p->deadline_us = now_us + PROA_CALL_WAIT_US;
        todo->replaying = true;
        pick_again(p, todo);
    }
}

/* Whom the router should avoid for it. A deadline or a lost peer in a pair lies between the two. */
static void condemn(const proa_call_plan *p, proa_call_leg leg, proa_status status, bool blamed,
                    proa_call_todo *todo)
{
    if (classify(status) != ATTEMPT_FAILED || status == PROA_ERR_CANCELLED)
        return;
    if (p->pair && (blamed || proa_is_peer_error(status) || status == PROA_ERR_DEADLINE))
        todo->pair_failed = true;
    else
        todo->failed[leg] = true;
}

/* The worker of the main leg broke the protocol. */
static void fail_protocol(proa_call_plan *p, const char *what, int64_t now_us, proa_call_todo *todo)
{
    proa_error why;
    proa_error_set(&why, PROA_ERR_PROTOCOL, "the worker sent %s", what);
    todo->failed[PROA_CALL_MAIN] = true;
    fail(p, PROA_CALL_MAIN, &why, now_us, todo);
}

/* ---- picking ---- */

void proa_call_plan_start(proa_call_plan *p, proa_call_todo *todo)
{
    PROA_ASSERT(p->state == PROA_CALL_PICKING && p->attempt == 0);
    *todo = (proa_call_todo){.pick = true};
}

void proa_call_plan_picked(proa_call_plan *p, const proa_call_pick *pick)
{
    PROA_ASSERT(p->state == PROA_CALL_PICKING);
    PROA_ASSERT(p->credit > 0);
    /* as the engine does; only once, so that a replay on a worker with another context ends no earlier or later */
    int32_t left = pick->context_length - p->request.prompt_count;
    if (p->attempt == 0 && left > p->request.output_count && left < p->request.max_new_tokens)
        p->request.max_new_tokens = left;
    p->attempt++;
    p->state = PROA_CALL_RUNNING;
    p->pair = pick->pair;
    p->room = pick->room;
    p->vocab_size = pick->vocab_size;
    p->heard = false;
    p->withheld = p->credit > PROA_WIRE_CREDIT_MAX ? p->credit - PROA_WIRE_CREDIT_MAX : 0;
    p->open[PROA_CALL_MAIN] = true;
    p->open[PROA_CALL_PREFILL] = pick->pair;
    memcpy(p->epochs, pick->epochs, sizeof p->epochs);
}

void proa_call_plan_unpicked(proa_call_plan *p, const proa_error *why, int64_t now_us, proa_call_todo *todo)
{
    PROA_ASSERT(p->state == PROA_CALL_PICKING);
    *todo = (proa_call_todo){0};
    if (p->replays == 0 && why->status == PROA_ERR_OVERLOADED) {
        end_badly(p, p->refused_count > 0 ? &p->last : why, todo);
        return;
    }
    if (p->deadline_us == 0)
        p->deadline_us = now_us + PROA_CALL_WAIT_US;
    if (now_us >= p->deadline_us) {
        proa_error said = *why;
        if (p->replays > 0)
            proa_error_set(&said, why->status, "%s; before, the attempt at a worker failed: %.400s",
                           why->text, p->last.text);
        end_badly(p, &said, todo);
        return;
    }
    p->state = PROA_CALL_WAITING;
    p->refused_count = 0; /* they may have room by then */
}

void proa_call_plan_retry(proa_call_plan *p, proa_call_todo *todo)
{
    *todo = (proa_call_todo){0};
    if (p->state == PROA_CALL_WAITING)
        pick_again(p, todo);
}

void proa_call_plan_submit(const proa_call_plan *p, proa_call_leg leg, proa_wire_submit *submit)
{
    PROA_ASSERT(p->state == PROA_CALL_RUNNING);
    submit->leg = leg == PROA_CALL_PREFILL ? PROA_LEG_PREFILL : p->pair ? PROA_LEG_DECODE : PROA_LEG_COMBINED;
    submit->room = p->pair ? p->room : 0;
    submit->request = p->request;
    submit->request.credit = p->credit - p->withheld;
    submit->request.sink = (proa_engine_sink){0};
}

/* ---- messages of workers ---- */

static const char *violation(const proa_call_plan *p, const proa_wire_tokens *tokens)
{
    int32_t top_max = p->request.top_logprobs > 0 ? p->request.top_logprobs : 0;
    if (p->stopped)
        return "tokens after the one that stopped the request";
    if (tokens->count == 0)
        return "a message without tokens";
    if (tokens->count > (uint32_t)p->credit)
        return "more tokens than it was granted";
    if (tokens->count > (uint32_t)(p->request.max_new_tokens - p->request.output_count))
        return "more tokens than were asked for";
    for (uint32_t i = 0; i < tokens->count; i++) {
        const proa_sample_result *t = &tokens->tokens[i];
        if (t->token < 0 || t->token >= p->vocab_size)
            return "a token id that its model does not have";
        if (t->top_count < 0 || t->top_count > top_max)
            return "more log probabilities than were asked for";
        for (int32_t k = 0; k < t->top_count; k++) {
            if (t->top_ids[k] < 0 || t->top_ids[k] >= p->vocab_size)
                return "the log probability of a token id that its model does not have";
        }
    }
    return NULL;
}

static bool reserve(proa_call_plan *p, uint32_t more)
{
    int64_t wanted = (int64_t)p->request.output_count + more;
    if (wanted <= p->output_capacity)
        return true;
    int64_t capacity = wanted > 2 * (int64_t)p->output_capacity ? wanted : 2 * (int64_t)p->output_capacity;
    int32_t *output = realloc(p->output, (size_t)capacity * sizeof *output);
    if (output == NULL)
        return false;
    p->request.output_ids = p->output = output;
    p->output_capacity = (int32_t)capacity;
    return true;
}

void proa_call_plan_tokens(proa_call_plan *p, uint32_t attempt, const proa_wire_tokens *tokens,
                           int64_t now_us, proa_call_todo *todo)
{
    *todo = (proa_call_todo){0};
    if (p->state != PROA_CALL_RUNNING || attempt != p->attempt)
        return;
    const char *what = violation(p, tokens);
    if (what != NULL) {
        fail_protocol(p, what, now_us, todo);
        return;
    }
    if (!reserve(p, tokens->count)) {
        proa_error why;
        proa_error_set(&why, PROA_ERR_MEMORY, "out of memory for the %d tokens of a request",
                       p->request.output_count);
        end_badly(p, &why, todo);
        return;
    }
    for (uint32_t i = 0; i < tokens->count; i++)
        p->output[p->request.output_count++] = tokens->tokens[i].token;
    p->credit -= (int32_t)tokens->count;
    PROA_ASSERT(p->credit >= 0); /* the sink's ring has no more places */
    p->stopped = tokens->stop;
    p->heard = true;
    todo->deliver = true;
    todo->grant = p->withheld;
    p->withheld = 0;
}

static void main_ended_well(proa_call_plan *p, const proa_engine_finish *said, int64_t now_us,
                            proa_call_todo *todo)
{
    bool stop = said->reason == PROA_FINISH_STOP;
    if (stop != p->stopped || !is_complete(p)) {
        fail_protocol(p, stop ? "a stop without the token that stops" : "the end before the last token",
                      now_us, todo);
        return;
    }
    todo->worked[PROA_CALL_MAIN] = true;
    todo->worked[PROA_CALL_PREFILL] = todo->pair_worked = p->pair;
    end_well(p, &said->usage, todo);
}

void proa_call_plan_ended(proa_call_plan *p, uint32_t attempt, proa_call_leg leg,
                          const proa_engine_finish *said, bool blamed, int64_t now_us, proa_call_todo *todo)
{
    *todo = (proa_call_todo){0};
    if (p->state != PROA_CALL_RUNNING || attempt != p->attempt || !p->open[leg])
        return;
    p->open[leg] = false;
    if (said->reason != PROA_FINISH_ABORT) {
        if (leg == PROA_CALL_MAIN)
            main_ended_well(p, said, now_us, todo);
        return;
    }
    condemn(p, leg, said->error.status, blamed, todo);
    if (leg == PROA_CALL_PREFILL && p->heard)
        return; /* its rows have arrived: the decode leg goes on without it */
    fail(p, leg, &said->error, now_us, todo);
}

void proa_call_plan_lost(proa_call_plan *p, uint32_t attempt, proa_call_leg leg, const proa_error *why,
                         int64_t now_us, proa_call_todo *todo)
{
    *todo = (proa_call_todo){0};
    if (p->state != PROA_CALL_RUNNING || attempt != p->attempt || !p->open[leg])
        return;
    p->open[leg] = false;
    if (leg == PROA_CALL_PREFILL && p->heard)
        return;
    fail(p, leg, why, now_us, todo);
}

/* ---- from the client ---- */

void proa_call_plan_cancel(proa_call_plan *p, const char *why, proa_call_todo *todo)
{
    *todo = (proa_call_todo){0};
    if (p->state == PROA_CALL_FINISHED)
        return;
    proa_error error;
    proa_error_set(&error, PROA_ERR_CANCELLED, "%s", why);
    finish(p, PROA_FINISH_ABORT, &error, NULL, todo);
}

void proa_call_plan_grant(proa_call_plan *p, int32_t tokens, int64_t now_us, proa_call_todo *todo)
{
    *todo = (proa_call_todo){0};
    if (p->state == PROA_CALL_FINISHED || tokens <= 0)
        return;
    if (tokens > CREDIT_MAX - p->credit)
        tokens = CREDIT_MAX - p->credit;
    p->credit += tokens;
    if (p->state == PROA_CALL_HELD) {
        p->deadline_us = now_us + PROA_CALL_WAIT_US;
        pick_again(p, todo);
    } else if (p->state == PROA_CALL_RUNNING && p->heard) {
        todo->grant = tokens;
    } else if (p->state == PROA_CALL_RUNNING) {
        p->withheld += tokens; /* a SUBMIT may travel another way than a GRANT: not before it has arrived */
    }
}
