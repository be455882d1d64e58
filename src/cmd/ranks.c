/* ranks.c - see ranks.h. One poll over a signalfd and the children's pipes; everything else is time. */
#define _GNU_SOURCE /* pipe2 */
#include "cmd/ranks.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/cpu.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    SECOND_US = 1000000,
    BACKOFF_MAX_US = 30 * SECOND_US,
    KILLED_US = 10 * SECOND_US, /* a killed process that is still there waits inside the kernel */
    MORE_WORDS_MAX = sizeof((proa_ranks_options *)0)->more_words / sizeof(char *),
    WORDS_MAX = MORE_WORDS_MAX + 7, /* of a child's that its parent has not; with its name and NULL */
};

typedef enum rank_state { RANK_WAITS, RANK_RUNS, RANK_ENDED } rank_state;

typedef struct rank_child {
    int rank;
    rank_state state;
    pid_t pid;    /* RUNS */
    int ready_fd; /* RUNS, until it has said something; -1 otherwise */
    bool ready, was_ready;
    int64_t started_us; /* RUNS */
    int64_t due_us;     /* WAITS */
    int64_t backoff_us; /* before the next start */
} rank_child;

typedef struct supervisor {
    const proa_ranks_options *options;
    rank_child *children;
    struct pollfd *polled; /* [count + 1]: the signals first */
    proa_cpu_shares *shares;
    pid_t self;
    int signal_fd;
    sigset_t mask_before;
    bool told_ready;
    int signals;        /* that have asked for the end; also set when a child cannot start */
    int64_t kill_at_us; /* while stopping */
    bool killed;        /* all that were left at kill_at_us, which then is when they are given up */
    int exit_status;
} supervisor;

/* ---- starting ---- */

/* The words of a child's command line; freed by the caller, the numbers are in `numbers`. */
static char **make_words(const supervisor *s, int rank, int ready_fd, char numbers[2][16])
{
    const proa_ranks_options *o = s->options;
    size_t count = 0, n = 0;
    while (o->words[count] != NULL)
        count++;
    char **words = calloc(count + WORDS_MAX, sizeof *words);
    if (words == NULL)
        return NULL;
    snprintf(numbers[0], 16, "%d", rank);
    snprintf(numbers[1], 16, "%d", ready_fd);
    words[n++] = (char *)o->name;
    for (int i = 0; i < o->words_before; i++)
        words[n++] = o->words[i];
    words[n++] = "--rank";
    words[n++] = numbers[0];
    words[n++] = "--rank-ready-fd";
    words[n++] = numbers[1];
    for (int i = 0; i < MORE_WORDS_MAX && o->more_words[i] != NULL; i++)
        words[n++] = (char *)o->more_words[i];
    if (s->shares == NULL && o->crowded_word != NULL)
        words[n++] = (char *)o->crowded_word;
    for (size_t i = (size_t)o->words_before; i < count; i++)
        words[n++] = o->words[i];
    return words;
}

/* The child, from fork to exec. */
static _Noreturn void become_rank(const supervisor *s, const rank_child *c, int ready_fd, char *const *words)
{
    static const char complaint[] = "proa: a rank cannot be started: /proc/self/exe cannot be executed\n";
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != s->self) /* it died before it could be heard of */
        _exit(1);
    setpgid(0, 0);
    if (s->shares != NULL)
        proa_cpu_shares_take(s->shares, c->rank - s->options->first);
    fcntl(ready_fd, F_SETFD, 0);
    signal(SIGTERM, SIG_DFL); /* a shell's background job ignores SIGINT, and its children would */
    signal(SIGINT, SIG_DFL);
    sigprocmask(SIG_SETMASK, &s->mask_before, NULL);
    execv("/proc/self/exe", words);
    ssize_t written = write(STDERR_FILENO, complaint, sizeof complaint - 1);
    (void)written;
    _exit(1);
}

static proa_status start_child(supervisor *s, rank_child *c, proa_error *err)
{
    int ends[2];
    char numbers[2][16];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return proa_error_set(err, PROA_ERR_IO, "cannot start rank %d: pipe: %s", c->rank, strerror(errno));
    char **words = make_words(s, c->rank, ends[1], numbers);
    pid_t pid = -1;
    if (words == NULL)
        errno = ENOMEM;
    else
        pid = fork();
    if (pid == 0)
        become_rank(s, c, ends[1], words);
    int cause = errno;
    free(words);
    close(ends[1]);
    if (pid < 0) {
        close(ends[0]);
        return proa_error_set(err, PROA_ERR_IO, "cannot start rank %d: fork: %s", c->rank, strerror(cause));
    }
    c->pid = pid;
    c->ready_fd = ends[0];
    c->ready = false;
    c->state = RANK_RUNS;
    c->started_us = proa_clock_us();
    proa_log(PROA_LOG_DEBUG, "ranks", "rank %d is process %d", c->rank, (int)pid);
    return PROA_OK;
}

/* ---- stopping ---- */

static int running(const supervisor *s)
{
    int count = 0;
    for (int i = 0; i < s->options->count; i++)
        count += s->children[i].state == RANK_RUNS;
    return count;
}

static void signal_all(supervisor *s, int number)
{
    for (int i = 0; i < s->options->count; i++) {
        if (s->children[i].state == RANK_RUNS)
            kill(s->children[i].pid, number);
    }
}

static void stop(supervisor *s, int number)
{
    double seconds = (s->signals++ == 0 ? s->options->shutdown_s : 0) + PROA_RANKS_GRACE_S;
    for (int i = 0; i < s->options->count; i++) {
        if (s->children[i].state == RANK_WAITS)
            s->children[i].state = RANK_ENDED;
    }
    signal_all(s, number);
    if (!s->killed)
        s->kill_at_us = proa_clock_us() + (int64_t)(seconds * SECOND_US);
}

static void kill_all(supervisor *s)
{
    signal_all(s, SIGKILL);
    s->signals++;
    s->killed = true;
    s->kill_at_us = proa_clock_us() + KILLED_US;
}

static void kill_late_ones(supervisor *s)
{
    for (int i = 0; i < s->options->count; i++) {
        if (s->children[i].state == RANK_RUNS)
            proa_log(PROA_LOG_ERROR, "ranks", "rank %d (process %d) has not ended: killed",
                     s->children[i].rank, (int)s->children[i].pid);
    }
    kill_all(s);
}

/* ---- ends ---- */

static void describe_end(int wait_status, char *text, size_t bytes)
{
    if (WIFSIGNALED(wait_status))
        snprintf(text, bytes, "was ended by signal %d (%s)", WTERMSIG(wait_status),
                 strsignal(WTERMSIG(wait_status)));
    else
        snprintf(text, bytes, "ended with status %d", WEXITSTATUS(wait_status));
}

static void note_status(supervisor *s, int wait_status)
{
    int status = WIFSIGNALED(wait_status) ? 128 + WTERMSIG(wait_status) : WEXITSTATUS(wait_status);
    if (s->exit_status == 0)
        s->exit_status = status;
}

static void start_later(supervisor *s, rank_child *c, const char *how)
{
    int64_t first_us = (int64_t)((s->options->backoff_s > 0 ? s->options->backoff_s : 1) * SECOND_US);
    bool lasted = c->ready && proa_clock_us() - c->started_us >= BACKOFF_MAX_US;
    if (c->backoff_us == 0 || lasted)
        c->backoff_us = first_us;
    proa_log(PROA_LOG_WARN, "ranks", "rank %d %s: starting it again in %.3g s", c->rank, how,
             (double)c->backoff_us / SECOND_US);
    c->state = RANK_WAITS;
    c->ready = false;
    c->due_us = proa_clock_us() + c->backoff_us;
    c->backoff_us = 2 * c->backoff_us < BACKOFF_MAX_US ? 2 * c->backoff_us : BACKOFF_MAX_US;
}

/* Ended by what all are told when they are to end: it had no handler for that yet. */
static bool was_asked(int wait_status)
{
    return WIFSIGNALED(wait_status) && (WTERMSIG(wait_status) == SIGTERM || WTERMSIG(wait_status) == SIGINT);
}

static void on_end(supervisor *s, rank_child *c, int wait_status)
{
    char how[100];
    bool failed = WIFSIGNALED(wait_status) || WEXITSTATUS(wait_status) != 0;
    describe_end(wait_status, how, sizeof how);
    if (c->ready_fd >= 0)
        close(c->ready_fd);
    c->ready_fd = -1;
    c->state = RANK_ENDED;
    if (s->signals > 0) {
        if (failed && !was_asked(wait_status)) {
            proa_log(PROA_LOG_WARN, "ranks", "rank %d %s", c->rank, how);
            note_status(s, wait_status);
        }
    } else if (!c->was_ready && failed && (WIFEXITED(wait_status) || !s->options->restart)) {
        proa_log(PROA_LOG_ERROR, "ranks", "rank %d %s before it was ready: stopping the other ranks", c->rank,
                 how);
        note_status(s, wait_status);
        stop(s, SIGTERM);
    } else if (s->options->restart) {
        start_later(s, c, how);
    } else {
        proa_log(PROA_LOG_ERROR, "ranks", "rank %d %s: the others go on without it (--rank-restart off)",
                 c->rank, how);
        note_status(s, wait_status);
    }
}

static void reap(supervisor *s)
{
    int wait_status;
    for (int i = 0; i < s->options->count; i++) {
        rank_child *c = &s->children[i];
        if (c->state == RANK_RUNS && waitpid(c->pid, &wait_status, WNOHANG) == c->pid)
            on_end(s, c, wait_status);
    }
}

/* ---- what happens ---- */

static void take_signals(supervisor *s)
{
    struct signalfd_siginfo info;
    while (read(s->signal_fd, &info, sizeof info) == (ssize_t)sizeof info) {
        int number = (int)info.ssi_signo;
        if (number == SIGCHLD)
            continue; /* several may have become one: reap looks at all children */
        if (s->signals == 0)
            proa_log(PROA_LOG_INFO, "ranks",
                     "stopping %d ranks: they may take %.0f s; a second signal ends them", running(s),
                     s->options->shutdown_s);
        stop(s, number);
    }
}

static void hear(supervisor *s, rank_child *c)
{
    char byte;
    ssize_t n = read(c->ready_fd, &byte, 1);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    close(c->ready_fd);
    c->ready_fd = -1;
    if (n != 1)
        return; /* it is ending */
    c->ready = c->was_ready = true;
    proa_log(PROA_LOG_DEBUG, "ranks", "rank %d is ready after %.2f s", c->rank,
             (double)(proa_clock_us() - c->started_us) / SECOND_US);
    for (int i = 0; i < s->options->count; i++) {
        if (!s->children[i].ready || s->children[i].state != RANK_RUNS)
            return;
    }
    if (!s->told_ready && s->options->ready != NULL)
        s->options->ready(s->options->context);
    s->told_ready = true;
}

static void start_due(supervisor *s)
{
    proa_error err;
    int64_t now = proa_clock_us();
    for (int i = 0; i < s->options->count; i++) {
        rank_child *c = &s->children[i];
        if (c->state == RANK_WAITS && c->due_us <= now && start_child(s, c, &err) != PROA_OK)
            start_later(s, c, err.text);
    }
}

/* Until when there is nothing to do without a signal or a child's word; -1: for ever. In ms, rounded up. */
static int time_left(const supervisor *s)
{
    int64_t until_us = s->signals > 0 ? s->kill_at_us : INT64_MAX, now = proa_clock_us();
    for (int i = 0; i < s->options->count; i++) {
        if (s->children[i].state == RANK_WAITS && s->children[i].due_us < until_us)
            until_us = s->children[i].due_us;
    }
    if (until_us == INT64_MAX)
        return -1;
    return until_us <= now ? 0 : (int)((until_us - now + 999) / 1000);
}

static void wait_and_act(supervisor *s)
{
    s->polled[0] = (struct pollfd){.fd = s->signal_fd, .events = POLLIN};
    for (int i = 0; i < s->options->count; i++)
        s->polled[i + 1] = (struct pollfd){.fd = s->children[i].ready_fd, .events = POLLIN};
    if (poll(s->polled, (nfds_t)s->options->count + 1, time_left(s)) < 0)
        return; /* EINTR, or memory: there is a next time */
    for (int i = 0; i < s->options->count; i++) {
        if (s->polled[i + 1].revents != 0)
            hear(s, &s->children[i]);
    }
    take_signals(s);
    reap(s);
    start_due(s);
}

static bool is_over(const supervisor *s)
{
    for (int i = 0; i < s->options->count; i++) {
        if (s->children[i].state != RANK_ENDED)
            return false;
    }
    return true;
}

static void supervise(supervisor *s)
{
    while (!is_over(s)) {
        wait_and_act(s);
        if (s->signals == 0 || proa_clock_us() < s->kill_at_us)
            continue;
        if (s->killed) {
            proa_log(PROA_LOG_ERROR, "ranks", "%d ranks are killed and have not ended: giving up",
                     running(s));
            note_status(s, SIGKILL); /* as a wait status: ended by it */
            return;
        }
        kill_late_ones(s);
    }
}

/* ---- life ---- */

static proa_status open_supervisor(supervisor *s, const proa_ranks_options *o, proa_error *err)
{
    sigset_t signals;
    *s = (supervisor){.options = o, .self = getpid(), .signal_fd = -1};
    sigemptyset(&signals);
    sigaddset(&signals, SIGCHLD);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigprocmask(SIG_BLOCK, &signals, &s->mask_before);
    s->signal_fd = signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC);
    s->children = calloc((size_t)o->count, sizeof *s->children);
    s->polled = calloc((size_t)o->count + 1, sizeof *s->polled);
    if (s->signal_fd < 0)
        return proa_error_set(err, PROA_ERR_IO, "cannot watch over ranks: signalfd: %s", strerror(errno));
    if (s->children == NULL || s->polled == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for %d ranks", o->count);
    for (int i = 0; i < o->count; i++)
        s->children[i] = (rank_child){.rank = o->first + i, .state = RANK_ENDED, .ready_fd = -1};
    s->shares = proa_cpu_shares_create(o->count);
    if (s->shares == NULL)
        proa_log(PROA_LOG_WARN, "ranks", "%d ranks on %d cores: none is bound to cores of its own", o->count,
                 proa_cpu_core_count());
    return PROA_OK;
}

static void close_supervisor(supervisor *s)
{
    for (int i = 0; s->children != NULL && i < s->options->count; i++) {
        if (s->children[i].ready_fd >= 0)
            close(s->children[i].ready_fd);
    }
    if (s->signal_fd >= 0)
        close(s->signal_fd);
    sigprocmask(SIG_SETMASK, &s->mask_before, NULL);
    proa_cpu_shares_free(s->shares);
    free(s->children);
    free(s->polled);
}

proa_status proa_ranks_run(const proa_ranks_options *options, int *exit_status, proa_error *err)
{
    supervisor s;
    PROA_ASSERT(options->count >= 1);
    proa_status status = open_supervisor(&s, options, err);
    bool open = status == PROA_OK;
    for (int i = 0; i < options->count && status == PROA_OK; i++)
        status = start_child(&s, &s.children[i], err);
    if (open && status != PROA_OK)
        kill_all(&s);
    if (open)
        supervise(&s);
    *exit_status = s.exit_status;
    close_supervisor(&s);
    return status;
}
