/* random.h - a counter-based generator: the value depends on (key, counter) alone, never on a state.
 *
 * Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11). Sampling uses key = the
 * request's seed and counter = the position of the token, so a replayed or moved request draws the same
 * numbers. Any thread may call.
 */
#ifndef PROA_BASE_RANDOM_H
#define PROA_BASE_RANDOM_H

#include <stdint.h>

/* Four independent 32-bit words for (key, counter, stream). */
void proa_random_philox(uint64_t key, uint64_t counter, uint64_t stream, uint32_t out[4]);

/* A double in [0, 1) with 53 bits, from (key, counter) of stream 0. */
double proa_random_uniform(uint64_t key, uint64_t counter);

#endif
