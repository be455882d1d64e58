/* fuzz_tile_cache.c - any bytes as a cache of tile choices: refused with a text and without a choice, or choices of tiles that are built, found by
 * their shapes, and the same when they are written and read again. */
#include "model/cuda/tile_cache.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const proa_cuda_tile_key key = {
    .gpu = "stand-in", .capability = 90, .multiprocessors = 132, .kernels = "5ad1000000000000"};

static void check_choice(proa_cuda_tiles *tiles, const proa_cuda_choice *c)
{
    proa_cuda_tile tile = proa_cuda_tiles_find(tiles, &c->shape), built;
    bool found = false;
    PROA_ASSERT(tile.rows == c->tile.rows);
    PROA_ASSERT(tile.columns == c->tile.columns);
    for (int32_t i = 0; proa_cuda_shape_tiles(&c->shape, i, &built); i++)
        found |= built.rows == tile.rows && built.columns == tile.columns;
    PROA_ASSERT(found);
    PROA_ASSERT(c->shape.rows > 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    proa_cuda_tiles tiles = {0}, again = {0};
    proa_buf text = {0};
    proa_error err = {0};
    if (proa_cuda_tile_cache_parse((const char *)data, size, "x", &key, &tiles, &err) != PROA_OK) {
        PROA_ASSERT(err.text[0] != '\0');
        PROA_ASSERT(tiles.count == 0);
        return 0;
    }
    for (int32_t i = 0; i < tiles.count; i++)
        check_choice(&tiles, &tiles.choices[i]);
    proa_cuda_tile_cache_print(&key, &tiles, &text);
    const proa_status status =
        proa_cuda_tile_cache_parse(proa_buf_text(&text), text.length, "y", &key, &again, &err);
    PROA_ASSERT(status == PROA_OK);
    PROA_ASSERT(again.count == tiles.count);
    for (int32_t i = 0; i < tiles.count; i++)
        PROA_ASSERT(proa_cuda_shape_same(&again.choices[i].shape, &tiles.choices[i].shape));
    proa_buf_free(&text);
    proa_cuda_tiles_free(&tiles);
    proa_cuda_tiles_free(&again);
    return 0;
}
