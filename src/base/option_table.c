/* option_table.c - the rows of the option table: their words, which command knows which, and the name nearest to one that nobody knows. */
#include "base/option_internal.h"

#include "base/minmax.h"

#include <math.h>
#include <string.h>

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

bool proa_option_knows(const proa_program *program, const proa_command *command, const proa_option *option)
{
    const char *rest = command->borrows;
    const proa_option *row = proa_option_list_has(option->commands, ' ', command->name)
                                 ? option
                                 : row_of(program, command->name, option->name);
    for (char owner[PROA_OPTION_WORD_MAX]; row == NULL && proa_option_list_next(&rest, ' ', owner);)
        row = row_of(program, owner, option->name);
    return row == option;
}

int proa_option_find(const proa_program *program, const proa_command *command, const char *name)
{
    for (int i = 0; i < program->option_count; i++) {
        const proa_option *option = &program->options[i];
        if ((strcmp(option->name, name) == 0 || proa_option_list_has(option->aliases, ' ', name)) &&
            (command == NULL || proa_option_knows(program, command, option)))
            return i;
    }
    return -1;
}

/* --- the nearest name --- */

typedef struct nearest {
    const char *wanted;
    int distance;
    char name[PROA_OPTION_WORD_MAX];
} nearest;

/* Insertions, deletions, replacements and swaps of neighbours that turn a into b (optimal string alignment).
 * Names beyond PROA_OPTION_WORD_MAX are compared by their beginning. */
static int edit_distance(const char *a, const char *b)
{
    int rows[3][PROA_OPTION_WORD_MAX + 1]; /* the last three rows of the table, by i modulo 3 */
    int m = (int)strnlen(a, PROA_OPTION_WORD_MAX), n = (int)strnlen(b, PROA_OPTION_WORD_MAX);
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
    int length = (int)strnlen(wanted, PROA_OPTION_WORD_MAX);
    return (nearest){.wanted = wanted, .distance = proa_min_i32(length, length / 3 + 2)};
}

proa_status proa_option_unknown(const proa_program *program, const proa_command *command, const char *name,
                                proa_error *err)
{
    nearest best = nearest_begin(name);
    for (int i = 0; i < program->option_count; i++) {
        const proa_option *option = &program->options[i];
        if (!proa_option_knows(program, command, option) || option->internal)
            continue;
        consider(&best, option->name);
        const char *aliases = option->aliases;
        for (char alias[PROA_OPTION_WORD_MAX]; proa_option_list_next(&aliases, ' ', alias);)
            consider(&best, alias);
    }
    int elsewhere = proa_option_find(program, NULL, name);
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
