/* digest.c - the wrapper of xxHash. */
#include "base/digest.h"

#include <xxhash.h>

uint64_t proa_digest(const void *data, size_t bytes, uint64_t seed)
{
    return XXH3_64bits_withSeed(data, bytes, seed);
}
