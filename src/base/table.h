/* table.h - an open hash table from 64-bit keys to pointers. Keys are any but 0; values any but NULL.
 *
 * Linear probing, at most half full, entries move back when one is taken out, so there are no tombstones and a table that is used
 * for ever does not slow down. One owner thread.
 */
#ifndef PROA_BASE_TABLE_H
#define PROA_BASE_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct proa_table {
    struct proa_table_entry {
        uint64_t key; /* 0: empty */
        void *value;
    } * entries;
    size_t mask; /* entries - 1; 0 with entries NULL: none yet */
    size_t count;
} proa_table; /* {0} is empty */

void proa_table_free(proa_table *map); /* not what the values point to */
/* Sets or replaces. False when memory is out. */
bool proa_table_put(proa_table *map, uint64_t key, void *value);
void *proa_table_get(const proa_table *map, uint64_t key); /* NULL when absent */
void *proa_table_take(proa_table *map, uint64_t key);      /* removes; NULL when absent */
/* The next entry with a value, in no order: for (size_t i = 0; proa_table_next(&map, &i, &key, &value);). No changes in between. */
bool proa_table_next(const proa_table *map, size_t *at, uint64_t *key, void **value);

#endif
