/* discovery_internal.h - what a backend of discovery is. discovery.c owns the thread and what callers want; the backend makes
 * it true and feeds the views (discovery_view.h).
 *
 * All functions but `open` and `check_key` run on the discovery's thread, in this order:
 *
 *   open ──> ( put | remove | watch | run )* ──> close ──> run* ──> free
 */
#ifndef PROA_CLUSTER_DISCOVERY_INTERNAL_H
#define PROA_CLUSTER_DISCOVERY_INTERNAL_H

#include "cluster/discovery.h"
#include "cluster/discovery_view.h"

enum { PROA_DISCOVERY_WATCHES_MAX = 8, PROA_DISCOVERY_KEYS_MAX = 64 };

typedef struct proa_discovery_backend {
    const char *name;
    /* Checks the options and sets up what needs no waiting. `wake_fd` (an eventfd) is readable when `run` must return. */
    proa_status (*open)(const proa_discovery_options *options, int wake_fd, void **state, proa_error *err);
    /* What this backend demands of keys beyond proa_discovery_register; may be NULL. Any thread. */
    proa_status (*check_key)(const char *key, proa_error *err);
    /* Keeps key = value there from now on, whatever happens. Takes both texts over (malloc'd), so that nothing can fail.
     * There are at most PROA_DISCOVERY_KEYS_MAX at a time. */
    void (*put)(void *state, char *key, char *value);
    void (*remove)(void *state, const char *key);
    /* Whether a removed key may still be there. */
    bool (*holds)(const void *state, const char *key);
    /* Feeds the view from now on until close. */
    void (*watch)(void *state, proa_view *view);
    /* Does what is due, then waits until something happens, wake_fd is readable or until_us has come; in one turn never
     * longer. Leaves wake_fd readable. */
    void (*run)(void *state, int64_t until_us);
    /* Touches no view any more, and begins to let all keys go. */
    void (*close)(void *state);
    /* Whether that has been done. */
    bool (*closed)(const void *state);
    void (*free)(void *state); /* waits for nothing */
} proa_discovery_backend;

extern const proa_discovery_backend proa_discovery_mem;
extern const proa_discovery_backend proa_discovery_file;
extern const proa_discovery_backend proa_discovery_etcd;

#endif
