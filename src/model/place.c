/* place.c - pointing the layer graph's weights at the mapped bytes.
 *
 * Copied are only tensors that are not aligned to their type (files by old writers), scales stored as powers of two
 * (F8_E8M0) and router biases stored as BF16: both become float32, which holds them exactly.
 */
#include "model/checkpoint.h"

#include "base/number.h"

#include <math.h>
#include <string.h>

typedef struct place {
    proa_checkpoint *checkpoint;
    bool out_of_memory;
} place;

/* The tensor's data, copied when it is not aligned; NULL when memory is out. */
static const void *aligned_data(place *p, const proa_tensor *t)
{
    size_t width = proa_dtype_bytes(t->dtype);
    PROA_ASSERT(width > 0); /* check.c let no other type through */
    if ((uintptr_t)t->data % width == 0)
        return t->data;
    void *copy = proa_arena_alloc(p->checkpoint->arena, t->bytes);
    if (copy != NULL)
        memcpy(copy, t->data, t->bytes);
    else
        p->out_of_memory = true;
    return copy;
}

/* The same as float32, from F32, BF16 or E8M0. */
static const float *float_data(place *p, const proa_tensor *t)
{
    if (t->dtype == PROA_DTYPE_F32)
        return aligned_data(p, t);
    size_t width = t->dtype == PROA_DTYPE_E8M0 ? 1 : sizeof(uint16_t), count = t->bytes / width;
    float *out = proa_arena_array(p->checkpoint->arena, count, sizeof *out);
    if (out == NULL) {
        p->out_of_memory = true;
        return NULL;
    }
    const unsigned char *bytes = t->data;
    for (size_t i = 0; i < count; i++) {
        uint16_t half;
        if (t->dtype == PROA_DTYPE_E8M0) {
            out[i] = bytes[i] == 255 ? NAN : ldexpf(1, bytes[i] - 127);
        } else {
            memcpy(&half, bytes + i * width, sizeof half);
            out[i] = proa_bf16_to_f32(half);
        }
    }
    return out;
}

static void place_one(void *context, const proa_expect *e)
{
    place *p = context;
    proa_checkpoint *c = p->checkpoint;
    if (e->weight == NULL && e->bias == NULL)
        return;
    const proa_tensor *t = proa_shards_find(&c->shards, e->name)->tensor; /* check.c found it */
    c->weights.bytes += t->bytes;
    if (e->bias != NULL) {
        *e->bias = float_data(p, t);
        return;
    }
    *e->weight = (proa_weight){.dtype = t->dtype, .n = e->n, .k = e->k, .data = aligned_data(p, t)};
    if (t->dtype != PROA_DTYPE_E4M3)
        return;
    char name[160];
    const proa_tensor *scale = proa_shards_find(&c->shards, proa_expect_scale_name(e->name, name))->tensor;
    c->weights.bytes += scale->bytes;
    e->weight->scale = float_data(p, scale);
    e->weight->block_n = c->config.weight_block_n;
    e->weight->block_k = c->config.weight_block_k;
}

proa_status proa_checkpoint_place(proa_checkpoint *checkpoint, proa_error *err)
{
    place p = {.checkpoint = checkpoint};
    proa_expect_walk(&checkpoint->config, &checkpoint->places, place_one, &p);
    if (p.out_of_memory)
        return proa_error_set(err, PROA_ERR_MEMORY, "%s: no memory left to copy its unaligned tensors",
                              checkpoint->dir);
    return PROA_OK;
}
