/* edit.c - bias, penalties and bans of one row. */
#include "op/sample/row.h"

static bool penalises(const proa_sample_params *p)
{
    return p->repetition_penalty != 1 || p->frequency_penalty != 0 || p->presence_penalty != 0;
}

bool proa_sample_edits(const proa_sample_params *p)
{
    return p->bias_count > 0 || p->banned_count > 0 || (penalises(p) && p->count_count > 0);
}

static float penalise(const proa_sample_params *p, const proa_token_count *count, float logit)
{
    if (count->prompt + count->output > 0 && p->repetition_penalty != 1)
        logit = logit > 0 ? logit / p->repetition_penalty : logit * p->repetition_penalty;
    if (count->output > 0) {
        logit -= p->frequency_penalty * (float)count->output;
        logit -= p->presence_penalty;
    }
    return proa_sample_clean(logit);
}

void proa_sample_edit(const proa_sample_params *p, float *logits, int32_t vocab)
{
    for (int32_t i = 0; i < p->bias_count; i++) {
        int32_t id = p->bias[i].id;
        PROA_ASSERT(id >= 0);
        PROA_ASSERT(id < vocab);
        logits[id] = proa_sample_clean(logits[id] + p->bias[i].bias);
    }
    if (penalises(p))
        for (int32_t i = 0; i < p->count_count; i++) {
            int32_t id = p->counts[i].id;
            PROA_ASSERT(id >= 0);
            PROA_ASSERT(id < vocab);
            logits[id] = penalise(p, &p->counts[i], logits[id]);
        }
    for (int32_t i = 0; i < p->banned_count; i++) {
        PROA_ASSERT(p->banned[i] >= 0);
        PROA_ASSERT(p->banned[i] < vocab);
        logits[p->banned[i]] = -INFINITY;
    }
}
