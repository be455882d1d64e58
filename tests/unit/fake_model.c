/* fake_model.c - see fake_model.h. Rows are written for the whole step before any is read for a digest, as a layer of
 * the real model does. */
#include "fake_model.h"

#include <stdlib.h>
#include <string.h>

uint64_t fake_mix(uint64_t a, uint64_t b)
{
    uint64_t x = a ^ (b + 0x9E3779B97F4A7C15u + (a << 6) + (a >> 2));
    x = (x ^ (x >> 32)) * 0xD6E8FEB86659FD93u;
    x = (x ^ (x >> 29)) * 0xBF58476D1CE4E5B9u;
    return x ^ (x >> 32);
}

void fake_model_init(fake_model *model, int32_t blocks, int32_t vocab)
{
    *model = (fake_model){.blocks = blocks, .vocab = vocab};
    size_t count = (size_t)blocks * PROA_KV_BLOCK_TOKENS;
    model->rows = malloc(count * sizeof *model->rows);
    if (model->rows == NULL)
        abort();
    for (size_t i = 0; i < count; i++)
        model->rows[i] = fake_mix(i, 77);
}

void fake_model_free(fake_model *model)
{
    free(model->rows);
}

uint64_t *fake_model_row(fake_model *model, const int32_t *blocks, int32_t position)
{
    int32_t block = blocks[position / PROA_KV_BLOCK_TOKENS];
    PROA_ASSERT(block >= 0 && block < model->blocks);
    return &model->rows[(size_t)block * PROA_KV_BLOCK_TOKENS + (size_t)(position % PROA_KV_BLOCK_TOKENS)];
}

void fake_model_copy(fake_model *model, const proa_kv_copy *copies, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        const proa_kv_copy *copy = &copies[i];
        PROA_ASSERT(copy->from != copy->to);
        PROA_ASSERT(copy->tokens >= 1 && copy->tokens < PROA_KV_BLOCK_TOKENS);
        for (int32_t t = 0; t < copy->tokens; t++)
            *fake_model_row(model, &copy->to, t) = *fake_model_row(model, &copy->from, t);
    }
}

static uint64_t next_row(uint64_t previous, int32_t token, bool absorbed)
{
    return fake_mix(previous, (uint64_t)token * 2 + absorbed);
}

/* Reading is most of the work: one multiplication a row, order kept. */
static uint64_t read_row(uint64_t digest, uint64_t row)
{
    return (digest ^ row) * 0x9E3779B97F4A7C15u;
}

static uint64_t read_rows(fake_model *model, const int32_t *blocks, int32_t count)
{
    uint64_t digest = 0;
    for (int32_t first = 0; first < count; first += PROA_KV_BLOCK_TOKENS) {
        const uint64_t *rows = fake_model_row(model, blocks, first);
        for (int32_t i = 0; i < PROA_KV_BLOCK_TOKENS && first + i < count; i++)
            digest = read_row(digest, rows[i]);
    }
    return digest;
}

void fake_model_step(fake_model *model, const proa_step *step, uint64_t *digests)
{
    int32_t row = 0;
    for (int32_t i = 0; i < step->segment_count; i++) {
        const proa_segment *segment = &step->segments[i];
        PROA_ASSERT(segment->row_first == row);
        for (int32_t r = 0; r < segment->row_count; r++) {
            int32_t p = segment->position_first + r;
            uint64_t previous = p > 0 ? *fake_model_row(model, segment->blocks, p - 1) : 0;
            *fake_model_row(model, segment->blocks, p) =
                next_row(previous, step->token_ids[row++], segment->absorbed);
        }
    }
    PROA_ASSERT(row == step->row_count);
    for (int32_t i = 0, l = 0; i < step->segment_count && l < step->logit_count; i++) {
        const proa_segment *segment = &step->segments[i];
        for (; l < step->logit_count && step->logit_rows[l] < segment->row_first + segment->row_count; l++) {
            PROA_ASSERT(step->logit_rows[l] >= segment->row_first);
            int32_t last = segment->position_first + step->logit_rows[l] - segment->row_first;
            digests[l] = read_rows(model, segment->blocks, last + 1);
        }
    }
}

void fake_model_execute(fake_model *model, const proa_schedule_plan *plan, const int32_t *const *tokens,
                        uint64_t *digests)
{
    int32_t ids[FAKE_PLAN_ROWS], logit_rows[FAKE_PLAN_SEGMENTS], row = 0, logits = 0;
    proa_segment segments[FAKE_PLAN_SEGMENTS];
    uint64_t read[FAKE_PLAN_SEGMENTS];
    PROA_ASSERT(plan->segment_count <= FAKE_PLAN_SEGMENTS);
    PROA_ASSERT(plan->row_count <= FAKE_PLAN_ROWS);
    for (int32_t i = 0; i < plan->segment_count; i++) {
        const proa_plan_segment *p = &plan->segments[i];
        segments[i] = (proa_segment){row, p->row_count, p->position_first, p->blocks, p->absorbed};
        memcpy(ids + row, tokens[p->slot] + p->position_first, (size_t)p->row_count * sizeof *ids);
        row += p->row_count;
        if (p->logits)
            logit_rows[logits++] = row - 1;
    }
    fake_model_copy(model, plan->copies, plan->copy_count);
    fake_model_step(model, &(proa_step){row, ids, segments, plan->segment_count, logit_rows, logits}, read);
    for (int32_t i = 0, l = 0; i < plan->segment_count; i++) {
        if (plan->segments[i].logits)
            digests[i] = read[l++];
    }
}

int32_t fake_model_token(const fake_model *model, uint64_t digest)
{
    return (int32_t)(fake_mix(digest, 1) % (uint64_t)model->vocab);
}

void fake_oracle_feed(fake_oracle *oracle, int32_t token, bool absorbed)
{
    oracle->row = next_row(oracle->row, token, absorbed);
    oracle->digest = read_row(oracle->digest, oracle->row);
    oracle->count++;
}
