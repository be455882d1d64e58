/* bench.h - kernel benchmarks: what this machine can do at most, and the rows that are measured against it.
 *
 * A row is one op at one shape. It says what the op must at least read and write in memory and how many operations
 * it does; the table then has the time that this machine's bounds, measured in the same run on the same threads,
 * allow, beside the time it took. To add an op: a file with its rows (bench_linear.c is one) and its line in bench.c.
 *
 * Operands are cold: each call takes other weights out of a buffer that is larger than any cache.
 */
#ifndef PROA_CMD_BENCH_H
#define PROA_CMD_BENCH_H

#include "base/json.h"
#include "base/option.h"
#include "op/tensor.h"

/* What the machine reaches, best of several tries, on the threads of the host. */
typedef struct proa_bench_bounds {
    double read_gbps;   /* a large buffer, read */
    double copy_gbps;   /* copied: bytes read plus bytes written */
    double f32_gflops;  /* multiply-adds of float32 in registers */
    double bf16_gflops; /* of bf16 products into float32 sums; as f32_gflops where there are none */
} proa_bench_bounds;

/* A large buffer of bytes that are harmless as e4m3, bf16 and float32: all finite, none denormal. */
typedef struct proa_bench_memory {
    char *data;
    size_t bytes;
    size_t next;
} proa_bench_memory;

/* The caller frees data. */
proa_status proa_bench_memory_init(proa_bench_memory *memory, proa_error *err);

/* The next `bytes` (a multiple of 64 is taken), from the start again when the end is reached. */
const void *proa_bench_memory_take(proa_bench_memory *memory, size_t bytes);

typedef struct proa_bench_case {
    char shape[64];
    int32_t rows;
    double bytes; /* that must move between memory and processor: weights once, activations once */
    double flops; /* a multiply-add counts 2 */
    bool bf16;    /* its products are of bf16 or narrower: bf16_gflops bounds it */
    proa_precision precision;
    size_t scratch_bytes;
    void (*run)(void *state, const proa_host *host, proa_bench_memory *memory);
    void *state;
    void (*release)(void *state);
} proa_bench_case;

typedef struct proa_bench_op {
    const char *name;
    int case_count;
    /* Fills in the case, ready to run on a host like this one; memory (the heap's) running out is the only error. */
    proa_status (*make)(int index, const proa_host *host, proa_bench_case *out, proa_error *err);
} proa_bench_op;

extern const proa_bench_op proa_bench_linear;
extern const proa_bench_op proa_bench_linear_heads;
extern const proa_bench_op proa_bench_experts;
extern const proa_bench_op proa_bench_quantise;
extern const proa_bench_op proa_bench_mla_absorbed;
extern const proa_bench_op proa_bench_mla_expanded;
extern const proa_bench_op proa_bench_rmsnorm;
extern const proa_bench_op proa_bench_sample;

/* Microseconds of wall time; with one thread, of that thread's processor time, which is the same on an idle machine
 * and does not count what else a busy one ran in between. */
double proa_bench_now_us(const proa_pool *pool);

/* About a second. `buffer` is read and written. */
void proa_bench_bounds_measure(proa_pool *pool, proa_isa isa, const proa_bench_memory *buffer,
                               proa_bench_bounds *bounds);

/* The least time that a row can take, and what sets it: "memory", "bf16" or "f32". */
typedef struct proa_bench_bound {
    double us;
    const char *by;
} proa_bench_bound;

proa_bench_bound proa_bench_bound_of(const proa_bench_bounds *bounds, double bytes, double flops, bool bf16);

/* --isa, or the processor's best. */
proa_status proa_bench_choose_isa(const proa_options *options, proa_isa *isa, proa_error *err);

void proa_bench_bounds_print(const proa_host *host, const proa_bench_bounds *bounds);

/* Ascending, in place. */
void proa_bench_sort(double *values, size_t count);

/* Writes the object to the file of --json. */
proa_status proa_bench_write_file(const proa_json *whole, const char *path, proa_error *err);

/* Writes {isa, threads, bounds, rows} to the file. */
proa_status proa_bench_write_json(const proa_host *host, const proa_bench_bounds *measured, proa_json *rows,
                                  const char *path, proa_error *err);

#endif
