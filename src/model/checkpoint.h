/* checkpoint.h - what a loaded checkpoint owns, and the stages of loading. Private to the files that load.
 *
 *   AUTO:  shards.c opens and catalogues -> check.c compares with the configuration -> place.c points at the mapped
 *          bytes -> page.c reads them in -> absorb.c makes W_UK and W_UV
 *   DUMMY: dummy.c makes and fills -> absorb.c
 */
#ifndef PROA_MODEL_CHECKPOINT_H
#define PROA_MODEL_CHECKPOINT_H

#include "model/expect.h"
#include "model/shards.h"

struct proa_checkpoint {
    const char *dir;
    proa_model_config config;
    proa_pool *pool; /* of the loading thread, while loading */
    proa_arena *arena;
    proa_weights weights;
    proa_expect_places places;
    proa_shards shards; /* {0} for a dummy */
    void *absorbed;     /* W_UK and W_UV of all layers */
    void *dummy;        /* the dummy's weights, mapped */
    size_t dummy_bytes;
};

/* Marks the catalogue's tensors as known and served. Logs up to 20 missing, unexpected and wrong tensors each; the
 * error has the counts and the first of each. */
proa_status proa_checkpoint_check(proa_checkpoint *checkpoint, proa_error *err);

/* Fills places with pointers into the mappings. Unaligned tensors are copied, E8M0 scales and BF16 biases converted. */
proa_status proa_checkpoint_place(proa_checkpoint *checkpoint, proa_error *err);

/* Reads the served tensors' pages in, in the order of the files, with a progress bar. */
proa_status proa_checkpoint_page_in(proa_checkpoint *checkpoint, proa_error *err);

/* Makes random weights instead. */
proa_status proa_checkpoint_make_dummy(proa_checkpoint *checkpoint, proa_error *err);

/* Fills w_uk and w_uv of every layer from kv_b_proj. */
proa_status proa_checkpoint_absorb(proa_checkpoint *checkpoint, proa_precision precision, proa_error *err);

#endif
