/* test_nats.c - the plane against a real nats-server: there, absent, killed, frozen and back. */
#include "base/clock.h"
#include "cluster/nats_message.h"
#include "cluster/nats_plane.h"

#include <arpa/inet.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- a server of our own ---- */

typedef struct fixture {
    int port;
    pid_t server; /* 0: not running */
    char url[64];
    atomic_int wakes;
} fixture;

static int free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &length), 0);
    close(fd);
    return ntohs(address.sin_port);
}

static bool nats_server_is_installed(void)
{
    const char *path = getenv("PATH");
    char *copy = strdup(path != NULL ? path : ""), *rest = NULL;
    bool found = false;
    for (char *dir = strtok_r(copy, ":", &rest); dir != NULL && !found; dir = strtok_r(NULL, ":", &rest)) {
        char file[512];
        snprintf(file, sizeof file, "%s/nats-server", dir);
        found = access(file, X_OK) == 0;
    }
    free(copy);
    return found;
}

static void start_server(fixture *f)
{
    char port[16];
    snprintf(port, sizeof port, "%d", f->port);
    pid_t parent = getpid();
    f->server = fork();
    assert_true(f->server >= 0);
    if (f->server > 0)
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int null = open("/dev/null", O_RDWR);
    dup2(null, 1);
    dup2(null, 2);
    if (getppid() == parent)
        execlp("nats-server", "nats-server", "-a", "127.0.0.1", "-p", port, NULL);
    _exit(127);
}

static void kill_server(fixture *f)
{
    if (f->server <= 0)
        return;
    kill(f->server, SIGKILL);
    waitpid(f->server, NULL, 0);
    f->server = 0;
}

static int set_up(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    f->port = free_port();
    snprintf(f->url, sizeof f->url, "nats://127.0.0.1:%d", f->port);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    kill_server(*state);
    free(*state);
    return 0;
}

#define NEEDS_SERVER()                                                                                       \
    do {                                                                                                     \
        if (!nats_server_is_installed()) {                                                                   \
            print_message("nats-server is not on PATH (Debian's package nats-server): not tested\n");        \
            skip();                                                                                          \
        }                                                                                                    \
    } while (0)

static void wake(void *context)
{
    atomic_fetch_add(&((fixture *)context)->wakes, 1);
}

static proa_nats *plane(fixture *f, const char *subject)
{
    proa_nats *nats;
    proa_error err;
    proa_nats_options options = {
        .server = f->url, .name = "test", .subject = subject, .wake = wake, .context = f};
    if (proa_nats_create(&options, &nats, &err) != PROA_OK)
        fail_msg("%s", err.text);
    return nats;
}

static void wait_until(const proa_nats *nats, bool up, double seconds)
{
    int64_t end = proa_clock_us() + (int64_t)(seconds * 1e6);
    while (proa_nats_is_up(nats) != up) {
        if (proa_clock_us() > end)
            fail_msg("the plane is not %s after %.1f s", up ? "up" : "down", seconds);
        usleep(2000);
    }
}

static void wait_event(proa_nats *nats, proa_nats_event *event)
{
    int64_t end = proa_clock_us() + 5000000;
    while (!proa_nats_take(nats, event)) {
        if (proa_clock_us() > end)
            fail_msg("nothing came within 5 s");
        usleep(500);
    }
}

/* ---- what is tried ---- */

static void test_options_refused(void **state)
{
    fixture *f = *state;
    static const char *const servers[] = {"", ",", "nats://host:port:1:2", "nats://user:secret@host:99999"};
    for (size_t i = 0; i < sizeof servers / sizeof servers[0]; i++) {
        proa_nats *nats;
        proa_error err = {0};
        proa_nats_options options = {.server = servers[i], .name = "test", .wake = wake, .context = f};
        if (proa_nats_create(&options, &nats, &err) != PROA_ERR_INVALID)
            fail_msg("\"%s\" was taken for a server", servers[i]);
        assert_non_null(strstr(err.text, "--nats-server"));
        assert_null(strstr(err.text, "secret"));
    }
    proa_nats *nats;
    proa_error err = {0};
    proa_nats_options options = {
        .server = f->url, .name = "test", .subject = "a b", .wake = wake, .context = f};
    assert_int_equal(proa_nats_create(&options, &nats, &err), PROA_ERR_INVALID);
    proa_nats_free(NULL);
}

static void test_no_server(void **state)
{
    fixture *f = *state;
    proa_nats *nats = plane(f, NULL);
    proa_nats_check check;
    proa_error err = {0};
    assert_int_equal(proa_nats_publish(nats, "a.b", 1, 1, "x", 1), PROA_ERR_UNREACHABLE);
    assert_int_equal(proa_nats_probe(f->url, &check, &err), PROA_ERR_UNREACHABLE);
    assert_non_null(strstr(err.text, f->url));
    assert_false(proa_nats_is_up(nats));
    proa_nats_free(nats);
}

enum { MESSAGES = 500 };

static void test_messages(void **state)
{
    NEEDS_SERVER();
    fixture *f = *state;
    proa_nats *worker = plane(f, "dynamo_backend.generate-1"), *frontend = plane(f, NULL);
    proa_nats_event event;
    proa_nats_check check;
    proa_error err;
    usleep(100000);
    assert_false(proa_nats_is_up(worker)); /* it is not there yet, and that is no error */
    start_server(f);
    wait_until(worker, true, 5);
    wait_until(frontend, true, 5);
    if (proa_nats_probe(f->url, &check, &err) != PROA_OK)
        fail_msg("%s", err.text);
    assert_int_equal(check.max_payload, 1 << 20);
    assert_true(check.round_trip_us > 0);
    for (uint32_t i = 0; i < MESSAGES; i++)
        assert_int_equal(proa_nats_publish(frontend, "dynamo_backend.generate-1", 1, i + 1, &i, sizeof i),
                         PROA_OK);
    for (uint32_t i = 0; i < MESSAGES; i++) {
        wait_event(worker, &event);
        assert_false(event.undelivered);
        assert_int_equal(event.length, sizeof i);
        assert_memory_equal(event.message, &i, sizeof i);
        free(event.message);
    }
    assert_true(atomic_load(&f->wakes) > 0);
    assert_false(proa_nats_take(frontend, &event));
    /* nobody there: the server says so, and we hear which one it was */
    assert_int_equal(proa_nats_publish(frontend, "dynamo_backend.generate-2", 2, 0xabcdef, "x", 1), PROA_OK);
    wait_event(frontend, &event);
    assert_true(event.undelivered);
    assert_int_equal(event.worker, 2);
    assert_int_equal(event.sequence, 0xabcdef);
    /* too long, and to a subject that would be a command */
    char *large = calloc(1, (1 << 20) + 1);
    assert_int_equal(proa_nats_publish(frontend, "dynamo_backend.generate-1", 1, 1, large, (1 << 20) + 1),
                     PROA_ERR_TOO_LONG);
    assert_int_equal(proa_nats_publish(frontend, "a\r\nPUB b 0", 1, 1, "x", 1), PROA_ERR_INVALID);
    assert_int_equal(proa_nats_publish(frontend, "dynamo_backend.generate-1", 1, 1, large, 1 << 20), PROA_OK);
    wait_event(worker, &event);
    assert_int_equal(event.length, 1 << 20);
    free(event.message);
    free(large);
    proa_nats_free(frontend);
    proa_nats_free(worker);
}

static void test_killed_and_restarted(void **state)
{
    NEEDS_SERVER();
    fixture *f = *state;
    start_server(f);
    proa_nats *worker = plane(f, "w.1"), *frontend = plane(f, NULL);
    proa_nats_event event;
    for (uint64_t life = 0; life < 3; life++) {
        wait_until(worker, true, 5);
        wait_until(frontend, true, 5);
        assert_int_equal(proa_nats_publish(frontend, "w.1", 1, life, &life, sizeof life), PROA_OK);
        wait_event(worker, &event);
        assert_memory_equal(event.message, &life,
                            sizeof life); /* this life's, none that was kept from before */
        free(event.message);
        kill_server(f);
        wait_until(worker, false, 2);
        wait_until(frontend, false, 2);
        assert_int_equal(proa_nats_publish(frontend, "w.1", 1, 99, "late", 4), PROA_ERR_UNREACHABLE);
        start_server(f);
    }
    wait_until(worker, true, 5);
    assert_false(proa_nats_take(worker, &event));
    proa_nats_free(worker);
    proa_nats_free(frontend);
}

/* A server that does not read: publishing queues, then says that it is full, and never waits. What could not be sent comes
 * back when the library gives the connection up. */
static void test_frozen(void **state)
{
    NEEDS_SERVER();
    fixture *f = *state;
    enum { LETTERS = 20, LETTER_BYTES = 1 << 20 }; /* several times what the sockets' buffers hold */
    start_server(f);
    proa_nats *frontend = plane(f, NULL);
    proa_nats_event event;
    uint8_t *large = calloc(1, LETTER_BYTES);
    wait_until(frontend, true, 5);
    kill(f->server, SIGSTOP);
    int64_t before = proa_clock_us();
    for (uint64_t i = 0; i < LETTERS; i++)
        assert_int_equal(proa_nats_publish(frontend, "w.1", 1, i, large, LETTER_BYTES), PROA_OK);
    assert_true(proa_clock_us() - before <
                900000); /* less than the write's deadline, for which a caller would wait */
    uint64_t queued = LETTERS, bounced = 0;
    proa_status status;
    while ((status = proa_nats_publish(frontend, "w.1", 1, queued, large, LETTER_BYTES)) == PROA_OK)
        queued++;
    assert_true(status == PROA_BUSY || status == PROA_ERR_UNREACHABLE);
    assert_true(queued <= PROA_NATS_QUEUED_BYTES_MAX / LETTER_BYTES + 10);
    wait_until(frontend, false, 5);
    while (bounced + 10 < queued) { /* all but what the sockets' buffers hold */
        wait_event(frontend, &event);
        assert_true(event.undelivered);
        bounced++;
    }
    proa_nats_free(frontend);
    free(large);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_options_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_server, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_messages, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_killed_and_restarted, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_frozen, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
