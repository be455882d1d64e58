/* record.c - a forward's choices of experts into a record of loads.
 *
 * Nothing tells where a step begins; layers come in order, so one begins with a lower layer than the last. In a model with one
 * such layer all calls count as one step.
 */
#include "cmd/record.h"

#include "base/file.h"

#include <string.h>

enum { WINDOW_DEFAULT = 1000 }; /* steps that per_pass keeps, as SGLang's recorder */

static void take_choices(void *context, int32_t layer, int32_t rows, const int32_t *expert_ids)
{
    proa_recording *r = context;
    if (layer < r->layer)
        proa_expert_load_end_step(r->load);
    r->layer = layer;
    proa_expert_load_record(r->load, layer, rows * r->top_k, expert_ids);
}

proa_status proa_recording_start(proa_recording *recording, const proa_options *options,
                                 const proa_model_config *config, proa_forward *forward, proa_error *err)
{
    proa_recording *r = recording;
    bool passes = strcmp(proa_options_string(options, "expert-distribution-recorder-mode"), "per_pass") == 0;
    int64_t window = passes ? WINDOW_DEFAULT : -1;
    r->path = proa_options_string(options, "expert-load");
    if (r->path == NULL)
        return PROA_OK;
    if (config->n_routed_experts == 0)
        return proa_error_set(err, PROA_ERR_INVALID, "--expert-load: this model has no experts to record");
    if (proa_options_given(options, "expert-distribution-recorder-buffer-size"))
        window = proa_options_int(options, "expert-distribution-recorder-buffer-size");
    if (window == 0 || (passes && window < 0))
        return proa_error_set(
            err, PROA_ERR_INVALID,
            "--expert-distribution-recorder-buffer-size %lld: per_pass keeps 1 step or more; stat "
            "that, or -1 for all",
            (long long)window);
    r->form = passes ? PROA_EXPERT_LOAD_PER_PASS : PROA_EXPERT_LOAD_STAT;
    r->top_k = config->num_experts_per_tok;
    r->load = proa_expert_load_create(config->num_hidden_layers, config->n_routed_experts,
                                      window < 0 ? 0 : (int32_t)window);
    if (r->load == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory to record the load of experts");
    return proa_forward_set_expert_tap(forward, take_choices, r, err);
}

proa_status proa_recording_write(proa_recording *recording, proa_error *err)
{
    proa_buf text = {0};
    if (recording->load == NULL)
        return PROA_OK;
    proa_expert_load_end_step(recording->load);
    proa_expert_load_write(recording->load, recording->form, &text);
    proa_status status = text.failed
                             ? proa_error_set(err, PROA_ERR_MEMORY, "no memory to write %s", recording->path)
                             : proa_file_write(recording->path, proa_buf_text(&text), text.length, err);
    proa_buf_free(&text);
    return status;
}

void proa_recording_free(proa_recording *recording)
{
    proa_expert_load_free(recording->load);
    *recording = (proa_recording){0};
}
