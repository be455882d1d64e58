/* bench_a2a.c - `proa bench a2a`: what an all-to-all of the MoE layers costs, beside a plain copy of the same bytes.
 *
 * Ranks are threads of this process with one post each, local or UCX with a context of its own. A window is dispatch, receive, put of all
 * outputs, give_back and collect, with no expert's work between them. Rows choose their experts at random, as many as the model's top-k.
 * time, cpu: medians over windows of rank 0's time, and of its thread's processor time, which a busy machine does not change. rows,
 * outputs: bytes that rank 0 sends to others in a window. copy: one thread's memcpy of those bytes, and its share of cpu: less than
 * any transport does, which packs, moves and unpacks, for its own rows too.
 *
 * overlap: two ranks by UCX run layers of two windows, with arithmetic in place of attention (before the dispatch) and experts (before
 * the outputs are given back), half of `compute` each: one window after the other, or one a lane in the order of model/overlap.h. What
 * travels is moved by the ranks' own threads, so only a wait can be hidden: the bound of two windows is max(compute + processor time of
 * the all-to-all, time of the all-to-all), the latter as measured without arithmetic.
 * Times are those that a tenth of the windows keep, since a wait on a busy machine lasts as long as others please.
 */
#include "base/clock.h"
#include "base/cpu.h"
#include "cmd/bench.h"
#include "cmd/bench_a2a_ranks.h"
#include "cmd/cmd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const int32_t rank_counts[] = {2, 4, 8};
static const int32_t row_counts[] = {1, 32, 128};
static const int32_t overlap_rows[] = {32, 128};
static const double compute_shares[] = {0.5, 1, 2}; /* of the time of an all-to-all without arithmetic */

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
    proa_bench_sort(us, TRIES);
    return measured ? us[TRIES / 2] : 0;
}

/* The value that so many tenths of the windows keep. */
static double quantile(double values[WINDOWS], int tenths)
{
    proa_bench_sort(values, WINDOWS);
    return values[WINDOWS * tenths / 10];
}

static void print_round(const char *way, const bench_a2a_round *r, proa_json *rows)
{
    bench_a2a_member *m = &r->members[0];
    double windows = (double)m->stats.windows, dispatched = (double)m->stats.dispatch_bytes / windows,
           outputs = (double)m->stats.output_bytes / windows, us = quantile(m->us, 5),
           cpu = quantile(m->cpu_us, 5), copy = copy_us((size_t)(dispatched + outputs));
    printf("%-6s %5d %5d %10.0f %10.0f %10.1f %12.0f %12.0f %10.2f %10.0f %6.0f%%\n", way, r->ranks, r->rows,
           us, cpu, (double)m->stats.messages / windows, dispatched, outputs,
           (dispatched + outputs) / us / 1e3, copy, 100 * copy / cpu);
    fflush(stdout);
    if (rows == NULL)
        return;
    proa_json *row = proa_json_new_object();
    proa_json_set(row, "transport", proa_json_new_text(way));
    proa_json_set(row, "ranks", proa_json_new_int(r->ranks));
    proa_json_set(row, "rows", proa_json_new_int(r->rows));
    proa_json_set(row, "time_us", proa_json_new_real(us));
    proa_json_set(row, "cpu_us", proa_json_new_real(cpu));
    proa_json_set(row, "dispatch_bytes", proa_json_new_real(dispatched));
    proa_json_set(row, "output_bytes", proa_json_new_real(outputs));
    proa_json_set(row, "copy_us", proa_json_new_real(copy));
    proa_json_append(rows, row);
}

static proa_status run_plain(bool ucx, int32_t ranks, int32_t rows, proa_json *out, proa_error *err)
{
    bench_a2a_round r = {.ranks = ranks, .rows = rows};
    proa_status status = proa_bench_a2a_run(&r, ucx, err);
    if (status == PROA_OK)
        print_round(ucx ? "ucx" : "local", &r, out);
    proa_bench_a2a_close(&r);
    return status;
}

/* ---- overlap ---- */

/* Of rank 0, for two windows with so much arithmetic. */
static proa_status time_two(bench_a2a_order how, int32_t rows, int64_t loops, double *us, double *cpu_us,
                            proa_error *err)
{
    bench_a2a_round r = {.ranks = 2, .rows = rows, .order = how, .loops = loops};
    proa_status status = proa_bench_a2a_run(&r, true, err);
    if (status == PROA_OK) {
        *us = quantile(r.members[0].us, 1); /* other programs disturb the rest */
        *cpu_us = quantile(r.members[0].cpu_us, 1);
    }
    proa_bench_a2a_close(&r);
    return status;
}

static double loops_in_us(void)
{
    const int64_t loops = 20000000;
    volatile double value = 1; /* keeps the arithmetic between the two looks at the clock */
    int64_t begun = proa_clock_thread_ns();
    value = proa_bench_a2a_calculate(value, loops);
    return (double)loops * 1e3 / (double)(proa_clock_thread_ns() - begun);
}

static proa_status run_overlap(int32_t rows, double share, double speed, proa_json *out, proa_error *err)
{
    double alone = 0, alone_cpu = 0, serial = 0, overlapped = 0, cpu;
    proa_status status = time_two(TWO_SERIAL, rows, 0, &alone, &alone_cpu, err);
    double compute = share * alone; /* of two windows, in four places */
    int64_t loops = (int64_t)(compute / 4 * speed);
    if (status == PROA_OK)
        status = time_two(TWO_SERIAL, rows, loops, &serial, &cpu, err);
    if (status == PROA_OK)
        status = time_two(TWO_OVERLAPPED, rows, loops, &overlapped, &cpu, err);
    if (status != PROA_OK)
        return status;
    double bound = compute + alone_cpu > alone ? compute + alone_cpu : alone;
    printf("%5d %12.0f %12.0f %12.0f %10.0f %12.0f %10.0f %7.0f%%\n", rows, compute, alone, alone_cpu, serial,
           overlapped, bound, 100 * (serial - overlapped) / serial);
    fflush(stdout);
    if (out == NULL)
        return PROA_OK;
    proa_json *row = proa_json_new_object();
    proa_json_set(row, "rows", proa_json_new_int(rows));
    proa_json_set(row, "compute_us", proa_json_new_real(compute));
    proa_json_set(row, "exchange_us", proa_json_new_real(alone));
    proa_json_set(row, "exchange_cpu_us", proa_json_new_real(alone_cpu));
    proa_json_set(row, "serial_us", proa_json_new_real(serial));
    proa_json_set(row, "overlapped_us", proa_json_new_real(overlapped));
    proa_json_append(out, row);
    return PROA_OK;
}

static proa_status run_overlaps(proa_json *out, proa_error *err)
{
    double speed = loops_in_us();
    proa_status status = PROA_OK;
    printf("\ntwo windows of 2 ranks by UCX with arithmetic, one after the other or overlapped\n"
           "%5s %12s %12s %12s %10s %12s %10s %8s\n",
           "rows", "compute us", "exchange us", "its cpu us", "serial us", "overlap us", "bound us", "saved");
    for (size_t i = 0; i < sizeof overlap_rows / sizeof overlap_rows[0] && status == PROA_OK; i++) {
        for (size_t k = 0; k < sizeof compute_shares / sizeof compute_shares[0] && status == PROA_OK; k++)
            status = run_overlap(overlap_rows[i], compute_shares[k], speed, out, err);
    }
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
                    status = run_plain(ucx != 0, rank_counts[i], row_counts[k], rows, &err);
            }
        }
    }
    proa_json *overlaps = json != NULL ? proa_json_new_array() : NULL;
    if (status == PROA_OK && (only == NULL || strcmp(only, "overlap") == 0))
        status = run_overlaps(overlaps, &err);
    if (status == PROA_OK && json != NULL) {
        proa_json *whole = proa_json_new_object();
        proa_json_set(whole, "rows", rows);
        proa_json_set(whole, "overlap", overlaps);
        rows = overlaps = NULL;
        status = proa_bench_write_file(whole, json, &err);
        proa_json_free(whole);
    }
    proa_json_free(rows);
    proa_json_free(overlaps);
    return status == PROA_OK ? PROA_EXIT_OK : proa_cmd_fail(&err);
}
