/* gpu_tiles.h - the choices of tiles that `proa precompile` has kept for a GPU, read at a start. */
#ifndef PROA_CMD_GPU_TILES_H
#define PROA_CMD_GPU_TILES_H

#include "model/cuda/tiles.h"

/* Adds those of the folder (NULL: none), and logs which. A cache that is absent, stale or damaged is no reason not to start: it is told, and
 * the launchers' model of costs chooses. */
void proa_gpu_tiles_read(const proa_gpu *gpu, const char *dir, proa_cuda_tiles *tiles);

#endif
