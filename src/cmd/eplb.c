/* eplb.c - `proa eplb`: plans where experts go from a recorded load, says what it gains, and writes the placement.
 *
 * What is planned is what a worker would plan with the same flags (law 3): the same functions. Without --model-path the file
 * says how many layers and experts there are, and layers without any load are taken for dense ones.
 */
#include "cmd/eplb.h"

#include "base/file.h"
#include "base/random.h"
#include "cmd/cmd.h"
#include "engine/expert_location.h"
#include "model/config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const double skew_tokens = 1e6; /* of a made-up layer */

typedef struct planning {
    const proa_options *options;
    proa_eplb_study study;
    bool model; /* --model-path said how many layers and experts */
    proa_expert_location load;
    proa_expert_location current;
    int32_t *maps; /* before and after */
} planning;

static proa_status read_model(planning *p, proa_error *err)
{
    const char *dir = proa_options_string(p->options, "model-path");
    proa_expert_shape *shape = &p->study.shape;
    proa_model_config config;
    if (dir == NULL)
        return PROA_OK;
    proa_status status = proa_model_config_load(dir, &config, err);
    if (status != PROA_OK)
        return status;
    if (config.n_routed_experts == 0)
        return proa_error_set(err, PROA_ERR_INVALID, "%s: this model has no experts to place", dir);
    if (config.num_hidden_layers > PROA_EXPERT_LAYERS_MAX)
        return proa_error_set(err, PROA_ERR_UNSUPPORTED, "%s: %d layers, where %d can be planned", dir,
                              config.num_hidden_layers, PROA_EXPERT_LAYERS_MAX);
    p->model = true;
    shape->layers = config.num_hidden_layers;
    shape->experts = config.n_routed_experts;
    shape->groups = config.n_group;
    for (int32_t l = 0; l < shape->layers; l++)
        p->study.moe[l] = proa_model_config_is_moe(&config, l);
    return PROA_OK;
}

/* zipf:S - the i-th heaviest expert of a layer gets a share proportional to 1 / i^S; which one that is, the seed says. */
static proa_status make_load(planning *p, const char *skew, proa_error *err)
{
    const proa_expert_shape *shape = &p->study.shape;
    uint64_t seed = (uint64_t)proa_options_int(p->options, "random-seed");
    char *end = NULL;
    double s = strncmp(skew, "zipf:", 5) == 0 ? strtod(skew + 5, &end) : 0;
    if (end == NULL || end == skew + 5 || *end != '\0' || !(s >= 0 && s <= 10))
        return proa_error_set(err, PROA_ERR_INVALID,
                              "--skew %s: it must be zipf:S with S from 0 (even) to 10", skew);
    if (!p->model)
        return proa_error_set(err, PROA_ERR_INVALID,
                              "--skew needs --model-path, for the numbers of layers and experts");
    if (shape->experts < 1 || shape->experts > PROA_EXPERTS_MAX)
        return proa_error_set(err, PROA_ERR_UNSUPPORTED, "%d experts a layer, where %d can be placed",
                              shape->experts, PROA_EXPERTS_MAX);
    double sum = 0;
    for (int32_t i = 0; i < shape->experts; i++)
        sum += pow(i + 1, -s);
    p->load =
        (proa_expert_location){PROA_EXPERT_LOCATION_COUNT, shape->layers, shape->experts, 1, NULL, NULL};
    p->load.load = calloc((size_t)shape->layers * (size_t)shape->experts, sizeof *p->load.load);
    if (p->load.load == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the load");
    for (int32_t l = 0; l < shape->layers; l++) {
        double *load = p->load.load + (ptrdiff_t)l * shape->experts;
        for (int32_t i = 0; i < shape->experts; i++) { /* a shuffle, from the front */
            int32_t j =
                (int32_t)(proa_random_uniform(seed, (uint64_t)l * PROA_EXPERTS_MAX + (uint64_t)i) * (i + 1));
            load[i] = load[j];
            load[j] = floor(skew_tokens * pow(i + 1, -s) / sum);
        }
    }
    p->study.load_name = skew;
    return PROA_OK;
}

static proa_status read_load(planning *p, proa_error *err)
{
    const char *skew = proa_options_string(p->options, "skew");
    const char *path = proa_options_string(p->options, "expert-load");
    if ((skew != NULL) == (path != NULL))
        return proa_error_set(
            err, PROA_ERR_INVALID,
            "give --expert-load FILE, as `proa eval --expert-load` or SGLang records it, or --skew zipf:S "
            "for a made-up load, and not both");
    if (skew != NULL)
        return make_load(p, skew, err);
    p->study.load_name = path;
    proa_status status = proa_expert_location_open(path, &p->load, err);
    if (status == PROA_OK && p->load.kind != PROA_EXPERT_LOCATION_COUNT)
        return proa_error_set(
            err, PROA_ERR_INVALID,
            "--expert-load %s: a placement, where a load is needed (logical_count); placements go to "
            "--init-expert-location",
            path);
    return status;
}

/* Layers and experts as the file has them. */
static proa_status take_shape_of_load(planning *p, proa_error *err)
{
    proa_expert_shape *shape = &p->study.shape;
    shape->layers = p->load.rows;
    shape->experts = p->load.columns;
    bool any = false;
    for (int32_t l = 0; l < shape->layers; l++) {
        for (int32_t e = 0; e < shape->experts; e++)
            p->study.moe[l] |= p->load.load[(ptrdiff_t)l * shape->experts + e] > 0;
        any |= p->study.moe[l];
    }
    return any ? PROA_OK
               : proa_error_set(err, PROA_ERR_INVALID, "--expert-load %s: no expert has any load",
                                p->study.load_name);
}

static proa_status find_shape(planning *p, proa_error *err)
{
    proa_expert_shape *shape = &p->study.shape;
    proa_status status = p->model ? PROA_OK : take_shape_of_load(p, err);
    if (status != PROA_OK)
        return status;
    if (proa_options_given(p->options, "num-expert-group"))
        shape->groups = (int32_t)proa_options_int(p->options, "num-expert-group");
    shape->physical = shape->experts + (int32_t)proa_options_int(p->options, "ep-num-redundant-experts");
    shape->ranks = (int32_t)proa_options_int(p->options, "ep-size");
    shape->nodes = (int32_t)proa_options_int(p->options, "nnodes");
    status = proa_expert_shape_check(shape, err);
    if (status == PROA_OK) {
        status = proa_expert_location_fit(&p->load, shape, p->study.moe, err);
        if (status != PROA_OK)
            proa_error_prefix(err, "--expert-load %s", p->study.load_name);
    }
    return status;
}

static proa_status plan(planning *p, proa_error *err)
{
    proa_eplb_study *study = &p->study;
    const char *current = proa_options_string(p->options, "init-expert-location");
    size_t cells = (size_t)study->shape.layers * (size_t)study->shape.physical;
    proa_eplb_algorithm algorithm = PROA_EPLB_AUTO;
    bool known = proa_eplb_algorithm_parse(proa_options_string(p->options, "eplb-algorithm"), &algorithm);
    PROA_ASSERT(known);
    study->algorithm = proa_eplb_resolve(algorithm, &study->shape);
    study->before_name = strcmp(current, "trivial") == 0 ? "trivial" : "current";
    p->maps = calloc(2 * cells, sizeof *p->maps);
    if (p->maps == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for %zu experts", 2 * cells);
    study->before = p->maps;
    study->after = p->maps + cells;
    study->load = p->load.load;
    proa_status status = proa_expert_location_open(current, &p->current, err);
    if (status == PROA_OK)
        status = proa_expert_location_fit(&p->current, &study->shape, study->moe, err);
    if (status == PROA_OK)
        status = proa_expert_location_place(&p->current, &study->shape, algorithm, p->maps, err);
    if (status != PROA_OK)
        return proa_error_prefix(err, "--init-expert-location");
    return proa_expert_location_place(&p->load, &study->shape, algorithm, p->maps + cells, err);
}

static proa_status write_files(const planning *p, proa_error *err)
{
    const char *output = proa_options_string(p->options, "output"),
               *svg = proa_options_string(p->options, "svg");
    proa_buf text = {0};
    proa_status status = PROA_OK;
    if (output != NULL) {
        proa_expert_location_write(&p->study.shape, p->study.after, &text);
        status = proa_file_write_buf(output, &text, err);
    }
    if (status == PROA_OK && svg != NULL) {
        proa_buf_clear(&text);
        proa_eplb_draw(&p->study, &text);
        status = proa_file_write_buf(svg, &text, err);
    }
    proa_buf_free(&text);
    return status;
}

int proa_cmd_eplb(const proa_options *options)
{
    planning p = {.options = options};
    proa_error err = {0};
    proa_status status = read_model(&p, &err);
    if (status == PROA_OK)
        status = read_load(&p, &err);
    if (status == PROA_OK)
        status = find_shape(&p, &err);
    if (status == PROA_OK)
        status = plan(&p, &err);
    if (status == PROA_OK) {
        proa_eplb_print(&p.study, isatty(STDOUT_FILENO));
        status = write_files(&p, &err);
    }
    proa_expert_location_free(&p.load);
    proa_expert_location_free(&p.current);
    free(p.maps);
    return status == PROA_OK ? PROA_EXIT_OK : proa_cmd_fail(&err);
}
