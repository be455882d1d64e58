/* patience.h - how much slower this test program runs than it would on its own: under an emulator some forty times (`make test-arm64`;
 * tests/unit/meson.build sets the variable), with a sanitizer up to ten times and more beside others on few processors. What is waited for may
 * take longer then before it counts as missing. Under an emulator a test may also take fewer rows of a table that only repeats the arithmetic,
 * and says so. */
#ifndef PROA_TESTS_PATIENCE_H
#define PROA_TESTS_PATIENCE_H

#include <stdbool.h>
#include <stdlib.h>

#ifdef __has_feature /* clang */
#define TEST_HAS_FEATURE(name) __has_feature(name)
#else
#define TEST_HAS_FEATURE(name) 0
#endif

static inline bool test_is_emulated(void)
{
    return getenv("PROA_TEST_EMULATED") != NULL;
}

/* By the address or the thread sanitizer; that of undefined behaviour alone costs little. */
static inline bool test_is_sanitized(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return true;
#else
    return TEST_HAS_FEATURE(address_sanitizer) || TEST_HAS_FEATURE(thread_sanitizer);
#endif
}

/* Times that a deadline is longer. */
static inline int test_patience(void)
{
    return test_is_emulated() ? 20 : test_is_sanitized() ? 15 : 1;
}

#endif
