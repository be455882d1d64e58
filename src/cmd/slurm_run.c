/* slurm_run.c - runs Slurm's programs and reads what they say, with a deadline. */
#define _GNU_SOURCE /* pipe2 */
#include "cmd/slurm.h"

#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    OUTPUT_BYTES_MAX = 4 << 20,
    NAP_US = 2000,
    NOT_FOUND = 127, /* statuses of a child that could not become the program, as of a shell */
    NOT_STARTED = 126,
};

/* The two pipes of a child, at our end; -1: closed, or none. */
typedef struct pipes {
    int out;
    int error;
} pipes;

static void close_end(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* In the child: `out` and `error` (-1: this process's) become its standard output and standard error. */
__attribute__((noreturn)) static void become(char *const *words, int out, int error)
{
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (null >= 0 && dup2(null, STDIN_FILENO) >= 0 && dup2(out, STDOUT_FILENO) >= 0 &&
        (error < 0 || dup2(error, STDERR_FILENO) >= 0))
        execvp(words[0], words);
    _exit(errno == ENOENT ? NOT_FOUND : NOT_STARTED);
}

static proa_status start(char *const *words, bool has_complaint, pipes *ends, pid_t *pid, proa_error *err)
{
    int out[2] = {-1, -1}, error[2] = {-1, -1};
    bool failed =
        pipe2(out, O_CLOEXEC) != 0 || (has_complaint && pipe2(error, O_CLOEXEC) != 0) || (*pid = fork()) < 0;
    int cause = errno;
    if (!failed && *pid == 0)
        become(words, out[1], error[1]);
    close_end(&out[1]);
    close_end(&error[1]);
    ends->out = out[0];
    ends->error = error[0];
    if (!failed)
        return PROA_OK;
    close_end(&ends->out);
    close_end(&ends->error);
    return proa_error_set(err, PROA_ERR_IO, "%s cannot be started: %s", words[0], strerror(cause));
}

/* Appends what is there; closes the end at the end of the file. */
static void take(int *fd, proa_buf *text)
{
    char bytes[4096];
    ssize_t n = read(*fd, bytes, sizeof bytes);
    if (n > 0 && text->length < OUTPUT_BYTES_MAX)
        proa_buf_append(text, bytes, (size_t)n);
    else if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN))
        close_end(fd);
}

static void read_all(pipes *ends, int64_t until_us, proa_buf *output, proa_buf *complaint)
{
    int64_t left_us;
    while ((ends->out >= 0 || ends->error >= 0) && (left_us = until_us - proa_clock_us()) > 0) {
        struct pollfd fds[2] = {{.fd = ends->out, .events = POLLIN}, {.fd = ends->error, .events = POLLIN}};
        if (poll(fds, 2, (int)(left_us / 1000) + 1) <= 0)
            continue;
        if (fds[0].revents != 0)
            take(&ends->out, output);
        if (fds[1].revents != 0)
            take(&ends->error, complaint);
    }
    close_end(&ends->out);
    close_end(&ends->error);
}

proa_status proa_slurm_run(char *const *words, double seconds, proa_buf *output, proa_buf *complaint,
                           int *exit_status, proa_error *err)
{
    pid_t pid = -1;
    pipes ends;
    int state = 0;
    int64_t until_us = proa_clock_us() + (int64_t)(seconds * 1e6);
    proa_status status = start(words, complaint != NULL, &ends, &pid, err);
    if (status != PROA_OK)
        return status;
    read_all(&ends, until_us, output, complaint);
    pid_t ended;
    while ((ended = waitpid(pid, &state, WNOHANG)) == 0 && proa_clock_us() < until_us)
        usleep(NAP_US);
    if (ended == 0) {
        kill(pid, SIGKILL);
        waitpid(pid, &state, 0);
        return proa_error_set(err, PROA_ERR_DEADLINE, "%s has not answered for %.0f s: is slurmctld there?",
                              words[0], seconds);
    }
    if (WIFEXITED(state) && WEXITSTATUS(state) == NOT_FOUND)
        return proa_error_set(err, PROA_ERR_NOT_FOUND,
                              "%s is not in PATH: run this where Slurm's commands are (Debian: slurm-client)",
                              words[0]);
    *exit_status = WIFEXITED(state) ? WEXITSTATUS(state) : 128 + WTERMSIG(state);
    return PROA_OK;
}
