/* file.c - whole-file access with errors that name the path. */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static proa_status io_error(proa_error *err, const char *verb, const char *path)
{
    int saved = errno;
    proa_status status = saved == ENOENT ? PROA_ERR_NOT_FOUND : PROA_ERR_IO;
    return proa_error_set(err, status, "cannot %s %s: %s", verb, path, strerror(saved));
}

proa_status proa_map_open(const char *path, proa_map *map, proa_error *err)
{
    *map = (proa_map){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return io_error(err, "open", path);
    struct stat info;
    if (fstat(fd, &info) != 0) {
        close(fd);
        return io_error(err, "stat", path);
    }
    if (!S_ISREG(info.st_mode)) {
        close(fd);
        return proa_error_set(err, PROA_ERR_INVALID, "%s is not a regular file", path);
    }
    if (info.st_size == 0) {
        close(fd);
        return PROA_OK;
    }
    void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (data == MAP_FAILED)
        return io_error(err, "map", path);
    map->data = data;
    map->bytes = (uint64_t)info.st_size;
    return PROA_OK;
}

void proa_map_close(proa_map *map)
{
    if (map->data != NULL)
        munmap((void *)(uintptr_t)map->data, map->bytes);
    *map = (proa_map){0};
}

proa_status proa_file_read(const char *path, size_t limit_bytes, proa_buf *out, proa_error *err)
{
    bool standard_input = strcmp(path, "-") == 0;
    int fd = standard_input ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return io_error(err, "open", path);
    proa_status status = PROA_OK;
    size_t total = 0;
    char chunk[65536];
    for (;;) {
        ssize_t n = read(fd, chunk, sizeof chunk);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            status = io_error(err, "read", path);
        if (n <= 0)
            break;
        total += (size_t)n;
        if (total > limit_bytes) {
            status = proa_error_set(err, PROA_ERR_TOO_LONG, "%s is larger than the limit of %zu bytes", path,
                                    limit_bytes);
            break;
        }
        proa_buf_append(out, chunk, (size_t)n);
    }
    if (!standard_input)
        close(fd);
    if (status == PROA_OK && out->failed)
        status = proa_error_set(err, PROA_ERR_MEMORY, "no memory left to read %s", path);
    return status;
}

/* 0, or -1 with errno set. */
static int write_all(int fd, const char *next, size_t bytes)
{
    while (bytes > 0) {
        ssize_t written = write(fd, next, bytes);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return -1;
        next += written;
        bytes -= (size_t)written;
    }
    return 0;
}

proa_status proa_file_write_pieces(const char *path, const proa_piece *pieces, size_t count, proa_error *err)
{
    char temporary[4096];
    int n = snprintf(temporary, sizeof temporary, "%s.part-%ld", path, (long)getpid());
    if (n < 0 || (size_t)n >= sizeof temporary)
        return proa_error_set(err, PROA_ERR_TOO_LONG, "path too long: %s", path);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0)
        return io_error(err, "create", temporary);
    for (size_t i = 0; i < count; i++) {
        if (write_all(fd, pieces[i].data, pieces[i].bytes) != 0) {
            proa_status status = io_error(err, "write", temporary);
            close(fd);
            unlink(temporary);
            return status;
        }
    }
    if (close(fd) != 0 || rename(temporary, path) != 0) {
        proa_status status = io_error(err, "write", path);
        unlink(temporary);
        return status;
    }
    return PROA_OK;
}

proa_status proa_file_write(const char *path, const void *data, size_t bytes, proa_error *err)
{
    return proa_file_write_pieces(path, &(proa_piece){data, bytes}, 1, err);
}

proa_status proa_file_write_buf(const char *path, const proa_buf *text, proa_error *err)
{
    if (text->failed)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory to write %s", path);
    return proa_file_write(path, proa_buf_text(text), text->length, err);
}

bool proa_file_exists(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0;
}
