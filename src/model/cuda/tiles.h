/* tiles.h - which tile each product of a step gets: choices that were measured on the GPU (`proa precompile`), looked up at each launch.
 *
 * The bits of a product do not hang on its tile (law 2), its time does. A choice holds for one shape of weight and up to so many rows of a group:
 * among those of the shape the one with the fewest rows that are enough. More rows than were measured, and shapes that were not, are left to
 * the launcher's model of costs. Plain data; owner: the thread that launches.
 */
#ifndef PROA_MODEL_CUDA_TILES_H
#define PROA_MODEL_CUDA_TILES_H

#include "op/linear/cuda.h"

/* What the choice of a tile hangs on. */
typedef struct proa_cuda_shape {
    bool fp8;
    bool y_float;
    proa_cuda_linear_groups form;
    int32_t groups;
    int32_t n;
    int32_t k;
    int32_t rows; /* of a group; where the GPU alone knows, what is likely, at least 1 */
} proa_cuda_shape;

typedef struct proa_cuda_choice {
    proa_cuda_shape shape; /* up to so many rows */
    proa_cuda_tile tile;
    double us;          /* of one launch, as it was measured */
    double built_in_us; /* with the tile that the launcher's model chooses */
} proa_cuda_choice;

typedef struct proa_cuda_tiles {
    proa_cuda_choice *choices; /* by shape, then by rows */
    int32_t count, room;
    int64_t asked, found; /* of proa_cuda_tiles_find */
} proa_cuda_tiles;        /* {0} is empty */

void proa_cuda_tiles_free(proa_cuda_tiles *tiles); /* leaves it empty */

/* Puts it in, in the place of the one for the same product. False: no memory. */
bool proa_cuda_tiles_set(proa_cuda_tiles *tiles, const proa_cuda_choice *choice);
/* The choice for exactly this product, or NULL. */
const proa_cuda_choice *proa_cuda_tiles_at(const proa_cuda_tiles *tiles, const proa_cuda_shape *shape);
/* Takes out that for exactly this product, if there is one. */
void proa_cuda_tiles_remove(proa_cuda_tiles *tiles, const proa_cuda_shape *shape);

/* The tile for a launch; {0, 0}, which leaves the choice to the launcher, when there is none. `tiles` may be NULL. */
proa_cuda_tile proa_cuda_tiles_find(proa_cuda_tiles *tiles, const proa_cuda_shape *shape);

/* Whether the two differ in their rows at most. */
bool proa_cuda_shape_same(const proa_cuda_shape *a, const proa_cuda_shape *b);

/* The i-th tile that is built for the product's type; false: there are no more. And that which the launcher's model chooses. */
bool proa_cuda_shape_tiles(const proa_cuda_shape *shape, int32_t i, proa_cuda_tile *tile);
proa_cuda_tile proa_cuda_shape_built_in(const proa_gpu *gpu, const proa_cuda_shape *shape);

#endif
