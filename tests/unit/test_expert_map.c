/* test_expert_map.c - the choice of copies: near ones, even ones, living ones. */
#include "base/random.h"
#include "engine/expert_map.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* 256 experts and 32 redundant on 32 ranks of 4 nodes, placed by a skewed load. */
static const proa_expert_shape wide = {2, 256, 288, 32, 4, 8};

static void place(const proa_expert_shape *shape, const bool *live, int32_t *map)
{
    double load[2 * 256];
    const proa_eplb_placement out = {map, NULL, NULL};
    for (int i = 0; i < shape->layers * shape->experts; i++)
        load[i] = 100000.0 / (1 + i * 37 % 256);
    assert_int_equal(proa_eplb_place(shape, PROA_EPLB_DEEPSEEK, live, load, &out, NULL), PROA_OK);
}

static proa_expert_map *make(const proa_expert_shape *shape, int32_t source, const int32_t *placement)
{
    proa_expert_map *map = proa_expert_map_create(shape, source);
    assert_non_null(map);
    for (int32_t l = 0; l < shape->layers; l++)
        assert_int_equal(proa_expert_map_set_layer(map, l, placement + (ptrdiff_t)l * shape->physical, NULL),
                         PROA_OK);
    return map;
}

static void copies_are_those_of_the_placement(void **state)
{
    (void)state;
    int32_t placement[2 * 288];
    place(&wide, NULL, placement);
    proa_expert_map *map = make(&wide, 5, placement);
    for (int32_t l = 0; l < wide.layers; l++) {
        int32_t sum = 0;
        for (int32_t e = 0; e < wide.experts; e++) {
            proa_expert_copies c = proa_expert_map_copies(map, l, e);
            assert_true(c.count >= 1);
            sum += c.count;
            for (int32_t i = 0; i < c.count; i++) {
                assert_int_equal(placement[l * 288 + c.slots[i]], e);
                assert_true(i == 0 || c.slots[i] > c.slots[i - 1]);
            }
        }
        assert_int_equal(sum, wide.physical);
    }
    proa_expert_map_free(map);
    proa_expert_map_free(NULL);
}

static int32_t node_of(const proa_expert_shape *s, int32_t slot)
{
    return proa_expert_rank(s, slot) / (s->ranks / s->nodes);
}

/* Over all sources: nobody goes farther than it must, and copies that are equally near to all get equally many. */
static void check_static(const proa_expert_shape *shape, const int32_t *placement, const bool *live,
                         int32_t slack)
{
    int32_t sources[4096] = {0};
    for (int32_t source = 0; source < shape->ranks; source++) {
        if (!live[source])
            continue;
        proa_expert_map *map = make(shape, source, placement);
        assert_int_equal(proa_expert_map_set_live(map, live, NULL), PROA_OK);
        for (int32_t e = 0; e < shape->experts; e++) {
            proa_expert_copies c = proa_expert_map_copies(map, 0, e);
            int32_t chosen = proa_expert_map_static(map, 0, e), nearest = 2, far;
            for (int32_t i = 0; i < c.count; i++) {
                assert_true(live[proa_expert_rank(shape, c.slots[i])]);
                bool own = proa_expert_rank(shape, c.slots[i]) == source;
                far = own ? 0 : node_of(shape, c.slots[i]) == source / (shape->ranks / shape->nodes) ? 1 : 2;
                nearest = far < nearest ? far : nearest;
            }
            bool own = proa_expert_rank(shape, chosen) == source;
            far = own ? 0 : node_of(shape, chosen) == source / (shape->ranks / shape->nodes) ? 1 : 2;
            assert_int_equal(far, nearest);
            assert_int_equal(placement[chosen], e);
            sources[chosen]++;
        }
        proa_expert_map_free(map);
    }
    for (int32_t e = 0; slack >= 0 && e < shape->experts; e++) {
        int32_t least = INT32_MAX, most = 0;
        for (int32_t p = 0; p < shape->physical; p++) {
            if (placement[p] != e)
                continue;
            least = sources[p] < least ? sources[p] : least;
            most = sources[p] > most ? sources[p] : most;
        }
        assert_true(most - least <= slack);
    }
}

static void static_choice_is_near_and_even(void **state)
{
    (void)state;
    int32_t placement[2 * 288];
    bool live[32];
    memset(live, true, sizeof live);
    place(&wide, NULL, placement);
    check_static(&wide, placement, live, -1);
    proa_expert_shape flat = wide; /* one node: all copies but one's own are equally near */
    flat.nodes = 1;
    flat.groups = 0;
    place(&flat, NULL, placement);
    check_static(&flat, placement, live, 1);
}

static void dead_ranks_are_not_chosen(void **state)
{
    (void)state;
    proa_expert_shape shape = {1, 64, 128, 16, 2, 0};
    int32_t placement[128];
    bool live[16];
    memset(live, true, sizeof live);
    place(&shape, live, placement);
    live[3] = live[12] = false;
    proa_error err = {0};
    proa_expert_map *map = make(&shape, 0, placement);
    if (proa_expert_map_set_live(map, live, &err) != PROA_OK) { /* then a placement without them */
        assert_non_null(strstr(err.text, "has no copy on a live rank"));
        assert_true(proa_expert_map_live(map, 3));
    }
    place(&shape, live, placement);
    check_static(&shape, placement, live, -1);
    assert_int_equal(proa_expert_map_set_layer(map, 0, placement, NULL), PROA_OK);
    assert_int_equal(proa_expert_map_set_live(map, live, NULL), PROA_OK);
    for (int32_t e = 0; e < 64; e++)
        for (uint64_t token = 0; token < 64; token++) {
            int32_t slot = proa_expert_map_dynamic(map, 0, e, token, 1);
            assert_true(live[proa_expert_rank(&shape, slot)]);
            assert_int_equal(placement[slot], e);
        }
    memset(live, false, sizeof live);
    assert_int_equal(proa_expert_map_set_live(map, live, &err), PROA_ERR_INVALID);
    assert_true(proa_expert_map_live(map, 0)); /* as it was */
    proa_expert_map_free(map);
}

static void dynamic_choice_is_even_and_repeats(void **state)
{
    (void)state;
    const proa_expert_shape shape = {3, 2, 8, 4, 1, 0};
    const int32_t placement[24] = {0, 0, 0, 1, 0, 0, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 0, 1, 0, 1, 0};
    enum { TOKENS = 40000 };
    proa_expert_map *map = make(&shape, 0, placement);
    for (int32_t layer = 0; layer < 3; layer++) {
        for (int32_t e = 0; e < 2; e++) {
            proa_expert_copies c = proa_expert_map_copies(map, layer, e);
            double want = (double)TOKENS / c.count, chi = 0;
            int32_t got[8] = {0};
            for (uint64_t token = 0; token < TOKENS; token++) {
                int32_t slot = proa_expert_map_dynamic(map, layer, e, token, e);
                assert_int_equal(slot, proa_expert_map_dynamic(map, layer, e, token, e));
                got[slot]++;
            }
            for (int32_t i = 0; i < c.count; i++)
                chi += (got[c.slots[i]] - want) * (got[c.slots[i]] - want) / want;
            assert_true(chi < 28); /* 6 degrees of freedom at most: one in ten thousand */
        }
    }
    proa_expert_map_free(map);
}

static void bad_placements_are_named(void **state)
{
    (void)state;
    const proa_expert_shape shape = {1, 3, 4, 2, 1, 0};
    const int32_t missing[4] = {0, 1, 0, PROA_EXPERT_NONE}, over[4] = {0, 1, 2, 3};
    proa_expert_map *map = proa_expert_map_create(&shape, 1);
    proa_error err = {0};
    assert_int_equal(proa_expert_map_set_layer(map, 0, missing, &err), PROA_ERR_INVALID);
    assert_non_null(strstr(err.text, "layer 0: expert 2 has no copy on a live rank"));
    assert_int_equal(proa_expert_map_set_layer(map, 0, over, &err), PROA_ERR_INVALID);
    assert_non_null(strstr(err.text, "layer 0, slot 3: expert 3 of 3"));
    assert_int_equal(proa_expert_map_layer(map, 0)[3], 0); /* trivial as before */
    proa_expert_map_free(map);
}

static void fake_choices_are_balanced(void **state)
{
    (void)state;
    static const int32_t sizes[][2] = {{256, 8}, {32, 4}, {384, 8},   {7, 7},
                                       {1, 1},   {2, 1},  {1024, 16}, {12, 5}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        int32_t experts = sizes[i][0], top_k = sizes[i][1];
        for (int32_t rows = 1; rows < 400; rows += 37) {
            int32_t ids[400 * 16], split[400 * 16], count[1024] = {0}, least = INT32_MAX, most = 0;
            proa_expert_fake(3, 1000000007, rows, top_k, experts, ids);
            for (int32_t r = 0; r < rows; r++) {
                proa_expert_fake(3, 1000000007 + (uint64_t)r, 1, top_k, experts, split + r * top_k);
                for (int32_t a = 0; a < top_k; a++) {
                    assert_in_range(ids[r * top_k + a], 0, experts - 1);
                    count[ids[r * top_k + a]]++;
                    for (int32_t b = 0; b < a; b++)
                        assert_int_not_equal(ids[r * top_k + a], ids[r * top_k + b]);
                }
            }
            assert_memory_equal(ids, split, (size_t)rows * (size_t)top_k * sizeof *ids);
            for (int32_t e = 0; e < experts; e++) {
                least = count[e] < least ? count[e] : least;
                most = count[e] > most ? count[e] : most;
            }
            assert_true(most - least <= 1);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(copies_are_those_of_the_placement),
        cmocka_unit_test(static_choice_is_near_and_even),
        cmocka_unit_test(dead_ranks_are_not_chosen),
        cmocka_unit_test(dynamic_choice_is_even_and_repeats),
        cmocka_unit_test(bad_placements_are_named),
        cmocka_unit_test(fake_choices_are_balanced),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
