/* fake_backend.h - a backend for tests of the server: each answer repeats its prompt, over and over.
 *
 * It has a thread of its own and keeps engine.h's contracts: credit, cancellation, one finish a request. Faults on demand:
 * requests that fail after so many tokens, or that go silent. The end-of-sequence id ends an answer when the prompt has it.
 */
#ifndef PROA_TESTS_FAKE_BACKEND_H
#define PROA_TESTS_FAKE_BACKEND_H

#include "serve/backend.h"

typedef struct fake_backend fake_backend;

typedef struct fake_options {
    int32_t step_us;    /* between two tokens of a request */
    int32_t fail_after; /* tokens after which each request fails; -1: never */
    int32_t hang_after; /* steps after which nothing is made any more; -1: never */
    int32_t queue_max;  /* submit is refused over so many requests */
    int32_t eos_id;     /* -1: none */
} fake_options;

fake_backend *fake_backend_start(const fake_options *options);
void fake_backend_stop(fake_backend *fake);
proa_backend fake_backend_interface(fake_backend *fake);

#endif
