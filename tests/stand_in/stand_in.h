/* stand_in.h - a GPU for machines that have none: the functions of src/op/cuda and of the ops' cuda.h, in plain host memory.
 *
 * For tests of what stands on them (src/model/cuda and above). It is a harder master than the real one:
 *
 *   memory    full of NaNs (0xff) at first; every pointer of a call must lie in one allocation, aligned as the kernels want it
 *   stream    nothing runs before proa_gpu_sync (or a copy from or to ordinary memory, or a free): who reads a result or overwrites pinned
 *             memory too early sees it
 *   graphs    what is recorded runs at proa_gpu_graph_run alone, with the arguments that it was recorded with
 *   fork      what is queued beside runs no sooner than the join: who reads it before, or overwrites what it reads, sees it
 *   protocol  counters that should have been cleared, plans that are of other lengths, rows of groups that overlap: all asserted
 *   chance    rows of an expert stand in the order last to first
 *
 * Roundings to bf16 and e4m3 are where the kernels have them; sums are float32 in an order of their own that depends on the row alone (law
 * 2). Bits are not those of a GPU. Here is what its files share. */
#ifndef PROA_TESTS_STAND_IN_STAND_IN_H
#define PROA_TESTS_STAND_IN_STAND_IN_H

#include "op/cuda/gpu.h"
#include "op/cuda/rows.h"

/* One call to be run; `args` is a copy. */
typedef void stand_in_run(proa_gpu *gpu, const void *args);

/* Queues the call, or records it in the graph that has been begun. */
proa_status stand_in_queue(proa_gpu *gpu, stand_in_run *run, const void *args, size_t bytes, proa_error *err);

/* Fails the program unless [at, at + bytes) lies in one allocation of the GPU and `at` is a multiple of `alignment`; `what` is for the
 * message. Nothing is asked of no bytes. */
void stand_in_check(const proa_gpu *gpu, const void *at, int64_t bytes, int32_t alignment, const char *what);

/* The same for `rows` rows of `cols` elements, `stride` elements apart: 16 bytes' alignment, of rows too. */
void stand_in_check_rows(const proa_gpu *gpu, const void *at, int64_t rows, int64_t cols, int64_t stride,
                         int32_t element_bytes, const char *what);

/* The same for quantised rows; nothing is asked where q is NULL. */
void stand_in_check_fp8(const proa_gpu *gpu, const proa_cuda_fp8_rows *rows, int64_t count, int32_t cols,
                        const char *what);

/* Memory that one call may use while it runs; slots are apart. Aligned to 64 bytes. */
enum { STAND_IN_SLOTS = 3 };
void *stand_in_scratch(proa_gpu *gpu, int32_t slot, size_t bytes);

/* [256]: values of e4m3 */
const float *stand_in_e4m3(const proa_gpu *gpu);

/* Row `row` of x [cols] to `to`, by the recipe of op/quantise/quantise.h. */
void stand_in_quantise(const proa_cuda_fp8_rows *to, int64_t row, int32_t cols, const float *x);

/* Rows of group g and where they start; asserted to be what rows.h says. */
int32_t stand_in_group(const proa_gpu *gpu, const proa_cuda_groups *groups, int32_t g, int32_t *first);

/* A row of the cache (op/mla/kv_row.h), E4M3 or BF16, as floats [kv_lora_rank + rope_dim]. */
void stand_in_cache_row(const proa_gpu *gpu, const void *row, bool fp8, int32_t kv_lora_rank,
                        int32_t rope_dim, float *to);

/* to [count] */
void stand_in_widen(float *to, const void *bf16, int64_t count);
void stand_in_narrow(void *bf16, const float *from, int64_t count);

#endif
