/* Worlds of 2 to 64 ranks in one process: they find each other, die, come back, come late, and are turned away. */
#include "mesh_fixture.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/random.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static mesh_fixture fixture; /* large */

static mesh_fixture *open_world(int world)
{
    mesh_fixture_open(&fixture, world);
    return &fixture;
}

static mesh_fixture *open_linked(int world)
{
    mesh_fixture *f = open_world(world);
    mesh_fixture_start_all(f);
    assert_true(mesh_fixture_run(f, mesh_all_linked, 40));
    return f;
}

static int messages(const mesh_fixture *f)
{
    int count = 0;
    for (int i = 0; i < f->world; i++)
        count += f->seats[i].messages;
    return count;
}

static bool all_told(const mesh_fixture *f)
{
    return messages(f) == f->world * (f->world - 1);
}

static mesh_seat *double_seat(mesh_fixture *f)
{
    return &f->seats[MESH_SEATS - 1];
}

static bool double_failed(const mesh_fixture *f)
{
    return f->seats[MESH_SEATS - 1].failed;
}

static bool double_ready(const mesh_fixture *f)
{
    return f->seats[MESH_SEATS - 1].ready;
}

/* ---- forming ---- */

static void forms_and_carries(int world)
{
    int64_t began = proa_clock_us();
    mesh_fixture *f = open_linked(world);
    printf("%d ranks, %d links: %.0f ms\n", world, world * (world - 1) / 2,
           (double)(proa_clock_us() - began) / 1e3);
    for (int i = 0; i < world; i++) {
        mesh_seat *s = &f->seats[i];
        char text[100];
        assert_int_equal(s->ups, world - 1);
        assert_int_equal(s->downs, 0);
        assert_int_equal(s->blobs_right, world - 1);
        assert_int_equal(proa_mesh_up_count(s->mesh), world - 1);
        proa_mesh_describe_wait(s->mesh, text, sizeof text);
        assert_string_equal(text, "");
        for (int j = 0; j < world; j++) {
            const uint8_t body[3] = {1, (uint8_t)i, (uint8_t)j};
            if (j != i)
                assert_int_equal(proa_mesh_send(s->mesh, j, 7, body, sizeof body), PROA_OK);
        }
    }
    assert_true(mesh_fixture_run(f, all_told, 10));
    for (int i = 0; i < world; i++) {
        uint64_t expected = 0;
        for (int j = 0; j < world; j++)
            expected += j != i ? (uint64_t)(1 + i + j) : 0;
        assert_int_equal(f->seats[i].sum, expected);
        assert_int_equal(f->seats[i].type, world > 1 ? 7 : 0);
    }
    mesh_fixture_close(f);
}

static void worlds_form(void **state)
{
    static const int worlds[] = {1, 2, 3, 8, 16};
    (void)state;
    for (size_t i = 0; i < sizeof worlds / sizeof *worlds; i++)
        forms_and_carries(worlds[i]);
}

static void sixty_four_ranks_form(void **state)
{
    (void)state;
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max < 16384 ? limit.rlim_max : 16384;
    setrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur < 5000) {
        printf("skipped: 64 ranks in one process need 5000 descriptors, ulimit -Hn is less\n");
        skip();
    }
    forms_and_carries(64);
}

static void late_rank_is_awaited(void **state)
{
    char text[300];
    (void)state;
    mesh_fixture *f = open_world(5);
    mesh_fixture_start(f, 0, 0, NULL);
    mesh_fixture_start(f, 2, 2, NULL);
    assert_false(mesh_fixture_run(f, mesh_all_linked, 0.3));
    proa_mesh_describe_wait(f->seats[0].mesh, text, sizeof text);
    assert_non_null(strstr(text, "waiting for ranks 1, 3, 4 of 5 at 127.0.0.1:"));
    assert_non_null(strstr(text, " for 0 s"));
    proa_mesh_describe_wait(f->seats[2].mesh, text, sizeof text);
    assert_non_null(strstr(text, "waiting for ranks 1, 3, 4 of 5 at "));
    assert_int_equal(f->seats[0].ups, 1);
    mesh_fixture_start(f, 4, 4, NULL);
    mesh_fixture_start(f, 1, 1, NULL);
    assert_false(mesh_fixture_run(f, mesh_all_linked, 0.3));
    assert_int_equal(f->seats[1].ups, 3);
    mesh_fixture_start(f, 3, 3, NULL);
    assert_true(mesh_fixture_run(f, mesh_all_linked, 10));
    mesh_fixture_close(f);
}

static bool one_waits_for_zero(const mesh_fixture *f)
{
    char text[300];
    proa_mesh_describe_wait(f->seats[1].mesh, text, sizeof text);
    return strstr(text, "waiting for rank 0 of 2 at ") != NULL && strstr(text, "Connection refused") != NULL;
}

static void rank_zero_may_come_last(void **state)
{
    (void)state;
    mesh_fixture *f = open_world(2);
    mesh_fixture_start(f, 1, 1, NULL);
    assert_true(mesh_fixture_run(f, one_waits_for_zero, 5));
    mesh_fixture_start(f, 0, 0, NULL);
    assert_true(mesh_fixture_run(f, mesh_all_linked, 10));
    mesh_fixture_close(f);
}

/* ---- dying and coming back ---- */

static bool others_heard(const mesh_fixture *f)
{
    for (int i = 0; i < f->world; i++) {
        for (int j = 0; j < f->world; j++) {
            if (f->seats[i].mesh != NULL && f->seats[j].mesh == NULL && f->seats[i].up[j])
                return false;
        }
    }
    return true;
}

static void comes_back(int world, int rank)
{
    mesh_fixture *f = open_linked(world);
    uint64_t before = proa_mesh_incarnation(f->seats[rank].mesh);
    mesh_fixture_kill(f, rank);
    int64_t killed = proa_clock_us();
    assert_true(mesh_fixture_run(f, others_heard, 1));
    printf("rank %d of %d is gone: seen after %.1f ms", rank, world,
           (double)(proa_clock_us() - killed) / 1e3);
    for (int i = 0; i < world; i++) {
        if (i != rank) {
            assert_int_equal(f->seats[i].downs, 1);
            assert_int_equal(f->seats[i].down_why.status, PROA_ERR_UNREACHABLE);
            assert_int_equal(proa_mesh_send(f->seats[i].mesh, rank, 1, "", 0), PROA_ERR_UNREACHABLE);
        }
    }
    int64_t started = proa_clock_us();
    mesh_fixture_start(f, rank, rank, NULL);
    assert_true(mesh_fixture_run(f, mesh_all_linked, 10));
    printf("; back among them within %.0f ms\n", (double)(proa_clock_us() - started) / 1e3);
    assert_true(before != proa_mesh_incarnation(f->seats[rank].mesh));
    for (int i = 0; i < world; i++)
        assert_int_equal(f->seats[i].downs, i == rank ? 0 : 1);
    mesh_fixture_close(f);
}

static void dead_ranks_come_back(void **state)
{
    static const int cases[][2] = {{2, 1}, {2, 0}, {6, 3}, {6, 5}, {6, 1}, {6, 0}, {16, 0}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        comes_back(cases[i][0], cases[i][1]);
}

/* Nobody can come back without rank 0, and all can with it. */
static void several_die_with_rank_zero(void **state)
{
    (void)state;
    mesh_fixture *f = open_linked(6);
    mesh_fixture_kill(f, 0);
    mesh_fixture_kill(f, 2);
    mesh_fixture_kill(f, 5);
    assert_true(mesh_fixture_run(f, others_heard, 1));
    mesh_fixture_start(f, 5, 5, NULL);
    mesh_fixture_start(f, 2, 2, NULL);
    assert_false(mesh_fixture_run(f, mesh_all_linked, 0.5));
    assert_int_equal(f->seats[2].ups + f->seats[5].ups, 0);
    assert_true(f->seats[1].up[3] && f->seats[4].up[1]); /* the others are as they were */
    mesh_fixture_start(f, 0, 0, NULL);
    assert_true(mesh_fixture_run(f, mesh_all_linked, 10));
    mesh_fixture_close(f);
}

/* A rank that never comes back keeps nobody out. */
static void the_living_are_enough(void **state)
{
    static const int returning[] = {2, 3, 0};
    (void)state;
    for (size_t i = 0; i < sizeof returning / sizeof *returning; i++) {
        mesh_fixture *f = open_linked(5);
        mesh_fixture_kill(f, 1);
        mesh_fixture_kill(f, returning[i]);
        assert_true(mesh_fixture_run(f, others_heard, 1));
        mesh_fixture_start(f, returning[i], returning[i], NULL);
        int64_t began = proa_clock_us();
        assert_true(mesh_fixture_run(f, mesh_all_linked, 10));
        printf("rank %d is ready without rank 1 after %.2f s\n", returning[i],
               (double)(proa_clock_us() - began) / 1e6);
        mesh_fixture_start(f, 1, 1, NULL);
        assert_true(mesh_fixture_run(f, mesh_all_linked, 10));
        mesh_fixture_close(f);
    }
}

/* Whatever the order of deaths and starts, rank 0's included: once all run, all are linked. */
static void any_order_of_deaths_heals(void **state)
{
    enum { WORLD = 8, EVENTS = 60 };
    (void)state;
    mesh_fixture *f = open_linked(WORLD);
    for (uint64_t i = 0; i < EVENTS; i++) {
        int rank = (int)(proa_random_uniform(1, 3 * i) * WORLD);
        double pause_s = proa_random_uniform(1, 3 * i + 1) < 0.5 ? 0.002 : 0.06;
        if (f->seats[rank].mesh != NULL)
            mesh_fixture_kill(f, rank);
        if (proa_random_uniform(1, 3 * i + 2) < 0.6)
            mesh_fixture_start(f, rank, rank, NULL);
        mesh_fixture_run(f, NULL, pause_s);
    }
    for (int i = 0; i < WORLD; i++) {
        if (f->seats[i].mesh == NULL)
            mesh_fixture_start(f, i, i, NULL);
    }
    assert_true(mesh_fixture_run(f, mesh_all_linked, 20));
    mesh_fixture_close(f);
}

/* ---- turned away ---- */

static void others_are_turned_away(void **state)
{
    static const struct {
        mesh_variant variant;
        const char *told[3];
    } cases[] = {
        {{.key = "another key of sixteen bytes"}, {"rank 0 at 127.0.0.1:", "key", ""}},
        {{.world = 4},
         {"--tp-size is 4 at rank 2 and 3 at rank 0", "does not take this process as rank 2", ""}},
        {{.page_size = "1"}, {"--page-size is 1 at rank 2 and 64 at rank 0", "same model and flags", ""}},
        {{.more_term = "--enable-dp-attention"},
         {"--enable-dp-attention is on at rank 2 and not known at rank 0", "", ""}},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mesh_fixture *f = open_world(3);
        mesh_fixture_start(f, 0, 0, NULL);
        mesh_fixture_start(f, 1, 1, NULL);
        mesh_seat *s = mesh_fixture_start(f, MESH_SEATS - 1, 2, &cases[i].variant);
        assert_true(mesh_fixture_run(f, double_failed, 5));
        for (int j = 0; j < 3; j++) {
            if (strstr(s->why.text, cases[i].told[j]) == NULL)
                fail_msg("case %zu: \"%s\" is not in \"%s\"", i, cases[i].told[j], s->why.text);
        }
        assert_int_equal(s->ups, 0);
        assert_int_equal(proa_mesh_send(s->mesh, 0, 1, "", 0), PROA_ERR_UNREACHABLE);
        mesh_fixture_start(f, 2, 2, NULL); /* nobody was harmed */
        assert_true(mesh_fixture_run(f, mesh_all_linked, 10));
        mesh_fixture_close(f);
    }
}

static void double_rank_waits_for_the_first_to_die(void **state)
{
    const mesh_variant impatient = {.rendezvous_s = 0.6};
    (void)state;
    mesh_fixture *f = open_linked(4);
    mesh_seat *s = mesh_fixture_start(f, MESH_SEATS - 1, 2, &impatient);
    assert_true(mesh_fixture_run(f, double_failed, 5));
    assert_int_equal(s->why.status, PROA_ERR_DEADLINE);
    assert_non_null(strstr(s->why.text, "rank 2 is there already"));
    mesh_fixture_kill(f, MESH_SEATS - 1);
    assert_true(mesh_all_linked(f));
    s = mesh_fixture_start(f, MESH_SEATS - 1, 2, NULL);
    assert_false(mesh_fixture_run(f, double_ready, 0.4));
    assert_int_equal(double_seat(f)->ups, 0);
    mesh_fixture_kill(f, 2);
    assert_true(mesh_fixture_run(f, double_ready, 5));
    assert_int_equal(s->ups, 3);
    for (int i = 0; i < 4; i++) {
        if (i != 2)
            assert_int_equal(f->seats[i].incarnations[2], proa_mesh_incarnation(s->mesh));
    }
    mesh_fixture_close(f);
}

/* ---- deadlines ---- */

static bool all_failed(const mesh_fixture *f)
{
    for (int i = 0; i < f->world; i++) {
        if (f->seats[i].mesh != NULL && !f->seats[i].failed)
            return false;
    }
    return true;
}

static void rendezvous_ends(void **state)
{
    const mesh_variant impatient = {.rendezvous_s = 0.5};
    (void)state;
    mesh_fixture *f = open_world(20);
    mesh_fixture_start(f, 0, 0, &impatient);
    mesh_fixture_start(f, 2, 2, &impatient);
    assert_true(mesh_fixture_run(f, all_failed, 5));
    for (int i = 0; i <= 2; i += 2) {
        assert_int_equal(f->seats[i].why.status, PROA_ERR_DEADLINE);
        if (f->seats[i].ups == 1 && strstr(f->seats[i].why.text, "rank 0 of") == NULL)
            assert_non_null(strstr(f->seats[i].why.text, "waiting for ranks 1, 3-19 of 20 at 127.0.0.1:"));
    }
    mesh_fixture_kill(f, 0);
    mesh_fixture_kill(f, 2);
    mesh_fixture_start(f, 1, 1, &impatient);
    assert_true(mesh_fixture_run(f, all_failed, 5));
    assert_non_null(strstr(f->seats[1].why.text, "waiting for rank 0 of 20 at 127.0.0.1:"));
    assert_non_null(strstr(f->seats[1].why.text, "Connection refused"));
    mesh_fixture_close(f);
}

/* ---- sending ---- */

static bool all_arrived(const mesh_fixture *f)
{
    return f->seats[1].sum == 3 * (uint64_t)PROA_MESH_MESSAGE_BYTES_MAX;
}

static void sending_is_bounded(void **state)
{
    (void)state;
    mesh_fixture *f = open_linked(2);
    proa_mesh *mesh = f->seats[0].mesh;
    uint8_t *body = malloc(PROA_MESH_MESSAGE_BYTES_MAX + 1);
    assert_non_null(body);
    memset(body, 1, PROA_MESH_MESSAGE_BYTES_MAX + 1);
    assert_int_equal(proa_mesh_send(mesh, 1, 1, body, PROA_MESH_MESSAGE_BYTES_MAX + 1), PROA_ERR_TOO_LONG);
    assert_int_equal(proa_mesh_send(mesh, 0, 1, body, 1), PROA_ERR_UNREACHABLE); /* itself */
    int sent = 0;
    while (proa_mesh_send(mesh, 1, 1, body, PROA_MESH_MESSAGE_BYTES_MAX) == PROA_OK)
        sent++;
    assert_int_equal(sent, 3); /* with their headers, a fourth is over the limit */
    assert_int_equal(proa_mesh_send(mesh, 1, 1, body, PROA_MESH_MESSAGE_BYTES_MAX), PROA_BUSY);
    assert_true(mesh_fixture_run(f, all_arrived, 10));
    assert_int_equal(proa_mesh_send(mesh, 1, 1, body, PROA_MESH_MESSAGE_BYTES_MAX), PROA_OK);
    free(body);
    mesh_fixture_close(f);
}

static bool both_hear_the_end(const mesh_fixture *f)
{
    return f->seats[0].downs == 1 && f->seats[1].downs == 1;
}

static bool both_are_up_again(const mesh_fixture *f)
{
    return f->seats[0].ups == 2 && f->seats[1].ups == 2 && mesh_all_linked(f);
}

/* An owner that could not send ends the link: both ends hear of it, and are linked anew. */
static void a_broken_link_is_made_anew(void **state)
{
    (void)state;
    mesh_fixture *f = open_linked(2);
    proa_error why;
    proa_error_set(&why, PROA_ERR_DEADLINE, "it does not read");
    proa_mesh_break(f->seats[0].mesh, 1, &why);
    assert_int_equal(f->seats[0].downs, 1);
    assert_string_equal(f->seats[0].down_why.text, "it does not read");
    proa_mesh_break(f->seats[0].mesh, 1, &why); /* it is not up: nothing to end */
    assert_int_equal(f->seats[0].downs, 1);
    assert_true(mesh_fixture_run(f, both_hear_the_end, 10));
    assert_true(mesh_fixture_run(f, both_are_up_again, 20));
    assert_int_equal(proa_mesh_send(f->seats[0].mesh, 1, 1, "x", 1), PROA_OK);
    mesh_fixture_close(f);
}

/* ---- peers that are no ranks ---- */

typedef struct stranger {
    proa_link *link;
    uint16_t type; /* what is said when the link is up; 0: nothing */
    bool down;
} stranger;

static void stranger_up(void *context, proa_link *link)
{
    stranger *s = context;
    if (s->type != 0)
        assert_int_equal(proa_link_send(link, s->type, "garbage", 7), PROA_OK);
}

static void stranger_message(void *context, proa_link *link, uint16_t type, const uint8_t *body,
                             size_t length)
{
    (void)context, (void)link, (void)type, (void)body, (void)length;
}

static void stranger_down(void *context, proa_link *link, const proa_error *why)
{
    (void)link, (void)why;
    ((stranger *)context)->down = true;
}

/* Members of the cluster, by their key, that say what no rank says, or nothing: their links end, and the mesh goes on. */
static void strangers_are_dropped(void **state)
{
    static const uint16_t types[] = {
        1, PROA_MESH_TYPE_FIRST, PROA_MESH_TYPE_FIRST + 1, PROA_MESH_TYPE_FIRST + 2, PROA_MESH_TYPE_FIRST + 3,
        0};
    enum { COUNT = sizeof types / sizeof *types };
    stranger strangers[COUNT] = {0};
    char address[32];
    (void)state;
    const mesh_variant hasty = {.connect_s = 2};
    mesh_fixture *f = open_world(3);
    for (int i = 0; i < 3; i++)
        mesh_fixture_start(f, i, i, &hasty);
    assert_true(mesh_fixture_run(f, mesh_all_linked, 20));
    const proa_link_security security = {.key = MESH_KEY};
    const proa_link_identity self = proa_link_identity_draw("rank");
    snprintf(address, sizeof address, "127.0.0.1:%d", f->port);
    for (int i = 0; i < COUNT; i++) {
        strangers[i].type = types[i];
        const proa_link_hooks hooks = {stranger_up, stranger_message, stranger_down, &strangers[i]};
        assert_int_equal(
            proa_link_dial(f->loop, &security, &self, address, &hooks, NULL, &strangers[i].link, NULL),
            PROA_OK);
    }
    int64_t began = proa_clock_us();
    int down = 0;
    while (down < COUNT && proa_clock_us() - began < 10000000) {
        mesh_fixture_run(f, NULL, 0.02);
        down = 0;
        for (int i = 0; i < COUNT; i++)
            down += strangers[i].down;
        if (proa_clock_us() - began < 1900000)
            assert_false(strangers[COUNT - 1].down); /* it may still greet */
    }
    assert_int_equal(down, COUNT);
    assert_true(mesh_all_linked(f));
    assert_int_equal(f->seats[0].downs, 0);
    mesh_fixture_close(f);
}

/* ---- descriptors ---- */

static void too_few_descriptors_are_an_error(void **state)
{
    (void)state;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        const struct rlimit few = {.rlim_cur = 90, .rlim_max = 100};
        const proa_mesh_options options = {
            .rank = 1, .world = 64, .init_address = "127.0.0.1:1", .security.key = MESH_KEY};
        proa_loop *loop;
        proa_mesh *mesh;
        proa_error err = {0};
        bool right = setrlimit(RLIMIT_NOFILE, &few) == 0 &&
                     proa_loop_create(NULL, NULL, &loop, NULL) == PROA_OK &&
                     proa_mesh_create(loop, &options, &mesh, &err) == PROA_ERR_INVALID &&
                     strstr(err.text, "needs 128 descriptors, and this process may open 100") != NULL;
        if (!right)
            fprintf(stderr, "told \"%s\"\n", err.text);
        _exit(right ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(worlds_form),
        cmocka_unit_test(sixty_four_ranks_form),
        cmocka_unit_test(late_rank_is_awaited),
        cmocka_unit_test(rank_zero_may_come_last),
        cmocka_unit_test(dead_ranks_come_back),
        cmocka_unit_test(several_die_with_rank_zero),
        cmocka_unit_test(the_living_are_enough),
        cmocka_unit_test(any_order_of_deaths_heals),
        cmocka_unit_test(others_are_turned_away),
        cmocka_unit_test(double_rank_waits_for_the_first_to_die),
        cmocka_unit_test(rendezvous_ends),
        cmocka_unit_test(sending_is_bounded),
        cmocka_unit_test(a_broken_link_is_made_anew),
        cmocka_unit_test(strangers_are_dropped),
        cmocka_unit_test(too_few_descriptors_are_an_error),
    };
    proa_log_set_level("error");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
