/* arena.h - memory with a named lifetime: allocate many, free all at once.
 *
 * For request- and load-lifetime data. Chunks grow as needed up to `limit_bytes`, after which allocation
 * returns NULL (so that a hostile file cannot take all memory). Memory is zeroed and aligned to 16 bytes.
 * An arena has one owner thread.
 */
#ifndef PROA_BASE_ARENA_H
#define PROA_BASE_ARENA_H

#include <stddef.h>

typedef struct proa_arena proa_arena;

/* `limit_bytes` 0 means no limit. Returns NULL when memory is out. */
proa_arena *proa_arena_create(size_t limit_bytes);

/* Accepts NULL. */
void proa_arena_free(proa_arena *arena);

/* Forgets everything allocated, keeps the first chunk. */
void proa_arena_reset(proa_arena *arena);

/* Zeroed; NULL over the limit or out of memory. bytes may be 0 (a valid, unique pointer). */
void *proa_arena_alloc(proa_arena *arena, size_t bytes);

/* Like proa_arena_alloc for count elements, safe against overflow. */
void *proa_arena_array(proa_arena *arena, size_t count, size_t element_bytes);

/* A terminated copy of `length` bytes. */
char *proa_arena_string(proa_arena *arena, const char *text, size_t length);

/* Bytes handed out since creation or reset. */
size_t proa_arena_used(const proa_arena *arena);

#endif
