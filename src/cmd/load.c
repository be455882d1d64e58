/* load.c - config, device and weights from the command line. */
#include "cmd/load.h"

#include "base/file.h"
#include "base/log.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The folder of this program's file, without a slash at the end. */
static bool program_dir(char *dir, size_t bytes)
{
    ssize_t n = readlink("/proc/self/exe", dir, bytes - 1);
    if (n <= 0)
        return false;
    dir[n] = 0;
    char *slash = strrchr(dir, '/');
    if (slash == NULL)
        return false;
    *slash = 0;
    return true;
}

bool proa_bundled_dir(const char *name, char *dir, size_t bytes)
{
    /* seen from the program: in the source tree, and installed */
    static const char *const places[] = {"..", "../share/proa"};
    char program[4096];
    for (size_t i = 0; program_dir(program, sizeof program) && i < sizeof places / sizeof places[0]; i++) {
        char config[4200];
        if ((size_t)snprintf(dir, bytes, "%s/%s/%s", program, places[i], name) >= bytes)
            continue;
        snprintf(config, sizeof config, "%s/config.json", dir);
        if (proa_file_exists(config))
            return true;
    }
    return false;
}

proa_status proa_model_dir(const proa_options *options, char *dir, size_t bytes, proa_error *err)
{
    const char *given = proa_options_string(options, "model-path");
    if (given != NULL) {
        if ((size_t)snprintf(dir, bytes, "%s", given) >= bytes)
            return proa_error_set(err, PROA_ERR_TOO_LONG, "--model-path is longer than %zu bytes", bytes - 1);
        return PROA_OK;
    }
    if (proa_bundled_dir("models/tiny-r1", dir, bytes))
        return PROA_OK;
    return proa_error_set(err, PROA_ERR_NOT_FOUND,
                          "no model: give --model-path DIR, a folder with config.json and *.safetensors "
                          "(the bundled tiny-r1 is not beside this program)");
}

proa_kv_cache proa_asked_kv_cache(const proa_options *options)
{
    return strcmp(proa_options_string(options, "kv-cache-dtype"), "fp8_e4m3") == 0 ? PROA_KV_CACHE_E4M3
                                                                                   : PROA_KV_CACHE_AUTO;
}

/* Before weights are read for nothing. */
static proa_status check_kv(const proa_options *options, const proa_loaded *loaded, proa_precision precision,
                            proa_error *err)
{
    const char *asked = proa_options_string(options, "kv-cache-dtype");
    if (precision == PROA_PRECISION_EXACT && loaded->kv_cache == PROA_KV_CACHE_AUTO &&
        strcmp(asked, "auto") != 0)
        return proa_error_set(
            err, PROA_ERR_INVALID,
            "--kv-cache-dtype %s with --activation-dtype float32: the exact precision has a "
            "cache of float32; leave one of them out",
            asked);
    return proa_forward_check_kv(&loaded->config, precision, loaded->kv_cache, err);
}

proa_status proa_loaded_open(const proa_options *options, proa_loaded *loaded, proa_error *err)
{
    *loaded = (proa_loaded){.kv_cache = proa_asked_kv_cache(options)};
    char dir[sizeof loaded->dir];
    proa_status status = proa_model_dir(options, dir, sizeof dir, err);
    if (status != PROA_OK)
        return status;
    const char *format = proa_options_string(options, "load-format");
    if (strcmp(format, "proof") == 0) { /* no weights, no device */
        snprintf(loaded->dir, sizeof loaded->dir, "%s", dir);
        status = proa_model_config_load(dir, &loaded->config, err);
        if (status == PROA_OK)
            status = check_kv(options, loaded, PROA_PRECISION_DEFAULT, err);
        return status == PROA_OK ? proa_generation_config_load(dir, &loaded->config, &loaded->generation, err)
                                 : status;
    }
    bool dummy = strcmp(format, "dummy") == 0;
    return proa_loaded_open_dir(options, dir, dummy ? PROA_LOAD_DUMMY : PROA_LOAD_AUTO, loaded, err);
}

const char *proa_served_model_name(const proa_options *options, const char *dir)
{
    const char *slash = strrchr(dir, '/');
    const char *name = proa_options_string(options, "served-model-name");
    if (name == NULL)
        name = proa_options_string(options, "model-path");
    return name != NULL ? name : slash != NULL ? slash + 1 : dir;
}

static proa_status load_host(proa_loaded *loaded, proa_load_format format, proa_error *err)
{
    proa_status status =
        proa_checkpoint_load(loaded->dir, format, &loaded->config, loaded->device->host.precision,
                             loaded->device->host.pool, &loaded->checkpoint, err);
    if (status == PROA_OK)
        loaded->weight_bytes = proa_checkpoint_weights(loaded->checkpoint)->bytes;
    return status;
}

/* The host's copy goes once the GPU has its own. */
static proa_status load_gpu(const proa_options *options, proa_loaded *loaded, proa_load_format format,
                            proa_error *err)
{
    proa_status status = proa_loaded_gpu_open(options, &loaded->gpu, err);
    if (status == PROA_OK && format != PROA_LOAD_DUMMY)
        status = load_host(loaded, format, err);
    if (status == PROA_OK)
        status = proa_loaded_gpu_take(loaded->gpu, options, &loaded->config,
                                      loaded->checkpoint != NULL ? proa_checkpoint_weights(loaded->checkpoint)
                                                                 : NULL,
                                      loaded->device->host.pool, err);
    proa_checkpoint_free(loaded->checkpoint);
    loaded->checkpoint = NULL;
    return status;
}

void proa_loaded_tell_of_idle_flags(const proa_options *options)
{
    static const char *const names[] = {"cuda-graph-bs", "cuda-graph-max-bs", "disable-cuda-graph",
                                        "single-stream"};
    const char *device = proa_options_string(options, "device");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(device, "cuda") != 0 && proa_options_given(options, names[i]))
            proa_log(PROA_LOG_INFO, "cmd", "--%s has nothing to do here: --device %s has no such thing",
                     names[i], device);
}

proa_status proa_loaded_open_dir(const proa_options *options, const char *dir, proa_load_format format,
                                 proa_loaded *loaded, proa_error *err)
{
    *loaded = (proa_loaded){.kv_cache = proa_asked_kv_cache(options)};
    snprintf(loaded->dir, sizeof loaded->dir, "%s", dir);
    const bool exact = strcmp(proa_options_string(options, "activation-dtype"), "float32") == 0,
               cuda = strcmp(proa_options_string(options, "device"), "cuda") == 0;
    proa_precision precision = exact ? PROA_PRECISION_EXACT : PROA_PRECISION_DEFAULT;
    int threads = (int)proa_options_int(options, "threads");
    if (exact && cuda)
        return proa_error_set(err, PROA_ERR_INVALID,
                              "--activation-dtype float32: a GPU computes in bf16 and FP8; use --device cpu");
    proa_status status = proa_model_config_load(dir, &loaded->config, err);
    if (status == PROA_OK)
        status = check_kv(options, loaded, precision, err);
    if (status == PROA_OK)
        status = proa_generation_config_load(dir, &loaded->config, &loaded->generation, err);
    if (status == PROA_OK)
        status = proa_device_create(cuda ? "cpu" : proa_options_string(options, "device"),
                                    threads > 0 ? threads : proa_cpu_core_count(), precision, &loaded->device,
                                    err);
    if (status == PROA_OK)
        status = cuda ? load_gpu(options, loaded, format, err) : load_host(loaded, format, err);
    if (status != PROA_OK)
        proa_loaded_close(loaded);
    return status;
}

proa_status proa_loaded_forward(const proa_loaded *loaded, const proa_options *options,
                                const proa_forward_limits *limits, bool host_logits, proa_forward **forward,
                                proa_error *err)
{
    if (loaded->gpu != NULL)
        return proa_loaded_gpu_forward(loaded->gpu, options, limits, host_logits, loaded->trace, forward,
                                       err);
    return proa_forward_create(&loaded->config, proa_checkpoint_weights(loaded->checkpoint), loaded->device,
                               limits, forward, err);
}

void proa_loaded_close(proa_loaded *loaded)
{
    proa_loaded_gpu_close(loaded->gpu);
    proa_checkpoint_free(loaded->checkpoint);
    proa_device_free(loaded->device);
    *loaded = (proa_loaded){0};
}
