/* bench_a2a.c - `proa bench a2a`: what an all-to-all of the MoE layers costs, beside a plain copy of the same bytes.
 *
 * Ranks are threads of this process with one post each, local or UCX with a context of its own. A window is dispatch, receive, put of all
 * outputs, give_back and collect, with no expert's work between them. Rows choose their experts at random, as many as the model's top-k.
 * time, cpu: medians over windows of rank 0's time, and of its thread's processor time, which a busy machine does not change. rows,
 * outputs: bytes that rank 0 sends to others in a window. copy: one thread's memcpy of those bytes, and its share of cpu: less than
 * any transport does, which packs, moves and unpacks, for its own rows too.
 */
#include "base/clock.h"
#include "base/random.h"
#include "base/cpu.h"
#include "cmd/bench.h"
#include "cmd/cmd.h"
#include "net/a2a.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

static const int32_t rank_counts[] = {2, 4, 8};
static const int32_t row_counts[] = {1, 32, 128};

typedef struct round {
    proa_post_hub *hub; /* NULL: UCX */
    int32_t ranks, rows;
    pthread_barrier_t barrier;
    struct member *members;
} round;

typedef struct member {
    round *r;
    int32_t rank;
    proa_a2a *a2a;
    pthread_t thread;
    double us[WINDOWS];
    double cpu_us[WINDOWS]; /* of its thread */
    proa_a2a_stats stats;
    proa_error err; /* status PROA_OK unless it failed */
} member;

typedef struct payload {
    uint8_t q[ROWS_MAX * HIDDEN];
    float s[ROWS_MAX * HIDDEN / PROA_QUANT_GROUP];
    int32_t physical[ROWS_MAX * TOP_K];
    float y[HIDDEN];
} payload;

/* top_k different experts for each row. */
static void choose(payload *p, int32_t rows, int32_t rank)
{
    for (int32_t row = 0; row < rows; row++) {
        for (int32_t k = 0; k < TOP_K; k++) {
            uint32_t words[4];
            proa_random_philox(1, (uint64_t)rank * ROWS_MAX + (uint64_t)row, (uint64_t)k, words);
            p->physical[row * TOP_K + k] = (int32_t)(words[0] % (EXPERTS / TOP_K)) + k * (EXPERTS / TOP_K);
        }
    }
}

static proa_status run_window(const proa_exchange *x, payload *p, int32_t rows, proa_error *err)
{
    proa_dispatched work;
    proa_collected back;
    const proa_dispatch_args args = {
        .x = {.rows = rows, .cols = HIDDEN, .q = p->q, .s = p->s}, .top_k = TOP_K, .physical = p->physical};
    proa_status status = x->dispatch(x->context, 0, &args, err);
    if (status == PROA_OK)
        status = x->receive(x->context, 0, &work, err);
    if (status != PROA_OK)
        return status;
    for (int32_t i = 0; i < work.slots; i++)
        x->put(x->context, 0, 1, &i, p->y);
    status = x->give_back(x->context, 0, err);
    return status == PROA_OK ? x->collect(x->context, 0, &back, err) : status;
}

static proa_status connect_all(const round *r, const member *m, proa_error *err)
{
    bool live[RANKS_MAX];
    for (int32_t i = 0; i < r->ranks; i++) {
        size_t bytes;
        const void *address = proa_post_address(proa_a2a_post(r->members[i].a2a), &bytes);
        proa_status status =
            i == m->rank ? PROA_OK : proa_post_connect(proa_a2a_post(m->a2a), i, address, bytes, err);
        if (status != PROA_OK)
            return status;
        live[i] = true;
    }
    return proa_a2a_begin(m->a2a, 1, live, err);
}

static void *run_member(void *context)
{
    member *m = context;
    round *r = m->r;
    payload *p = calloc(1, sizeof *p);
    proa_exchange x = proa_a2a_exchange(m->a2a);
    proa_status status =
        p != NULL ? connect_all(r, m, &m->err) : proa_error_set(&m->err, PROA_ERR_MEMORY, "no memory");
    pthread_barrier_wait(&r->barrier);
    if (p != NULL)
        choose(p, r->rows, m->rank);
    for (int32_t i = -WARM_UP; i < WINDOWS && status == PROA_OK; i++) {
        int64_t begun = proa_clock_us(), cpu = proa_clock_thread_ns();
        status = run_window(&x, p, r->rows, &m->err);
        if (i >= 0) {
            m->us[i] = (double)(proa_clock_us() - begun);
            m->cpu_us[i] = (double)(proa_clock_thread_ns() - cpu) / 1e3;
        }
    }
    m->err.status = status;
    proa_a2a_get_stats(m->a2a, &m->stats);
    pthread_barrier_wait(&r->barrier); /* nobody leaves who is still needed */
    free(p);
    return NULL;
}

static proa_status make_member(member *m, round *r, int32_t rank, proa_error *err)
{
    int cores = proa_cpu_core_count();
    const proa_a2a_options options = {.ranks = r->ranks,
                                      .rank = rank,
                                      .local_experts = EXPERTS / r->ranks,
                                      .hidden = HIDDEN,
                                      .top_k = TOP_K,
                                      .rows_max = ROWS_MAX,
                                      .lanes = 1,
                                      .format = PROA_EXCHANGE_FP8,
                                      .precision = PROA_PRECISION_DEFAULT,
                                      .deadline_us = DEADLINE_US,
                                      .spin_us = cores >= r->ranks ? 50 : 0};
    m->r = r;
    m->rank = rank;
    return proa_a2a_create(&options, r->hub, &m->a2a, err);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double copy_us(size_t bytes)
{
    enum { TRIES = 9 };
    double us[TRIES];
    char *from = malloc(bytes + 1), *to = malloc(bytes + 1);
    for (int i = 0; i < TRIES && from != NULL && to != NULL; i++) {
        memset(from, i, bytes);
        int64_t begun = proa_clock_thread_ns();
        memcpy(to, from, bytes);
        us[i] = (double)(proa_clock_thread_ns() - begun) / 1e3;
    }
    bool measured = from != NULL && to != NULL;
    free(from);
    free(to);
    qsort(us, TRIES, sizeof us[0], compare);
    return measured ? us[TRIES / 2] : 0;
}

static double median(const double *values)
{
    double sorted[WINDOWS];
    memcpy(sorted, values, sizeof sorted);
    qsort(sorted, WINDOWS, sizeof sorted[0], compare);
    return sorted[WINDOWS / 2];
}

static void print_round(const char *way, const round *r, proa_json *rows)
{
    const member *m = &r->members[0];
    double windows = (double)m->stats.windows, dispatched = (double)m->stats.dispatch_bytes / windows,
           outputs = (double)m->stats.output_bytes / windows, us = median(m->us), cpu = median(m->cpu_us),
           copy = copy_us((size_t)(dispatched + outputs));
    printf("%-6s %5d %5d %10.0f %10.0f %10.1f %12.0f %12.0f %10.2f %10.0f %6.0f%%\n", way, r->ranks, r->rows,
           us, cpu, (double)m->stats.messages / windows, dispatched, outputs,
           (dispatched + outputs) / us / 1e3, copy, 100 * copy / cpu);
    fflush(stdout);
    if (rows == NULL)
        return;
    proa_json *row = proa_json_new_object();
    proa_json_set(row, "transport", proa_json_new_string(way, strlen(way)));
    proa_json_set(row, "ranks", proa_json_new_int(r->ranks));
    proa_json_set(row, "rows", proa_json_new_int(r->rows));
    proa_json_set(row, "time_us", proa_json_new_real(us));
    proa_json_set(row, "cpu_us", proa_json_new_real(cpu));
    proa_json_set(row, "dispatch_bytes", proa_json_new_real(dispatched));
    proa_json_set(row, "output_bytes", proa_json_new_real(outputs));
    proa_json_set(row, "copy_us", proa_json_new_real(copy));
    proa_json_append(rows, row);
}

static proa_status run_round(bool ucx, int32_t ranks, int32_t rows, proa_json *out, proa_error *err)
{
    member *members = calloc((size_t)ranks, sizeof *members);
    round r = {
        .hub = ucx ? NULL : proa_post_hub_create(ranks), .ranks = ranks, .rows = rows, .members = members};
    proa_status status = members != NULL && (ucx || r.hub != NULL)
                             ? PROA_OK
                             : proa_error_set(err, PROA_ERR_MEMORY, "no memory for %d ranks", ranks);
    for (int32_t i = 0; i < ranks && status == PROA_OK; i++)
        status = make_member(&members[i], &r, i, err);
    if (status == PROA_OK) {
        int32_t begun = 0;
        pthread_barrier_init(&r.barrier, NULL, (unsigned)ranks);
        while (begun < ranks &&
               pthread_create(&members[begun].thread, NULL, run_member, &members[begun]) == 0)
            begun++;
        PROA_ASSERT(begun == ranks); /* the barrier would wait for ever */
        for (int32_t i = 0; i < ranks; i++) {
            pthread_join(members[i].thread, NULL);
            if (status == PROA_OK && members[i].err.status != PROA_OK) {
                *err = members[i].err;
                status = err->status;
            }
        }
        pthread_barrier_destroy(&r.barrier);
    }
    if (status == PROA_OK)
        print_round(ucx ? "ucx" : "local", &r, out);
    for (int32_t i = 0; i < ranks && members != NULL; i++)
        proa_a2a_free(members[i].a2a);
    proa_post_hub_free(r.hub);
    free(members);
    return status;
}

int proa_cmd_bench_a2a(const proa_options *options)
{
    const char *json = proa_options_string(options, "json"), *only = proa_options_string(options, "shape");
    proa_json *rows = json != NULL ? proa_json_new_array() : NULL;
    proa_error err = {0};
    proa_status status = PROA_OK;
    printf("all-to-all of one MoE window: %d channels, FP8 rows, bf16 outputs, top-%d of %d experts at "
           "random; %d cores\n"
           "%-6s %5s %5s %10s %10s %10s %12s %12s %10s %10s %7s\n",
           HIDDEN, TOP_K, EXPERTS, proa_cpu_core_count(), "by", "ranks", "rows", "time us", "cpu us",
           "messages", "rows B", "outputs B", "GB/s out", "copy us", "of it");
    for (int ucx = 0; ucx < 2; ucx++) {
        for (size_t i = 0; i < sizeof rank_counts / sizeof rank_counts[0] && status == PROA_OK; i++) {
            for (size_t k = 0; k < sizeof row_counts / sizeof row_counts[0] && status == PROA_OK; k++) {
                if (only == NULL || strcmp(only, ucx ? "ucx" : "local") == 0)
                    status = run_round(ucx, rank_counts[i], row_counts[k], rows, &err);
            }
        }
    }
    if (status == PROA_OK && json != NULL) {
        proa_json *whole = proa_json_new_object();
        proa_json_set(whole, "rows", rows);
        rows = NULL;
        status = proa_bench_write_file(whole, json, &err);
        proa_json_free(whole);
    }
    proa_json_free(rows);
    return status == PROA_OK ? PROA_EXIT_OK : proa_cmd_fail(&err);
}
