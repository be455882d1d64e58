/* load.c - config, device and weights from the command line. */
#include "cmd/load.h"

#include <string.h>

proa_status proa_loaded_open(const proa_options *options, proa_loaded *loaded, proa_error *err)
{
    *loaded = (proa_loaded){0};
    const char *dir = proa_options_string(options, "model-path");
    if (dir == NULL)
        return proa_error_set(err, PROA_ERR_INVALID,
                              "no model: give --model-path DIR, a folder with config.json and *.safetensors");
    bool exact = strcmp(proa_options_string(options, "activation-dtype"), "float32") == 0;
    bool dummy = strcmp(proa_options_string(options, "load-format"), "dummy") == 0;
    proa_precision precision = exact ? PROA_PRECISION_EXACT : PROA_PRECISION_DEFAULT;
    int threads = (int)proa_options_int(options, "threads");
    proa_status status = proa_model_config_load(dir, &loaded->config, err);
    if (status == PROA_OK)
        status = proa_generation_config_load(dir, &loaded->config, &loaded->generation, err);
    if (status == PROA_OK)
        status = proa_device_create(proa_options_string(options, "device"),
                                    threads > 0 ? threads : proa_cpu_core_count(), precision, &loaded->device,
                                    err);
    if (status == PROA_OK)
        status = proa_checkpoint_load(dir, dummy ? PROA_LOAD_DUMMY : PROA_LOAD_AUTO, &loaded->config,
                                      precision, loaded->device->host.pool, &loaded->checkpoint, err);
    if (status != PROA_OK)
        proa_loaded_close(loaded);
    return status;
}

void proa_loaded_close(proa_loaded *loaded)
{
    proa_checkpoint_free(loaded->checkpoint);
    proa_device_free(loaded->device);
    *loaded = (proa_loaded){0};
}
