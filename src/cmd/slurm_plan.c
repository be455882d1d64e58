/* slurm_plan.c - the arguments of `proa slurm submit`, checked: folders, names, numbers of nodes. */
#include "cmd/slurm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const char *text_of(const proa_slurm_plan *plan, const char *name)
{
    return proa_options_string(plan->options, name);
}

static int int_of(const proa_slurm_plan *plan, const char *name)
{
    return (int)proa_options_int(plan->options, name);
}

/* ---- paths ---- */

proa_status proa_slurm_check_text(const char *text, const char *where, proa_error *err)
{
    proa_json *json = proa_json_new_text(text);
    bool utf8 = json != NULL;
    proa_json_free(json);
    if (!utf8)
        return proa_error_set(err, PROA_ERR_INVALID, "%s is not UTF-8: rename it, or link to it", where);
    for (const char *c = text; *c != '\0'; c++) {
        if ((unsigned char)*c < ' ' || *c == 127)
            return proa_error_set(err, PROA_ERR_INVALID, "%s has a control character (%d): rename it", where,
                                  *c);
    }
    return PROA_OK;
}

/* pyxis parts mounts by commas, and what is mounted from where by colons, and knows no quotes. */
static proa_status check_mount(const char *path, const char *where, proa_error *err)
{
    if (strpbrk(path, ":,") == NULL)
        return PROA_OK;
    return proa_error_set(err, PROA_ERR_UNSUPPORTED,
                          "%s %s: a path with \":\" or \",\" cannot be mounted into a container: link to it",
                          where, path);
}

static proa_status find_folder(const proa_slurm_plan *plan, const char *flag, char *path, proa_error *err)
{
    char where[64];
    struct stat info;
    const char *given = text_of(plan, flag);
    snprintf(where, sizeof where, "--%s", flag);
    proa_status status = proa_slurm_check_text(given, where, err);
    if (status != PROA_OK)
        return status;
    char *real = realpath(given, NULL);
    if (real == NULL)
        return proa_error_set(err, PROA_ERR_NOT_FOUND, "--%s %s: %s", flag, given, strerror(errno));
    bool fits = strlen(real) < PROA_SLURM_PATH_MAX - 64,
         folder = stat(real, &info) == 0 && S_ISDIR(info.st_mode);
    if (fits && folder)
        strcpy(path, real);
    free(real);
    if (!folder)
        return proa_error_set(err, PROA_ERR_INVALID, "--%s %s is no folder", flag, given);
    if (!fits)
        return proa_error_set(err, PROA_ERR_TOO_LONG, "--%s: a path of more than %d bytes", flag,
                              PROA_SLURM_PATH_MAX - 64);
    status = proa_slurm_check_text(path, where, err);
    return status == PROA_OK && plan->container ? check_mount(path, where, err) : status;
}

static proa_status require(const proa_slurm_plan *plan, const char *flag, const char *what, proa_error *err)
{
    const char *text = text_of(plan, flag);
    if (text != NULL && *text != '\0')
        return PROA_OK;
    return proa_error_set(err, PROA_ERR_INVALID, "--%s is missing: %s", flag, what);
}

/* What steps run: in an image, the one that is there. */
static proa_status find_program(proa_slurm_plan *plan, proa_error *err)
{
    const char *given = text_of(plan, "proa-path");
    if (given != NULL) {
        snprintf(plan->program, sizeof plan->program, "%s", given);
    } else if (plan->container) {
        strcpy(plan->program, "proa");
    } else {
        ssize_t n = readlink("/proc/self/exe", plan->program, sizeof plan->program - 1);
        if (n <= 0)
            return proa_error_set(err, PROA_ERR_IO, "/proc/self/exe: %s: give --proa-path", strerror(errno));
        plan->program[n] = '\0';
    }
    return proa_slurm_check_text(plan->program, "--proa-path", err);
}

static proa_status find_paths(proa_slurm_plan *plan, proa_error *err)
{
    if (getcwd(plan->work_dir, sizeof plan->work_dir) == NULL)
        return proa_error_set(err, PROA_ERR_IO, "getcwd: %s", strerror(errno));
    proa_status status = proa_slurm_check_text(plan->work_dir, "the working directory's name", err);
    if (status == PROA_OK)
        status = require(
            plan, "container-image",
            "a container image for pyxis, or none, which runs this program on the nodes as it is", err);
    if (status == PROA_OK)
        status = require(plan, "model-dir", "the folder of the checkpoint, as all nodes see it", err);
    if (status == PROA_OK)
        status = proa_slurm_check_text(text_of(plan, "container-image"), "--container-image", err);
    if (status != PROA_OK)
        return status;
    plan->container = strcmp(text_of(plan, "container-image"), "none") != 0;
    status = find_folder(plan, "model-dir", plan->model_dir, err);
    if (status == PROA_OK && text_of(plan, "config-dir") != NULL)
        status = find_folder(plan, "config-dir", plan->config_dir, err);
    if (status == PROA_OK && plan->container)
        status = check_mount(plan->work_dir, "the working directory", err);
    return status == PROA_OK ? find_program(plan, err) : status;
}

/* ---- words that stand in #SBATCH lines ---- */

static proa_status check_name(const proa_slurm_plan *plan, const char *flag, proa_error *err)
{
    static const char safe[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-";
    const char *text = text_of(plan, flag);
    if (text == NULL || (*text != '\0' && text[strspn(text, safe)] == '\0'))
        return PROA_OK;
    return proa_error_set(err, PROA_ERR_INVALID,
                          "--%s \"%s\": it must be letters, digits and _@%%+=:,./- alone", flag, text);
}

static proa_status check_names(const proa_slurm_plan *plan, proa_error *err)
{
    static const char *const flags[] = {"job-name", "account", "partition", "time-limit",
                                        "network-interface"};
    proa_status status = PROA_OK;
    for (size_t i = 0; i < sizeof flags / sizeof *flags && status == PROA_OK; i++)
        status = check_name(plan, flags[i], err);
    return status;
}

/* ---- nodes ---- */

static proa_status plan_side(proa_slurm_plan *plan, const char *mode, proa_slurm_side *side, proa_error *err)
{
    char nodes[32], workers[32];
    snprintf(nodes, sizeof nodes, "%s-nodes", mode);
    snprintf(workers, sizeof workers, "%s-workers", mode);
    side->mode = mode;
    side->nodes = int_of(plan, nodes);
    side->workers = int_of(plan, workers);
    if (side->nodes % side->workers != 0)
        return proa_error_set(
            err, PROA_ERR_INVALID,
            "--%s %d does not divide by --%s %d: each worker has as many nodes as the others", nodes,
            side->nodes, workers, side->workers);
    side->ranks = side->nodes / side->workers * plan->gpus_per_node;
    side->flags = (proa_flags){
        .arena = plan->arena, .program = proa_options_program(plan->options), .command = "worker"};
    return PROA_OK;
}

static proa_status plan_frontends(proa_slurm_plan *plan, proa_error *err)
{
    int more = int_of(plan, "num-additional-frontends"), nodes = plan->prefill.nodes + plan->decode.nodes;
    plan->load_balancer = proa_options_bool(plan->options, "enable-multiple-frontends");
    plan->frontends = 1 + more;
    if (more > 0 && !plan->load_balancer)
        return proa_error_set(err, PROA_ERR_INVALID,
                              "--num-additional-frontends %d needs --enable-multiple-frontends", more);
    if (plan->frontends > nodes - plan->load_balancer)
        return proa_error_set(
            err, PROA_ERR_INVALID,
            "--num-additional-frontends %d: of %d nodes the first has the load balancer, and the others one "
            "frontend each: %d at most",
            more, nodes, nodes - 2);
    return PROA_OK;
}

/* ---- all ---- */

proa_status proa_slurm_plan_make(const proa_options *options, proa_arena *arena, proa_slurm_plan *plan,
                                 proa_error *err)
{
    *plan = (proa_slurm_plan){.options = options, .arena = arena};
    plan->gpus_per_node = int_of(plan, "gpus-per-node");
    time_t now = time(NULL);
    struct tm local;
    strftime(plan->timestamp, sizeof plan->timestamp, "%Y%m%d_%H%M%S", localtime_r(&now, &local));
    proa_status status = check_names(plan, err);
    if (status == PROA_OK)
        status = plan_side(plan, "prefill", &plan->prefill, err);
    if (status == PROA_OK)
        status = plan_side(plan, "decode", &plan->decode, err);
    if (status == PROA_OK)
        status = plan_frontends(plan, err);
    if (status == PROA_OK)
        status = proa_slurm_plan_profiler(plan, err);
    if (status == PROA_OK)
        status = find_paths(plan, err);
    return status == PROA_OK ? proa_slurm_plan_flags(plan, err) : status;
}
