/* bench_slice_table.c - `proa bench slice --table`: whole decode steps over sequences and context, and which of them a GPU of this size can serve.
 *
 * Steps are measured with caches that layers share (gpu_step.h), and read as many bytes a step as with one for each: so
 * a step can be timed that a worker has no room for. The table marks it.
 */
#include "cmd/bench_slice.h"

static const int32_t batches[BENCH_SLICE_BATCHES] = {1, 32, 64, 128, 256},
                     contexts[BENCH_SLICE_CONTEXTS] = {1024, 2048, 4096, 8192};

void proa_bench_slice_pairs(bench_slice_pair pairs[BENCH_SLICE_PAIRS])
{
    for (int i = 0; i < BENCH_SLICE_PAIRS; i++)
        pairs[i] = (bench_slice_pair){.shape = {.decode = true,
                                                .sequences = batches[i / BENCH_SLICE_CONTEXTS],
                                                .context = contexts[i % BENCH_SLICE_CONTEXTS]}};
}

static double needs(const bench_slice_room *room, const bench_slice_pair *p)
{
    return (double)room->weights + (double)p->buffers + (double)p->cache;
}

static bool fits(const bench_slice_room *room, const bench_slice_pair *p)
{
    return needs(room, p) <= (double)room->memory;
}

static double rate(const bench_slice_pair *p)
{
    return p->us > 0 ? p->shape.sequences / p->us * 1e6 : 0;
}

static void print_pair(FILE *out, const bench_slice_room *room, const bench_slice_pair *p)
{
    if (p->state == BENCH_SLICE_NOT_ASKED)
        fprintf(out, "  %15s ", "");
    else if (p->state == BENCH_SLICE_NO_ROOM)
        fprintf(out, "  %15s%c", "no room", '-');
    else
        fprintf(out, "  %8.2f %6.0f%c", p->us / 1e3, rate(p), fits(room, p) ? ' ' : '+');
}

/* Unless none of its pairs was asked for. */
static void print_row(FILE *out, const bench_slice_room *room,
                      const bench_slice_pair pairs[BENCH_SLICE_CONTEXTS])
{
    bool asked = false;
    for (int i = 0; i < BENCH_SLICE_CONTEXTS; i++)
        asked = asked || pairs[i].state != BENCH_SLICE_NOT_ASKED;
    if (!asked)
        return;
    fprintf(out, "  %9d", pairs[0].shape.sequences);
    for (int i = 0; i < BENCH_SLICE_CONTEXTS; i++)
        print_pair(out, room, &pairs[i]);
    fprintf(out, "\n");
}

static void print_marks(FILE *out, const bench_slice_room *room, const bench_slice_pair *p)
{
    if (p->state == BENCH_SLICE_NOT_ASKED || fits(room, p))
        return;
    fprintf(out,
            "%c %d at %d: the KV cache of all layers, %.1f GB, does not fit beside %.1f GB of weights and "
            "%.1f of "
            "buffers into %.1f GB; %s\n",
            p->state == BENCH_SLICE_NO_ROOM ? '-' : '+', p->shape.sequences, p->shape.context,
            (double)p->cache / 1e9, (double)room->weights / 1e9, (double)p->buffers / 1e9,
            (double)room->memory / 1e9,
            p->state == BENCH_SLICE_NO_ROOM ? "nor do the caches that a measurement takes"
                                            : "measured with fewer caches, which layers share");
}

void proa_bench_slice_table_print(FILE *out, const bench_slice_room *room,
                                  const bench_slice_pair pairs[BENCH_SLICE_PAIRS])
{
    fprintf(out, "decode, ms a step and tokens/s a GPU, without all-to-all:\n  sequences");
    for (int i = 0; i < BENCH_SLICE_CONTEXTS; i++)
        fprintf(out, "  %8s %5d ", "at", contexts[i]);
    fprintf(out, "\n");
    for (int i = 0; i < BENCH_SLICE_PAIRS; i += BENCH_SLICE_CONTEXTS)
        print_row(out, room, &pairs[i]);
    for (int i = 0; i < BENCH_SLICE_PAIRS; i++)
        print_marks(out, room, &pairs[i]);
}

proa_json *proa_bench_slice_table_json(const bench_slice_room *room,
                                       const bench_slice_pair pairs[BENCH_SLICE_PAIRS])
{
    proa_json *table = proa_json_new_array();
    for (int i = 0; i < BENCH_SLICE_PAIRS; i++) {
        const bench_slice_pair *p = &pairs[i];
        if (p->state == BENCH_SLICE_NOT_ASKED)
            continue;
        proa_json *row = proa_json_new_object();
        proa_json_set(row, "sequences", proa_json_new_int(p->shape.sequences));
        proa_json_set(row, "context", proa_json_new_int(p->shape.context));
        if (p->state == BENCH_SLICE_MEASURED) {
            proa_json_set(row, "step_ms", proa_json_new_real(p->us / 1e3));
            proa_json_set(row, "tokens_per_second", proa_json_new_real(rate(p)));
        }
        proa_json_set(row, "cache_bytes", proa_json_new_int((int64_t)p->cache));
        proa_json_set(row, "buffer_bytes", proa_json_new_int((int64_t)p->buffers));
        proa_json_set(row, "weight_bytes", proa_json_new_int((int64_t)room->weights));
        proa_json_set(row, "gpu_bytes", proa_json_new_int((int64_t)room->memory));
        proa_json_set(row, "fits", proa_json_new_bool(fits(room, p)));
        proa_json_append(table, row);
    }
    return table;
}
