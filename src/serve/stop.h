/* stop.h - finds stop strings in text that comes in pieces, wherever the pieces are cut.
 *
 * What may still become a stop string is held back; the rest goes on at once. The stop string that is complete first
 * wins, of those that end at the same byte the longest; so the outcome does not depend on how the text was cut.
 * Knuth-Morris-Pratt: linear in the text, whatever the strings are.
 *
 * A set is immutable and shared by the answers of a request; a matcher belongs to one answer.
 */
#ifndef PROA_SERVE_STOP_H
#define PROA_SERVE_STOP_H

#include "base/arena.h"
#include "base/buf.h"
#include "serve/request.h"

typedef struct proa_stop_set {
    const proa_stop_string *stops;
    int32_t count;
    uint16_t *failure[PROA_API_STOPS_MAX]; /* KMP's table of each string */
} proa_stop_set;

typedef struct proa_stop_matcher {
    const proa_stop_set *set;
    uint16_t length[PROA_API_STOPS_MAX]; /* bytes of each string that the text's end matches */
    proa_buf held;
} proa_stop_matcher;

/* Borrows `stops`; the tables live in the arena. False when it is full. */
bool proa_stop_set_init(proa_stop_set *set, const proa_stop_string *stops, int32_t count, proa_arena *arena);

void proa_stop_matcher_init(proa_stop_matcher *matcher, const proa_stop_set *set);
void proa_stop_matcher_free(proa_stop_matcher *matcher);

/* Appends what has become certain to `out`. Returns the index of the stop string that is now complete, or -1. After a
 * match `out` ends before the string, or behind it with `include`, and nothing more may be pushed. */
int proa_stop_matcher_push(proa_stop_matcher *matcher, const char *text, size_t length, bool include,
                           proa_buf *out);

/* The text has ended: what was held back is text. */
void proa_stop_matcher_finish(proa_stop_matcher *matcher, proa_buf *out);

#endif
