/* resolve.c - numeric addresses at once, names by getaddrinfo on a detached thread.
 *
 *   loop's side                     thread's side
 *   proa_lookup ──> lookup_job <──  looks up, writes the answer, rings the job's eventfd
 *
 * The job has two holders and is freed by the later one; the resolver is held by its loop and by each thread.
 */
#include "net/loop_internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { THREAD_STACK_BYTES = 1 << 20 }; /* modules of the name service switch run on it */

struct proa_resolver {
    _Atomic int holders; /* the loop and the threads */
    _Atomic int running; /* threads */
};

typedef struct lookup_job {
    proa_resolver *resolver;
    _Atomic int holders;
    int ring_fd; /* an eventfd */
    uint16_t port;
    char host[PROA_HOST_BYTES];
    /* written by the thread before it rings, read by the loop after that */
    int code;  /* of getaddrinfo */
    int cause; /* errno, for EAI_SYSTEM */
    proa_addresses found;
} lookup_job;

struct proa_lookup {
    lookup_job *job;
    proa_watch *watch;
    proa_loop_hook hook;
    void *context;
};

/* ---- addresses ---- */

static proa_status split_failed(const char *text, proa_error *err)
{
    return proa_error_set(
        err, PROA_ERR_INVALID,
        "\"%.200s\" is no address: write host:port or [IPv6 address]:port, with a port from 1 to "
        "65535",
        text);
}

proa_status proa_address_split(const char *text, char host[PROA_HOST_BYTES], uint16_t *port, proa_error *err)
{
    const char *colon = strrchr(text, ':');
    if (colon == NULL || colon == text)
        return split_failed(text, err);
    const char *from = text, *to = colon;
    if (text[0] == '[' && colon[-1] == ']') {
        from++;
        to--;
    }
    size_t length = (size_t)(to - from);
    bool bare = from == text;
    if (length == 0 || length >= PROA_HOST_BYTES || (bare && memchr(from, ':', length) != NULL))
        return split_failed(text, err);
    unsigned value = 0;
    for (const char *c = colon + 1; *c != 0; c++) {
        if (*c < '0' || *c > '9' || value > 6553)
            return split_failed(text, err);
        value = value * 10 + (unsigned)(*c - '0');
    }
    if (value == 0 || value > 65535)
        return split_failed(text, err);
    memcpy(host, from, length);
    host[length] = 0;
    *port = (uint16_t)value;
    return PROA_OK;
}

bool proa_address_is_loopback(const proa_address *address)
{
    if (address->any.sa_family == AF_INET)
        return ntohl(address->v4.sin_addr.s_addr) >> 24 == 127;
    const struct in6_addr *v6 = &address->v6.sin6_addr;
    return IN6_IS_ADDR_LOOPBACK(v6) || (IN6_IS_ADDR_V4MAPPED(v6) && v6->s6_addr[12] == 127);
}

socklen_t proa_address_length(const proa_address *address)
{
    return address->any.sa_family == AF_INET ? sizeof address->v4 : sizeof address->v6;
}

void proa_address_write(const proa_address *address, char *text, size_t bytes)
{
    char host[INET6_ADDRSTRLEN + 20], port[8]; /* a scope may follow */
    if (getnameinfo(&address->any, proa_address_length(address), host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        snprintf(text, bytes, "(unknown address)");
    else
        snprintf(text, bytes, strchr(host, ':') != NULL ? "[%s]:%s" : "%s:%s", host, port);
}

/* getaddrinfo's code. */
static int look_up(const char *host, uint16_t port, int flags, proa_addresses *found)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = flags};
    struct addrinfo *list = NULL;
    char service[8];
    snprintf(service, sizeof service, "%d", port);
    int code = getaddrinfo(host, service, &hints, &list);
    found->count = 0;
    if (code != 0)
        return code;
    for (const struct addrinfo *i = list; i != NULL && found->count < PROA_ADDRESSES_MAX; i = i->ai_next) {
        if (i->ai_addrlen <= sizeof found->list[0] && (i->ai_family == AF_INET || i->ai_family == AF_INET6))
            memcpy(&found->list[found->count++], i->ai_addr, i->ai_addrlen);
    }
    freeaddrinfo(list);
    return found->count > 0 ? 0 : EAI_NONAME;
}

static proa_status lookup_failed(proa_status status, const char *host, int code, int cause, proa_error *err)
{
    return proa_error_set(err, status, "the host name %s has no address: %s", host,
                          code == EAI_SYSTEM ? strerror(cause) : gai_strerror(code));
}

bool proa_address_numeric(const char *host, uint16_t port, proa_addresses *found)
{
    return look_up(host, port, AI_NUMERICHOST | AI_NUMERICSERV, found) == 0;
}

proa_status proa_address_passive(const char *host, uint16_t port, proa_addresses *found, proa_error *err)
{
    int code = look_up(host[0] == 0 ? NULL : host, port, AI_NUMERICSERV | AI_PASSIVE, found);
    return code == 0 ? PROA_OK : lookup_failed(PROA_ERR_INVALID, host, code, errno, err);
}

/* ---- listening ---- */

/* The socket, or -1 with errno. */
static int listen_on(const proa_address *address, int backlog)
{
    int fd = socket(address->any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    int on = 1, off = 0;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (address->any.sa_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (bind(fd, &address->any, proa_address_length(address)) == 0 && listen(fd, backlog) == 0)
        return fd;
    int saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

int proa_address_listen(const proa_addresses *addresses, int backlog)
{
    int fd = -1;
    for (int i = 0; i < addresses->count && fd < 0; i++)
        fd = listen_on(&addresses->list[i], backlog);
    return fd;
}

int proa_socket_port(int fd)
{
    proa_address address = {0};
    socklen_t length = sizeof address;
    if (getsockname(fd, &address.any, &length) != 0)
        return 0;
    return ntohs(address.any.sa_family == AF_INET6 ? address.v6.sin6_port : address.v4.sin_port);
}

/* ---- the resolver and its threads ---- */

proa_resolver *proa_resolver_create(void)
{
    proa_resolver *resolver = calloc(1, sizeof *resolver);
    if (resolver != NULL)
        atomic_init(&resolver->holders, 1);
    return resolver;
}

void proa_resolver_release(proa_resolver *resolver)
{
    /* release: what the others did with it comes before the last one's free (acquire) */
    if (resolver != NULL && atomic_fetch_sub_explicit(&resolver->holders, 1, memory_order_acq_rel) == 1)
        free(resolver);
}

static void release_job(lookup_job *job)
{
    if (atomic_fetch_sub_explicit(&job->holders, 1, memory_order_acq_rel) !=
        1) /* as in proa_resolver_release */
        return;
    close(job->ring_fd);
    free(job);
}

static void *run(void *context)
{
    lookup_job *job = context;
    proa_resolver *resolver = job->resolver;
    job->code = look_up(job->host, job->port, AI_NUMERICSERV, &job->found);
    job->cause = errno;
    uint64_t one = 1;
    /* write and read of an eventfd order what was written before them */
    ssize_t written = write(job->ring_fd, &one, sizeof one);
    (void)written; /* the counter is 0: it cannot be full */
    release_job(job);
    atomic_fetch_sub_explicit(&resolver->running, 1, memory_order_relaxed); /* a mere count */
    proa_resolver_release(resolver);
    return NULL;
}

/* Starts a thread that takes no signals: those are for the threads that expect them. Returns pthread_create's code. */
static int start_thread(lookup_job *job)
{
    sigset_t all, before;
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, THREAD_STACK_BYTES);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&thread, &attributes, run, job);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return failed;
}

static proa_status start_job(lookup_job *job, proa_error *err)
{
    proa_resolver *resolver = job->resolver;
    if (atomic_fetch_add_explicit(&resolver->running, 1, memory_order_relaxed) >= PROA_LOOKUPS_MAX) {
        atomic_fetch_sub_explicit(&resolver->running, 1, memory_order_relaxed);
        return proa_error_set(err, PROA_ERR_OVERLOADED, "%d look-ups of host names are under way already",
                              PROA_LOOKUPS_MAX);
    }
    atomic_fetch_add_explicit(&resolver->holders, 1, memory_order_relaxed); /* the loop holds it meanwhile */
    atomic_init(&job->holders, 2);
    int failed = start_thread(job);
    if (failed == 0)
        return PROA_OK;
    atomic_init(&job->holders, 1);
    atomic_fetch_sub_explicit(&resolver->holders, 1, memory_order_relaxed);
    atomic_fetch_sub_explicit(&resolver->running, 1, memory_order_relaxed);
    return proa_error_set(err, PROA_ERR_MEMORY, "no thread to look up the host name %s: %s", job->host,
                          strerror(failed));
}

/* ---- look-ups ---- */

static void on_answer(void *context)
{
    proa_lookup *lookup = context;
    uint64_t count;
    if (read(lookup->job->ring_fd, &count, sizeof count) != (ssize_t)sizeof count)
        return;
    lookup->hook(lookup->context);
}

proa_status proa_lookup_start(proa_loop *loop, const char *host, uint16_t port, proa_loop_hook hook,
                              void *context, proa_lookup **lookup, proa_error *err)
{
    proa_lookup *l = calloc(1, sizeof *l);
    lookup_job *job = calloc(1, sizeof *job);
    int ring_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (l == NULL || job == NULL || ring_fd < 0) {
        free(l);
        free(job);
        if (ring_fd >= 0)
            close(ring_fd);
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory to look up the host name %s", host);
    }
    job->resolver = proa_loop_resolver(loop);
    job->ring_fd = ring_fd;
    job->port = port;
    snprintf(job->host, sizeof job->host, "%s", host);
    atomic_init(&job->holders, 1);
    l->job = job;
    l->hook = hook;
    l->context = context;
    l->watch = proa_loop_add_watch(loop, ring_fd, on_answer, l);
    proa_status status = l->watch != NULL
                             ? start_job(job, err)
                             : proa_error_set(err, PROA_ERR_MEMORY, "no memory to look up %s", host);
    if (status != PROA_OK) {
        proa_lookup_free(l);
        return status;
    }
    *lookup = l;
    return PROA_OK;
}

proa_status proa_lookup_result(const proa_lookup *lookup, proa_addresses *found, proa_error *err)
{
    const lookup_job *job = lookup->job;
    *found = job->found;
    return job->code == 0 ? PROA_OK
                          : lookup_failed(PROA_ERR_UNREACHABLE, job->host, job->code, job->cause, err);
}

void proa_lookup_free(proa_lookup *lookup)
{
    if (lookup == NULL)
        return;
    proa_watch_free(lookup->watch);
    release_job(lookup->job);
    free(lookup);
}
