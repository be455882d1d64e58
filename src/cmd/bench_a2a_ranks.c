/* bench_a2a_ranks.c - see bench_a2a_ranks.h; bench_a2a.c says what is measured. */
#include "cmd/bench_a2a_ranks.h"

#include "base/clock.h"
#include "base/cpu.h"
#include "base/random.h"

#include <stdlib.h>

enum { OPS = 16 }; /* of a half's attention, or of its experts */

typedef struct payload {
    uint8_t q[ROWS_MAX * HIDDEN];
    float s[ROWS_MAX * HIDDEN / PROA_QUANT_GROUP];
    int32_t physical[ROWS_MAX * TOP_K];
    float y[HIDDEN];
    double value; /* of the arithmetic */
} payload;

double proa_bench_a2a_calculate(double value, int64_t loops)
{
    for (int64_t i = 0; i < loops; i++)
        value = value * 0.999999 + 1e-6;
    return value;
}

/* As a layer computes: op by op, with a look at what travels in between. */
static void compute(const proa_exchange *x, const bench_a2a_round *r, payload *p)
{
    for (int32_t i = 0; i < OPS; i++) {
        p->value = proa_bench_a2a_calculate(p->value, r->loops / OPS);
        x->progress(x->context);
    }
}

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

static proa_status send(const proa_exchange *x, int32_t lane, const bench_a2a_round *r, payload *p,
                        proa_error *err)
{
    const proa_dispatch_args args = {.x = {.rows = r->rows, .cols = HIDDEN, .q = p->q, .s = p->s},
                                     .top_k = TOP_K,
                                     .physical = p->physical};
    compute(x, r, p);
    return x->dispatch(x->context, lane, &args, err);
}

static proa_status work(const proa_exchange *x, int32_t lane, const bench_a2a_round *r, payload *p,
                        proa_error *err)
{
    proa_dispatched rows;
    proa_status status = x->receive(x->context, lane, &rows, err);
    if (status != PROA_OK)
        return status;
    compute(x, r, p);
    for (int32_t i = 0; i < rows.slots; i++)
        x->put(x->context, lane, 1, &i, p->y);
    return x->give_back(x->context, lane, err);
}

static proa_status run_window(const proa_exchange *x, const bench_a2a_round *r, payload *p, proa_error *err)
{
    proa_collected back;
    proa_status status = send(x, 0, r, p, err);
    if (status == PROA_OK)
        status = work(x, 0, r, p, err);
    return status == PROA_OK ? x->collect(x->context, 0, &back, err) : status;
}

/* A layer; it collects what the one before has left, and leaves its own. */
static proa_status run_halves(const proa_exchange *x, const bench_a2a_round *r, payload *p, bool first,
                              proa_error *err)
{
    proa_collected back;
    proa_status status = PROA_OK;
    for (int32_t lane = 0; lane < 2 && status == PROA_OK; lane++) {
        if (!first)
            status = x->collect(x->context, lane, &back, err);
        if (status == PROA_OK)
            status = send(x, lane, r, p, err);
    }
    for (int32_t lane = 0; lane < 2 && status == PROA_OK; lane++)
        status = work(x, lane, r, p, err);
    return status;
}

static proa_status run_order(const proa_exchange *x, const bench_a2a_round *r, payload *p, bool first,
                             proa_error *err)
{
    if (r->order == TWO_OVERLAPPED)
        return run_halves(x, r, p, first, err);
    proa_status status = run_window(x, r, p, err);
    return r->order == TWO_SERIAL && status == PROA_OK ? run_window(x, r, p, err) : status;
}

/* What the last layer has left. */
static proa_status finish(const proa_exchange *x, const bench_a2a_round *r, proa_error *err)
{
    proa_collected back;
    proa_status status = PROA_OK;
    for (int32_t lane = 0; lane < 2 && r->order == TWO_OVERLAPPED && status == PROA_OK; lane++)
        status = x->collect(x->context, lane, &back, err);
    return status;
}

static proa_status connect_all(const bench_a2a_round *r, const bench_a2a_member *m, proa_error *err)
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
    bench_a2a_member *m = context;
    bench_a2a_round *r = m->r;
    payload *p = calloc(1, sizeof *p);
    proa_exchange x = proa_a2a_exchange(m->a2a);
    proa_status status =
        p != NULL ? connect_all(r, m, &m->err) : proa_error_set(&m->err, PROA_ERR_MEMORY, "no memory");
    pthread_barrier_wait(&r->barrier);
    if (p != NULL)
        choose(p, r->rows, m->rank);
    for (int32_t i = -WARM_UP; i < WINDOWS && status == PROA_OK; i++) {
        int64_t begun = proa_clock_us(), cpu = proa_clock_thread_ns();
        status = run_order(&x, r, p, i == -WARM_UP, &m->err);
        if (i >= 0) {
            m->us[i] = (double)(proa_clock_us() - begun);
            m->cpu_us[i] = (double)(proa_clock_thread_ns() - cpu) / 1e3;
        }
    }
    if (status == PROA_OK)
        status = finish(&x, r, &m->err);
    m->err.status = status;
    proa_a2a_get_stats(m->a2a, &m->stats);
    pthread_barrier_wait(&r->barrier); /* nobody leaves who is still needed */
    free(p);
    return NULL;
}

static proa_status make_member(bench_a2a_member *m, bench_a2a_round *r, int32_t rank, proa_error *err)
{
    int cores = proa_cpu_core_count();
    const proa_a2a_options options = {.ranks = r->ranks,
                                      .rank = rank,
                                      .local_experts = EXPERTS / r->ranks,
                                      .hidden = HIDDEN,
                                      .top_k = TOP_K,
                                      .rows_max = ROWS_MAX,
                                      .lanes = r->order == TWO_OVERLAPPED ? 2 : 1,
                                      .format = PROA_EXCHANGE_FP8,
                                      .precision = PROA_PRECISION_DEFAULT,
                                      .deadline_us = DEADLINE_US,
                                      .spin_us = cores >= r->ranks ? 50 : 0};
    m->r = r;
    m->rank = rank;
    return proa_a2a_create(&options, r->hub, &m->a2a, err);
}

static proa_status run_members(bench_a2a_round *r, proa_error *err)
{
    proa_status status = PROA_OK;
    int32_t begun = 0;
    for (int32_t i = 0; i < r->ranks && status == PROA_OK; i++)
        status = make_member(&r->members[i], r, i, err);
    if (status != PROA_OK)
        return status;
    pthread_barrier_init(&r->barrier, NULL, (unsigned)r->ranks);
    while (begun < r->ranks &&
           pthread_create(&r->members[begun].thread, NULL, run_member, &r->members[begun]) == 0)
        begun++;
    PROA_ASSERT(begun == r->ranks); /* the barrier would wait for ever */
    for (int32_t i = 0; i < r->ranks; i++) {
        pthread_join(r->members[i].thread, NULL);
        if (status == PROA_OK && r->members[i].err.status != PROA_OK) {
            *err = r->members[i].err;
            status = err->status;
        }
    }
    pthread_barrier_destroy(&r->barrier);
    return status;
}

proa_status proa_bench_a2a_run(bench_a2a_round *r, bool ucx, proa_error *err)
{
    r->hub = ucx ? NULL : proa_post_hub_create(r->ranks);
    r->members = calloc((size_t)r->ranks, sizeof *r->members);
    if (r->members == NULL || (!ucx && r->hub == NULL))
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for %d ranks", r->ranks);
    return run_members(r, err);
}

void proa_bench_a2a_close(bench_a2a_round *r)
{
    for (int32_t i = 0; i < r->ranks && r->members != NULL; i++)
        proa_a2a_free(r->members[i].a2a);
    proa_post_hub_free(r->hub);
    free(r->members);
}
