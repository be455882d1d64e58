/* problems.h - a list of what is wrong with one file, so that a person sees all of it at once.
 *
 * Checks add a sentence each and go on; at the end the list becomes one error. One owner thread.
 */
#ifndef PROA_MODEL_PROBLEMS_H
#define PROA_MODEL_PROBLEMS_H

#include "base/buf.h"
#include "base/status.h"

typedef struct proa_problems {
    proa_buf text; /* the sentences, each followed by a newline */
    int count;
    proa_status status; /* of the first: PROA_ERR_INVALID or PROA_ERR_UNSUPPORTED, ... */
} proa_problems;

/* {0} is an empty list. The sentence names field, value and remedy, and does not end in a full stop. */
void proa_problems_add(proa_problems *list, proa_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Fills err with "where: sentence" or "where: 3 problems: (1) sentence; (2) ..." and frees the list. PROA_OK when
 * the list is empty. */
proa_status proa_problems_finish(proa_problems *list, const char *where, proa_error *err);

#endif
