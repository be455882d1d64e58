/* main.c - picks the subcommand and parses its options. Each subcommand is a file of its own beside this one. */
#include "cmd/cmd.h"

#include <stdio.h>
#include <string.h>

int proa_cmd_fail(const proa_error *err)
{
    fprintf(stderr, "proa: %s\n", err->text);
    return PROA_EXIT_FAILED;
}

static int usage_error(const proa_error *err)
{
    fprintf(stderr, "proa: %s\n", err->text);
    return PROA_EXIT_USAGE;
}

int main(int argc, char **argv)
{
    const proa_program *program = &proa_cmd_program;
    const char *name = argc > 1 ? argv[1] : "";
    proa_error err = {0};
    if (strcmp(name, "--version") == 0)
        name = "version";
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
        name = "help";
    if (*name == '\0') {
        proa_program_help(program, stderr);
        return PROA_EXIT_USAGE;
    }
    const proa_command *command = proa_program_find(program, name, &err);
    if (command == NULL)
        return usage_error(&err);
    proa_options *options;
    proa_status status = proa_options_parse(program, command, argc - 1, argv + 1, &options, &err);
    if (status == PROA_END) {
        proa_command_help(program, command, stdout);
        return PROA_EXIT_OK;
    }
    if (proa_failed(status))
        return usage_error(&err);
    int exit_status = command->run(options);
    proa_options_free(options);
    return exit_status;
}
