/* prepare.h - the work between a request's body and the engine: JSON, checks, template, tokenizer; on threads of its own.
 *
 * A long prompt takes as long to tokenize as many decode steps take: done on the loop's thread it would hold back
 * every stream. A job goes to the threads and comes back through a mailbox; it belongs to whoever holds it.
 */
#ifndef PROA_SERVE_PREPARE_H
#define PROA_SERVE_PREPARE_H

#include "base/mailbox.h"
#include "serve/chat_format.h"
#include "serve/request.h"
#include "serve/stop.h"

/* What requests are checked and encoded against. Borrowed, immutable while threads use it. */
typedef struct proa_serve_model {
    const char *path;
    const proa_tokenizer *tokenizer;
    const proa_chat_format *chat;
    proa_reasoning_mode reasoning;
    proa_api_limits limits;
    int32_t kv_tokens;      /* capacity of the KV cache, for /get_server_info */
    const char *kv_dtype;   /* what it holds, likewise; NULL: not known here, at a frontend */
    size_t token_bytes_max; /* of the longest token: bounds from below how many tokens a text has */
} proa_serve_model;

/* The longest token of a vocabulary. */
size_t proa_serve_token_bytes_max(const proa_tokenizer *tokenizer);

typedef enum proa_job_kind {
    PROA_JOB_CHAT,
    PROA_JOB_COMPLETIONS,
    PROA_JOB_GENERATE,
    PROA_JOB_TOKENIZE,
    PROA_JOB_DETOKENIZE,
} proa_job_kind;

typedef struct proa_job {
    proa_job_kind kind;
    proa_buf body;
    void *owner; /* the loop's business */
    /* what comes back */
    proa_api_error error;      /* status 0: it worked */
    proa_api_request *request; /* generation */
    proa_ids *prompts;         /* [request->prompt_count] */
    proa_buf *echoes;          /* [request->prompt_count] text of the prompts; NULL without echo */
    proa_stop_set stops;
    proa_reasoning_choice reasoning;
    proa_buf reply; /* tokenize and detokenize: the whole reply */
} proa_job;

void proa_job_free(proa_job *job); /* accepts NULL */

/* Does a job here and now. For the threads, and for tests. */
void proa_job_run(proa_job *job, const proa_serve_model *model, proa_encoder *encoder);

typedef struct proa_preparer proa_preparer;

/* Jobs that are done go to `done` (its capacity must be at least `jobs_max`). */
proa_status proa_preparer_start(const proa_serve_model *model, int threads, size_t jobs_max,
                                proa_mailbox *done, proa_preparer **preparer, proa_error *err);
/* Jobs that were not begun are freed. Accepts NULL. */
void proa_preparer_stop(proa_preparer *preparer);
/* PROA_BUSY when jobs_max are waiting. */
proa_status proa_preparer_send(proa_preparer *preparer, proa_job *job);

#endif
