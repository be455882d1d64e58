/* link_certificates.h - authorities and certificates made for a test, as PEM files in a folder of their own. */
#ifndef PROA_TESTS_LINK_CERTIFICATES_H
#define PROA_TESTS_LINK_CERTIFICATES_H

#include "net/link.h"

/* Files ca.pem, a.pem, a.key, b.pem, b.key: two members of one authority; other-ca.pem, other.pem, other.key: one of another;
 * late.pem, late.key: a member whose certificate has expired. */
void link_certificates_make(const char *folder);
void link_certificates_remove(const char *folder);

/* Security with the key LINK_KEY and the certificate `name`, trusting the authority `ca`. The paths live in `place`. */
typedef struct link_paths {
    char cert[256], key[256], ca[256];
} link_paths;

proa_link_security link_certificates_security(const char *folder, const char *name, const char *ca,
                                              link_paths *place);

#endif
