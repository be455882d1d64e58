/* bench_report.c - what `bench op` and `bench model` share: the buffer of operands, the bound of a row, the output. */
#include "cmd/bench.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    BUFFER_MIB = 512, /* no cache is half as large */
    LINE = 64,
};

const void *proa_bench_memory_take(proa_bench_memory *memory, size_t bytes)
{
    bytes = (bytes + LINE - 1) / LINE * LINE;
    PROA_ASSERT(bytes <= memory->bytes);
    if (memory->next + bytes > memory->bytes)
        memory->next = 0;
    const void *taken = memory->data + memory->next;
    memory->next += bytes;
    return taken;
}

/* Random bytes whose exponents, read as any of the types, are moderate. */
proa_status proa_bench_memory_init(proa_bench_memory *memory, proa_error *err)
{
    enum { PATTERN = 1 << 20 };
    memory->bytes = (size_t)BUFFER_MIB << 20;
    memory->data = aligned_alloc(LINE, memory->bytes);
    if (memory->data == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a buffer of %d MiB", BUFFER_MIB);
    uint32_t word = 1;
    for (size_t i = 0; i < PATTERN; i++) {
        word = word * 1664525u + 1013904223u;
        memory->data[i] = (char)(i % 2 == 0 ? word >> 24 & 0x77 : 0x3c | (word >> 24 & 0x83));
    }
    for (size_t i = PATTERN; i < memory->bytes; i += PATTERN)
        memcpy(memory->data + i, memory->data, PATTERN);
    return PROA_OK;
}

proa_status proa_bench_choose_isa(const proa_options *options, proa_isa *isa, proa_error *err)
{
    const char *name = proa_options_string(options, "isa");
    *isa = proa_cpu_isa();
    if (name == NULL)
        return PROA_OK;
    while (*isa > PROA_ISA_PORTABLE && strcmp(proa_isa_name(*isa), name) != 0)
        (*isa)--;
    if (strcmp(proa_isa_name(*isa), name) != 0)
        return proa_error_set(err, PROA_ERR_UNSUPPORTED, "--isa %s: this processor's best is %s", name,
                              proa_isa_name(proa_cpu_isa()));
    return PROA_OK;
}

proa_bench_bound proa_bench_bound_of(const proa_bench_bounds *bounds, double bytes, double flops, bool bf16)
{
    double peak = bf16 ? bounds->bf16_gflops : bounds->f32_gflops;
    double memory_us = bytes / bounds->read_gbps / 1e3, multiply_us = flops / peak / 1e3;
    if (memory_us >= multiply_us)
        return (proa_bench_bound){memory_us, "memory"};
    return (proa_bench_bound){multiply_us, bf16 ? "bf16" : "f32"};
}

void proa_bench_bounds_print(const proa_host *host, const proa_bench_bounds *bounds)
{
    printf("%s, %d threads: reads %.1f GB/s, copies %.1f GB/s, %.1f GFLOP/s f32, %.1f GFLOP/s bf16\n",
           proa_isa_name(host->isa), proa_pool_threads(host->pool), bounds->read_gbps, bounds->copy_gbps,
           bounds->f32_gflops, bounds->bf16_gflops);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void proa_bench_sort(double *values, size_t count)
{
    qsort(values, count, sizeof *values, ascending);
}

proa_status proa_bench_write_file(const proa_json *whole, const char *path, proa_error *err)
{
    proa_buf text = {0};
    proa_json_write(whole, 1, &text);
    proa_status status = PROA_OK;
    FILE *file = fopen(path, "w");
    bool written = file != NULL && fprintf(file, "%s\n", proa_buf_text(&text)) > 0 && !text.failed;
    if (file != NULL && fclose(file) != 0)
        written = false;
    if (!written)
        status = proa_error_set(err, PROA_ERR_IO, "cannot write --json %s: %s", path, strerror(errno));
    proa_buf_free(&text);
    return status;
}

proa_status proa_bench_write_json(const proa_host *host, const proa_bench_bounds *measured, proa_json *rows,
                                  const char *path, proa_error *err)
{
    proa_json *whole = proa_json_new_object(), *bounds = proa_json_new_object();
    const char *isa = proa_isa_name(host->isa);
    proa_json_set(bounds, "read_gbps", proa_json_new_real(measured->read_gbps));
    proa_json_set(bounds, "copy_gbps", proa_json_new_real(measured->copy_gbps));
    proa_json_set(bounds, "f32_gflops", proa_json_new_real(measured->f32_gflops));
    proa_json_set(bounds, "bf16_gflops", proa_json_new_real(measured->bf16_gflops));
    proa_json_set(whole, "isa", proa_json_new_text(isa));
    proa_json_set(whole, "threads", proa_json_new_int(proa_pool_threads(host->pool)));
    proa_json_set(whole, "bounds", bounds);
    proa_json_set(whole, "rows", proa_json_ref(rows));
    proa_status status = proa_bench_write_file(whole, path, err);
    proa_json_free(whole);
    return status;
}
