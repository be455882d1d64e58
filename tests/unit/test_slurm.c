/* Words of command lines, flags that take each other's place, and what is read of a job's folder. */
#include "base/shell.h"
#include "cmd/slurm_layout.h"
#include "cmd/slurm_words.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static int run_nothing(const proa_options *options)
{
    (void)options;
    return 0;
}

static const proa_command commands[] = {{.name = "worker", .summary = "Works", .run = run_nothing}};
static const proa_option table[] = {
    {.name = "tp-size",
     .aliases = "tp",
     .commands = "worker",
     .group = "G",
     .type = PROA_OPTION_INT,
     .low = 1,
     .high = 64,
     .help = "h"},
    {.name = "name", .commands = "worker", .group = "G", .type = PROA_OPTION_STRING, .help = "h"},
    {.name = "quick", .commands = "worker", .group = "G", .type = PROA_OPTION_FLAG, .help = "h"},
    {.name = "more",
     .commands = "worker",
     .group = "G",
     .type = PROA_OPTION_STRING,
     .repeats = true,
     .help = "h"},
};
static const proa_program program = {.name = "p",
                                     .version = "1",
                                     .summary = "s",
                                     .commands = commands,
                                     .command_count = 1,
                                     .options = table,
                                     .option_count = sizeof table / sizeof *table};

static void words_are_split_as_a_shell_does(void **state)
{
    static const struct {
        const char *text;
        const char *words[5];
    } cases[] = {
        {"", {NULL}},
        {"  \t\n ", {NULL}},
        {"a b", {"a", "b"}},
        {" --x=1  'two words' ", {"--x=1", "two words"}},
        {"a'b c'd", {"ab cd"}},
        {"'' \"\"", {"", ""}},
        {"\"a \\\" \\\\ \\n\"", {"a \" \\ \\n"}},
        {"a\\ b 'c\\'", {"a b", "c\\"}},
        {"$HOME `x` *", {"$HOME", "`x`", "*"}},
        {"end\\", {"end\\"}},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        proa_words words = {.arena = proa_arena_create(0)};
        assert_int_equal(proa_words_split(&words, cases[i].text, "here", NULL), PROA_OK);
        int count = 0;
        for (; cases[i].words[count] != NULL; count++) {
            assert_true(count < words.count);
            assert_string_equal(words.list[count], cases[i].words[count]);
        }
        assert_int_equal(words.count, count);
        proa_arena_free(words.arena);
    }
}

static void a_quote_needs_its_end(void **state)
{
    static const char *const texts[] = {"'", "a \"b", "a 'b\" c"};
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        proa_error err = {0};
        proa_words words = {.arena = proa_arena_create(0)};
        assert_int_equal(proa_words_split(&words, texts[i], "--x-args", &err), PROA_ERR_INVALID);
        assert_non_null(strstr(err.text, "--x-args: the quote at"));
        proa_arena_free(words.arena);
    }
}

/* What is quoted is split into itself again, and so it is by a shell: system tests ask bash. */
static void quoted_words_are_one_word(void **state)
{
    static const char *const texts[] = {"plain/Path-1.2", "",  "two words", "it's", "\"", "$x `y` \\",
                                        "a\tb",           "*", "~",         "#c",   "''"};
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        proa_buf quoted = {0};
        proa_words words = {.arena = proa_arena_create(0)};
        proa_shell_quote(&quoted, texts[i]);
        assert_int_equal(proa_words_split(&words, proa_buf_text(&quoted), "here", NULL), PROA_OK);
        assert_int_equal(words.count, 1);
        assert_string_equal(words.list[0], texts[i]);
        proa_arena_free(words.arena);
        proa_buf_free(&quoted);
    }
    proa_buf plain = {0};
    proa_shell_quote(&plain, texts[0]);
    assert_string_equal(plain.data, texts[0]);
    proa_buf_free(&plain);
}

/* The flags as text, " --name value"; or the error's. */
static void apply(const char *before, const char *more, char *text, size_t bytes)
{
    proa_error err = {0};
    proa_flags flags = {.arena = proa_arena_create(0), .program = &program, .command = "worker"};
    const char *const texts[] = {before, more};
    proa_status status = PROA_OK;
    for (int i = 0; i < 2 && status == PROA_OK; i++) {
        proa_words words = {.arena = flags.arena};
        assert_int_equal(proa_words_split(&words, texts[i], "", NULL), PROA_OK);
        status = proa_flags_apply(&flags, &words, "here", &err);
    }
    proa_words words = {.arena = flags.arena};
    proa_flags_words(&flags, &words);
    proa_buf all = {0};
    for (int i = 0; i < words.count; i++)
        proa_buf_append_format(&all, " %s", words.list[i]);
    snprintf(text, bytes, "%s", status == PROA_OK ? proa_buf_text(&all) : err.text);
    proa_buf_free(&all);
    proa_arena_free(flags.arena);
}

static void later_flags_take_the_place_of_earlier_ones(void **state)
{
    static const struct {
        const char *before, *more, *result;
    } cases[] = {
        {"--tp-size 8 --quick", "", " --tp-size 8 --quick"},
        {"--tp-size 8 --quick", "--tp 4", " --tp-size 4 --quick"},
        {"--tp-size 8", "--tp-size=2 --name 'a b'", " --tp-size 2 --name a b"},
        {"--tp-size 8 --quick --name x", "--no-quick", " --tp-size 8 --name x"},
        {"--name x", "--no-name --no-quick", ""},
        {"--name x", "--name -y", " --name -y"},
        {"", "--unknown 1 --quick", " --unknown 1 --quick"},
        {"", "--unknown --quick", " --unknown --quick"},
        {"", "x", "here: \"x\" is no flag: write --name value"},
        {"", "--", "here: \"--\" is no flag: write --name value"},
        {"", "--quick=1", "here: --quick takes no value; --no-quick takes it out of the preset"},
        {"", "--name", "here: --name needs a value"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[200];
        apply(cases[i].before, cases[i].more, text, sizeof text);
        assert_string_equal(text, cases[i].result);
    }
}

static void flags_are_checked_as_their_command_checks_them(void **state)
{
    proa_error err = {0};
    proa_options *options;
    proa_flags flags = {.arena = proa_arena_create(0), .program = &program, .command = "worker"};
    (void)state;
    assert_int_equal(proa_flags_set(&flags, "tp-size", "8", &err), PROA_OK);
    assert_int_equal(proa_flags_set(&flags, "name", "--odd", &err), PROA_OK);
    assert_int_equal(proa_flags_check(&flags, &options, &err), PROA_OK);
    assert_int_equal(proa_options_int(options, "tp-size"), 8);
    assert_string_equal(proa_options_string(options, "name"), "--odd");
    proa_options_free(options);
    assert_string_equal(proa_flags_value(&flags, "name"), "--odd");
    assert_null(proa_flags_value(&flags, "quick"));
    assert_int_equal(proa_flags_set(&flags, "tp-size", "65", &err), PROA_OK);
    assert_int_equal(proa_flags_check(&flags, &options, &err), PROA_ERR_INVALID);
    assert_non_null(strstr(err.text, "from 1 to 64"));
    proa_arena_free(flags.arena);
}

static void more_flags_than_there_is_room_for(void **state)
{
    proa_error err = {0};
    char name[16];
    proa_flags flags = {.arena = proa_arena_create(0), .program = &program, .command = "worker"};
    (void)state;
    for (int i = 0; i < PROA_FLAGS_MAX; i++) {
        snprintf(name, sizeof name, "x%d", i);
        assert_int_equal(proa_flags_set(&flags, name, NULL, &err), PROA_OK);
    }
    assert_int_equal(proa_flags_set(&flags, "x0", "again", &err), PROA_OK);
    assert_int_equal(proa_flags_set(&flags, "one-more", NULL, &err), PROA_ERR_TOO_LONG);
    proa_arena_free(flags.arena);
}

static void options_that_repeat_keep_all_values(void **state)
{
    char *words[] = {"worker", "--more", "a", "--name=n", "--more=b", "--more", "c", NULL};
    proa_options *options;
    proa_error err = {0};
    (void)state;
    assert_int_equal(proa_options_parse(&program, commands, 7, words, &options, &err), PROA_OK);
    assert_string_equal(proa_options_repeated(options, "more", 0), "a");
    assert_string_equal(proa_options_repeated(options, "more", 1), "b");
    assert_string_equal(proa_options_repeated(options, "more", 2), "c");
    assert_null(proa_options_repeated(options, "more", 3));
    assert_null(proa_options_repeated(options, "more", -1));
    assert_string_equal(proa_options_string(options, "more"), "c");
    proa_options_free(options);
    assert_int_equal(proa_options_parse(&program, commands, 1, words, &options, &err), PROA_OK);
    assert_null(proa_options_repeated(options, "more", 0));
    proa_options_free(options);
}

static void lines_of_a_layout(void **state)
{
    static const struct {
        const char *text;
        bool good;
    } cases[] = {
        {"decode\t1\t11\th13\t10.77.0.23\th13_decode_w1", true},
        {"decode\t1\t11\th13\t10.77.0.23\th13_decode_w1\t", false},
        {"decode\t1\t11\th13\t10.77.0.23", false},
        {"decode\t1\t11\th13\t10.77.0.23\t", false},
        {"decode\t-1\t11\th13\t10.77.0.23\tx", false},
        {"decode\t1x\t11\th13\t10.77.0.23\tx", false},
        {"decode\t1\t123456789\th13\t10.77.0.23\tx", false},
        {"decode\t1\t11\th13\t10.77.0.23\t../../etc/x", false},
        {"decode\t1\t11\th 13\t10.77.0.23\tx", false},
        {"a-role-that-is-longer-than-any-role-there-is\t1\t11\th\t1\tx", false},
        {"", false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        proa_layout_line line;
        assert_int_equal(proa_layout_parse(cases[i].text, strlen(cases[i].text), &line), cases[i].good);
        if (!cases[i].good)
            continue;
        assert_string_equal(line.role, "decode");
        assert_int_equal(line.worker, 1);
        assert_int_equal(line.rank, 11);
        assert_string_equal(line.node, "h13");
        assert_string_equal(line.address, "10.77.0.23");
        assert_string_equal(line.label, "h13_decode_w1");
    }
}

static void what_a_log_says(void **state)
{
    static const char log[] = "22:21:09.861 info  rank 0 model: read 11.5 MB of weights\n"
                              "22:21:09.900 error rank 1 model: no such file\n"
                              "22:21:15.127 warn  rank 0 serve: an error of no matter? no: a warning\n"
                              "22:21:19.680 info  rank 0 mesh: linked to 47 of 47 other ranks after 4.55 s\n"
                              "proa: rank 2: config.json is absent\x01\n"
                              "22:21:19.681 info  rank 0 cmd: nothing";
    proa_layout_notes notes;
    (void)state;
    proa_layout_read_log(log, strlen(log), &notes);
    assert_string_equal(notes.progress,
                        "22:21:19.680 info  rank 0 mesh: linked to 47 of 47 other ranks after 4.55 s");
    assert_string_equal(notes.error, "proa: rank 2: config.json is absent ");
    proa_layout_read_log("", 0, &notes);
    assert_string_equal(notes.progress, "");
    assert_string_equal(notes.error, "");
    char text[2000];
    memset(text, 'x', sizeof text);
    memcpy(text, "proa: ", 6);
    proa_layout_read_log(text, sizeof text, &notes);
    assert_int_equal(strlen(notes.error), PROA_LAYOUT_NOTE_BYTES - 1);
}

static void the_end_of_a_file(void **state)
{
    char path[] = "/tmp/proa-test-slurm-XXXXXX";
    int fd = mkstemp(path);
    (void)state;
    assert_true(fd >= 0);
    for (int i = 0; i < 5000; i++)
        assert_true(dprintf(fd, "line %04d\n", i) == 10);
    static const struct {
        size_t bytes;
        const char *begin;
        size_t length;
    } cases[] = {{25, "line 4998\n", 20},
                 {20, "line 4999\n", 10},
                 {5, "", 0},
                 {1 << 20, "line 0000\n", 50000},
                 {30000, "line 2001\n", 29990}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        proa_buf end = {0};
        assert_int_equal(proa_layout_file_end(path, cases[i].bytes, &end, NULL), PROA_OK);
        assert_int_equal(end.length, cases[i].length);
        assert_memory_equal(proa_buf_text(&end), cases[i].begin, strlen(cases[i].begin));
        proa_buf_free(&end);
    }
    close(fd);
    unlink(path);
    proa_buf none = {0};
    assert_int_equal(proa_layout_file_end(path, 10, &none, NULL), PROA_ERR_NOT_FOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_are_split_as_a_shell_does),
        cmocka_unit_test(a_quote_needs_its_end),
        cmocka_unit_test(quoted_words_are_one_word),
        cmocka_unit_test(later_flags_take_the_place_of_earlier_ones),
        cmocka_unit_test(flags_are_checked_as_their_command_checks_them),
        cmocka_unit_test(more_flags_than_there_is_room_for),
        cmocka_unit_test(options_that_repeat_keep_all_values),
        cmocka_unit_test(lines_of_a_layout),
        cmocka_unit_test(what_a_log_says),
        cmocka_unit_test(the_end_of_a_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
