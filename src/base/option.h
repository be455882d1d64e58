/* option.h - the option table: one row a flag, from which the parser, --help, the manual page and docs/flags.md come.
 *
 * A program is a list of commands and a table of options; an option says which commands know it. A value comes from the
 * command line, else from the environment (PROA_ and the name in capitals, "--model-path": PROA_MODEL_PATH; an empty
 * variable counts as unset), else from the default. The environment is read here (option_value.c) and nowhere else. Only
 * option_argp.c includes argp.
 *
 * Tables are constant data. The values of one command line, proa_options, are immutable after parsing: any thread may
 * read them.
 */
#ifndef PROA_BASE_OPTION_H
#define PROA_BASE_OPTION_H

#include "base/buf.h"
#include "base/status.h"

#include <stdint.h>
#include <stdio.h>

typedef enum proa_option_type {
    PROA_OPTION_FLAG,   /* present or not; in the environment 1, true, yes, on or 0, false, no, off */
    PROA_OPTION_STRING, /* any text */
    PROA_OPTION_INT,    /* a whole number */
    PROA_OPTION_REAL,   /* a finite number */
    PROA_OPTION_CHOICE, /* one word of `choices` */
    PROA_OPTION_BYTES, /* a whole number, then nothing or one of K M G T (KiB, MiB, ... are the same): times 1024^n */
} proa_option_type;

typedef struct proa_option {
    const char *name;     /* without dashes: "model-path" */
    const char *aliases;  /* more names, separated by spaces; or NULL */
    const char *commands; /* that know it, separated by spaces: "serve logits" */
    const char *group;    /* headline above it: "Model"; neighbours in the table share it */
    proa_option_type type;
    const char *metavar; /* what stands for the value in help: "DIR"; not for flags and choices */
    const char
        *fallback; /* the default, as a user would write it; NULL: none, the getters give NULL, 0 or false */
    const char *choices; /* CHOICE: "cpu|ref" */
    double low,
        high; /* INT, REAL, BYTES: the range, both ends included; both 0: any. high INFINITY: no upper end */
    const char *unit; /* "seconds"; or NULL */
    const char *
        environment; /* the variable when it is not PROA_...; or NULL. Several, separated by spaces: the first that is set. What
                              * stands behind a slash is put behind the value: "HOME/.cache" */
    const char *ignored; /* not NULL: has nothing to do here, is accepted, and this sentence says so once */
    bool repeats;        /* STRING: may be given several times, and all count; otherwise the last one does */
    bool
        internal; /* what the program tells a process that it starts: in no document, and not in the environment */
    const char *help; /* one paragraph without the default, range and unit, which are added */
} proa_option;

typedef struct proa_options proa_options;

typedef struct proa_command {
    const char *name;
    const char *arguments; /* what may follow the options, for help: "[COMMAND]"; NULL: nothing */
    int argument_count_max;
    const char *summary;                     /* one sentence */
    int (*run)(const proa_options *options); /* returns the exit status */
    const char *
        borrows; /* commands, separated by spaces, whose options it knows too, the first ones' before the others'; its own go before
                          * all; or NULL. Documents name these commands, and do not repeat the options */
} proa_command;

typedef struct proa_program {
    const char *name;
    const char *version;
    const char *summary; /* one sentence */
    const proa_command *commands;
    int command_count;
    const proa_option *options;
    int option_count;
} proa_program;

/* --- parsing --- */

/* NULL with a filled error, which suggests the nearest name. */
const proa_command *proa_program_find(const proa_program *program, const char *name, proa_error *err);

/* argv[0] is the command's name; the array and its words outlive the options. Errors name flag, value and range, or the nearest flag. PROA_END: --help was asked for,
 * and *options is NULL. */
proa_status proa_options_parse(const proa_program *program, const proa_command *command, int argc,
                               char **argv, proa_options **options, proa_error *err);
void proa_options_free(proa_options *options); /* accepts NULL */

/* --- values: `name` must be in the table, known to the command, and of that type (asserted) --- */
bool proa_options_bool(const proa_options *options, const char *name);
const char *proa_options_string(const proa_options *options, const char *name); /* CHOICE too */
int64_t proa_options_int(const proa_options *options, const char *name);        /* BYTES too */
double proa_options_real(const proa_options *options, const char *name);

/* Of an option that repeats, the index-th value, in the order of the command line; NULL past the end. */
const char *proa_options_repeated(const proa_options *options, const char *name, int index);

/* Whether the command line or the environment gave it. */
bool proa_options_given(const proa_options *options, const char *name);
/* Whether an internal option was given: then this process has its flags from a parent, which has said what is to be said of them. */
bool proa_options_by_parent(const proa_options *options);

/* What followed the options; NULL past the end. */
const char *proa_options_argument(const proa_options *options, int index);

/* The words that were parsed, the command's name first, and a NULL after the last one; *count is without that. */
char *const *proa_options_words(const proa_options *options, int *count);

const proa_program *proa_options_program(const proa_options *options);

/* --- documents --- */

/* The text of `proa COMMAND --help`. */
void proa_command_help(const proa_program *program, const proa_command *command, FILE *out);

/* The list of commands. */
void proa_program_help(const proa_program *program, FILE *out);

/* The manual page in roff, and docs/flags.md. */
void proa_program_manual(const proa_program *program, proa_buf *out);
void proa_program_markdown(const proa_program *program, proa_buf *out);

/* --- words of the table, for documents --- */

enum { PROA_OPTION_WORD_MAX = 64 }; /* bytes of a name or choice, with the zero byte; longer ones are cut */

/* Copies the first word of *list and moves *list behind it; false at the end, or when *list is NULL. */
bool proa_option_list_next(const char **list, char separator, char word[PROA_OPTION_WORD_MAX]);

/* Whether `word` stands in `list`. */
bool proa_option_list_has(const char *list, char separator, const char *word);

/* Appends "PROA_MODEL_PATH". */
void proa_option_environment(const proa_option *option, proa_buf *out);

/* Appends the allowed values as words: "from 1 to 65535", "cpu or ref"; nothing when any will do. */
void proa_option_range(const proa_option *option, proa_buf *out);

/* What stands for the value: "DIR", "cpu|ref", "N"; NULL for a flag. */
const char *proa_option_metavar(const proa_option *option);

#endif
