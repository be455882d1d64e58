/* gpu_tiles.c - see gpu_tiles.h. */
#include "cmd/gpu_tiles.h"

#include "base/log.h"
#include "model/cuda/tile_cache.h"

#include <stdio.h>

void proa_gpu_tiles_read(const proa_gpu *gpu, const char *dir, proa_cuda_tiles *tiles)
{
    const proa_cuda_tile_key key = proa_cuda_tile_key_of(gpu);
    char path[PROA_CUDA_TILE_PATH], others[64] = "";
    proa_error err = {0};
    if (dir == NULL)
        return;
    proa_status status = proa_cuda_tile_cache_path(dir, &key, path, &err);
    if (status == PROA_OK)
        status = proa_cuda_tile_cache_read(path, &key, tiles, &err);
    if (status == PROA_OK) {
        proa_log(PROA_LOG_INFO, "gpu", "%d tile choices measured on such a GPU, from %s", tiles->count, path);
    } else if (status == PROA_ERR_NOT_FOUND) {
        const int32_t count = proa_cuda_tile_cache_others(dir, &key);
        if (count > 0)
            snprintf(others, sizeof others, " (there are %d of other kernels)", count);
        proa_log(
            PROA_LOG_INFO, "gpu",
            "no measured tile choices for these kernels in %s%s: a model of costs chooses; `proa precompile` "
            "measures",
            dir, others);
    } else {
        proa_log(PROA_LOG_WARN, "gpu", "%s. Until then a model of costs chooses tiles", err.text);
    }
}
