/* bpe.h - byte-pair encoding of one word: bytes in, ids out.
 *
 * A word's bytes become tokens, then the neighbouring pair with the smallest rank (the leftmost among equals) is
 * merged until no pair has a rank. A worker remembers recent words; short ones are merged by scanning, long ones with a
 * heap, so that a word of n bytes takes O(n log n). One thread a worker.
 */
#ifndef PROA_TEXT_BPE_H
#define PROA_TEXT_BPE_H

#include "text/tokenizer.h"
#include "text/vocab.h"

typedef struct proa_bpe_model {
    proa_vocab vocab;
    int32_t unknown_id; /* stands for bytes without a token; -1: they are dropped */
    bool fuse_unknown;  /* one for a run of such bytes */
    bool ignore_merges; /* a word that is a token needs no merging */
} proa_bpe_model;

typedef struct proa_bpe proa_bpe;
proa_bpe *proa_bpe_create(const proa_bpe_model *model);
void proa_bpe_free(proa_bpe *bpe); /* accepts NULL */

/* Appends the ids of a word (length < 2^31). False when memory is out. */
bool proa_bpe_encode(proa_bpe *bpe, const char *word, size_t length, proa_ids *ids);

#endif
