/* test_discovery.c - discovery in memory and in a folder: what watches are told when keys come, change and go, and when owners or
 * the folder vanish. */
#include "discovery_fixture.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

typedef struct world {
    proa_registry *registry;
    char path[64];
    proa_discovery_options mem;
    proa_discovery_options file;
} world;

static int setup(void **state)
{
    world *w = calloc(1, sizeof *w);
    w->registry = proa_registry_create();
    snprintf(w->path, sizeof w->path, "/tmp/proa-discovery-XXXXXX");
    if (mkdtemp(w->path) == NULL)
        return -1;
    w->mem = (proa_discovery_options){.backend = "mem", .registry = w->registry};
    w->file = (proa_discovery_options){.backend = "file", .path = w->path, .lease_s = LEASE_S};
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    world *w = *state;
    char command[128];
    proa_registry_free(w->registry);
    snprintf(command, sizeof command, "rm -rf %s %s.away", w->path, w->path);
    int rc = system(command);
    free(w);
    return rc;
}

static void test_mem_life(void **state)
{
    life_of_a_key(&((world *)*state)->mem);
}

static void test_file_life(void **state)
{
    life_of_a_key(&((world *)*state)->file);
}

static void test_mem_many(void **state)
{
    many_keys(&((world *)*state)->mem);
}

static void test_file_many(void **state)
{
    many_keys(&((world *)*state)->file);
}

/* What is refused, with what the error must name. */
static void test_refused(void **state)
{
    world *w = *state;
    const struct {
        proa_discovery_options options;
        const char *names;
    } options[] = {
        {{.backend = "zookeeper"}, "--discovery-backend: \"zookeeper\""},
        {{.backend = NULL}, "mem, file or etcd"},
        {{.backend = "file"}, "--discovery-path"},
        {{.backend = "file", .path = "/proc/no/such"}, "/proc/no/such"},
        {{.backend = "file", .path = "/dev/null"}, "/dev/null"},
        {{.backend = "file", .path = w->path, .lease_s = 0.1}, "0.1 s"},
        {{.backend = "file", .path = w->path, .lease_s = -1}, "-1 s"},
    };
    proa_error err;
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
        proa_discovery *d = NULL;
        err = (proa_error){0};
        assert_true(proa_failed(proa_discovery_create(&options[i].options, &d, &err)));
        assert_null(d);
        if (strstr(err.text, options[i].names) == NULL)
            fail_msg("row %zu: \"%s\" does not name %s", i, err.text, options[i].names);
    }
    static const char *const keys[] = {"",     "/a",   "a/",  "a//b",  "..",          "a/../b",
                                       "a/.b", "a\nb", "a b", "a\xff", "v1/a.json/b", "v1/a/b.json"};
    proa_discovery *d = create(&w->file);
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        if (!proa_failed(proa_discovery_register(d, keys[i], "{}", &err)))
            fail_msg("the key \"%s\" was taken", keys[i]);
        proa_discovery_unregister(d, keys[i]);
    }
    static char large[PROA_DISCOVERY_VALUE_BYTES_MAX + 2];
    memset(large, 'x', sizeof large - 1);
    assert_int_equal(proa_discovery_register(d, "v1/large", large, &err), PROA_ERR_TOO_LONG);
    large[PROA_DISCOVERY_VALUE_BYTES_MAX] = 0;
    assert_int_equal(proa_discovery_register(d, "v1/large", large, &err), PROA_OK);
    journal *j = journal_create();
    for (int i = 0; i < 8; i++)
        watch(d, "v1/", j);
    assert_int_equal(
        proa_discovery_watch(d, "v1/", &(proa_discovery_hooks){.put = on_put, .gone = on_gone}, &err),
        PROA_ERR_OVERLOADED);
    proa_discovery_free(d);
    journal_free(j);
}

/* --- the folder --- */

static void write_file(const char *folder, const char *name, const char *text)
{
    char path[256];
    proa_error err = {0};
    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (proa_file_write(path, text, strlen(text), &err) != PROA_OK)
        fail_msg("%s", err.text);
}

/* What others leave in the folder is ignored, or is a key like any other until its lease is over. */
static void test_file_strangers(void **state)
{
    world *w = *state;
    char path[256], target[256];
    static char large[PROA_DISCOVERY_VALUE_BYTES_MAX + 2];
    memset(large, 'x', sizeof large - 1);
    snprintf(path, sizeof path, "%s/v1", w->path);
    mkdir(path, 0755);
    write_file(w->path, "v1/.hidden.json", "a");
    write_file(w->path, "v1/other.txt", "b");
    write_file(w->path, "v1/large.json", large);
    write_file(w->path, "v1/key.json", "c");
    write_file(w->path, "v1/old.json", "d");
    snprintf(target, sizeof target, "%s/v1/key.json", w->path);
    snprintf(path, sizeof path, "%s/v1/link.json", w->path);
    assert_int_equal(symlink(target, path), 0);
    snprintf(path, sizeof path, "%s/v1/loop", w->path);
    assert_int_equal(symlink(w->path, path), 0);
    snprintf(path, sizeof path, "%s/v1/pipe.json", w->path);
    assert_int_equal(mkfifo(path, 0644), 0);
    snprintf(path, sizeof path, "%s/v1/old.json", w->path);
    const struct timespec long_ago[2] = {{.tv_sec = 1000000000}, {.tv_sec = 1000000000}};
    assert_int_equal(utimensat(AT_FDCWD, path, long_ago, 0), 0);

    proa_discovery *d = create(&w->file);
    journal *j = journal_create();
    watch(d, "v1/", j);
    expect(j, "+v1/key=c; synced; ", SECOND);
    int64_t start = proa_clock_us();
    expect(j, "+v1/key=c; synced; -v1/key; ", 2 * LEASE_US);
    assert_true(proa_clock_us() - start > LEASE_US / 2);     /* nobody touches it */
    assert_int_equal(utimensat(AT_FDCWD, path, NULL, 0), 0); /* a file comes alive by a touch */
    expect(j, "+v1/key=c; synced; -v1/key; +v1/old=d; ", SECOND);
    proa_discovery_free(d);
    journal_free(j);
}

/* Times of files that jump, ahead and back, are touches: the owner lives. */
static void test_file_clock_jumps(void **state)
{
    world *w = *state;
    char path[256];
    proa_discovery *owner = create(&w->file), *other = create(&w->file);
    journal *j = journal_create();
    must_register(owner, "v1/a", "1");
    snprintf(path, sizeof path, "%s/v1/a.json", w->path);
    wait_for_file(path);
    watch(other, "v1/", j);
    expect(j, "+v1/a=1; synced; ", SECOND);
    for (int i = 0; i < 8; i++) {
        const time_t at = proa_clock_unix_seconds() + (i % 2 == 0 ? 3600 : -3600);
        const struct timespec jump[2] = {{.tv_sec = at}, {.tv_sec = at}};
        utimensat(AT_FDCWD, path, jump, 0);
        usleep(LEASE_US / 5);
    }
    expect(j, "+v1/a=1; synced; ", 0);
    proa_discovery_free(owner);
    expect(j, "+v1/a=1; synced; -v1/a; ", SECOND);
    proa_discovery_free(other);
    journal_free(j);
}

static void test_file_owner_killed(void **state)
{
    world *w = *state;
    proa_discovery *other = create(&w->file);
    journal *j = journal_create();
    watch(other, "v1/", j);
    expect(j, "synced; ", SECOND);
    pid_t owner = start_owner(&w->file, "v1/child", "1");
    expect(j, "synced; +v1/child=1; ", SECOND);
    usleep(LEASE_US * 3 / 2); /* it lives longer than its lease */
    expect(j, "synced; +v1/child=1; ", 0);
    kill(owner, SIGKILL);
    int64_t start = proa_clock_us();
    expect(j, "synced; +v1/child=1; -v1/child; ", 2 * LEASE_US);
    assert_in_range(proa_clock_us() - start, LEASE_US / 2, LEASE_US * 3 / 2);
    waitpid(owner, NULL, 0);
    proa_discovery_free(other);
    journal_free(j);
}

/* The folder is moved away and back, and then removed altogether: nothing is reported gone. Owners do not make it again, but write again when
 * somebody has. */
static void test_file_folder_vanishes(void **state)
{
    world *w = *state;
    char away[80], command[200], path[256];
    snprintf(away, sizeof away, "%s.away", w->path);
    snprintf(path, sizeof path, "%s/v1/a.json", w->path);
    proa_discovery *other = create(&w->file);
    journal *j = journal_create();
    watch(other, "v1/", j);
    pid_t owner = start_owner(&w->file, "v1/a", "1");
    expect(j, "synced; +v1/a=1; ", SECOND);

    assert_int_equal(rename(w->path, away), 0);
    usleep(LEASE_US * 3 / 2);
    expect(j, "synced; +v1/a=1; ", 0);
    assert_int_equal(rename(away, w->path), 0);
    usleep(LEASE_US * 3 / 2);
    expect(j, "synced; +v1/a=1; ", 0);

    snprintf(command, sizeof command, "mv %s %s && rm -rf %s", w->path, away, away);
    assert_int_equal(system(command), 0);
    usleep(LEASE_US * 3 / 2);
    assert_int_equal(access(w->path, F_OK), -1);
    expect(j, "synced; +v1/a=1; ", 0);
    proa_discovery *third = create(&w->file);
    wait_for_file(path); /* the owner */
    proa_discovery_free(third);
    usleep(LEASE_US * 3 / 2);
    expect(j, "synced; +v1/a=1; ", 0);

    kill(owner, SIGKILL); /* and who does not come back is gone */
    assert_int_equal(system(command), 0);
    usleep(2 * 200000 + 100000);
    mkdir(w->path, 0755);
    expect(j, "synced; +v1/a=1; -v1/a; ", 2 * LEASE_US);
    waitpid(owner, NULL, 0);
    proa_discovery_free(other);
    journal_free(j);
}

int main(int argc, char **argv)
{
    be_owner(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_mem_life, setup, teardown),
        cmocka_unit_test_setup_teardown(test_mem_many, setup, teardown),
        cmocka_unit_test_setup_teardown(test_file_life, setup, teardown),
        cmocka_unit_test_setup_teardown(test_file_many, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_file_strangers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_file_clock_jumps, setup, teardown),
        cmocka_unit_test_setup_teardown(test_file_owner_killed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_file_folder_vanishes, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
