/* team_wire.h - what a leader tells its followers of a step (model/team.h): its rows, and the blocks of the KV cache that follow. Pure.
 *
 *   int32, in the order of the machine, which is the same at all ranks (PROA's machines are little-endian):
 *   rows, segments, blocks of all segments, logit rows, brought, brought in a message
 *   [rows] token ids
 *   [segments] rows, first position, absorbed, blocks
 *   [blocks] of the segments, one after another
 *   [logit rows] their rows
 *   [brought] blocks whose bytes come in the next swaps, in this order
 */
#ifndef PROA_ENGINE_TEAM_WIRE_H
#define PROA_ENGINE_TEAM_WIRE_H

#include "model/forward.h"

typedef struct proa_team_limits {
    int32_t rows_max;
    int32_t segments_max;
    int32_t logit_rows_max;
    int32_t positions_max;
    int32_t kv_blocks;
    int32_t vocab;
    int32_t brought_max;
} proa_team_limits;

typedef struct proa_team_note {
    proa_step step; /* windows are not told: they are the shape's */
    int32_t brought_count;
    const int32_t *brought;
    int32_t brought_per_message;
} proa_team_note;

/* The longest note. */
size_t proa_team_note_bytes(const proa_team_limits *limits);
/* Returns the bytes written. */
size_t proa_team_note_write(const proa_team_note *note, uint8_t *to);

/* Where a note that was read has its arrays. */
typedef struct proa_team_reader proa_team_reader;
proa_team_reader *proa_team_reader_create(const proa_team_limits *limits); /* NULL: out of memory */
/* What computes the steps has these limits, none of which is over those that the reader was made with. */
void proa_team_reader_narrow(proa_team_reader *reader, const proa_forward_limits *limits);
void proa_team_reader_free(proa_team_reader *reader); /* accepts NULL */
/* Any bytes are safe: what is read keeps the limits and what proa_step says. The note borrows from the reader until the next one.
 * PROA_ERR_PROTOCOL. */
proa_status proa_team_note_read(proa_team_reader *reader, const uint8_t *from, size_t bytes,
                                proa_team_note *note, proa_error *err);

#endif
