/* logits.c - `proa logits`: what the model computes, for comparison with a reference.
 *
 * Reads input_ids [n, t] int32; computes logits [n, t, vocab], hidden.0 (embeddings) .. hidden.L (after the final
 * norm) and, with --prefix P --generate N, greedy_ids [n, P + N] continued from the first P tokens; writes them
 * (--output) or measures them against the same names in the input file (--compare). Sequences run one after the other.
 */
#include "cmd/cmd.h"
#include "cmd/compare.h"
#include "cmd/load.h"
#include "model/forward.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct job {
    proa_loaded loaded;
    proa_forward *forward;
    proa_safetensors *input;
    int64_t sequences, length; /* of input_ids */
    int64_t prefix, generate;
    const int32_t *input_ids;
    float *logits;       /* [sequences, length, vocab] */
    float **hidden;      /* [layers + 1] of [sequences, length, hidden] */
    int32_t *greedy_ids; /* [sequences, prefix + generate] */
    int32_t *blocks;
    int64_t sequence; /* at hand, for the tap */
} job;

static int64_t hidden_count(const job *j)
{
    return j->loaded.config.num_hidden_layers + 1;
}

static void keep_hidden(void *context, int32_t index, int32_t rows, const float *hidden)
{
    job *j = context;
    int64_t values = j->length * j->loaded.config.hidden_size;
    PROA_ASSERT(rows == j->length);
    memcpy(j->hidden[index] + j->sequence * values, hidden, (size_t)values * sizeof *hidden);
}

static proa_status read_input(job *j, const proa_options *options, proa_error *err)
{
    const char *path = proa_options_string(options, "input");
    if (path == NULL)
        return proa_error_set(err, PROA_ERR_INVALID,
                              "no input: give --input FILE.safetensors with input_ids [n, t]");
    proa_status status = proa_safetensors_open(path, &j->input, err);
    if (status != PROA_OK)
        return status;
    const proa_tensor *ids = proa_safetensors_find(j->input, "input_ids");
    if (ids == NULL || ids->dims != 2 || ids->dtype != PROA_DTYPE_I32 || ids->shape[0] < 1 ||
        ids->shape[1] < 1)
        return proa_error_set(err, PROA_ERR_INVALID,
                              "%s: needs a tensor input_ids of type I32 and shape [n, t]", path);
    j->sequences = ids->shape[0];
    j->length = ids->shape[1];
    j->input_ids = ids->data;
    j->prefix = proa_options_int(options, "prefix");
    j->generate = proa_options_int(options, "generate");
    if (j->prefix == 0)
        j->prefix = j->length;
    if (j->generate > 0 && (j->prefix < 1 || j->prefix > j->length))
        return proa_error_set(err, PROA_ERR_INVALID,
                              "--prefix %lld is not within 1 and the %lld tokens of input_ids",
                              (long long)j->prefix, (long long)j->length);
    for (int64_t i = 0; i < j->sequences * j->length; i++) {
        if (j->input_ids[i] < 0 || j->input_ids[i] >= j->loaded.config.vocab_size)
            return proa_error_set(err, PROA_ERR_INVALID, "%s: input_ids[%lld, %lld] is %d, outside 0 .. %d",
                                  path, (long long)(i / j->length), (long long)(i % j->length),
                                  j->input_ids[i], j->loaded.config.vocab_size - 1);
    }
    return PROA_OK;
}

static proa_status allocate(job *j, const proa_options *options, proa_error *err)
{
    const proa_model_config *c = &j->loaded.config;
    int64_t longest = j->length > j->prefix + j->generate ? j->length : j->prefix + j->generate;
    int32_t blocks = (int32_t)((longest + PROA_KV_BLOCK_TOKENS - 1) / PROA_KV_BLOCK_TOKENS);
    j->logits = calloc((size_t)(j->sequences * j->length * c->vocab_size), sizeof(float));
    j->hidden = calloc((size_t)hidden_count(j), sizeof(float *));
    j->greedy_ids = calloc((size_t)(j->sequences * (j->prefix + j->generate)) + 1, sizeof(int32_t));
    j->blocks = calloc((size_t)blocks, sizeof(int32_t));
    if (j->logits == NULL || j->hidden == NULL || j->greedy_ids == NULL || j->blocks == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the results");
    for (int64_t i = 0; i < hidden_count(j); i++) {
        j->hidden[i] = calloc((size_t)(j->sequences * j->length * c->hidden_size), sizeof(float));
        if (j->hidden[i] == NULL)
            return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the hidden states");
    }
    for (int32_t i = 0; i < blocks; i++)
        j->blocks[i] = blocks - 1 - i; /* not in order of address, so that a wrong look-up shows */
    proa_forward_limits limits = {
        .rows_max = (int32_t)j->length,
        .logit_rows_max = (int32_t)j->length,
        .positions_max = (int32_t)longest,
        .kv_blocks = blocks,
        .kv_cache = j->loaded.kv_cache,
    };
    return proa_loaded_forward(&j->loaded, options, &limits, true, &j->forward, err);
}

/* One segment at `position`; logits of its last `logit_count` rows. */
static proa_status run_rows(job *j, const int32_t *ids, int64_t position, int64_t rows, bool absorbed,
                            int64_t logit_count, float **logits, proa_error *err)
{
    int32_t *logit_rows = malloc((size_t)logit_count * sizeof *logit_rows);
    if (logit_rows == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a step");
    for (int64_t i = 0; i < logit_count; i++)
        logit_rows[i] = (int32_t)(rows - logit_count + i);
    proa_segment segment = {
        .row_first = 0,
        .row_count = (int32_t)rows,
        .position_first = (int32_t)position,
        .blocks = j->blocks,
        .absorbed = absorbed,
    };
    proa_step step = {
        .row_count = (int32_t)rows,
        .token_ids = ids,
        .segments = &segment,
        .segment_count = 1,
        .logit_rows = logit_rows,
        .logit_count = (int32_t)logit_count,
    };
    proa_status status = proa_forward_step(j->forward, &step, logits, err);
    free(logit_rows);
    return status;
}

static int32_t argmax(const float *values, int32_t count)
{
    int32_t best = 0;
    for (int32_t i = 1; i < count; i++)
        best = values[i] > values[best] ? i : best;
    return best;
}

static proa_status generate(job *j, proa_error *err)
{
    int64_t total = j->prefix + j->generate;
    int32_t *ids = j->greedy_ids + j->sequence * total;
    memcpy(ids, j->input_ids + j->sequence * j->length, (size_t)j->prefix * sizeof *ids);
    float *logits = NULL;
    proa_status status = run_rows(j, ids, 0, j->prefix, false, 1, &logits, err);
    for (int64_t i = j->prefix; status == PROA_OK && i < total; i++) {
        ids[i] = argmax(logits, j->loaded.config.vocab_size);
        if (i + 1 < total)
            status = run_rows(j, ids + i, i, 1, true, 1, &logits, err);
    }
    return status;
}

static proa_status compute(job *j, proa_error *err)
{
    int64_t values = j->length * j->loaded.config.vocab_size;
    proa_status status = PROA_OK;
    for (j->sequence = 0; status == PROA_OK && j->sequence < j->sequences; j->sequence++) {
        float *logits = NULL;
        proa_forward_set_tap(j->forward, keep_hidden, j);
        status =
            run_rows(j, j->input_ids + j->sequence * j->length, 0, j->length, false, j->length, &logits, err);
        proa_forward_set_tap(j->forward, NULL, NULL);
        if (status == PROA_OK)
            memcpy(j->logits + j->sequence * values, logits, (size_t)values * sizeof *logits);
        if (status == PROA_OK && j->generate > 0)
            status = generate(j, err);
    }
    return status;
}

static proa_status write_output(const job *j, const char *path, proa_error *err)
{
    const proa_model_config *c = &j->loaded.config;
    size_t count = 0;
    proa_tensor *tensors = calloc((size_t)hidden_count(j) + 2, sizeof *tensors);
    char(*names)[32] = calloc((size_t)hidden_count(j), sizeof *names);
    proa_status status = proa_error_set(err, PROA_ERR_MEMORY, "no memory to write %s", path);
    if (tensors != NULL && names != NULL) {
        for (int64_t i = 0; i < hidden_count(j); i++) {
            snprintf(names[i], sizeof names[i], "hidden.%lld", (long long)i);
            tensors[count++] = (proa_tensor){.name = names[i],
                                             .dtype = PROA_DTYPE_F32,
                                             .dims = 3,
                                             .shape = {j->sequences, j->length, c->hidden_size},
                                             .data = j->hidden[i]};
        }
        tensors[count++] = (proa_tensor){.name = "logits",
                                         .dtype = PROA_DTYPE_F32,
                                         .dims = 3,
                                         .shape = {j->sequences, j->length, c->vocab_size},
                                         .data = j->logits};
        if (j->generate > 0)
            tensors[count++] = (proa_tensor){.name = "greedy_ids",
                                             .dtype = PROA_DTYPE_I32,
                                             .dims = 2,
                                             .shape = {j->sequences, j->prefix + j->generate},
                                             .data = j->greedy_ids};
        for (size_t i = 0; i < count; i++) {
            tensors[i].bytes = 4;
            for (int32_t d = 0; d < tensors[i].dims; d++)
                tensors[i].bytes *= (uint64_t)tensors[i].shape[d];
        }
        status = proa_safetensors_write(path, tensors, count, err);
    }
    free(tensors);
    free(names);
    return status;
}

/* The reference's tensor when it is there with this type and shape, else NULL. */
static const proa_tensor *reference(const job *j, const char *name, proa_dtype dtype, int32_t dims,
                                    int64_t last)
{
    const proa_tensor *t = proa_safetensors_find(j->input, name);
    if (t == NULL || t->dtype != dtype || t->dims != dims || t->shape[0] != j->sequences)
        return NULL;
    if (dims == 3 && (t->shape[1] != j->length || t->shape[2] != last))
        return NULL;
    return t;
}

static void compare_exact(const job *j, const proa_tensor *logits, proa_comparison_table *table)
{
    int64_t hidden = j->loaded.config.hidden_size, tokens = j->sequences * j->length;
    for (int64_t i = 0; i < hidden_count(j); i++) {
        char name[32];
        snprintf(name, sizeof name, "hidden.%lld", (long long)i);
        const proa_tensor *t = reference(j, name, PROA_DTYPE_F32, 3, hidden);
        if (t != NULL)
            proa_compare_exact(table, name, j->hidden[i], t->data, tokens * hidden);
    }
    proa_compare_exact(table, "logits", j->logits, logits->data, tokens * j->loaded.config.vocab_size);
}

static void compare_rounded(const job *j, const proa_tensor *logits, proa_comparison_table *table)
{
    int64_t tokens = j->sequences * j->length, vocab = j->loaded.config.vocab_size;
    bool fp8 = j->loaded.config.fp8 || j->loaded.kv_cache == PROA_KV_CACHE_E4M3;
    proa_compare_distribution(table, "logits", j->logits, logits->data, tokens, vocab, fp8, false);
    const proa_tensor *recipe = reference(j, "logits_fp8", PROA_DTYPE_F32, 3, vocab);
    if (recipe != NULL)
        proa_compare_distribution(table, "logits_fp8", j->logits, recipe->data, tokens, vocab, fp8, true);
}

static proa_status compare(const job *j, bool *passed, proa_error *err)
{
    const proa_tensor *logits = reference(j, "logits", PROA_DTYPE_F32, 3, j->loaded.config.vocab_size);
    if (logits == NULL)
        return proa_error_set(err, PROA_ERR_INVALID,
                              "--compare needs logits [%lld, %lld, %d] of type F32 in the input file",
                              (long long)j->sequences, (long long)j->length, j->loaded.config.vocab_size);
    bool exact = j->loaded.device->host.precision == PROA_PRECISION_EXACT;
    proa_comparison_table *table = calloc(1, sizeof *table);
    if (table == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory to compare");
    if (exact)
        compare_exact(j, logits, table);
    else
        compare_rounded(j, logits, table);
    const proa_tensor *greedy = reference(j, "greedy_ids", PROA_DTYPE_I32, 2, 0);
    const proa_tensor *margin = reference(j, "greedy_margin", PROA_DTYPE_F32, 2, 0);
    if (greedy != NULL && j->generate > 0)
        proa_compare_greedy(table, j->greedy_ids, j->prefix + j->generate, greedy->data, greedy->shape[1],
                            margin != NULL ? margin->data : NULL, margin != NULL ? margin->shape[1] : 0,
                            j->sequences, j->prefix, !exact);
    proa_comparison_print(table);
    *passed = table->passed;
    free(table);
    return PROA_OK;
}

static void release(job *j)
{
    proa_forward_free(j->forward);
    for (int64_t i = 0; j->hidden != NULL && i < hidden_count(j); i++)
        free(j->hidden[i]);
    free(j->hidden);
    free(j->logits);
    free(j->greedy_ids);
    free(j->blocks);
    proa_safetensors_close(j->input);
    proa_loaded_close(&j->loaded);
}

int proa_cmd_logits(const proa_options *options)
{
    job j = {0};
    proa_error err = {0};
    bool passed = true;
    proa_status status = proa_loaded_open(options, &j.loaded, &err);
    if (status == PROA_OK)
        status = read_input(&j, options, &err);
    if (status == PROA_OK)
        status = allocate(&j, options, &err);
    if (status == PROA_OK)
        status = compute(&j, &err);
    const char *output = proa_options_string(options, "output");
    if (status == PROA_OK && output != NULL)
        status = write_output(&j, output, &err);
    if (status == PROA_OK && proa_options_bool(options, "compare"))
        status = compare(&j, &passed, &err);
    release(&j);
    if (status != PROA_OK)
        return proa_cmd_fail(&err);
    return passed ? PROA_EXIT_OK : PROA_EXIT_FAILED;
}
