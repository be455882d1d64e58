/* digest.h - XXH3 hashes of bytes: prefixes of token ids, KV digests. The only file that includes xxHash.
 * Not cryptographic: never used to authenticate. Any thread may call. */
#ifndef PROA_BASE_DIGEST_H
#define PROA_BASE_DIGEST_H

#include <stddef.h>
#include <stdint.h>

/* 64-bit XXH3 of `bytes` bytes, chained from `seed` (the digest of what stands before). */
uint64_t proa_digest(const void *data, size_t bytes, uint64_t seed);

#endif
