/* config_rope.c - the rotary embedding's settings, under their three spellings:
 *
 *   "rope_theta": 10000, "rope_scaling": {"type": "yarn", "factor": 40, ...}        as published
 *   "rope_theta": 10000, "rope_scaling": {"rope_type": "yarn", ...}                 transformers 4.43 and later
 *   "rope_parameters": {"rope_type": "yarn", "rope_theta": 10000, ...}              transformers 5
 *
 * What is left out has the value that transformers gives it: beta_fast 32, beta_slow 1, the original length
 * max_position_embeddings, the factor max_position_embeddings / original. When mscale or mscale_all_dim is left out (or
 * 0), cos and sin carry m(1), m(s) = 0.1 s ln(factor) + 1; an explicit attention_factor replaces it. proa_rope_config
 * wants m(mscale) / m(mscale_all_dim), so the mscale that gives the wanted quotient is solved for.
 */
#include "model/config_reader.h"

#include <math.h>
#include <string.h>

static double magnitude(double factor, double s)
{
    return factor > 1 ? 0.1 * s * log(factor) + 1 : 1;
}

/* The object that describes scaling, or NULL; `name` becomes its name for messages. */
static const proa_json *find_rope(const proa_config_reader *r, const char **name)
{
    static const char *const names[] = {"rope_parameters", "rope_scaling"};
    const proa_json *found = NULL;
    for (int i = 0; i < 2; i++) {
        const proa_json *value = proa_config_field(r, names[i]);
        char text[64];
        if (value != NULL && !proa_json_is(value, PROA_JSON_OBJECT)) {
            proa_problems_add(r->problems, PROA_ERR_INVALID, "%s is %s: must be an object or null", names[i],
                              proa_config_value(value, text));
        } else if (proa_json_size(value) > 0 && found == NULL) {
            found = value;
            *name = i == 0 ? "rope_parameters." : "rope_scaling.";
        }
    }
    return found;
}

/* "yarn", "default", or what else the file names; a scaling factor without a type is a problem. */
static bool is_yarn(const proa_config_reader *rope)
{
    const proa_json *type = proa_config_field(rope, "rope_type");
    if (type == NULL)
        type = proa_config_field(rope, "type");
    if (type == NULL && proa_config_field(rope, "factor") == NULL)
        return false;
    const char *name = proa_json_string(type, "");
    if (strcmp(name, "default") == 0 || strcmp(name, "yarn") == 0)
        return name[0] == 'y';
    char text[64];
    if (type == NULL)
        proa_problems_add(rope->problems, PROA_ERR_INVALID,
                          "%srope_type is missing beside a factor: give \"yarn\"", rope->prefix);
    else
        proa_problems_add(
            rope->problems, PROA_ERR_UNSUPPORTED,
            "%srope_type is %s: only \"yarn\" and \"default\" are served; remove the scaling to serve "
            "positions up to the length that the model was trained with",
            rope->prefix, proa_config_value(type, text));
    return false;
}

/* mscale and mscale_all_dim, such that their quotient is what transformers multiplies cos and sin by. */
static void read_magnitudes(const proa_config_reader *r, proa_rope_config *rope)
{
    rope->mscale = proa_config_real(r, "mscale", 0, 100, 0);
    rope->mscale_all_dim = proa_config_real(r, "mscale_all_dim", 0, 100, 0);
    double wanted = proa_config_real(r, "attention_factor", 1e-3, 1e3, 0);
    if (wanted == 0 && rope->mscale > 0 && rope->mscale_all_dim > 0)
        return;
    if (wanted == 0)
        wanted = magnitude(rope->factor, 1);
    if (rope->factor > 1)
        rope->mscale =
            (wanted * magnitude(rope->factor, rope->mscale_all_dim) - 1) / (0.1 * log(rope->factor));
    else if (wanted != 1)
        proa_problems_add(r->problems, PROA_ERR_UNSUPPORTED,
                          "%sattention_factor is %g: with a factor of %g only 1 is served; remove it",
                          r->prefix, wanted, rope->factor);
}

static void read_yarn(const proa_config_reader *r, int32_t max_position, proa_rope_config *rope)
{
    rope->yarn = true;
    rope->original_max_position =
        proa_config_int(r, "original_max_position_embeddings", 1, INT32_MAX, max_position);
    rope->factor =
        proa_config_real(r, "factor", 1e-3, 1e6, (double)max_position / rope->original_max_position);
    rope->beta_fast = proa_config_real(r, "beta_fast", 0, 1e6, 32);
    rope->beta_slow = proa_config_real(r, "beta_slow", 0, 1e6, 1);
    if (rope->beta_fast == 0)
        rope->beta_fast = 32; /* transformers takes 0 for left out */
    if (rope->beta_slow == 0)
        rope->beta_slow = 1;
    if (rope->beta_fast < rope->beta_slow)
        proa_problems_add(r->problems, PROA_ERR_INVALID, "%sbeta_fast is %g: must not be below beta_slow, %g",
                          r->prefix, rope->beta_fast, rope->beta_slow);
    read_magnitudes(r, rope);
    proa_config_expect_bool(r, "truncate", true, "remove it");
}

void proa_config_read_rope(const proa_config_reader *r, proa_model_config *config)
{
    const char *prefix = "";
    const proa_json *object = find_rope(r, &prefix);
    proa_config_reader rope = {.inner = object, .prefix = prefix, .problems = r->problems};
    config->rope = (proa_rope_config){.dim = config->qk_rope_head_dim, .factor = 1};
    double theta = proa_config_real(r, "rope_theta", 1.0001, 1e15, 10000);
    config->rope.theta = proa_config_real(&rope, "rope_theta", 1.0001, 1e15, theta);
    proa_config_expect_bool(r, "rope_interleave", true, "the weights' rows would have to be permuted");
    if (object == NULL)
        return;
    double part = proa_config_real(&rope, "partial_rotary_factor", 0, 1, 1);
    if (part != 1)
        proa_problems_add(r->problems, PROA_ERR_UNSUPPORTED,
                          "%spartial_rotary_factor is %g: only 1 is served", prefix, part);
    if (is_yarn(&rope))
        read_yarn(&rope, config->max_position_embeddings, &config->rope);
}
