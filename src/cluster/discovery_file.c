/* discovery_file.c - a folder, of a host or shared by hosts: the key v1/a/b is the file v1/a/b.json, its content the value.
 *
 *   owner    writes the file whole (under another name, then renamed), touches it every lease / 4, writes it again when it
 *            is absent, removes it at the end
 *   watcher  looks at the whole folder every 200 ms; a file that has not been touched for a lease belongs to a dead owner
 *
 * A touch is a change of the file's times, seen here and timed by this process's monotonic clock: hosts' clocks need not agree
 * and may jump. Only a file that is seen for the first time is judged by its age, against the folder's own clock (the time that
 * its file system gives to a new file), so that what a dead owner left last week is not taken for alive; and when that is
 * wrong because a clock has just jumped, the owner's next touch corrects it.
 *
 * Polling and not inotify, since inotify does not see other hosts. Over NFS, the cache of attributes (acregmin, 3 s by default)
 * must be well below the lease. When the whole folder vanishes, watches keep what they have seen; when it is back, owners
 * have a lease's time to write again. Who opens the discovery makes the folder; owners do not make it again, so that it can be
 * removed for good while they are still on their way out (the Slurm job's script does).
 *
 * Untrusted: names that begin with a dot or do not end in .json, links, and what is too deep, too long or too large is ignored.
 */
#include "cluster/discovery_internal.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    SCAN_US = 200000,
    PAUSE_US = 1000000, /* a longer gap between looks: this process stood still, which does not age files */
    DEPTH_MAX = 16,
    FILES_MAX = 1 << 16,
    PART_BYTES_MAX = 200,
    PATH_BYTES_MAX = 4096,
};
static const char suffix[] = ".json";

/* A key of this discovery. */
typedef struct record {
    char *key;
    char *value;
    bool written;
    bool lost; /* another owner has the key; logged */
    dev_t device;
    ino_t inode; /* of the file that was written */
} record;

/* A file that was seen. */
typedef struct seen {
    char *key;
    proa_buf value;
    struct stat info;   /* as it was when the value was read */
    int64_t touched_us; /* when a touch was seen last */
    bool alive;
    bool there; /* in this scan */
} seen;

typedef struct folder {
    char *path;
    int wake_fd;
    int64_t lease_us;
    record records[PROA_DISCOVERY_KEYS_MAX];
    size_t record_count;
    int64_t touch_us; /* when records are to be touched next */

    proa_view *views[PROA_DISCOVERY_WATCHES_MAX];
    size_t view_count;
    seen *files; /* [file_count], ordered by key */
    size_t file_count;
    size_t file_capacity;
    int64_t scan_us;    /* when to look next */
    int64_t scanned_us; /* when it was looked last; 0: never */
    int64_t seconds;    /* the folder's clock, in this look */
    bool seconds_known;
    int64_t hold_until_us; /* until when absent keys are in doubt */
    bool away;             /* the folder cannot be read; logged */
    bool unwritable;       /* a key could not be written; logged */
} folder;

/* --- owner --- */

static void path_of(const folder *f, const char *key, char path[PATH_BYTES_MAX])
{
    int n = snprintf(path, PATH_BYTES_MAX, "%s/%s%s", f->path, key, suffix);
    PROA_ASSERT(n < PATH_BYTES_MAX); /* open and check_key bound both */
}

/* Makes the folders above `path` that are absent, within the folder. What fails shows when the file is written. */
static void make_folders(const folder *f, const char *path)
{
    char part[PATH_BYTES_MAX];
    snprintf(part, sizeof part, "%s", path);
    for (char *slash = strchr(part + strlen(f->path) + 1, '/'); slash != NULL;
         slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(part, 0755);
        *slash = '/';
    }
}

/* Once, until a file could be written. */
static void report_unwritten(folder *f, const record *r, const char *cause)
{
    if (!f->unwritable)
        proa_log(PROA_LOG_WARN, "discovery", "%s is not registered: %s; it is tried again", r->key, cause);
    f->unwritable = true;
}

static void write_record(folder *f, record *r)
{
    char path[PATH_BYTES_MAX];
    struct stat info;
    proa_error err = {0};
    path_of(f, r->key, path);
    make_folders(f, path);
    r->written =
        proa_file_write(path, r->value, strlen(r->value), &err) == PROA_OK && lstat(path, &info) == 0;
    if (r->written) {
        r->device = info.st_dev;
        r->inode = info.st_ino;
        r->lost = false;
        f->unwritable = false;
    } else {
        report_unwritten(f, r, err.text[0] != 0 ? err.text : strerror(errno));
    }
}

static bool is_own(const record *r, const struct stat *info)
{
    return r->written && info->st_dev == r->device && info->st_ino == r->inode;
}

/* Writes what is absent and touches what is there. */
static void keep_record(folder *f, record *r, bool touch)
{
    char path[PATH_BYTES_MAX];
    struct stat info;
    path_of(f, r->key, path);
    if (!r->written || lstat(path, &info) != 0) {
        write_record(f, r);
    } else if (!is_own(r, &info)) {
        if (!r->lost)
            proa_log(PROA_LOG_WARN, "discovery", "another process has registered %s over this one's", r->key);
        r->lost = true;
    } else if (touch && utimensat(AT_FDCWD, path, NULL, AT_SYMLINK_NOFOLLOW) != 0) {
        report_unwritten(f, r, strerror(errno));
    }
}

static record *find_record(folder *f, const char *key)
{
    for (size_t i = 0; i < f->record_count; i++) {
        if (strcmp(f->records[i].key, key) == 0)
            return &f->records[i];
    }
    return NULL;
}

static void file_put(void *state, char *key, char *value)
{
    folder *f = state;
    record *r = find_record(f, key);
    if (r == NULL) {
        PROA_ASSERT(f->record_count < PROA_DISCOVERY_KEYS_MAX);
        r = &f->records[f->record_count++];
        *r = (record){.key = key};
    } else {
        free(key);
        free(r->value);
    }
    r->value = value;
    write_record(f, r);
}

static void remove_record(folder *f, record *r)
{
    char path[PATH_BYTES_MAX];
    struct stat info;
    path_of(f, r->key, path);
    if (lstat(path, &info) == 0 && is_own(r, &info))
        unlink(path);
    free(r->key);
    free(r->value);
    *r = f->records[--f->record_count];
}

static void file_remove(void *state, const char *key)
{
    record *r = find_record(state, key);
    if (r != NULL)
        remove_record(state, r);
}

static bool file_holds(const void *state, const char *key)
{
    (void)state;
    (void)key;
    return false; /* remove has removed it */
}

/* --- watcher: one look at the folder --- */

/* Where the key is or belongs. */
static size_t place_of(const folder *f, const char *key, bool *found)
{
    size_t low = 0, high = f->file_count;
    *found = false;
    while (low < high && !*found) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(key, f->files[middle].key);
        *found = order == 0;
        if (order <= 0)
            high = middle;
        else
            low = middle + 1;
    }
    return high;
}

static seen *add_seen(folder *f, size_t at, const char *key)
{
    if (f->file_count == FILES_MAX)
        return NULL;
    if (f->file_count == f->file_capacity) {
        size_t capacity = f->file_capacity == 0 ? 16 : f->file_capacity * 2;
        seen *files = realloc(f->files, capacity * sizeof *files);
        if (files == NULL)
            return NULL;
        f->files = files;
        f->file_capacity = capacity;
    }
    char *copy = strdup(key);
    if (copy == NULL)
        return NULL;
    memmove(&f->files[at + 1], &f->files[at], (f->file_count - at) * sizeof f->files[0]);
    f->files[at] = (seen){.key = copy};
    f->file_count++;
    return &f->files[at];
}

static void seen_free(seen *s)
{
    free(s->key);
    proa_buf_free(&s->value);
}

static bool same_time(struct timespec a, struct timespec b)
{
    return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

static bool is_touched(const struct stat *before, const struct stat *now)
{
    return before->st_ino != now->st_ino || before->st_size != now->st_size ||
           !same_time(before->st_mtim, now->st_mtim) || !same_time(before->st_ctim, now->st_ctim);
}

/* The value and the times that belong to it; nothing changes when it cannot be read. */
static bool read_value(int folder_fd, const char *name, seen *s)
{
    int fd = openat(folder_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return false;
    char piece[4096];
    struct stat info;
    ssize_t n = 0;
    proa_buf value;
    proa_buf_init(&value, PROA_DISCOVERY_VALUE_BYTES_MAX);
    bool good = fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
    while (good && !value.failed && (n = read(fd, piece, sizeof piece)) > 0)
        proa_buf_append(&value, piece, (size_t)n);
    close(fd);
    if (!good || n < 0 || value.failed) {
        proa_buf_free(&value);
        return false;
    }
    proa_buf_free(&s->value);
    s->value = value;
    s->info = info;
    return true;
}

/* The time that the folder's file system gives to a new file; this host's time where nothing can be written. */
static int64_t folder_seconds(folder *f)
{
    char path[PATH_BYTES_MAX];
    struct stat info;
    if (f->seconds_known)
        return f->seconds;
    f->seconds = proa_clock_unix_seconds();
    f->seconds_known = true;
    snprintf(path, sizeof path, "%s/.clock-XXXXXX", f->path);
    int fd = mkstemp(path);
    if (fd >= 0) {
        if (fstat(fd, &info) == 0)
            f->seconds = info.st_mtim.tv_sec;
        close(fd);
        unlink(path);
    }
    return f->seconds;
}

static bool is_young(folder *f, const struct stat *info)
{
    return folder_seconds(f) - info->st_mtim.tv_sec <= f->lease_us / 1000000 + 1;
}

static void look_at_file(folder *f, int folder_fd, const char *name, const char *key, int64_t now)
{
    struct stat info;
    if (fstatat(folder_fd, name, &info, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(info.st_mode))
        return;
    bool known;
    size_t at = place_of(f, key, &known);
    seen *s = known ? &f->files[at] : add_seen(f, at, key);
    if (s == NULL)
        return;
    s->there = true;
    if (known && !is_touched(&s->info, &info))
        return;
    if (read_value(folder_fd, name, s)) {
        s->touched_us = now;
        s->alive = known || is_young(f, &s->info);
    } else if (!known) {
        s->there = false; /* it is new again in the next look; a known one stays what it was for its lease */
    }
}

static proa_status look_at_folder(folder *f, int parent_fd, const char *name, const char *key, int depth,
                                  int64_t now);

/* `name` in the folder of `parent_key` (with its slash). */
static proa_status look_at_name(folder *f, DIR *folder_of, const struct dirent *entry, const char *parent_key,
                                int depth, int64_t now)
{
    char key[PROA_DISCOVERY_KEY_BYTES_MAX + sizeof suffix];
    const char *name = entry->d_name;
    size_t length = strlen(name);
    int n = snprintf(key, sizeof key, "%s%s", parent_key, name);
    if (name[0] == '.' || n < 0 || (size_t)n >= sizeof key)
        return PROA_OK;
    if (entry->d_type == DT_DIR || entry->d_type == DT_UNKNOWN) {
        proa_status status = look_at_folder(f, dirfd(folder_of), name, key, depth + 1, now);
        if (status != PROA_ERR_NOT_FOUND) /* else it is a file */
            return status;
    }
    size_t suffix_length = sizeof suffix - 1;
    if (length > suffix_length && strcmp(name + length - suffix_length, suffix) == 0) {
        key[(size_t)n - suffix_length] = 0;
        look_at_file(f, dirfd(folder_of), name, key, now);
    }
    return PROA_OK;
}

/* PROA_OK; PROA_ERR_NOT_FOUND: no folder that we may read has this name (any more); PROA_ERR_IO with errno: what is in it is not known. */
static proa_status look_at_folder(folder *f, int parent_fd, const char *name, const char *key, int depth,
                                  int64_t now)
{
    char prefix[PROA_DISCOVERY_KEY_BYTES_MAX + sizeof suffix + 1];
    if (depth > DEPTH_MAX)
        return PROA_OK;
    snprintf(prefix, sizeof prefix, "%s%s", key, depth > 0 ? "/" : "");
    int flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC | (depth > 0 ? O_NOFOLLOW : 0);
    int fd = openat(parent_fd, name, flags);
    if (fd < 0)
        return errno == ENOENT || errno == ENOTDIR || errno == ELOOP || errno == EACCES ? PROA_ERR_NOT_FOUND
                                                                                        : PROA_ERR_IO;
    DIR *directory = fdopendir(fd);
    if (directory == NULL) {
        close(fd);
        return PROA_ERR_IO;
    }
    proa_status status = PROA_OK;
    const struct dirent *entry;
    while (status == PROA_OK && (errno = 0, entry = readdir(directory)) != NULL)
        status = look_at_name(f, directory, entry, prefix, depth, now);
    if (status == PROA_OK && errno != 0)
        status = PROA_ERR_IO;
    int saved = errno;
    closedir(directory);
    errno = saved;
    return status;
}

/* --- watcher: what follows --- */

/* Forgets files that are not there any more, and ends those that were not touched. */
static void judge(folder *f, int64_t now)
{
    size_t kept = 0;
    for (size_t i = 0; i < f->file_count; i++) {
        seen *s = &f->files[i];
        if (!s->there) {
            seen_free(s);
            continue;
        }
        s->alive = s->alive && now - s->touched_us <= f->lease_us;
        f->files[kept++] = *s;
    }
    f->file_count = kept;
}

static void tell_views(folder *f, int64_t now)
{
    for (size_t v = 0; v < f->view_count; v++) {
        proa_view *view = f->views[v];
        proa_view_list_begin(view, 0);
        for (size_t i = 0; i < f->file_count; i++) {
            const seen *s = &f->files[i];
            if (s->alive)
                proa_view_list_put(view, s->key, proa_buf_text(&s->value), s->value.length, 0);
        }
        proa_view_list_end(view, now, f->hold_until_us);
    }
}

static void set_away(folder *f, int error)
{
    if (!f->away) {
        proa_log(PROA_LOG_WARN, "discovery", "the folder %s cannot be read (%s); what was seen in it stays",
                 f->path, strerror(error));
        for (size_t v = 0; v < f->view_count; v++)
            proa_view_lost(f->views[v]);
    }
    f->away = true;
}

static void scan(folder *f, int64_t now)
{
    int64_t gap = f->scanned_us != 0 ? now - f->scanned_us : 0;
    for (size_t i = 0; i < f->file_count; i++) {
        f->files[i].there = false;
        if (gap > PAUSE_US) /* it was not looked: nothing is known of touches in that time */
            f->files[i].touched_us += gap - PAUSE_US;
    }
    f->seconds_known = false;
    if (look_at_folder(f, AT_FDCWD, f->path, "", 0, now) != PROA_OK) {
        set_away(f, errno);
        return;
    }
    f->scanned_us = now;
    if (f->away) {
        proa_log(PROA_LOG_INFO, "discovery", "the folder %s is back", f->path);
        f->away = false;
        f->hold_until_us = now + f->lease_us;
    }
    judge(f, now);
    tell_views(f, now);
}

static void file_watch(void *state, proa_view *view)
{
    folder *f = state;
    f->views[f->view_count++] = view;
    f->scan_us = 0;
}

/* --- life --- */

static proa_status file_open(const proa_discovery_options *options, int wake_fd, void **state,
                             proa_error *err)
{
    const char *path = options->path;
    if (path == NULL || path[0] == 0)
        return proa_error_set(err, PROA_ERR_INVALID,
                              "--discovery-backend file needs a folder: give --discovery-path");
    if (strlen(path) > PATH_BYTES_MAX - PROA_DISCOVERY_KEY_BYTES_MAX - 64)
        return proa_error_set(err, PROA_ERR_TOO_LONG, "--discovery-path has %zu bytes, too many",
                              strlen(path));
    if (mkdir(path, 0755) != 0 && errno != EEXIST)
        return proa_error_set(err, PROA_ERR_IO, "--discovery-path: cannot make the folder %s: %s", path,
                              strerror(errno));
    struct stat info;
    if (stat(path, &info) != 0 || !S_ISDIR(info.st_mode) || access(path, R_OK | X_OK) != 0)
        return proa_error_set(err, PROA_ERR_INVALID, "--discovery-path: %s is no folder that can be read",
                              path);
    folder *f = calloc(1, sizeof *f);
    char *copy = strdup(path);
    if (f == NULL || copy == NULL) {
        free(f);
        free(copy);
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for discovery");
    }
    f->path = copy;
    f->wake_fd = wake_fd;
    f->lease_us = (int64_t)(options->lease_s * 1e6);
    *state = f;
    return PROA_OK;
}

static proa_status file_check_key(const char *key, proa_error *err)
{
    for (const char *part = key; part != NULL;) {
        const char *slash = strchr(part, '/');
        size_t length = slash != NULL ? (size_t)(slash - part) : strlen(part);
        bool file_like = length >= sizeof suffix - 1 &&
                         strncmp(part + length - (sizeof suffix - 1), suffix, sizeof suffix - 1) == 0;
        if (length > PART_BYTES_MAX || file_like)
            return proa_error_set(
                err, PROA_ERR_INVALID,
                "the key %.100s cannot be a file: its parts have at most %d bytes and do not "
                "end in %s",
                key, PART_BYTES_MAX, suffix);
        part = slash != NULL ? slash + 1 : NULL;
    }
    return PROA_OK;
}

static void file_run(void *state, int64_t until_us)
{
    folder *f = state;
    int64_t now = proa_clock_us();
    if (now >= f->scan_us) {
        bool touch = now >= f->touch_us;
        for (size_t i = 0; i < f->record_count; i++)
            keep_record(f, &f->records[i], touch);
        if (touch)
            f->touch_us = now + f->lease_us / 4;
        if (f->view_count > 0)
            scan(f, now);
        f->scan_us = now + SCAN_US;
    }
    if (f->record_count + f->view_count > 0 && f->scan_us < until_us)
        until_us = f->scan_us;
    struct pollfd wake = {.fd = f->wake_fd, .events = POLLIN};
    int64_t wait_us = until_us - proa_clock_us();
    poll(&wake, 1, wait_us > 0 ? (int)((wait_us + 999) / 1000) : 0);
}

static void file_close(void *state)
{
    folder *f = state;
    f->view_count = 0;
    while (f->record_count > 0)
        remove_record(f, &f->records[0]);
}

static bool file_closed(const void *state)
{
    (void)state;
    return true;
}

static void file_free(void *state)
{
    folder *f = state;
    for (size_t i = 0; i < f->file_count; i++)
        seen_free(&f->files[i]);
    free(f->files);
    free(f->path);
    free(f);
}

const proa_discovery_backend proa_discovery_file = {
    .name = "file",
    .open = file_open,
    .check_key = file_check_key,
    .put = file_put,
    .remove = file_remove,
    .holds = file_holds,
    .watch = file_watch,
    .run = file_run,
    .close = file_close,
    .closed = file_closed,
    .free = file_free,
};
