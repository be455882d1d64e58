/* tokenizer_impl.h - what a loaded tokenizer consists of, for the files tokenizer*.c alone. */
#ifndef PROA_TEXT_TOKENIZER_IMPL_H
#define PROA_TEXT_TOKENIZER_IMPL_H

#include "base/arena.h"
#include "text/added.h"
#include "text/bpe.h"
#include "text/pretokenize.h"
#include "text/tokenizer.h"

struct proa_tokenizer {
    proa_bpe_model model;
    proa_pretokenizer pre;
    proa_arena *texts;       /* contents of added tokens */
    proa_added_set verbatim; /* added tokens with "normalized": false, searched first */
    proa_added_set normalized;
    proa_regex *word; /* proa_added_word_pattern */
};

#endif
