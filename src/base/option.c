/* option.c - the option table read: values from command line, environment and defaults; argp and getenv live here.
 *
 * argp is driven by an array made from the table. It runs silently (ARGP_NO_ERRS), since its own messages suggest
 * nothing; what it stopped at is the word after the last one that it accepted. Abbreviated names, which argp would take,
 * are refused: they would change their meaning when a flag is added.
 * Deliberately lacks short options (but -h) and negated flags (--no-...).
 */
#include "base/option.h"

#include "base/arena.h"
#include "base/log.h"
#include "base/minmax.h"

#include <argp.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum {
    KEY_HELP = 'h',
    KEY_FIRST =
        1000, /* key of the table's first row; above all characters, so that no row has a short name */
    WORD_MAX = PROA_OPTION_WORD_MAX,
};

typedef struct value {
    bool given;       /* by command line or environment */
    const char *text; /* as written; NULL: neither given nor default */
    int64_t integer;  /* INT, BYTES; FLAG: 0 or 1 */
    double real;
    const struct value *earlier; /* of an option that repeats: the one given before this; NULL: none */
} value;

struct proa_options {
    const proa_program *program;
    const proa_command *command;
    proa_arena *arena;
    value *values; /* [program->option_count] */
    const char **arguments;
    int argument_count;
    char *const *words; /* the caller's */
    int word_count;
};

/* --- the table --- */

bool proa_option_list_next(const char **list, char separator, char word[PROA_OPTION_WORD_MAX])
{
    if (*list == NULL || **list == '\0')
        return false;
    const char *end = *list + strcspn(*list, (const char[]){separator, '\0'});
    snprintf(word, PROA_OPTION_WORD_MAX, "%.*s", (int)(end - *list), *list);
    *list = *end == '\0' ? end : end + 1;
    return true;
}

bool proa_option_list_has(const char *list, char separator, const char *word)
{
    char candidate[PROA_OPTION_WORD_MAX];
    while (proa_option_list_next(&list, separator, candidate)) {
        if (strcmp(candidate, word) == 0)
            return true;
    }
    return false;
}

void proa_option_environment(const proa_option *option, proa_buf *out)
{
    if (option->environment != NULL) {
        proa_buf_append_text(out, option->environment);
        return;
    }
    proa_buf_append_text(out, "PROA_");
    for (const char *c = option->name; *c != '\0'; c++)
        proa_buf_append_char(out, *c == '-' ? '_' : *c >= 'a' && *c <= 'z' ? (char)(*c - 'a' + 'A') : *c);
}

void proa_option_range(const proa_option *option, proa_buf *out)
{
    if (option->type == PROA_OPTION_CHOICE) {
        const char *rest = option->choices;
        char choice[PROA_OPTION_WORD_MAX];
        for (const char *before = ""; proa_option_list_next(&rest, '|', choice);
             before = strchr(rest, '|') != NULL ? ", " : " or ")
            proa_buf_append_format(out, "%s%s", before, choice);
    } else if (option->low != 0 || option->high != 0) {
        if (isinf(option->high))
            proa_buf_append_format(out, "at least %.15g", option->low);
        else
            proa_buf_append_format(out, "from %.15g to %.15g", option->low, option->high);
    }
}

const char *proa_option_metavar(const proa_option *option)
{
    switch (option->type) {
    case PROA_OPTION_FLAG: return NULL;
    case PROA_OPTION_CHOICE: return option->choices;
    case PROA_OPTION_BYTES: return option->metavar != NULL ? option->metavar : "BYTES";
    case PROA_OPTION_STRING: return option->metavar != NULL ? option->metavar : "TEXT";
    case PROA_OPTION_INT:
    case PROA_OPTION_REAL: break;
    }
    return option->metavar != NULL ? option->metavar : "N";
}

/* The row of this name that the command `owner` has. */
static const proa_option *row_of(const proa_program *program, const char *owner, const char *name)
{
    for (int i = 0; i < program->option_count; i++) {
        const proa_option *row = &program->options[i];
        if (strcmp(row->name, name) == 0 && proa_option_list_has(row->commands, ' ', owner))
            return row;
    }
    return NULL;
}

/* Its own, or that of the first command it borrows from which has one of this name. */
static bool knows(const proa_program *program, const proa_command *command, const proa_option *option)
{
    const char *rest = command->borrows;
    const proa_option *row = proa_option_list_has(option->commands, ' ', command->name)
                                 ? option
                                 : row_of(program, command->name, option->name);
    for (char owner[WORD_MAX]; row == NULL && proa_option_list_next(&rest, ' ', owner);)
        row = row_of(program, owner, option->name);
    return row == option;
}

/* The row with this name or alias, or -1; command NULL: of any command. */
static int find(const proa_program *program, const proa_command *command, const char *name)
{
    for (int i = 0; i < program->option_count; i++) {
        const proa_option *option = &program->options[i];
        if ((strcmp(option->name, name) == 0 || proa_option_list_has(option->aliases, ' ', name)) &&
            (command == NULL || knows(program, command, option)))
            return i;
    }
    return -1;
}

/* --- the nearest name --- */

typedef struct nearest {
    const char *wanted;
    int distance;
    char name[WORD_MAX];
} nearest;

/* Insertions, deletions, replacements and swaps of neighbours that turn a into b (optimal string alignment).
 * Names beyond WORD_MAX are compared by their beginning. */
static int edit_distance(const char *a, const char *b)
{
    int rows[3][WORD_MAX + 1]; /* the last three rows of the table, by i modulo 3 */
    int m = (int)strnlen(a, WORD_MAX), n = (int)strnlen(b, WORD_MAX);
    for (int j = 0; j <= n; j++)
        rows[0][j] = j;
    for (int i = 1; i <= m; i++) {
        int *now = rows[i % 3], *before = rows[(i + 2) % 3], *two_before = rows[(i + 1) % 3];
        now[0] = i;
        for (int j = 1; j <= n; j++) {
            now[j] = proa_min_i32(before[j] + 1, now[j - 1] + 1);
            now[j] = proa_min_i32(now[j], before[j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                now[j] = proa_min_i32(now[j], two_before[j - 2] + 1);
        }
    }
    return rows[m % 3][n];
}

/* A name that begins with what was written is near, however long it is. */
static void consider(nearest *best, const char *name)
{
    int distance = edit_distance(best->wanted, name);
    size_t length = strlen(best->wanted);
    if (distance > 1 && length >= 3 && strncmp(name, best->wanted, length) == 0)
        distance = 1;
    if (distance < best->distance) {
        best->distance = distance;
        snprintf(best->name, sizeof best->name, "%s", name);
    }
}

/* Further than this is no misspelling. */
static nearest nearest_begin(const char *wanted)
{
    int length = (int)strnlen(wanted, WORD_MAX);
    return (nearest){.wanted = wanted, .distance = proa_min_i32(length, length / 3 + 2)};
}

static proa_status unknown_flag(const proa_program *program, const proa_command *command, const char *name,
                                proa_error *err)
{
    nearest best = nearest_begin(name);
    for (int i = 0; i < program->option_count; i++) {
        const proa_option *option = &program->options[i];
        if (!knows(program, command, option) || option->internal)
            continue;
        consider(&best, option->name);
        const char *aliases = option->aliases;
        for (char alias[WORD_MAX]; proa_option_list_next(&aliases, ' ', alias);)
            consider(&best, alias);
    }
    int elsewhere = find(program, NULL, name);
    if (elsewhere >= 0)
        return proa_error_set(err, PROA_ERR_INVALID, "%s %s has no flag --%s (it belongs to: %s)",
                              program->name, command->name, name, program->options[elsewhere].commands);
    if (best.name[0] != '\0')
        return proa_error_set(err, PROA_ERR_INVALID, "unknown flag --%s: did you mean --%s?", name,
                              best.name);
    return proa_error_set(err, PROA_ERR_INVALID, "unknown flag --%s: `%s %s --help` lists the known ones",
                          name, program->name, command->name);
}

const proa_command *proa_program_find(const proa_program *program, const char *name, proa_error *err)
{
    nearest best = nearest_begin(name);
    for (int i = 0; i < program->command_count; i++) {
        const char *candidate = program->commands[i].name;
        if (strcmp(candidate, name) == 0)
            return &program->commands[i];
        consider(&best, candidate);
    }
    if (best.name[0] != '\0')
        proa_error_set(err, PROA_ERR_INVALID, "unknown command %s: did you mean %s?", name, best.name);
    else
        proa_error_set(err, PROA_ERR_INVALID, "unknown command %s: `%s help` lists the known ones", name,
                       program->name);
    return NULL;
}

/* --- values --- */

static bool parse_flag(const char *text, int64_t *result)
{
    static const char *const words[] = {"0", "1", "false", "true", "no", "yes", "off", "on"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strcasecmp(text, words[i]) == 0) {
            *result = (int64_t)(i % 2);
            return true;
        }
    }
    return false;
}

/* *end stays where the number ends; false when there is none or it does not fit. */
static bool parse_int(const char *text, const char **end, int64_t *result)
{
    if (*text != '-' && (*text < '0' || *text > '9'))
        return false;
    char *stop;
    errno = 0;
    *result = strtoll(text, &stop, 10);
    *end = stop;
    return stop != text && errno == 0;
}

/* The suffix of a size: K, KB, KiB and so on, in either case; -1 for anything else. */
static int parse_suffix(const char *text)
{
    static const char letters[] = "kmgt";
    if (*text == '\0')
        return 0;
    const char *letter = strchr(letters, *text | 0x20);
    if (letter == NULL ||
        (text[1] != '\0' && strcasecmp(text + 1, "b") != 0 && strcasecmp(text + 1, "ib") != 0))
        return -1;
    return 10 * (int)(letter - letters + 1);
}

/* Fills integer or real from the text; false when it is not of the type or out of range. */
static bool convert(const proa_option *option, value *v)
{
    const char *end = "";
    switch (option->type) {
    case PROA_OPTION_STRING: return true;
    case PROA_OPTION_FLAG: return parse_flag(v->text, &v->integer);
    case PROA_OPTION_CHOICE:
        return strchr(v->text, '|') == NULL && proa_option_list_has(option->choices, '|', v->text);
    case PROA_OPTION_INT:
        if (!parse_int(v->text, &end, &v->integer) || *end != '\0')
            return false;
        v->real = (double)v->integer;
        break;
    case PROA_OPTION_BYTES: {
        if (!parse_int(v->text, &end, &v->integer) || v->integer < 0)
            return false;
        int shift = parse_suffix(end);
        if (shift < 0 || v->integer > INT64_MAX >> shift)
            return false;
        v->integer <<= shift;
        v->real = (double)v->integer;
        break;
    }
    case PROA_OPTION_REAL: {
        char *stop;
        v->real = strtod(v->text, &stop);
        if (stop == v->text || *stop != '\0' || !isfinite(v->real))
            return false;
        break;
    }
    }
    return (option->low == 0 && option->high == 0) || (v->real >= option->low && v->real <= option->high);
}

/* `where` is the flag or the variable as the user wrote it. */
static proa_status set(proa_options *options, int index, const char *where, const char *text, proa_error *err)
{
    static const char *const kinds[] = {
        [PROA_OPTION_FLAG] = "1 or 0",
        [PROA_OPTION_STRING] = "a text",
        [PROA_OPTION_INT] = "a whole number",
        [PROA_OPTION_REAL] = "a number",
        [PROA_OPTION_CHOICE] = "",
        [PROA_OPTION_BYTES] = "a size such as 512M",
    };
    const proa_option *option = &options->program->options[index];
    value v = {.given = true, .text = proa_arena_string(options->arena, text, strlen(text))};
    bool keeps = option->repeats && options->values[index].given;
    value *earlier = keeps ? proa_arena_alloc(options->arena, sizeof *earlier) : NULL;
    if (v.text == NULL || (keeps && earlier == NULL))
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the value of %s", where);
    if (keeps) {
        *earlier = options->values[index];
        v.earlier = earlier;
    }
    if (convert(option, &v)) {
        options->values[index] = v;
        return PROA_OK;
    }
    proa_buf range = {0};
    proa_option_range(option, &range);
    proa_error_set(err, PROA_ERR_INVALID, "%s is \"%.200s\": give %s%s%s%s%s", where, text,
                   kinds[option->type], range.length > 0 && *kinds[option->type] != '\0' ? " " : "",
                   proa_buf_text(&range), option->unit != NULL ? ", in " : "",
                   option->unit != NULL ? option->unit : "");
    proa_buf_free(&range);
    return PROA_ERR_INVALID;
}

/* The first of the option's variables that is set, with what is put behind it; `where` is its name then. */
static bool read_variable(const proa_option *option, proa_buf *where, proa_buf *text)
{
    proa_buf names = {0};
    proa_option_environment(option, &names);
    const char *rest = proa_buf_text(&names), *found = NULL;
    for (char word[WORD_MAX]; found == NULL && proa_option_list_next(&rest, ' ', word);) {
        char *suffix = strchr(word, '/');
        proa_buf_clear(where);
        proa_buf_append_format(where, "%.*s", (int)strcspn(word, "/"), word);
        found = getenv(proa_buf_text(where));
        if (found != NULL && *found == '\0')
            found = NULL;
        proa_buf_clear(text);
        if (found != NULL)
            proa_buf_append_format(text, "%s%s", found, suffix != NULL ? suffix : "");
    }
    proa_buf_append_text(where, " (environment)");
    proa_buf_free(&names);
    return found != NULL;
}

static proa_status set_from_environment(proa_options *options, proa_error *err)
{
    proa_status status = PROA_OK;
    proa_buf where = {0}, text = {0};
    for (int i = 0; i < options->program->option_count && status == PROA_OK; i++) {
        const proa_option *option = &options->program->options[i];
        if (options->values[i].given || option->internal ||
            !knows(options->program, options->command, option) || !read_variable(option, &where, &text))
            continue;
        status = text.failed ? proa_error_set(err, PROA_ERR_MEMORY, "no memory for the environment")
                             : set(options, i, proa_buf_text(&where), proa_buf_text(&text), err);
    }
    proa_buf_free(&where);
    proa_buf_free(&text);
    return status;
}

static void set_defaults(proa_options *options)
{
    for (int i = 0; i < options->program->option_count; i++) {
        value *v = &options->values[i];
        const proa_option *option = &options->program->options[i];
        if (v->given || option->fallback == NULL)
            continue;
        v->text = option->fallback;
        bool fits = convert(option, v);
        PROA_ASSERT(fits);
    }
}

/* --- argp --- */

typedef struct parse {
    proa_options *options;
    proa_error *err;
    int next; /* the word that argp reads now */
    proa_status status;
} parse;

static proa_status take_option(parse *p, int index, const char *word, const char *text)
{
    const proa_option *option = &p->options->program->options[index];
    char name[WORD_MAX + 8];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(word, "="), word);
    if (find(p->options->program, p->options->command, name + 2) != index)
        return unknown_flag(p->options->program, p->options->command, name + 2, p->err);
    bool repeated = p->options->values[index].given;
    proa_status status = set(p->options, index, name, text != NULL ? text : "1", p->err);
    if (status == PROA_OK && option->ignored != NULL && !repeated && !proa_options_by_parent(p->options))
        proa_log(PROA_LOG_INFO, "cmd", "--%s has nothing to do here: %s", option->name, option->ignored);
    return status;
}

static error_t parse_word(int key, char *text, struct argp_state *state)
{
    parse *p = state->input;
    if (key == KEY_HELP) {
        p->status = PROA_END;
    } else if (key == ARGP_KEY_ARG) {
        const proa_command *command = p->options->command;
        if (p->options->argument_count == command->argument_count_max)
            p->status = proa_error_set(p->err, PROA_ERR_INVALID, "unexpected argument \"%s\": %s %s takes %s",
                                       text, p->options->program->name, command->name,
                                       command->arguments != NULL ? command->arguments : "flags only");
        else
            p->options->arguments[p->options->argument_count++] = text;
    } else if (key >= KEY_FIRST && key < KEY_FIRST + p->options->program->option_count) {
        p->status = take_option(p, key - KEY_FIRST, state->argv[p->next], text);
    } else {
        return ARGP_ERR_UNKNOWN;
    }
    p->next = state->next;
    return p->status == PROA_OK ? 0 : ECANCELED;
}

/* What a user reads after the flag's name in --help. */
static const char *describe(const proa_option *option, proa_arena *arena)
{
    proa_buf doc = {0};
    const char *separator = " (";
    proa_buf_append_text(&doc, option->help);
    if (option->unit != NULL) {
        proa_buf_append_format(&doc, "%s%s", separator, option->unit);
        separator = "; ";
    }
    if (option->type != PROA_OPTION_CHOICE && (option->low != 0 || option->high != 0)) {
        proa_buf_append_text(&doc, separator);
        proa_option_range(option, &doc);
        separator = "; ";
    }
    if (option->fallback != NULL) {
        proa_buf_append_format(&doc, "%sdefault %s", separator, option->fallback);
        separator = "; ";
    }
    if (option->environment != NULL) {
        proa_buf_append_format(&doc, "%s%s in the environment", separator, option->environment);
        separator = "; ";
    }
    if (separator[0] == ';')
        proa_buf_append_char(&doc, ')');
    const char *copy = proa_arena_string(arena, proa_buf_text(&doc), doc.length);
    proa_buf_free(&doc);
    return copy != NULL ? copy : option->help;
}

/* The table as argp wants it: rows, their aliases, headlines, --help, an empty last row. NULL when memory is out. */
static struct argp_option *make_argp_options(const proa_program *program, const proa_command *command,
                                             proa_arena *arena)
{
    size_t capacity = 2;
    for (int i = 0; i < program->option_count; i++) {
        const char *aliases = program->options[i].aliases;
        capacity += aliases != NULL ? 2 + strlen(aliases) / 2 + 1 : 2;
    }
    struct argp_option *rows = proa_arena_array(arena, capacity, sizeof *rows), *row = rows;
    if (rows == NULL)
        return NULL;
    const char *group = NULL;
    int group_number = 0;
    for (int i = 0; i < program->option_count; i++) {
        const proa_option *option = &program->options[i];
        if (!knows(program, command, option))
            continue;
        if (group == NULL || strcmp(group, option->group) != 0) {
            group = option->group;
            *row++ = (struct argp_option){.doc = group, .group = ++group_number};
        }
        *row++ = (struct argp_option){.name = option->name,
                                      .key = KEY_FIRST + i,
                                      .group = group_number,
                                      .flags = option->internal ? OPTION_HIDDEN : 0,
                                      .arg = proa_option_metavar(option),
                                      .doc = describe(option, arena)};
        const char *aliases = option->aliases;
        for (char word[WORD_MAX]; proa_option_list_next(&aliases, ' ', word);) {
            const char *alias = proa_arena_string(arena, word, strlen(word));
            if (alias == NULL)
                return NULL;
            *row++ = (struct argp_option){.name = alias, .flags = OPTION_ALIAS, .group = group_number};
        }
    }
    *row++ = (struct argp_option){.name = "help", .key = KEY_HELP, .doc = "Show this help", .group = -1};
    PROA_ASSERT((size_t)(row - rows) < capacity);
    return rows;
}

/* argp stopped without a word from parse_word: an unknown flag, a value missing, or a value too many. */
static proa_status explain(const parse *p, const char *word)
{
    const proa_program *program = p->options->program;
    char name[WORD_MAX];
    if (strncmp(word, "--", 2) != 0)
        return proa_error_set(p->err, PROA_ERR_INVALID, "unknown flag %s: flags begin with two dashes", word);
    snprintf(name, sizeof name, "%.*s", (int)strcspn(word + 2, "="), word + 2);
    int index = find(program, p->options->command, name);
    if (index < 0 && strcmp(name, "help") != 0)
        return unknown_flag(program, p->options->command, name, p->err);
    if (index < 0 || program->options[index].type == PROA_OPTION_FLAG)
        return proa_error_set(p->err, PROA_ERR_INVALID, "--%s takes no value: leave out \"%s\"", name,
                              word + strcspn(word, "="));
    return proa_error_set(p->err, PROA_ERR_INVALID, "--%s needs a value: --%s %s", name, name,
                          proa_option_metavar(&program->options[index]));
}

static proa_status parse_command_line(proa_options *options, int argc, char **argv, proa_error *err)
{
    struct argp argp = {.options = make_argp_options(options->program, options->command, options->arena),
                        .parser = parse_word};
    if (argp.options == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the command line");
    parse p = {.options = options, .err = err, .next = 1};
    error_t failed =
        argp_parse(&argp, argc, argv, ARGP_NO_ERRS | ARGP_NO_EXIT | ARGP_NO_HELP | ARGP_IN_ORDER, NULL, &p);
    if (p.status != PROA_OK || failed == 0)
        return p.status;
    return p.next < argc ? explain(&p, argv[p.next])
                         : proa_error_set(err, PROA_ERR_MEMORY, "no memory for the command line");
}

proa_status proa_options_parse(const proa_program *program, const proa_command *command, int argc,
                               char **argv, proa_options **out, proa_error *err)
{
    *out = NULL;
    proa_status status = PROA_ERR_MEMORY;
    proa_options *options = calloc(1, sizeof *options);
    if (options == NULL)
        return proa_error_set(err, status, "no memory for the command line");
    options->program = program;
    options->command = command;
    options->words = argv;
    options->word_count = argc;
    options->arena = proa_arena_create(0);
    if (options->arena != NULL) {
        options->values =
            proa_arena_array(options->arena, (size_t)program->option_count, sizeof *options->values);
        options->arguments = proa_arena_array(options->arena, (size_t)argc, sizeof *options->arguments);
    }
    if (options->values == NULL || options->arguments == NULL) {
        proa_error_set(err, status, "no memory for the command line");
        goto undo;
    }
    status = parse_command_line(options, argc, argv, err);
    if (status == PROA_OK)
        status = set_from_environment(options, err);
    if (status != PROA_OK)
        goto undo;
    set_defaults(options);
    *out = options;
    return PROA_OK;
undo:
    proa_options_free(options);
    return status;
}

void proa_options_free(proa_options *options)
{
    if (options == NULL)
        return;
    proa_arena_free(options->arena);
    free(options);
}

void proa_command_help(const proa_program *program, const proa_command *command, FILE *out)
{
    proa_arena *arena = proa_arena_create(0);
    proa_buf doc = {0}, name = {0};
    proa_buf_append_format(&doc,
                           "%s\vEach flag can be set in the environment too: --some-name as PROA_SOME_NAME. "
                           "The command line goes before the environment.",
                           command->summary);
    proa_buf_append_format(&name, "%s %s", program->name, command->name);
    struct argp argp = {.args_doc = command->arguments, .doc = proa_buf_text(&doc)};
    if (arena != NULL)
        argp.options = make_argp_options(program, command, arena);
    if (argp.options != NULL && !name.failed)
        argp_help(&argp, out, ARGP_HELP_STD_HELP, name.data);
    proa_buf_free(&name);
    proa_buf_free(&doc);
    proa_arena_free(arena);
}

/* --- getters --- */

static const value *get(const proa_options *options, const char *name, unsigned types)
{
    int index = find(options->program, options->command, name);
    PROA_ASSERT(index >= 0);
    PROA_ASSERT(types & 1u << options->program->options[index].type);
    return &options->values[index];
}

bool proa_options_bool(const proa_options *options, const char *name)
{
    return get(options, name, 1u << PROA_OPTION_FLAG)->integer != 0;
}

const char *proa_options_string(const proa_options *options, const char *name)
{
    return get(options, name, 1u << PROA_OPTION_STRING | 1u << PROA_OPTION_CHOICE)->text;
}

int64_t proa_options_int(const proa_options *options, const char *name)
{
    return get(options, name, 1u << PROA_OPTION_INT | 1u << PROA_OPTION_BYTES)->integer;
}

double proa_options_real(const proa_options *options, const char *name)
{
    return get(options, name, 1u << PROA_OPTION_REAL)->real;
}

const char *proa_options_repeated(const proa_options *options, const char *name, int index)
{
    const value *last = get(options, name, 1u << PROA_OPTION_STRING), *v = last;
    int count = 0;
    for (const value *i = last; i != NULL && i->text != NULL; i = i->earlier)
        count++;
    if (index < 0 || index >= count)
        return NULL;
    for (int i = count - 1; i > index; i--)
        v = v->earlier;
    return v->text;
}

bool proa_options_given(const proa_options *options, const char *name)
{
    return get(options, name, ~0u)->given;
}

bool proa_options_by_parent(const proa_options *options)
{
    for (int i = 0; i < options->program->option_count; i++)
        if (options->program->options[i].internal && options->values[i].given)
            return true;
    return false;
}

const char *proa_options_argument(const proa_options *options, int index)
{
    return index >= 0 && index < options->argument_count ? options->arguments[index] : NULL;
}

char *const *proa_options_words(const proa_options *options, int *count)
{
    *count = options->word_count;
    return options->words;
}

const proa_program *proa_options_program(const proa_options *options)
{
    return options->program;
}
