/* slurm_layout.c - see slurm_layout.h. */
#define _GNU_SOURCE /* memmem */
#include "cmd/slurm_layout.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- layout.tsv ---- */

/* Copies the field at *at, up to a tab or `end`, and moves *at behind the tab. False when it is empty, too long, or has bytes that
 * no name has. */
static bool take_field(const char **at, const char *end, char *field, size_t bytes)
{
    size_t length = 0;
    for (; *at < end && **at != '\t'; (*at)++) {
        unsigned char c = (unsigned char)**at;
        if (c <= ' ' || c == '/' || c >= 127 || length + 1 >= bytes)
            return false;
        field[length++] = (char)c;
    }
    field[length] = '\0';
    *at += *at < end;
    return length > 0;
}

static bool take_number(const char **at, const char *end, int *number)
{
    char field[8], *stop;
    if (!take_field(at, end, field, sizeof field))
        return false;
    *number = (int)strtol(field, &stop, 10);
    return *stop == '\0' && *number >= 0;
}

bool proa_layout_parse(const char *text, size_t length, proa_layout_line *line)
{
    const char *at = text, *end = text + length;
    if (length == 0 || end[-1] == '\t')
        return false;
    return take_field(&at, end, line->role, sizeof line->role) && take_number(&at, end, &line->worker) &&
           take_number(&at, end, &line->rank) && take_field(&at, end, line->node, sizeof line->node) &&
           take_field(&at, end, line->address, sizeof line->address) &&
           take_field(&at, end, line->label, sizeof line->label) && at == end;
}

/* ---- logs ---- */

static bool has(const char *line, size_t length, const char *word)
{
    return memmem(line, length, word, strlen(word)) != NULL;
}

/* A note is one line of printable text. */
static void note(const char *line, size_t length, char *out)
{
    size_t kept = length < PROA_LAYOUT_NOTE_BYTES - 1 ? length : PROA_LAYOUT_NOTE_BYTES - 1;
    for (size_t i = 0; i < kept; i++)
        out[i] = (unsigned char)line[i] < ' ' || line[i] == 127 ? ' ' : line[i];
    out[kept] = '\0';
}

/* Of our own log (base/log.h), of what a process says as it ends, of Slurm's steps. */
static bool tells_error(const char *line, size_t length)
{
    return has(line, length, " error  ") || has(line, length, " error ") ||
           (length > 6 && memcmp(line, "proa: ", 6) == 0) || has(line, length, "error: ");
}

static bool tells_progress(const char *line, size_t length)
{
    static const char *const signs[] = {" model: ",    " mesh: linked to", " step together",
                                        " progress: ", "worker ready",     "ready on"};
    for (size_t i = 0; i < sizeof signs / sizeof *signs; i++) {
        if (has(line, length, signs[i]))
            return true;
    }
    return false;
}

void proa_layout_read_log(const char *text, size_t length, proa_layout_notes *notes)
{
    *notes = (proa_layout_notes){0};
    while (length > 0) {
        const char *newline = memchr(text, '\n', length);
        size_t line = newline != NULL ? (size_t)(newline - text) : length;
        if (tells_error(text, line))
            note(text, line, notes->error);
        else if (tells_progress(text, line))
            note(text, line, notes->progress);
        line += newline != NULL;
        text += line;
        length -= line;
    }
}

proa_status proa_layout_file_end(const char *path, size_t bytes, proa_buf *out, proa_error *err)
{
    char piece[8192];
    ssize_t n = 0;
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &info) != 0) {
        int cause = errno;
        if (fd >= 0)
            close(fd);
        return proa_error_set(err, cause == ENOENT ? PROA_ERR_NOT_FOUND : PROA_ERR_IO, "%s: %s", path,
                              strerror(cause));
    }
    off_t from = info.st_size > (off_t)bytes ? info.st_size - (off_t)bytes : 0;
    bool whole = from == 0;
    for (off_t at = from; out->length < bytes && (n = pread(fd, piece, sizeof piece, at)) > 0; at += n) {
        const char *begin = piece;
        size_t length = (size_t)n;
        if (!whole) { /* what is left of the line that was cut */
            const char *newline = memchr(piece, '\n', length);
            whole = newline != NULL;
            length -= whole ? (size_t)(newline + 1 - piece) : length;
            begin = whole ? newline + 1 : piece;
        }
        proa_buf_append(out, begin, length);
    }
    int cause = errno;
    close(fd);
    return n < 0 ? proa_error_set(err, PROA_ERR_IO, "%s: %s", path, strerror(cause)) : PROA_OK;
}
