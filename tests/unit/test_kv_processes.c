/* test_kv_processes.c - KV transfers between two processes: the bytes arrive, and either end may be killed in the middle.
 *
 * The other end is this program again, as a child of its own (UCX does not survive a fork), on a socket of packets: a descriptor,
 * then what a test asks of it. It dies with this process.
 */
#include "kv_fixture.h"

#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    LAYERS = 4,
    BLOCKS = 48,
    ROW_BYTES = 1152,
    CHILD_SOCKET = 100,
    DETECT_US = 2000000, /* a killed receiver must be seen within this */
};

typedef struct child {
    pid_t pid;
    int socket;
} child;

static void end_child(child *c)
{
    close(c->socket);
    if (c->pid < 0)
        return;
    kill(c->pid, SIGKILL);
    waitpid(c->pid, NULL, 0);
}

/* Runs this program as `role`, which finds the socket as descriptor CHILD_SOCKET. */
static child start_child(const char *role, const kv_kind *k, int seed)
{
    int sockets[2];
    char kind[16], seed_text[16];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets), 0);
    snprintf(kind, sizeof kind, "%d", (int)(k - kv_kinds));
    snprintf(seed_text, sizeof seed_text, "%d", seed);
    fflush(stdout);
    child c = {.pid = fork(), .socket = sockets[0]};
    assert_true(c.pid >= 0);
    if (c.pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (dup2(sockets[1], CHILD_SOCKET) == CHILD_SOCKET)
            execl("/proc/self/exe", "test_kv_processes", role, kind, seed_text, NULL);
        _exit(127);
    }
    close(sockets[1]);
    return c;
}

/* A packet within the deadline; else the test fails. */
static size_t receive(int socket, void *bytes, size_t most)
{
    struct pollfd wait = {.fd = socket, .events = POLLIN};
    ssize_t got = poll(&wait, 1, KV_DEADLINE_US / 1000) == 1 ? recv(socket, bytes, most, 0) : -1;
    if (got <= 0)
        fail_msg("nothing from the child: %s", got == 0 ? "it has ended" : strerror(errno));
    return (size_t)got;
}

/* --- the child receives --- */

/* Sends the descriptor, then answers block numbers with their digests, while the transfer goes on. */
static int receiver(int socket, kv_side *side)
{
    proa_error err = {0};
    proa_buf descriptor = {0};
    proa_kv_inbox *inbox = NULL;
    if (proa_kv_inbox_open(side->transfer, &descriptor, &inbox, &err) != PROA_OK ||
        send(socket, descriptor.data, descriptor.length, 0) < 0)
        return 1;
    for (;;) {
        int32_t block;
        ssize_t got = recv(socket, &block, sizeof block, MSG_DONTWAIT);
        if (got == 0)
            return 0;
        if (got == sizeof block) {
            uint64_t digest = proa_kv_digest(&side->layout, block, KV_ROWS, 0);
            if (send(socket, &digest, sizeof digest, 0) < 0)
                return 1;
        }
        kv_turn(side->transfer);
    }
}

typedef struct writer {
    kv_side side;
    proa_kv_peer *peer;
    int32_t from[BLOCKS];
    int32_t to[BLOCKS];
} writer;

static void connect_writer(writer *w, int socket)
{
    char descriptor[PROA_KV_DESCRIPTOR_BYTES_MAX];
    proa_error err = {0};
    int32_t blocks = 0;
    size_t length = receive(socket, descriptor, sizeof descriptor);
    if (proa_kv_peer_connect(w->side.transfer, descriptor, length, "receiver", &w->peer, &blocks, &err) !=
        PROA_OK)
        fail_msg("%s", err.text);
    for (int32_t i = 0; i < BLOCKS; i++) {
        w->from[i] = BLOCKS - 1 - i;
        w->to[i] = i * 5 % BLOCKS; /* coprime */
    }
}

static void test_bytes_arrive(void **state)
{
    const kv_kind *k = *state;
    child c = start_child("receiver", k, 77);
    writer w = {0};
    kv_make_side(&w.side, LAYERS, BLOCKS, ROW_BYTES, 78);
    w.side.transfer = kv_make_transfer(k, NULL, &w.side.layout);
    connect_writer(&w, c.socket);
    proa_error err = {0};
    for (int32_t round = 0; round < 10; round++) {
        kv_outcome o = {0};
        proa_kv_write write = {w.from, w.to, 0, BLOCKS * KV_ROWS, kv_on_done, &o};
        memset(w.side.layout.base, round, 5000);
        assert_int_equal(proa_kv_peer_write(w.peer, &write, &err), PROA_OK);
        int64_t deadline = proa_clock_us() + KV_DEADLINE_US;
        while (o.calls == 0 && proa_clock_us() < deadline)
            kv_turn(w.side.transfer);
        assert_int_equal(o.calls, 1);
        assert_int_equal(o.result.status, PROA_OK);
        for (int32_t i = 0; i < BLOCKS; i++) {
            uint64_t digest;
            assert_int_equal(send(c.socket, &w.to[i], sizeof w.to[i], 0), sizeof w.to[i]);
            assert_int_equal(receive(c.socket, &digest, sizeof digest), sizeof digest);
            assert_true(digest == proa_kv_digest(&w.side.layout, w.from[i], KV_ROWS, 0));
        }
    }
    printf("%s: path \"%s\"\n", k->name, proa_kv_peer_path(w.peer));
    proa_kv_transfer_free(w.side.transfer);
    free(w.side.memory);
    end_child(&c);
}

/* Writes without end; the receiver is killed. A write ends with an error in time, and new ones are refused. */
static void test_receiver_killed(void **state)
{
    const kv_kind *k = *state;
    child c = start_child("receiver", k, 77);
    writer w = {0};
    kv_make_side(&w.side, LAYERS, BLOCKS, ROW_BYTES, 78);
    w.side.transfer = kv_make_transfer(k, NULL, &w.side.layout);
    connect_writer(&w, c.socket);
    proa_error err = {0};
    kv_outcome o = {.calls = 1};
    int64_t killed_us = 0, start_us = proa_clock_us();
    proa_kv_write write = {w.from, w.to, 0, BLOCKS * KV_ROWS, kv_on_done, &o};
    int32_t done = 0;
    while (o.result.status == PROA_OK) {
        if (o.calls > 0) {
            o.calls = 0;
            done++;
            assert_int_equal(proa_kv_peer_write(w.peer, &write, &err), PROA_OK);
        }
        kv_turn(w.side.transfer);
        int64_t now = proa_clock_us();
        if (killed_us == 0 && done > 3 && o.calls == 0) {
            kill(c.pid, SIGKILL);
            waitpid(c.pid, NULL, 0); /* shared memory's keep-alive takes a zombie for alive */
            c.pid = -1;
            killed_us = now = proa_clock_us();
        }
        if (now > (killed_us > 0 ? killed_us : start_us) + KV_DEADLINE_US)
            fail_msg("%s: no error %d s after %s", k->name, KV_DEADLINE_US / 1000000,
                     killed_us > 0 ? "the receiver was killed" : "the start");
    }
    int64_t took_us = proa_clock_us() - killed_us;
    assert_true(killed_us > 0);
    printf("%s: the receiver's death is seen after %.0f ms\n", k->name, (double)took_us / 1000);
    assert_true(took_us < DETECT_US);
    assert_int_equal(o.result.status, PROA_ERR_UNREACHABLE);
    assert_int_equal(proa_kv_peer_write(w.peer, &write, &err), PROA_ERR_UNREACHABLE);
    assert_non_null(strstr(err.text, "receiver"));
    proa_kv_peer_close(w.peer);
    proa_kv_transfer_free(w.side.transfer);
    free(w.side.memory);
    end_child(&c);
}

/* A receiver that is stopped fails nothing by itself; closing the peer ends the write at once, and freeing ends soon. */
static void test_receiver_stopped(void **state)
{
    const kv_kind *k = *state;
    child c = start_child("receiver", k, 77);
    writer w = {0};
    kv_make_side(&w.side, LAYERS, BLOCKS, ROW_BYTES, 78);
    w.side.transfer = kv_make_transfer(k, NULL, &w.side.layout);
    connect_writer(&w, c.socket);
    proa_error err = {0};
    kv_outcome o = {0};
    proa_kv_write write = {w.from, w.to, 0, BLOCKS * KV_ROWS, kv_on_done, &o};
    assert_int_equal(proa_kv_peer_write(w.peer, &write, &err), PROA_OK);
    int64_t deadline = proa_clock_us() + KV_DEADLINE_US;
    while (o.calls == 0 && proa_clock_us() < deadline)
        kv_turn(w.side.transfer);
    assert_int_equal(o.result.status, PROA_OK); /* connected, and all that */
    kill(c.pid, SIGSTOP);
    o.calls = 0;
    assert_int_equal(proa_kv_peer_write(w.peer, &write, &err), PROA_OK);
    for (int i = 0; i < 100 && o.calls == 0; i++)
        kv_turn(w.side.transfer);
    int64_t begin = proa_clock_us();
    proa_kv_peer_close(w.peer);
    assert_int_equal(o.calls, 1);
    if (k->kind == PROA_KV_TRANSFER_UCX)
        assert_int_equal(o.result.status,
                         PROA_ERR_CANCELLED); /* nixl may write without the receiver's help */
    proa_kv_transfer_free(w.side.transfer);
    assert_true(proa_clock_us() - begin < 1000000);
    free(w.side.memory);
    kill(c.pid, SIGCONT);
    end_child(&c);
}

/* --- the child writes --- */

static void again(void *context, const proa_kv_write_result *result)
{
    int *done = context;
    *done += result->status == PROA_OK;
}

/* Gets the descriptor, writes all its rows in place without end, and says so after the first time. */
static int endless_writer(int socket, kv_side *side)
{
    char descriptor[PROA_KV_DESCRIPTOR_BYTES_MAX];
    proa_error err = {0};
    int32_t blocks = 0, table[BLOCKS];
    proa_kv_peer *peer = NULL;
    ssize_t length = recv(socket, descriptor, sizeof descriptor, 0);
    if (length <= 0 || proa_kv_peer_connect(side->transfer, descriptor, (size_t)length, "receiver", &peer,
                                            &blocks, &err) != PROA_OK)
        return 1;
    for (int32_t i = 0; i < BLOCKS; i++)
        table[i] = i;
    for (int done = 0, begun = 0;;) {
        proa_kv_write write = {table, table, 0, BLOCKS * KV_ROWS, again, &done};
        if (done == begun && begun++ == 1 && send(socket, "", 1, 0) != 1)
            return 1;
        if (done == begun - 1 && proa_kv_peer_write(peer, &write, &err) != PROA_OK)
            return 1;
        for (int was = done; was == done;)
            kv_turn(side->transfer);
    }
}

/* The child's first complete write; returns its digest of everything, which all writers of a seed share. */
static void let_write(child *c, kv_side *side, proa_kv_inbox **inbox)
{
    proa_error err = {0};
    proa_buf descriptor = {0};
    char said;
    assert_int_equal(proa_kv_inbox_open(side->transfer, &descriptor, inbox, &err), PROA_OK);
    assert_true(send(c->socket, descriptor.data, descriptor.length, 0) > 0);
    proa_buf_free(&descriptor);
    int64_t deadline = proa_clock_us() + KV_DEADLINE_US;
    while (recv(c->socket, &said, 1, MSG_DONTWAIT) != 1) {
        assert_true(proa_clock_us() < deadline);
        kv_turn(side->transfer);
    }
}

static void test_writer_killed(void **state)
{
    const kv_kind *k = *state;
    child writers[3];
    for (int i = 0; i < 3; i++)
        writers[i] = start_child("writer", k, 500);
    kv_side side = {0}, expected = {0};
    kv_make_side(&side, LAYERS, BLOCKS, ROW_BYTES, 77);
    kv_make_side(&expected, LAYERS, BLOCKS, ROW_BYTES, 500);
    side.transfer = kv_make_transfer(k, NULL, &side.layout);
    for (int i = 0; i < 3; i++) {
        proa_kv_inbox *inbox = NULL;
        memset(side.layout.base, 0, side.bytes - 2 * KV_GUARD);
        let_write(&writers[i], &side, &inbox);
        assert_memory_equal(side.layout.base, expected.layout.base, side.bytes - 2 * KV_GUARD);
        end_child(&writers[i]); /* in the middle of a later write */
        for (int turn = 0; turn < 50; turn++)
            kv_turn(side.transfer);
        proa_kv_inbox_close(inbox);
    }
    proa_kv_transfer_free(side.transfer);
    free(side.memory);
    free(expected.memory);
}

/* A writer is stopped in the middle, its inbox is closed, and it goes on: nothing arrives any more. */
static void test_writer_stopped(void **state)
{
    const kv_kind *k = *state;
    child c = start_child("writer", k, 500);
    kv_side side = {0};
    proa_kv_inbox *inbox = NULL;
    kv_make_side(&side, LAYERS, BLOCKS, ROW_BYTES, 77);
    side.transfer = kv_make_transfer(k, NULL, &side.layout);
    let_write(&c, &side, &inbox);
    kill(c.pid, SIGSTOP);
    proa_kv_inbox_close(inbox);
    memset(side.layout.base, 0x5a, side.bytes - 2 * KV_GUARD);
    char *image = malloc(side.bytes);
    assert_non_null(image);
    memcpy(image, side.memory, side.bytes);
    kill(c.pid, SIGCONT);
    for (int turns = 0; turns < 100; turns++)
        kv_turn(side.transfer);
    assert_memory_equal(image, side.memory, side.bytes);
    end_child(&c);
    proa_kv_transfer_free(side.transfer);
    free(side.memory);
    free(image);
}

/* --- all --- */

typedef struct per_kind {
    const char *name;
    CMUnitTestFunction run;
    bool ucx_alone;
} per_kind;

static const per_kind per_kinds[] = {
    {"bytes arrive", test_bytes_arrive, false},         {"receiver killed", test_receiver_killed, false},
    {"receiver stopped", test_receiver_stopped, false}, {"writer killed", test_writer_killed, false},
    {"writer stopped", test_writer_stopped, true}, /* nixl does not promise it on one host (kv_transfer.h) */
};

enum { PER_KIND = sizeof per_kinds / sizeof per_kinds[0] };

static int run_child(char **argv)
{
    kv_side side = {0};
    const kv_kind *k = &kv_kinds[atoi(argv[2])];
    kv_make_side(&side, LAYERS, BLOCKS, ROW_BYTES, (uint64_t)atoi(argv[3]));
    side.transfer = kv_make_transfer(k, NULL, &side.layout);
    return strcmp(argv[1], "receiver") == 0 ? receiver(CHILD_SOCKET, &side)
                                            : endless_writer(CHILD_SOCKET, &side);
}

int main(int argc, char **argv)
{
    if (argc == 4)
        return run_child(argv);
    struct CMUnitTest tests[KV_KINDS * PER_KIND];
    char names[KV_KINDS * PER_KIND][64];
    size_t count = 0;
    for (size_t k = 0; k < KV_KINDS; k++) {
        if (kv_kinds[k].kind == PROA_KV_TRANSFER_LOCAL)
            continue;
        if (kv_kinds[k].kind == PROA_KV_TRANSFER_NIXL && getenv("PROA_TEST_NIXL") == NULL) {
            printf("nixl: skipped, PROA_TEST_NIXL does not name a library (meson test sets it)\n");
            continue;
        }
        for (size_t i = 0; i < PER_KIND; i++) {
            if (per_kinds[i].ucx_alone && kv_kinds[k].kind != PROA_KV_TRANSFER_UCX)
                continue;
            snprintf(names[count], sizeof names[count], "%s: %s", kv_kinds[k].name, per_kinds[i].name);
            tests[count] = (struct CMUnitTest){
                .name = names[count], .test_func = per_kinds[i].run, .initial_state = (void *)&kv_kinds[k]};
            count++;
        }
    }
    return _cmocka_run_group_tests("kv_processes", tests, count, NULL, NULL);
}
