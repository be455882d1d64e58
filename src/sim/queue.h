/* queue.h - events in virtual time: the earliest first; of equal times, the one that was posted first. */
#ifndef PROA_SIM_QUEUE_H
#define PROA_SIM_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* {.event_bytes = sizeof (an event)} is an empty one. */
typedef struct sim_queue {
    size_t event_bytes;
    unsigned char *entries; /* a heap; each is when it is due, then the event */
    int32_t count, room;
    uint64_t order; /* of the next post */
} sim_queue;

/* Copies the event. Ends the program when memory is out. */
void proa_sim_queue_post(sim_queue *queue, const void *event, int64_t due_us);
/* False when it is empty. */
bool proa_sim_queue_take(sim_queue *queue, void *event, int64_t *due_us);
void proa_sim_queue_free(sim_queue *queue); /* leaves it empty */

#endif
