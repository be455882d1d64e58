/* team_kv.c - see team_kv.h. */
#include "engine/team_kv.h"

#include <stdlib.h>
#include <string.h>

struct proa_team_kv {
    int32_t members;
    int32_t blocks;
    bool whole;
    uint64_t *lives; /* [members] of the last whole team */
    uint8_t *rows;   /* [blocks] that followers have */
    uint32_t *asked; /* [blocks] the last question in which the block was missing */
    uint32_t question;
};

proa_team_kv *proa_team_kv_create(int32_t members, int32_t blocks)
{
    proa_team_kv *kv = calloc(1, sizeof *kv);
    if (kv == NULL)
        return NULL;
    kv->members = members;
    kv->blocks = blocks;
    kv->lives = calloc((size_t)members, sizeof *kv->lives);
    kv->rows = calloc((size_t)blocks, sizeof *kv->rows);
    kv->asked = calloc((size_t)blocks, sizeof *kv->asked);
    if (kv->lives != NULL && kv->rows != NULL && kv->asked != NULL)
        return kv;
    proa_team_kv_free(kv);
    return NULL;
}

void proa_team_kv_free(proa_team_kv *kv)
{
    if (kv == NULL)
        return;
    free(kv->lives);
    free(kv->rows);
    free(kv->asked);
    free(kv);
}

void proa_team_kv_view(proa_team_kv *kv, const uint64_t *lives)
{
    size_t bytes = (size_t)kv->members * sizeof *lives;
    bool was_whole = kv->whole, same = memcmp(kv->lives, lives, bytes) == 0;
    kv->whole = true;
    for (int32_t i = 0; i < kv->members; i++)
        kv->whole = kv->whole && lives[i] != 0;
    /* who was away has missed nothing yet, but keeping its rows in such cases would have to be proved for each of them */
    if (!(kv->whole && was_whole && same))
        memset(kv->rows, 0, (size_t)kv->blocks * sizeof *kv->rows);
    memcpy(kv->lives, lives, bytes);
}

bool proa_team_kv_is_whole(const proa_team_kv *kv)
{
    return kv->whole;
}

void proa_team_kv_written(proa_team_kv *kv, const int32_t *blocks, int32_t count)
{
    for (int32_t i = 0; i < count; i++)
        kv->rows[blocks[i]] = 0;
}

int32_t proa_team_kv_missing(proa_team_kv *kv, const proa_step *step, int32_t *blocks, int32_t most,
                             bool *all)
{
    int32_t count = 0;
    *all = true;
    if (++kv->question == 0) {
        memset(kv->asked, 0, (size_t)kv->blocks * sizeof *kv->asked);
        kv->question = 1;
    }
    for (int32_t i = 0; i < step->segment_count; i++) {
        const proa_segment *s = &step->segments[i];
        for (int32_t first = 0; first < s->position_first; first += PROA_KV_BLOCK_TOKENS) {
            int32_t block = s->blocks[first / PROA_KV_BLOCK_TOKENS], read = s->position_first - first;
            PROA_ASSERT(block < kv->blocks);
            if (kv->rows[block] >= (read < PROA_KV_BLOCK_TOKENS ? read : PROA_KV_BLOCK_TOKENS) ||
                kv->asked[block] == kv->question)
                continue;
            if (count == most) {
                *all = false;
                return count;
            }
            kv->asked[block] = kv->question;
            blocks[count++] = block;
        }
    }
    return count;
}

void proa_team_kv_brought(proa_team_kv *kv, const int32_t *blocks, int32_t count)
{
    for (int32_t i = 0; i < count; i++)
        kv->rows[blocks[i]] = PROA_KV_BLOCK_TOKENS;
}

void proa_team_kv_computed(proa_team_kv *kv, const proa_step *step)
{
    for (int32_t i = 0; i < step->segment_count; i++) {
        const proa_segment *s = &step->segments[i];
        int32_t end = s->position_first + s->row_count;
        for (int32_t first = s->position_first / PROA_KV_BLOCK_TOKENS * PROA_KV_BLOCK_TOKENS; first < end;
             first += PROA_KV_BLOCK_TOKENS) {
            int32_t rows = end - first;
            kv->rows[s->blocks[first / PROA_KV_BLOCK_TOKENS]] =
                (uint8_t)(rows < PROA_KV_BLOCK_TOKENS ? rows : PROA_KV_BLOCK_TOKENS);
        }
    }
}
