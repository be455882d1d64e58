/* option_value.c - values of options: from text, from the environment, from the defaults. The environment is read here and nowhere else. */
#include "base/option_internal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

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
static bool convert(const proa_option *option, proa_option_value *v)
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

proa_status proa_option_set(proa_options *options, int index, const char *where, const char *text,
                            proa_error *err)
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
    proa_option_value v = {.given = true, .text = proa_arena_string(options->arena, text, strlen(text))};
    bool keeps = option->repeats && options->values[index].given;
    proa_option_value *earlier = keeps ? proa_arena_alloc(options->arena, sizeof *earlier) : NULL;
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
    for (char word[PROA_OPTION_WORD_MAX]; found == NULL && proa_option_list_next(&rest, ' ', word);) {
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

proa_status proa_option_set_environment(proa_options *options, proa_error *err)
{
    proa_status status = PROA_OK;
    proa_buf where = {0}, text = {0};
    for (int i = 0; i < options->program->option_count && status == PROA_OK; i++) {
        const proa_option *option = &options->program->options[i];
        if (options->values[i].given || option->internal ||
            !proa_option_knows(options->program, options->command, option) ||
            !read_variable(option, &where, &text))
            continue;
        status = text.failed ? proa_error_set(err, PROA_ERR_MEMORY, "no memory for the environment")
                             : proa_option_set(options, i, proa_buf_text(&where), proa_buf_text(&text), err);
    }
    proa_buf_free(&where);
    proa_buf_free(&text);
    return status;
}

void proa_option_set_defaults(proa_options *options)
{
    for (int i = 0; i < options->program->option_count; i++) {
        proa_option_value *v = &options->values[i];
        const proa_option *option = &options->program->options[i];
        if (v->given || option->fallback == NULL)
            continue;
        v->text = option->fallback;
        bool fits = convert(option, v);
        PROA_ASSERT(fits);
    }
}
