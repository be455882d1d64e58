/* test_embed.c - cpu and ref read the same table rows. */
#include "op/embed/embed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <cmocka.h>

#include "op_fixture.h"

static void embed_copies_rows(void **state)
{
    (void)state;
    enum { VOCAB = 50, K = 77, ROWS = 33 };
    float *table = fixture_activations(1, VOCAB * K, 1, PROA_PRECISION_EXACT);
    uint16_t half[VOCAB * K];
    int32_t ids[ROWS];
    float y[ROWS * K];
    for (int32_t i = 0; i < VOCAB * K; i++)
        half[i] = proa_f32_to_bf16(table[i]);
    for (int32_t r = 0; r < ROWS; r++)
        ids[r] = r * 31 % VOCAB;
    proa_weight f32 = {.dtype = PROA_DTYPE_F32, .n = VOCAB, .k = K, .data = table};
    proa_weight bf16 = {.dtype = PROA_DTYPE_BF16, .n = VOCAB, .k = K, .data = half};
    for (size_t p = 0; p < 2; p++)
        for (int variant = 0; variant < 4; variant++) {
            proa_host host = fixture_host(proa_cpu_isa(), 2, fixture_precisions[p]);
            bool exact = fixture_precisions[p] == PROA_PRECISION_EXACT && variant < 2;
            proa_embed_args args = {ROWS, ids, variant < 2 ? &f32 : &bf16, y};
            (variant % 2 ? proa_embed_ref : proa_embed_cpu)(&host, &args);
            for (int32_t i = 0; i < ROWS * K; i++) {
                float value = table[ids[i / K] * K + i % K];
                assert_true(y[i] == (exact ? value : proa_round_bf16(value)));
            }
            fixture_free(&host);
        }
    free(table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(embed_copies_rows)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
