/* file.h - files mapped or read whole. Errors name the path and errno's text. Any thread may call. */
#ifndef PROA_BASE_FILE_H
#define PROA_BASE_FILE_H

#include "base/buf.h"
#include "base/status.h"

#include <stdint.h>

/* A read-only mapping of a whole file; {0} is none. */
typedef struct proa_map {
    const unsigned char *data;
    uint64_t bytes;
} proa_map;

/* Maps a regular file; an empty file maps to {NULL, 0}. */
proa_status proa_map_open(const char *path, proa_map *map, proa_error *err);
void proa_map_close(proa_map *map);

/* Reads at most limit_bytes; a longer file is PROA_ERR_TOO_LONG. "-" is standard input. Appends to `out`. */
proa_status proa_file_read(const char *path, size_t limit_bytes, proa_buf *out, proa_error *err);

/* Writes a whole file: to a temporary name beside it, then renamed. */
proa_status proa_file_write(const char *path, const void *data, size_t bytes, proa_error *err);

/* The same for what was made in a buffer, which may have failed. */
proa_status proa_file_write_buf(const char *path, const proa_buf *text, proa_error *err);

/* The same from several pieces, written one after another. */
typedef struct proa_piece {
    const void *data;
    size_t bytes;
} proa_piece;

proa_status proa_file_write_pieces(const char *path, const proa_piece *pieces, size_t count, proa_error *err);

bool proa_file_exists(const char *path);

#endif
