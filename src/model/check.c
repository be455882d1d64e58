/* check.c - the catalogue of a checkpoint against what its configuration implies.
 *
 * Three lists: missing, unexpected, wrong (shape or type). The first 20 of each are logged, since an error's text is
 * short; the error itself counts them and names the first of each. A tensor that nobody expects is an error: it means
 * that the configuration describes another model (one with biases, say), whose results would be wrong.
 */
#include "model/checkpoint.h"

#include "base/buf.h"
#include "base/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { LOGGED_MAX = 20, NAMED_MAX = 3 };

typedef struct finding_list {
    const char *title;
    size_t count;
    proa_buf named; /* the first few, for the error */
} finding_list;

typedef struct check {
    proa_checkpoint *checkpoint;
    finding_list missing;
    finding_list unexpected;
    finding_list wrong;
} check;

static void add(finding_list *list, const char *text)
{
    if (list->count++ < LOGGED_MAX)
        proa_log(PROA_LOG_ERROR, "model", "%s: %s", list->title, text);
    if (list->count <= NAMED_MAX)
        proa_buf_append_format(&list->named, "%s%.160s", list->count > 1 ? ", " : "", text);
}

/* "[2, 3]" */
static const char *shape_text(const proa_tensor *t, char text[160])
{
    size_t n = 0;
    for (int32_t i = 0; i < t->dims; i++)
        n += (size_t)snprintf(text + n, 160 - n, "%s%" PRId64, i > 0 ? ", " : "[", t->shape[i]);
    snprintf(text + n, 160 - n, "%s", t->dims > 0 ? "]" : "[]");
    return text;
}

static bool has_shape(const proa_tensor *t, int32_t n, int32_t k, bool flat)
{
    if (flat)
        return t->dims == 1 && t->shape[0] == k;
    return t->dims == 2 && t->shape[0] == n && t->shape[1] == k;
}

static void compare(check *c, const proa_shard_tensor *entry, const char *types, bool type_fits, int32_t n,
                    int32_t k, bool flat)
{
    const proa_tensor *t = entry->tensor;
    if (type_fits && has_shape(t, n, k, flat))
        return;
    char shape[160], text[640], wanted[64];
    if (flat)
        snprintf(wanted, sizeof wanted, "[%d]", k);
    else
        snprintf(wanted, sizeof wanted, "[%d, %d]", n, k);
    snprintf(text, sizeof text, "%.200s is %s %s, config.json implies %s %s", entry->name, t->dtype_name,
             shape_text(t, shape), types, wanted);
    add(&c->wrong, text);
}

static const char *served_types(proa_expect_kind kind, bool fp8)
{
    return kind == PROA_EXPECT_MATRIX && fp8 ? "F8_E4M3, BF16 or F32" : "BF16 or F32";
}

static bool type_is_served(proa_expect_kind kind, bool fp8, proa_dtype dtype)
{
    if (dtype == PROA_DTYPE_E4M3)
        return kind == PROA_EXPECT_MATRIX && fp8;
    return dtype == PROA_DTYPE_BF16 || dtype == PROA_DTYPE_F32;
}

/* An FP8 matrix needs scales; another must not have any. */
static void check_scale(check *c, const proa_expect *e, bool fp8_weight)
{
    const proa_model_config *config = &c->checkpoint->config;
    char name[160];
    proa_shard_tensor *scale =
        proa_shards_find(&c->checkpoint->shards, proa_expect_scale_name(e->name, name));
    if (scale == NULL && fp8_weight)
        add(&c->missing, name);
    if (scale == NULL)
        return;
    scale->known = true;
    if (!fp8_weight) {
        char text[240];
        snprintf(text, sizeof text, "%s (its weight is absent or not FP8)", name);
        add(&c->unexpected, text);
        return;
    }
    scale->served = e->weight != NULL;
    bool fits = scale->tensor->dtype == PROA_DTYPE_F32 || scale->tensor->dtype == PROA_DTYPE_E8M0;
    compare(c, scale, "F32 or F8_E8M0", fits, (e->n + config->weight_block_n - 1) / config->weight_block_n,
            (e->k + config->weight_block_k - 1) / config->weight_block_k, false);
}

/* One grouped product runs all experts of a layer, so that they must be stored alike. */
static void check_like(check *c, const proa_shard_tensor *entry, const char *like)
{
    const proa_shard_tensor *model = like != NULL ? proa_shards_find(&c->checkpoint->shards, like) : NULL;
    if (model == NULL || model->tensor->dtype == entry->tensor->dtype)
        return;
    char text[640];
    snprintf(text, sizeof text, "%.200s is %s, but %.200s is %s: the experts of a layer must have one type",
             entry->name, entry->tensor->dtype_name, like, model->tensor->dtype_name);
    add(&c->wrong, text);
}

static void check_one(void *context, const proa_expect *e)
{
    check *c = context;
    bool fp8 = c->checkpoint->config.fp8;
    proa_shard_tensor *entry = proa_shards_find(&c->checkpoint->shards, e->name);
    if (entry == NULL && e->required)
        add(&c->missing, e->name);
    if (entry != NULL) {
        entry->known = true;
        entry->served = e->weight != NULL || e->bias != NULL;
        bool flat = e->kind == PROA_EXPECT_NORM || e->kind == PROA_EXPECT_BIAS;
        compare(c, entry, served_types(e->kind, fp8), type_is_served(e->kind, fp8, entry->tensor->dtype),
                e->n, e->k, flat);
        check_like(c, entry, e->like);
    }
    if (e->kind == PROA_EXPECT_MATRIX && fp8)
        check_scale(c, e, entry != NULL && entry->tensor->dtype == PROA_DTYPE_E4M3);
}

/* Buffers that old exporters wrote and every reader ignores. */
static bool is_ignored(const char *name)
{
    static const char suffix[] = ".rotary_emb.inv_freq";
    size_t length = strlen(name), tail = sizeof suffix - 1;
    return length > tail && strcmp(name + length - tail, suffix) == 0;
}

static void append_list(proa_buf *text, const finding_list *list)
{
    if (list->count == 0)
        return;
    proa_buf_append_format(text, "; %zu %s: %s", list->count, list->title, proa_buf_text(&list->named));
    if (list->count > NAMED_MAX)
        proa_buf_append_text(text, ", ...");
}

proa_status proa_checkpoint_check(proa_checkpoint *checkpoint, proa_error *err)
{
    check c = {.checkpoint = checkpoint,
               .missing = {.title = "missing"},
               .unexpected = {.title = "unexpected"},
               .wrong = {.title = "wrong"}};
    proa_expect_walk(&checkpoint->config, &checkpoint->places, check_one, &c);
    for (size_t i = 0; i < checkpoint->shards.tensor_count; i++) {
        const proa_shard_tensor *entry = &checkpoint->shards.tensors[i];
        if (!entry->known && !is_ignored(entry->name))
            add(&c.unexpected, entry->name);
    }
    proa_status status = PROA_OK;
    if (c.missing.count + c.unexpected.count + c.wrong.count > 0) {
        proa_buf text = {0};
        append_list(&text, &c.missing);
        append_list(&text, &c.unexpected);
        append_list(&text, &c.wrong);
        status = proa_error_set(
            err, PROA_ERR_CORRUPT,
            "%s: the tensors are not those that config.json implies%s; take config.json and all "
            "shards from the same published model",
            checkpoint->dir, proa_buf_text(&text));
        proa_buf_free(&text);
    }
    proa_buf_free(&c.missing.named);
    proa_buf_free(&c.unexpected.named);
    proa_buf_free(&c.wrong.named);
    return status;
}
