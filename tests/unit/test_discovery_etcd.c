/* test_discovery_etcd.c - discovery against a real etcd: owners and servers that are killed, stopped, wiped, cut off.
 *
 * `test_discovery_etcd long` does it with three nodes. */
#include "etcd_fixture.h"

typedef struct world {
    etcd_cluster *etcd;
    proa_discovery_options options;
} world;

enum { ETCD_LEASE_US = 2 * SECOND };

static int setup(void **state)
{
    world *w = calloc(1, sizeof *w);
    *state = w;
    if (etcd_is_installed()) {
        w->etcd = etcd_create(1);
        w->options = (proa_discovery_options){
            .backend = "etcd", .endpoints = w->etcd->endpoints, .lease_s = (double)ETCD_LEASE_US / SECOND};
    }
    return 0;
}

static int teardown(void **state)
{
    world *w = *state;
    if (w->etcd != NULL)
        etcd_free(w->etcd);
    free(w);
    return 0;
}

static world *needs_etcd(void **state)
{
    world *w = *state;
    if (w->etcd == NULL) {
        print_message("skipped: etcd is not on PATH (Debian: etcd-server)\n");
        skip();
    }
    return w;
}

static void test_life(void **state)
{
    world *w = needs_etcd(state);
    life_of_a_key(&w->options);
    assert_int_equal(etcd_count(&w->etcd->nodes[0], "v1/", NULL), 0);
    assert_int_equal(etcd_leases(&w->etcd->nodes[0]), 0);
    many_keys(&w->options);
    assert_int_equal(etcd_count(&w->etcd->nodes[0], "v1/", NULL), 0);
    assert_int_equal(etcd_leases(&w->etcd->nodes[0]), 0);
}

static void test_owner_killed(void **state)
{
    world *w = needs_etcd(state);
    proa_discovery *other = create(&w->options);
    journal *j = journal_create();
    watch(other, "v1/", j);
    expect(j, "synced; ", 2 * SECOND);
    pid_t owner = start_owner(&w->options, "v1/child", "1");
    expect(j, "synced; +v1/child=1; ", 2 * SECOND);
    usleep(ETCD_LEASE_US * 5 / 4); /* it lives longer than its lease */
    expect(j, "synced; +v1/child=1; ", 0);
    kill(owner, SIGKILL);
    waitpid(owner, NULL, 0);
    expect(j, "synced; +v1/child=1; -v1/child; ", 2 * ETCD_LEASE_US);
    proa_discovery_free(other);
    journal_free(j);
}

/* Killed and started again with its data: what was seen stays, what changed is caught up, people read two lines. */
static void test_etcd_killed(void **state)
{
    world *w = needs_etcd(state);
    proa_discovery *owner = create(&w->options), *other = create(&w->options);
    journal *j = journal_create();
    watch(other, "v1/", j);
    expect(j, "synced; ", 2 * SECOND);
    must_register(owner, "v1/stays", "1");
    expect(j, "synced; +v1/stays=1; ", 2 * SECOND);
    must_register(owner, "v1/changes", "1");
    expect(j, "synced; +v1/stays=1; +v1/changes=1; ", 2 * SECOND);

    log_capture *log = log_capture_begin();
    etcd_kill(w->etcd, 0);
    must_register(owner, "v1/changes", "2");
    int64_t start = proa_clock_us();
    proa_discovery_unregister(owner, "v1/stays");
    assert_in_range(proa_clock_us() - start, SECOND * 9 / 10,
                    SECOND * 3 / 2); /* it waits, and not for ever */
    must_register(owner, "v1/stays", "1");
    usleep(ETCD_LEASE_US);
    expect(j, "synced; +v1/stays=1; +v1/changes=1; ", 0);
    etcd_start(w->etcd, 0);
    expect(j, "synced; +v1/stays=1; +v1/changes=1; +v1/changes=2; ", 6 * SECOND);
    usleep(ETCD_LEASE_US); /* the time of doubt ends */
    expect(j, "synced; +v1/stays=1; +v1/changes=1; +v1/changes=2; ", 0);
    log_capture_end(log);
    assert_logged(log, "does not work", 2); /* one for each discovery */
    assert_logged(log, "works again", 2);
    assert_logged(log, w->etcd->endpoints, 4);
    log_capture_free(log);
    proa_discovery_free(owner);
    expect_either(j, "synced; +v1/stays=1; +v1/changes=1; +v1/changes=2; -v1/stays; -v1/changes; ",
                  "synced; +v1/stays=1; +v1/changes=1; +v1/changes=2; -v1/changes; -v1/stays; ", 2 * SECOND);
    proa_discovery_free(other);
    journal_free(j);
}

/* Started again without its data: who lives registers again and is never reported gone; who died in between is, but not
 * before the others have had the time of a lease. */
static void test_etcd_wiped(void **state)
{
    world *w = needs_etcd(state);
    proa_discovery *owner = create(&w->options), *other = create(&w->options);
    journal *j = journal_create();
    watch(other, "v1/", j);
    for (int i = 0; i < 5; i++)
        etcd_put(&w->etcd->nodes[0], "other/key",
                 "x"); /* the new count of revisions stays behind the old one */
    expect(j, "synced; ", 2 * SECOND);
    must_register(owner, "v1/lives", "1");
    expect(j, "synced; +v1/lives=1; ", 2 * SECOND);
    pid_t child = start_owner(&w->options, "v1/dies", "1");
    expect(j, "synced; +v1/lives=1; +v1/dies=1; ", 2 * SECOND);
    etcd_kill(w->etcd, 0);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    etcd_wipe(w->etcd, 0);
    usleep(SECOND / 2);
    etcd_start(w->etcd, 0);
    etcd_wait(&w->etcd->nodes[0]);
    int64_t start = proa_clock_us();
    expect(j, "synced; +v1/lives=1; +v1/dies=1; -v1/dies; ", 3 * ETCD_LEASE_US);
    assert_true(proa_clock_us() - start > ETCD_LEASE_US * 3 / 4);
    assert_int_equal(etcd_count(&w->etcd->nodes[0], "v1/lives", NULL), 1);
    must_register(owner, "v1/lives", "2"); /* events of the new count arrive */
    expect(j, "synced; +v1/lives=1; +v1/dies=1; -v1/dies; +v1/lives=2; ", 2 * SECOND);
    proa_discovery_free(owner);
    proa_discovery_free(other);
    journal_free(j);
}

/* Stopped for longer than the lease: nothing is told meanwhile, and in the end the key is there. */
static void test_etcd_stopped(void **state)
{
    world *w = needs_etcd(state);
    proa_discovery *owner = create(&w->options), *other = create(&w->options);
    journal *j = journal_create();
    must_register(owner, "v1/a", "1");
    watch(other, "v1/", j);
    expect_either(j, "+v1/a=1; synced; ", "synced; +v1/a=1; ", 2 * SECOND);
    size_t before = journal_length(j);
    kill(w->etcd->nodes[0].pid, SIGSTOP);
    usleep(3 * SECOND);
    assert_int_equal(journal_length(j), before);
    kill(w->etcd->nodes[0].pid, SIGCONT);
    usleep(2 * SECOND);
    assert_int_equal(etcd_count(&w->etcd->nodes[0], "v1/", NULL), 1);
    /* etcd may have ended the lease, and told so, before the owner came back */
    assert_true(journal_length(j) == before || journal_ends(j, "-v1/a; +v1/a=1; "));
    must_register(owner, "v1/a", "2");
    for (int i = 0; i < 200 && !journal_ends(j, "+v1/a=2; "); i++)
        usleep(10000);
    assert_true(journal_ends(j, "+v1/a=2; "));
    proa_discovery_free(owner);
    proa_discovery_free(other);
    journal_free(j);
}

/* Own keys that were deleted, overwritten with an older value, or taken by somebody else. */
static void test_own_keys_lost(void **state)
{
    world *w = needs_etcd(state);
    const etcd_node *node = &w->etcd->nodes[0];
    int64_t lease = 0, other_lease = 0;
    proa_discovery *owner = create(&w->options);
    journal *j = journal_create();
    watch(owner, "v1/", j);
    expect(j, "synced; ", 2 * SECOND);
    must_register(owner, "v1/a", "1");
    expect(j, "synced; +v1/a=1; ", 2 * SECOND);
    assert_int_equal(etcd_count(node, "v1/a", &lease), 1);
    etcd_delete(node, "v1/a");
    expect(j, "synced; +v1/a=1; -v1/a; +v1/a=1; ", 2 * SECOND);
    assert_int_equal(etcd_count(node, "v1/a", &other_lease), 1);
    assert_int_not_equal(lease, other_lease); /* the old one cannot be trusted */

    proa_buf body = {0};
    proa_etcd_write_put("v1/a", "late", other_lease, &body);
    assert_int_equal(etcd_ask(node, "v3/kv/put", body.data, NULL), 200);
    expect(j, "synced; +v1/a=1; -v1/a; +v1/a=1; +v1/a=late; +v1/a=1; ", 2 * SECOND);

    log_capture *log = log_capture_begin();
    etcd_put(node, "v1/a", "theirs");
    usleep(ETCD_LEASE_US);
    log_capture_end(log);
    assert_logged(log, "another process has registered v1/a", 1);
    log_capture_free(log);
    expect(j, "synced; +v1/a=1; -v1/a; +v1/a=1; +v1/a=late; +v1/a=1; +v1/a=theirs; ", 0);
    proa_discovery_unregister(owner, "v1/a"); /* not ours to delete */
    assert_int_equal(etcd_count(node, "v1/a", NULL), 1);
    proa_buf_free(&body);
    proa_discovery_free(owner);
    journal_free(j);
}

/* Keys change and history is compacted while the watch is cut off: it sees the outcome. */
static void test_compaction(void **state)
{
    world *w = needs_etcd(state);
    const etcd_node *node = &w->etcd->nodes[0];
    forwarder *way = forwarder_create(node->client_port);
    char endpoint[64], body[100];
    snprintf(endpoint, sizeof endpoint, "127.0.0.1:%d/", way->port); /* as etcdctl takes them */
    proa_discovery_options options = w->options;
    options.endpoints = endpoint;
    etcd_put(node, "v1/stays", "1");
    etcd_put(node, "v1/goes", "1");
    etcd_put(node, "v1/changes", "1");
    proa_discovery *other = create(&options);
    journal *j = journal_create();
    watch(other, "v1/", j);
    expect(j, "+v1/changes=1; +v1/goes=1; +v1/stays=1; synced; ", 2 * SECOND);
    forwarder_cut(way);
    etcd_delete(node, "v1/goes");
    for (int i = 2; i < 50; i++) {
        char value[8];
        snprintf(value, sizeof value, "%d", i);
        etcd_put(node, "v1/changes", value);
    }
    etcd_put(node, "v1/new", "1");
    snprintf(body, sizeof body, "{\"revision\":\"%lld\",\"physical\":true}", (long long)etcd_revision(node));
    assert_int_equal(etcd_ask(node, "v3/kv/compaction", body, NULL), 200);
    forwarder_mend(way);
    expect(j, "+v1/changes=1; +v1/goes=1; +v1/stays=1; synced; +v1/changes=49; +v1/new=1; -v1/goes; ",
           2 * SECOND + ETCD_LEASE_US);
    etcd_put(node, "v1/new", "2");
    expect(j,
           "+v1/changes=1; +v1/goes=1; +v1/stays=1; synced; +v1/changes=49; +v1/new=1; -v1/goes; +v1/new=2; ",
           SECOND);
    proa_discovery_free(other);
    forwarder_free(way);
    journal_free(j);
}

/* Nobody is there at first; then somebody comes. Freeing does not wait for the absent. */
static void test_late_etcd(void **state)
{
    world *w = needs_etcd(state);
    etcd_kill(w->etcd, 0);
    proa_discovery *owner = create(&w->options), *never = create(&w->options);
    journal *j = journal_create();
    watch(owner, "v1/", j);
    must_register(owner, "v1/a", "1");
    must_register(never, "v1/b", "1");
    usleep(SECOND / 2);
    int64_t start = proa_clock_us();
    proa_discovery_free(never);
    assert_true(proa_clock_us() - start < SECOND / 2);
    assert_true(journal_is(j, ""));
    etcd_start(w->etcd, 0);
    expect_either(j, "synced; +v1/a=1; ", "+v1/a=1; synced; ", 5 * SECOND);
    proa_discovery_free(owner);
    assert_int_equal(etcd_count(&w->etcd->nodes[0], "v1/", NULL), 0);
    journal_free(j);
}

static void test_refused(void **state)
{
    (void)state;
    const struct {
        const char *endpoints, *names;
    } table[] = {
        {NULL, "--etcd-endpoints"},
        {"", "--etcd-endpoints"},
        {" , ,", "--etcd-endpoints"},
        {"ftp://a:2379", "ftp://a:2379"},
        {"http://a,/", "--etcd-endpoints: \"\""},
        {"a,b,c,d,e,f,g,h,i", "at most 8"},
        {"http://user:secret@a:2379", "user name"},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        const proa_discovery_options options = {.backend = "etcd", .endpoints = table[i].endpoints};
        proa_discovery *d = NULL;
        proa_error err = {0};
        assert_int_equal(proa_discovery_create(&options, &d, &err), PROA_ERR_INVALID);
        if (strstr(err.text, table[i].names) == NULL)
            fail_msg("row %zu: \"%s\" does not name %s", i, err.text, table[i].names);
        assert_null(strstr(err.text, "secret"));
    }
}

/* --- three nodes --- */

static int setup_three(void **state)
{
    world *w = calloc(1, sizeof *w);
    *state = w;
    if (etcd_is_installed()) {
        w->etcd = etcd_create(3);
        w->options = (proa_discovery_options){
            .backend = "etcd", .endpoints = w->etcd->endpoints, .lease_s = (double)ETCD_LEASE_US / SECOND};
    }
    return 0;
}

/* A number that follows `name` in a node's status; 0: the node does not answer. */
static unsigned long long status_of(const etcd_node *node, const char *name)
{
    proa_buf answer = {0};
    unsigned long long value = 0;
    if (node->pid != 0 && etcd_ask(node, "v3/maintenance/status", "{}", &answer) == 200) {
        const char *at = strstr(proa_buf_text(&answer), name);
        value = at != NULL ? strtoull(at + strlen(name), NULL, 10) : 0;
    }
    proa_buf_free(&answer);
    return value;
}

static int leader_of(const etcd_cluster *c)
{
    int64_t until = proa_clock_us() + 10 * SECOND;
    while (proa_clock_us() < until) {
        for (int i = 0; i < c->count; i++) {
            unsigned long long self = status_of(&c->nodes[i], "\"member_id\":\"");
            if (self != 0 && self == status_of(&c->nodes[i], "\"leader\":\""))
                return i;
        }
        usleep(50000);
    }
    fail_msg("no leader");
    return -1;
}

/* A change by one discovery reaches the other in time, and the owner's keys are never told gone. */
static void expect_change(proa_discovery *owner, journal *j, const char *value, int64_t within_us)
{
    char told[40];
    must_register(owner, "v1/changes", value);
    snprintf(told, sizeof told, "+v1/changes=%s; ", value);
    int64_t start = proa_clock_us();
    while (!journal_ends(j, told) && proa_clock_us() < start + within_us)
        usleep(10000);
    if (!journal_ends(j, told) || journal_has(j, "-v1/"))
        fail_msg("after %.1f s the watch was told \"%s\"", (double)(proa_clock_us() - start) / 1e6,
                 proa_buf_text(&j->text));
    print_message("change %s seen after %.2f s\n", value, (double)(proa_clock_us() - start) / 1e6);
}

/* The leader, and then each member in turn, is killed or stopped and comes back; changes go on being seen. */
static void test_three_nodes(void **state)
{
    world *w = needs_etcd(state);
    char value[8];
    int change = 0;
    proa_discovery *owner = create(&w->options), *other = create(&w->options);
    journal *j = journal_create();
    watch(other, "v1/", j);
    must_register(owner, "v1/stays", "1");
    for (int round = 0; round < 4; round++) {
        int node = round == 0 || round == 2 ? leader_of(w->etcd) : 0;
        bool stop = round >= 2;
        if (stop)
            kill(w->etcd->nodes[node].pid, SIGSTOP);
        else
            etcd_kill(w->etcd, node);
        snprintf(value, sizeof value, "%d", ++change);
        expect_change(owner, j, value, 8 * SECOND);
        usleep(2 * ETCD_LEASE_US);
        snprintf(value, sizeof value, "%d", ++change);
        expect_change(owner, j, value, 3 * SECOND);
        if (stop)
            kill(w->etcd->nodes[node].pid, SIGCONT);
        else
            etcd_start(w->etcd, node);
        etcd_wait(&w->etcd->nodes[node]);
        snprintf(value, sizeof value, "%d", ++change);
        expect_change(owner, j, value, 5 * SECOND);
    }
    proa_discovery_free(owner);
    proa_discovery_free(other);
    journal_free(j);
}

/* Two of three are away for longer than the lease: the third answers nothing of use, nobody is reported gone. */
static void test_no_quorum(void **state)
{
    world *w = needs_etcd(state);
    proa_discovery *owner = create(&w->options), *other = create(&w->options);
    journal *j = journal_create();
    watch(other, "v1/", j);
    must_register(owner, "v1/stays", "1");
    expect_change(owner, j, "1", 5 * SECOND);
    size_t before = journal_length(j);
    for (int i = 0; i < 2; i++)
        etcd_kill(w->etcd, i);
    must_register(owner, "v1/changes", "2");
    usleep(4 * ETCD_LEASE_US);
    assert_int_equal(journal_length(j), before);
    for (int i = 0; i < 2; i++)
        etcd_start(w->etcd, i);
    expect_change(owner, j, "2", 10 * SECOND);
    usleep(2 * ETCD_LEASE_US);
    assert_false(journal_has(j, "-v1/"));
    proa_discovery_free(owner);
    proa_discovery_free(other);
    assert_int_equal(etcd_count(&w->etcd->nodes[0], "v1/", NULL), 0);
    journal_free(j);
}

int main(int argc, char **argv)
{
    be_owner(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused),
        cmocka_unit_test_setup_teardown(test_life, setup, teardown),
        cmocka_unit_test_setup_teardown(test_owner_killed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_etcd_killed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_etcd_wiped, setup, teardown),
        cmocka_unit_test_setup_teardown(test_etcd_stopped, setup, teardown),
        cmocka_unit_test_setup_teardown(test_own_keys_lost, setup, teardown),
        cmocka_unit_test_setup_teardown(test_compaction, setup, teardown),
        cmocka_unit_test_setup_teardown(test_late_etcd, setup, teardown),
    };
    const struct CMUnitTest long_tests[] = {
        cmocka_unit_test_setup_teardown(test_three_nodes, setup_three, teardown),
        cmocka_unit_test_setup_teardown(test_no_quorum, setup_three, teardown),
    };
    if (argc > 1 && strcmp(argv[1], "long") == 0)
        return cmocka_run_group_tests(long_tests, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
