/* engine.h - one rank: takes requests, runs steps, gives tokens.
 *
 * proa_engine_start starts the engine thread, which owns the device, the KV cache and the scheduler. Other
 * threads talk to it through bounded mailboxes: submit, cancel, grant, statistics. Token and finish callbacks
 * are made on the engine thread and must not block.
 *
 * Flow control: a request has a credit of tokens; each token takes one, proa_engine_grant gives more. A request
 * without credit is left out of steps, so a reader that stops reading holds back its own request and no memory grows.
 *
 * Law 2: tokens depend on model, prompt, sampling parameters and seed alone.
 */
#ifndef PROA_ENGINE_ENGINE_H
#define PROA_ENGINE_ENGINE_H

#include "base/trace.h"
#include "model/forward.h"
#include "op/sample/sample.h"

typedef struct proa_engine proa_engine;

typedef enum proa_schedule_policy { PROA_SCHEDULE_FCFS, PROA_SCHEDULE_LPM } proa_schedule_policy;

/* What an engine does with its requests; see "Hand-off" below. */
typedef enum proa_engine_role {
    PROA_ENGINE_COMBINED,
    PROA_ENGINE_PREFILL,
    PROA_ENGINE_DECODE
} proa_engine_role;

/* A change of the prefix cache: a whole block of prompt tokens is there now, or no longer. `hash` is the chained digest
 * (proa_digest of its 64 token ids, seeded with the block before; 0 at the start). Called on the engine thread, between
 * steps, in the order of the changes; must not block. What is there when the engine stops is not told of. */
typedef void (*proa_kv_event_hook)(void *context, bool stored, uint64_t hash);

typedef struct proa_engine_options {
    int32_t max_running_requests;
    int32_t max_queued_requests;  /* over it, submit fails with PROA_ERR_OVERLOADED */
    int32_t max_total_tokens;     /* KV capacity in tokens, a multiple of 64 */
    int32_t chunked_prefill_size; /* prompt tokens a step; <= 0: whole prompts */
    int32_t context_length;       /* prompt + output of one request */
    int32_t page_size;            /* 1 .. 64: granularity of prefix matches */
    bool disable_radix_cache;
    proa_schedule_policy schedule_policy;
    int32_t decode_log_interval; /* decode steps between summary lines; 0: none */
    proa_engine_role role;
    /* DECODE: room for output that a reservation leaves to each running request; -1: the adaptive share that admission
     * keeps free anyway */
    int32_t num_reserved_decode_tokens;
    proa_kv_event_hook kv_event; /* may be NULL */
    void *kv_event_context;
    proa_trace *trace; /* records steps; borrowed until proa_engine_stop, or NULL */
} proa_engine_options;

typedef enum proa_finish_reason {
    PROA_FINISH_STOP,   /* end of sequence or a stop id; `matched` has the id */
    PROA_FINISH_LENGTH, /* max_new_tokens or the context's end */
    PROA_FINISH_ABORT,  /* cancelled or failed; `error` says why */
} proa_finish_reason;

typedef struct proa_engine_usage {
    int32_t prompt_tokens;
    int32_t cached_tokens; /* of the prompt, found in the prefix cache */
    int32_t output_tokens;
    int32_t retractions;
} proa_engine_usage;

typedef struct proa_engine_finish {
    proa_finish_reason reason;
    int32_t matched; /* token id, or -1 */
    proa_engine_usage usage;
    proa_error error; /* status PROA_OK unless ABORT */
} proa_engine_finish;

/* Hand-off between engines (rooms, cluster/room.h). Blocks that another process reads or writes stay the request's until
 * proa_engine_release, even when it is cancelled or fails meanwhile:
 *
 *   PREFILL  submit -> computed, computed, ... -> token (the one token of the request) -> release -> finish
 *            After the token the request holds its blocks and computes nothing; it finishes with STOP when the token is
 *            an end, else LENGTH. A request that is cancelled or fails finishes at once; when `computed` was called
 *            for it, its blocks stay until release. `computed` tells of whole blocks until the prompt is computed.
 *   DECODE   submit -> reserved (blocks for prompt, earlier output and one more token) -> adopt(first token) -> token, ... -> finish
 *            Rows are written by the peer between reserved and adopt. A request that is cancelled or fails in between
 *            finishes at once; its blocks stay until release. The prefix cache is off.
 *            After adopt all is as in COMBINED: a request that is retracted computes its own rows again.
 *
 * An id whose request has finished stays valid until its release, which is due for each request that was told `computed` or
 * `reserved` and not adopted; where that is in doubt (an adopt met a cancel), release after finish: it does no harm.
 * Release of a request that goes on is a cancel and a release, but for one that has had its one token.
 * Requests that hold, reserve or lend blocks count as running (max_running_requests) and are never retracted: nothing
 * but adopt and release frees what they have, so both must come within deadlines that the caller keeps.
 */
typedef struct proa_engine_rows {
    uint64_t id;
    int32_t rows; /* computed: positions 0 .. rows - 1 are final; reserved: those that the peer must write */
    int32_t block_count;
    const int32_t *blocks;       /* [block_count] for positions from 0; valid during the call */
    const uint32_t *generations; /* [block_count]; valid during the call */
    int32_t cached_tokens;
} proa_engine_rows;

/* Called on the engine thread. After `finish` the context is never used again; finish comes exactly once for each
 * request that was accepted. The token that stops a request (end of sequence, stop id) is delivered by `token`
 * too, as the last one, with `stop` set. */
typedef struct proa_engine_sink {
    void (*token)(void *context, const proa_sample_result *token, bool stop);
    void (*finish)(void *context, const proa_engine_finish *finish);
    void *context;
    void (*computed)(void *context, const proa_engine_rows *rows); /* needed in PREFILL, else unused */
    void (*reserved)(void *context, const proa_engine_rows *rows); /* needed in DECODE, else unused */
} proa_engine_sink;

/* Copied at submit; the caller keeps ownership of the arrays. */
typedef struct proa_engine_request {
    const int32_t *prompt_ids;
    int32_t prompt_count; /* >= 1, < context_length */
    /* what was generated before, elsewhere or in a life before this one: the request goes on from there as if it had
     * drawn these itself (forms, penalties, seed, lengths); not delivered again */
    const int32_t *output_ids;
    int32_t output_count;   /* < max_new_tokens; 0 for a new request */
    int32_t max_new_tokens; /* >= 1, output_ids included; cut to what the context leaves */
    int32_t min_new_tokens;
    bool ignore_eos;
    const int32_t *stop_ids;
    int32_t stop_count;
    float temperature;
    int32_t top_k;
    float top_p;
    float min_p;
    float repetition_penalty;
    float frequency_penalty;
    float presence_penalty;
    uint64_t seed;
    const proa_logit_bias *bias;
    int32_t bias_count;
    int32_t top_logprobs; /* as in proa_sample_params */
    int32_t credit;       /* tokens that may be delivered before the first grant; >= 1 */
    proa_engine_sink sink;
} proa_engine_request;

/* The limits that the engine's forward must be created with. The longest sequence is the smaller of context_length
 * and max_total_tokens. PROA_ERR_INVALID names the option that is out of range. */
proa_status proa_engine_forward_limits(const proa_engine_options *options, proa_forward_limits *limits,
                                       proa_error *err);

/* The engine borrows config, forward and device until proa_engine_stop. */
proa_status proa_engine_start(const proa_engine_options *options, const proa_model_config *config,
                              proa_forward *forward, proa_device *device, proa_engine **engine,
                              proa_error *err);

struct proa_ep_group;

/* The same for one of several ranks: steps go through `ranks`, to which the forward is attached here. Also borrowed. What
 * proa_ep_group_hooks.nudge is called with must lead to proa_engine_nudge; before this has returned it need not. */
proa_status proa_engine_start_ranks(const proa_engine_options *options, const proa_model_config *config,
                                    proa_forward *forward, proa_device *device, struct proa_ep_group *ranks,
                                    proa_engine **engine, proa_error *err);

/* Cancels what runs (each request finishes with ABORT), joins the thread, frees the engine; waits for no release. The KV
 * memory is the forward's: it must outlive what peers still read or write. Accepts NULL. */
void proa_engine_stop(proa_engine *engine);

/* Checks and queues a request; `id` names it from now on, and is set before the first callback. Thread-safe. On failure
 * no callback is made. PROA_ERR_TOO_LONG: the prompt can never fit; PROA_ERR_OVERLOADED: try again later; a device's
 * error: the engine has lost its device and must be started again. */
proa_status proa_engine_submit(proa_engine *engine, const proa_engine_request *request, uint64_t *id,
                               proa_error *err);

/* The request finishes with ABORT within one step, its blocks are free then. Unknown ids are ignored. Thread-safe. */
void proa_engine_cancel(proa_engine *engine, uint64_t id);

/* Gives `tokens` more credit. Thread-safe. */
void proa_engine_grant(proa_engine *engine, uint64_t id, int32_t tokens);

/* PREFILL, DECODE: nobody outside touches the request's blocks any more. The request finishes if it has not; its blocks
 * are free within one step. Unknown ids are ignored. Thread-safe. */
void proa_engine_release(proa_engine *engine, uint64_t id);

/* DECODE: the rows that `reserved` asked for are there and checked; `first` is the token that follows them. Copied. It is
 * delivered by `token` like any other; one that is not an id of the model ends the request (PROA_ERR_PROTOCOL), its blocks
 * stay until release. Ignored for a request that has finished or is not reserved. Thread-safe. */
void proa_engine_adopt(proa_engine *engine, uint64_t id, const proa_sample_result *first,
                       int32_t cached_tokens);

typedef struct proa_engine_stats {
    int32_t running;
    int32_t queued;
    int32_t kv_blocks_total;
    int32_t kv_blocks_used;   /* held by requests */
    int32_t kv_blocks_cached; /* held by the prefix cache alone */
    int32_t kv_blocks_lent;   /* of those used: held for a peer by requests that have finished */
    uint64_t prompt_tokens;   /* of requests that were accepted */
    uint64_t cached_tokens;   /* of those, found in the prefix cache */
    uint64_t output_tokens;
    uint64_t steps;
    uint64_t retractions;
    uint64_t requests_finished;
    uint64_t requests_aborted;
    uint64_t step_us_total; /* time spent in steps */
    int64_t last_step_us; /* proa_clock_us of the end of the last step; 0: none yet. Liveness is progress. */
    bool device_lost;     /* a step failed beyond its requests: nothing is taken any more */
    bool
        away; /* one of several ranks, and outside of their group for a while, or without those that share its heads: it computes nothing until
               * it is back */
} proa_engine_stats;
void proa_engine_get_stats(proa_engine *engine,
                           proa_engine_stats *stats); /* thread-safe, a consistent snapshot */

/* For how long the step that runs has been running, in microseconds; 0: none runs. Steps that wait for other ranks are not told of
 * (proa_ep_group_tick watches them). Thread-safe, takes no lock. */
int64_t proa_engine_busy_us(const proa_engine *engine);

/* As in its options. Any thread. */
proa_trace *proa_engine_trace(const proa_engine *engine);

/* Wakes the engine thread, so that it looks for what other ranks want of it (proa_engine_start_ranks). Thread-safe. */
void proa_engine_nudge(proa_engine *engine);

/* Drops what the prefix cache holds and no request uses. PROA_BUSY while requests run or wait. Thread-safe; waits for
 * the engine thread, 10 s at most (PROA_ERR_DEADLINE). PROA_ERR_CANCELLED: the engine stops or has stopped. */
proa_status proa_engine_flush_cache(proa_engine *engine);

#endif
