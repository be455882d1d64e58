/* test_trace.c - traces: what is in the file, that it opens whenever its process ends, its number of steps, starts and stops. */
#include "base/json.h"
#include "base/trace.h"
#include "base/trace_files.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
/* cmocka.h wants the four above */
#include <cmocka.h>

enum { FILE_MAX = 1 << 20 };

typedef struct fixture {
    char path[64];
    proa_trace *trace;
    proa_error err;
} fixture;

static void open_fixture(fixture *f)
{
    *f = (fixture){0};
    snprintf(f->path, sizeof f->path, "/tmp/test_trace.XXXXXX");
    const int fd = mkstemp(f->path);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(proa_trace_create("a \"process\"", &f->trace, &f->err), PROA_OK);
}

static void close_fixture(fixture *f)
{
    proa_trace_free(f->trace);
    unlink(f->path);
}

/* The file as it would be with `rest` behind it. */
static proa_json *read_events(const fixture *f, const char *rest)
{
    static char text[FILE_MAX];
    proa_error err = {0};
    FILE *file = fopen(f->path, "r");
    assert_non_null(file);
    const size_t n = fread(text, 1, sizeof text - 8, file);
    fclose(file);
    strcpy(text + n, rest);
    proa_json *events = proa_json_parse(text, strlen(text), &err);
    if (events == NULL)
        fail_msg("%s", err.text);
    return events;
}

static int count_named(const proa_json *events, const char *name)
{
    int count = 0;
    for (size_t i = 0; i < proa_json_size(events); i++)
        count += strcmp(proa_json_string(proa_json_get(proa_json_at(events, i), "name"), ""), name) == 0;
    return count;
}

static const proa_json *find_named(const proa_json *events, const char *name)
{
    for (size_t i = 0; i < proa_json_size(events); i++)
        if (strcmp(proa_json_string(proa_json_get(proa_json_at(events, i), "name"), ""), name) == 0)
            return proa_json_at(events, i);
    fail_msg("no event \"%s\"", name);
    return NULL;
}

static void run_step(proa_trace *t, int number)
{
    char args[32];
    proa_trace_step_begin(t);
    proa_trace_begin(t, "outer");
    proa_trace_begin(t, "inner");
    proa_trace_end(t);
    proa_trace_end(t);
    snprintf(args, sizeof args, "\"number\":%d", number);
    proa_trace_step_end(t, args);
}

static void test_steps_are_counted_and_the_file_is_whole(void **state)
{
    fixture f;
    (void)state;
    open_fixture(&f);
    run_step(f.trace, 0); /* nobody asked */
    assert_int_equal(proa_trace_start(f.trace, f.path, 2, 3, &f.err), PROA_OK);
    for (int i = 1; i <= 9; i++)
        run_step(f.trace, i);
    proa_json *events = read_events(&f, "");
    assert_int_equal(count_named(events, "step"), 3);
    assert_int_equal(count_named(events, "inner"), 3);
    const proa_json *first = find_named(events, "step");
    assert_int_equal(proa_json_int(proa_json_get(proa_json_get(first, "args"), "number"), -1), 3);
    const proa_json *process = find_named(events, "process_name");
    assert_string_equal(proa_json_string(proa_json_get(proa_json_get(process, "args"), "name"), ""),
                        "a \"process\"");
    proa_json_free(events);
    assert_false(proa_trace_on(f.trace));
    close_fixture(&f);
}

/* Outer spans come first, which readers need where both begin in the same microsecond. */
static void test_spans_stand_in_order(void **state)
{
    static const char *const names[] = {"step", "outer", "inner"};
    fixture f;
    (void)state;
    open_fixture(&f);
    assert_int_equal(proa_trace_start(f.trace, f.path, 0, 1, &f.err), PROA_OK);
    run_step(f.trace, 0);
    proa_json *events = read_events(&f, "");
    double start = 0, end = 1e18;
    size_t at = 0;
    for (size_t i = 0; i < proa_json_size(events); i++) {
        const proa_json *e = proa_json_at(events, i);
        if (strcmp(proa_json_string(proa_json_get(e, "ph"), ""), "X") != 0)
            continue;
        assert_string_equal(proa_json_string(proa_json_get(e, "name"), ""), names[at++]);
        const double from = proa_json_real(proa_json_get(e, "ts"), -1),
                     to = from + proa_json_real(proa_json_get(e, "dur"), -1);
        assert_true(from >= start && to <= end && from <= to);
        start = from;
        end = to;
    }
    assert_int_equal(at, 3);
    proa_json_free(events);
    close_fixture(&f);
}

/* Neighbours on a track touch, whatever their ends are rounded to. */
static void test_neighbours_do_not_overlap(void **state)
{
    enum { COUNT = 200 };
    fixture f;
    (void)state;
    open_fixture(&f);
    assert_int_equal(proa_trace_start(f.trace, f.path, 0, 1, &f.err), PROA_OK);
    proa_trace_step_begin(f.trace);
    for (int i = 0; i < COUNT; i++)
        proa_trace_span(f.trace, PROA_TRACE_GPU, "op", 1e9 + i / 3.0, 1e9 + (i + 1) / 3.0, "\"layer\":3");
    proa_trace_step_end(f.trace, "");
    proa_json *events = read_events(&f, "");
    double end = 0;
    int seen = 0;
    for (size_t i = 0; i < proa_json_size(events); i++) {
        const proa_json *e = proa_json_at(events, i);
        if (strcmp(proa_json_string(proa_json_get(e, "name"), ""), "op") != 0)
            continue;
        const double from = proa_json_real(proa_json_get(e, "ts"), -1);
        assert_true(seen++ == 0 || from > end - 1e-4);
        end = from + proa_json_real(proa_json_get(e, "dur"), -1);
    }
    assert_int_equal(seen, COUNT);
    proa_json_free(events);
    close_fixture(&f);
}

static void test_a_process_that_dies_leaves_a_file_that_opens(void **state)
{
    fixture f;
    (void)state;
    open_fixture(&f);
    assert_int_equal(proa_trace_start(f.trace, f.path, 0, 100, &f.err), PROA_OK);
    for (int i = 0; i < 3; i++) {
        proa_json *events = read_events(&f, "]");
        assert_int_equal(count_named(events, "step"), i);
        proa_json_free(events);
        run_step(f.trace, i);
    }
    close_fixture(&f);
}

static void test_start_and_stop(void **state)
{
    fixture f;
    (void)state;
    open_fixture(&f);
    assert_int_equal(proa_trace_stop(f.trace, &f.err), PROA_BUSY);
    assert_int_equal(proa_trace_start(f.trace, "/tmp/no folder here/x", 0, 1, &f.err), PROA_ERR_IO);
    assert_non_null(strstr(f.err.text, "/tmp/no folder here/x"));
    assert_int_equal(proa_trace_start(f.trace, f.path, 0, 100, &f.err), PROA_OK);
    assert_int_equal(proa_trace_start(f.trace, f.path, 0, 100, &f.err), PROA_BUSY);
    assert_non_null(strstr(f.err.text, f.path));
    run_step(f.trace, 0);
    proa_trace_step_begin(f.trace);
    assert_true(proa_trace_on(f.trace));
    assert_int_equal(proa_trace_stop(f.trace, &f.err), PROA_OK); /* in the middle of a step, which is lost */
    assert_int_equal(proa_trace_start(f.trace, f.path, 0, 100, &f.err), PROA_OK);
    proa_trace_step_end(f.trace, "");
    run_step(f.trace, 1);
    proa_trace_step_begin(f.trace);
    proa_trace_step_drop(f.trace); /* nothing was done */
    assert_int_equal(proa_trace_stop(f.trace, &f.err), PROA_OK);
    proa_json *events = read_events(&f, "");
    assert_int_equal(count_named(events, "step"), 1);
    proa_json_free(events);
    close_fixture(&f);
}

static void test_a_full_disk_ends_the_trace(void **state)
{
    fixture f;
    (void)state;
    open_fixture(&f);
    assert_int_equal(proa_trace_start(f.trace, "/dev/full", 0, 10, &f.err), PROA_ERR_IO);
    assert_int_equal(proa_trace_start(f.trace, f.path, 0, 10, &f.err), PROA_OK);
    run_step(f.trace, 0);
    struct rlimit before, little;
    struct stat file;
    assert_int_equal(stat(f.path, &file), 0);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    little = (struct rlimit){(rlim_t)file.st_size + 20, before.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &little), 0);
    run_step(f.trace, 1);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    proa_json *events = read_events(&f, "");
    assert_int_equal(count_named(events, "step"), 1);
    proa_json_free(events);
    assert_int_equal(proa_trace_start(f.trace, f.path, 0, 10, &f.err), PROA_OK); /* it has ended */
    close_fixture(&f);
}

/* A long wait costs its steps nothing; the last two are recorded, and thrown away. */
static void test_steps_that_are_left_out(void **state)
{
    enum { SKIP = 6, WARM = 2 };
    fixture f;
    (void)state;
    open_fixture(&f);
    assert_int_equal(proa_trace_start(f.trace, f.path, SKIP, 1, &f.err), PROA_OK);
    for (int i = 1; i <= SKIP + 1; i++) {
        proa_trace_step_begin(f.trace); /* nothing comes of it */
        proa_trace_step_drop(f.trace);
        proa_trace_step_end(f.trace, "");
        proa_trace_step_begin(f.trace);
        assert_int_equal(proa_trace_on(f.trace), i > SKIP - WARM);
        proa_trace_step_drop(f.trace);
        run_step(f.trace, i);
    }
    proa_json *events = read_events(&f, "");
    assert_int_equal(count_named(events, "step"), 1);
    const proa_json *first = find_named(events, "step");
    assert_int_equal(proa_json_int(proa_json_get(proa_json_get(first, "args"), "number"), -1), SKIP + 1);
    proa_json_free(events);
    close_fixture(&f);
}

static void test_an_end_that_cannot_be_written(void **state)
{
    fixture f;
    struct rlimit before, little;
    struct stat file;
    (void)state;
    open_fixture(&f);
    assert_int_equal(proa_trace_start(f.trace, f.path, 0, 10, &f.err), PROA_OK);
    run_step(f.trace, 0);
    assert_int_equal(stat(f.path, &file), 0);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    little = (struct rlimit){(rlim_t)file.st_size, before.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &little), 0);
    const proa_status status = proa_trace_stop(f.trace, &f.err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(status, PROA_ERR_IO);
    assert_non_null(strstr(f.err.text, f.path));
    proa_json *events = read_events(&f, "]"); /* what there is opens */
    assert_int_equal(count_named(events, "step"), 1);
    proa_json_free(events);
    assert_int_equal(proa_trace_stop(f.trace, &f.err), PROA_BUSY); /* it is closed */
    close_fixture(&f);
}

static void test_more_spans_than_are_noted(void **state)
{
    fixture f;
    (void)state;
    open_fixture(&f);
    assert_int_equal(proa_trace_start(f.trace, f.path, 0, 1, &f.err), PROA_OK);
    proa_trace_step_begin(f.trace);
    for (int i = 0; i < 1000; i++) {
        proa_trace_begin(f.trace, "outer");
        proa_trace_begin(f.trace, "inner");
        proa_trace_end(f.trace);
        proa_trace_end(f.trace);
    }
    proa_trace_step_end(f.trace, "");
    proa_json *events = read_events(&f, "");
    assert_int_equal(count_named(events, "inner"), 128);
    proa_json_free(events);
    proa_trace_step_begin(NULL); /* and without a recorder nothing happens */
    proa_trace_begin(NULL, "x");
    proa_trace_end(NULL);
    proa_trace_step_end(NULL, "");
    close_fixture(&f);
}

static void test_names_come_before_the_last_dot(void **state)
{
    static const struct {
        const char *given, *name, *path;
    } table[] = {
        {"trace.json", "rank3", "trace.rank3.json"},
        {"/a.b/trace", "rank3", "/a.b/trace.rank3"},
        {"a/trace.rank3.json", "1", "a/trace.rank3.1.json"},
        {".hidden", "1", ".hidden.1"},
        {"trace.json", "", "trace.json"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        char path[64];
        assert_true(proa_trace_path(table[i].given, table[i].name, path, sizeof path));
        assert_string_equal(path, table[i].path);
        assert_false(proa_trace_path(table[i].given, table[i].name, path, strlen(table[i].path)));
    }
}

/* The first number in the file's args, -1: there is no such file. */
static int number_in(const char *folder, const char *name)
{
    fixture f = {0};
    struct stat st;
    snprintf(f.path, sizeof f.path, "%s/%s", folder, name);
    if (stat(f.path, &st) != 0)
        return -1;
    proa_json *events = read_events(&f, "");
    const int number =
        (int)proa_json_int(proa_json_get(proa_json_get(find_named(events, "step"), "args"), "number"), -1);
    proa_json_free(events);
    return number;
}

/* A process that traces at its start, again and again. */
static void test_older_traces_are_kept(void **state)
{
    char folder[] = "/tmp/test_trace.XXXXXX", name[32];
    const int lives = PROA_TRACE_KEPT_MAX + 3;
    fixture f;
    (void)state;
    assert_non_null(mkdtemp(folder));
    for (int life = 0; life < lives; life++) {
        f = (fixture){0};
        snprintf(f.path, sizeof f.path, "%s/trace.rank3.json", folder);
        assert_int_equal(proa_trace_create("proa rank3", &f.trace, &f.err), PROA_OK);
        assert_int_equal(proa_trace_keep(f.path, &f.err), PROA_OK);
        assert_int_equal(proa_trace_start(f.trace, f.path, 0, 1, &f.err), PROA_OK);
        run_step(f.trace, life);
        proa_trace_free(f.trace);
        assert_int_equal(number_in(folder, "trace.rank3.json"), life);
        assert_int_equal(number_in(folder, "trace.rank3.1.json"), life - 1);
    }
    unlink(f.path);
    for (int i = 1; i <= PROA_TRACE_KEPT_MAX; i++) {
        snprintf(name, sizeof name, "trace.rank3.%d.json", i);
        assert_int_equal(number_in(folder, name), lives - 1 - i);
        snprintf(f.path, sizeof f.path, "%s/%s", folder, name);
        unlink(f.path);
    }
    assert_int_equal(rmdir(folder), 0); /* no other is there */
}

static void test_what_is_no_file_stays(void **state)
{
    char link_path[64];
    fixture f;
    (void)state;
    open_fixture(&f); /* an empty file */
    assert_int_equal(proa_trace_keep(f.path, &f.err), PROA_OK);
    assert_int_equal(access(f.path, F_OK), 0);
    assert_int_equal(proa_trace_keep("/tmp/no/such/trace.json", &f.err), PROA_OK);
    snprintf(link_path, sizeof link_path, "%s.json", f.path);
    assert_int_equal(symlink("/dev/null", link_path), 0);
    assert_int_equal(proa_trace_keep(link_path, &f.err), PROA_OK);
    assert_int_equal(unlink(link_path), 0);
    close_fixture(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_steps_are_counted_and_the_file_is_whole),
        cmocka_unit_test(test_spans_stand_in_order),
        cmocka_unit_test(test_neighbours_do_not_overlap),
        cmocka_unit_test(test_a_process_that_dies_leaves_a_file_that_opens),
        cmocka_unit_test(test_start_and_stop),
        cmocka_unit_test(test_a_full_disk_ends_the_trace),
        cmocka_unit_test(test_steps_that_are_left_out),
        cmocka_unit_test(test_an_end_that_cannot_be_written),
        cmocka_unit_test(test_more_spans_than_are_noted),
        cmocka_unit_test(test_names_come_before_the_last_dot),
        cmocka_unit_test(test_older_traces_are_kept),
        cmocka_unit_test(test_what_is_no_file_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
