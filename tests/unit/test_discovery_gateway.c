/* test_discovery_gateway.c - discovery against gateways of this test that do what etcd does on bad days: events twice, history
 * compacted, revisions that begin anew, streams that say nothing, answers that make no sense.
 *
 * `test_discovery_gateway long` also waits for the periodic list (30 s). */
#include "discovery_fixture.h"
#include "http_server_fixture.h"

#include "cluster/etcd_codec.h"

#include <errno.h>

typedef struct gateway {
    http_server *server;
    pthread_mutex_t lock;
    proa_buf list;    /* what kv/range answers */
    proa_buf opening; /* what a watch begins with */
    const char *down; /* answers nothing but this, with code 503; "": says nothing at all */
    int stream_fd;    /* of the newest watch; 0: none */
    int lists, watches;
} gateway;

static bool answer_watch(gateway *g, int fd)
{
    pthread_mutex_lock(&g->lock);
    g->watches++;
    g->stream_fd = fd;
    say(fd, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    if (g->opening.length > 0)
        say_chunk(fd, g->opening.data);
    pthread_mutex_unlock(&g->lock);
    char c;
    for (int i = 0; i < 6; i++) { /* a minute at most */
        ssize_t n = recv(fd, &c, 1, 0);
        if (n == 0 || (n < 0 && errno != EAGAIN))
            break;
    }
    pthread_mutex_lock(&g->lock);
    if (g->stream_fd == fd)
        g->stream_fd = 0;
    pthread_mutex_unlock(&g->lock);
    return false;
}

static bool answer(void *context, int fd, const char *request, const char *body)
{
    gateway *g = context;
    pthread_mutex_lock(&g->lock);
    const char *down = g->down;
    bool probe = strstr(body, "count_only") != NULL;
    proa_buf list = {0};
    proa_buf_append(&list, proa_buf_text(&g->list), g->list.length);
    g->lists += down == NULL && !probe && strncmp(request, "POST /v3/kv/range ", 18) == 0;
    pthread_mutex_unlock(&g->lock);
    bool go_on = true;
    if (strstr(request, "\r\nGrpc-Metadata-hasleader: true\r\n") == NULL)
        go_on = false; /* each request must ask for a leader */
    else if (down != NULL && down[0] == 0)
        go_on = wait_for_client(fd);
    else if (down != NULL)
        answer_body(fd, "503 Service Unavailable", "", down);
    else if (strncmp(request, "POST /v3/watch ", 15) == 0)
        go_on = answer_watch(g, fd);
    else
        answer_body(fd, "200 OK", "", proa_buf_text(&list));
    proa_buf_free(&list);
    return go_on;
}

static gateway *gateway_create(void)
{
    gateway *g = calloc(1, sizeof *g);
    pthread_mutex_init(&g->lock, NULL);
    g->server = http_server_create(answer, g);
    assert_non_null(g->server);
    return g;
}

static void gateway_free(gateway *g)
{
    assert_true(http_server_free(g->server));
    pthread_mutex_destroy(&g->lock);
    proa_buf_free(&g->list);
    proa_buf_free(&g->opening);
    free(g);
}

static void append_kv(proa_buf *out, const char *key, const char *value, int revision)
{
    proa_buf_append_text(out, "{\"key\":\"");
    proa_base64_write(key, strlen(key), out);
    proa_buf_append_format(out, "\",\"mod_revision\":\"%d\"", revision);
    if (value != NULL) {
        proa_buf_append_text(out, ",\"value\":\"");
        proa_base64_write(value, strlen(value), out);
        proa_buf_append_char(out, '"');
    }
    proa_buf_append_char(out, '}');
}

/* From now on, lists as of `revision` with one key (NULL: none), and watches that begin well at it. */
static void set_list(gateway *g, int revision, const char *key, const char *value, int mod_revision)
{
    pthread_mutex_lock(&g->lock);
    proa_buf_clear(&g->list);
    proa_buf_append_format(&g->list, "{\"header\":{\"revision\":\"%d\"},\"kvs\":[", revision);
    if (key != NULL)
        append_kv(&g->list, key, value, mod_revision);
    proa_buf_append_text(&g->list, "]}");
    proa_buf_clear(&g->opening);
    proa_buf_append_format(&g->opening, "{\"result\":{\"header\":{\"revision\":\"%d\"},\"created\":true}}\n",
                           revision);
    pthread_mutex_unlock(&g->lock);
}

static void set_opening(gateway *g, const char *text)
{
    pthread_mutex_lock(&g->lock);
    proa_buf_clear(&g->opening);
    proa_buf_append_text(&g->opening, text);
    pthread_mutex_unlock(&g->lock);
}

static void set_down(gateway *g, const char *text)
{
    pthread_mutex_lock(&g->lock);
    g->down = text;
    if (g->stream_fd != 0 && text != NULL && text[0] != 0) /* a stopped one does not even close */
        shutdown(g->stream_fd, SHUT_RDWR);
    pthread_mutex_unlock(&g->lock);
}

static int count_of(gateway *g, const int *counter)
{
    pthread_mutex_lock(&g->lock);
    int count = *counter;
    pthread_mutex_unlock(&g->lock);
    return count;
}

static void wait_for_count(gateway *g, const int *counter, int count, int64_t within_us)
{
    int64_t until = proa_clock_us() + within_us;
    while (count_of(g, counter) < count && proa_clock_us() < until)
        usleep(5000);
    assert_true(count_of(g, counter) >= count);
}

/* Sends text on the newest stream, which must be there. */
static void push(gateway *g, const char *text)
{
    pthread_mutex_lock(&g->lock);
    assert_int_not_equal(g->stream_fd, 0);
    say_chunk(g->stream_fd, text);
    pthread_mutex_unlock(&g->lock);
}

static void push_event(gateway *g, const char *key, const char *value, int revision)
{
    proa_buf text = {0};
    proa_buf_append_format(&text,
                           "{\"result\":{\"header\":{\"revision\":\"%d\"},\"events\":[{%s\"kv\":", revision,
                           value == NULL ? "\"type\":\"DELETE\"," : "");
    append_kv(&text, key, value, revision);
    proa_buf_append_text(&text, "}]}}\n");
    push(g, text.data);
    proa_buf_free(&text);
}

typedef struct world {
    gateway *a, *b;
    proa_discovery *d;
    journal *j;
    char endpoints[100];
} world;

static int setup(void **state)
{
    world *w = calloc(1, sizeof *w);
    w->a = gateway_create();
    w->b = gateway_create();
    w->j = journal_create();
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    world *w = *state;
    proa_discovery_free(w->d);
    gateway_free(w->a);
    gateway_free(w->b);
    journal_free(w->j);
    free(w);
    return 0;
}

/* Watches through one or both gateways until the first list has been told and the stream is open. */
static void begin(world *w, bool both)
{
    int n = snprintf(w->endpoints, sizeof w->endpoints, "http://127.0.0.1:%d", w->a->server->port);
    if (both)
        snprintf(w->endpoints + n, sizeof w->endpoints - (size_t)n, ",http://127.0.0.1:%d",
                 w->b->server->port);
    const proa_discovery_options options = {.backend = "etcd", .endpoints = w->endpoints, .lease_s = LEASE_S};
    w->d = create(&options);
    watch(w->d, "v1/", w->j);
    wait_for_count(w->a, &w->a->watches, 1, 2 * SECOND);
}

/* Each event once, whatever is repeated or stale; pieces of lines; keys of others. */
static void test_events_twice(void **state)
{
    world *w = *state;
    set_list(w->a, 5, "v1/a", "1", 3);
    begin(w, false);
    expect(w->j, "+v1/a=1; synced; ", SECOND);
    push_event(w->a, "v1/a", "0", 4); /* older than the list */
    push_event(w->a, "v1/a", "2", 6);
    push_event(w->a, "v1/b", "1", 7);
    push_event(w->a, "v1/a", "1", 5);
    push_event(w->a, "v1/a", "2", 6);
    push_event(w->a, "v2/a", "1", 8);
    push_event(w->a, "v1/b", NULL, 9);
    push_event(w->a, "v1/b", "1", 7);
    push(w->a, "{\"result\":{\"header\":{\"revision\":\"9\"}}}\n\n{\"result\":{\"header\":{\"revi");
    push(w->a, "sion\":\"10\"},\"events\":[{\"kv\":{\"key\":\"djEvYw==\",\"mod_revision\":\"10\"}}]}}\n");
    expect(w->j, "+v1/a=1; synced; +v1/a=2; +v1/b=1; -v1/b; +v1/c=; ", SECOND);
    assert_int_equal(count_of(w->a, &w->a->watches), 1);
    assert_int_equal(count_of(w->a, &w->a->lists), 1);
}

/* The stream cannot begin where the list ended: listed again, and believed at once, since nobody was away. */
static void test_compacted(void **state)
{
    world *w = *state;
    set_list(w->a, 5, "v1/a", "1", 3);
    set_opening(
        w->a,
        "{\"result\":{\"header\":{\"revision\":\"9\"},\"created\":true}}\n"
        "{\"result\":{\"header\":{\"revision\":\"9\"},\"canceled\":true,\"compact_revision\":\"8\"}}\n");
    log_capture *log = log_capture_begin();
    begin(w, false);
    expect(w->j, "+v1/a=1; synced; ", SECOND);
    set_list(w->a, 9, "v1/b", "1", 8);
    expect(w->j, "+v1/a=1; synced; +v1/b=1; -v1/a; ", SECOND / 2);
    log_capture_end(log);
    assert_logged(log, "etcd", 0);
    log_capture_free(log);
}

/* Between list and stream the store has lost everything: its first word gives it away. */
static void test_wiped_behind_the_list(void **state)
{
    world *w = *state;
    set_list(w->a, 80, "v1/a", "1", 70);
    set_opening(w->a, "{\"result\":{\"header\":{\"revision\":\"1\"},\"created\":true}}\n");
    begin(w, false);
    wait_for_count(w->a, &w->a->lists, 2, SECOND);
    int64_t start = proa_clock_us();
    set_list(w->a, 1, NULL, NULL, 0);
    usleep(400000);                   /* by then the stream that stays has begun */
    push_event(w->a, "v1/b", "1", 2); /* a revision of the new count */
    expect(w->j, "+v1/a=1; synced; +v1/b=1; ", SECOND / 2);
    expect(w->j, "+v1/a=1; synced; +v1/b=1; -v1/a; ", 2 * LEASE_US);
    assert_true(proa_clock_us() - start > LEASE_US * 9 / 10);
}

/* A member that answers nothing any more, as a stopped one: the other is used, nothing is reported gone. */
static void test_member_stops(void **state)
{
    world *w = *state;
    set_list(w->a, 5, "v1/a", "1", 3);
    set_list(w->b, 6, "v1/a", "1", 3);
    log_capture *log = log_capture_begin();
    begin(w, true);
    expect(w->j, "+v1/a=1; synced; ", SECOND);
    set_down(w->a, "");
    wait_for_count(w->b, &w->b->watches, 1, 3 * SECOND);
    usleep(50000);
    push_event(w->b, "v1/a", "2", 7);
    expect(w->j, "+v1/a=1; synced; +v1/a=2; ", SECOND);
    log_capture_end(log);
    assert_logged(log, "fails (Operation timed out", 1);
    assert_logged(log, "does not work", 0);
    log_capture_free(log);
    assert_int_equal(count_of(w->b, &w->b->lists), 1);
}

/* A member without a leader: it takes the watch and never begins it; its error at last. */
static void test_watch_never_begins(void **state)
{
    world *w = *state;
    set_list(w->a, 5, "v1/a", "1", 3);
    set_list(w->b, 5, "v1/a", "1", 3);
    set_opening(w->a, "");
    begin(w, true);
    wait_for_count(w->b, &w->b->watches, 1, 4 * SECOND);
    usleep(50000);
    push(w->b, "{\"error\":{\"grpc_code\":14,\"http_code\":503,\"message\":\"etcdserver: no leader\"}}\n");
    wait_for_count(w->a, &w->a->watches, 2, 2 * SECOND);
    expect(w->j, "+v1/a=1; synced; ", 0);
}

/* What makes no sense ends the connection and nothing else; people read why, once. */
static void test_nonsense(void **state)
{
    static const char *const nonsense[] = {
        "<html>\n",
        "{\"result\":{\"header\":{\"revision\":\"9\"},\"events\":[{\"kv\":{\"key\":\"?\"}}]}}\n",
        "{\"result\":{\"header\":{\"revision\":\"9\"},\"canceled\":true,\"cancel_reason\":\"tired\"}}\n",
        "{\"error\":\"odd\"}\n",
    };
    world *w = *state;
    set_list(w->a, 5, "v1/a", "1", 3);
    begin(w, false);
    for (int i = 0; i < 4; i++) {
        wait_for_count(w->a, &w->a->watches, i + 1, 3 * SECOND);
        usleep(50000);
        push(w->a, nonsense[i]);
    }
    wait_for_count(w->a, &w->a->watches, 5, 3 * SECOND);
    expect(w->j, "+v1/a=1; synced; ", 0);
    log_capture *log = log_capture_begin();
    set_down(w->a, "{\"message\":\"etcdserver: no\\nleader\",\"code\":14}");
    usleep(SECOND);
    set_down(w->a, NULL);
    wait_for_count(w->a, &w->a->watches, 6, 3 * SECOND);
    usleep(50000);
    log_capture_end(log);
    assert_logged(log, "does not work: HTTP 503, etcdserver: no leader", 1);
    assert_logged(log, "works again", 1);
    log_capture_free(log);
    expect(w->j, "+v1/a=1; synced; ", LEASE_US);
}

/* An event that never came (3.4.23 loses some) is made up for by the periodic list, while the stream goes on. */
static void test_lost_event(void **state)
{
    world *w = *state;
    set_list(w->a, 5, "v1/a", "1", 3);
    begin(w, false);
    expect(w->j, "+v1/a=1; synced; ", SECOND);
    set_list(w->a, 7, "v1/b", "1", 7);
    usleep(25 * SECOND);
    expect(w->j, "+v1/a=1; synced; ", 0);
    expect(w->j, "+v1/a=1; synced; +v1/b=1; -v1/a; ", 8 * SECOND);
    assert_int_equal(count_of(w->a, &w->a->watches), 1);
    assert_int_equal(count_of(w->a, &w->a->lists), 2);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_events_twice, setup, teardown),
        cmocka_unit_test_setup_teardown(test_compacted, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wiped_behind_the_list, setup, teardown),
        cmocka_unit_test_setup_teardown(test_member_stops, setup, teardown),
        cmocka_unit_test_setup_teardown(test_watch_never_begins, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nonsense, setup, teardown),
    };
    const struct CMUnitTest long_tests[] = {
        cmocka_unit_test_setup_teardown(test_lost_event, setup, teardown),
    };
    if (argc > 1 && strcmp(argv[1], "long") == 0)
        return cmocka_run_group_tests(long_tests, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
