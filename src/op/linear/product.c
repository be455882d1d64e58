/* product.c - the plan of a product: pack x, cut the outputs into tasks, and run the form's tiles over each.
 *
 *   slots in rounds of slots_per_round(): pack their x rows into the scratch (threads over slots), then
 *   tasks = (segment, columns, up to ROWS_PER_TASK rows). A task either
 *     - few rows: runs the tiles over the weights as they are stored, which are read once: memory bounds it; or
 *     - many rows: per K_BLOCK of k, unpacks its weights once into a panel that stays in the nearest cache, and
 *       runs the tiles of all its rows over it; sums rest in the scratch between blocks: arithmetic bounds it.
 * Both give the same bits (form.h), so the choice is free, and so is every size below.
 *
 * Scratch: task numbers [segments + 1] | packed x | per thread: panel, sums, scales.
 */
#include "op/linear/product.h"

#include "base/minmax.h"
#include "op/lanes.h"
#include "op/linear/form.h"

#include <string.h>

enum {
    SLOTS_PER_ROUND = 512, /* at least; more of short rows, up to */
    ELEMENTS_PER_ROUND = 1 << 21,
    ROWS_PER_TASK = 64,
    COLUMNS_PER_TASK = 24, /* with K_BLOCK: a panel of bf16 is 48 KiB */
    TASKS_PER_THREAD = 8,  /* enough that the last ones are short */
    K_BLOCK = 1024,
    GROUPS_PER_BLOCK = K_BLOCK / PROA_QUANT_GROUP,
    SLOTS_PER_PACK = 8,
    PACK_ALONE = 32768, /* elements of x that one thread packs faster than a pool wakes */
    LINE = 64,
    SCALES = COLUMNS_PER_TASK * ROWS_PER_TASK * GROUPS_PER_BLOCK, /* a block of weights a column: the worst */
};

typedef struct round_plan {
    const proa_product *p;
    const proa_form *form;
    int64_t slot_first; /* of this round */
    int64_t slot_count;
    int32_t columns_per_task;
    int32_t *task_first; /* [segments + 1] */
    char *x;             /* packed rows of this round's slots */
    size_t x_stride;
    int thread_count;
    char *threads; /* scratch of each */
    size_t thread_bytes;
} round_plan;

static int64_t round_up(int64_t n, int64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

static const proa_form *choose_form(proa_isa isa, proa_dtype w_dtype, bool recipe, bool bf16_x)
{
    const proa_form *form = NULL;
    if (isa >= PROA_ISA_AVX512_BF16)
        form = proa_form_avx512_bf16(w_dtype, recipe, bf16_x);
    if (form == NULL && isa >= PROA_ISA_AVX512)
        form = proa_form_avx512(w_dtype, recipe, bf16_x);
    if (form == NULL && isa >= PROA_ISA_AVX2)
        form = proa_form_avx2(w_dtype, recipe, bf16_x);
    return form != NULL ? form : proa_form_portable(w_dtype, recipe, bf16_x);
}

/* --- segments and slots --- */

static int64_t segment_begin(const proa_product *p, int64_t segment)
{
    return p->offsets != NULL ? p->offsets[segment] : segment * p->rows_each;
}

/* The slots of a segment that belong to this round. */
static void segment_slots(const round_plan *run, int64_t segment, int64_t *first, int64_t *last)
{
    int64_t begin = segment_begin(run->p, segment), end = segment_begin(run->p, segment + 1);
    *first = begin > run->slot_first ? begin : run->slot_first;
    *last = proa_min_i64(end, run->slot_first + run->slot_count);
}

static int64_t row_tasks_of(const round_plan *run, int32_t segment)
{
    int64_t first, last;
    segment_slots(run, segment, &first, &last);
    return last > first ? (last - first + ROWS_PER_TASK - 1) / ROWS_PER_TASK : 0;
}

/* The segment of a slot: the last one that begins at or before it. */
static int32_t segment_of_slot(const proa_product *p, int64_t slot)
{
    int32_t low = 0, high = p->segments - 1;
    if (p->offsets == NULL)
        return (int32_t)(slot / p->rows_each);
    while (low < high) {
        int32_t middle = low + (high - low + 1) / 2;
        if (p->offsets[middle] <= slot)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

static int64_t group_count(const proa_product *p)
{
    return ((int64_t)p->k + PROA_QUANT_GROUP - 1) / PROA_QUANT_GROUP;
}

/* Row number of x that slot i reads, and of y that it writes. */
static int64_t x_row(const proa_product *p, int64_t slot)
{
    if (p->x_index != NULL)
        return p->x_index[slot];
    return p->offsets != NULL ? slot : slot % p->rows_each;
}

static int64_t y_row(const proa_product *p, int64_t slot)
{
    return p->offsets != NULL ? slot : slot % p->rows_each;
}

/* --- packing x --- */

static void pack_slots(void *context, int task, int thread)
{
    (void)thread;
    const round_plan *run = context;
    const proa_product *p = run->p;
    int64_t first = (int64_t)task * SLOTS_PER_PACK,
            last = proa_min_i64(first + SLOTS_PER_PACK, run->slot_count);
    for (int64_t i = first; i < last; i++) {
        int64_t slot = run->slot_first + i, row = x_row(p, slot);
        char *to = run->x + (size_t)i * run->x_stride;
        if (p->q != NULL)
            run->form->pack_x(to, p->q + row * p->k, p->k);
        else
            run->form->pack_x(
                to, p->x + row * p->x_row_stride + segment_of_slot(p, slot) * p->x_segment_stride, p->k);
    }
}

/* --- one task --- */

typedef struct task_view {
    const proa_weight *w;
    const char *w_data; /* of the first column */
    size_t w_row_bytes;
    int64_t column;
    int64_t slot; /* first row */
    int32_t scale_blocks;
    int32_t scale_block[COLUMNS_PER_TASK];
    char *packed;  /* panel of weights */
    float *scales; /* [scale_blocks][rows][groups] */
} task_view;

/* Multiplies the scales of the rows and of the weights' blocks for groups first .. first + panel->groups - 1. */
static void make_scales(const round_plan *run, const task_view *t, const proa_panel *panel, int64_t first)
{
    const proa_product *p = run->p;
    int64_t groups = group_count(p);
    float *to = t->scales;
    for (int64_t block = 0; block < t->scale_blocks; block++) {
        const float *w_scale = t->w->scale + (t->column / t->w->block_n + block) * groups + first;
        for (int64_t r = 0; r < panel->rows; r++) {
            const float *x_scale = p->s + x_row(p, t->slot + r) * groups + first;
            for (int32_t g = 0; g < panel->groups; g++)
                *to++ = x_scale[g] * w_scale[g];
        }
    }
}

/* Multiplies packed float32 weights first .. first + count - 1 of a row by their blocks' scales. */
static void scale_weights(const proa_weight *w, int64_t row, int64_t first, int64_t count, float *packed)
{
    const float *scale = w->scale + row / w->block_n * ((w->k + w->block_k - 1) / w->block_k);
    for (int64_t i = 0; i < count;) {
        int64_t block = (first + i) / w->block_k, end = proa_min_i64(count, (block + 1) * w->block_k - first);
        float by = scale[block];
        PROA_VECTORISED
        for (int64_t j = i; j < end; j++)
            packed[j] *= by;
        i = end;
    }
}

static void pack_weights(const round_plan *run, const task_view *t, proa_panel *panel, int64_t first,
                         int64_t count)
{
    bool dequantise = t->w->dtype == PROA_DTYPE_E4M3 && !run->form->grouped;
    size_t offset = (size_t)first * proa_dtype_bytes(t->w->dtype);
    panel->w = t->packed;
    panel->w_stride = K_BLOCK * run->form->element_bytes + LINE;
    for (int32_t c = 0; c < panel->columns; c++) {
        char *to = t->packed + (size_t)c * panel->w_stride;
        run->form->pack_w(to, t->w_data + (size_t)c * t->w_row_bytes + offset, (int32_t)count);
        if (dequantise)
            scale_weights(t->w, t->column + c, first, count, (float *)(void *)to);
    }
}

/* The weights that are packed next: the block of k from `first` on, or this thread's likely next task, which is
 * as many columns further as there are threads. */
static void look_ahead(const round_plan *run, const task_view *t, proa_panel *panel, int64_t first)
{
    int64_t column = 0, k = run->p->k;
    if (first >= k) {
        first = 0;
        column = (int64_t)run->columns_per_task * run->thread_count;
    }
    size_t element_bytes = proa_dtype_bytes(t->w->dtype);
    bool within = t->column + column + panel->columns <= run->p->n;
    panel->ahead =
        within ? t->w_data + (size_t)column * t->w_row_bytes + (size_t)first * element_bytes : NULL;
    panel->ahead_stride = t->w_row_bytes;
    panel->ahead_lines = (int32_t)((size_t)proa_min_i64(K_BLOCK, k - first) * element_bytes / LINE);
}

/* Many rows: block after block of k, weights packed. */
static void multiply_packed(const round_plan *run, const task_view *t, proa_panel *panel)
{
    const proa_product *p = run->p;
    const char *x = panel->x;
    for (int64_t first = 0; first < p->k; first += K_BLOCK) {
        int64_t count = proa_min_i64(K_BLOCK, p->k - first);
        panel->x = x + (size_t)first * run->form->element_bytes;
        panel->chunks = (int32_t)((count + PROA_FORM_CHUNK - 1) / PROA_FORM_CHUNK);
        panel->first = first == 0;
        panel->last = first + count == p->k;
        pack_weights(run, t, panel, first, count);
        if (run->form->grouped) {
            panel->groups = (int32_t)((count + PROA_QUANT_GROUP - 1) / PROA_QUANT_GROUP);
            make_scales(run, t, panel, first / PROA_QUANT_GROUP);
        }
        look_ahead(run, t, panel, first + K_BLOCK);
        run->form->multiply(panel);
    }
}

/* Few rows: all of k at once, a tile's columns after another, so that a tile's weights are read from memory once. */
static void multiply_stored(const round_plan *run, const task_view *t, proa_panel *panel)
{
    int32_t columns = panel->columns, tile = run->form->tile_columns;
    float *y = panel->y;
    panel->chunks = run->p->k / PROA_FORM_CHUNK;
    panel->first = panel->last = true;
    panel->w_stride = t->w_row_bytes;
    if (run->form->grouped) {
        panel->groups = (int32_t)group_count(run->p);
        make_scales(run, t, panel, 0);
    }
    for (int32_t c = 0; c < columns; c += tile) {
        panel->w = t->w_data + (size_t)c * t->w_row_bytes;
        panel->columns = (int32_t)proa_min_i64(tile, columns - c);
        panel->scale_block = t->scale_block + c;
        panel->y = y + c;
        run->form->multiply_stored(panel);
    }
}

static bool fits_stored(const round_plan *run, const task_view *t, const proa_panel *panel)
{
    return run->form->multiply_stored != NULL && panel->rows <= run->form->stored_rows_max &&
           run->p->k % PROA_FORM_CHUNK == 0 && t->scale_blocks * panel->rows * group_count(run->p) <= SCALES;
}

static void place_task(const round_plan *run, int task, int thread, task_view *t, proa_panel *panel)
{
    const proa_product *p = run->p;
    int32_t segment = 0, high = p->segments - 1;
    while (segment < high) { /* the last segment whose first task is at or before this one */
        int32_t middle = segment + (high - segment + 1) / 2;
        if (run->task_first[middle] <= task)
            segment = middle;
        else
            high = middle - 1;
    }
    int64_t slot_first, slot_last;
    segment_slots(run, segment, &slot_first, &slot_last);
    int64_t row_tasks = row_tasks_of(run, segment);
    int64_t rows_each = round_up((slot_last - slot_first + row_tasks - 1) / row_tasks, 4);
    int64_t number = task - run->task_first[segment];
    t->slot = slot_first + number % row_tasks * rows_each;
    t->column = number / row_tasks * run->columns_per_task;
    panel->rows = (int32_t)proa_min_i64(rows_each, slot_last - t->slot);
    panel->columns = (int32_t)proa_min_i64(run->columns_per_task, p->n - t->column);
    panel->x = run->x + (size_t)(t->slot - run->slot_first) * run->x_stride;
    panel->y = p->y + y_row(p, t->slot) * p->y_row_stride + segment * p->y_segment_stride + t->column;
    t->w = p->w_segment_bytes != 0 ? p->weights : &p->weights[segment];
    t->w_row_bytes = (size_t)p->k * proa_dtype_bytes(p->w_dtype);
    t->w_data =
        (const char *)t->w->data + (size_t)segment * p->w_segment_bytes + (size_t)t->column * t->w_row_bytes;
    char *scratch = run->threads + (size_t)thread * run->thread_bytes;
    panel->sums = (float *)(void *)scratch;
    t->scales = panel->sums + ROWS_PER_TASK * COLUMNS_PER_TASK * PROA_FORM_LANES_MAX;
    t->packed = (char *)(t->scales + SCALES);
}

static void run_task(void *context, int task, int thread)
{
    const round_plan *run = context;
    task_view t = {0};
    proa_panel panel = {
        .x_stride = run->x_stride,
        .y_stride = run->p->y_row_stride,
        .round_bf16 = run->p->round_bf16,
    };
    place_task(run, task, thread, &t, &panel);
    PROA_ASSERT(t.w->n == run->p->n);
    PROA_ASSERT(t.w->k == run->p->k);
    PROA_ASSERT(t.w->dtype == run->p->w_dtype);
    panel.scales = t.scales;
    panel.scale_block = t.scale_block;
    if (run->form->grouped) {
        PROA_ASSERT(t.w->block_k == PROA_QUANT_GROUP);
        for (int32_t c = 0; c < panel.columns; c++)
            t.scale_block[c] = (int32_t)((t.column + c) / t.w->block_n - t.column / t.w->block_n);
        t.scale_blocks = t.scale_block[panel.columns - 1] + 1;
    }
    if (fits_stored(run, &t, &panel)) {
        multiply_stored(run, &t, &panel);
    } else {
        multiply_packed(run, &t, &panel);
    }
}

/* --- the whole --- */

/* Cuts this round into tasks and numbers them; returns how many. */
static int32_t number_tasks(round_plan *run)
{
    const proa_product *p = run->p;
    int64_t row_tasks = 0, count = 0, tile = run->form->tile_columns;
    for (int32_t e = 0; e < p->segments; e++)
        row_tasks += row_tasks_of(run, e);
    int64_t wanted = p->n * row_tasks / ((int64_t)run->thread_count * TASKS_PER_THREAD) / tile * tile;
    run->columns_per_task = (int32_t)(wanted < tile ? tile : proa_min_i64(wanted, COLUMNS_PER_TASK));
    int64_t column_tasks = (p->n + run->columns_per_task - 1) / run->columns_per_task;
    for (int32_t e = 0; e < p->segments; e++) {
        run->task_first[e] = (int32_t)count;
        count += row_tasks_of(run, e) * column_tasks;
    }
    run->task_first[p->segments] = (int32_t)count;
    return (int32_t)count;
}

static size_t x_stride_bytes(int32_t k, size_t element_bytes)
{
    return (size_t)round_up(k, PROA_FORM_CHUNK) * element_bytes +
           LINE; /* a line off: rows share no cache sets */
}

static int64_t slots_per_round(int32_t k)
{
    int64_t slots = ELEMENTS_PER_ROUND / round_up(k, PROA_FORM_CHUNK);
    return slots > SLOTS_PER_ROUND ? slots : SLOTS_PER_ROUND;
}

static size_t thread_scratch_bytes(size_t element_bytes)
{
    size_t sums = ROWS_PER_TASK * COLUMNS_PER_TASK * PROA_FORM_LANES_MAX;
    return (sums + SCALES) * sizeof(float) + COLUMNS_PER_TASK * (K_BLOCK * element_bytes + LINE);
}

void proa_product_run(const proa_host *host, const proa_product *p)
{
    int64_t slots = segment_begin(p, p->segments), step = slots_per_round(p->k);
    if (slots == 0 || p->n == 0)
        return;
    PROA_ASSERT(p->k > 0);
    PROA_ASSERT(host->isa <= proa_cpu_isa());
    PROA_ASSERT(proa_product_scratch_bytes(host, slots, p->segments, p->n, p->k) <= host->scratch_bytes);
    round_plan run = {.p = p, .thread_count = proa_pool_threads(host->pool)};
    run.form = choose_form(host->isa, p->w_dtype, p->q != NULL, host->precision == PROA_PRECISION_DEFAULT);
    run.x_stride = x_stride_bytes(p->k, run.form->element_bytes);
    run.task_first = host->scratch;
    run.x = (char *)host->scratch + round_up(((int64_t)p->segments + 1) * (int64_t)sizeof(int32_t), LINE);
    run.threads = run.x + (size_t)proa_min_i64(slots, step) * run.x_stride;
    run.thread_bytes = thread_scratch_bytes(run.form->element_bytes);
    for (; run.slot_first < slots; run.slot_first += step) {
        run.slot_count = proa_min_i64(step, slots - run.slot_first);
        bool alone = run.slot_count * p->k <= PACK_ALONE;
        int pack_tasks = (int)((run.slot_count + SLOTS_PER_PACK - 1) / SLOTS_PER_PACK);
        proa_pool_run(alone ? NULL : host->pool, pack_slots, &run, pack_tasks);
        proa_pool_run(host->pool, run_task, &run, number_tasks(&run));
    }
}

size_t proa_product_scratch_bytes(const proa_host *host, int64_t slots, int32_t segments, int32_t n,
                                  int32_t k)
{
    (void)n;
    size_t tasks = (size_t)round_up(((int64_t)segments + 1) * (int64_t)sizeof(int32_t), LINE);
    size_t x = (size_t)proa_min_i64(slots, slots_per_round(k)) * x_stride_bytes(k, sizeof(float));
    return tasks + x + (size_t)proa_pool_threads(host->pool) * thread_scratch_bytes(sizeof(float));
}
