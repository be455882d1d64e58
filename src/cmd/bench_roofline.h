/* bench_roofline.h - the ops of a step under the roofs of a GPU: what `proa bench slice --json` wrote, as a picture.
 *
 * A roofline has its names from the JSON that it was read from and lives no longer. It needs no GPU, and no CUDA to build.
 */
#ifndef PROA_CMD_BENCH_ROOFLINE_H
#define PROA_CMD_BENCH_ROOFLINE_H

#include "base/json.h"

enum {
    PROA_ROOFLINE_SHAPES_MAX = 32,
    PROA_ROOFLINE_OPS_MAX = 40, /* of a shape */
};

/* What a GPU can do at most, by its data sheet (dense). */
typedef struct proa_bench_peaks {
    double bytes_ns; /* also GB/s */
    double fp8_flops_ns;
    double bf16_flops_ns;
} proa_bench_peaks;

/* By the GPU's name: of those known, the first that is in it; an H100 SXM's where none is. */
proa_bench_peaks proa_bench_peaks_of(const char *gpu);

/* An op in all layers of a step. */
typedef struct proa_roofline_op {
    const char *name;
    double us;    /* 0: too short to tell; listed, without a dot */
    double bytes; /* that it must at least move */
    double fp8_flops;
    double bf16_flops; /* neither: it only moves bytes */
} proa_roofline_op;

typedef struct proa_roofline_shape {
    const char *name;
    double step_us; /* of the whole step; of the sum of the ops where they alone were measured */
    bool whole;     /* the former */
    int32_t op_count;
    proa_roofline_op ops[PROA_ROOFLINE_OPS_MAX]; /* longest first */
} proa_roofline_shape;

typedef struct proa_roofline {
    const char *gpu;
    proa_bench_peaks peaks;
    int32_t shape_count;
    proa_roofline_shape shapes[PROA_ROOFLINE_SHAPES_MAX];
} proa_roofline;

/* Takes the shapes whose name contains `wanted`. NULL: decode 128 at 4096 and prefill 4 x 4096, or all where it has neither. Peaks that
 * the JSON lacks, as older ones do, are those of the GPU's name. */
proa_status proa_roofline_read(const proa_json *whole, const char *wanted, proa_roofline *roofline,
                               proa_error *err);

/* The least time that an op can take, in microseconds, and what sets it: "HBM", "FP8" or "BF16". */
double proa_roofline_bound(const proa_bench_peaks *peaks, double bytes, double fp8_flops, double bf16_flops,
                           const char **by);

/* Appends a whole SVG file: a panel a shape. */
void proa_roofline_draw(const proa_roofline *roofline, proa_buf *out);

/* Reads, draws and writes the file of --svg. */
proa_status proa_roofline_write(const proa_json *whole, const char *wanted, const char *svg, proa_error *err);

#endif
