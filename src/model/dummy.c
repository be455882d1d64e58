/* dummy.c - random weights of the right shapes and types, the same in every run and with any number of threads.
 *
 * Element i of a tensor is made from bits at place i of a counter-based generator keyed by the tensor's name. Weights of a
 * linear layer are uniform with a standard deviation of 1 / sqrt(k), so that activations keep their size from layer to
 * layer; embeddings have 1, norms lie around 1, router biases around 0. FP8 weights use the whole range of e4m3 and
 * carry it in their scales. Two walks: the first sums up the bytes, the second hands out places; then the pool fills.
 */
#include "model/checkpoint.h"

#include "base/digest.h"
#include "base/log.h"
#include "base/number.h"
#include "base/progress.h"
#include "base/random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const uint64_t bytes_max = (uint64_t)1 << 50; /* a tensor alone has less: config.c bounds its sides */

enum { ALIGNMENT = 64, CHUNK_ELEMENTS = 1 << 20, BYTE_CODES = 256, WORDS = 4 };

/* A run of elements of one tensor: value = middle + spread * u, u uniform in (-1, 1). */
typedef struct piece {
    void *data; /* of the tensor */
    proa_dtype dtype;
    uint64_t key;
    uint64_t first; /* a multiple of CHUNK_ELEMENTS */
    uint64_t count;
    float middle;
    float spread;
    bool power_of_two; /* round values up: ue8m0 scales */
} piece;

typedef struct dummy {
    proa_checkpoint *checkpoint;
    uint64_t bytes; /* so far */
    piece *pieces;  /* NULL in the first walk */
    size_t piece_count;
    uint8_t e4m3[BYTE_CODES]; /* random byte -> code of a value uniform in (-448, 448) */
    proa_progress progress;
} dummy;

/* Reserves a tensor of `count` elements; returns its place, or NULL in the first walk. */
static void *reserve(dummy *d, const char *name, piece shape, uint64_t count)
{
    if (d->bytes >= bytes_max)
        return NULL; /* map_memory will refuse; no sum leaves 64 bits on the way there */
    size_t width = proa_dtype_bytes(shape.dtype);
    char *data = d->checkpoint->dummy != NULL ? (char *)d->checkpoint->dummy + d->bytes : NULL;
    d->bytes += (count * width + ALIGNMENT - 1) & ~(uint64_t)(ALIGNMENT - 1);
    for (uint64_t first = 0; first < count; first += CHUNK_ELEMENTS) {
        if (d->pieces != NULL) {
            shape.data = data;
            shape.key = proa_digest(name, strlen(name), 0);
            shape.first = first;
            shape.count = count - first < CHUNK_ELEMENTS ? count - first : CHUNK_ELEMENTS;
            d->pieces[d->piece_count] = shape;
        }
        d->piece_count++;
    }
    return data;
}

static void reserve_fp8(dummy *d, const proa_expect *e, float spread)
{
    const proa_model_config *c = &d->checkpoint->config;
    proa_weight *w = e->weight;
    *w = (proa_weight){.dtype = PROA_DTYPE_E4M3, .n = e->n, .k = e->k};
    w->block_n = c->weight_block_n;
    w->block_k = c->weight_block_k;
    uint64_t blocks =
        ((uint64_t)e->n + w->block_n - 1) / w->block_n * (((uint64_t)e->k + w->block_k - 1) / w->block_k);
    char name[160];
    proa_expect_scale_name(e->name, name);
    w->data = reserve(d, e->name, (piece){.dtype = PROA_DTYPE_E4M3}, (uint64_t)e->n * e->k);
    /* powers of two round up, by 1.5 on average */
    float middle = spread / 448 / (c->ue8m0 ? 1.5f : 1);
    w->scale = reserve(
        d, name,
        (piece){.dtype = PROA_DTYPE_F32, .middle = middle, .spread = middle / 4, .power_of_two = c->ue8m0},
        blocks);
}

static void reserve_one(void *context, const proa_expect *e)
{
    dummy *d = context;
    if (e->weight == NULL && e->bias == NULL)
        return;
    if (e->bias != NULL) {
        *e->bias = reserve(d, e->name, (piece){.dtype = PROA_DTYPE_F32, .spread = 0.05f}, (uint64_t)e->k);
        return;
    }
    bool embedding = e->weight == &d->checkpoint->weights.embed_tokens;
    float spread = sqrtf(embedding ? 3 : 3 / (float)e->k); /* uniform: the deviation is spread / sqrt(3) */
    if (e->kind == PROA_EXPECT_MATRIX && d->checkpoint->config.fp8) {
        reserve_fp8(d, e, spread);
        return;
    }
    piece shape = {.dtype = PROA_DTYPE_BF16, .spread = spread};
    if (e->kind == PROA_EXPECT_NORM)
        shape = (piece){.dtype = PROA_DTYPE_BF16, .middle = 1, .spread = 0.1f};
    *e->weight = (proa_weight){.dtype = shape.dtype, .n = e->n, .k = e->k};
    e->weight->data = reserve(d, e->name, shape, (uint64_t)e->n * e->k);
}

static void fill_e4m3(const dummy *d, const piece *p)
{
    uint8_t *out = (uint8_t *)p->data + p->first;
    for (uint64_t i = 0; i < p->count; i += sizeof(uint32_t) * WORDS) {
        uint32_t words[WORDS];
        uint8_t bytes[sizeof words];
        proa_random_philox(p->key, p->first + i, 0, words);
        memcpy(bytes, words, sizeof bytes);
        uint64_t left = p->count - i < sizeof bytes ? p->count - i : sizeof bytes;
        for (uint64_t j = 0; j < left; j++)
            out[i + j] = d->e4m3[bytes[j]];
    }
}

static float spread_value(const piece *p, float u)
{
    float value = p->middle + p->spread * u;
    return p->power_of_two ? exp2f(ceilf(log2f(value))) : value;
}

static void fill_float(const piece *p)
{
    float *out = (float *)p->data + p->first;
    for (uint64_t i = 0; i < p->count; i += WORDS) {
        uint32_t words[WORDS];
        proa_random_philox(p->key, p->first + i, 0, words);
        uint64_t left = p->count - i < WORDS ? p->count - i : WORDS;
        for (uint64_t j = 0; j < left; j++)
            out[i + j] = spread_value(p, ((float)(words[j] >> 8) + 0.5f) * 0x1p-23f - 1);
    }
}

/* 16 random bits an element are more than bf16 keeps. */
static void fill_bf16(const piece *p)
{
    uint16_t *out = (uint16_t *)p->data + p->first;
    for (uint64_t i = 0; i < p->count; i += 2 * WORDS) {
        uint32_t words[WORDS];
        uint16_t halves[2 * WORDS];
        proa_random_philox(p->key, p->first + i, 0, words);
        memcpy(halves, words, sizeof halves);
        uint64_t left = p->count - i < 2 * WORDS ? p->count - i : 2 * WORDS;
        for (uint64_t j = 0; j < left; j++)
            out[i + j] = proa_f32_to_bf16(spread_value(p, ((float)halves[j] + 0.5f) * 0x1p-15f - 1));
    }
}

static void fill(void *context, int task, int thread)
{
    (void)thread;
    dummy *d = context;
    const piece *p = &d->pieces[task];
    if (p->dtype == PROA_DTYPE_E4M3)
        fill_e4m3(d, p);
    else if (p->dtype == PROA_DTYPE_BF16)
        fill_bf16(p);
    else
        fill_float(p);
    proa_progress_add(&d->progress, p->count * proa_dtype_bytes(p->dtype));
}

/* Memory for the weights, not counted on before it is written to. */
static proa_status map_memory(proa_checkpoint *checkpoint, uint64_t bytes, proa_error *err)
{
    long pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);
    char wanted[24], there[24];
    if (bytes >= bytes_max || (pages > 0 && page_bytes > 0 && bytes > (uint64_t)pages * (uint64_t)page_bytes))
        return proa_error_set(err, PROA_ERR_MEMORY,
                              "%s/config.json: dummy weights take %s, this machine has %s of memory; make "
                              "num_hidden_layers or n_routed_experts smaller",
                              checkpoint->dir, proa_format_bytes((double)bytes, wanted),
                              proa_format_bytes((double)pages * (double)page_bytes, there));
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return proa_error_set(err, PROA_ERR_MEMORY, "%s/config.json: no memory left for %s of dummy weights",
                              checkpoint->dir, proa_format_bytes((double)bytes, wanted));
    madvise(memory, bytes, MADV_HUGEPAGE); /* fewer TLB misses; without it all is well too */
    checkpoint->dummy = memory;
    checkpoint->dummy_bytes = bytes;
    return PROA_OK;
}

proa_status proa_checkpoint_make_dummy(proa_checkpoint *checkpoint, proa_error *err)
{
    dummy d = {.checkpoint = checkpoint};
    proa_expect_walk(&checkpoint->config, &checkpoint->places, reserve_one, &d);
    proa_status status = map_memory(checkpoint, d.bytes, err);
    if (status != PROA_OK)
        return status;
    d.pieces = calloc(d.piece_count + 1, sizeof d.pieces[0]);
    if (d.pieces == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "%s: no memory left to make dummy weights",
                              checkpoint->dir);
    d.bytes = d.piece_count = 0;
    proa_expect_walk(&checkpoint->config, &checkpoint->places, reserve_one, &d);
    checkpoint->weights.bytes = d.bytes;
    for (int byte = 0; byte < BYTE_CODES; byte++)
        d.e4m3[byte] = proa_f32_to_e4m3(((float)byte - 127.5f) / 127.5f * 448);
    proa_progress_start(&d.progress, "making dummy weights", d.bytes, "B");
    proa_pool_run(checkpoint->pool, fill, &d, (int)d.piece_count);
    double seconds = proa_progress_finish(&d.progress);
    char size[24], rate[24];
    proa_log(PROA_LOG_INFO, "model", "made %s of dummy weights in %.2f s (%s/s)",
             proa_format_bytes((double)d.bytes, size), seconds,
             proa_format_bytes((double)d.bytes / seconds, rate));
    free(d.pieces);
    return PROA_OK;
}
