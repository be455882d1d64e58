/* slurm_words.c - see slurm_words.h. */
#include "cmd/slurm_words.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---- words ---- */

static void add(proa_words *words, const char *text, size_t length)
{
    if (words->count + 1 >= words->capacity) {
        int capacity = words->capacity > 0 ? 2 * words->capacity : 32;
        const char **list = proa_arena_array(words->arena, (size_t)capacity, sizeof *list);
        if (list == NULL) {
            words->failed = true;
            return;
        }
        if (words->count > 0)
            memcpy(list, words->list, (size_t)words->count * sizeof *list);
        words->list = list;
        words->capacity = capacity;
    }
    const char *copy = proa_arena_string(words->arena, text, length);
    if (copy == NULL) {
        words->failed = true;
        return;
    }
    words->list[words->count++] = copy;
    words->list[words->count] = NULL;
}

void proa_words_add(proa_words *words, const char *text)
{
    add(words, text, strlen(text));
}

void proa_words_add_format(proa_words *words, const char *format, ...)
{
    char piece[4096 + 256]; /* a path and what is around it */
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(piece, sizeof piece, format, arguments);
    va_end(arguments);
    if (n < 0 || (size_t)n >= sizeof piece)
        words->failed = true;
    else
        add(words, piece, (size_t)n);
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* Appends what is inside of the quote that *c begins; returns where it ends, or NULL. */
static const char *take_quoted(const char *c, proa_buf *word)
{
    char quote = *c++;
    for (; *c != '\0' && *c != quote; c++) {
        if (quote == '"' && *c == '\\' && (c[1] == '"' || c[1] == '\\'))
            c++;
        proa_buf_append_char(word, *c);
    }
    return *c == quote ? c : NULL;
}

proa_status proa_words_split(proa_words *words, const char *text, const char *where, proa_error *err)
{
    proa_buf word = {0};
    bool inside = false;
    for (const char *c = text; *c != '\0'; c++) {
        if (is_blank(*c)) {
            if (inside)
                add(words, proa_buf_text(&word), word.length);
            inside = false;
            proa_buf_clear(&word);
            continue;
        }
        inside = true;
        if (*c == '\'' || *c == '"') {
            const char *begin = c;
            c = take_quoted(c, &word);
            if (c == NULL) {
                proa_buf_free(&word);
                return proa_error_set(err, PROA_ERR_INVALID, "%s: the quote at \"%.40s\" has no end", where,
                                      begin);
            }
        } else {
            if (*c == '\\' && c[1] != '\0')
                c++;
            proa_buf_append_char(&word, *c);
        }
    }
    if (inside)
        add(words, proa_buf_text(&word), word.length);
    words->failed |= word.failed;
    proa_buf_free(&word);
    return PROA_OK;
}

/* ---- flags ---- */

/* The row of the table; NULL: the command has no such flag. */
static const proa_option *find(const proa_flags *flags, const char *name)
{
    for (int i = 0; i < flags->program->option_count; i++) {
        const proa_option *o = &flags->program->options[i];
        if (proa_option_list_has(o->commands, ' ', flags->command) && !o->internal &&
            (strcmp(o->name, name) == 0 || proa_option_list_has(o->aliases, ' ', name)))
            return o;
    }
    return NULL;
}

static int place_of(const proa_flags *flags, const char *name)
{
    for (int i = 0; i < flags->count; i++) {
        if (strcmp(flags->list[i].name, name) == 0)
            return i;
    }
    return -1;
}

proa_status proa_flags_set(proa_flags *flags, const char *name, const char *value, proa_error *err)
{
    proa_flag flag = {.name = proa_arena_string(flags->arena, name, strlen(name))};
    if (value != NULL)
        flag.value = proa_arena_string(flags->arena, value, strlen(value));
    if (flag.name == NULL || (value != NULL && flag.value == NULL))
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the flags of a %s", flags->command);
    int place = place_of(flags, name);
    if (place < 0 && flags->count == PROA_FLAGS_MAX)
        return proa_error_set(err, PROA_ERR_TOO_LONG, "more than %d flags for a %s", PROA_FLAGS_MAX,
                              flags->command);
    flags->list[place >= 0 ? place : flags->count++] = flag;
    return PROA_OK;
}

void proa_flags_remove(proa_flags *flags, const char *name)
{
    int place = place_of(flags, name);
    if (place < 0)
        return;
    for (int i = place + 1; i < flags->count; i++)
        flags->list[i - 1] = flags->list[i];
    flags->count--;
}

const char *proa_flags_value(const proa_flags *flags, const char *name)
{
    int place = place_of(flags, name);
    return place >= 0 ? flags->list[place].value : NULL;
}

/* One flag of the words from *index on, which moves to its last word. A flag that the command does not know is kept: the check says
 * which one is near. */
static proa_status apply_one(proa_flags *flags, const proa_words *words, int *index, const char *where,
                             proa_error *err)
{
    const char *word = words->list[*index];
    char name[PROA_OPTION_WORD_MAX];
    size_t length = strcspn(word, "=");
    if (strncmp(word, "--", 2) != 0 || length < 3 || length - 2 >= sizeof name)
        return proa_error_set(err, PROA_ERR_INVALID, "%s: \"%.100s\" is no flag: write --name value", where,
                              word);
    snprintf(name, sizeof name, "%.*s", (int)length - 2, word + 2);
    const proa_option *option = find(flags, name);
    if (option == NULL && strncmp(name, "no-", 3) == 0 && word[length] == '\0' &&
        (option = find(flags, name + 3)) != NULL) {
        proa_flags_remove(flags, option->name);
        return PROA_OK;
    }
    const char *value = word[length] == '=' ? word + length + 1 : NULL;
    bool takes = option == NULL || option->type != PROA_OPTION_FLAG;
    if (value == NULL && takes && *index + 1 < words->count &&
        (option != NULL || words->list[*index + 1][0] != '-'))
        value = words->list[++*index];
    if (option != NULL && takes && value == NULL)
        return proa_error_set(err, PROA_ERR_INVALID, "%s: --%s needs a value", where, name);
    if (option != NULL && !takes && value != NULL)
        return proa_error_set(err, PROA_ERR_INVALID,
                              "%s: --%s takes no value; --no-%s takes it out of the preset", where, name,
                              name);
    return proa_flags_set(flags, option != NULL ? option->name : name, value, err);
}

proa_status proa_flags_apply(proa_flags *flags, const proa_words *words, const char *where, proa_error *err)
{
    proa_status status = PROA_OK;
    for (int i = 0; i < words->count && status == PROA_OK; i++)
        status = apply_one(flags, words, &i, where, err);
    return status;
}

void proa_flags_words(const proa_flags *flags, proa_words *words)
{
    for (int i = 0; i < flags->count; i++) {
        proa_words_add_format(words, "--%s", flags->list[i].name);
        if (flags->list[i].value != NULL)
            proa_words_add(words, flags->list[i].value);
    }
}

proa_status proa_flags_check(const proa_flags *flags, proa_options **options, proa_error *err)
{
    *options = NULL;
    proa_words words = {.arena = flags->arena};
    const proa_command *command = proa_program_find(flags->program, flags->command, err);
    PROA_ASSERT(command != NULL);
    proa_words_add(&words, flags->command);
    proa_buf word = {0};
    for (int i = 0; i < flags->count; i++) { /* "--name=value": a value may begin with a dash */
        const proa_flag *flag = &flags->list[i];
        proa_buf_clear(&word);
        proa_buf_append_format(&word, "--%s%s%s", flag->name, flag->value != NULL ? "=" : "",
                               flag->value != NULL ? flag->value : "");
        proa_words_add(&words, proa_buf_text(&word));
        words.failed |= word.failed;
    }
    proa_buf_free(&word);
    if (words.failed)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the flags of a %s", flags->command);
    return proa_options_parse(flags->program, command, words.count, (char **)words.list, options, err);
}
