/* expert_load.c - a ring of steps and the sum of what is in it.
 *
 * The ring has a slot more than the window, for the step that goes on. The oldest step is taken off the sum when a step
 * ends, so the sum costs nothing when it is asked for and one pass over the counts a step.
 */
#include "engine/expert_load.h"

#include "base/status.h"

#include <stdlib.h>
#include <string.h>

struct proa_expert_load {
    int32_t layers;
    int32_t experts;
    int32_t slots; /* window + 1; 0: no window */
    int64_t steps;
    int64_t *sum;   /* [layers, experts] */
    uint32_t *ring; /* [slots, layers, experts]; step i is at i % slots */
};

static size_t cells(const proa_expert_load *load)
{
    return (size_t)load->layers * (size_t)load->experts;
}

static uint32_t *step_at(const proa_expert_load *load, int64_t step)
{
    return load->ring + (size_t)(step % load->slots) * cells(load);
}

proa_expert_load *proa_expert_load_create(int32_t layers, int32_t experts, int32_t window)
{
    proa_expert_load *load = calloc(1, sizeof *load);
    if (load == NULL)
        return NULL;
    load->layers = layers;
    load->experts = experts;
    load->slots = window > 0 ? window + 1 : 0;
    load->sum = calloc(cells(load), sizeof *load->sum);
    if (window > 0)
        load->ring = calloc(cells(load) * (size_t)load->slots, sizeof *load->ring);
    if (load->sum == NULL || (window > 0 && load->ring == NULL)) {
        proa_expert_load_free(load);
        return NULL;
    }
    return load;
}

void proa_expert_load_free(proa_expert_load *load)
{
    if (load == NULL)
        return;
    free(load->sum);
    free(load->ring);
    free(load);
}

void proa_expert_load_record(proa_expert_load *load, int32_t layer, int32_t count, const int32_t *expert_ids)
{
    ptrdiff_t at = (ptrdiff_t)layer * load->experts;
    uint32_t *step = load->slots > 0 ? step_at(load, load->steps) : NULL;
    for (int32_t i = 0; i < count; i++) {
        load->sum[at + expert_ids[i]]++;
        if (step != NULL)
            step[at + expert_ids[i]]++;
    }
}

void proa_expert_load_end_step(proa_expert_load *load)
{
    load->steps++;
    if (load->slots == 0)
        return;
    uint32_t *oldest = step_at(load, load->steps);
    for (size_t i = 0; i < cells(load); i++) {
        load->sum[i] -= oldest[i];
        oldest[i] = 0;
    }
}

int64_t proa_expert_load_steps(const proa_expert_load *load)
{
    return load->steps;
}

int64_t proa_expert_load_count(const proa_expert_load *load, int32_t layer, int32_t expert)
{
    return load->sum[(ptrdiff_t)layer * load->experts + expert];
}

void proa_expert_load_reset(proa_expert_load *load)
{
    load->steps = 0;
    memset(load->sum, 0, cells(load) * sizeof *load->sum);
    if (load->slots > 0)
        memset(load->ring, 0, cells(load) * (size_t)load->slots * sizeof *load->ring);
}

/* One table, a layer a line: of a step, or of the sum when `step` is NULL. */
static void write_table(const proa_expert_load *load, const uint32_t *step, proa_buf *out)
{
    for (int32_t l = 0; l < load->layers; l++) {
        proa_buf_append_text(out, l == 0 ? "\n[" : ",\n[");
        for (int32_t e = 0; e < load->experts; e++) {
            ptrdiff_t i = (ptrdiff_t)l * load->experts + e;
            proa_buf_append_format(out, e == 0 ? "%lld" : ",%lld",
                                   step != NULL ? (long long)step[i] : (long long)load->sum[i]);
        }
        proa_buf_append_char(out, ']');
    }
}

void proa_expert_load_write_sums(int32_t layers, int32_t experts, const uint64_t *sums, proa_buf *out)
{
    proa_buf_append_text(out, "{\"logical_count\": [");
    for (int32_t l = 0; l < layers; l++) {
        proa_buf_append_text(out, l == 0 ? "\n[" : ",\n[");
        for (int32_t e = 0; e < experts; e++)
            proa_buf_append_format(out, e == 0 ? "%llu" : ",%llu",
                                   (unsigned long long)sums[(ptrdiff_t)l * experts + e]);
        proa_buf_append_char(out, ']');
    }
    proa_buf_append_text(out, "\n]}\n");
}

void proa_expert_load_write(const proa_expert_load *load, proa_expert_load_form form, proa_buf *out)
{
    proa_buf_append_text(out, "{\"logical_count\": [");
    if (form == PROA_EXPERT_LOAD_STAT) {
        write_table(load, NULL, out);
    } else {
        PROA_ASSERT(load->slots > 0);
        int64_t first = load->steps < load->slots ? 0 : load->steps - load->slots + 1;
        for (int64_t step = first; step < load->steps; step++) {
            proa_buf_append_text(out, step == first ? "\n[" : ",\n[");
            write_table(load, step_at(load, step), out);
            proa_buf_append_char(out, ']');
        }
    }
    proa_buf_append_text(out, "\n]}\n");
}
