/* tls.c - TLS by OpenSSL under a bufferevent.
 *
 * Links: TLS 1.3 with certificates on both ends. Names in certificates are not compared: workers have addresses that nobody knew when certificates were made, and a certificate of the
 * cluster's own authority is what makes a member. Sessions are not resumed: a link lives long, and each handshake
 * checks the certificates anew.
 */
#include "net/tls.h"

#include <errno.h>
#include <limits.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct proa_tls {
    SSL_CTX *context;
};

/* OpenSSL's first reason, which is the cause of the others; none is left. */
static const char *reason(void)
{
    unsigned long code = ERR_peek_error();
    ERR_clear_error();
    if (ERR_SYSTEM_ERROR(code))
        return strerror(ERR_GET_REASON(code));
    const char *text = ERR_reason_error_string(code);
    return text != NULL ? text : "unknown error";
}

static proa_status file_failed(const char *what, const char *path, proa_error *err)
{
    return proa_error_set(err, PROA_ERR_INVALID, "%s %s cannot be used: %s", what, path, reason());
}

static proa_status read_files(SSL_CTX *context, const char *cert, const char *key, const char *ca,
                              proa_error *err)
{
    if (SSL_CTX_use_certificate_chain_file(context, cert) != 1)
        return file_failed("the TLS certificate", cert, err);
    /* a key that is not the certificate's is noticed here too: "key values mismatch" */
    if (SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) != 1) {
        proa_status status = file_failed("the TLS key", key, err);
        proa_error_prefix(err, "with the certificate %s", cert);
        return status;
    }
    if (ca != NULL && SSL_CTX_load_verify_file(context, ca) != 1)
        return file_failed("the certificate of the TLS authority", ca, err);
    return PROA_OK;
}

/* `ca_path` NULL: the other end needs no certificate. */
static proa_status create(const char *cert_path, const char *key_path, const char *ca_path, proa_tls **tls,
                          proa_error *err)
{
    proa_tls *t = calloc(1, sizeof *t);
    if (t != NULL)
        t->context = SSL_CTX_new(TLS_method());
    if (t == NULL || t->context == NULL) {
        free(t);
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for TLS");
    }
    SSL_CTX_set_min_proto_version(t->context, ca_path != NULL ? TLS1_3_VERSION : TLS1_2_VERSION);
    if (ca_path != NULL)
        SSL_CTX_set_verify(t->context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    SSL_CTX_set_session_cache_mode(t->context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_num_tickets(t->context, 0);
    /* libevent's output moves between two tries. No partial writes: after one, libevent (2.1) goes on with the piece that follows, and
     * the rest of this one is lost. */
    SSL_CTX_set_mode(t->context, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    /* a process that is killed says no goodbye; that is the end of a stream, as without TLS */
    SSL_CTX_set_options(t->context, SSL_OP_IGNORE_UNEXPECTED_EOF);
    ERR_clear_error();
    proa_status status = read_files(t->context, cert_path, key_path, ca_path, err);
    if (status != PROA_OK) {
        proa_tls_free(t);
        return status;
    }
    *tls = t;
    return PROA_OK;
}

proa_status proa_tls_create(const char *cert_path, const char *key_path, const char *ca_path, proa_tls **tls,
                            proa_error *err)
{
    PROA_ASSERT(ca_path != NULL);
    return create(cert_path, key_path, ca_path, tls, err);
}

proa_status proa_tls_create_server(const char *cert_path, const char *key_path, proa_tls **tls,
                                   proa_error *err)
{
    return create(cert_path, key_path, NULL, tls, err);
}

void proa_tls_free(proa_tls *tls)
{
    if (tls == NULL)
        return;
    SSL_CTX_free(tls->context);
    free(tls);
}

struct bufferevent *proa_tls_wrap(proa_tls *tls, struct event_base *base, int fd, bool dials)
{
    SSL *ssl = SSL_new(tls->context);
    struct bufferevent *stream = NULL;
    if (ssl != NULL)
        stream = bufferevent_openssl_socket_new(
            base, fd, ssl, dials ? BUFFEREVENT_SSL_CONNECTING : BUFFEREVENT_SSL_ACCEPTING,
            BEV_OPT_CLOSE_ON_FREE);
    if (stream == NULL) /* libevent has freed `ssl` then */
        close(fd);
    return stream;
}

bool proa_tls_binding(struct bufferevent *stream, uint8_t binding[32])
{
    static const char label[] = "EXPORTER-proa-link";
    return SSL_export_keying_material(bufferevent_openssl_get_ssl(stream), binding, 32, label,
                                      sizeof label - 1, NULL, 0, 0) == 1;
}

bool proa_tls_explain(struct bufferevent *stream, char *text, size_t bytes)
{
    unsigned long code, found = 0;
    while ((code = bufferevent_get_openssl_error(stream)) != 0) {
        /* beside OpenSSL's own errors there is the class of the error (SSL_ERROR_SSL), which says nothing */
        if (ERR_GET_LIB(code) != 0 && !ERR_SYSTEM_ERROR(code))
            found = code;
    }
    if (found == 0)
        return false;
    const char *why = ERR_reason_error_string(found);
    long verified = SSL_get_verify_result(bufferevent_openssl_get_ssl(stream));
    snprintf(text, bytes, "%s%s%s", why != NULL ? why : "unknown error", verified != X509_V_OK ? ": " : "",
             verified != X509_V_OK ? X509_verify_cert_error_string(verified) : "");
    return true;
}

void proa_tls_flush(struct bufferevent *stream)
{
    SSL *ssl = bufferevent_openssl_get_ssl(stream);
    struct evbuffer *out = bufferevent_get_output(stream);
    struct evbuffer_iovec piece;
    if (!SSL_is_init_finished(ssl))
        return;
    evbuffer_unfreeze(out, 1);
    while (evbuffer_peek(out, -1, NULL, &piece, 1) > 0 && piece.iov_len > 0) {
        int n = SSL_write(ssl, piece.iov_base, piece.iov_len < INT_MAX ? (int)piece.iov_len : INT_MAX);
        if (n <= 0)
            break;
        evbuffer_drain(out, (size_t)n);
    }
    if (evbuffer_get_length(out) == 0)
        SSL_shutdown(ssl);
    ERR_clear_error();
}

void proa_tls_end(struct bufferevent *stream)
{
    SSL *ssl = bufferevent_openssl_get_ssl(stream);
    if (SSL_is_init_finished(ssl))
        SSL_shutdown(ssl);
    ERR_clear_error();
}
