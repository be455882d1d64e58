/* http_server_fixture.h - a small HTTP server for tests: one thread a connection, each request goes to the test's hook. */
#ifndef PROA_TEST_HTTP_SERVER_FIXTURE_H
#define PROA_TEST_HTTP_SERVER_FIXTURE_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Answers one request; false: the connection ends. Several run at once. */
typedef bool (*http_server_hook)(void *context, int fd, const char *request, const char *body);

typedef struct http_server {
    int fd;
    int port;
    http_server_hook answer;
    void *context;
    atomic_int connections; /* relaxed would do throughout: counted, read when all is quiet */
    atomic_int open;
    pthread_t thread;
} http_server;

typedef struct http_server_connection {
    http_server *server;
    int fd;
} http_server_connection;

static inline void say(int fd, const char *text)
{
    size_t length = strlen(text);
    for (size_t sent = 0; sent < length;) {
        ssize_t n = send(fd, text + sent, length - sent, MSG_NOSIGNAL);
        if (n <= 0)
            return;
        sent += (size_t)n;
    }
}

static inline void answer_body(int fd, const char *code, const char *more, const char *body)
{
    char head[512];
    snprintf(head, sizeof head, "HTTP/1.1 %s\r\nContent-Length: %zu\r\n%s\r\n", code, strlen(body), more);
    say(fd, head);
    say(fd, body);
}

static inline void say_chunk(int fd, const char *text)
{
    char head[32];
    snprintf(head, sizeof head, "%zx\r\n", strlen(text));
    say(fd, head);
    say(fd, text);
    say(fd, "\r\n");
}

/* Says nothing; false when the client has left, or after ten seconds. */
static inline bool wait_for_client(int fd)
{
    char c;
    return recv(fd, &c, 1, 0) > 0;
}

static inline void *http_server_serve(void *context)
{
    http_server_connection *c = context;
    char text[8192];
    size_t length = 0;
    struct timeval bound = {.tv_sec = 10};
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof bound);
    for (;;) {
        ssize_t n = recv(c->fd, text + length, sizeof text - 1 - length, 0);
        if (n <= 0)
            break;
        length += (size_t)n;
        text[length] = 0;
        char *body = strstr(text, "\r\n\r\n"), *field = strstr(text, "Content-Length: ");
        if (body == NULL)
            continue;
        body += 4;
        size_t want = field != NULL && field < body ? strtoul(field + 16, NULL, 10) : 0;
        if (length < (size_t)(body - text) + want)
            continue;
        if (!c->server->answer(c->server->context, c->fd, text, body))
            break;
        length = 0;
    }
    close(c->fd);
    atomic_fetch_sub(&c->server->open, 1);
    free(c);
    return NULL;
}

static inline void *http_server_accept(void *context)
{
    http_server *s = context;
    int fd;
    while ((fd = accept(s->fd, NULL, NULL)) >= 0) {
        http_server_connection *c = malloc(sizeof *c);
        pthread_t thread;
        *c = (http_server_connection){s, fd};
        atomic_fetch_add(&s->connections, 1);
        atomic_fetch_add(&s->open, 1);
        pthread_create(&thread, NULL, http_server_serve, c);
        pthread_detach(thread);
    }
    return NULL;
}

/* NULL: no port. */
static inline http_server *http_server_create(http_server_hook answer, void *context)
{
    http_server *s = calloc(1, sizeof *s);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    s->answer = answer;
    s->context = context;
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(s->fd, (struct sockaddr *)&address, length) != 0 || listen(s->fd, 128) != 0 ||
        getsockname(s->fd, (struct sockaddr *)&address, &length) != 0 ||
        pthread_create(&s->thread, NULL, http_server_accept, s) != 0) {
        close(s->fd);
        free(s);
        return NULL;
    }
    s->port = ntohs(address.sin_port);
    return s;
}

/* False: a client has left a connection open. */
static inline bool http_server_free(http_server *s)
{
    shutdown(s->fd, SHUT_RDWR);
    pthread_join(s->thread, NULL);
    close(s->fd);
    for (int i = 0; i < 1000 && atomic_load(&s->open) > 0; i++)
        usleep(10000);
    bool clean = atomic_load(&s->open) == 0;
    if (clean) /* else its threads go on using it */
        free(s);
    return clean;
}

#endif
