/* ranklab.c - a node's ranks without a model: the parent of src/cmd/ranks.c, and children that are linked by src/cmd/rank_mesh.c
 * or only wait. test_ranks.py drives it.
 *
 *   ranklab --count 8 [--first 0] [--world 8] [--mesh host:port] [--restart on|off] [--shutdown S] [--backoff S]
 *           [--exit RANK:STATUS] [--exit-early RANK:STATUS] [--stubborn RANK] [--careless RANK] [--dist-timeout S]
 *
 * A child prints what happens to it on standard output: "rank 3 pid 4711 cores 2 words N", "rank 3 ready", with --mesh also "rank 3 up 5 INCARNATION"
 * and "rank 3 down 5 WHY". --exit is after it was ready, --exit-early before; a stubborn rank does not heed SIGTERM, a careless one (--careless)
 * has no handler for it.
 */
#include "base/clock.h"
#include "base/cpu.h"
#include "base/log.h"
#include "cmd/rank_mesh.h"
#include "cmd/ranks.h"

#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static char **words; /* of the command line, behind the program's name */

/* What follows the last `flag`, so that what a parent adds in front is a default. */
static const char *text_of(const char *flag, const char *otherwise)
{
    const char *found = otherwise;
    for (int i = 0; words[i] != NULL && words[i + 1] != NULL; i++) {
        if (strcmp(words[i], flag) == 0)
            found = words[i + 1];
    }
    return found;
}

static int number_of(const char *flag, int otherwise)
{
    const char *text = text_of(flag, NULL);
    return text != NULL ? atoi(text) : otherwise;
}

static double real_of(const char *flag, double otherwise)
{
    const char *text = text_of(flag, NULL);
    return text != NULL ? strtod(text, NULL) : otherwise;
}

/* "3:7" at rank 3: 7; -1 at other ranks. */
static int status_of(const char *flag, int rank)
{
    const char *text = text_of(flag, "-1:0");
    return atoi(text) == rank ? atoi(strchr(text, ':') + 1) : -1;
}

/* ---- a rank ---- */

static void on_up(void *context, int rank, uint64_t incarnation, const uint8_t *blob, size_t blob_bytes)
{
    (void)blob, (void)blob_bytes;
    printf("rank %d up %d %016" PRIx64 "\n", *(const int *)context, rank, incarnation);
}

static void on_down(void *context, int rank, const proa_error *why)
{
    printf("rank %d down %d %s\n", *(const int *)context, rank, why->text);
}

static proa_status link_up(int *rank, proa_rank_mesh **mesh, proa_error *err)
{
    const char *address = text_of("--mesh", NULL);
    if (address == NULL)
        return PROA_OK;
    const proa_mesh_options options = {
        .rank = *rank,
        .world = number_of("--world", number_of("--count", 1)),
        .init_address = address,
        .rendezvous_us = (int64_t)(real_of("--dist-timeout", 60) * 1e6),
        .report_us = 1000000,
        .security.key = text_of("--key", NULL),
        .hooks = {.peer_up = on_up, .peer_down = on_down, .context = rank},
    };
    proa_status status = proa_rank_mesh_open(&options, NULL, mesh, err);
    if (status == PROA_OK)
        status = proa_rank_mesh_wait(*mesh, 3600, err);
    return status;
}

static int run_rank(int rank)
{
    proa_rank_mesh *mesh = NULL;
    proa_error err = {0};
    sigset_t signals;
    int got = 0, count = 0;
    while (words[count] != NULL)
        count++;
    proa_log_set_rank(rank);
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    if (number_of("--careless", -1) != rank)
        pthread_sigmask(SIG_BLOCK, &signals, NULL);
    printf("rank %d pid %d cores %d words %d\n", rank, (int)getpid(), proa_cpu_core_count(), count);
    int early = status_of("--exit-early", rank), late = status_of("--exit", rank);
    if (early >= 0)
        return early;
    if (link_up(&rank, &mesh, &err) != PROA_OK) {
        fprintf(stderr, "ranklab: %s\n", err.text);
        return 1;
    }
    printf("rank %d ready\n", rank);
    int fd = number_of("--rank-ready-fd", -1);
    if (write(fd, "r", 1) != 1 || close(fd) != 0)
        return 1;
    if (late >= 0) {
        nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
        return late;
    }
    do {
        sigwait(&signals, &got);
        printf("rank %d signal %d\n", rank, got);
    } while (number_of("--stubborn", -1) == rank);
    proa_rank_mesh_close(mesh);
    return 0;
}

/* ---- the parent ---- */

static void on_ready(void *context)
{
    (void)context;
    printf("all ready\n");
}

int main(int argc, char **argv)
{
    (void)argc;
    words = argv + 1;
    setvbuf(stdout, NULL, _IOLBF, 0);
    int rank = number_of("--rank", -1);
    if (rank >= 0)
        return run_rank(rank);
    const proa_ranks_options options = {
        .first = number_of("--first", 0),
        .count = number_of("--count", 1),
        .name = argv[0],
        .words = words,
        .crowded_word = "--crowded",
        .restart = strcmp(text_of("--restart", "on"), "on") == 0,
        .shutdown_s = real_of("--shutdown", 5),
        .backoff_s = real_of("--backoff", 0),
        .ready = on_ready,
    };
    proa_error err = {0};
    int exit_status = 1;
    if (proa_ranks_run(&options, &exit_status, &err) != PROA_OK)
        fprintf(stderr, "ranklab: %s\n", err.text);
    printf("end %d\n", exit_status);
    return exit_status;
}
