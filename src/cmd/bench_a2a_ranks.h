/* bench_a2a_ranks.h - ranks of `proa bench a2a`: threads that run windows of an all-to-all and time them. */
#ifndef PROA_CMD_BENCH_A2A_RANKS_H
#define PROA_CMD_BENCH_A2A_RANKS_H

#include "net/a2a.h"

#include <pthread.h>

enum {
    HIDDEN = 7168,
    EXPERTS = 256,
    TOP_K = 8,
    ROWS_MAX = 128,
    RANKS_MAX = 8,
    WINDOWS = 60,
    WARM_UP = 5,
    DEADLINE_US = 20000000
};

typedef enum bench_a2a_order { ONE_WINDOW, TWO_SERIAL, TWO_OVERLAPPED } bench_a2a_order;

typedef struct bench_a2a_round {
    proa_post_hub *hub; /* NULL: UCX */
    int32_t ranks, rows;
    bench_a2a_order order;
    int64_t loops; /* of arithmetic in each of two places of a window */
    pthread_barrier_t barrier;
    struct bench_a2a_member *members;
} bench_a2a_round;

typedef struct bench_a2a_member {
    bench_a2a_round *r;
    int32_t rank;
    proa_a2a *a2a;
    pthread_t thread;
    double us[WINDOWS];     /* or of two windows, as the order says */
    double cpu_us[WINDOWS]; /* of this thread */
    proa_a2a_stats stats;
    proa_error err; /* status PROA_OK unless it failed */
} bench_a2a_member;

/* Arithmetic of so many loops; what it gives depends on `value`. */
double proa_bench_a2a_calculate(double value, int64_t loops);

/* Runs a round of the caller's settings; proa_bench_a2a_close ends it, whatever came of it. */
proa_status proa_bench_a2a_run(bench_a2a_round *r, bool ucx, proa_error *err);
void proa_bench_a2a_close(bench_a2a_round *r);

#endif
