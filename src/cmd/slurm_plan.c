/* slurm_plan.c - the arguments of `proa slurm submit`, checked before anything waits in a queue for hours: folders, numbers of nodes, the
 * flags of every process, as the process itself will check them. */
#include "cmd/slurm.h"

#include "base/file.h"
#include "base/log.h"
#include "model/config.h"
#include "model/rank_world.h"

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

/* JSON and the template hold UTF-8, a script lines. */
static proa_status check_text(const char *text, const char *where, proa_error *err)
{
    proa_json *json = proa_json_new_string(text, strlen(text));
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
    proa_status status = check_text(given, where, err);
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
    status = check_text(path, where, err);
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
    return check_text(plan->program, "--proa-path", err);
}

static proa_status find_paths(proa_slurm_plan *plan, proa_error *err)
{
    if (getcwd(plan->work_dir, sizeof plan->work_dir) == NULL)
        return proa_error_set(err, PROA_ERR_IO, "getcwd: %s", strerror(errno));
    proa_status status = check_text(plan->work_dir, "the working directory's name", err);
    if (status == PROA_OK)
        status = require(
            plan, "container-image",
            "a container image for pyxis, or none, which runs this program on the nodes as it is", err);
    if (status == PROA_OK)
        status = require(plan, "model-dir", "the folder of the checkpoint, as all nodes see it", err);
    if (status == PROA_OK)
        status = check_text(text_of(plan, "container-image"), "--container-image", err);
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

/* ---- flags ---- */

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
    proa_status status = check_text(text, where, err);
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
        proa_status status = check_text(rest.list[i], "what stands behind --", err);
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

static proa_status plan_flags(proa_slurm_plan *plan, proa_error *err)
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

/* ---- the profiler ---- */

static bool to_count(const char *text, int *value)
{
    char *end;
    long n = strtol(text, &end, 10);
    *value = (int)n;
    return end != text && *end == '\0' && n >= 1 && n <= 1 << 20;
}

static proa_status bad_profiler(const char *text, const char *why, proa_error *err)
{
    return proa_error_set(err, PROA_ERR_INVALID,
                          "--profiler \"%s\": %s; write manual, or \"type=sglang; isl=8192; osl=1024; "
                          "concurrencies=16x2048; req-rate=inf\"",
                          text, why);
}

/* One "name=value" of the profiler's text; the answer says what is wrong with it, NULL: nothing. */
static const char *take_setting(proa_slurm_plan *plan, char *setting)
{
    char *value = strchr(setting, '='), *rest = NULL;
    if (value == NULL)
        return "each setting is name=value";
    *value++ = '\0';
    if (strcmp(setting, "type") == 0) {
        plan->profiler = proa_arena_string(plan->arena, value, strlen(value));
    } else if (strcmp(setting, "isl") == 0) {
        return to_count(value, &plan->profile_isl) ? NULL : "isl is a number of tokens";
    } else if (strcmp(setting, "osl") == 0) {
        return to_count(value, &plan->profile_osl) ? NULL : "osl is a number of tokens";
    } else if (strcmp(setting, "req-rate") == 0) {
        return strcmp(value, "inf") == 0 ? NULL : "req-rate is inf: requests are sent as others end";
    } else if (strcmp(setting, "concurrencies") == 0) {
        for (char *one = strtok_r(value, "x", &rest); one != NULL; one = strtok_r(NULL, "x", &rest)) {
            int n;
            if (!to_count(one, &n) || n > 4096)
                return "concurrencies are numbers up to 4096 with an x between";
            proa_words_add(&plan->profile_concurrencies, one);
        }
    } else {
        return "settings are type, isl, osl, concurrencies and req-rate";
    }
    return NULL;
}

static proa_status plan_profiler(proa_slurm_plan *plan, proa_error *err)
{
    const char *text = text_of(plan, "profiler");
    char copy[512], *rest = NULL;
    plan->profile_concurrencies.arena = plan->arena;
    plan->profiler = "manual";
    if (strcmp(text, "manual") == 0)
        return PROA_OK;
    if (strlen(text) >= sizeof copy)
        return bad_profiler("...", "it is too long", err);
    strcpy(copy, text);
    for (char *one = strtok_r(copy, ";", &rest); one != NULL; one = strtok_r(NULL, ";", &rest)) {
        one += strspn(one, " ");
        const char *wrong = take_setting(plan, one);
        if (wrong != NULL)
            return bad_profiler(text, wrong, err);
    }
    if (strcmp(plan->profiler, "manual") == 0)
        return PROA_OK;
    if (strcmp(plan->profiler, "sglang") != 0 && strcmp(plan->profiler, "vllm") != 0)
        return bad_profiler(text, "type is manual, sglang or vllm", err);
    if (plan->profile_isl == 0 || plan->profile_osl == 0 || plan->profile_concurrencies.count == 0)
        return bad_profiler(text, "isl, osl and concurrencies are needed", err);
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
        status = plan_profiler(plan, err);
    if (status == PROA_OK)
        status = find_paths(plan, err);
    return status == PROA_OK ? plan_flags(plan, err) : status;
}
