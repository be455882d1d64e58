/* test_expert_location.c - texts about experts: what is read, and what is said of those that are not. */
#include "engine/expert_load.h"
#include "engine/expert_location.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* Three layers, the first dense; four experts and two redundant on two ranks. */
static const proa_expert_shape shape = {3, 4, 6, 2, 1, 0};
static const bool moe[3] = {false, true, true};

static proa_status read(const char *text, proa_expert_location *location, proa_error *err)
{
    proa_status status = proa_expert_location_open(text, location, err);
    return status == PROA_OK ? proa_expert_location_fit(location, &shape, moe, err) : status;
}

static void placements_are_read_in_both_forms(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "{\"physical_to_logical_map\": [[9,9,9,9,9,9],[3,2,1,0,3,3],[0,1,2,3,1,2]]}",
        " {\"x\": 1, \"physical_to_logical_map\": [[3,2,1,0,3,3],[0,1,2,3,1,2]], \"logical_count\": 5}",
    };
    const int32_t want[18] = {0, 1, 2, 3, 0, 1, 3, 2, 1, 0, 3, 3, 0, 1, 2, 3, 1, 2};
    for (int i = 0; i < 2; i++) {
        proa_expert_location location;
        proa_error err = {0};
        int32_t map[18];
        if (read(texts[i], &location, &err) != PROA_OK)
            fail_msg("%s", err.text);
        assert_int_equal(location.kind, PROA_EXPERT_LOCATION_MAP);
        assert_int_equal(proa_expert_location_place(&location, &shape, PROA_EPLB_AUTO, map, NULL), PROA_OK);
        assert_memory_equal(map, want, sizeof want);
        proa_expert_location_free(&location);

        proa_buf text = {0};
        proa_expert_location_write(&shape, map, &text); /* and back */
        assert_int_equal(read(proa_buf_text(&text), &location, &err), PROA_OK);
        assert_memory_equal(location.map, want, sizeof want);
        proa_expert_location_free(&location);
        proa_buf_free(&text);
    }
}

static void loads_are_read_and_placed(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "{\"logical_count\": [[0,0,0,0],[8,1,1.5,2],[1,1,1,9]]}",
        "{\"logical_count\": [[8,1,1.5,2],[1,1,1,9]]}",
        "{\"logical_count\": [[[4,0,1,1],[0,1,1,4]],[[4,1,0.5,1],[1,0,0,5]]]}",
    };
    const double want[12] = {0, 0, 0, 0, 8, 1, 1.5, 2, 1, 1, 1, 9};
    for (int i = 0; i < 3; i++) {
        proa_expert_location location;
        proa_error err = {0};
        int32_t map[18], same[18];
        if (read(texts[i], &location, &err) != PROA_OK)
            fail_msg("%s", err.text);
        assert_int_equal(location.kind, PROA_EXPERT_LOCATION_COUNT);
        assert_int_equal(location.steps, i == 2 ? 2 : 1);
        assert_memory_equal(location.load, want, sizeof want);
        const proa_eplb_placement out = {same, NULL, NULL};
        assert_int_equal(proa_expert_location_place(&location, &shape, PROA_EPLB_AUTO, map, NULL), PROA_OK);
        assert_int_equal(proa_eplb_place(&shape, PROA_EPLB_AUTO, NULL, want, &out, NULL), PROA_OK);
        assert_memory_equal(map, same, sizeof map);
        proa_expert_location_free(&location);
    }
    proa_expert_location trivial;
    int32_t map[18];
    assert_int_equal(read("trivial", &trivial, NULL), PROA_OK);
    assert_int_equal(proa_expert_location_place(&trivial, &shape, PROA_EPLB_AUTO, map, NULL), PROA_OK);
    assert_int_equal(map[6 + 5], 1);
}

static void bad_texts_are_explained(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"{", "line 1"},
        {"{\"physical_to_logical_map\": 3}", "physical_to_logical_map: integer, where an array must be"},
        {"{\"physical_to_logical_map\": []}", "physical_to_logical_map: 0 elements"},
        {"{\"physical_to_logical_map\": [3]}", "physical_to_logical_map[0]: integer, where an array must be"},
        {"{\"physical_to_logical_map\": [[0],[0,1]]}",
         "physical_to_logical_map[1]: 2 elements, where the first row has 1"},
        {"{\"physical_to_logical_map\": [[0,\"a\"]]}",
         "physical_to_logical_map[0][1]: string, where the number of an expert"},
        {"{\"physical_to_logical_map\": [[0,-1]]}", "physical_to_logical_map[0][1]: expert -1"},
        {"{\"physical_to_logical_map\": [[0,1024]]}",
         "physical_to_logical_map[0][1]: expert 1024: 0 to 1023"},
        {"{\"physical_to_logical_map\": [[0,1,2,3,0,4],[0,1,2,3,0,1]]}",
         "[0][5]: expert 4, where the model has 4"},
        {"{\"physical_to_logical_map\": [[0,1,2,3,0,3],[0,1,2,2,0,1]]}", "[1]: expert 3 has no slot"},
        {"{\"physical_to_logical_map\": [[0,1,2,3,0]]}",
         "1 layers, where the model has 3, 2 of them with experts"},
        {"{\"physical_to_logical_map\": [[0,1,2,3,0],[0,1,2,3,0]]}",
         "5 physical experts a layer, which do not divide by 2 ranks"},
        {"{\"physical_to_logical_map\": [[0,1,2,3],[0,1,2,3]]}",
         "4 physical experts a layer, where 4 experts and 2 redundant ones are 6"},
        {"{\"logical_count\": [[1,1,1],[1,1,1]]}", "logical_count: 3 experts a layer, where the model has 4"},
        {"{\"logical_count\": [[1,-1,1],[1,1,1]]}", "logical_count[0][1]: -1: a count must be 0"},
        {"{\"logical_count\": [[1,null]]}", "logical_count[0][1]: null, where a count must be"},
        {"{\"logical_count\": [[1,1e31]]}", "logical_count[0][1]: 1e+31"},
        {"{\"logical_count\": [[[1],[2]],[[1]]]}", "logical_count[1]: 1 layers, where the first step has 2"},
        {"{\"logical_count\": [[[1],[2]],[[1],[1,2]]]}",
         "logical_count[1][1]: 2 elements, where the first row has 1"},
        {"{\"logical_count\": [[[1],[2]],3]}", "logical_count[1]: integer, where an array must be"},
        {"{\"count\": [[1]]}", "neither \"physical_to_logical_map\" nor \"logical_count\""},
        {"load.pt", "load.pt: PyTorch's files are programs"},
        {"/nowhere/at/all.json", "/nowhere/at/all.json"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        proa_expert_location location;
        proa_error err = {0};
        assert_true(proa_failed(read(cases[i].text, &location, &err)));
        proa_expert_location_free(&location);
        if (strstr(err.text, cases[i].says) == NULL)
            fail_msg("%s: \"%s\" does not say \"%s\"", cases[i].text, err.text, cases[i].says);
    }
}

static void loads_are_recorded_in_a_window(void **state)
{
    (void)state;
    enum { LAYERS = 3, EXPERTS = 4, WINDOW = 3, STEPS = 10 };
    proa_expert_load *windowed = proa_expert_load_create(LAYERS, EXPERTS, WINDOW);
    proa_expert_load *whole = proa_expert_load_create(LAYERS, EXPERTS, 0);
    int64_t all[LAYERS][EXPERTS] = {0}, steps[STEPS][LAYERS][EXPERTS] = {0};
    for (int s = 0; s < STEPS; s++) {
        for (int32_t i = 0; i < 5 * (s + 1); i++) {
            int32_t layer = 1 + i % 2, ids[2] = {i * s % 4, (i + 1) % 4};
            proa_expert_load_record(windowed, layer, 2, ids);
            proa_expert_load_record(whole, layer, 2, ids);
            for (int k = 0; k < 2; k++) {
                all[layer][ids[k]]++;
                steps[s][layer][ids[k]]++;
            }
        }
        proa_expert_load_end_step(windowed);
        proa_expert_load_end_step(whole);
        for (int32_t l = 0; l < LAYERS; l++)
            for (int32_t e = 0; e < EXPERTS; e++) {
                int64_t last =
                    steps[s][l][e] + (s > 0 ? steps[s - 1][l][e] : 0) + (s > 1 ? steps[s - 2][l][e] : 0);
                assert_int_equal(proa_expert_load_count(windowed, l, e), last);
                assert_int_equal(proa_expert_load_count(whole, l, e), all[l][e]);
            }
    }
    assert_int_equal(proa_expert_load_steps(whole), STEPS);
    proa_buf sums = {0}, passes = {0};
    proa_expert_location a, b;
    proa_expert_load_write(windowed, PROA_EXPERT_LOAD_STAT, &sums);
    proa_expert_load_write(windowed, PROA_EXPERT_LOAD_PER_PASS, &passes);
    assert_int_equal(read(proa_buf_text(&sums), &a, NULL), PROA_OK);
    assert_int_equal(read(proa_buf_text(&passes), &b, NULL), PROA_OK);
    assert_int_equal(b.steps, WINDOW);
    assert_memory_equal(a.load, b.load, LAYERS * EXPERTS * sizeof *a.load);
    proa_expert_load_reset(windowed);
    assert_int_equal(proa_expert_load_count(windowed, 1, 0), 0);
    proa_expert_location_free(&a);
    proa_expert_location_free(&b);
    proa_buf_free(&sums);
    proa_buf_free(&passes);
    proa_expert_load_free(windowed);
    proa_expert_load_free(whole);
    proa_expert_load_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(placements_are_read_in_both_forms),
        cmocka_unit_test(loads_are_read_and_placed),
        cmocka_unit_test(bad_texts_are_explained),
        cmocka_unit_test(loads_are_recorded_in_a_window),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
