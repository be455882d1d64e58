/* tls.h - TLS over a connected socket, for links between processes and for the HTTP server. tls.c is the only file that
 * includes OpenSSL's TLS.
 */
#ifndef PROA_NET_TLS_H
#define PROA_NET_TLS_H

#include "base/status.h"
#include "net/event.h"

#include <stdint.h>

typedef struct proa_tls proa_tls;

/* For links: TLS 1.3, each end shows a certificate that the authority has signed. Paths of PEM files. */
proa_status proa_tls_create(const char *cert_path, const char *key_path, const char *ca_path, proa_tls **tls,
                            proa_error *err);
/* For a server of anybody: TLS 1.2 and later, clients need no certificate. */
proa_status proa_tls_create_server(const char *cert_path, const char *key_path, proa_tls **tls,
                                   proa_error *err);
void proa_tls_free(proa_tls *tls); /* accepts NULL */
/* TLS over a connected socket, which the stream then owns. NULL when memory is out: the socket is closed. */
struct bufferevent *proa_tls_wrap(proa_tls *tls, struct event_base *base, int fd, bool dials);
/* 32 bytes that both ends of this TLS session know and nobody else does. */
bool proa_tls_binding(struct bufferevent *stream, uint8_t binding[32]);
/* False when the latest error was none of TLS; else its text. */
bool proa_tls_explain(struct bufferevent *stream, char *text, size_t bytes);
/* Sends what is queued as far as the socket takes it, and says goodbye. Nothing else may follow but freeing. */
void proa_tls_flush(struct bufferevent *stream);
/* Says goodbye: nothing more will be sent. What the other end still sends can be read. */
void proa_tls_end(struct bufferevent *stream);

#endif
