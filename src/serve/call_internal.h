/* call_internal.h - a call and its lanes, for call.c (life), call_submit.c (towards the backend) and call_answer.c (back from
 * it). Everything here runs on the loop's thread; only the entry points of call.h free a call. */
#ifndef PROA_SERVE_CALL_INTERNAL_H
#define PROA_SERVE_CALL_INTERNAL_H

#include "serve/answer.h"
#include "serve/call.h"
#include "serve/reply.h"
#include "serve/server_internal.h"

/* One choice on its way. */
typedef struct proa_lane {
    proa_stream stream; /* first: messages lead here */
    proa_call *call;
    uint64_t id; /* the backend's */
    proa_answer answer;
    proa_reply_choice *choice;
    int64_t token_us; /* when its latest token came; 0: none yet */
    bool submitted;
    bool finished; /* the backend has said its last */
    bool ended;    /* the reply has said how it ended */
} proa_lane;

struct proa_call {
    proa_server *server;
    proa_call *next;
    proa_call *previous;
    proa_http_exchange *exchange; /* NULL: nobody listens any more */
    proa_job *job;                /* while it is here */
    bool job_out;
    bool health;
    bool started; /* the stream's head is written */
    bool failed;
    int64_t start_us;
    int64_t deadline_us; /* 0: none */
    proa_answer_options answer_options;
    proa_reply reply;
    char id[132];
    proa_reply_choice *choices;
    proa_lane *lanes;
    int32_t lane_count;
    int32_t submitted;
    int32_t open; /* submitted and not finished */
    int32_t ended;
};

/* --- call.c --- */

/* Tells the client, if it has not heard the end yet, and stops what runs. */
void proa_call_fail(proa_call *call, const proa_api_error *error);
void proa_call_fail_memory(proa_call *call);
void proa_call_cancel_lane(proa_lane *lane);

/* --- call_submit.c --- */

/* The prompts are made: sets up the lanes and submits them. */
void proa_call_begin(proa_call *call);
/* Submits the choices that are not yet. When the backend's queue is full the rest waits for one of this call's to
 * finish; a call with none running is refused. */
void proa_call_submit(proa_call *call);

/* --- call_answer.c --- */

/* Takes tokens as long as the connection takes their text, gives credit back, ends the lane when it is over. */
void proa_call_pump(proa_lane *lane);
/* All choices have ended and the backend has let go of them: the rest of the reply. */
void proa_call_complete(proa_call *call);
/* The whole reply, 200. */
void proa_call_reply(proa_call *call, const proa_buf *body);

#endif
