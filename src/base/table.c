/* table.c - see table.h. */
#include "base/table.h"

#include <stdlib.h>

enum { ENTRIES_MIN = 16 };

static size_t home_of(const proa_table *map, uint64_t key)
{
    return (size_t)((key * 0x9E3779B97F4A7C15u) >> 20) & map->mask;
}

/* Where the key stands, or the empty place where it would. */
static struct proa_table_entry *find(const proa_table *map, uint64_t key)
{
    size_t i = home_of(map, key);
    while (map->entries[i].key != 0 && map->entries[i].key != key)
        i = (i + 1) & map->mask;
    return &map->entries[i];
}

static bool grow(proa_table *map)
{
    proa_table wider = {.mask = map->entries != NULL ? map->mask * 2 + 1 : ENTRIES_MIN - 1,
                        .count = map->count};
    wider.entries = calloc(wider.mask + 1, sizeof *wider.entries);
    if (wider.entries == NULL)
        return false;
    for (size_t i = 0; map->entries != NULL && i <= map->mask; i++) {
        if (map->entries[i].key != 0)
            *find(&wider, map->entries[i].key) = map->entries[i];
    }
    free(map->entries);
    *map = wider;
    return true;
}

void proa_table_free(proa_table *map)
{
    free(map->entries);
    *map = (proa_table){0};
}

bool proa_table_put(proa_table *map, uint64_t key, void *value)
{
    if ((map->entries == NULL || 2 * (map->count + 1) > map->mask + 1) && !grow(map))
        return false;
    struct proa_table_entry *entry = find(map, key);
    map->count += entry->key == 0;
    *entry = (struct proa_table_entry){key, value};
    return true;
}

void *proa_table_get(const proa_table *map, uint64_t key)
{
    return map->entries != NULL && key != 0 ? find(map, key)->value : NULL;
}

void *proa_table_take(proa_table *map, uint64_t key)
{
    if (proa_table_get(map, key) == NULL)
        return NULL;
    size_t hole = (size_t)(find(map, key) - map->entries);
    void *value = map->entries[hole].value;
    map->entries[hole] = (struct proa_table_entry){0};
    map->count--;
    /* entries behind the hole that would no longer be found move into it (Knuth, vol. 3, 6.4, algorithm R) */
    for (size_t i = (hole + 1) & map->mask; map->entries[i].key != 0; i = (i + 1) & map->mask) {
        size_t home = home_of(map, map->entries[i].key);
        bool stays = hole <= i ? hole < home && home <= i : hole < home || home <= i;
        if (stays)
            continue;
        map->entries[hole] = map->entries[i];
        map->entries[i] = (struct proa_table_entry){0};
        hole = i;
    }
    return value;
}

bool proa_table_next(const proa_table *map, size_t *at, uint64_t *key, void **value)
{
    for (size_t i = *at; map->entries != NULL && i <= map->mask; i++) {
        if (map->entries[i].key == 0)
            continue;
        *key = map->entries[i].key;
        *value = map->entries[i].value;
        *at = i + 1;
        return true;
    }
    return false;
}
