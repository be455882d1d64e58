/* slurm_render.c - from a plan to the script: what the job template sees, and what is kept beside the script.
 *
 * Variables of the template: those of Dynamo's submit_job_script.py under their names, and ours. Every text is there twice: as it is, and
 * in `shell` as one word of a shell. prefill_args, decode_args and frontend_args are lists of flags with their values, as a shell reads them.
 */
#include "cmd/slurm.h"

#include "base/file.h"
#include "base/shell.h"
#include "text/template.h"

#include <stdlib.h>
#include <string.h>

enum { TEMPLATE_BYTES_MAX = 1 << 20 };

/* The tree that is built, and whether everything fitted. */
typedef struct tree {
    proa_json *root;
    proa_json *shell; /* borrowed: root's */
    bool failed;
} tree;

static void set(tree *t, const char *name, proa_json *value)
{
    t->failed |= !proa_json_set(t->root, name, value);
}

static void set_text(tree *t, const char *name, const char *text)
{
    proa_buf quoted = {0};
    text = text != NULL ? text : "";
    proa_shell_quote(&quoted, text);
    set(t, name, proa_json_new_text(text));
    t->failed |= quoted.failed ||
                 !proa_json_set(t->shell, name, proa_json_new_string(proa_buf_text(&quoted), quoted.length));
    proa_buf_free(&quoted);
}

static proa_json *words_json(const proa_words *words, bool quoted, bool *failed)
{
    proa_json *array = proa_json_new_array();
    proa_buf text = {0};
    *failed |= array == NULL || words->failed;
    for (int i = 0; i < words->count && !*failed; i++) {
        proa_buf_clear(&text);
        if (quoted)
            proa_shell_quote(&text, words->list[i]);
        else
            proa_buf_append_text(&text, words->list[i]);
        *failed |= !proa_json_append(array, proa_json_new_string(proa_buf_text(&text), text.length));
    }
    proa_buf_free(&text);
    return array;
}

/* "--name" or "--name value", as a shell reads it. */
static proa_json *flags_json(const proa_flags *flags, bool *failed)
{
    proa_json *array = proa_json_new_array();
    proa_buf line = {0};
    *failed |= array == NULL;
    for (int i = 0; i < flags->count && !*failed; i++) {
        proa_buf_clear(&line);
        proa_buf_append_format(&line, "--%s", flags->list[i].name);
        if (flags->list[i].value != NULL) {
            proa_buf_append_char(&line, ' ');
            proa_shell_quote(&line, flags->list[i].value);
        }
        *failed |= line.failed || !proa_json_append(array, proa_json_new_string(line.data, line.length));
    }
    proa_buf_free(&line);
    return array;
}

static void set_texts(tree *t, const proa_slurm_plan *plan)
{
    static const char *const same[] = {"job-name",          "account",      "time-limit", "container-image",
                                       "network-interface", "gpu-type",     "partition",  "served-model-name",
                                       "discovery-backend", "request-plane"};
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        char name[64] = "";
        for (size_t k = 0; same[i][k] != '\0'; k++)
            name[k] = same[i][k] == '-' ? '_' : same[i][k];
        set_text(t, name, proa_options_string(plan->options, same[i]));
    }
    set_text(t, "model_dir", plan->model_dir);
    set_text(t, "config_dir", plan->config_dir);
    set_text(t, "program", plan->program);
    set_text(t, "timestamp", plan->timestamp);
    set_text(t, "profiler_type", plan->profiler);
    set_text(t, "version", proa_options_program(plan->options)->version);
}

static void set_int(tree *t, const char *name, int64_t value)
{
    set(t, name, proa_json_new_int(value));
}

static void set_side(tree *t, const proa_slurm_side *side, const char *nodes, const char *workers,
                     const char *instances, const char *arguments)
{
    set_int(t, nodes, side->nodes);
    set_int(t, workers, side->workers);
    set_int(t, instances, side->instances);
    set(t, arguments, flags_json(&side->flags, &t->failed));
}

static void set_counts(tree *t, const proa_slurm_plan *plan)
{
    const proa_options *o = plan->options;
    set_side(t, &plan->prefill, "prefill_nodes", "prefill_workers", "prefill_instances", "prefill_args");
    set_side(t, &plan->decode, "decode_nodes", "decode_workers", "decode_instances", "decode_args");
    set_int(t, "total_nodes", plan->prefill.nodes + plan->decode.nodes);
    set_int(t, "gpus_per_node", plan->gpus_per_node);
    set_int(t, "num_additional_frontends", plan->frontends - 1);
    set_int(t, "http_port", PROA_SLURM_HTTP_PORT);
    set_int(t, "health_timeout", proa_options_int(o, "health-timeout"));
    set_int(t, "profile_isl", plan->profile_isl);
    set_int(t, "profile_osl", plan->profile_osl);
    set(t, "profile_concurrencies", words_json(&plan->profile_concurrencies, true, &t->failed));
    set(t, "frontend_args", flags_json(&plan->frontend, &t->failed));
    set(t, "container", proa_json_new_bool(plan->container));
    set(t, "enable_multiple_frontends", proa_json_new_bool(plan->load_balancer));
    set(t, "use_init_location", proa_json_new_bool(proa_options_bool(o, "use-init-location")));
    set(t, "use_sglang_commands", proa_json_new_bool(proa_options_bool(o, "use-sglang-commands")));
    set(t, "enable_config_dump", proa_json_new_bool(!proa_options_bool(o, "disable-config-dump")));
    set(t, "do_profile", proa_json_new_bool(strcmp(plan->profiler, "manual") != 0));
}

static tree make_tree(const proa_slurm_plan *plan)
{
    tree t = {.root = proa_json_new_object()};
    t.failed = t.root == NULL || !proa_json_set(t.root, "shell", proa_json_new_object());
    if (t.failed)
        return t;
    t.shell = proa_json_get(t.root, "shell");
    set_texts(&t, plan);
    set_counts(&t, plan);
    return t;
}

/* The built-in template, or the user's. */
static proa_status read_template(const proa_slurm_plan *plan, proa_buf *source, proa_error *err)
{
    const char *path = proa_options_string(plan->options, "template");
    if (path != NULL)
        return proa_file_read(path, TEMPLATE_BYTES_MAX, source, err);
    proa_buf_append_text(source, proa_slurm_job_template);
    return source->failed ? proa_error_set(err, PROA_ERR_MEMORY, "no memory for the job template") : PROA_OK;
}

proa_status proa_slurm_render(const proa_slurm_plan *plan, proa_buf *script, proa_error *err)
{
    const char *path = proa_options_string(plan->options, "template");
    proa_buf source = {0};
    proa_template *parsed = NULL;
    proa_template_output output = {0};
    tree t = make_tree(plan);
    proa_status status = t.failed ? proa_error_set(err, PROA_ERR_MEMORY, "no memory for the job's variables")
                                  : read_template(plan, &source, err);
    if (status != PROA_OK)
        goto done;
    status = proa_template_parse(source.data, source.length, &parsed, err);
    if (status == PROA_OK)
        status = proa_template_render(parsed, t.root, NULL, NULL, &output, err);
    if (status != PROA_OK)
        proa_error_prefix(err, "%s", path != NULL ? path : "the built-in job template");
    else
        proa_buf_append(script, output.text.data, output.text.length);
    if (status == PROA_OK && (script->length == 0 || script->data[script->length - 1] != '\n'))
        proa_buf_append_char(script, '\n');
    if (status == PROA_OK && script->failed)
        status = proa_error_set(err, PROA_ERR_MEMORY, "no memory for the script");
done:
    proa_template_output_free(&output);
    proa_template_free(parsed);
    proa_buf_free(&source);
    proa_json_free(t.root);
    return status;
}

proa_json *proa_slurm_metadata(const proa_slurm_plan *plan)
{
    int count;
    char *const *given = proa_options_words(plan->options, &count);
    proa_words command = {.arena = plan->arena};
    proa_words_add(&command, "proa");
    for (int i = 0; i < count; i++)
        proa_words_add(&command, given[i]);
    tree t = make_tree(plan);
    if (t.failed || !proa_json_set(t.root, "shell", proa_json_new_null()))
        goto failed;
    set(&t, "work_dir", proa_json_new_text(plan->work_dir));
    set(&t, "command", words_json(&command, false, &t.failed));
    if (!t.failed)
        return t.root;
failed:
    proa_json_free(t.root);
    return NULL;
}
