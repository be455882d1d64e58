/* compare.h - measures computed logits, hidden states and greedy tokens against a reference's (DESIGN 9). */
#ifndef PROA_CMD_COMPARE_H
#define PROA_CMD_COMPARE_H

#include "model/safetensors.h"

/* One line of the comparison's table. */
typedef struct proa_comparison {
    char name[64];    /* tensor */
    char measure[48]; /* "max |difference|", "relative L2, median", ... */
    double value;
    double limit; /* NAN: for information only */
    bool passed;
} proa_comparison;

enum { PROA_COMPARISON_MAX = 256 };

typedef struct proa_comparison_table {
    proa_comparison rows[PROA_COMPARISON_MAX];
    int count;
    bool passed;
} proa_comparison_table;

/* Exact mode: max |difference| of logits at most 1e-3; of hidden states at most 1e-3 times the larger of 1 and the
 * reference's root mean square. */
void proa_compare_exact(proa_comparison_table *table, const char *name, const float *ours,
                        const float *reference, int64_t values);

/* Default mode: relative L2 of each token's logits [tokens, vocab]; median and 90th percentile against 1.3 times
 * what rounding alone does in a reference implementation (DESIGN 9: bf16 0.032 / 0.15, FP8 0.16 / 0.33).
 * fp8: of weights, or of the KV cache. */
void proa_compare_distribution(proa_comparison_table *table, const char *name, const float *ours,
                               const float *reference, int64_t tokens, int64_t vocab, bool fp8,
                               bool informative);

/* Greedy tokens [sequences, length], the first `prefix` of which were given. A token that differs where the
 * reference's margin [sequences, margin_length] is over 0.05 counts as wrong; where it is not, the rest of that
 * sequence cannot be compared and is left out. margin NULL: every difference counts. */
void proa_compare_greedy(proa_comparison_table *table, const int32_t *ours, int64_t our_length,
                         const int32_t *reference, int64_t reference_length, const float *margin,
                         int64_t margin_length, int64_t sequences, int64_t prefix, bool informative);

void proa_comparison_print(const proa_comparison_table *table);

#endif
