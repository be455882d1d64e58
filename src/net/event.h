/* event.h - the headers of libevent, included here and nowhere else. For the files that run sockets on a loop: net/loop.c,
 * the link's, and the HTTP server's (serve/http_internal.h). */
#ifndef PROA_NET_EVENT_H
#define PROA_NET_EVENT_H

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/bufferevent_ssl.h>
#include <event2/event.h>
#include <event2/listener.h>

#endif
