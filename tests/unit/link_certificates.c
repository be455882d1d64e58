#include "link_certificates.h"
#include "link_fixture.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { DAY = 86400 };

typedef struct holder {
    EVP_PKEY *key;
    X509 *certificate;
} holder;

static void write_pem(const char *folder, const char *name, const char *suffix, EVP_PKEY *key,
                      X509 *certificate)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s%s", folder, name, suffix);
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    if (key != NULL)
        assert_int_equal(PEM_write_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL), 1);
    if (certificate != NULL)
        assert_int_equal(PEM_write_X509(file, certificate), 1);
    assert_int_equal(fclose(file), 0);
}

/* A key and its certificate, by `authority` (NULL: by itself, an authority); valid from `from_s` to `to_s` seconds from now. */
static holder make(const char *name, const holder *authority, long from_s, long to_s)
{
    holder h = {.key = EVP_EC_gen("P-256"), .certificate = X509_new()};
    assert_true(h.key != NULL && h.certificate != NULL);
    X509_NAME *subject = X509_get_subject_name(h.certificate);
    X509_set_version(h.certificate, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(h.certificate), authority == NULL ? 1 : 2);
    X509_gmtime_adj(X509_getm_notBefore(h.certificate), from_s);
    X509_gmtime_adj(X509_getm_notAfter(h.certificate), to_s);
    X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1, 0);
    X509_set_issuer_name(h.certificate,
                         authority != NULL ? X509_get_subject_name(authority->certificate) : subject);
    X509_set_pubkey(h.certificate, h.key);
    if (authority == NULL) {
        X509_EXTENSION *ca = X509V3_EXT_conf_nid(NULL, NULL, NID_basic_constraints, "critical,CA:TRUE");
        assert_non_null(ca);
        X509_add_ext(h.certificate, ca, -1);
        X509_EXTENSION_free(ca);
    }
    assert_true(X509_sign(h.certificate, authority != NULL ? authority->key : h.key, EVP_sha256()) > 0);
    return h;
}

static void discard(holder *h)
{
    EVP_PKEY_free(h->key);
    X509_free(h->certificate);
}

static void make_member(const char *folder, const char *name, const holder *authority, long from_s, long to_s)
{
    holder member = make(name, authority, from_s, to_s);
    write_pem(folder, name, ".pem", NULL, member.certificate);
    write_pem(folder, name, ".key", member.key, NULL);
    discard(&member);
}

void link_certificates_make(const char *folder)
{
    holder ca = make("cluster", NULL, -DAY, DAY), other = make("another cluster", NULL, -DAY, DAY);
    write_pem(folder, "ca", ".pem", NULL, ca.certificate);
    write_pem(folder, "other-ca", ".pem", NULL, other.certificate);
    make_member(folder, "a", &ca, -DAY, DAY);
    make_member(folder, "b", &ca, -DAY, DAY);
    make_member(folder, "late", &ca, -2 * DAY, -DAY);
    make_member(folder, "other", &other, -DAY, DAY);
    discard(&ca);
    discard(&other);
}

void link_certificates_remove(const char *folder)
{
    static const char *const names[] = {"ca.pem", "other-ca.pem", "a.pem",    "a.key",     "b.pem",
                                        "b.key",  "late.pem",     "late.key", "other.pem", "other.key"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[256];
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
    rmdir(folder);
}

proa_link_security link_certificates_security(const char *folder, const char *name, const char *ca,
                                              link_paths *place)
{
    snprintf(place->cert, sizeof place->cert, "%s/%s.pem", folder, name);
    snprintf(place->key, sizeof place->key, "%s/%s.key", folder, name);
    snprintf(place->ca, sizeof place->ca, "%s/%s.pem", folder, ca);
    return (proa_link_security){
        .key = LINK_KEY, .tls_cert_path = place->cert, .tls_key_path = place->key, .tls_ca_path = place->ca};
}
