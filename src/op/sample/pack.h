/* pack.h - what rows ask of a sampler that has memory of its own, as one block that one copy takes there.
 *
 *   rows_max rows | entries: of row 0 its biases, counts and bans, then those of row 1, ...
 *
 * An entry is (id, value); counts that change no logit are left out. The random number of the draw is made here, so that the device
 * needs no generator. Plain memory of the caller's; nothing is allocated. Any thread.
 */
#ifndef PROA_OP_SAMPLE_PACK_H
#define PROA_OP_SAMPLE_PACK_H

#include "base/status.h"
#include "op/sample/sample.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct proa_sample_entry {
    int32_t id;
    union {
        float bias;
        int32_t output; /* of a count: occurrences in the output; 0: in the prompt alone */
    };
} proa_sample_entry;

typedef struct proa_sample_packed_row {
    double uniform; /* proa_random_uniform(seed, position) */
    float temperature;
    float top_p;
    float min_p;
    int32_t top_k;
    float repetition_penalty;
    float frequency_penalty;
    float presence_penalty;
    int32_t top_logprobs;
    int32_t logits_row;
    int32_t first; /* entry; the three kinds follow each other */
    int32_t bias_count;
    int32_t count_count;
    int32_t banned_count;
} proa_sample_packed_row;

typedef struct proa_sample_pack {
    int32_t rows_max;
    int32_t entries_max;
    int32_t row_count;
    int32_t entry_count;
    proa_sample_packed_row *rows; /* start of the block */
    proa_sample_entry *entries;
} proa_sample_pack;

/* Of a block for so many rows and entries; aligned to 8 bytes. */
size_t proa_sample_pack_bytes(int32_t rows_max, int32_t entries_max);
proa_sample_pack proa_sample_pack_at(void *block, int32_t rows_max, int32_t entries_max);

/* Bytes from the block's start that the rows in it need. */
size_t proa_sample_pack_used(const proa_sample_pack *pack);

/* Packs rows first .. rows - 1, from `first` on, after forgetting those before; row_of [rows] is each one's row of logits, NULL: its own
 * index. PROA_BUSY: pack->row_count rows, one at least, are in, the others need another round. PROA_ERR_TOO_LONG: the first alone has
 * more entries than fit. Ids must be those of the vocabulary. */
proa_status proa_sample_pack_fill(proa_sample_pack *pack, const proa_sample_params *params,
                                  const int32_t *row_of, int32_t first, int32_t rows, int32_t vocab,
                                  proa_error *err);

#ifdef __cplusplus
}
#endif

#endif
