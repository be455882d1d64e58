/* discovery_view.h - what one watch has told its hooks, and what follows from news of the backend. Pure but for the hooks.
 *
 *   backend ──> lists (all that is there, as of a revision) and events (one key) ──> view ──> put, gone: each change once
 *
 * A backend may repeat itself, go back in time within a connection, lose an event, and lose all its data; so:
 *   - an event or a listed key older than what is known of that key (revision) is ignored;
 *   - a key that is absent from a list is gone, unless the view has newer news of it than the list;
 *   - after the backend was away (`hold_until_us`), an absent key is in doubt: gone only if it has not come back until then, since
 *     its owner may be registering it again at a backend that has lost its data. An explicit event is believed at once.
 * Backends without revisions give 0 everywhere: their newest list is always right.
 *
 * Belongs to the discovery's thread.
 */
#ifndef PROA_CLUSTER_DISCOVERY_VIEW_H
#define PROA_CLUSTER_DISCOVERY_VIEW_H

#include "cluster/discovery.h"

#include <stdint.h>

enum { PROA_VIEW_KEYS_MAX = 1 << 16 }; /* further ones are ignored, with one line in the log */

typedef struct proa_view_entry {
    char *key;
    char *value;
    size_t length;
    int64_t revision; /* of the last change that is known */
    int64_t doubt_us; /* absent from a list: gone at this time; 0: no doubt */
    bool present;     /* false: a key that is gone, kept so that older news of it is recognised */
    bool listed;      /* in the list that is being told */
} proa_view_entry;

typedef struct proa_view {
    char prefix[PROA_DISCOVERY_KEY_BYTES_MAX + 1];
    proa_discovery_hooks hooks;
    proa_view_entry *entries; /* [count], ordered by key */
    size_t count;
    size_t capacity;
    int64_t list_revision;
    bool synced;
    bool full; /* the limit was reported */
} proa_view;

/* `prefix` has at most PROA_DISCOVERY_KEY_BYTES_MAX bytes. */
void proa_view_init(proa_view *view, const char *prefix, const proa_discovery_hooks *hooks);
void proa_view_free(proa_view *view); /* no hook runs */

/* A list as of `revision`: begin, each key in any order, end. Other keys than the prefix's are ignored. */
void proa_view_list_begin(proa_view *view, int64_t revision);
void proa_view_list_put(proa_view *view, const char *key, const char *value, size_t length, int64_t revision);
/* Keys absent from the list are gone, or in doubt until hold_until_us when that is after now_us. */
void proa_view_list_end(proa_view *view, int64_t now_us, int64_t hold_until_us);

void proa_view_event_put(proa_view *view, const char *key, const char *value, size_t length,
                         int64_t revision);
void proa_view_event_gone(proa_view *view, const char *key, int64_t revision);

/* The backend is away: what is in doubt stays until the next list. */
void proa_view_lost(proa_view *view);
/* The backend counts revisions anew. */
void proa_view_forget_revisions(proa_view *view);

/* Ends doubts that are due; returns when the next one is, INT64_MAX: none. */
int64_t proa_view_expire(proa_view *view, int64_t now_us);

#endif
