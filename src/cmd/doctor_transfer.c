/* doctor_transfer.c - do KV rows get from one process of this host into another, by what, and how fast?
 *
 * UCX and NIXL hook memory functions, start threads and print to standard output, and what they make of an unusual machine is what is
 * to be found out. So they run in children: one that reports what it has found through a pipe, and for a trial another one
 * that receives, with the cache in memory that all share, so that the sender sees what has arrived.
 *
 *   doctor ──fork──> sender ──fork──> receiver: inbox ──descriptor──> sender: connect, write, look, report
 *
 * All children die with their parent, and within TRIAL_US in any case.
 */
#include "cmd/doctor.h"

#include "base/clock.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    TRIAL_US = 10000000, /* NIXL takes a second or two to start */
    LAYERS = 16,
    BLOCKS = 32,
    ROW_BYTES = 1152, /* (512 + 64) bf16: a row of R1's cache */
    ROWS = BLOCKS * 64,
    DESCRIPTOR_BYTES_MAX = 64 << 10,
};

/* ---- children ---- */

/* Whole, or false: the other end is gone, or the deadline has passed. */
static bool read_whole(int fd, void *data, size_t bytes, int64_t deadline_us)
{
    for (size_t at = 0; at < bytes;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int64_t left = deadline_us - proa_clock_us();
        if (left <= 0 || poll(&p, 1, (int)(left / 1000) + 1) < 0)
            return false;
        ssize_t n = p.revents != 0 ? read(fd, (char *)data + at, bytes - at) : 0;
        if (p.revents != 0 && n <= 0)
            return false;
        at += (size_t)n;
    }
    return true;
}

static bool write_whole(int fd, const void *data, size_t bytes)
{
    for (size_t at = 0; at < bytes;) {
        ssize_t n = write(fd, (const char *)data + at, bytes - at);
        if (n <= 0)
            return false;
        at += (size_t)n;
    }
    return true;
}

/* Forks a child that dies with this process; its standard output is this one's standard error. */
static pid_t fork_child(void)
{
    pid_t parent = getpid();
    fflush(stdout);
    pid_t child = fork();
    if (child != 0)
        return child;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(STDERR_FILENO, STDOUT_FILENO);
    signal(SIGPIPE, SIG_IGN);
    if (getppid() != parent)
        _exit(1);
    return 0;
}

bool proa_doctor_in_child(void (*work)(const void *input, void *result), const void *input, void *result,
                          size_t bytes)
{
    int ends[2];
    if (pipe(ends) != 0)
        return false;
    pid_t child = fork_child();
    if (child == 0) {
        close(ends[0]);
        work(input, result);
        _exit(write_whole(ends[1], result, bytes) ? 0 : 1);
    }
    close(ends[1]);
    bool whole = child > 0 && read_whole(ends[0], result, bytes, proa_clock_us() + TRIAL_US);
    close(ends[0]);
    if (child > 0) {
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
    return whole;
}

/* ---- the trial ---- */

typedef struct trial_input {
    proa_kv_transfer_kind kind;
    const proa_kv_transfer_options *options;
} trial_input;

static proa_kv_layout layout_of(void *cache)
{
    const size_t block_bytes = (size_t)64 * ROW_BYTES;
    return (proa_kv_layout){.base = cache,
                            .dtype = PROA_DTYPE_BF16,
                            .layers = LAYERS,
                            .blocks = BLOCKS,
                            .row_bytes = ROW_BYTES,
                            .block_bytes = block_bytes,
                            .layer_bytes = BLOCKS * block_bytes};
}

/* One turn, as a worker's loop does it: until there is nothing more to do, then a wait. */
static void turn(proa_kv_transfer *transfer)
{
    struct pollfd p = {.fd = proa_kv_transfer_fd(transfer), .events = POLLIN};
    if (!proa_kv_transfer_progress(transfer))
        poll(&p, p.fd >= 0 ? 1 : 0, 1);
}

/* Sends its descriptor, then lets rows come until it is killed. A length of 0 and an error when there is no descriptor. */
static void receive(const trial_input *in, void *cache, int fd)
{
    const proa_kv_layout layout = layout_of(cache);
    proa_kv_transfer *transfer = NULL;
    proa_kv_inbox *inbox = NULL;
    proa_buf descriptor = {0};
    proa_error err = {0};
    proa_status status = proa_kv_transfer_create(in->kind, &layout, in->options, &transfer, &err);
    if (status == PROA_OK)
        status = proa_kv_inbox_open(transfer, &descriptor, &inbox, &err);
    uint32_t length = status == PROA_OK ? (uint32_t)descriptor.length : 0;
    write_whole(fd, &length, sizeof length);
    write_whole(fd, length > 0 ? (const void *)descriptor.data : &err, length > 0 ? length : sizeof err);
    while (status == PROA_OK)
        turn(transfer);
    _exit(1);
}

static void on_done(void *context, const proa_kv_write_result *result)
{
    *(proa_kv_write_result *)context = *result;
}

/* Writes all rows once; `result` keeps a status of PROA_BUSY while they are under way. */
static proa_status write_rows(proa_kv_transfer *transfer, proa_kv_peer *peer, proa_kv_write_result *result,
                              proa_error *err)
{
    int32_t blocks[BLOCKS];
    for (int32_t i = 0; i < BLOCKS; i++)
        blocks[i] = i;
    *result = (proa_kv_write_result){.status = PROA_BUSY};
    const proa_kv_write write = {
        .from = blocks, .to = blocks, .row_count = ROWS, .done = on_done, .context = result};
    int64_t deadline = proa_clock_us() + TRIAL_US / 2;
    proa_status status = proa_kv_peer_write(peer, &write, err);
    while (status == PROA_OK && result->status == PROA_BUSY) {
        turn(transfer);
        if (proa_clock_us() > deadline)
            return proa_error_set(err, PROA_ERR_DEADLINE, "%s: rows were not in the other process after %d s",
                                  proa_kv_transfer_name(transfer), TRIAL_US / 2000000);
    }
    if (status == PROA_OK && result->status != PROA_OK)
        status = proa_error_set(err, result->status, "%s: the rows were not taken (%s)",
                                proa_kv_transfer_name(transfer), proa_status_name(result->status));
    return status;
}

static proa_status send_rows(const trial_input *in, void *cache, const void *descriptor, size_t length,
                             proa_transfer_trial *trial)
{
    const size_t bytes = (size_t)LAYERS * BLOCKS * 64 * ROW_BYTES;
    unsigned char *own = malloc(bytes);
    const proa_kv_layout layout = layout_of(own);
    proa_kv_transfer *transfer = NULL;
    proa_kv_peer *peer = NULL;
    proa_kv_write_result result;
    int32_t blocks;
    proa_error *err = &trial->error;
    if (own == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a trial");
    for (size_t i = 0; i < bytes; i++)
        own[i] = (unsigned char)(i * 31 + (i >> 8));
    proa_status status = proa_kv_transfer_create(in->kind, &layout, in->options, &transfer, err);
    if (status == PROA_OK)
        status = proa_kv_peer_connect(transfer, descriptor, length, "trial", &peer, &blocks, err);
    for (int round = 0; round < 2 && status == PROA_OK; round++) /* the first one connects too */
        status = write_rows(transfer, peer, &result, err);
    if (status == PROA_OK && memcmp(own, cache, bytes) != 0)
        status = proa_error_set(err, PROA_ERR_CORRUPT, "%s: other bytes arrived than were sent",
                                proa_kv_transfer_name(transfer));
    if (status == PROA_OK) {
        trial->bytes = result.bytes;
        trial->us = result.us;
        snprintf(trial->path, sizeof trial->path, "%s", proa_kv_peer_path(peer));
    }
    return status; /* what is open goes with this process */
}

static void try_transfer(const void *input, void *result)
{
    const trial_input *in = input;
    proa_transfer_trial *trial = result;
    int ends[2];
    uint32_t length = 0;
    int64_t deadline = proa_clock_us() + TRIAL_US / 2;
    static const size_t cache_bytes = (size_t)LAYERS * BLOCKS * 64 * ROW_BYTES;
    void *cache = mmap(NULL, cache_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    unsigned char *descriptor = malloc(DESCRIPTOR_BYTES_MAX);
    pid_t receiver = cache != MAP_FAILED && descriptor != NULL && pipe(ends) == 0 ? fork_child() : -1;
    if (receiver < 0) {
        proa_error_set(&trial->error, PROA_ERR_MEMORY, "no memory or process for a trial: %s",
                       strerror(errno));
        return;
    }
    if (receiver == 0)
        receive(in, cache, ends[1]);
    close(ends[1]);
    if (!read_whole(ends[0], &length, sizeof length, deadline) || length > DESCRIPTOR_BYTES_MAX)
        proa_error_set(&trial->error, PROA_ERR_INTERNAL,
                       "the receiving process ended, or said nothing for %d s", TRIAL_US / 2000000);
    else if (length == 0)
        read_whole(ends[0], &trial->error, sizeof trial->error, deadline);
    else if (read_whole(ends[0], descriptor, length, deadline))
        send_rows(in, cache, descriptor, length, trial);
    kill(receiver, SIGKILL);
    waitpid(receiver, NULL, 0);
}

void proa_doctor_try_transfer(proa_kv_transfer_kind kind, const proa_kv_transfer_options *options,
                              proa_transfer_trial *trial)
{
    const trial_input input = {kind, options};
    *trial = (proa_transfer_trial){0};
    if (!proa_doctor_in_child(try_transfer, &input, trial, sizeof *trial))
        proa_error_set(&trial->error, PROA_ERR_DEADLINE, "the trial crashed, or was not done after %d s",
                       TRIAL_US / 1000000);
}
