/* emulated.h - whether this test program runs under an emulator, some forty times slower: `make test-arm64` does (tests/unit/meson.build
 * sets the variable). Then a test may take fewer rows of a table that only repeats the arithmetic, and says so; and what is waited for may
 * take longer before it counts as missing. */
#ifndef PROA_TESTS_EMULATED_H
#define PROA_TESTS_EMULATED_H

#include <stdbool.h>
#include <stdlib.h>

static inline bool test_is_emulated(void)
{
    return getenv("PROA_TEST_EMULATED") != NULL;
}

/* Times that a deadline is longer. */
static inline int test_patience(void)
{
    return test_is_emulated() ? 20 : 1;
}

#endif
