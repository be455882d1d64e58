/* fuzz_team_wire.c - a leader's note of a step: what is read keeps the limits, and is written as it came. */
#include "engine/team_wire.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const proa_team_limits limits = {.rows_max = 40,
                                        .segments_max = 4,
                                        .logit_rows_max = 4,
                                        .positions_max = 300,
                                        .kv_blocks = 9,
                                        .vocab = 64,
                                        .brought_max = 5};

static void check(const proa_team_note *note)
{
    int32_t rows = 0;
    for (int32_t i = 0; i < note->step.segment_count; i++) {
        const proa_segment *s = &note->step.segments[i];
        int32_t end = s->position_first + s->row_count;
        if (s->row_first != rows || s->row_count < 1 || s->position_first < 0 || end > limits.positions_max)
            abort();
        for (int32_t p = 0; p < end; p += PROA_KV_BLOCK_TOKENS) {
            int32_t block = s->blocks[p / PROA_KV_BLOCK_TOKENS];
            if (block < 0 || block >= limits.kv_blocks)
                abort();
        }
        rows += s->row_count;
    }
    if (rows != note->step.row_count || rows > limits.rows_max)
        abort();
    for (int32_t i = 0; i < note->step.logit_count; i++) {
        if (note->step.logit_rows[i] < 0 || note->step.logit_rows[i] >= rows)
            abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    proa_team_reader *reader = proa_team_reader_create(&limits);
    proa_team_note note;
    proa_error err;
    if (reader != NULL && proa_team_note_read(reader, data, size, &note, &err) == PROA_OK) {
        uint8_t *again = malloc(proa_team_note_bytes(&limits));
        check(&note);
        if (proa_team_note_write(&note, again) != size || memcmp(again, data, size) != 0)
            abort();
        free(again);
    }
    proa_team_reader_free(reader);
    return 0;
}
