/* map.h - an open hash table from 64-bit keys to pointers. Keys are any but 0; values any but NULL.
 *
 * Linear probing, at most half full, entries move back when one is taken out, so there are no tombstones and a table that is used
 * for ever does not slow down. One owner thread.
 */
#ifndef PROA_BASE_MAP_H
#define PROA_BASE_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct proa_map {
    struct proa_map_entry {
        uint64_t key; /* 0: empty */
        void *value;
    } * entries;
    size_t mask; /* entries - 1; 0 with entries NULL: none yet */
    size_t count;
} proa_map; /* {0} is empty */

void proa_map_free(proa_map *map); /* not what the values point to */
/* Sets or replaces. False when memory is out. */
bool proa_map_put(proa_map *map, uint64_t key, void *value);
void *proa_map_get(const proa_map *map, uint64_t key); /* NULL when absent */
void *proa_map_take(proa_map *map, uint64_t key);      /* removes; NULL when absent */
/* The next entry with a value, in no order: for (size_t i = 0; proa_map_next(&map, &i, &key, &value);). No changes in between. */
bool proa_map_next(const proa_map *map, size_t *at, uint64_t *key, void **value);

#endif
