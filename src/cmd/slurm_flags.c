/* slurm_flags.c - the flags of the workers and frontends of a job: what the job gives them, the preset of the GPU type, what the user has
 * written; checked as the processes will check them, before the job waits in a queue for hours. */
#include "cmd/slurm.h"

#include "base/file.h"
#include "base/log.h"
#include "model/config.h"
#include "model/rank_world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *text_of(const proa_slurm_plan *plan, const char *name)
{
    return proa_options_string(plan->options, name);
}

static proa_status set_int(proa_flags *flags, const char *name, int value, proa_error *err)
{
    char text[16];
    snprintf(text, sizeof text, "%d", value);
    return proa_flags_set(flags, name, text, err);
}

/* Those that say what the worker is: a preset and users may change the rest, and of these what is no part of the job's layout. */
static proa_status set_place(const proa_slurm_plan *plan, proa_slurm_side *side, proa_error *err)
{
    const struct {
        const char *name, *value;
    } texts[] = {
        {"model-path", plan->container ? "/model" : plan->model_dir},
        {"served-model-name", text_of(plan, "served-model-name")},
        {"disaggregation-mode", side->mode},
        {"host", "0.0.0.0"},
        {"disaggregation-bootstrap-port", "30001"},
    };
    proa_status status = PROA_OK;
    for (size_t i = 0; i < sizeof texts / sizeof *texts && status == PROA_OK; i++)
        status = proa_flags_set(&side->flags, texts[i].name, texts[i].value, err);
    if (status == PROA_OK)
        status = set_int(&side->flags, "nnodes", side->nodes / side->workers, err);
    if (status == PROA_OK)
        status = set_int(&side->flags, "tp-size", side->ranks, err);
    return status == PROA_OK ? set_int(&side->flags, "dp-size", side->ranks, err) : status;
}

static proa_status set_location(const proa_slurm_plan *plan, proa_slurm_side *side, proa_error *err)
{
    char path[PROA_SLURM_PATH_MAX + 128];
    const char *name = proa_slurm_preset_location(text_of(plan, "gpu-type"), side->mode);
    if (plan->config_dir[0] == '\0')
        return proa_error_set(err, PROA_ERR_INVALID, "--use-init-location needs --config-dir, with %s in it",
                              name);
    snprintf(path, sizeof path, "%s/%s", plan->config_dir, name);
    if (!proa_file_exists(path))
        return proa_error_set(
            err, PROA_ERR_NOT_FOUND,
            "--use-init-location: %s is absent: `proa eplb --output` writes such a file, or "
            "give --%s-args \"--init-expert-location FILE\"",
            path, side->mode);
    if (plan->container)
        snprintf(path, sizeof path, "/configs/%s", name);
    return proa_flags_set(&side->flags, "init-expert-location", path, err);
}

/* What the script gives each process itself. */
static proa_status refuse_ours(const proa_flags *flags, const char *where, proa_error *err)
{
    static const char *const ours[] = {
        "disaggregation-mode", "nnodes",         "node-rank",      "dist-init-addr", "advertise-host",
        "discovery-backend",   "discovery-path", "etcd-endpoints", "request-plane",  "nats-server",
        "http-port",           "http-host",      "cluster-key"};
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++) {
        for (int k = 0; k < flags->count; k++) {
            if (strcmp(flags->list[k].name, ours[i]) == 0)
                return proa_error_set(err, PROA_ERR_INVALID, "%s: the job sets --%s itself", where, ours[i]);
        }
    }
    return PROA_OK;
}

static proa_status apply(const proa_slurm_plan *plan, proa_flags *flags, const proa_words *words,
                         const char *where, proa_error *err)
{
    proa_flags given = {.arena = plan->arena, .program = flags->program, .command = flags->command};
    proa_status status = proa_flags_apply(&given, words, where, err);
    if (status == PROA_OK)
        status = refuse_ours(&given, where, err);
    return status == PROA_OK ? proa_flags_apply(flags, words, where, err) : status;
}

static proa_status apply_text(const proa_slurm_plan *plan, proa_flags *flags, const char *flag,
                              proa_error *err)
{
    char where[64];
    proa_words words = {.arena = plan->arena};
    const char *text = text_of(plan, flag);
    snprintf(where, sizeof where, "--%s", flag);
    if (text == NULL)
        return PROA_OK;
    proa_status status = proa_slurm_check_text(text, where, err);
    if (status == PROA_OK)
        status = proa_words_split(&words, text, where, err);
    if (status == PROA_OK && words.failed)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for %s", where);
    return status == PROA_OK ? apply(plan, flags, &words, where, err) : status;
}

/* What stands behind --, for both sides. Before it there is the verb alone. */
static proa_status apply_rest(const proa_slurm_plan *plan, proa_flags *flags, proa_error *err)
{
    int count, arguments = 0, behind = 0;
    char *const *words = proa_options_words(plan->options, &count);
    proa_words rest = {.arena = plan->arena};
    while (proa_options_argument(plan->options, arguments) != NULL)
        arguments++;
    for (int i = count - 1; i >= 0 && strcmp(words[i], "--") != 0; i--)
        behind++;
    if (behind == count)
        behind = 0;
    if (behind < arguments - 1)
        return proa_error_set(err, PROA_ERR_INVALID,
                              "unexpected argument \"%s\": flags for the workers stand behind --",
                              proa_options_argument(plan->options, 1));
    for (int i = 1; i < arguments; i++)
        proa_words_add(&rest, proa_options_argument(plan->options, i));
    if (rest.failed)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the flags behind --");
    for (int i = 0; i < rest.count; i++) {
        proa_status status = proa_slurm_check_text(rest.list[i], "what stands behind --", err);
        if (status != PROA_OK)
            return status;
    }
    return apply(plan, flags, &rest, "behind --", err);
}

/* As the worker will see them, but for files, which it may have elsewhere. */
static proa_status check_side(proa_slurm_side *side, proa_error *err)
{
    proa_flags flags = side->flags;
    proa_options *o;
    proa_rank_world world;
    proa_flags_remove(&flags, "deepep-config");
    proa_status status = proa_flags_check(&flags, &o, err);
    if (status == PROA_OK) {
        const proa_rank_flags ranks = {
            .tp_size = proa_options_int(o, "tp-size"),
            .dp_size = proa_options_int(o, "dp-size"),
            .nnodes = proa_options_int(o, "nnodes"),
            .enable_dp_attention = proa_options_bool(o, "enable-dp-attention"),
            .chunked_prefill_size = proa_options_int(o, "chunked-prefill-size"),
            .max_running_requests = proa_options_given(o, "max-running-requests")
                                        ? proa_options_int(o, "max-running-requests")
                                        : 0,
        };
        status = proa_rank_world_make(&ranks, -1, &world, err);
        proa_options_free(o);
    }
    if (status != PROA_OK) {
        proa_error_prefix(err, "flags of a %s worker", side->mode);
        return status;
    }
    side->ranks = world.world;
    side->instances = side->workers * world.dp_size;
    return PROA_OK;
}

static proa_status flags_of_side(proa_slurm_plan *plan, int experts, proa_slurm_side *side, proa_error *err)
{
    char flag[32], deepep[PROA_SLURM_PATH_MAX + 32];
    snprintf(deepep, sizeof deepep, "%s/deepep.json", plan->config_dir);
    bool has_deepep = plan->config_dir[0] != '\0' && proa_file_exists(deepep);
    proa_status status = set_place(plan, side, err);
    if (status == PROA_OK)
        status = proa_slurm_preset(text_of(plan, "gpu-type"), plan->container ? "/configs" : plan->config_dir,
                                   has_deepep, experts, side, err);
    if (status == PROA_OK && proa_options_bool(plan->options, "use-init-location"))
        status = set_location(plan, side, err);
    if (status == PROA_OK)
        status = apply_rest(plan, &side->flags, err);
    snprintf(flag, sizeof flag, "%s-args", side->mode);
    if (status == PROA_OK)
        status = apply_text(plan, &side->flags, flag, err);
    return status == PROA_OK ? check_side(side, err) : status;
}

/* Experts of the model, 0 when its folder cannot be read here: then the workers say what is wrong with it. */
static proa_status count_experts(const proa_slurm_plan *plan, int *experts, proa_error *err)
{
    char path[PROA_SLURM_PATH_MAX + 16];
    proa_model_config config;
    *experts = 0;
    snprintf(path, sizeof path, "%s/config.json", plan->model_dir);
    if (!proa_file_exists(path))
        return proa_error_set(err, PROA_ERR_NOT_FOUND,
                              "--model-dir %s has no config.json: is this a checkpoint?", plan->model_dir);
    proa_status status = proa_model_config_load(plan->model_dir, &config, err);
    if (status == PROA_OK)
        *experts = config.n_routed_experts;
    return status;
}

static proa_status check_experts(const proa_slurm_side *side, int experts, proa_error *err)
{
    const char *text = proa_flags_value(&side->flags, "ep-num-redundant-experts");
    int redundant = text != NULL ? atoi(text) : 0, all = experts + redundant, ranks = side->ranks;
    if (experts == 0 || all % ranks == 0)
        return PROA_OK;
    return proa_error_set(
        err, PROA_ERR_INVALID,
        "%s workers: the model's %d experts and --ep-num-redundant-experts %d are %d, which do not "
        "divide by %d ranks: %d redundant ones would",
        side->mode, experts, redundant, all, ranks, redundant + (ranks - all % ranks));
}

proa_status proa_slurm_plan_flags(proa_slurm_plan *plan, proa_error *err)
{
    int experts;
    proa_options *o = NULL;
    proa_log_level level = proa_log_get_level();
    proa_status status = count_experts(plan, &experts, err);
    if (status != PROA_OK)
        return status;
    proa_log_set_level("error"); /* what a flag has nothing to do with, the worker says */
    status = flags_of_side(plan, experts, &plan->prefill, err);
    if (status == PROA_OK)
        status = flags_of_side(plan, experts, &plan->decode, err);
    plan->frontend = (proa_flags){
        .arena = plan->arena, .program = proa_options_program(plan->options), .command = "frontend"};
    if (status == PROA_OK)
        status = apply_text(plan, &plan->frontend, "frontend-args", err);
    if (status == PROA_OK) {
        status = proa_flags_check(&plan->frontend, &o, err);
        proa_options_free(o);
    }
    static const char *const names[] = {"error", "warn", "info", "debug", "trace"};
    proa_log_set_level(names[level]);
    if (status == PROA_OK)
        status = check_experts(&plan->prefill, experts, err);
    return status == PROA_OK ? check_experts(&plan->decode, experts, err) : status;
}
