/* arena.c - a list of chunks, each at least twice as large as what did not fit before. */
#include "base/arena.h"

#include "base/status.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_CHUNK_BYTES = 4096, ALIGNMENT = 16 };

typedef struct chunk {
    struct chunk *next;
    size_t capacity;
    size_t used;
    _Alignas(ALIGNMENT) unsigned char data[];
} chunk;

struct proa_arena {
    chunk *newest; /* newest first; the first one ever made is last and survives a reset */
    size_t limit;
    size_t used;
};

static chunk *chunk_create(size_t capacity)
{
    chunk *c = malloc(sizeof *c + capacity);
    if (c != NULL) {
        c->next = NULL;
        c->capacity = capacity;
        c->used = 0;
    }
    return c;
}

proa_arena *proa_arena_create(size_t limit_bytes)
{
    proa_arena *arena = calloc(1, sizeof *arena);
    if (arena == NULL)
        return NULL;
    arena->limit = limit_bytes;
    arena->newest = chunk_create(FIRST_CHUNK_BYTES);
    if (arena->newest == NULL) {
        free(arena);
        return NULL;
    }
    return arena;
}

void proa_arena_free(proa_arena *arena)
{
    if (arena == NULL)
        return;
    while (arena->newest != NULL) {
        chunk *next = arena->newest->next;
        free(arena->newest);
        arena->newest = next;
    }
    free(arena);
}

void proa_arena_reset(proa_arena *arena)
{
    while (arena->newest->next != NULL) {
        chunk *next = arena->newest->next;
        free(arena->newest);
        arena->newest = next;
    }
    arena->newest->used = 0;
    arena->used = 0;
}

void *proa_arena_alloc(proa_arena *arena, size_t bytes)
{
    if (bytes > SIZE_MAX / 4)
        return NULL;
    size_t size = (bytes + ALIGNMENT) & ~(size_t)(ALIGNMENT - 1); /* at least one byte: unique pointers */
    if (arena->limit != 0 && (size > arena->limit || arena->used > arena->limit - size))
        return NULL;
    if (arena->newest->capacity - arena->newest->used < size) {
        size_t capacity = arena->newest->capacity * 2;
        if (capacity > (size_t)4 << 20)
            capacity = (size_t)4 << 20;
        if (capacity < size)
            capacity = size;
        chunk *c = chunk_create(capacity);
        if (c == NULL)
            return NULL;
        c->next = arena->newest;
        arena->newest = c;
    }
    void *memory = arena->newest->data + arena->newest->used;
    arena->newest->used += size;
    arena->used += size;
    memset(memory, 0, size);
    return memory;
}

void *proa_arena_array(proa_arena *arena, size_t count, size_t element_bytes)
{
    PROA_ASSERT(element_bytes > 0);
    if (count > SIZE_MAX / element_bytes)
        return NULL;
    return proa_arena_alloc(arena, count * element_bytes);
}

char *proa_arena_string(proa_arena *arena, const char *text, size_t length)
{
    char *copy = proa_arena_alloc(arena, length + 1);
    if (copy != NULL && length > 0)
        memcpy(copy, text, length);
    return copy;
}

size_t proa_arena_used(const proa_arena *arena)
{
    return arena->used;
}
