/* compare.c - the measures of DESIGN 9 and their table. */
#include "cmd/compare.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const double exact_limit = 1e-3;
static const double margin_limit = 0.05;
static const double rounding_factor = 1.3;
static const double bf16_median = 0.032, bf16_p90 = 0.15;
static const double fp8_median = 0.16, fp8_p90 = 0.33;

static void add(proa_comparison_table *table, const char *name, const char *measure, double value,
                double limit)
{
    bool passed = isnan(limit) || value <= limit; /* a NaN value fails */
    if (table->count == 0)
        table->passed = true;
    table->passed = table->passed && passed;
    if (table->count == PROA_COMPARISON_MAX)
        return;
    proa_comparison *row = &table->rows[table->count++];
    snprintf(row->name, sizeof row->name, "%s", name);
    snprintf(row->measure, sizeof row->measure, "%s", measure);
    row->value = value;
    row->limit = limit;
    row->passed = passed;
}

void proa_compare_exact(proa_comparison_table *table, const char *name, const float *ours,
                        const float *reference, int64_t values)
{
    double largest = 0, squares = 0;
    bool nan = false;
    for (int64_t i = 0; i < values; i++) {
        double difference = fabs((double)ours[i] - reference[i]);
        nan = nan || isnan(difference);
        largest = difference > largest ? difference : largest;
        squares += (double)reference[i] * reference[i];
    }
    double rms = values > 0 ? sqrt(squares / (double)values) : 0;
    bool hidden = name[0] == 'h';
    add(table, name, "max |difference|", nan ? NAN : largest, exact_limit * (hidden && rms > 1 ? rms : 1));
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double relative_l2(const float *ours, const float *reference, int64_t n)
{
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = (double)ours[i] - reference[i];
        difference += d * d;
        norm += (double)reference[i] * reference[i];
    }
    double ratio = norm > 0 ? sqrt(difference / norm) : sqrt(difference);
    return isnan(ratio) ? INFINITY : ratio;
}

void proa_compare_distribution(proa_comparison_table *table, const char *name, const float *ours,
                               const float *reference, int64_t tokens, int64_t vocab, bool fp8,
                               bool informative)
{
    double *ratios = malloc((size_t)tokens * sizeof *ratios);
    if (ratios == NULL || tokens == 0) {
        add(table, name, "relative L2 (no tokens)", INFINITY, 0);
        free(ratios);
        return;
    }
    for (int64_t i = 0; i < tokens; i++)
        ratios[i] = relative_l2(ours + i * vocab, reference + i * vocab, vocab);
    qsort(ratios, (size_t)tokens, sizeof *ratios, ascending);
    double median_limit = rounding_factor * (fp8 ? fp8_median : bf16_median);
    double p90_limit = rounding_factor * (fp8 ? fp8_p90 : bf16_p90);
    add(table, name, "relative L2 a token, median", ratios[tokens / 2], informative ? NAN : median_limit);
    add(table, name, "relative L2 a token, 90 %", ratios[tokens * 9 / 10], informative ? NAN : p90_limit);
    free(ratios);
}

void proa_compare_greedy(proa_comparison_table *table, const int32_t *ours, int64_t our_length,
                         const int32_t *reference, int64_t reference_length, const float *margin,
                         int64_t margin_length, int64_t sequences, int64_t prefix, bool informative)
{
    int64_t wrong = 0, compared = 0, ties = 0;
    int64_t length = our_length < reference_length ? our_length : reference_length;
    for (int64_t s = 0; s < sequences; s++) {
        for (int64_t i = prefix; i < length; i++) {
            compared++;
            if (ours[s * our_length + i] == reference[s * reference_length + i])
                continue;
            bool known = margin != NULL && i - prefix < margin_length;
            bool tie = known && margin[s * margin_length + i - prefix] <= margin_limit;
            wrong += !tie;
            ties += tie;
            break; /* what follows continues another text */
        }
    }
    add(table, "greedy_ids", "tokens compared", (double)compared, NAN);
    add(table, "greedy_ids", "sequences left at a near-tie", (double)ties, NAN);
    add(table, "greedy_ids", informative ? "sequences that differ" : "sequences that went wrong",
        (double)wrong, informative ? NAN : 0);
}

void proa_comparison_print(const proa_comparison_table *table)
{
    bool colour = isatty(STDOUT_FILENO);
    const char *green = colour ? "\033[32m" : "", *red = colour ? "\033[31m" : "",
               *off = colour ? "\033[0m" : "";
    printf("%-12s  %-30s  %12s  %12s\n", "tensor", "measure", "value", "limit");
    for (int i = 0; i < table->count; i++) {
        const proa_comparison *row = &table->rows[i];
        printf("%-12s  %-30s  %12.6g  ", row->name, row->measure, row->value);
        if (isnan(row->limit))
            printf("%12s\n", "-");
        else
            printf("%12.6g  %s%s%s\n", row->limit, row->passed ? green : red, row->passed ? "ok" : "FAILED",
                   off);
    }
    printf("%s%s%s\n", table->passed ? green : red, table->passed ? "all within limits" : "beyond the limits",
           off);
}
