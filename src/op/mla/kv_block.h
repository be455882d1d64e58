/* kv_block.h - FP8 rows of the cache as the bf16 numbers that they stand for. For the .c files of this folder. */
#ifndef PROA_OP_MLA_KV_BLOCK_H
#define PROA_OP_MLA_KV_BLOCK_H

#include "op/mla/kv_row.h"

/* `count` neighbouring E4M3 rows to [count, kv_lora_rank + rope_dim] bf16; no bit is lost. */
void proa_kv_block_to_bf16(proa_isa isa, const proa_kv_layer *kv, const unsigned char *rows, int32_t count,
                           uint16_t *to);

#endif
