/* call.h - one generation request from its body to its last byte: prepared, submitted, answered.
 *
 *   PREPARING ──job comes back──> RUNNING ──all choices ended──> replied, freed
 *       │                            │
 *       └──── client left, or failed ┴──> nothing more is said; freed when job and engine have let go of it
 *
 * Flow control: tokens are taken from the streams only while few bytes wait in the connection, and credit goes back to
 * the engine as they are taken. So a slow reader holds back its own request, in bounded memory.
 * Loop's thread only.
 */
#ifndef PROA_SERVE_CALL_H
#define PROA_SERVE_CALL_H

#include "serve/http.h"
#include "serve/prepare.h"
#include "serve/stream.h"

typedef struct proa_call proa_call;
typedef struct proa_server proa_server;

/* Takes the exchange's body; the exchange gets its reply sooner or later. */
void proa_call_start(proa_server *server, proa_http_exchange *exchange, proa_job_kind kind);
/* A generation of one token that only shows that the backend works; 503 after a deadline. */
void proa_call_start_health(proa_server *server, proa_http_exchange *exchange);

void proa_call_job_done(proa_server *server, proa_job *job);
void proa_call_message(proa_stream_message *message);
void proa_call_drained(proa_call *call);
void proa_call_gone(proa_call *call);

/* Deadlines. */
void proa_call_tick_all(proa_server *server, int64_t now_us);
void proa_call_fail_all(proa_server *server, const proa_api_error *error);
/* At the end, when preparer and backend are stopped. */
void proa_call_free_all(proa_server *server);

#endif
