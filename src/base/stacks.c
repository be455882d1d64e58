/* stacks.c - see stacks.h. Everything here keeps to what a signal handler may do, but for proa_stacks_prepare: also the caller of
 * proa_stacks_write must not need a lock (malloc's, stdio's) that a hanging thread may hold. */
#define _GNU_SOURCE /* gettid, getdents64 */
#include "base/stacks.h"

#include "base/clock.h"

#include <dirent.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FRAMES = 64, LINE = 256, NAP_NS = 200000 };

/* What a handler has to know, which has no argument of its own: where to write, and the number of the question, so that a thread that
 * wakes up too late is silent. A question is asked by storing its number after the descriptor (release), and answered by storing it
 * as `answered` after the stack is written (release). */
static _Atomic int question_fd;
static _Atomic int question;
static _Atomic int answered;

static int stack_signal(void)
{
    return SIGRTMIN + 3;
}

/* ---- the answer ---- */

static void write_own_stack(int fd)
{
    void *frames[FRAMES];
    int count = backtrace(frames, FRAMES);
    backtrace_symbols_fd(frames, count, fd);
}

static void on_signal(int number, siginfo_t *info, void *context)
{
    int before = errno, asked = info->si_value.sival_int;
    (void)number, (void)context;
    if (info->si_code == SI_QUEUE && info->si_pid == getpid() &&
        asked == atomic_load_explicit(&question, memory_order_acquire)) {
        write_own_stack(atomic_load_explicit(&question_fd, memory_order_relaxed));
        atomic_store_explicit(&answered, asked, memory_order_release);
    }
    errno = before;
}

void proa_stacks_prepare(void)
{
    void *frames[1];
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigfillset(&action.sa_mask);
    backtrace(frames, 1); /* the first call loads a library, which no handler may */
    sigaction(stack_signal(), &action, NULL);
}

/* ---- /proc, without stdio ---- */

typedef struct line {
    char text[LINE];
    size_t length;
} line;

static void add(line *l, const char *text)
{
    size_t n = strlen(text), room = sizeof l->text - 1 - l->length;
    n = n < room ? n : room;
    memcpy(l->text + l->length, text, n);
    l->length += n;
    l->text[l->length] = 0;
}

static void add_number(line *l, int number)
{
    char digits[12];
    int at = sizeof digits - 1;
    digits[at] = 0;
    do
        digits[--at] = (char)('0' + number % 10);
    while ((number /= 10) > 0);
    add(l, digits + at);
}

static void print(int fd, const line *l)
{
    ssize_t written = write(fd, l->text, l->length);
    (void)written; /* nobody is left to tell */
}

/* The beginning of /proc/self/task/THREAD/NAME, its last newline cut; "" when it cannot be read. */
static void read_file(pid_t thread, const char *name, line *out)
{
    line path = {.length = 0};
    *out = (line){.length = 0};
    add(&path, "/proc/self/task/");
    add_number(&path, thread);
    add(&path, "/");
    add(&path, name);
    int fd = open(path.text, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    ssize_t n = read(fd, out->text, sizeof out->text - 1);
    close(fd);
    out->length = n > 0 ? (size_t)n : 0;
    if (out->length > 0 && out->text[out->length - 1] == '\n')
        out->length--;
    out->text[out->length] = 0;
}

/* R, S, D, T ..., or '?'. The name before it is in brackets, and may have any bytes in it. */
static char state_of(pid_t thread)
{
    line stat;
    read_file(thread, "stat", &stat);
    const char *bracket = strrchr(stat.text, ')');
    return bracket != NULL && bracket[1] == ' ' && bracket[2] != 0 ? bracket[2] : '?';
}

/* ---- asking ---- */

static bool send_question(pid_t thread, int number)
{
    siginfo_t info = {.si_code = SI_QUEUE};
    info.si_pid = getpid();
    info.si_uid = getuid();
    info.si_value.sival_int = number;
    return syscall(SYS_rt_tgsigqueueinfo, getpid(), thread, stack_signal(), &info) == 0;
}

/* Else the signal would end the process. */
static bool is_prepared(void)
{
    struct sigaction action;
    return sigaction(stack_signal(), NULL, &action) == 0 && action.sa_sigaction == on_signal;
}

static bool ask(pid_t thread, int fd, int64_t each_us)
{
    int number = atomic_load_explicit(&question, memory_order_relaxed) + 1;
    int64_t until = proa_clock_us() + each_us;
    atomic_store_explicit(&question_fd, fd, memory_order_relaxed);
    atomic_store_explicit(&question, number, memory_order_release);
    if (!is_prepared() || !send_question(thread, number))
        return false;
    while (atomic_load_explicit(&answered, memory_order_acquire) != number) {
        const struct timespec nap = {.tv_nsec = NAP_NS};
        if (proa_clock_us() >= until)
            return false;
        nanosleep(&nap, NULL);
    }
    return true;
}

static void write_thread(int fd, pid_t thread, int64_t each_us)
{
    line head = {.length = 0}, name, where;
    const char state[2] = {state_of(thread)};
    read_file(thread, "comm", &name);
    add(&head, "thread ");
    add_number(&head, thread);
    add(&head, " (");
    add(&head, name.text);
    add(&head, "), state ");
    add(&head, state);
    add(&head, thread == gettid() ? ", which writes this\n" : "\n");
    print(fd, &head);
    if (thread == gettid()) {
        write_own_stack(fd);
    } else if (!ask(thread, fd, each_us)) {
        head = (line){.length = 0};
        read_file(thread, "wchan", &where);
        add(&head, "  does not answer; in the kernel it is in ");
        add(&head, where.length > 0 ? where.text : "?");
        add(&head, "\n");
        print(fd, &head);
    }
}

void proa_stacks_write(int fd, int64_t each_us)
{
    /* opendir allocates */
    _Alignas(struct dirent64) char entries[8192];
    int folder = open("/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0)
        return;
    for (long bytes; (bytes = syscall(SYS_getdents64, folder, entries, sizeof entries)) > 0;) {
        for (long at = 0; at < bytes;) {
            const struct dirent64 *entry = (const void *)(entries + at);
            at += entry->d_reclen;
            if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9')
                write_thread(fd, (pid_t)strtol(entry->d_name, NULL, 10), each_us);
        }
    }
    close(folder);
}

/* ---- one thread ---- */

pid_t proa_stacks_thread(void)
{
    return gettid();
}

bool proa_stacks_is_asleep(pid_t thread)
{
    static const int files[] = {SYS_read,   SYS_write,   SYS_readv,    SYS_writev, SYS_pread64,
                                SYS_preadv, SYS_pwritev, SYS_pwrite64, SYS_openat};
    line call;
    if (state_of(thread) != 'S')
        return false;
    read_file(thread, "syscall", &call); /* its number first; "running", or -1 when it waits for a page */
    char *end;
    long number = strtol(call.text, &end, 10);
    if (end == call.text || number < 0)
        return false;
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        if (number == files[i])
            return false;
    }
    return true;
}

void proa_stacks_name_thread(const char *name)
{
    prctl(PR_SET_NAME, name);
}
