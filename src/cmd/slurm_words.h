/* slurm_words.h - words of command lines: kept in an arena, split as a shell does; and lists of flags in which a
 * later one takes the place of an earlier one. Pure.
 */
#ifndef PROA_CMD_SLURM_WORDS_H
#define PROA_CMD_SLURM_WORDS_H

#include "base/arena.h"
#include "base/buf.h"
#include "base/option.h"

/* When memory is out, `failed` stays set: whoever made the list looks once, at the end. */
typedef struct proa_words {
    proa_arena *arena; /* borrowed */
    const char **list; /* [count], and a NULL behind the last one */
    int count;
    int capacity;
    bool failed;
} proa_words;

void proa_words_add(proa_words *words, const char *text); /* copies */
void proa_words_add_format(proa_words *words, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Appends the words of `text`: blanks part them; '...' and "..." keep blanks, and so does a backslash, which inside of "..." stands before
 * " and \ alone. Nothing is expanded. A quote without its end is PROA_ERR_INVALID; `where` names the text. */
proa_status proa_words_split(proa_words *words, const char *text, const char *where, proa_error *err);

/* --- flags of one command of this program --- */

typedef struct proa_flag {
    const char *name;  /* the table's, without dashes */
    const char *value; /* NULL: stands alone */
} proa_flag;

enum { PROA_FLAGS_MAX = 200 };

typedef struct proa_flags {
    proa_arena *arena;           /* borrowed */
    const proa_program *program; /* with its table of options */
    const char *command;         /* that knows the flags: "worker" */
    int count;
    proa_flag list[PROA_FLAGS_MAX];
} proa_flags;

/* Puts the flag in the place of the one of that name, or at the end. value NULL: it stands alone. Copies. */
proa_status proa_flags_set(proa_flags *flags, const char *name, const char *value, proa_error *err);
void proa_flags_remove(proa_flags *flags, const char *name);
const char *proa_flags_value(const proa_flags *flags, const char *name); /* NULL: absent, or stands alone */

/* Puts in what a user has written: --name value, --name=value, --name; --no-name takes a flag out. Errors name `where` and the word. */
proa_status proa_flags_apply(proa_flags *flags, const proa_words *words, const char *where, proa_error *err);

/* Parses them as the command will: errors are those that it would print. `options` is freed by the caller, and `flags` outlives them. */
proa_status proa_flags_check(const proa_flags *flags, proa_options **options, proa_error *err);

/* Appends "--name" and "value". */
void proa_flags_words(const proa_flags *flags, proa_words *words);

#endif
