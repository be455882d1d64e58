/* help.c - `proa help` and `proa version`: what the option table says, for a terminal or as a document. */
#include "cmd/cmd.h"

#include <stdio.h>
#include <string.h>

/* Writing is all that these commands do, so a full disk or closed pipe is their failure. */
static int finish(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return PROA_EXIT_OK;
    perror("proa: cannot write to standard output");
    return PROA_EXIT_FAILED;
}

static int print_document(const proa_program *program, void (*write)(const proa_program *, proa_buf *))
{
    proa_buf document = {0};
    write(program, &document);
    bool complete = !document.failed;
    if (complete)
        fputs(proa_buf_text(&document), stdout);
    proa_buf_free(&document);
    if (!complete)
        fputs("proa: no memory for the document\n", stderr);
    return complete ? finish() : PROA_EXIT_FAILED;
}

int proa_cmd_help(const proa_options *options)
{
    const proa_program *program = proa_options_program(options);
    const char *format = proa_options_string(options, "format"), *name = proa_options_argument(options, 0);
    if (strcmp(format, "man") == 0)
        return print_document(program, proa_program_manual);
    if (strcmp(format, "markdown") == 0)
        return print_document(program, proa_program_markdown);
    if (name == NULL) {
        proa_program_help(program, stdout);
        return finish();
    }
    proa_error err;
    const proa_command *command = proa_program_find(program, name, &err);
    if (command == NULL) {
        proa_cmd_fail(&err);
        return PROA_EXIT_USAGE;
    }
    proa_command_help(program, command, stdout);
    return finish();
}

int proa_cmd_version(const proa_options *options)
{
    const proa_program *program = proa_options_program(options);
    printf("%s %s\n", program->name, program->version);
    return finish();
}
