/* option_internal.h - what the files of the option table share: option.c (values of a command line), option_table.c (rows and their names),
 * option_value.c (text to values, the environment), option_argp.c (the command line and --help), option_doc.c (documents).
 */
#ifndef PROA_BASE_OPTION_INTERNAL_H
#define PROA_BASE_OPTION_INTERNAL_H

#include "base/arena.h"
#include "base/option.h"

typedef struct proa_option_value {
    bool given;       /* by command line or environment */
    const char *text; /* as written; NULL: neither given nor default */
    int64_t integer;  /* INT, BYTES; FLAG: 0 or 1 */
    double real;
    const struct proa_option_value
        *earlier; /* of an option that repeats: the one given before this; NULL: none */
} proa_option_value;

struct proa_options {
    const proa_program *program;
    const proa_command *command;
    proa_arena *arena;
    proa_option_value *values; /* [program->option_count] */
    const char **arguments;
    int argument_count;
    char *const *words; /* the caller's */
    int word_count;
};

/* ---- option_table.c ---- */

/* Its own, or that of the first command it borrows from which has one of this name. */
bool proa_option_knows(const proa_program *program, const proa_command *command, const proa_option *option);
/* The row with this name or alias, or -1; command NULL: of any command. */
int proa_option_find(const proa_program *program, const proa_command *command, const char *name);
/* PROA_ERR_INVALID, with what may have been meant. */
proa_status proa_option_unknown(const proa_program *program, const proa_command *command, const char *name,
                                proa_error *err);

/* ---- option_value.c ---- */

/* `where` is the flag or the variable as the user wrote it. */
proa_status proa_option_set(proa_options *options, int index, const char *where, const char *text,
                            proa_error *err);
/* Of those that are not given yet. */
proa_status proa_option_set_environment(proa_options *options, proa_error *err);
void proa_option_set_defaults(proa_options *options);

/* ---- option_argp.c ---- */

/* Sets options and takes arguments. PROA_END: --help was asked for. */
proa_status proa_option_read_words(proa_options *options, int argc, char **argv, proa_error *err);

#endif
