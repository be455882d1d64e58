/* test_option.c - the option table: where values come from, what is refused and how, the documents. */
#include "base/option.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const proa_command commands[] = {
    {"serve", NULL, 0, "Serve", NULL},
    {"bench", "WHAT", 1, "Measure", NULL},
    {"tune", NULL, 0, "Tune", NULL, .borrows = "bench serve"},
};

static const proa_option options[] = {
    {.name = "model-path",
     .aliases = "model checkpoint",
     .commands = "serve bench",
     .group = "Model",
     .type = PROA_OPTION_STRING,
     .metavar = "DIR",
     .help = "Folder"},
    {.name = "port",
     .commands = "serve",
     .group = "Server",
     .type = PROA_OPTION_INT,
     .fallback = "8000",
     .low = 1,
     .high = 65535,
     .help = "Port"},
    {.name = "chunk",
     .commands = "serve",
     .group = "Server",
     .type = PROA_OPTION_INT,
     .low = -1,
     .high = INFINITY,
     .unit = "tokens",
     .help = "Chunk"},
    {.name = "fraction",
     .commands = "serve",
     .group = "Server",
     .type = PROA_OPTION_REAL,
     .fallback = "0.85",
     .low = 0.01,
     .high = 1,
     .help = "Fraction"},
    {.name = "device",
     .commands = "serve bench",
     .group = "Server",
     .type = PROA_OPTION_CHOICE,
     .choices = "cpu|ref|cuda",
     .fallback = "cpu",
     .help = "Device"},
    {.name = "ring",
     .commands = "serve",
     .group = "Server",
     .type = PROA_OPTION_BYTES,
     .fallback = "2M",
     .high = 0x1p40,
     .help = "Ring"},
    {.name = "quiet", .commands = "serve", .group = "Server", .type = PROA_OPTION_FLAG, .help = "Quiet"},
    {.name = "etcd",
     .commands = "serve",
     .group = "Server",
     .type = PROA_OPTION_STRING,
     .environment = "ETCD_ENDPOINTS",
     .help = "Servers"},
    {.name = "seat",
     .commands = "serve",
     .group = "Server",
     .type = PROA_OPTION_INT,
     .internal = true,
     .help = "Seat"},
    {.name = "shape", .commands = "bench", .group = "Bench", .type = PROA_OPTION_STRING, .help = "a|b"},
    {.name = "ring",
     .commands = "bench",
     .group = "Bench",
     .type = PROA_OPTION_STRING,
     .help = "Ring of another"},
    {.name = "device",
     .commands = "tune",
     .group = "Tune",
     .type = PROA_OPTION_CHOICE,
     .choices = "cpu|cuda",
     .fallback = "cuda",
     .help = "Device to tune"},
    {.name = "cache",
     .commands = "tune serve",
     .group = "Tune",
     .type = PROA_OPTION_STRING,
     .environment = "PROA_CACHE OTHER_CACHE HOUSE/.cache/proa",
     .help = "Cache"},
};

static const proa_program program = {
    .name = "prog",
    .version = "1.2",
    .summary = "A program",
    .commands = commands,
    .command_count = 3,
    .options = options,
    .option_count = sizeof options / sizeof *options,
};

enum { WORDS_MAX = 16 };

/* Parses "serve --a=1 b" split at spaces. Options point into the words, which are the last line's. */
static proa_status parse(const char *line, proa_options **parsed, proa_error *err)
{
    static char copy[256], *words[WORDS_MAX + 1];
    char *save = NULL;
    int count = 0;
    memset(words, 0, sizeof words);
    snprintf(copy, sizeof copy, "%s", line);
    for (char *w = strtok_r(copy, " ", &save); w != NULL && count < WORDS_MAX; w = strtok_r(NULL, " ", &save))
        words[count++] = w;
    proa_error ignored;
    const proa_command *command = proa_program_find(&program, words[0], &ignored);
    assert_non_null(command);
    return proa_options_parse(&program, command, count, words, parsed, err);
}

static proa_options *parse_well(const char *line)
{
    proa_options *parsed;
    proa_error err = {0};
    if (parse(line, &parsed, &err) != PROA_OK)
        fail_msg("%s: %s", line, err.text);
    return parsed;
}

static void defaults_hold(void **state)
{
    (void)state;
    proa_options *o = parse_well("serve");
    assert_null(proa_options_string(o, "model-path"));
    assert_int_equal(proa_options_int(o, "port"), 8000);
    assert_int_equal(proa_options_int(o, "chunk"), 0);
    assert_int_equal(proa_options_int(o, "ring"), 2 << 20);
    assert_float_equal(proa_options_real(o, "fraction"), 0.85, 0);
    assert_string_equal(proa_options_string(o, "device"), "cpu");
    assert_false(proa_options_bool(o, "quiet"));
    assert_false(proa_options_given(o, "port"));
    assert_null(proa_options_argument(o, 0));
    proa_options_free(o);
}

static void command_line_sets_values(void **state)
{
    (void)state;
    proa_options *o = parse_well("serve --checkpoint /a --port=70 --chunk -1 --fraction 1 --quiet");
    assert_string_equal(proa_options_string(o, "model-path"), "/a");
    assert_int_equal(proa_options_int(o, "port"), 70);
    assert_int_equal(proa_options_int(o, "chunk"), -1);
    assert_float_equal(proa_options_real(o, "fraction"), 1, 0);
    assert_true(proa_options_bool(o, "quiet"));
    assert_true(proa_options_given(o, "port"));
    proa_options_free(o);

    o = parse_well("bench --model= op --device ref");
    assert_string_equal(proa_options_string(o, "model-path"), "");
    assert_string_equal(proa_options_argument(o, 0), "op");
    assert_null(proa_options_argument(o, 1));
    assert_string_equal(proa_options_string(o, "device"), "ref");
    proa_options_free(o);

    o = parse_well("serve --port 1 --port 2"); /* the last one counts, as in argparse */
    assert_int_equal(proa_options_int(o, "port"), 2);
    proa_options_free(o);
}

static void sizes_have_suffixes(void **state)
{
    (void)state;
    static const struct {
        const char *line;
        int64_t bytes;
    } cases[] = {
        {"serve --ring 0", 0},          {"serve --ring 17", 17},       {"serve --ring 3k", 3 << 10},
        {"serve --ring 3KiB", 3 << 10}, {"serve --ring 5MB", 5 << 20}, {"serve --ring 1g", 1 << 30},
        {"serve --ring 1T", 1LL << 40},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        proa_options *o = parse_well(cases[i].line);
        assert_int_equal(proa_options_int(o, "ring"), cases[i].bytes);
        proa_options_free(o);
    }
}

static void environment_is_between(void **state)
{
    (void)state;
    setenv("PROA_PORT", "71", 1);
    setenv("PROA_QUIET", "True", 1);
    setenv("PROA_MODEL_PATH", "", 1);
    setenv("PROA_SHAPE", "not of this command", 1);
    setenv("ETCD_ENDPOINTS", "http://a", 1);
    proa_options *o = parse_well("serve");
    assert_int_equal(proa_options_int(o, "port"), 71);
    assert_true(proa_options_bool(o, "quiet"));
    assert_true(proa_options_given(o, "port"));
    assert_null(proa_options_string(o, "model-path"));
    assert_string_equal(proa_options_string(o, "etcd"), "http://a");
    proa_options_free(o);

    o = parse_well("serve --port 72");
    assert_int_equal(proa_options_int(o, "port"), 72);
    proa_options_free(o);

    proa_error err = {0};
    setenv("PROA_PORT", "tcp://10.0.0.1:80", 1);
    assert_int_equal(parse("serve", &o, &err), PROA_ERR_INVALID);
    assert_string_equal(
        err.text, "PROA_PORT (environment) is \"tcp://10.0.0.1:80\": give a whole number from 1 to 65535");
    unsetenv("PROA_PORT");
    setenv("PROA_QUIET", "maybe", 1);
    assert_int_equal(parse("serve", &o, &err), PROA_ERR_INVALID);
    assert_string_equal(err.text, "PROA_QUIET (environment) is \"maybe\": give 1 or 0");
    unsetenv("PROA_QUIET");
    unsetenv("ETCD_ENDPOINTS");
}

/* The first of several variables that is set; what stands behind a slash goes behind its value. */
static void one_of_several_variables(void **state)
{
    static const struct {
        const char *variable, *value, *want;
    } steps[] = {{"HOUSE", "/home/a", "/home/a/.cache/proa"},
                 {"OTHER_CACHE", "/other", "/other"},
                 {"PROA_CACHE", "", "/other"},
                 {"PROA_CACHE", "/first", "/first"}};
    proa_options *o = parse_well("tune");
    (void)state;
    assert_null(proa_options_string(o, "cache"));
    proa_options_free(o);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        setenv(steps[i].variable, steps[i].value, 1);
        o = parse_well(i % 2 == 0 ? "tune" : "serve");
        assert_string_equal(proa_options_string(o, "cache"), steps[i].want);
        assert_true(proa_options_given(o, "cache"));
        proa_options_free(o);
    }
    o = parse_well("tune --cache=mine");
    assert_string_equal(proa_options_string(o, "cache"), "mine");
    proa_options_free(o);
    unsetenv("HOUSE");
    unsetenv("OTHER_CACHE");
    unsetenv("PROA_CACHE");
}

/* Its own rows go before those of the first command that it borrows from, and these before the second one's. */
static void options_are_borrowed(void **state)
{
    proa_error err = {0};
    proa_options *o = parse_well("tune --ring here --chunk 5 --model x --shape s");
    (void)state;
    assert_string_equal(proa_options_string(o, "ring"), "here"); /* bench's, a text */
    assert_int_equal(proa_options_int(o, "chunk"), 5);           /* serve's */
    assert_string_equal(proa_options_string(o, "model-path"), "x");
    assert_string_equal(proa_options_string(o, "shape"), "s");
    assert_string_equal(proa_options_string(o, "device"), "cuda");
    proa_options_free(o);
    assert_int_equal(parse("tune --device ref", &o, &err), PROA_ERR_INVALID);
    assert_int_equal(parse("serve --shape s", &o, &err), PROA_ERR_INVALID); /* nothing is lent back */
    setenv("PROA_FRACTION", "0.5", 1);
    o = parse_well("tune");
    assert_true(proa_options_real(o, "fraction") == 0.5);
    proa_options_free(o);
    unsetenv("PROA_FRACTION");
    assert_int_equal(parse("tune --fracton 1", &o, &err), PROA_ERR_INVALID);
    assert_string_equal(err.text, "unknown flag --fracton: did you mean --fraction?");
}

/* Between processes of the program alone: a user's environment does not set it, and no document tells of it. */
static void internal_options_are_for_the_program(void **state)
{
    char *words[] = {"serve", "--seat=7", "--port=3", NULL};
    (void)state;
    proa_options *o = parse_well("serve --seat 7");
    assert_true(proa_options_given(o, "seat"));
    assert_int_equal(proa_options_int(o, "seat"), 7);
    proa_options_free(o);
    setenv("PROA_SEAT", "5", 1);
    o = parse_well("serve");
    assert_false(proa_options_given(o, "seat"));
    proa_options_free(o);
    unsetenv("PROA_SEAT");
    proa_error err = {0};
    assert_int_equal(parse("serve --seatt 7", &o, &err), PROA_ERR_INVALID);
    assert_null(strstr(err.text, "did you mean --seat"));
    int count;
    assert_int_equal(proa_options_parse(&program, &commands[0], 3, words, &o, &err), PROA_OK);
    assert_ptr_equal(proa_options_words(o, &count), words);
    assert_int_equal(count, 3);
    proa_options_free(o);
}

static void bad_lines_are_explained(void **state)
{
    (void)state;
    static const struct {
        const char *line;
        const char *text;
    } cases[] = {
        {"serve --prot 80", "unknown flag --prot: did you mean --port?"},
        {"serve --model_path=x", "unknown flag --model_path: did you mean --model-path?"},
        {"serve --chekpoint x", "unknown flag --chekpoint: did you mean --checkpoint?"},
        {"serve --model-pa x", "unknown flag --model-pa: did you mean --model-path?"},
        {"serve --frac 1", "unknown flag --frac: did you mean --fraction?"},
        {"serve --tensor-size 3", "unknown flag --tensor-size: `prog serve --help` lists the known ones"},
        {"serve --port 80 --zzz", "unknown flag --zzz: `prog serve --help` lists the known ones"},
        {"bench --port 80", "prog bench has no flag --port (it belongs to: serve)"},
        {"serve -p 80", "unknown flag -p: flags begin with two dashes"},
        {"serve x", "unexpected argument \"x\": prog serve takes flags only"},
        {"bench x y", "unexpected argument \"y\": prog bench takes WHAT"},
        {"serve --port", "--port needs a value: --port N"},
        {"serve --quiet=1", "--quiet takes no value: leave out \"=1\""},
        {"serve --help=1", "--help takes no value: leave out \"=1\""},
        {"serve --port 0", "--port is \"0\": give a whole number from 1 to 65535"},
        {"serve --port 65536", "--port is \"65536\": give a whole number from 1 to 65535"},
        {"serve --port 8x", "--port is \"8x\": give a whole number from 1 to 65535"},
        {"serve --port=", "--port is \"\": give a whole number from 1 to 65535"},
        {"serve --port 99999999999999999999",
         "--port is \"99999999999999999999\": give a whole number from 1 to 65535"},
        {"serve --chunk -2", "--chunk is \"-2\": give a whole number at least -1, in tokens"},
        {"serve --fraction nan", "--fraction is \"nan\": give a number from 0.01 to 1"},
        {"serve --fraction 1.01", "--fraction is \"1.01\": give a number from 0.01 to 1"},
        {"serve --device gpu", "--device is \"gpu\": give cpu, ref or cuda"},
        {"serve --device cpu|ref", "--device is \"cpu|ref\": give cpu, ref or cuda"},
        {"serve --device=", "--device is \"\": give cpu, ref or cuda"},
        {"serve --ring 3X", "--ring is \"3X\": give a size such as 512M from 0 to 1099511627776"},
        {"serve --ring 9999999999T",
         "--ring is \"9999999999T\": give a size such as 512M from 0 to 1099511627776"},
        {"serve --ring -1", "--ring is \"-1\": give a size such as 512M from 0 to 1099511627776"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        proa_options *o = (proa_options *)&cases;
        proa_error err = {0};
        assert_int_equal(parse(cases[i].line, &o, &err), PROA_ERR_INVALID);
        assert_string_equal(err.text, cases[i].text);
        assert_null(o);
    }
}

static void help_is_an_end(void **state)
{
    (void)state;
    proa_options *o;
    proa_error err = {0};
    assert_int_equal(parse("serve --port 3 --help --nonsense", &o, &err), PROA_END);
    assert_null(o);
    assert_int_equal(parse("serve -h", &o, &err), PROA_END);
}

static void commands_are_found(void **state)
{
    (void)state;
    proa_error err = {0};
    assert_ptr_equal(proa_program_find(&program, "bench", &err), &commands[1]);
    assert_null(proa_program_find(&program, "srve", &err));
    assert_string_equal(err.text, "unknown command srve: did you mean serve?");
    assert_null(proa_program_find(&program, "frontend", &err));
    assert_string_equal(err.text, "unknown command frontend: `prog help` lists the known ones");
}

static void documents_name_every_option(void **state)
{
    (void)state;
    proa_buf markdown = {0}, manual = {0};
    char *help = NULL;
    size_t help_length;
    FILE *stream = open_memstream(&help, &help_length);
    proa_command_help(&program, &commands[0], stream);
    proa_command_help(&program, &commands[1], stream);
    proa_command_help(&program, &commands[2], stream);
    fclose(stream);
    proa_program_markdown(&program, &markdown);
    proa_program_manual(&program, &manual);
    for (int i = 0; i < program.option_count; i++) {
        assert_true((strstr(help, options[i].name) != NULL) != options[i].internal);
        assert_true((strstr(proa_buf_text(&markdown), options[i].name) != NULL) != options[i].internal);
    }
    assert_null(strstr(proa_buf_text(&manual), "seat"));
    assert_non_null(strstr(help, "(from 1 to 65535; default 8000)"));
    assert_non_null(
        strstr(proa_buf_text(&markdown),
               "| `--model-path DIR, --model DIR, --checkpoint DIR` |  |  | `PROA_MODEL_PATH` | Folder |\n"));
    assert_non_null(strstr(proa_buf_text(&markdown), "| `ETCD_ENDPOINTS` |"));
    assert_non_null(strstr(proa_buf_text(&markdown), "| a\\|b |"));
    assert_non_null(strstr(proa_buf_text(&manual), ".B \\-\\-model\\-path DIR, \\-\\-model DIR"));
    assert_non_null(
        strstr(proa_buf_text(&manual), "Range: from 1 to 65535. Default: 8000. Environment: PROA_PORT."));
    assert_non_null(
        strstr(proa_buf_text(&markdown), "Tune. Knows all options of `prog bench` and `prog serve` too.\n"));
    assert_non_null(
        strstr(proa_buf_text(&manual), "Tune. Knows all options of prog bench and prog serve too.\n"));
    free(help);
    proa_buf_free(&markdown);
    proa_buf_free(&manual);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_hold),
        cmocka_unit_test(command_line_sets_values),
        cmocka_unit_test(sizes_have_suffixes),
        cmocka_unit_test(environment_is_between),
        cmocka_unit_test(one_of_several_variables),
        cmocka_unit_test(options_are_borrowed),
        cmocka_unit_test(bad_lines_are_explained),
        cmocka_unit_test(help_is_an_end),
        cmocka_unit_test(internal_options_are_for_the_program),
        cmocka_unit_test(commands_are_found),
        cmocka_unit_test(documents_name_every_option),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
