/* Ranks from flags: SGLang's arithmetic and refusals, and the command lines of the multi-node guides. */
#include "model/rank_world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

/* tp, dp, nodes, node, dp attention, chunk, running */
static void ranks_have_places(void **state)
{
    static const struct {
        proa_rank_flags flags;
        int64_t rank;
        proa_rank_world world;
    } cases[] = {
        {{1, 1, 1, 0, false, 512, 64}, 0, {0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 512, 64}},
        {{1, 1, 1, 0, true, -1, 0}, -1, {0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, -1, 0}},
        /* one dp rank: attention over all ranks, and nothing is divided, with dp attention or without */
        {{8, 1, 2, 1, false, 8192, 100}, 6, {6, 8, 1, 2, 2, 4, 0, 1, 6, 8, 6, 8, 8192, 100}},
        {{8, 1, 2, 1, true, 8192, 100}, -1, {4, 8, 1, 2, 0, 4, 0, 1, 4, 8, 4, 8, 8192, 100}},
        /* the drawing of rank_world.h */
        {{8, 4, 2, 0, true, 8192, 100}, 5, {5, 8, 1, 2, 1, 4, 2, 4, 1, 2, 5, 8, 2048, 25}},
        {{8, 4, 2, 0, true, 8192, 103}, 0, {0, 8, 0, 2, 0, 4, 0, 4, 0, 2, 0, 8, 2048, 25}},
        {{8, 8, 1, 0, true, 8, 8}, 7, {7, 8, 0, 1, 7, 8, 7, 8, 0, 1, 7, 8, 1, 1}},
        {{8, 8, 1, 0, true, -1, 0}, 7, {7, 8, 0, 1, 7, 8, 7, 8, 0, 1, 7, 8, -1, 0}},
        /* DeepSeek-R1 on H100: prefill on 4 nodes, decode on 9 */
        {{32, 32, 4, 3, true, 524288, 8192}, -1, {24, 32, 3, 4, 0, 8, 24, 32, 0, 1, 24, 32, 16384, 256}},
        {{72, 72, 9, 8, true, 8192, 18432}, 71, {71, 72, 8, 9, 7, 8, 71, 72, 0, 1, 71, 72, 113, 256}},
        /* on GB200: decode on 12 nodes */
        {{48, 48, 12, 0, true, 36864, 36864}, 47, {47, 48, 11, 12, 3, 4, 47, 48, 0, 1, 47, 48, 768, 768}},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        proa_rank_world w;
        proa_error err = {0};
        if (proa_rank_world_make(&cases[i].flags, cases[i].rank, &w, &err) != PROA_OK)
            fail_msg("case %zu: %s", i, err.text);
        if (memcmp(&w, &cases[i].world, sizeof w) != 0)
            fail_msg("case %zu: dp %d of %d, attention %d of %d, node %d, chunk %d, running %d", i, w.dp_rank,
                     w.dp_size, w.attention_tp_rank, w.attention_tp_size, w.node, w.chunked_prefill_size,
                     w.max_running_requests);
    }
}

static void contradictions_are_named(void **state)
{
    static const struct {
        proa_rank_flags flags;
        int64_t rank;
        proa_status status;
        const char *text;
    } cases[] = {
        {{8, 1, 2, 2, false, 1, 0}, -1, PROA_ERR_INVALID, "--node-rank 2 is not below --nnodes 2"},
        {{8, 1, 3, 0, false, 1, 0}, -1, PROA_ERR_INVALID, "--tp-size 8 must be a multiple of --nnodes 3"},
        {{1, 1, 2, 0, false, 1, 0}, -1, PROA_ERR_INVALID, "--tp-size 1 must be a multiple of --nnodes 2"},
        {{8, 3, 1, 0, true, 9, 0}, -1, PROA_ERR_INVALID, "--tp-size 8 must be a multiple of --dp-size 3"},
        {{8, 16, 1, 0, true, 99, 0}, -1, PROA_ERR_INVALID, "--tp-size 8 must be a multiple of --dp-size 16"},
        {{8, 2, 2, 0, false, 9, 0}, -1, PROA_ERR_INVALID, "needs --enable-dp-attention"},
        {{8, 2, 1, 0, false, 9, 0}, -1, PROA_ERR_UNSUPPORTED, "is 2 copies of the model"},
        {{8, 8, 1, 0, true, 7, 0}, -1, PROA_ERR_INVALID, "--chunked-prefill-size 7 is of the whole worker"},
        {{8, 8, 1, 0, true, 8, 7}, -1, PROA_ERR_INVALID, "--max-running-requests 7 is of the whole worker"},
        {{8, 8, 1, 0, true, 8, 8}, 8, PROA_ERR_INVALID, "there is no rank 8 of --tp-size 8"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        proa_rank_world w;
        proa_error err = {0};
        assert_int_equal(proa_rank_world_make(&cases[i].flags, cases[i].rank, &w, &err), cases[i].status);
        if (strstr(err.text, cases[i].text) == NULL)
            fail_msg("case %zu: told \"%s\"", i, err.text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_have_places),
        cmocka_unit_test(contradictions_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
