/* test_discovery_view.c - what a watch is told of lists and events that come late, twice, in part, or from an etcd that has lost
 * its data. */
#include "cluster/discovery_view.h"

#include "base/buf.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

static void on_put(void *context, const char *key, const char *value, size_t length)
{
    proa_buf_append_format(context, "+%s=%.*s ", key, (int)length, value);
}

static void on_gone(void *context, const char *key)
{
    proa_buf_append_format(context, "-%s ", key);
}

static void on_synced(void *context)
{
    proa_buf_append_text(context, "synced ");
}

/* One step of a script: 'L' a list ("k=v@revision ..." as of `revision`), held until `hold`; 'P' an event put, 'D' an event
 * delete; 'E' expire at `now`; 'X' lost; 'F' revisions forgotten. */
typedef struct step {
    char what;
    const char *keys;
    int64_t revision, now, hold;
    const char *told;
} step;

static void tell_list(proa_view *view, const char *keys)
{
    char key[16], value[16];
    long long revision;
    int used;
    for (; sscanf(keys, " %15[^=]=%15[^@]@%lld%n", key, value, &revision, &used) == 3; keys += used)
        proa_view_list_put(view, key, value, strlen(value), revision);
}

static void run_step(proa_view *view, const step *s)
{
    char key[16], value[16] = "";
    switch (s->what) {
    case 'L':
        proa_view_list_begin(view, s->revision);
        tell_list(view, s->keys);
        proa_view_list_end(view, s->now, s->hold);
        break;
    case 'P':
        assert_int_equal(sscanf(s->keys, "%15[^=]=%15s", key, value), 2);
        proa_view_event_put(view, key, value, strlen(value), s->revision);
        break;
    case 'D': proa_view_event_gone(view, s->keys, s->revision); break;
    case 'E': proa_view_expire(view, s->now); break;
    case 'X': proa_view_lost(view); break;
    case 'F': proa_view_forget_revisions(view); break;
    default: fail();
    }
}

static void run_script(const step *steps, size_t count, const char *name)
{
    proa_buf told = {0};
    proa_view view;
    const proa_discovery_hooks hooks = {on_put, on_gone, on_synced, &told};
    proa_view_init(&view, "p/", &hooks);
    for (size_t i = 0; i < count; i++) {
        proa_buf_clear(&told);
        run_step(&view, &steps[i]);
        if (strcmp(proa_buf_text(&told), steps[i].told) != 0)
            fail_msg("%s, step %zu: told \"%s\", not \"%s\"", name, i, proa_buf_text(&told), steps[i].told);
    }
    proa_view_free(&view);
    proa_buf_free(&told);
}

#define SCRIPT(...)                                                                                          \
    do {                                                                                                     \
        const step steps[] = {__VA_ARGS__};                                                                  \
        run_script(steps, sizeof steps / sizeof steps[0], __func__);                                         \
    } while (0)

static void test_lists(void **state)
{
    (void)state;
    SCRIPT({'L', "p/b=1@2 p/a=1@3 q/c=1@3", 3, 0, 0, "+p/b=1 +p/a=1 synced "}, /* another prefix is ignored */
           {'L', "p/a=1@3 p/b=1@2", 3, 0, 0, ""},                              /* the same again */
           {'L', "p/a=2@4 p/c=1@5", 5, 0, 0, "+p/a=2 +p/c=1 -p/b "},           /* all in one */
           {'L', "p/a=2@6 p/c=1@5", 6, 0, 0, ""},                              /* put again with its value */
           {'L', "", 7, 0, 0, "-p/a -p/c "}, {'L', "p/a=2@8", 8, 0, 0, "+p/a=2 "});
    /* a backend without revisions */
    SCRIPT({'L', "p/a=1@0", 0, 0, 0, "+p/a=1 synced "}, {'L', "p/a=2@0", 0, 0, 0, "+p/a=2 "},
           {'L', "", 0, 0, 0, "-p/a "}, {'L', "p/a=2@0", 0, 0, 0, "+p/a=2 "});
}

static void test_events(void **state)
{
    (void)state;
    SCRIPT({'L', "p/a=1@2", 3, 0, 0, "+p/a=1 synced "}, {'P', "p/a=0", 3, 0, 0, ""}, /* older than the list */
           {'P', "p/a=2", 4, 0, 0, "+p/a=2 "}, {'P', "p/a=3", 5, 0, 0, "+p/a=3 "},
           {'P', "p/a=2", 4, 0, 0, ""},                                 /* twice: etcd 3.4.23 */
           {'D', "p/a", 6, 0, 0, "-p/a "}, {'P', "p/a=3", 5, 0, 0, ""}, /* it does not rise */
           {'D', "p/a", 6, 0, 0, ""}, {'D', "p/b", 6, 0, 0, ""}, {'P', "p/b=1", 6, 0, 0, ""},
           {'P', "q/b=1", 7, 0, 0, ""}, {'P', "p/a=4", 8, 0, 0, "+p/a=4 "});
}

/* A list that was made before events that are known already. */
static void test_late_list(void **state)
{
    (void)state;
    SCRIPT({'L', "p/a=1@2 p/b=1@2", 2, 0, 0, "+p/a=1 +p/b=1 synced "}, {'P', "p/a=2", 5, 0, 0, "+p/a=2 "},
           {'D', "p/b", 6, 0, 0, "-p/b "}, {'P', "p/c=1", 7, 0, 0, "+p/c=1 "},
           {'L', "p/a=1@2 p/b=1@2", 4, 0, 0, ""}, {'L', "p/a=2@5 p/c=1@7", 7, 0, 0, ""},
           {'P', "p/b=1", 8, 0, 0, "+p/b=1 "});
    /* an event that was lost is made up for */
    SCRIPT({'L', "p/a=1@2", 2, 0, 0, "+p/a=1 synced "}, {'P', "p/b=1", 4, 0, 0, "+p/b=1 "},
           {'L', "p/b=1@4", 4, 0, 0, "-p/a "});
}

static void test_doubt(void **state)
{
    (void)state;
    SCRIPT({'L', "p/a=1@2 p/b=1@2 p/c=1@2", 2, 0, 0, "+p/a=1 +p/b=1 +p/c=1 synced "}, {'X', "", 0, 0, 0, ""},
           {'L', "", 3, 100, 200, ""},                            /* all in doubt */
           {'E', "", 0, 199, 0, ""}, {'P', "p/a=1", 4, 0, 0, ""}, /* back, as it was */
           {'P', "p/b=2", 5, 0, 0, "+p/b=2 "}, {'E', "", 0, 200, 0, "-p/c "}, {'E', "", 0, 999, 0, ""},
           {'L', "p/a=1@4", 6, 250, 200, "-p/b "}); /* no doubt any more: it was deleted */
    /* a second list in the time of doubt does not lengthen it; a loss in it ends it until the next list */
    SCRIPT({'L', "p/a=1@2", 2, 0, 0, "+p/a=1 synced "}, {'L', "", 3, 100, 200, ""},
           {'L', "", 3, 150, 250, ""}, {'X', "", 0, 0, 0, ""}, {'E', "", 0, 300, 0, ""},
           {'L', "", 3, 400, 500, ""}, {'E', "", 0, 499, 0, ""}, {'E', "", 0, 500, 0, "-p/a "},
           {'P', "p/a=1", 4, 0, 0, "+p/a=1 "});
    /* an explicit delete is believed at once */
    SCRIPT({'L', "p/a=1@2", 2, 0, 0, "+p/a=1 synced "}, {'L', "", 3, 100, 200, ""},
           {'D', "p/a", 4, 0, 0, "-p/a "}, {'E', "", 0, 200, 0, ""});
}

/* The data folder was wiped: revisions begin anew. */
static void test_new_count(void **state)
{
    (void)state;
    SCRIPT({'L', "p/a=1@70 p/b=1@71", 80, 0, 0, "+p/a=1 +p/b=1 synced "}, {'X', "", 0, 0, 0, ""},
           {'F', "", 0, 0, 0, ""}, {'L', "", 1, 100, 200, ""}, {'P', "p/a=1", 2, 0, 0, ""},
           {'E', "", 0, 200, 0, "-p/b "}, {'P', "p/a=2", 3, 0, 0, "+p/a=2 "}, {'D', "p/a", 4, 0, 0, "-p/a "});
    /* not noticed, since the new count is beyond the old one: the list is right all the same */
    SCRIPT({'L', "p/a=1@70 p/b=1@71", 80, 0, 0, "+p/a=1 +p/b=1 synced "}, {'X', "", 0, 0, 0, ""},
           {'L', "p/a=2@5", 81, 100, 200, "+p/a=2 "}, {'E', "", 0, 200, 0, "-p/b "});
}

static void test_limits(void **state)
{
    (void)state;
    proa_buf told = {0};
    proa_view view;
    const proa_discovery_hooks hooks = {on_put, on_gone, NULL, &told};
    static char value[PROA_DISCOVERY_VALUE_BYTES_MAX + 1], key[PROA_DISCOVERY_KEY_BYTES_MAX + 2];
    proa_view_init(&view, "p/", &hooks);
    memset(key, 'k', sizeof key - 1);
    memcpy(key, "p/", 2);
    proa_view_event_put(&view, key, "1", 1, 1);                /* too long a key */
    proa_view_event_put(&view, "p/a", value, sizeof value, 1); /* too long a value */
    assert_int_equal(told.length, 0);
    for (int i = 0; i < PROA_VIEW_KEYS_MAX + 10; i++) {
        snprintf(key, sizeof key, "p/%d", i);
        proa_view_event_put(&view, key, "", 0, 2);
    }
    assert_int_equal(view.count, PROA_VIEW_KEYS_MAX);
    proa_view_event_put(&view, "p/0", "known", 5, 3);
    assert_non_null(strstr(told.data, "+p/0=known "));
    proa_view_list_begin(&view, 4);
    proa_view_list_end(&view, 0, 0);
    assert_int_equal(view.count, 0);
    proa_view_free(&view);
    proa_buf_free(&told);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lists), cmocka_unit_test(test_events),    cmocka_unit_test(test_late_list),
        cmocka_unit_test(test_doubt), cmocka_unit_test(test_new_count), cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
