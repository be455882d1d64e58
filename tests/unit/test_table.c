/* test_table.c - the table against a plain array, through many puts and takes. */
#include "base/table.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>

enum { KEYS = 300, ROUNDS = 200000 };

static void test_against_array(void **state)
{
    (void)state;
    proa_table map = {0};
    char *values[KEYS] = {0}, bytes[KEYS];
    size_t count = 0;
    uint64_t random = 12345;
    for (int round = 0; round < ROUNDS; round++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        size_t i = (size_t)(random >> 33) % KEYS;
        uint64_t key = (uint64_t)i << 52 | (i + 1) << (i % 7); /* crowds some homes */
        if ((random >> 60) < 8) {
            count += values[i] == NULL;
            values[i] = &bytes[(i + (size_t)round) % KEYS];
            assert_true(proa_table_put(&map, key, values[i]));
        } else {
            assert_ptr_equal(proa_table_take(&map, key), values[i]);
            count -= values[i] != NULL;
            values[i] = NULL;
        }
        assert_int_equal(map.count, count);
        size_t j = (size_t)(random >> 12) % KEYS;
        assert_ptr_equal(proa_table_get(&map, (uint64_t)j << 52 | (j + 1) << (j % 7)), values[j]);
    }
    size_t seen = 0;
    uint64_t key;
    void *value;
    for (size_t i = 0; proa_table_next(&map, &i, &key, &value);)
        seen++;
    assert_int_equal(seen, count);
    assert_null(proa_table_get(&map, 0));
    proa_table_free(&map);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_array)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
