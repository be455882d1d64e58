/* option.c - the values of one command line: how they come about, and what they are.
 *
 * Deliberately lacks short options (but -h) and negated flags (--no-...).
 */
#include "base/option_internal.h"

#include <stdlib.h>
#include <string.h>

proa_status proa_options_parse(const proa_program *program, const proa_command *command, int argc,
                               char **argv, proa_options **out, proa_error *err)
{
    *out = NULL;
    proa_status status = PROA_ERR_MEMORY;
    proa_options *options = calloc(1, sizeof *options);
    if (options == NULL)
        return proa_error_set(err, status, "no memory for the command line");
    options->program = program;
    options->command = command;
    options->words = argv;
    options->word_count = argc;
    options->arena = proa_arena_create(0);
    if (options->arena != NULL) {
        options->values =
            proa_arena_array(options->arena, (size_t)program->option_count, sizeof *options->values);
        options->arguments = proa_arena_array(options->arena, (size_t)argc, sizeof *options->arguments);
    }
    if (options->values == NULL || options->arguments == NULL) {
        proa_error_set(err, status, "no memory for the command line");
        goto undo;
    }
    status = proa_option_read_words(options, argc, argv, err);
    if (status == PROA_OK)
        status = proa_option_set_environment(options, err);
    if (status != PROA_OK)
        goto undo;
    proa_option_set_defaults(options);
    *out = options;
    return PROA_OK;
undo:
    proa_options_free(options);
    return status;
}

void proa_options_free(proa_options *options)
{
    if (options == NULL)
        return;
    proa_arena_free(options->arena);
    free(options);
}

/* --- getters --- */

static const proa_option_value *get(const proa_options *options, const char *name, unsigned types)
{
    int index = proa_option_find(options->program, options->command, name);
    PROA_ASSERT(index >= 0);
    PROA_ASSERT(types & 1u << options->program->options[index].type);
    return &options->values[index];
}

bool proa_options_bool(const proa_options *options, const char *name)
{
    return get(options, name, 1u << PROA_OPTION_FLAG)->integer != 0;
}

const char *proa_options_string(const proa_options *options, const char *name)
{
    return get(options, name, 1u << PROA_OPTION_STRING | 1u << PROA_OPTION_CHOICE)->text;
}

int64_t proa_options_int(const proa_options *options, const char *name)
{
    return get(options, name, 1u << PROA_OPTION_INT | 1u << PROA_OPTION_BYTES)->integer;
}

double proa_options_real(const proa_options *options, const char *name)
{
    return get(options, name, 1u << PROA_OPTION_REAL)->real;
}

const char *proa_options_repeated(const proa_options *options, const char *name, int index)
{
    const proa_option_value *last = get(options, name, 1u << PROA_OPTION_STRING), *v = last;
    int count = 0;
    for (const proa_option_value *i = last; i != NULL && i->text != NULL; i = i->earlier)
        count++;
    if (index < 0 || index >= count)
        return NULL;
    for (int i = count - 1; i > index; i--)
        v = v->earlier;
    return v->text;
}

bool proa_options_given(const proa_options *options, const char *name)
{
    return get(options, name, ~0u)->given;
}

bool proa_options_by_parent(const proa_options *options)
{
    for (int i = 0; i < options->program->option_count; i++)
        if (options->program->options[i].internal && options->values[i].given)
            return true;
    return false;
}

const char *proa_options_argument(const proa_options *options, int index)
{
    return index >= 0 && index < options->argument_count ? options->arguments[index] : NULL;
}

char *const *proa_options_words(const proa_options *options, int *count)
{
    *count = options->word_count;
    return options->words;
}

const proa_program *proa_options_program(const proa_options *options)
{
    return options->program;
}
