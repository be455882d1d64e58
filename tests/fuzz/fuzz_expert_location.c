/* fuzz_expert_location.c - any bytes as a placement or a load: refused with a text, or fitted to a small model and placed so
 * that each expert has a slot; what is written is read back as it was, but for layers without experts. */
#include "engine/expert_location.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const proa_expert_shape shape = {3, 4, 6, 2, 1, 0};
static const bool moe[3] = {false, true, true};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    proa_expert_location location, again;
    proa_error err = {0};
    int32_t map[18];
    if (proa_expert_location_parse((const char *)data, size, &location, &err) != PROA_OK) {
        PROA_ASSERT(err.text[0] != '\0');
        return 0;
    }
    if (proa_expert_location_fit(&location, &shape, moe, &err) == PROA_OK &&
        proa_expert_location_place(&location, &shape, PROA_EPLB_AUTO, map, &err) == PROA_OK) {
        proa_buf text = {0};
        for (int i = 6; i < 18; i++) /* rows of layers with experts */
            PROA_ASSERT(map[i] >= 0 && map[i] < shape.experts);
        proa_expert_location_write(&shape, map, &text);
        proa_status status = proa_expert_location_parse(proa_buf_text(&text), text.length, &again, &err);
        PROA_ASSERT(status == PROA_OK);
        status = proa_expert_location_fit(&again, &shape, moe, &err);
        PROA_ASSERT(status == PROA_OK);
        PROA_ASSERT(memcmp(again.map + 6, map + 6, 12 * sizeof *map) == 0);
        proa_expert_location_free(&again);
        proa_buf_free(&text);
    }
    proa_expert_location_free(&location);
    return 0;
}
