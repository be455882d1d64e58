/* option_doc.c - the option table as text: the list of commands, the manual page (roff), docs/flags.md. */
#include "base/option.h"

#include <string.h>

void proa_program_help(const proa_program *program, FILE *out)
{
    fprintf(out, "%s\n\nUsage: %s COMMAND [OPTION...]\n\n", program->summary, program->name);
    for (int i = 0; i < program->command_count; i++)
        fprintf(out, "  %-12s %s\n", program->commands[i].name, program->commands[i].summary);
    fprintf(out, "\n`%s COMMAND --help` lists a command's options.\n", program->name);
}

/* Internal ones are known, and not documented. */
static bool known_to(const proa_option *option, const proa_command *command)
{
    return !option->internal && proa_option_list_has(option->commands, ' ', command->name);
}

/* "all options of `proa worker` and `proa serve`", or nothing. */
static void append_borrowed(const proa_program *program, const proa_command *command, const char *quote,
                            proa_buf *out)
{
    const char *rest = command->borrows, *before = " Knows all options of ";
    for (char name[PROA_OPTION_WORD_MAX]; proa_option_list_next(&rest, ' ', name); before = " and ")
        proa_buf_append_format(out, "%s%s%s %s%s", before, quote, program->name, name, quote);
    if (command->borrows != NULL)
        proa_buf_append_text(out, " too.");
}

/* "--model-path DIR, --model DIR" */
static void append_names(const proa_option *option, proa_buf *out)
{
    const char *metavar = proa_option_metavar(option), *aliases = option->aliases;
    const char *space = metavar != NULL ? " " : "";
    metavar = metavar != NULL ? metavar : "";
    proa_buf_append_format(out, "--%s%s%s", option->name, space, metavar);
    for (char alias[PROA_OPTION_WORD_MAX]; proa_option_list_next(&aliases, ' ', alias);)
        proa_buf_append_format(out, ", --%s%s%s", alias, space, metavar);
}

/* --- manual page --- */

/* Text into roff: backslashes, dashes that must stay ASCII, and the control characters at a line's begin. */
static void append_roff(const char *text, proa_buf *out)
{
    if (*text == '.' || *text == '\'')
        proa_buf_append_text(out, "\\&");
    for (; *text != '\0'; text++) {
        if (*text == '\\')
            proa_buf_append_text(out, "\\e");
        else if (*text == '-')
            proa_buf_append_text(out, "\\-");
        else
            proa_buf_append_char(out, *text);
    }
}

static void append_facts(const proa_option *option, proa_buf *out)
{
    if (option->unit != NULL)
        proa_buf_append_format(out, " Unit: %s.", option->unit);
    if (option->type != PROA_OPTION_CHOICE && (option->low != 0 || option->high != 0)) {
        proa_buf_append_text(out, " Range: ");
        proa_option_range(option, out);
        proa_buf_append_char(out, '.');
    }
    if (option->fallback != NULL)
        proa_buf_append_format(out, " Default: %s.", option->fallback);
}

static void append_manual_option(const proa_option *option, proa_buf *out)
{
    proa_buf text = {0};
    proa_buf_append_text(out, ".TP\n.B ");
    append_names(option, &text);
    append_roff(proa_buf_text(&text), out);
    proa_buf_clear(&text);
    proa_buf_append_format(&text, "%s.", option->help);
    append_facts(option, &text);
    proa_buf_append_text(&text, " Environment: ");
    proa_option_environment(option, &text);
    proa_buf_append_char(out, '\n');
    append_roff(proa_buf_text(&text), out);
    proa_buf_append_text(out, ".\n");
    proa_buf_free(&text);
}

void proa_program_manual(const proa_program *program, proa_buf *out)
{
    proa_buf_append_format(out, ".TH PROA 1 \"\" \"%s %s\" \"User Commands\"\n", program->name,
                           program->version);
    proa_buf_append_format(out, ".SH NAME\n%s \\- ", program->name);
    append_roff(program->summary, out);
    proa_buf_append_format(out, "\n.SH SYNOPSIS\n.B %s\nCOMMAND [OPTION...]\n", program->name);
    proa_buf_append_text(
        out, ".SH DESCRIPTION\nA value comes from the command line, else from the environment, else from the "
             "default. An empty variable counts as unset. Flags are written \\-\\-flag=value or \\-\\-flag "
             "value.\n"
             ".SH COMMANDS\n");
    for (int i = 0; i < program->command_count; i++) {
        const proa_command *command = &program->commands[i];
        proa_buf_append_format(out, ".SS %s %s", program->name, command->name);
        if (command->arguments != NULL)
            proa_buf_append_format(out, " %s", command->arguments);
        proa_buf_append_char(out, '\n');
        append_roff(command->summary, out);
        proa_buf_append_char(out, '.');
        append_borrowed(program, command, "", out);
        proa_buf_append_char(out, '\n');
        for (int j = 0; j < program->option_count; j++) {
            if (known_to(&program->options[j], command))
                append_manual_option(&program->options[j], out);
        }
    }
    proa_buf_append_text(out, ".SH EXIT STATUS\n0 when all went well, 1 when the work failed, 2 when the "
                              "command line was wrong.\n");
}

/* --- docs/flags.md --- */

/* A table's cell: a bar would end it. */
static void append_cell(const char *text, proa_buf *out)
{
    for (; *text != '\0'; text++) {
        if (*text == '|')
            proa_buf_append_char(out, '\\');
        proa_buf_append_char(out, *text);
    }
}

static void append_markdown_option(const proa_option *option, proa_buf *out)
{
    proa_buf cell = {0};
    append_names(option, &cell);
    proa_buf_append_text(out, "| `");
    append_cell(proa_buf_text(&cell), out);
    proa_buf_append_text(out, "` | ");
    append_cell(option->fallback != NULL ? option->fallback : "", out);
    proa_buf_append_text(out, " | ");
    proa_buf_clear(&cell);
    if (option->type != PROA_OPTION_CHOICE)
        proa_option_range(option, &cell);
    if (option->unit != NULL)
        proa_buf_append_format(&cell, "%s%s", cell.length > 0 ? ", " : "", option->unit);
    append_cell(proa_buf_text(&cell), out);
    proa_buf_append_text(out, " | `");
    proa_option_environment(option, out);
    proa_buf_append_text(out, "` | ");
    append_cell(option->help, out);
    if (option->ignored != NULL) {
        proa_buf_append_text(out, "; accepted, has nothing to do: ");
        append_cell(option->ignored, out);
    }
    proa_buf_append_text(out, " |\n");
    proa_buf_free(&cell);
}

void proa_program_markdown(const proa_program *program, proa_buf *out)
{
    proa_buf_append_text(
        out, "# Flags\n\n"
             "Made from the option table (src/cmd/options.c) by `make docs`; `make check` compares.\n\n"
             "A value comes from the command line, else from the environment, else from the default. "
             "An empty variable counts as unset.\nFlags are written `--flag=value` or `--flag value`.\n");
    for (int i = 0; i < program->command_count; i++) {
        const proa_command *command = &program->commands[i];
        const char *group = NULL;
        proa_buf_append_format(out, "\n## %s %s%s%s\n\n%s.", program->name, command->name,
                               command->arguments != NULL ? " " : "",
                               command->arguments != NULL ? command->arguments : "", command->summary);
        append_borrowed(program, command, "`", out);
        proa_buf_append_char(out, '\n');
        for (int j = 0; j < program->option_count; j++) {
            const proa_option *option = &program->options[j];
            if (!known_to(option, command))
                continue;
            if (group == NULL || strcmp(group, option->group) != 0)
                proa_buf_append_format(
                    out, "\n| %s | default | range, unit | environment | what |\n|---|---|---|---|---|\n",
                    option->group);
            group = option->group;
            append_markdown_option(option, out);
        }
    }
}
