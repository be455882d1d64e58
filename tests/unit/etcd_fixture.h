/* etcd_fixture.h - real etcd processes on free loopback ports, for tests: started, stopped, wiped; and requests to them. */
#ifndef PROA_TEST_ETCD_FIXTURE_H
#define PROA_TEST_ETCD_FIXTURE_H

#include "discovery_fixture.h"

#include "cluster/etcd_codec.h"
#include "net/http_client.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>

enum { ETCD_NODES_MAX = 3 };

typedef struct etcd_node {
    pid_t pid; /* 0: not running */
    int client_port;
    int peer_port;
} etcd_node;

typedef struct etcd_cluster {
    char folder[64];
    etcd_node nodes[ETCD_NODES_MAX];
    int count;
    char endpoints[200];
} etcd_cluster;

static inline bool etcd_is_installed(void)
{
    return system("command -v etcd >/dev/null") == 0;
}

static inline int free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(fd, (struct sockaddr *)&address, length) != 0 ||
        getsockname(fd, (struct sockaddr *)&address, &length) != 0)
        fail_msg("no free port");
    close(fd);
    return ntohs(address.sin_port);
}

/* A request to a node, directly; returns the HTTP code, 0 when there was no answer. */
static inline int etcd_ask(const etcd_node *node, const char *path, const char *body, proa_buf *answer)
{
    char url[128];
    int code = 0;
    proa_http_client *client = NULL;
    proa_buf ignored = {0};
    snprintf(url, sizeof url, "http://127.0.0.1:%d/%s", node->client_port, path);
    const proa_http_request request = {
        .url = url, .body = body, .length = body != NULL ? strlen(body) : 0, .timeout_us = 3 * SECOND};
    assert_int_equal(proa_http_client_create(NULL, &client, NULL), PROA_OK);
    proa_http_client_fetch(client, &request, &code, answer != NULL ? answer : &ignored, NULL);
    proa_http_client_free(client);
    proa_buf_free(&ignored);
    return code;
}

static inline void etcd_wait(const etcd_node *node)
{
    int64_t until = proa_clock_us() + 10 * SECOND;
    while (etcd_ask(node, "health", NULL, NULL) != 200) {
        if (proa_clock_us() > until)
            fail_msg("etcd on port %d does not become healthy", node->client_port);
        usleep(20000);
    }
}

static inline void etcd_start(etcd_cluster *c, int i)
{
    char name[8], data[80], client[64], peer[64], cluster[300] = "", log[80];
    etcd_node *node = &c->nodes[i];
    snprintf(name, sizeof name, "n%d", i);
    snprintf(data, sizeof data, "%s/n%d", c->folder, i);
    snprintf(log, sizeof log, "%s/n%d.log", c->folder, i);
    snprintf(client, sizeof client, "http://127.0.0.1:%d", node->client_port);
    snprintf(peer, sizeof peer, "http://127.0.0.1:%d", node->peer_port);
    for (int n = 0; n < c->count; n++) {
        size_t used = strlen(cluster);
        snprintf(cluster + used, sizeof cluster - used, "%sn%d=http://127.0.0.1:%d", n > 0 ? "," : "", n,
                 c->nodes[n].peer_port);
    }
    pid_t parent = getpid();
    node->pid = fork();
    if (node->pid != 0)
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() == parent)
        execlp("etcd", "etcd", "--name", name, "--data-dir", data, "--listen-client-urls", client,
               "--advertise-client-urls", client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls",
               peer, "--initial-cluster", cluster, "--logger", "zap", "--log-outputs", log,
               "--heartbeat-interval", "20", "--election-timeout", "200", "--unsafe-no-fsync", (char *)NULL);
    _exit(127);
}

static inline void etcd_kill(etcd_cluster *c, int i)
{
    if (c->nodes[i].pid == 0)
        return;
    kill(c->nodes[i].pid, SIGKILL);
    waitpid(c->nodes[i].pid, NULL, 0);
    c->nodes[i].pid = 0;
}

static inline void etcd_wipe(etcd_cluster *c, int i)
{
    char command[128];
    assert_int_equal(c->nodes[i].pid, 0);
    snprintf(command, sizeof command, "rm -rf %s/n%d", c->folder, i);
    assert_int_equal(system(command), 0);
}

static inline etcd_cluster *etcd_create(int count)
{
    etcd_cluster *c = calloc(1, sizeof *c);
    snprintf(c->folder, sizeof c->folder, "/tmp/proa-etcd-XXXXXX");
    if (mkdtemp(c->folder) == NULL)
        fail_msg("no folder for etcd");
    c->count = count;
    for (int i = 0; i < count; i++) {
        size_t used = strlen(c->endpoints);
        c->nodes[i].client_port = free_port();
        c->nodes[i].peer_port = free_port();
        snprintf(c->endpoints + used, sizeof c->endpoints - used, "%shttp://127.0.0.1:%d", i > 0 ? "," : "",
                 c->nodes[i].client_port);
    }
    for (int i = 0; i < count; i++)
        etcd_start(c, i);
    for (int i = 0; i < count; i++)
        etcd_wait(&c->nodes[i]);
    return c;
}

static inline void etcd_free(etcd_cluster *c)
{
    char command[128];
    for (int i = 0; i < c->count; i++)
        etcd_kill(c, i);
    snprintf(command, sizeof command, "rm -rf %s", c->folder);
    if (system(command) != 0)
        fail_msg("%s failed", command);
    free(c);
}

/* --- what is in it --- */

static inline void etcd_put(const etcd_node *node, const char *key, const char *value)
{
    proa_buf body = {0};
    proa_etcd_write_put(key, value, 0, &body);
    assert_int_equal(etcd_ask(node, "v3/kv/put", body.data, NULL), 200);
    proa_buf_free(&body);
}

static inline void etcd_delete(const etcd_node *node, const char *key)
{
    proa_buf body = {0};
    proa_buf_append_text(&body, "{\"key\":\"");
    proa_base64_write(key, strlen(key), &body);
    proa_buf_append_text(&body, "\"}");
    assert_int_equal(etcd_ask(node, "v3/kv/deleterange", body.data, NULL), 200);
    proa_buf_free(&body);
}

/* How many keys begin with the prefix; *lease gets the first one's. */
static inline size_t etcd_count(const etcd_node *node, const char *prefix, int64_t *lease)
{
    proa_buf body = {0}, answer = {0};
    proa_arena *arena = proa_arena_create(0);
    proa_etcd_list list = {0};
    proa_error err = {0};
    proa_etcd_write_list(prefix, &body);
    assert_int_equal(etcd_ask(node, "v3/kv/range", body.data, &answer), 200);
    if (proa_etcd_read_list(answer.data, answer.length, arena, &list, &err) != PROA_OK)
        fail_msg("%s", err.text);
    if (lease != NULL)
        *lease = list.count > 0 ? list.kvs[0].lease : 0;
    size_t count = list.count;
    proa_arena_free(arena);
    proa_buf_free(&body);
    proa_buf_free(&answer);
    return count;
}

static inline size_t etcd_leases(const etcd_node *node)
{
    proa_buf answer = {0};
    size_t count = 0;
    assert_int_equal(etcd_ask(node, "v3/lease/leases", "{}", &answer), 200);
    for (const char *at = proa_buf_text(&answer); (at = strstr(at, "\"ID\"")) != NULL; at++)
        count++;
    proa_buf_free(&answer);
    return count;
}

static inline int64_t etcd_revision(const etcd_node *node)
{
    proa_buf answer = {0};
    int64_t revision = 0;
    assert_int_equal(etcd_ask(node, "v3/kv/range", "{\"key\":\"AA==\"}", &answer), 200);
    assert_int_equal(proa_etcd_read_header(answer.data, answer.length, &revision, NULL), PROA_OK);
    proa_buf_free(&answer);
    return revision;
}

/* --- a way to it that can be cut --- */

typedef struct forwarder {
    int fd;
    int port;
    int to_port;
    bool cut, stop;
    pthread_mutex_t lock;
    pthread_t thread;
    struct pair {
        int a, b;
    } pairs[64];
    int count;
} forwarder;

static inline void forwarder_end_pair(forwarder *f, int i)
{
    close(f->pairs[i].a);
    close(f->pairs[i].b);
    f->pairs[i] = f->pairs[--f->count];
}

static inline bool forwarder_move(int from, int to)
{
    char bytes[65536];
    ssize_t n = recv(from, bytes, sizeof bytes, 0);
    for (ssize_t sent = 0; sent < n;) {
        ssize_t m = send(to, bytes + sent, (size_t)(n - sent), MSG_NOSIGNAL);
        if (m <= 0)
            return false;
        sent += m;
    }
    return n > 0;
}

static inline void forwarder_accept(forwarder *f)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)f->to_port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int a = accept(f->fd, NULL, NULL), b = socket(AF_INET, SOCK_STREAM, 0);
    if (f->cut || f->count == 64 || connect(b, (struct sockaddr *)&address, sizeof address) != 0) {
        close(a);
        close(b);
    } else {
        f->pairs[f->count++] = (struct pair){a, b};
    }
}

/* One turn; under the lock. */
static inline void forwarder_turn(forwarder *f)
{
    struct pollfd fds[129] = {{.fd = f->fd, .events = POLLIN}};
    int count = f->count;
    for (int i = 0; i < count; i++) {
        fds[1 + 2 * i] = (struct pollfd){.fd = f->pairs[i].a, .events = POLLIN};
        fds[2 + 2 * i] = (struct pollfd){.fd = f->pairs[i].b, .events = POLLIN};
    }
    poll(fds, (nfds_t)(1 + 2 * count), 5);
    for (int i = count; i-- > 0;) {
        bool good = true;
        if (fds[1 + 2 * i].revents != 0)
            good = forwarder_move(f->pairs[i].a, f->pairs[i].b);
        if (good && fds[2 + 2 * i].revents != 0)
            good = forwarder_move(f->pairs[i].b, f->pairs[i].a);
        if (!good)
            forwarder_end_pair(f, i);
    }
    if (fds[0].revents != 0)
        forwarder_accept(f);
}

static inline void *forwarder_run(void *context)
{
    forwarder *f = context;
    for (bool stop = false; !stop;) {
        pthread_mutex_lock(&f->lock);
        forwarder_turn(f);
        stop = f->stop;
        pthread_mutex_unlock(&f->lock);
        usleep(200); /* for those who want the lock */
    }
    return NULL;
}

static inline forwarder *forwarder_create(int to_port)
{
    forwarder *f = calloc(1, sizeof *f);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    f->to_port = to_port;
    f->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(f->fd, (struct sockaddr *)&address, length) != 0 || listen(f->fd, 64) != 0 ||
        getsockname(f->fd, (struct sockaddr *)&address, &length) != 0)
        fail_msg("no port for a forwarder");
    f->port = ntohs(address.sin_port);
    pthread_mutex_init(&f->lock, NULL);
    pthread_create(&f->thread, NULL, forwarder_run, f);
    return f;
}

static inline void forwarder_cut(forwarder *f)
{
    pthread_mutex_lock(&f->lock);
    f->cut = true;
    while (f->count > 0)
        forwarder_end_pair(f, 0);
    pthread_mutex_unlock(&f->lock);
}

static inline void forwarder_mend(forwarder *f)
{
    pthread_mutex_lock(&f->lock);
    f->cut = false;
    pthread_mutex_unlock(&f->lock);
}

static inline void forwarder_free(forwarder *f)
{
    forwarder_cut(f);
    pthread_mutex_lock(&f->lock);
    f->stop = true;
    pthread_mutex_unlock(&f->lock);
    pthread_join(f->thread, NULL);
    close(f->fd);
    pthread_mutex_destroy(&f->lock);
    free(f);
}

#endif
