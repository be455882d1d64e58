/* expert_reader.h - reads weights of experts into memory before a rank has to compute with them, on a thread of its own.
 *
 * Weights are mapped files (model/weights.h): the first product with an expert that this rank has not held would wait for a disk in the
 * middle of a step, and with it all ranks. The reader touches its pages beforehand; steps go on meanwhile.
 *
 * One job at a time; a new one takes the place of the last, whose end is not told then. Calls come from any thread, one at a time.
 */
#ifndef PROA_ENGINE_EXPERT_READER_H
#define PROA_ENGINE_EXPERT_READER_H

#include "base/status.h"

#include <stdint.h>

typedef struct proa_expert_reader proa_expert_reader;

typedef struct proa_expert_range {
    const void *start;
    size_t bytes;
} proa_expert_range;

typedef struct proa_expert_reader_hooks {
    /* The ranges of an expert, in memory for PROA_EXPERT_RANGES; how many there are. On the reader's thread. */
    int (*find)(void *context, int32_t layer, int32_t expert, proa_expert_range *ranges);
    /* All of the job is read. On the reader's thread, without a lock. */
    void (*done)(void *context, uint64_t job);
    void *context;
} proa_expert_reader_hooks;

enum { PROA_EXPERT_RANGES = 6 }; /* three projections, each with scales */

/* `experts_max`: of a job. Starts the thread. */
proa_status proa_expert_reader_create(int32_t experts_max, const proa_expert_reader_hooks *hooks,
                                      proa_expert_reader **reader, proa_error *err);
void proa_expert_reader_free(proa_expert_reader *reader); /* joins the thread; accepts NULL */

/* Where a job's experts are written, [experts_max] pairs of layer and expert, between begin and start: the thread rests meanwhile. */
int32_t *proa_expert_reader_begin(proa_expert_reader *reader);
void proa_expert_reader_start(proa_expert_reader *reader, uint64_t job, int32_t count);

#endif
