/* team_wire.c - see team_wire.h. */
#include "engine/team_wire.h"

#include <stdlib.h>
#include <string.h>

enum { HEAD = 6, SEGMENT = 4 };

struct proa_team_reader {
    proa_team_limits limits;
    int32_t *words; /* [what the longest note has] a copy, which nobody else can change */
    size_t words_max;
    proa_segment *segments; /* [segments_max] */
};

static int32_t blocks_of(int32_t positions)
{
    return (positions + PROA_KV_BLOCK_TOKENS - 1) / PROA_KV_BLOCK_TOKENS;
}

size_t proa_team_note_bytes(const proa_team_limits *l)
{
    size_t tables = (size_t)l->segments_max * (SEGMENT + (size_t)blocks_of(l->positions_max));
    return (HEAD + (size_t)l->rows_max + tables + (size_t)l->logit_rows_max + (size_t)l->brought_max) *
           sizeof(int32_t);
}

/* ---- writing ---- */

static uint8_t *put(uint8_t *to, const int32_t *values, int32_t count)
{
    if (count > 0)
        memcpy(to, values, (size_t)count * sizeof *values);
    return to + (size_t)count * sizeof *values;
}

static int32_t table_of(const proa_segment *s)
{
    return blocks_of(s->position_first + s->row_count);
}

size_t proa_team_note_write(const proa_team_note *note, uint8_t *to)
{
    const proa_step *s = &note->step;
    uint8_t *at = to;
    int32_t blocks = 0;
    for (int32_t i = 0; i < s->segment_count; i++)
        blocks += table_of(&s->segments[i]);
    const int32_t head[HEAD] = {s->row_count,   s->segment_count,    blocks,
                                s->logit_count, note->brought_count, note->brought_per_message};
    at = put(at, head, HEAD);
    at = put(at, s->token_ids, s->row_count);
    for (int32_t i = 0; i < s->segment_count; i++) {
        const proa_segment *part = &s->segments[i];
        const int32_t words[SEGMENT] = {part->row_count, part->position_first, part->absorbed,
                                        table_of(part)};
        at = put(at, words, SEGMENT);
    }
    for (int32_t i = 0; i < s->segment_count; i++)
        at = put(at, s->segments[i].blocks, table_of(&s->segments[i]));
    at = put(at, s->logit_rows, s->logit_count);
    at = put(at, note->brought, note->brought_count);
    return (size_t)(at - to);
}

/* ---- reading ---- */

proa_team_reader *proa_team_reader_create(const proa_team_limits *limits)
{
    proa_team_reader *r = calloc(1, sizeof *r);
    if (r == NULL)
        return NULL;
    r->limits = *limits;
    r->words_max = proa_team_note_bytes(limits) / sizeof(int32_t);
    r->words = calloc(r->words_max, sizeof *r->words);
    r->segments = calloc((size_t)limits->segments_max, sizeof *r->segments);
    if (r->words != NULL && r->segments != NULL)
        return r;
    proa_team_reader_free(r);
    return NULL;
}

void proa_team_reader_free(proa_team_reader *r)
{
    if (r == NULL)
        return;
    free(r->words);
    free(r->segments);
    free(r);
}

void proa_team_reader_narrow(proa_team_reader *r, const proa_forward_limits *limits)
{
    PROA_ASSERT(limits->rows_max <= r->limits.rows_max);
    PROA_ASSERT(limits->logit_rows_max <= r->limits.logit_rows_max);
    PROA_ASSERT(limits->positions_max <= r->limits.positions_max);
    PROA_ASSERT(limits->kv_blocks <= r->limits.kv_blocks);
    r->limits.rows_max = limits->rows_max;
    r->limits.segments_max = r->limits.logit_rows_max = limits->logit_rows_max;
    r->limits.positions_max = limits->positions_max;
    r->limits.kv_blocks = limits->kv_blocks;
}

static bool within(const int32_t *values, int32_t count, int32_t below)
{
    for (int32_t i = 0; i < count; i++) {
        if (values[i] < 0 || values[i] >= below)
            return false;
    }
    return true;
}

static bool ascend(const int32_t *values, int32_t count)
{
    for (int32_t i = 1; i < count; i++) {
        if (values[i] <= values[i - 1])
            return false;
    }
    return true;
}

/* The counts of the head fit the limits, and the message's length. */
static bool fits(const proa_team_limits *l, const int32_t *head, size_t words)
{
    const int32_t most[HEAD] = {l->rows_max,       l->segments_max, INT32_MAX,
                                l->logit_rows_max, l->brought_max,  INT32_MAX};
    for (int i = 0; i < HEAD; i++) {
        if (head[i] < 0 || head[i] > most[i])
            return false;
    }
    if (head[4] > 0 && head[5] == 0)
        return false;
    return words == HEAD + (size_t)head[0] + (size_t)head[1] * SEGMENT + (size_t)head[2] + (size_t)head[3] +
                        (size_t)head[4];
}

/* Segments from their words; they cover the rows, and have blocks for their positions and no others. */
static bool read_segments(proa_team_reader *r, const int32_t *words, int32_t count, int32_t rows,
                          const int32_t *blocks, int32_t block_count)
{
    int64_t row = 0, block = 0;
    for (int32_t i = 0; i < count; i++, words += SEGMENT) {
        int32_t own = words[0], first = words[1];
        bool good = own > 0 && own <= r->limits.rows_max && first >= 0 && words[2] >= 0 && words[2] <= 1 &&
                    (int64_t)first + own <= r->limits.positions_max && words[3] == blocks_of(first + own) &&
                    block + words[3] <= block_count && row + own <= rows;
        if (!good)
            return false;
        r->segments[i] = (proa_segment){.row_first = (int32_t)row,
                                        .row_count = own,
                                        .position_first = first,
                                        .blocks = blocks + block,
                                        .absorbed = words[2] == 1};
        row += own;
        block += words[3];
    }
    return row == rows && block == block_count;
}

proa_status proa_team_note_read(proa_team_reader *r, const uint8_t *from, size_t bytes, proa_team_note *note,
                                proa_error *err)
{
    const proa_team_limits *l = &r->limits;
    size_t words = bytes / sizeof(int32_t);
    const int32_t *head = r->words, *ids = head + HEAD;
    if (bytes % sizeof(int32_t) != 0 || words < HEAD || words > r->words_max)
        return proa_error_set(err, PROA_ERR_PROTOCOL,
                              "a step's note has %zu bytes, where %zu to %zu are possible", bytes,
                              HEAD * sizeof(int32_t), r->words_max * sizeof(int32_t));
    memcpy(r->words, from, bytes);
    if (!fits(l, head, words))
        return proa_error_set(
            err, PROA_ERR_PROTOCOL,
            "a step's note of %zu words says %d rows, %d segments, %d blocks, %d logits and "
            "%d blocks to come, which does not fit",
            words, head[0], head[1], head[2], head[3], head[4]);
    const int32_t *segments = ids + head[0], *blocks = segments + (size_t)head[1] * SEGMENT;
    const int32_t *logit_rows = blocks + head[2], *brought = logit_rows + head[3];
    if (!within(ids, head[0], l->vocab) || !within(blocks, head[2], l->kv_blocks) ||
        !within(logit_rows, head[3], head[0]) || !ascend(logit_rows, head[3]) ||
        !within(brought, head[4], l->kv_blocks) ||
        !read_segments(r, segments, head[1], head[0], blocks, head[2]))
        return proa_error_set(err, PROA_ERR_PROTOCOL,
                              "a step's note of %d rows and %d segments contradicts itself, or names a token "
                              "over %d or a block over %d",
                              head[0], head[1], l->vocab, l->kv_blocks);
    *note = (proa_team_note){.step = {.row_count = head[0],
                                      .token_ids = ids,
                                      .segments = r->segments,
                                      .segment_count = head[1],
                                      .logit_rows = logit_rows,
                                      .logit_count = head[3]},
                             .brought_count = head[4],
                             .brought = brought,
                             .brought_per_message = head[5]};
    return PROA_OK;
}
