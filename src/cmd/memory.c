/* memory.c - /proc/meminfo, control groups, and the size of the KV cache. */
#include "cmd/memory.h"

#include "base/file.h"

#include <stdlib.h>
#include <string.h>

static const double gib = 1073741824.0;

/* The number that follows `label` in a file; 0 when either is not there ("max" is no number). */
static uint64_t read_number(const char *path, const char *label)
{
    proa_buf text = {0};
    uint64_t number = 0;
    if (proa_file_read(path, 65536, &text, NULL) == PROA_OK) {
        const char *at = strstr(proa_buf_text(&text), label);
        number = at != NULL ? strtoull(at + strlen(label), NULL, 10) : 0;
    }
    proa_buf_free(&text);
    return number;
}

/* Page cache counts as used in a group, though it makes room: so the limit alone is taken, not what is left of it. */
uint64_t proa_memory_available(void)
{
    static const char *const limits[] = {"/sys/fs/cgroup/memory.max",
                                         "/sys/fs/cgroup/memory/memory.limit_in_bytes"};
    uint64_t available = read_number("/proc/meminfo", "MemAvailable:") * 1024;
    for (int i = 0; i < 2; i++) {
        uint64_t limit = read_number(limits[i], "");
        if (limit > 0 && limit < available)
            available = limit;
    }
    return available;
}

/* On a GPU what is asked for is reserved at once, and never swapped. */
static proa_status check_fits(const proa_memory_plan *plan, int64_t tokens, double left, proa_error *err)
{
    const double blocks = (double)(tokens / PROA_KV_BLOCK_TOKENS),
                 wanted = blocks * (double)plan->block_bytes;
    if (wanted <= left)
        return PROA_OK;
    return proa_error_set(
        err, PROA_ERR_MEMORY,
        "--max-total-tokens %lld takes %.1f GiB, and of %.1f GiB of %s %.1f are left by %.1f GiB of weights "
        "and %.1f GiB of step buffers: at most %lld tokens fit",
        (long long)tokens, wanted / gib, (double)plan->available_bytes / gib, plan->where,
        left > 0 ? left / gib : 0, (double)plan->weight_bytes / gib, (double)plan->buffer_bytes / gib,
        left > 0 ? (long long)(left / (double)plan->block_bytes) * PROA_KV_BLOCK_TOKENS : 0LL);
}

proa_status proa_memory_plan_kv(proa_memory_plan *plan, double fraction, int64_t wanted, int32_t running_max,
                                int32_t context_length, proa_error *err)
{
    const int64_t block = PROA_KV_BLOCK_TOKENS, most = INT32_MAX / block * block;
    double taken = (double)plan->weight_bytes + (double)plan->exchange_bytes + (double)plan->buffer_bytes,
           room = fraction * (double)plan->available_bytes - taken;
    int64_t tokens = (wanted + block - 1) / block * block;
    if (wanted <= 0) {
        int64_t sequence = (context_length + block - 1) / block * block;
        int64_t useful = sequence * running_max,
                blocks = room > 0 ? (int64_t)(room / (double)plan->block_bytes) : 0;
        tokens = blocks * block < useful ? blocks * block : useful;
    }
    if (tokens > most)
        tokens = most;
    if (tokens < block)
        return proa_error_set(err, PROA_ERR_MEMORY,
                              "no room for a KV cache: %.2f of the available %.1f GiB of %s are taken by "
                              "%.1f GiB of weights, %.1f GiB of "
                              "all-to-all buffers and %.1f GiB of step buffers; free memory, raise "
                              "--mem-fraction-static, lower "
                              "--chunked-prefill-size or give --max-total-tokens",
                              fraction, (double)plan->available_bytes / gib, plan->where,
                              (double)plan->weight_bytes / gib, (double)plan->exchange_bytes / gib,
                              (double)plan->buffer_bytes / gib);
    plan->kv_tokens = (int32_t)tokens;
    if (plan->buffer_bytes > 0)
        return check_fits(plan, tokens, (double)plan->available_bytes - taken, err);
    return PROA_OK;
}
