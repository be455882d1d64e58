/* host.h - what the host ops share: rounding by precision, reading small weights, sharing rows among tasks.
 * For the .c files of src/op alone. */
#ifndef PROA_OP_HOST_H
#define PROA_OP_HOST_H

#include "base/number.h"
#include "op/tensor.h"

/* An activation as it is kept between ops. */
static inline float proa_host_round(const proa_host *host, float value)
{
    return host->precision == PROA_PRECISION_DEFAULT ? proa_round_bf16(value) : value;
}

/* Element `index` of row-major data that is F32 or BF16. */
static inline float proa_host_load(const void *data, proa_dtype dtype, int64_t index)
{
    PROA_ASSERT(dtype == PROA_DTYPE_F32 || dtype == PROA_DTYPE_BF16);
    return dtype == PROA_DTYPE_F32 ? ((const float *)data)[index]
                                   : proa_bf16_to_f32(((const uint16_t *)data)[index]);
}

/* Tasks that `rows` rows of `row_elements` elements are worth: a task below TASK_ELEMENTS costs less than waking a
 * thread for it. At most 4 tasks a thread, so that a late thread does not hold up the loop. */
enum { PROA_HOST_TASK_ELEMENTS = 16 * 1024 };

static inline int32_t proa_host_row_tasks(const proa_host *host, int32_t rows, int64_t row_elements)
{
    int64_t tasks = (rows * row_elements + PROA_HOST_TASK_ELEMENTS - 1) / PROA_HOST_TASK_ELEMENTS;
    int64_t most = 4 * (int64_t)proa_pool_threads(host->pool);
    if (tasks > most)
        tasks = most;
    return tasks < rows ? (int32_t)tasks : rows;
}

/* First row of share `task` of `tasks`; the share ends where the next begins. */
static inline int32_t proa_host_share(int32_t rows, int32_t tasks, int32_t task)
{
    return (int32_t)((int64_t)rows * task / tasks);
}

#endif
