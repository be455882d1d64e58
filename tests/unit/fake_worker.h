/* fake_worker.h - workers of a cluster without engines: real links on loopback, listed in a registry, whose tokens are a function of
 * prompt, output and position, and which misbehave as they are told.
 *
 * Each has a loop and a thread of its own, so that one can be stopped (it blocks, as SIGSTOP would). A prefill worker ends
 * its leg at once; a decode worker begins without waiting for it. Functions may be called from the test's thread.
 */
#ifndef PROA_TESTS_FAKE_WORKER_H
#define PROA_TESTS_FAKE_WORKER_H

#include "cluster/discovery.h"
#include "cluster/wire.h"

#include <stdatomic.h>

enum { FAKE_VOCAB = 50000, FAKE_CONTEXT = 8192, FAKE_DIGEST = 0xABCDEF };

typedef struct fake_worker fake_worker;

typedef enum fake_mood {
    FAKE_WELL,
    FAKE_REFUSES,         /* OVERLOADED to each SUBMIT */
    FAKE_FAILS,           /* PROA_ERR_DEVICE after two tokens */
    FAKE_BLAMES,          /* decode: UNREACHABLE, blaming the prefill worker */
    FAKE_BABBLES,         /* sends a message that is not understood after two tokens */
    FAKE_OVERSPENDS,      /* sends more tokens than it was granted */
    FAKE_CUTS_SHORT,      /* a clean end after two tokens */
    FAKE_HANGS_UP,        /* closes the link after two tokens of a request */
    FAKE_HANGS_UP_NOW,    /* closes the link on SUBMIT */
    FAKE_SLOW_FILES,      /* sends half of the files and hangs up */
    FAKE_WRONG_FILES,     /* sends more than its card said */
    FAKE_HARD_OF_HEARING, /* misses the first CANCEL */
} fake_mood;

typedef struct fake_options {
    proa_wire_leg leg;
    uint64_t instance;   /* 0: random */
    int32_t running_max; /* 0: 64 */
    int32_t queued_max;
    uint64_t model_digest; /* 0: FAKE_DIGEST */
    const char *component; /* NULL: as the leg says */
    bool unlisted;         /* not in discovery */
    int32_t token_us;      /* between two tokens of a request; 0: as fast as it can */
    fake_mood mood;
    bool kv_events; /* tells of the blocks of prompts that it has computed */
    int32_t poison; /* a prompt that begins with this id ends the worker; 0: none */
} fake_options;

/* Starts, and registers itself. Aborts the test when something does not work. */
fake_worker *fake_worker_start(proa_registry *registry, const fake_options *options);
/* As kill -9: links break, the key stays in discovery until `fake_worker_free`. */
void fake_worker_kill(fake_worker *worker);
/* Kills and frees, its key is gone. */
void fake_worker_free(fake_worker *worker);
/* Takes the key out of discovery. */
void fake_worker_unlist(fake_worker *worker);

void fake_worker_set_mood(fake_worker *worker, fake_mood mood);
void fake_worker_hang_up(fake_worker *worker);         /* breaks its links once */
void fake_worker_stop(fake_worker *worker, bool stop); /* its thread does nothing until it may go on */
void fake_worker_drain(fake_worker *worker);

uint64_t fake_worker_instance(const fake_worker *worker);

typedef struct fake_counts {
    _Atomic int submits, cancels, grants, flushes, running, links;
    _Atomic uint64_t rooms_wrong; /* SUBMITs whose leg, room and peers do not fit together */
} fake_counts;
fake_counts *fake_worker_counts(fake_worker *worker);

/* The files of its card. */
enum { FAKE_FILES = 3 };
typedef struct fake_file {
    const char *name;
    size_t bytes;
} fake_file;
extern const fake_file fake_files[FAKE_FILES];
uint8_t fake_file_byte(int file, size_t offset);

/* What the model says after prompt and output: the oracle. */
int32_t fake_token(const int32_t *prompt, int32_t prompt_count, const int32_t *output, int32_t output_count);
/* How many tokens come before the one that ends the sequence; -1: none ends it. */
int32_t fake_token_stop(const int32_t *prompt, int32_t prompt_count);

#endif
