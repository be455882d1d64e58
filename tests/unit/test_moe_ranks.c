/* test_moe_ranks.c - law 2 over ranks, bit for bit: experts spread over ranks give each token the logits that one rank with all of
 * them gives. Ranks are threads, on dummy weights of a small configuration; transports, widths, placements, windows and precisions
 * vary, and some ranks have no rows; steps run whole or in two halves; ranks have all heads of attention, or share them in teams. */
#include "patience.h"
#include "small_model.h"

#include "model/forward.h"
#include "model/overlap.h"
#include "net/swap.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum {
    VOCAB = SMALL_MODEL_VOCAB,
    EXPERTS = 32,
    TOP_K = 4,
    HEADS = 8,
    LAYERS = 4,
    RANKS_MAX = 32,
    SEQUENCES = 2 * RANKS_MAX,
    STEPS = 7,
    CHUNK = 24,
    CHUNKS = 2,
    BLOCKS = 2,
    DEADLINE_US = 20000000 /* of waits for other ranks */
};

/* ---- a model, once for all ranks ---- */

typedef struct model {
    proa_model_config config;
    proa_precision precision;
    proa_checkpoint *checkpoint;
    proa_device *device;
    proa_forward *forward; /* with all experts in one place */
    float *expected;       /* [SEQUENCES][STEPS][VOCAB], what it computes of each sequence that is known */
    bool known[SEQUENCES];
} model;

/* How a run is set up. */
typedef struct setup {
    int32_t ranks, redundant;
    int32_t window; /* rows */
    bool dynamic;
    bool overlap;
    double threshold; /* of the halves */
    bool pairs;       /* of sequences at each rank */
    int32_t team;     /* ranks that share heads, and sequences; 0: 1 */
    bool ucx;
} setup;

typedef struct group group;

typedef struct rank {
    group *g;
    int32_t number;
    proa_device *device;
    proa_a2a *a2a;
    proa_swap *swap;
    proa_forward *forward;
    pthread_t thread;
    bool good;
    char complaint[1200];
} rank;

struct group {
    const model *m;
    setup s;
    int32_t local;
    int32_t logical[EXPERTS * 2]; /* of a physical expert */
    pthread_barrier_t barrier;
    rank ranks[RANKS_MAX];
};

static int32_t token_at(int32_t sequence, int32_t position)
{
    return (position * 31 + sequence * 17 + position * position % 13) % VOCAB;
}

/* Rows of a rank in a step: two chunks of a prompt, whose lengths differ, then one token at a time. Every third rank of many is idle, and
 * rank 1 begins late. */
static int32_t rows_of(int32_t sequence, int32_t step)
{
    if (sequence % 3 == 2 || (sequence == 1 && step < 2))
        return 0;
    return step < CHUNKS ? 3 + (sequence * 5 + step * 3) % (CHUNK - 3) : 1;
}

/* A segment of a step: what a sequence does in its own step of that number. */
typedef struct part {
    int32_t sequence, step;
} part;

/* What a rank does: its sequence and, in pairs, another one that is a step behind. */
static int32_t parts_of(const setup *s, int32_t number, int32_t step, part parts[2])
{
    int32_t count = 0;
    if (rows_of(number, step) > 0)
        parts[count++] = (part){number, step};
    if (s->pairs && step > 0 && rows_of(number + RANKS_MAX, step - 1) > 0)
        parts[count++] = (part){number + RANKS_MAX, step - 1};
    return count;
}

/* One step; windows 0: alone. logits [count, VOCAB]. */
static proa_status run_step(proa_forward *forward, const part *parts, int32_t count, int32_t windows,
                            float *logits, proa_error *err)
{
    static const int32_t blocks[2][BLOCKS] = {{0, 1}, {2, 3}};
    int32_t ids[2 * CHUNK], last[2], rows = 0;
    proa_segment segments[2];
    for (int32_t k = 0; k < count; k++) {
        int32_t sequence = parts[k].sequence, position = 0, own = rows_of(sequence, parts[k].step);
        for (int32_t i = 0; i < parts[k].step; i++)
            position += rows_of(sequence, i);
        segments[k] = (proa_segment){.row_first = rows,
                                     .row_count = own,
                                     .position_first = position,
                                     .blocks = blocks[sequence >= RANKS_MAX],
                                     .absorbed = parts[k].step >= CHUNKS};
        for (int32_t i = 0; i < own; i++)
            ids[rows++] = token_at(sequence, position + i);
        last[k] = rows - 1;
    }
    const proa_step args = {.row_count = rows,
                            .token_ids = ids,
                            .segments = segments,
                            .segment_count = count,
                            .logit_rows = last,
                            .logit_count = count,
                            .windows = windows};
    float *got = NULL;
    if (count == 0 && windows == 0)
        return PROA_OK;
    proa_status status = proa_forward_step(forward, &args, &got, err);
    if (status == PROA_OK && count > 0)
        memcpy(logits, got, (size_t)count * VOCAB * sizeof *got);
    return status;
}

static const proa_forward_limits limits = {
    .rows_max = 2 * CHUNK, .logit_rows_max = 2, .positions_max = 128, .kv_blocks = 2 * BLOCKS};

static float *expected_of(const model *m, int32_t sequence, int32_t step)
{
    return m->expected + (sequence * STEPS + step) * VOCAB;
}

static void model_open(model *m, proa_precision precision, bool fp8, int shared)
{
    proa_error err = {0};
    const small_model small = {
        .layers = LAYERS, .experts = EXPERTS, .top_k = TOP_K, .shared = shared, .fp8 = fp8, .heads = HEADS};
    *m = (model){.precision = precision};
    if (small_model_config(&small, &m->config, &err) != PROA_OK)
        fail_msg("%s", err.text);
    assert_int_equal(
        proa_checkpoint_load("test", PROA_LOAD_DUMMY, &m->config, precision, NULL, &m->checkpoint, &err),
        PROA_OK);
    assert_int_equal(proa_device_create("cpu", 1, precision, &m->device, &err), PROA_OK);
    assert_int_equal(proa_forward_create(&m->config, proa_checkpoint_weights(m->checkpoint), m->device,
                                         &limits, &m->forward, &err),
                     PROA_OK);
    m->expected = calloc((size_t)SEQUENCES * STEPS * VOCAB, sizeof *m->expected);
}

static void model_know(model *m, int32_t sequence)
{
    proa_error err = {0};
    for (int32_t step = 0; step < STEPS && !m->known[sequence]; step++) {
        if (run_step(m->forward, &(part){sequence, step}, rows_of(sequence, step) > 0, 0,
                     expected_of(m, sequence, step), &err) != PROA_OK)
            fail_msg("%s", err.text);
    }
    m->known[sequence] = true;
}

static void model_close(model *m)
{
    free(m->expected);
    proa_forward_free(m->forward);
    proa_device_free(m->device);
    proa_checkpoint_free(m->checkpoint);
}

/* ---- ranks ---- */

/* Static: the replica whose turn it is by the home's number. Dynamic: another one for each row and slot. */
static void place(void *context, int32_t layer, int32_t first_row, int32_t rows, const int32_t *ids,
                  int32_t *physical)
{
    const rank *r = context;
    const group *g = r->g;
    for (int32_t i = 0; i < rows * TOP_K; i++) {
        int32_t found[EXPERTS * 2], count = 0;
        for (int32_t p = 0; p < EXPERTS + g->s.redundant; p++) {
            if (g->logical[p] == ids[i])
                found[count++] = p;
        }
        int32_t turn = g->s.dynamic ? (first_row * TOP_K + i) * 7 + layer * 3 + r->number : r->number;
        physical[i] = found[turn % count];
    }
}

static bool fail_rank(rank *r, const char *text)
{
    snprintf(r->complaint, sizeof r->complaint, "%s", text);
    return r->good = false;
}

static int32_t team_of(const rank *r)
{
    return r->g->s.team > 1 ? r->number / r->g->s.team : r->number;
}

static int32_t member_of(const rank *r)
{
    return r->g->s.team > 1 ? r->number % r->g->s.team : 0;
}

static void open_rank(rank *r, proa_post_hub *hub)
{
    group *g = r->g;
    proa_error err = {0};
    bool fp8 = g->m->config.fp8 && g->m->precision == PROA_PRECISION_DEFAULT;
    const proa_a2a_options options = {
        .ranks = g->s.ranks,
        .rank = r->number,
        .local_experts = g->local,
        .hidden = g->m->config.hidden_size,
        .top_k = TOP_K,
        .rows_max = g->s.window,
        .lanes = g->s.overlap ? 2 : 1,
        .format = fp8                                       ? PROA_EXCHANGE_FP8
                  : g->m->precision == PROA_PRECISION_EXACT ? PROA_EXCHANGE_F32
                                                            : PROA_EXCHANGE_BF16,
        .precision = g->m->precision,
        .deadline_us = (int64_t)DEADLINE_US * test_patience(),
    };
    assert_int_equal(proa_device_create("cpu", 1, g->m->precision, &r->device, &err), PROA_OK);
    if (proa_a2a_create(&options, hub, &r->a2a, &err) != PROA_OK)
        fail_msg("%s", err.text);
    proa_exchange exchange = proa_a2a_exchange(r->a2a);
    proa_team team;
    proa_forward_limits with = limits;
    with.exchange = &exchange;
    with.overlap_threshold = g->s.threshold;
    if (g->s.team > 1) {
        proa_swap_options swap = {.first = r->number - member_of(r),
                                  .size = g->s.team,
                                  .rank = r->number,
                                  .deadline_us = (int64_t)DEADLINE_US * test_patience()};
        if (proa_forward_team_bytes(&g->m->config, g->m->precision, &limits, g->s.team, &swap.bytes, &err) !=
                PROA_OK ||
            proa_swap_create(&swap, r->a2a, &r->swap, &err) != PROA_OK)
            fail_msg("%s", err.text);
        team = proa_swap_team(r->swap);
        with.team = &team;
    }
    assert_int_equal(proa_forward_create(&g->m->config, proa_checkpoint_weights(g->m->checkpoint), r->device,
                                         &with, &r->forward, &err),
                     PROA_OK);
    for (int32_t layer = 1; layer < LAYERS; layer++)
        proa_forward_set_experts(r->forward, layer, g->logical + r->number * g->local);
    proa_forward_set_place(r->forward, place, r);
}

static void close_rank(rank *r)
{
    proa_forward_free(r->forward);
    proa_swap_free(r->swap);
    proa_a2a_free(r->a2a);
    proa_device_free(r->device);
}

static int32_t windows_of(const group *g, int32_t step)
{
    int32_t windows = 0;
    for (int32_t i = 0; i < g->s.ranks; i++) {
        part parts[2];
        int32_t count = parts_of(&g->s, team_of(&g->ranks[i]), step, parts), rows = 0;
        for (int32_t k = 0; k < count; k++)
            rows += rows_of(parts[k].sequence, parts[k].step);
        int32_t own = proa_forward_windows(g->ranks[0].forward, rows);
        windows = own > windows ? own : windows;
    }
    return windows;
}

static void *run_rank(void *context)
{
    rank *r = context;
    group *g = r->g;
    bool live[RANKS_MAX];
    float logits[2 * VOCAB];
    proa_error err = {0};
    for (int32_t i = 0; i < g->s.ranks; i++) {
        size_t bytes;
        live[i] = true;
        if (i == r->number)
            continue;
        const void *address = proa_post_address(proa_a2a_post(g->ranks[i].a2a), &bytes);
        if (proa_post_connect(proa_a2a_post(r->a2a), i, address, bytes, &err) != PROA_OK)
            fail_rank(r, err.text);
    }
    if (proa_a2a_begin(r->a2a, 77, live, &err) != PROA_OK)
        fail_rank(r, err.text);
    if (r->swap != NULL)
        proa_swap_begin(r->swap, 77);
    pthread_barrier_wait(&g->barrier); /* all have begun */
    for (int32_t step = 0; step < STEPS && r->good; step++) {
        part parts[2];
        int32_t count = parts_of(&g->s, team_of(r), step, parts);
        if (run_step(r->forward, parts, count, windows_of(g, step), logits, &err) != PROA_OK)
            fail_rank(r, err.text);
        for (int32_t i = 0; i < count && r->good && member_of(r) == 0; i++) {
            if (memcmp(logits + i * VOCAB, expected_of(g->m, parts[i].sequence, parts[i].step),
                       VOCAB * sizeof *logits) != 0)
                fail_rank(r, "logits differ from those of one rank");
        }
    }
    pthread_barrier_wait(&g->barrier); /* nobody is needed any more */
    return NULL;
}

static void check_setup(model *m, const setup *s)
{
    static group g;
    proa_post_hub *hub = s->ucx ? NULL : proa_post_hub_create(s->ranks);
    g = (group){.m = m, .s = *s, .local = (EXPERTS + s->redundant) / s->ranks};
    for (int32_t p = 0; p < EXPERTS + s->redundant; p++)
        g.logical[p] = (p * 5 + p / EXPERTS * 3) % EXPERTS;
    pthread_barrier_init(&g.barrier, NULL, (unsigned)s->ranks);
    for (int32_t i = 0; i < s->ranks; i++) {
        g.ranks[i] = (rank){.g = &g, .number = i, .good = true};
        open_rank(&g.ranks[i], hub);
        model_know(m, team_of(&g.ranks[i]));
        if (s->pairs)
            model_know(m, team_of(&g.ranks[i]) + RANKS_MAX);
    }
    for (int32_t i = 0; i < s->ranks; i++)
        assert_int_equal(pthread_create(&g.ranks[i].thread, NULL, run_rank, &g.ranks[i]), 0);
    for (int32_t i = 0; i < s->ranks; i++)
        pthread_join(g.ranks[i].thread, NULL);
    for (int32_t i = 0; i < s->ranks; i++)
        close_rank(&g.ranks[i]);
    pthread_barrier_destroy(&g.barrier);
    proa_post_hub_free(hub);
    for (int32_t i = 0; i < s->ranks; i++) {
        if (!g.ranks[i].good)
            fail_msg("%d ranks, %d redundant, windows of %d, %s, %s (%g), teams of %d, %s: rank %d: %s",
                     s->ranks, s->redundant, s->window, s->dynamic ? "dynamic" : "static",
                     s->overlap ? "halves" : "whole", s->threshold, s->team, s->ucx ? "ucx" : "local", i,
                     g.ranks[i].complaint);
    }
}

/* ---- tests ---- */

static const setup setups[] = {
    {1, 0, 8, false},
    {2, 0, 32, false},
    {2, 4, 5, true},
    {4, 0, 8, false},
    {4, 8, 8, true},
    {8, 0, 8, false},
    {8, 8, 3, true},
    {32, 0, 8, false},
    {32, 32, 16, true},
    {4, 0, 8, true, .pairs = true},
    /* in halves, of which windows hold all or a part */
    {1, 0, 8, false, .overlap = true, .threshold = 0.48},
    {2, 0, 12, false, .overlap = true, .threshold = 0.48},
    {2, 0, 24, false, .overlap = true, .threshold = 0},
    {2, 4, 5, true, .overlap = true, .threshold = 0.5},
    {2, 0, 9, false, .overlap = true, .threshold = 0, .pairs = true},
    {4, 0, 8, false, .overlap = true, .threshold = 0},
    {4, 8, 13, true, .overlap = true, .threshold = 0.48},
    {4, 0, 7, true, .overlap = true, .threshold = 0.48, .pairs = true},
    {8, 0, 8, false, .overlap = true, .threshold = 0.3},
    {8, 8, 3, true, .overlap = true, .threshold = 0.48},
    {8, 0, 16, false, .overlap = true, .threshold = 0.2, .pairs = true},
    /* teams share heads: (tp, dp) = (2, 1), (4, 2), (4, 1), (8, 2), (8, 4), (8, 1) */
    {2, 0, 24, false, .team = 2},
    {2, 4, 5, true, .team = 2, .pairs = true},
    {4, 0, 8, false, .team = 2},
    {4, 8, 5, true, .team = 2, .pairs = true},
    {4, 0, 8, false, .team = 4, .pairs = true},
    {8, 0, 7, false, .team = 4, .pairs = true},
    {8, 8, 3, true, .team = 2, .pairs = true},
    {8, 0, 8, false, .team = 8, .pairs = true},
};

/* Under an emulator each precision takes others of the setups, and UCX a few. */
static bool is_turn(size_t row, proa_precision precision, bool fp8, bool ucx)
{
    if (!test_is_emulated())
        return true;
    size_t turn = precision == PROA_PRECISION_EXACT ? 4 : fp8 ? 0 : 2;
    return ucx ? row % 12 == 3 : row % 6 == turn;
}

static void check_all(proa_precision precision, bool fp8, int shared, bool ucx)
{
    model m;
    int checked = 0;
    model_open(&m, precision, fp8, shared);
    for (size_t i = 0; i < sizeof setups / sizeof setups[0]; i++) {
        setup s = setups[i];
        s.ucx = ucx;
        if ((ucx && s.ranks > 8) || !is_turn(i, precision, fp8, ucx))
            continue;
        check_setup(&m, &s);
        checked++;
    }
    print_message("%d of %zu setups\n", checked, sizeof setups / sizeof setups[0]);
    model_close(&m);
}

static void fp8_recipe(void **state)
{
    (void)state;
    check_all(PROA_PRECISION_DEFAULT, true, 1, false);
}

static void bf16(void **state)
{
    (void)state;
    check_all(PROA_PRECISION_DEFAULT, false, 0, false);
}

static void exact(void **state)
{
    (void)state;
    check_all(PROA_PRECISION_EXACT, true, 1, false);
}

static void over_ucx(void **state)
{
    (void)state;
    check_all(PROA_PRECISION_DEFAULT, true, 1, true);
}

/* Lengths of segments, the threshold, what the first half must get. */
static void cuts(void **state)
{
    static const struct {
        int32_t lengths[5];
        double threshold;
        int32_t first;
    } cases[] = {
        {{0}, 0.48, 0},
        {{1}, 0.48, 1},
        {{2}, 0.48, 1},
        {{2}, 0, 2},
        {{9}, 0.48, 5},
        {{9}, 0, 9},
        {{1, 1, 1}, 0.48, 2},
        {{1, 1, 1}, 0, 1},
        {{1, 1, 1, 1}, 0.5, 2},
        {{48, 52}, 0.48, 48},
        {{47, 53}, 0.48, 50},
        {{47, 53}, 0.47, 47},
        {{10, 30, 20}, 0.1, 40},
        {{10, 30, 20}, 0.4, 30},
        {{90, 1, 1, 1}, 0, 90},
        {{90, 1, 1, 1}, 0.03, 90},
        {{90, 1, 1, 1}, 0.04, 47},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        proa_segment segments[5];
        proa_step step = {.segments = segments};
        for (int32_t k = 0; k < 5 && cases[i].lengths[k] > 0; k++) {
            segments[k] = (proa_segment){.row_first = step.row_count, .row_count = cases[i].lengths[k]};
            step.row_count += cases[i].lengths[k];
            step.segment_count++;
        }
        int32_t first = proa_overlap_cut(&step, cases[i].threshold), second = step.row_count - first;
        if (first != cases[i].first)
            fail_msg("case %zu: the first half has %d rows, not %d", i, first, cases[i].first);
        int32_t most = proa_overlap_half_rows(step.row_count, cases[i].threshold);
        assert_true(first <= most);
        assert_true(second <= most);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cuts),  cmocka_unit_test(fp8_recipe), cmocka_unit_test(bf16),
        cmocka_unit_test(exact), cmocka_unit_test(over_ucx),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
