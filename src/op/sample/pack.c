/* pack.c - see pack.h. */
#include "op/sample/pack.h"

#include "base/random.h"
#include "op/sample/row.h"

size_t proa_sample_pack_bytes(int32_t rows_max, int32_t entries_max)
{
    return (size_t)rows_max * sizeof(proa_sample_packed_row) +
           (size_t)entries_max * sizeof(proa_sample_entry);
}

proa_sample_pack proa_sample_pack_at(void *block, int32_t rows_max, int32_t entries_max)
{
    proa_sample_packed_row *rows = block;
    return (proa_sample_pack){.rows_max = rows_max,
                              .entries_max = entries_max,
                              .rows = rows,
                              .entries = (proa_sample_entry *)(rows + rows_max)};
}

size_t proa_sample_pack_used(const proa_sample_pack *pack)
{
    return pack->entry_count > 0 ? proa_sample_pack_bytes(pack->rows_max, pack->entry_count)
                                 : proa_sample_pack_bytes(pack->row_count, 0);
}

/* Whether the penalties move a logit that this count is of. */
static bool counts(const proa_sample_params *p, const proa_token_count *count)
{
    return (count->output > 0 && (p->frequency_penalty != 0 || p->presence_penalty != 0)) ||
           (count->prompt + count->output > 0 && p->repetition_penalty != 1);
}

/* The next entry, or NULL when all are taken. */
static proa_sample_entry *add(proa_sample_pack *pack, int32_t id, int32_t vocab)
{
    PROA_ASSERT(id >= 0);
    PROA_ASSERT(id < vocab);
    if (pack->entry_count == pack->entries_max)
        return NULL;
    proa_sample_entry *entry = &pack->entries[pack->entry_count++];
    *entry = (proa_sample_entry){.id = id};
    return entry;
}

/* False when not all of the row's entries find room. */
static bool add_entries(proa_sample_pack *pack, const proa_sample_params *p, proa_sample_packed_row *row,
                        int32_t vocab)
{
    proa_sample_entry *entry;
    for (int32_t i = 0; i < p->bias_count; i++) {
        if ((entry = add(pack, p->bias[i].id, vocab)) == NULL)
            return false;
        entry->bias = p->bias[i].bias;
    }
    for (int32_t i = 0; i < p->count_count; i++) {
        if (!counts(p, &p->counts[i]))
            continue;
        if ((entry = add(pack, p->counts[i].id, vocab)) == NULL)
            return false;
        entry->output = p->counts[i].output > 0 ? p->counts[i].output : 0;
        row->count_count++;
    }
    for (int32_t i = 0; i < p->banned_count; i++)
        if (add(pack, p->banned[i], vocab) == NULL)
            return false;
    return true;
}

static bool add_row(proa_sample_pack *pack, const proa_sample_params *p, int32_t logits_row, int32_t vocab)
{
    const int32_t first = pack->entry_count;
    proa_sample_packed_row row = {
        .temperature = p->temperature,
        .top_p = p->top_p,
        .min_p = p->min_p,
        .top_k = p->top_k,
        .repetition_penalty = p->repetition_penalty,
        .frequency_penalty = p->frequency_penalty,
        .presence_penalty = p->presence_penalty,
        .top_logprobs = p->top_logprobs,
        .logits_row = logits_row,
        .first = first,
        .bias_count = p->bias_count,
        .banned_count = p->banned_count,
    };
    PROA_ASSERT(p->top_logprobs <= PROA_SAMPLE_MAX_TOP_LOGPROBS);
    if (pack->row_count == pack->rows_max || !add_entries(pack, p, &row, vocab)) {
        pack->entry_count = first;
        return false;
    }
    if (p->temperature != 0)
        row.uniform = proa_random_uniform(p->seed, (uint64_t)p->position);
    pack->rows[pack->row_count++] = row;
    return true;
}

proa_status proa_sample_pack_fill(proa_sample_pack *pack, const proa_sample_params *params,
                                  const int32_t *row_of, int32_t first, int32_t rows, int32_t vocab,
                                  proa_error *err)
{
    PROA_ASSERT(pack->rows_max > 0);
    pack->row_count = pack->entry_count = 0;
    for (int32_t r = first; r < rows; r++) {
        if (add_row(pack, &params[r], row_of != NULL ? row_of[r] : r, vocab))
            continue;
        if (r > first)
            return PROA_BUSY;
        return proa_error_set(
            err, PROA_ERR_TOO_LONG,
            "a request's %d logit biases, %d counts for penalties and %d banned ids are more "
            "than the sampler's %d entries: send fewer",
            params[r].bias_count, params[r].count_count, params[r].banned_count, pack->entries_max);
    }
    return PROA_OK;
}
