/* embed.h - rows of the embedding table: y[r] = table[ids[r]]. ids are checked by the caller (0 <= id < vocab). */
#ifndef PROA_OP_EMBED_EMBED_H
#define PROA_OP_EMBED_EMBED_H

#include "op/tensor.h"

typedef struct proa_embed_args {
    int32_t rows;
    const int32_t *ids;       /* [rows] */
    const proa_weight *table; /* n = vocab_size, k = hidden_size; BF16 or F32 */
    float *y;                 /* [rows, k] */
} proa_embed_args;

void proa_embed_ref(const proa_host *host, const proa_embed_args *args);
void proa_embed_cpu(const proa_host *host, const proa_embed_args *args);

#endif
