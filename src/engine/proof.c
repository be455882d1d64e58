/* proof.c - rows of chained hashes, a token from all of them; see proof.h for the formulas.
 *
 * A row is written from the row before it as it stands in memory, so a stale row is handed on to all that follow. For a
 * token every word of every row is read and compared with what word 0 of layer 0 says: one that was verified before may
 * have been overwritten since. That is most of the work, so it goes through a block layer by layer, in the order of
 * the addresses, in a loop that compilers turn into vector code, once for each instruction set.
 *
 * Lacks on purpose: threads. The engine thread alone computes; what is measured around it is then its own.
 */
#include "engine/proof.h"

#include "base/cpu.h"
#include "engine/engine_internal.h"

#include <stdlib.h>
#include <string.h>

enum { BLOCK = PROA_KV_BLOCK_TOKENS };

#define LAYER_STRIDE 0x100000001B3u
#define GOLDEN       0x9E3779B97F4A7C15u
#define BODY         static inline __attribute__((always_inline))

/* What was read for a logit row. */
typedef struct reading {
    uint64_t fold;
    uint64_t wrong; /* bits in which any word differs from what it should be */
    uint64_t position;
} reading;

struct proa_proof {
    void (*read_rows)(const proa_proof *proof, const int32_t *blocks, int32_t count, reading *read);
    uint64_t key;
    proa_dtype dtype; /* of the rows that its own stand for: they have as many bytes */
    int32_t vocab;
    int32_t layers;
    int32_t blocks;
    size_t words;       /* of a row in a layer */
    size_t layer_words; /* of a layer */
    uint64_t *memory;   /* [layers][blocks][64][words] */
    reading *readings;  /* [logit_rows_max] */
    int32_t reading_max;
};

static uint64_t mix(uint64_t a, uint64_t b)
{
    uint64_t x = a ^ (b + GOLDEN + (a << 6) + (a >> 2));
    x = (x ^ x >> 32) * 0xD6E8FEB86659FD93u;
    x = (x ^ x >> 29) * 0xBF58476D1CE4E5B9u;
    return x ^ x >> 32;
}

/* Word 0 of layer 0 of the row at `position`. */
static uint64_t *row_at(const proa_proof *proof, const int32_t *blocks, int32_t position)
{
    int32_t block = blocks[position / BLOCK];
    PROA_ASSERT(block >= 0 && block < proof->blocks);
    return proof->memory + ((size_t)block * BLOCK + (size_t)(position % BLOCK)) * proof->words;
}

/* ---- writing ---- */

static void write_segment(const proa_proof *proof, const proa_segment *segment, const int32_t *tokens)
{
    int32_t first = segment->position_first;
    uint64_t row = first > 0 ? *row_at(proof, segment->blocks, first - 1) : mix(proof->key, 0);
    for (int32_t r = 0; r < segment->row_count; r++) {
        row = mix(row, (uint64_t)tokens[r]);
        uint64_t *to = row_at(proof, segment->blocks, first + r), value = row;
        for (int32_t l = 0; l < proof->layers; l++) {
            for (size_t w = 0; w < proof->words; w++)
                to[w] = value + w;
            to += proof->layer_words;
            value += LAYER_STRIDE;
        }
    }
}

/* ---- reading ---- */

/* The bits in which words[i], i < count, differ from value + i. */
BODY uint64_t compare(const uint64_t *words, size_t count, uint64_t value)
{
    uint64_t wrong = 0;
#pragma omp simd reduction(| : wrong)
    for (size_t i = 0; i < count; i++)
        wrong |= words[i] ^ (value + i);
    return wrong;
}

/* Rows 0 .. count - 1. */
BODY void read_rows(const proa_proof *proof, const int32_t *blocks, int32_t count, reading *read)
{
    for (int32_t first = 0; first < count; first += BLOCK) {
        const uint64_t *rows = row_at(proof, blocks, first);
        size_t rest = count - first < BLOCK ? (size_t)(count - first) : BLOCK;
        for (size_t r = 0; r < rest; r++)
            read->fold = (read->fold ^ rows[r * proof->words]) * GOLDEN;
        for (int32_t l = 0; l < proof->layers; l++) {
            const uint64_t *layer = rows + (size_t)l * proof->layer_words;
            uint64_t offset = (uint64_t)l * LAYER_STRIDE;
            for (size_t r = 0; r < rest; r++)
                read->wrong |=
                    compare(layer + r * proof->words, proof->words, rows[r * proof->words] + offset);
        }
    }
}

static void read_rows_portable(const proa_proof *proof, const int32_t *blocks, int32_t count, reading *read)
{
    read_rows(proof, blocks, count, read);
}

PROA_TARGET_AVX2 static void read_rows_avx2(const proa_proof *proof, const int32_t *blocks, int32_t count,
                                            reading *read)
{
    read_rows(proof, blocks, count, read);
}

static proa_status step(void *context, const proa_step *step, float **logits, proa_error *err)
{
    (void)err;
    proa_proof *proof = context;
    PROA_ASSERT(step->logit_count <= proof->reading_max);
    for (int32_t i = 0; i < step->segment_count; i++)
        write_segment(proof, &step->segments[i], step->token_ids + step->segments[i].row_first);
    for (int32_t i = 0, l = 0; i < step->segment_count; i++) {
        const proa_segment *segment = &step->segments[i];
        for (; l < step->logit_count && step->logit_rows[l] < segment->row_first + segment->row_count; l++) {
            int32_t last = segment->position_first + step->logit_rows[l] - segment->row_first;
            proof->readings[l] = (reading){.fold = proof->key, .position = (uint64_t)last};
            proof->read_rows(proof, segment->blocks, last + 1, &proof->readings[l]);
        }
    }
    *logits = NULL; /* sample has the readings */
    return PROA_OK;
}

/* ---- the token ---- */

static void sample_row(const proa_proof *proof, const reading *read, const proa_sample_params *params,
                       proa_sample_result *result)
{
    uint64_t vocab = (uint64_t)proof->vocab;
    uint64_t token = mix(read->fold, read->position) % vocab;
    if (read->wrong != 0) /* any other than what the rows say */
        token = (token + 1 + mix(read->wrong, read->fold) % (vocab - 1)) % vocab;
    float logprob =
        -(float)(mix(read->fold ^ read->wrong, read->position + (UINT64_C(1) << 32)) % 4096) / 256;
    *result = (proa_sample_result){.token = (int32_t)token};
    if (params->top_logprobs >= 0)
        result->logprob = logprob;
    if (params->top_logprobs > 0) {
        result->top_count = 1;
        result->top_ids[0] = result->token;
        result->top_logprobs[0] = logprob;
    }
}

static proa_status sample(void *context, const proa_sample_args *args, proa_error *err)
{
    (void)err;
    const proa_proof *proof = context;
    for (int32_t i = 0; i < args->rows; i++)
        sample_row(proof, &proof->readings[i], &args->params[i], &args->results[i]);
    return PROA_OK;
}

/* ---- its life ---- */

proa_status proa_proof_create(const proa_model_config *config, const proa_forward_limits *limits,
                              uint64_t key, proa_proof **created, proa_error *err)
{
    PROA_ASSERT(config->vocab_size > 1);
    proa_proof *proof = calloc(1, sizeof *proof);
    if (proof == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "out of memory for the proof model");
    proof->dtype = proa_kv_cache_dtype(limits->kv_cache, PROA_PRECISION_DEFAULT);
    size_t bytes = (size_t)proa_kv_row_of(proof->dtype, config->kv_lora_rank, config->qk_rope_head_dim).bytes;
    proof->read_rows = proa_cpu_isa() >= PROA_ISA_AVX2 ? read_rows_avx2 : read_rows_portable;
    proof->key = key;
    proof->vocab = config->vocab_size;
    proof->layers = config->num_hidden_layers;
    proof->blocks = limits->kv_blocks;
    proof->words = (bytes + sizeof(uint64_t) - 1) / sizeof(uint64_t);
    proof->layer_words = (size_t)limits->kv_blocks * BLOCK * proof->words;
    proof->reading_max = limits->logit_rows_max;
    proof->readings = calloc((size_t)limits->logit_rows_max, sizeof *proof->readings);
    proof->memory = calloc((size_t)proof->layers * proof->layer_words, sizeof *proof->memory);
    if (proof->readings == NULL || proof->memory == NULL) {
        proa_error_set(err, PROA_ERR_MEMORY,
                       "out of memory for a KV cache of %d blocks, %zu bytes each, over %d layers: lower "
                       "--max-total-tokens",
                       proof->blocks, BLOCK * proof->words * sizeof(uint64_t), proof->layers);
        proa_proof_free(proof);
        return PROA_ERR_MEMORY;
    }
    *created = proof;
    return PROA_OK;
}

void proa_proof_free(proa_proof *proof)
{
    if (proof == NULL)
        return;
    free(proof->memory);
    free(proof->readings);
    free(proof);
}

void proa_proof_layout(const proa_proof *proof, proa_kv_layout *layout)
{
    *layout = (proa_kv_layout){
        .base = proof->memory,
        .dtype = proof->dtype,
        .layers = proof->layers,
        .blocks = proof->blocks,
        .row_bytes = proof->words * sizeof(uint64_t),
        .block_bytes = BLOCK * proof->words * sizeof(uint64_t),
        .layer_bytes = proof->layer_words * sizeof(uint64_t),
    };
}

/* ---- the engine ---- */

static proa_status copy(void *context, const proa_kv_copy *copies, int32_t count, proa_error *err)
{
    (void)err;
    const proa_proof *proof = context;
    for (int32_t i = 0; i < count; i++) {
        const proa_kv_copy *c = &copies[i];
        uint64_t *from = row_at(proof, &c->from, 0), *to = row_at(proof, &c->to, 0);
        size_t bytes = (size_t)c->tokens * proof->words * sizeof *to;
        for (int32_t l = 0; l < proof->layers; l++)
            memcpy(to + (size_t)l * proof->layer_words, from + (size_t)l * proof->layer_words, bytes);
    }
    return PROA_OK;
}

proa_status proa_proof_start(const proa_engine_options *options, const proa_model_config *config,
                             proa_proof *proof, proa_engine **engine, proa_error *err)
{
    const proa_engine_model model = {
        .context = proof, .copy = copy, .step = step, .sample_context = proof, .sample = sample};
    return proa_engine_start_with(options, config, &model, engine, err);
}
