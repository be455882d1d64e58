/* node_address.c - the address of a node, as a person types it. */
#include "cluster/node_env.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { LABEL_MAX = 63, SHOWN_MAX = 80 };

static const char examples[] = "give an address such as 10.0.0.1 or fd00::1, or a host name";

/* The value for a message: what does not print is \xNN, and what is long is cut. */
static void show(const char *text, size_t length, char shown[SHOWN_MAX * 4 + 4])
{
    size_t at = 0;
    for (size_t i = 0; i < length && i < SHOWN_MAX; i++) {
        unsigned char c = (unsigned char)text[i];
        at += (size_t)snprintf(shown + at, 5, c >= ' ' && c < 127 ? "%c" : "\\x%02x", c);
    }
    snprintf(shown + at, 4, length > SHOWN_MAX ? "..." : "");
}

static proa_status refuse(const char *text, size_t length, const char *why, proa_error *err)
{
    char shown[SHOWN_MAX * 4 + 4];
    show(text, length, shown);
    return proa_error_set(err, PROA_ERR_INVALID, "\"%s\" %s; %s", shown, why, examples);
}

static bool is_alnum(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

/* Why it is no host name (RFC 1123); NULL when it is one. */
static const char *name_fault(const char *name)
{
    for (const char *label = name;; label += strcspn(label, ".") + 1) {
        size_t length = strcspn(label, ".");
        if (length == 0)
            return "is no host name: between and around its dots must be something";
        if (length > LABEL_MAX)
            return "is no host name: a part between dots has at most 63 characters";
        for (size_t i = 0; i < length; i++)
            if (!is_alnum(label[i]) && label[i] != '-')
                return "is no host name: only letters, digits, '-' and '.' stand in one";
        if (label[0] == '-' || label[length - 1] == '-')
            return "is no host name: no part between dots begins or ends with '-'";
        if (label[length] == '\0')
            return NULL;
    }
}

/* Names do not end in a number (RFC 1123 2.1): what does is meant as IPv4. */
static bool looks_like_ipv4(const char *host)
{
    const char *last = strrchr(host, '.');
    last = last != NULL && last[1] != '\0' ? last + 1 : host;
    return last[strspn(last, "0123456789.")] == '\0';
}

/* Each takes the whole host; NULL, or why not. */
static const char *take_ipv4(const char *host, proa_node_address *address)
{
    struct in_addr v4;
    if (inet_pton(AF_INET, host, &v4) != 1)
        return "is no IPv4 address: that is four numbers from 0 to 255, without zeros in front";
    uint32_t bits = ntohl(v4.s_addr);
    if (bits >> 24 == 0 || bits >> 28 >= 0xe)
        return "is the address of no node, but a wildcard or for many";
    address->kind = PROA_NODE_IPV4;
    address->loopback = bits >> 24 == 127;
    strcpy(address->host, host);
    return NULL;
}

static const char *take_ipv6(const char *host, proa_node_address *address)
{
    struct in6_addr v6;
    char text[INET6_ADDRSTRLEN];
    if (strchr(host, '%') != NULL)
        return "has a zone ('%'), which means something else on each node";
    if (inet_pton(AF_INET6, host, &v6) != 1) {
        const char *colon = strchr(host, ':');
        if (colon != NULL && colon == strrchr(host, ':'))
            return "has a port, which does not belong here (--etcd-port, --nats-port)";
        return "is no IPv6 address";
    }
    if (IN6_IS_ADDR_LINKLOCAL(&v6))
        return "is a link-local address, which means something else on each node";
    if (IN6_IS_ADDR_UNSPECIFIED(&v6) || IN6_IS_ADDR_MULTICAST(&v6))
        return "is the address of no node, but a wildcard or for many";
    if (IN6_IS_ADDR_V4MAPPED(&v6))
        return "is an IPv4 address in IPv6's clothes";
    inet_ntop(AF_INET6, &v6, text, sizeof text);
    address->kind = PROA_NODE_IPV6;
    address->loopback = IN6_IS_ADDR_LOOPBACK(&v6);
    snprintf(address->host, sizeof address->host, "[%s]", text);
    return NULL;
}

static const char *take_name(const char *host, proa_node_address *address)
{
    const char *fault = name_fault(host);
    if (fault != NULL)
        return fault;
    address->kind = PROA_NODE_NAME;
    address->loopback = strcasecmp(host, "localhost") == 0;
    strcpy(address->host, host);
    return NULL;
}

proa_status proa_node_address_parse(const char *text, size_t length, proa_node_address *address,
                                    proa_error *err)
{
    char host[PROA_NODE_NAME_MAX + 1];
    const char *fault;
    memset(address, 0, sizeof *address);
    if (length == 0)
        return refuse(text, length, "is empty", err);
    if (length > PROA_NODE_NAME_MAX)
        return refuse(text, length, "is longer than any host name, 253 characters", err);
    for (size_t i = 0; i < length; i++)
        if (!is_alnum(text[i]) && memchr("-.:%[]/", text[i], 7) == NULL)
            return refuse(text, length, "has a character that stands in no address", err);
    memcpy(host, text, length);
    host[length] = '\0';
    if (strchr(host, '/') != NULL)
        return refuse(text, length, "is a URL or a network, where the address alone is wanted", err);
    if (host[0] == '[' && host[length - 1] == ']') {
        host[length - 1] = '\0';
        fault = take_ipv6(host + 1, address);
    } else if (strpbrk(host, ":%") != NULL)
        fault = take_ipv6(host, address);
    else
        fault = looks_like_ipv4(host) ? take_ipv4(host, address) : take_name(host, address);
    return fault == NULL ? PROA_OK : refuse(text, length, fault, err);
}
