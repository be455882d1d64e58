/* reply.h - writes answers: as one JSON document, or as events while they come. One format an endpoint.
 *
 * A choice gathers what is to be written: pieces of text and entries of log probabilities. Streaming, `chunk` writes
 * and forgets them after each token; otherwise `whole` writes all at the end. Pure: appends to a buffer, knows no socket.
 */
#ifndef PROA_SERVE_REPLY_H
#define PROA_SERVE_REPLY_H

#include "base/buf.h"
#include "serve/request.h"
#include "text/tokenizer.h"

/* One token as the engine delivered it. The arrays of alternatives are borrowed. */
typedef struct proa_reply_token {
    int32_t id;
    float logprob;
    int32_t top_count;
    const int32_t *top_ids;
    const float *top_logprobs;
} proa_reply_token;

typedef enum proa_reply_end {
    PROA_REPLY_OPEN, /* not ended */
    PROA_REPLY_STOP,
    PROA_REPLY_LENGTH,
} proa_reply_end;

enum { PROA_REPLY_LISTS = 4 };

typedef struct proa_reply_choice {
    int32_t index;
    proa_buf reasoning;
    proa_buf content;
    proa_buf lists[PROA_REPLY_LISTS]; /* log probabilities: elements of JSON arrays, the format knows which */
    int32_t list_count;               /* entries in each */
    size_t text_offset;               /* completions: characters before the next token */
    proa_ids ids;                     /* generate: all of them */
    bool started;                     /* the first chunk is written */
    proa_reply_end end;
    int32_t matched_id;       /* the stop token, or -1 */
    const char *matched_text; /* the stop string, or NULL */
    int32_t prompt_tokens;
    int32_t cached_tokens;
    int32_t completion_tokens;
    int32_t reasoning_tokens;
    int32_t retractions;
    bool counts_prompt; /* the first choice of its prompt: a prompt is counted once however large n is */
    double seconds;     /* since the request came */
} proa_reply_choice;

/* What all chunks of a reply share. Borrowed. */
typedef struct proa_reply {
    const struct proa_reply_format *format;
    const proa_api_params *params;
    const proa_tokenizer *tokenizer;
    const char *id; /* of the request; the format puts its prefix before it */
    const char *model;
    int64_t created;
    bool batch;                 /* generate: the reply is a list */
    proa_reply_choice *choices; /* in order of their index */
    int32_t choice_count;
} proa_reply;

typedef struct proa_reply_format {
    /* Adds a token's log probabilities or id to the choice. */
    void (*token)(const proa_reply *reply, proa_reply_choice *choice, const proa_reply_token *token);
    /* Is there anything that a chunk would say? */
    bool (*pending)(const proa_reply *reply, const proa_reply_choice *choice);
    /* One event with what the choice has gathered. */
    void (*chunk)(const proa_reply *reply, proa_reply_choice *choice, proa_buf *out);
    /* The event that says how the choice ended. */
    void (*last)(const proa_reply *reply, proa_reply_choice *choice, proa_buf *out);
    /* After all choices: the usage where asked for. */
    void (*end)(const proa_reply *reply, proa_buf *out);
    bool cumulative; /* a chunk says again all that was said: one a batch of tokens is enough */
    /* All at once. */
    void (*whole)(const proa_reply *reply, proa_buf *out);
} proa_reply_format;

extern const proa_reply_format proa_reply_chat;
extern const proa_reply_format proa_reply_completions;
extern const proa_reply_format proa_reply_generate;

void proa_reply_choice_free(proa_reply_choice *choice);
/* Did it run out of memory? Then what it holds has a hole and must not be told. */
bool proa_reply_choice_failed(const proa_reply_choice *choice);

/* --- shared by the formats --- */
void proa_reply_write_text(const proa_buf *text, proa_buf *out); /* quoted */
void proa_reply_write_logprob(float logprob, proa_buf *out);     /* -9999.0 for minus infinity, as OpenAI */
/* "stop" or "length", quoted; null while open. */
void proa_reply_write_end(const proa_reply_choice *choice, proa_buf *out);
/* The stop id or stop string, or null. */
void proa_reply_write_matched(const proa_reply_choice *choice, proa_buf *out);
/* ,"usage":{...} of all choices so far. */
void proa_reply_write_usage(const proa_reply *reply, proa_buf *out);
/* The quoted text of a token; invalid UTF-8 as U+FFFD. */
void proa_reply_write_token(const proa_reply *reply, int32_t id, proa_buf *out);
/* Starts the next entry of every list: a comma where one is needed. */
void proa_reply_next_entry(proa_reply_choice *choice, int lists);
/* Forgets what a chunk has said. */
void proa_reply_clear(proa_reply_choice *choice);

#endif
