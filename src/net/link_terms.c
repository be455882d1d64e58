/* link_terms.c - the cluster key, TLS and times, read once for a listener or a dial. */
#include "net/link_internal.h"

#include "base/file.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { KEY_BYTES_MIN = 16, KEY_FILE_BYTES_MAX = 4096 };

proa_status proa_link_read_key(const char *text, const char *path, char **key, proa_error *err)
{
    *key = NULL;
    if (text == NULL && path == NULL)
        return PROA_OK;
    proa_buf bytes = {0};
    if (text != NULL)
        proa_buf_append_text(&bytes, text);
    else {
        proa_status status = proa_file_read(path, KEY_FILE_BYTES_MAX, &bytes, err);
        if (status != PROA_OK)
            proa_error_prefix(err, "the cluster key");
        while (status == PROA_OK && bytes.length > 0 && isspace((unsigned char)bytes.data[bytes.length - 1]))
            proa_buf_truncate(&bytes, bytes.length - 1);
        if (status == PROA_OK && memchr(proa_buf_text(&bytes), 0, bytes.length) != NULL)
            status =
                proa_error_set(err, PROA_ERR_INVALID, "the cluster key in %s has a zero byte in it", path);
        if (status != PROA_OK) {
            proa_buf_free(&bytes);
            return status;
        }
    }
    if (bytes.failed || bytes.length < KEY_BYTES_MIN) {
        proa_status status =
            bytes.failed
                ? proa_error_set(err, PROA_ERR_MEMORY, "no memory for the cluster key")
                : proa_error_set(
                      err, PROA_ERR_INVALID,
                      "the cluster key in %s has %zu bytes; it needs at least %d: `openssl rand -hex 32` "
                      "makes a good one",
                      text != NULL ? "PROA_CLUSTER_KEY" : path, bytes.length, KEY_BYTES_MIN);
        proa_buf_free(&bytes);
        return status;
    }
    *key = bytes.data;
    return PROA_OK;
}

static proa_status read_tls(const proa_link_security *s, proa_link_terms *terms, proa_error *err)
{
    const char *missing = s->tls_cert_path == NULL  ? "certificate"
                          : s->tls_key_path == NULL ? "key of the certificate"
                          : s->tls_ca_path == NULL  ? "certificate of the authority"
                                                    : NULL;
    if (s->tls_cert_path == NULL && s->tls_key_path == NULL && s->tls_ca_path == NULL)
        return PROA_OK;
    if (missing != NULL)
        return proa_error_set(
            err, PROA_ERR_INVALID,
            "TLS between processes needs a certificate, its key and the authority's certificate; "
            "the %s is not given",
            missing);
    return proa_tls_create(s->tls_cert_path, s->tls_key_path, s->tls_ca_path, &terms->tls, err);
}

static int64_t or_default(int64_t us, int64_t standard)
{
    PROA_ASSERT(us >= 0);
    return us != 0 ? us : standard;
}

proa_link_identity proa_link_identity_draw(const char *role)
{
    proa_link_identity self = {0};
    char host[40] = "";
    gethostname(host, sizeof host - 1);
    proa_random_bytes(&self.instance, sizeof self.instance);
    proa_random_bytes(&self.epoch, sizeof self.epoch);
    self.instance = (self.instance >> 11) | 1;
    self.epoch |= 1;
    snprintf(self.role, sizeof self.role, "%s", role);
    snprintf(self.name, sizeof self.name, "%s:%d", host, (int)getpid());
    return self;
}

proa_status proa_link_terms_create(const proa_link_security *security, const proa_link_identity *self,
                                   proa_link_terms **terms, proa_error *err)
{
    proa_status status = proa_handshake_check_identity(self, err);
    if (status != PROA_OK) {
        proa_error_prefix(err, "this process cannot be named to others");
        return status;
    }
    proa_link_terms *t = calloc(1, sizeof *t);
    if (t == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a link");
    t->holders = 1;
    t->self = *self;
    t->beat_us = or_default(security->beat_us, PROA_LINK_BEAT_US);
    t->silence_us = or_default(security->silence_us, PROA_LINK_SILENCE_US);
    t->connect_us = or_default(security->connect_us, PROA_LINK_CONNECT_US);
    if (security->key != NULL) {
        t->key_bytes = strlen(security->key);
        t->key = (uint8_t *)strdup(security->key);
    }
    if (security->key != NULL && t->key == NULL)
        status = proa_error_set(err, PROA_ERR_MEMORY, "no memory for a link");
    else
        status = read_tls(security, t, err);
    if (status != PROA_OK) {
        proa_link_terms_release(t);
        return status;
    }
    *terms = t;
    return PROA_OK;
}

void proa_link_terms_release(proa_link_terms *terms)
{
    if (terms == NULL || --terms->holders > 0)
        return;
    if (terms->key != NULL)
        explicit_bzero(terms->key, terms->key_bytes);
    free(terms->key);
    proa_tls_free(terms->tls);
    free(terms);
}
