/* crypto.c - HMAC-SHA256 and random bytes, by OpenSSL. */
#include "net/link.h"

#include <openssl/crypto.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

void proa_hmac(const uint8_t *key, size_t key_bytes, const void *data, size_t length, uint8_t out[32])
{
    PROA_ASSERT(key_bytes <= INT32_MAX);
    unsigned written = 0;
    /* OpenSSL takes a NULL key for "the key of before" */
    const uint8_t *made = HMAC(EVP_sha256(), key != NULL ? key : (const uint8_t *)"", (int)key_bytes, data,
                               length, out, &written);
    PROA_ASSERT(made !=
                NULL); /* fails only for want of memory or of the algorithm: there is no way to go on */
    PROA_ASSERT(written == 32);
}

bool proa_hmac_equal(const uint8_t a[32], const uint8_t b[32])
{
    return CRYPTO_memcmp(a, b, 32) == 0;
}

void proa_random_bytes(void *out, size_t length)
{
    PROA_ASSERT(length <= INT32_MAX);
    PROA_ASSERT(RAND_bytes(out, (int)length) == 1);
}

const char *proa_crypto_library_version(void)
{
    return OpenSSL_version(OPENSSL_VERSION);
}
