/* wire.h - the messages between frontends and workers (request links) and between workers (room links).
 *
 * Bodies of proa_link frames; fixed little-endian fields in the order of the structs (net/bytes.h). A decoder checks every
 * count, range and length, so that what it gives can be used without further checks except against the receiver's own state
 * (block numbers against its pool, token ids against its vocabulary, rooms and epochs against its tables). Arrays of decoded
 * messages live in the proa_arena given, or point into the body where it says so.
 *
 *   frontend ── SUBMIT, CANCEL, GRANT, ASK_FILES, FLUSH, RELAY, RECORD_… > worker     request link, dialled by the frontend
 *            <── CARD, FILE, LOAD, KV_EVENTS, TOKENS, FINISH, TAKEN
 *   decode   ── ROOM_HELLO, ROOM_OPEN, ROOM_ABORT ────────────────> prefill    room link, dialled by the decode worker to the
 *            <── ROOM_HELLO, ROOM_DONE, ROOM_FAIL, ROOM_QUIET ─────             prefill worker's bootstrap port
 *
 * Pure; any thread.
 */
#ifndef PROA_CLUSTER_WIRE_H
#define PROA_CLUSTER_WIRE_H

#include "base/arena.h"
#include "engine/engine.h"
#include "net/bytes.h"

enum {
    PROA_WIRE_PROMPT_MAX = 1 << 21, /* tokens of a prompt, or of an output */
    PROA_WIRE_BLOCKS_MAX = PROA_WIRE_PROMPT_MAX / PROA_KV_BLOCK_TOKENS + 1,
    PROA_WIRE_STOPS_MAX = 4096,
    PROA_WIRE_BIAS_MAX = 4096,
    PROA_WIRE_TOKENS_MAX = 1024,  /* of one TOKENS message */
    PROA_WIRE_CREDIT_MAX = 4096,  /* of one SUBMIT or GRANT */
    PROA_WIRE_EVENTS_MAX = 65536, /* of one KV_EVENTS message */
    PROA_WIRE_CHUNK_MAX = 256 << 10,
    PROA_WIRE_FILES_MAX = 16,
    PROA_WIRE_FILE_BYTES_MAX = 256 << 20,
};

typedef enum proa_wire_type {
    PROA_WIRE_SUBMIT = 1,
    PROA_WIRE_CANCEL,
    PROA_WIRE_GRANT,
    PROA_WIRE_ASK_FILES,
    PROA_WIRE_FLUSH,
    PROA_WIRE_RELAY, /* a sealed SUBMIT (nats_message.h) that nobody has acknowledged: as if it came by NATS */
    PROA_WIRE_RECORD_START, /* no body, as FLUSH: of what experts have to do */
    PROA_WIRE_RECORD_STOP,
    PROA_WIRE_RECORD_DUMP,
    PROA_WIRE_CARD = 32,
    PROA_WIRE_FILE,
    PROA_WIRE_LOAD,
    PROA_WIRE_KV_EVENTS,
    PROA_WIRE_TOKENS,
    PROA_WIRE_FINISH,
    PROA_WIRE_TAKEN,
    PROA_WIRE_ROOM_HELLO = 64,
    PROA_WIRE_ROOM_OPEN,
    PROA_WIRE_ROOM_ABORT,
    PROA_WIRE_ROOM_DONE,
    PROA_WIRE_ROOM_FAIL,
    PROA_WIRE_ROOM_QUIET,
} proa_wire_type;

/* Of what experts have to do, in the order of the messages: a worker counts from now on, counts no more, writes what it has. */
typedef enum proa_wire_record {
    PROA_RECORD_START,
    PROA_RECORD_STOP,
    PROA_RECORD_DUMP,
} proa_wire_record;

/* What a worker does with a request. */
typedef enum proa_wire_leg {
    PROA_LEG_COMBINED = 0, /* prefill and decode here */
    PROA_LEG_PREFILL = 1,
    PROA_LEG_DECODE = 2,
} proa_wire_leg;

/* frontend -> worker: begin. Answered by TOKENS (not by a prefill leg) and exactly one FINISH. */
typedef struct proa_wire_submit {
    uint64_t id;    /* drawn by the frontend, unique on this link */
    uint64_t epoch; /* of the worker that it is meant for; another one is refused */
    uint8_t leg;    /* proa_wire_leg */
    uint64_t room;  /* random, drawn by the frontend for this attempt; 0 for a combined leg */
    /* of the other worker; for the decode leg, where its bootstrap server is */
    uint64_t peer_instance;
    uint64_t peer_epoch;
    char bootstrap[128]; /* "host:port"; "" for other legs */
    uint32_t dp_rank;    /* 0 until workers have ranks */
    /* proa_engine_request without its sink; arrays in the arena. output_ids: what earlier attempts generated */
    proa_engine_request request;
} proa_wire_submit;

typedef struct proa_wire_cancel {
    uint64_t id;
} proa_wire_cancel;

typedef struct proa_wire_grant {
    uint64_t id;
    uint32_t tokens;
} proa_wire_grant;

/* Which of a worker's dp ranks a request goes to, when the worker is chosen: see router.h. */
typedef enum proa_wire_balance {
    PROA_BALANCE_ROUND_ROBIN,
    PROA_BALANCE_TOTAL_REQUESTS,
    PROA_BALANCE_TOTAL_TOKENS,
    PROA_BALANCE_FOLLOW_ROOM,
    PROA_BALANCE_COUNT,
} proa_wire_balance;

enum { PROA_WIRE_DP_MAX = 1024 };

enum { PROA_WIRE_DIGEST_FLAGS = 15 }; /* bits of a model_digest into which flags go that change tokens */

/* worker -> frontend: the first message of a request link, and again when it changes. */
typedef struct proa_wire_card {
    uint8_t leg;   /* what this worker is for */
    bool draining; /* takes nothing new */
    uint64_t
        model_digest; /* of config.json, tokenizer files and checkpoint's index: all of a cluster must agree */
    char model_name[256];
    char model_path[1024];
    int32_t context_length;
    int32_t vocab_size;
    int32_t kv_tokens;
    int32_t running_max;
    int32_t queued_max;
    char bootstrap[128]; /* prefill: "host:port" */
    uint32_t file_count; /* that ASK_FILES brings */
    struct {
        char name[64]; /* no slash */
        uint64_t bytes;
    } files[PROA_WIRE_FILES_MAX];
    /* One of several dp ranks; absent in the message when worker_id is 0. */
    uint64_t worker_id; /* the same at all dp ranks of a worker; 0: this one is a worker by itself */
    int32_t dp_rank;
    int32_t dp_size; /* 2 .. PROA_WIRE_DP_MAX */
    uint8_t balance; /* proa_wire_balance */
} proa_wire_card;

/* Of two digests that differ in those bits alone, the flags to look at, to be said behind the digests; else "". */
const char *proa_wire_digest_hint(uint64_t a, uint64_t b);

/* A piece of a file of the card; in order, all files one after another. */
typedef struct proa_wire_file {
    uint32_t index;
    uint64_t offset;
    const uint8_t *data; /* in the body */
    uint32_t length;     /* <= PROA_WIRE_CHUNK_MAX */
} proa_wire_file;

/* worker -> frontend: every 100 ms while something changes, every second else. */
typedef struct proa_wire_load {
    bool draining;
    uint64_t transfers; /* KV hand-offs done, and what they took */
    uint64_t transfer_bytes;
    uint64_t transfer_us;
    uint64_t transfers_failed;
    uint32_t rooms;       /* open now */
    uint32_t quarantined; /* KV blocks that wait for a silent peer */
    proa_engine_stats stats;
} proa_wire_load;

/* worker -> frontend: changes of the prefix cache. Blocks are named by the chained digest of the tokens up to their end.
 * `snapshot`: forget what was said before. */
typedef struct proa_wire_kv_events {
    bool snapshot;
    uint32_t count;
    const uint64_t *hashes; /* [count] in the arena */
    const bool *stored;     /* [count]; false: removed */
} proa_wire_kv_events;

typedef struct proa_wire_tokens {
    uint64_t id;
    uint32_t count;
    const proa_sample_result *tokens; /* [count] in the arena */
    bool stop;                        /* the last one is an end of sequence or a stop id */
} proa_wire_tokens;

typedef struct proa_wire_finish {
    uint64_t id;
    proa_engine_finish finish;
    uint64_t
        blame; /* the instance at fault when it is another one (a prefill worker that a decode worker lost); 0: none */
} proa_wire_finish;

/* worker -> frontend: the sealed SUBMIT of this sequence number has come by NATS (nats_message.h). */
typedef struct proa_wire_taken {
    uint64_t sequence;
} proa_wire_taken;

/* both ways, first on a room link. */
typedef struct proa_wire_room_hello {
    uint64_t model_digest;
    uint8_t
        kv_dtype; /* proa_dtype of the KV rows, F32, BF16 or E4M3: those of another one are not readable */
    uint8_t transfer;          /* proa_kv_transfer_kind */
    int32_t block_tokens;      /* PROA_KV_BLOCK_TOKENS */
    const uint8_t *descriptor; /* in the body; empty: this end does not receive */
    uint32_t descriptor_bytes; /* <= 65536 */
} proa_wire_room_hello;

/* decode -> prefill: the blocks are yours to write to. */
typedef struct proa_wire_room_open {
    uint64_t room;
    uint64_t epoch; /* of the prefill worker that it is meant for */
    int32_t tokens; /* rows wanted: prompt and earlier output */
    uint32_t block_count;
    const int32_t *blocks;       /* [block_count] in the arena */
    const uint32_t *generations; /* [block_count] */
} proa_wire_room_open;

typedef struct proa_wire_room {
    uint64_t room;
    uint64_t epoch;
} proa_wire_room; /* ROOM_ABORT, ROOM_QUIET */

/* prefill -> decode: all rows are in your memory; the auxiliary row. */
typedef struct proa_wire_room_done {
    uint64_t room;
    uint64_t epoch; /* of the decode worker */
    proa_sample_result first;
    int32_t cached_tokens;
    int32_t tokens; /* rows written */
    uint64_t bytes;
    int64_t us; /* from the first write to the last one's completion */
    uint32_t block_count;
    const uint64_t
        *digests; /* [block_count] in the arena: proa_kv_digest of each block, seeded with the room */
    const uint32_t *generations; /* [block_count] as opened */
} proa_wire_room_done;

typedef struct proa_wire_room_fail {
    uint64_t room;
    uint64_t epoch;
    proa_error error;
} proa_wire_room_fail;

/* Appending. Lengths over the limits above are programming errors (asserted). */
void proa_wire_put_submit(proa_buf *out, const proa_wire_submit *m);
void proa_wire_put_cancel(proa_buf *out, const proa_wire_cancel *m);
void proa_wire_put_grant(proa_buf *out, const proa_wire_grant *m);
void proa_wire_put_card(proa_buf *out, const proa_wire_card *m);
void proa_wire_put_file(proa_buf *out, const proa_wire_file *m);
void proa_wire_put_load(proa_buf *out, const proa_wire_load *m);
void proa_wire_put_kv_events(proa_buf *out, const proa_wire_kv_events *m);
void proa_wire_put_tokens(proa_buf *out, const proa_wire_tokens *m);
void proa_wire_put_finish(proa_buf *out, const proa_wire_finish *m);
void proa_wire_put_taken(proa_buf *out, const proa_wire_taken *m);
void proa_wire_put_room_hello(proa_buf *out, const proa_wire_room_hello *m);
void proa_wire_put_room_open(proa_buf *out, const proa_wire_room_open *m);
void proa_wire_put_room(proa_buf *out, const proa_wire_room *m);
void proa_wire_put_room_done(proa_buf *out, const proa_wire_room_done *m);
void proa_wire_put_room_fail(proa_buf *out, const proa_wire_room_fail *m);

/* Decoding. False, with a sentence in `err` that names message, field and value: the message is malformed. */
bool proa_wire_get_submit(const void *body, size_t length, proa_arena *arena, proa_wire_submit *m,
                          proa_error *err);
bool proa_wire_get_cancel(const void *body, size_t length, proa_wire_cancel *m, proa_error *err);
bool proa_wire_get_grant(const void *body, size_t length, proa_wire_grant *m, proa_error *err);
bool proa_wire_get_card(const void *body, size_t length, proa_wire_card *m, proa_error *err);
bool proa_wire_get_file(const void *body, size_t length, proa_wire_file *m, proa_error *err);
bool proa_wire_get_load(const void *body, size_t length, proa_wire_load *m, proa_error *err);
bool proa_wire_get_kv_events(const void *body, size_t length, proa_arena *arena, proa_wire_kv_events *m,
                             proa_error *err);
bool proa_wire_get_tokens(const void *body, size_t length, proa_arena *arena, proa_wire_tokens *m,
                          proa_error *err);
bool proa_wire_get_finish(const void *body, size_t length, proa_wire_finish *m, proa_error *err);
bool proa_wire_get_taken(const void *body, size_t length, proa_wire_taken *m, proa_error *err);
bool proa_wire_get_room_hello(const void *body, size_t length, proa_wire_room_hello *m, proa_error *err);
bool proa_wire_get_room_open(const void *body, size_t length, proa_arena *arena, proa_wire_room_open *m,
                             proa_error *err);
bool proa_wire_get_room(const void *body, size_t length, proa_wire_room *m, proa_error *err);
bool proa_wire_get_room_done(const void *body, size_t length, proa_arena *arena, proa_wire_room_done *m,
                             proa_error *err);
bool proa_wire_get_room_fail(const void *body, size_t length, proa_wire_room_fail *m, proa_error *err);

#endif
