/* option_argp.c - the command line and --help, by argp, which is included here alone.
 *
 * argp is driven by an array made from the table. It runs silently (ARGP_NO_ERRS), since its own messages suggest
 * nothing; what it stopped at is the word after the last one that it accepted. Abbreviated names, which argp would take,
 * are refused: they would change their meaning when a flag is added.
 */
#include "base/option_internal.h"

#include "base/log.h"

#include <argp.h>
#include <errno.h>
#include <string.h>

enum {
    KEY_HELP = 'h',
    KEY_FIRST =
        1000, /* key of the table's first row; above all characters, so that no row has a short name */
};

typedef struct parse {
    proa_options *options;
    proa_error *err;
    int next; /* the word that argp reads now */
    proa_status status;
} parse;

static proa_status take_option(parse *p, int index, const char *word, const char *text)
{
    const proa_option *option = &p->options->program->options[index];
    char name[PROA_OPTION_WORD_MAX + 8];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(word, "="), word);
    if (proa_option_find(p->options->program, p->options->command, name + 2) != index)
        return proa_option_unknown(p->options->program, p->options->command, name + 2, p->err);
    bool repeated = p->options->values[index].given;
    proa_status status = proa_option_set(p->options, index, name, text != NULL ? text : "1", p->err);
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
        if (!proa_option_knows(program, command, option))
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
        for (char word[PROA_OPTION_WORD_MAX]; proa_option_list_next(&aliases, ' ', word);) {
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
    char name[PROA_OPTION_WORD_MAX];
    if (strncmp(word, "--", 2) != 0)
        return proa_error_set(p->err, PROA_ERR_INVALID, "unknown flag %s: flags begin with two dashes", word);
    snprintf(name, sizeof name, "%.*s", (int)strcspn(word + 2, "="), word + 2);
    int index = proa_option_find(program, p->options->command, name);
    if (index < 0 && strcmp(name, "help") != 0)
        return proa_option_unknown(program, p->options->command, name, p->err);
    if (index < 0 || program->options[index].type == PROA_OPTION_FLAG)
        return proa_error_set(p->err, PROA_ERR_INVALID, "--%s takes no value: leave out \"%s\"", name,
                              word + strcspn(word, "="));
    return proa_error_set(p->err, PROA_ERR_INVALID, "--%s needs a value: --%s %s", name, name,
                          proa_option_metavar(&program->options[index]));
}

proa_status proa_option_read_words(proa_options *options, int argc, char **argv, proa_error *err)
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
