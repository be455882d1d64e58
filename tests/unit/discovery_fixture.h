/* discovery_fixture.h - what tests of discovery share: a journal of what a watch was told, and cases that hold for every backend. */
#ifndef PROA_TEST_DISCOVERY_FIXTURE_H
#define PROA_TEST_DISCOVERY_FIXTURE_H

#include "base/buf.h"
#include "base/clock.h"
#include "base/file.h"
#include "cluster/discovery.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

enum { SECOND = 1000000, LEASE_US = 1000000 };
#define LEASE_S ((double)LEASE_US / SECOND)

/* What the hooks said, as text: "+key=value; ", "-key; ", "synced; ". */
typedef struct journal {
    pthread_mutex_t lock;
    proa_buf text;
} journal;

static inline journal *journal_create(void)
{
    journal *j = calloc(1, sizeof *j);
    pthread_mutex_init(&j->lock, NULL);
    return j;
}

static inline void journal_free(journal *j)
{
    pthread_mutex_destroy(&j->lock);
    proa_buf_free(&j->text);
    free(j);
}

static inline void on_put(void *context, const char *key, const char *value, size_t length)
{
    journal *j = context;
    pthread_mutex_lock(&j->lock);
    proa_buf_append_format(&j->text, "+%s=%.*s; ", key, (int)(length < 20 ? length : 20), value);
    pthread_mutex_unlock(&j->lock);
}

static inline void on_gone(void *context, const char *key)
{
    journal *j = context;
    pthread_mutex_lock(&j->lock);
    proa_buf_append_format(&j->text, "-%s; ", key);
    pthread_mutex_unlock(&j->lock);
}

static inline void on_synced(void *context)
{
    journal *j = context;
    pthread_mutex_lock(&j->lock);
    proa_buf_append_text(&j->text, "synced; ");
    pthread_mutex_unlock(&j->lock);
}

static inline bool journal_is(journal *j, const char *text)
{
    pthread_mutex_lock(&j->lock);
    bool same = strcmp(proa_buf_text(&j->text), text) == 0;
    pthread_mutex_unlock(&j->lock);
    return same;
}

static inline size_t journal_length(journal *j)
{
    pthread_mutex_lock(&j->lock);
    size_t length = j->text.length;
    pthread_mutex_unlock(&j->lock);
    return length;
}

static inline bool journal_has(journal *j, const char *part)
{
    pthread_mutex_lock(&j->lock);
    bool has = strstr(proa_buf_text(&j->text), part) != NULL;
    pthread_mutex_unlock(&j->lock);
    return has;
}

/* Waits until the whole journal is `text`, and a moment longer, since nothing more may come. */
static inline void expect_at(journal *j, const char *text, int64_t within_us, const char *file, int line)
{
    int64_t until = proa_clock_us() + within_us;
    while (!journal_is(j, text) && proa_clock_us() < until)
        usleep(5000);
    usleep(20000);
    if (!journal_is(j, text))
        fail_msg("%s:%d: the watch was told \"%s\", not \"%s\"", file, line, proa_buf_text(&j->text), text);
}
/* Either order of two independent things. */
static inline void expect_either(journal *j, const char *text, const char *other, int64_t within_us)
{
    int64_t until = proa_clock_us() + within_us;
    while (!journal_is(j, text) && !journal_is(j, other) && proa_clock_us() < until)
        usleep(5000);
    expect_at(j, journal_is(j, text) ? text : other, 0, __FILE__, __LINE__);
}

static inline bool journal_ends(journal *j, const char *text)
{
    pthread_mutex_lock(&j->lock);
    size_t length = strlen(text), have = j->text.length;
    bool ends = have >= length && strcmp(j->text.data + have - length, text) == 0;
    pthread_mutex_unlock(&j->lock);
    return ends;
}

#define expect(j, text, within_us) expect_at(j, text, within_us, __FILE__, __LINE__)

static inline proa_discovery *create(const proa_discovery_options *options)
{
    proa_discovery *d = NULL;
    proa_error err = {0};
    if (proa_discovery_create(options, &d, &err) != PROA_OK)
        fail_msg("%s", err.text);
    return d;
}

static inline void watch(proa_discovery *d, const char *prefix, journal *j)
{
    const proa_discovery_hooks hooks = {.put = on_put, .gone = on_gone, .synced = on_synced, .context = j};
    proa_error err = {0};
    if (proa_discovery_watch(d, prefix, &hooks, &err) != PROA_OK)
        fail_msg("%s", err.text);
}

static inline void must_register(proa_discovery *d, const char *key, const char *value)
{
    proa_error err = {0};
    if (proa_discovery_register(d, key, value, &err) != PROA_OK)
        fail_msg("%s", err.text);
}

static inline void wait_for_file(const char *path)
{
    for (int i = 0; i < 600 && access(path, F_OK) != 0; i++)
        usleep(5000);
    assert_int_equal(access(path, F_OK), 0);
}

/* --- what people read: standard error goes into a file for a while --- */

typedef struct log_capture {
    char path[64];
    int kept_fd;
    proa_buf text;
} log_capture;

static inline log_capture *log_capture_begin(void)
{
    log_capture *c = calloc(1, sizeof *c);
    snprintf(c->path, sizeof c->path, "/tmp/proa-log-XXXXXX");
    int fd = mkstemp(c->path);
    c->kept_fd = dup(STDERR_FILENO);
    dup2(fd, STDERR_FILENO);
    close(fd);
    return c;
}

static inline void log_capture_end(log_capture *c)
{
    proa_error err = {0};
    dup2(c->kept_fd, STDERR_FILENO);
    close(c->kept_fd);
    if (proa_file_read(c->path, 1 << 20, &c->text, &err) != PROA_OK)
        fail_msg("%s", err.text);
    unlink(c->path);
}

/* Lines that contain `part`. */
static inline int log_capture_count(const log_capture *c, const char *part)
{
    int count = 0;
    for (const char *at = proa_buf_text(&c->text); (at = strstr(at, part)) != NULL; count++)
        at = strchr(at, '\n');
    return count;
}

#define assert_logged(c, part, times)                                                                        \
    do {                                                                                                     \
        if (log_capture_count(c, part) != (times))                                                           \
            fail_msg("\"%s\" stands %d times in the log, not %d:\n%s", part, log_capture_count(c, part),     \
                     times, proa_buf_text(&(c)->text));                                                      \
    } while (0)

static inline void log_capture_free(log_capture *c)
{
    proa_buf_free(&c->text);
    free(c);
}

/* Starts this program again as a process that registers a key and lives until it is killed; its main calls be_owner. */
static inline pid_t start_owner(const proa_discovery_options *options, const char *key, const char *value)
{
    const char *where = options->endpoints != NULL ? options->endpoints : options->path;
    char lease[32];
    snprintf(lease, sizeof lease, "%g", options->lease_s);
    pid_t parent = getpid(), child = fork();
    if (child != 0)
        return child;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() == parent)
        execl("/proc/self/exe", "owner", "owner", options->backend, where, lease, key, value, (char *)NULL);
    _exit(127);
}

/* Returns when this process is no owner. */
static inline void be_owner(int argc, char **argv)
{
    if (argc != 7 || strcmp(argv[1], "owner") != 0)
        return;
    const proa_discovery_options options = {
        .backend = argv[2], .path = argv[3], .endpoints = argv[3], .lease_s = strtod(argv[4], NULL)};
    proa_discovery *d = NULL;
    if (proa_discovery_create(&options, &d, NULL) == PROA_OK &&
        proa_discovery_register(d, argv[5], argv[6], NULL) == PROA_OK)
        sleep(60);
    _exit(1);
}

/* --- cases that hold for every backend --- */

/* Seen by an early and a late watch, changed, taken away, left at the owner's end; other prefixes are not told of. */
static inline void life_of_a_key(const proa_discovery_options *options)
{
    proa_discovery *owner = create(options), *other = create(options);
    journal *early = journal_create(), *late = journal_create(), *own = journal_create();
    watch(other, "v1/a/", early);
    expect(early, "synced; ", 2 * SECOND);
    must_register(owner, "v1/a/k", "1");
    must_register(owner, "v1/b/k", "1");
    expect(early, "synced; +v1/a/k=1; ", 2 * SECOND);
    must_register(owner, "v1/a/k", "2");
    expect(early, "synced; +v1/a/k=1; +v1/a/k=2; ", 2 * SECOND);
    must_register(owner, "v1/a/k", "2"); /* no change */
    watch(other, "v1/a/", late);
    expect(late, "+v1/a/k=2; synced; ", 2 * SECOND);
    watch(owner, "v1/a/", own);
    expect(own, "+v1/a/k=2; synced; ", 2 * SECOND);
    int64_t start = proa_clock_us();
    proa_discovery_unregister(owner, "v1/a/k");
    proa_discovery_unregister(owner, "v1/a/k"); /* nothing to do */
    assert_true(proa_clock_us() - start < SECOND / 2);
    expect(early, "synced; +v1/a/k=1; +v1/a/k=2; -v1/a/k; ", 2 * SECOND);
    expect(late, "+v1/a/k=2; synced; -v1/a/k; ", 2 * SECOND);
    must_register(owner, "v1/a/k", "3");
    expect(late, "+v1/a/k=2; synced; -v1/a/k; +v1/a/k=3; ", 2 * SECOND);
    start = proa_clock_us();
    proa_discovery_free(owner);
    assert_true(proa_clock_us() - start < 3 * SECOND / 2);
    expect(late, "+v1/a/k=2; synced; -v1/a/k; +v1/a/k=3; -v1/a/k; ", 2 * SECOND);
    proa_discovery_free(other);
    proa_discovery_free(NULL);
    journal_free(early);
    journal_free(late);
    journal_free(own);
}

/* As many keys as one may keep, in one list and one after the other; a hook that registers and unregisters. */
static inline void many_keys(const proa_discovery_options *options)
{
    enum { KEYS = 64 };
    proa_discovery *owner = create(options), *other = create(options);
    journal *j = journal_create();
    proa_error err = {0};
    char key[32];
    for (int i = 0; i < KEYS; i++) {
        snprintf(key, sizeof key, "v1/%02d", i);
        must_register(owner, key, "x");
    }
    assert_int_equal(proa_discovery_register(owner, "v1/more", "x", &err), PROA_ERR_OVERLOADED);
    must_register(owner, "v1/00", "x"); /* it is there already */
    watch(other, "v1/", j);
    int64_t until = proa_clock_us() + 3 * SECOND;
    const size_t one = strlen("+v1/00=x; ");
    while (journal_length(j) < KEYS * one + strlen("synced; ") && proa_clock_us() < until)
        usleep(5000);
    assert_int_equal(journal_length(j), KEYS * one + strlen("synced; "));
    for (int i = 0; i < KEYS; i++) {
        snprintf(key, sizeof key, "+v1/%02d=x; ", i);
        assert_true(journal_has(j, key));
    }
    proa_discovery_unregister(owner, "v1/07");
    must_register(owner, "v1/more", "y");
    until = proa_clock_us() + 2 * SECOND;
    while (!(journal_has(j, "+v1/more=y; ") && journal_has(j, "-v1/07; ")) && proa_clock_us() < until)
        usleep(20000);
    assert_true(journal_has(j, "+v1/more=y; "));
    assert_true(journal_has(j, "-v1/07; "));
    proa_discovery_free(owner);
    proa_discovery_free(other);
    journal_free(j);
}

#endif
