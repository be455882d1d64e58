/* graves.c - a bounded memory of room ids: a ring says which is the oldest, a map which are there. */
#include "base/table.h"
#include "cluster/room.h"

#include <stdlib.h>

struct proa_graves {
    uint64_t *ring; /* [capacity], 0: empty */
    size_t capacity;
    size_t next;
    proa_table rooms;
};

proa_graves *proa_graves_create(int32_t capacity)
{
    PROA_ASSERT(capacity >= 1);
    proa_graves *g = calloc(1, sizeof *g);
    if (g == NULL)
        return NULL;
    g->capacity = (size_t)capacity;
    g->ring = calloc(g->capacity, sizeof *g->ring);
    if (g->ring == NULL) {
        proa_graves_free(g);
        return NULL;
    }
    return g;
}

void proa_graves_free(proa_graves *g)
{
    if (g == NULL)
        return;
    free(g->ring);
    proa_table_free(&g->rooms);
    free(g);
}

void proa_graves_add(proa_graves *g, uint64_t room)
{
    if (room == 0 || proa_graves_has(g, room))
        return;
    proa_table_take(&g->rooms, g->ring[g->next]);
    g->ring[g->next] = 0;
    if (!proa_table_put(&g->rooms, room, g)) /* any value says that it is there */
        return; /* without memory it is forgotten: what comes late meets a deadline */
    g->ring[g->next] = room;
    g->next = (g->next + 1) % g->capacity;
}

bool proa_graves_has(const proa_graves *g, uint64_t room)
{
    return proa_table_get(&g->rooms, room) != NULL;
}
