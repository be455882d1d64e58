/* test_rank_mesh.c - what threads post to other ranks: all of it comes in order, or the link ends. */
#include "cmd/rank_mesh.h"

#include "base/clock.h"
#include "base/log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <arpa/inet.h>
#include <cmocka.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BYTES = 256 << 10, MESSAGES = 60, WAIT_US = 30000000 };

/* Written by its mesh's thread, read by the test. */
typedef struct end {
    proa_rank_mesh *mesh;
    atomic_int ups, downs, messages, gaps;
    atomic_bool deaf; /* the next message is not let go of */
    uint32_t next;    /* number that the next message of this link must have; the mesh's thread */
} end;

static void on_up(void *context, int rank, uint64_t incarnation, const uint8_t *blob, size_t bytes)
{
    end *e = context;
    (void)rank, (void)incarnation, (void)blob, (void)bytes;
    e->next = 0;
    atomic_fetch_add(&e->ups, 1);
}

static void on_down(void *context, int rank, const proa_error *why)
{
    end *e = context;
    (void)rank, (void)why;
    atomic_fetch_add(&e->downs, 1);
}

static void on_message(void *context, int rank, uint16_t type, const uint8_t *body, size_t length)
{
    end *e = context;
    uint32_t number;
    (void)rank, (void)type;
    assert_int_equal(length, BYTES);
    memcpy(&number, body, sizeof number);
    /* the first of a link may be any: what was posted before it went with the one that broke */
    if (e->next != 0 && number != e->next)
        atomic_fetch_add(&e->gaps, 1);
    e->next = number + 1;
    atomic_fetch_add(&e->messages, 1);
    while (atomic_load(&e->deaf))
        usleep(1000);
}

static int free_port(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &bytes), 0);
    close(fd);
    return ntohs(at.sin_port);
}

static void open_end(end *e, int rank, const char *address)
{
    proa_error err = {0};
    const proa_mesh_options options = {
        .rank = rank,
        .world = 2,
        .init_address = address,
        .security = {.silence_us = 3600000000}, /* a rank that is deaf for long is not silent */
        .hooks = {.peer_up = on_up, .peer_down = on_down, .message = on_message, .context = e},
    };
    if (proa_rank_mesh_open(&options, NULL, &e->mesh, &err) != PROA_OK)
        fail_msg("%s", err.text);
}

static bool wait_for(atomic_int *count, int least)
{
    for (int64_t deadline = proa_clock_us() + WAIT_US; atomic_load(count) < least;) {
        if (proa_clock_us() > deadline)
            return false;
        usleep(1000);
    }
    return true;
}

static void post(end *from, uint32_t number)
{
    static uint8_t body[BYTES];
    memcpy(body, &number, sizeof number);
    assert_true(proa_rank_mesh_post(from->mesh, 1, 7, body, sizeof body));
}

/* Rank 1 reads nothing while rank 0 sends more than may wait for it. */
static void what_cannot_be_sent_ends_the_link(void **state)
{
    (void)state;
    end ends[2] = {{0}};
    char address[40];
    proa_error err;
    snprintf(address, sizeof address, "127.0.0.1:%d", free_port());
    for (int i = 0; i < 2; i++)
        open_end(&ends[i], i, address);
    for (int i = 0; i < 2; i++)
        assert_int_equal(proa_rank_mesh_wait(ends[i].mesh, 30, &err), PROA_OK);
    post(&ends[0], 0);
    assert_true(wait_for(&ends[1].messages, 1));
    atomic_store(&ends[1].deaf, true);
    for (uint32_t i = 1; i <= MESSAGES; i++)
        post(&ends[0], i);
    assert_true(wait_for(&ends[0].downs, 1));
    atomic_store(&ends[1].deaf, false);
    assert_true(wait_for(&ends[1].downs, 1));
    assert_true(wait_for(&ends[0].ups, 2));
    assert_true(wait_for(&ends[1].ups, 2));
    int before = atomic_load(&ends[1].messages);
    post(&ends[0], MESSAGES + 1);
    assert_true(wait_for(&ends[1].messages, before + 1));
    assert_int_equal(atomic_load(&ends[1].gaps), 0);
    for (int i = 0; i < 2; i++)
        proa_rank_mesh_close(ends[i].mesh);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_cannot_be_sent_ends_the_link),
    };
    proa_log_set_level("error");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
