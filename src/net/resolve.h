/* resolve.h - addresses: of a host, without holding up the loop, and to listen on.
 *
 * A numeric address is parsed at once. A name goes to getaddrinfo on a thread of its own, since the C library's look-up blocks for as
 * long as its servers are silent (10 s and more) and cannot be cancelled: who does not want to wait any longer lets go of it, and
 * the thread throws the answer away when it comes. At most PROA_LOOKUPS_MAX threads a loop, abandoned ones included; further
 * names are PROA_ERR_OVERLOADED until one has ended.
 *
 * The loop's thread alone; the resolver is counted, since abandoned threads outlive the loop.
 */
#ifndef PROA_NET_RESOLVE_H
#define PROA_NET_RESOLVE_H

#include "net/loop.h"

#include <netinet/in.h>
#include <sys/socket.h>

enum { PROA_LOOKUPS_MAX = 16, PROA_ADDRESSES_MAX = 8, PROA_HOST_BYTES = 256 };

typedef union proa_address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
} proa_address;

typedef struct proa_addresses {
    proa_address list[PROA_ADDRESSES_MAX]; /* in the order of preference */
    int count;
} proa_addresses;

typedef struct proa_resolver proa_resolver;
typedef struct proa_lookup proa_lookup;

proa_resolver *proa_resolver_create(void); /* NULL when memory is out */
/* Lets go of it: threads under way keep it until they end. Accepts NULL. */
void proa_resolver_release(proa_resolver *resolver);

/* Splits "host:port" or "[v6]:port". PROA_ERR_INVALID says how to write it. */
proa_status proa_address_split(const char *text, char host[PROA_HOST_BYTES], uint16_t *port, proa_error *err);
/* False for a name. */
bool proa_address_numeric(const char *host, uint16_t port, proa_addresses *found);
bool proa_address_is_loopback(const proa_address *address);
socklen_t proa_address_length(const proa_address *address);
/* "10.0.0.1:41000", "[::1]:41000". */
void proa_address_write(const proa_address *address, char *text, size_t bytes);

/* Addresses to listen on; "" is any address. Blocks on a name: for what happens once, before the loop runs. */
proa_status proa_address_passive(const char *host, uint16_t port, proa_addresses *found, proa_error *err);
/* A socket that listens on the first of the addresses that can be bound, not blocking, closed on exec; -1 with errno. [::] is any
 * address, of both families. */
int proa_address_listen(const proa_addresses *addresses, int backlog);
int proa_socket_port(int fd); /* that it is bound to; 0: none */

/* Begins to look up a name; `hook` is called once, on the loop's thread, unless the look-up is freed before. */
proa_status proa_lookup_start(proa_loop *loop, const char *host, uint16_t port, proa_loop_hook hook,
                              void *context, proa_lookup **lookup, proa_error *err);
/* After the hook: what was found. */
proa_status proa_lookup_result(const proa_lookup *lookup, proa_addresses *found, proa_error *err);
/* Also before the hook, or inside it. Accepts NULL. */
void proa_lookup_free(proa_lookup *lookup);

#endif
