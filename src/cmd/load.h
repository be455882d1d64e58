/* load.h - what serve, logits and eval do first: config, device and weights from the same flags.
 *
 * Reads --model-path, --load-format, --device, --threads, --activation-dtype and --kv-cache-dtype, and with a GPU what gpu.h reads. The parts live until
 * proa_loaded_free; the engine and the forward borrow them.
 */
#ifndef PROA_CMD_LOAD_H
#define PROA_CMD_LOAD_H

#include "base/option.h"
#include "base/trace.h"
#include "cmd/gpu.h"
#include "model/weights.h"
#include "op/device.h"

typedef struct proa_loaded {
    char dir[4096]; /* of the checkpoint */
    proa_model_config config;
    proa_generation_config generation;
    proa_device *device;         /* of the host: with a GPU too, for what is done there */
    proa_checkpoint *checkpoint; /* NULL with a GPU, which has the weights then */
    proa_loaded_gpu *gpu;        /* --device cuda, else NULL */
    uint64_t weight_bytes;
    proa_kv_cache kv_cache; /* --kv-cache-dtype, which this model can have */
    proa_trace *trace;      /* for a GPU's forward; borrowed, set by the caller; or NULL */
} proa_loaded;

/* The checkpoint's folder: --model-path, or the bundled tiny-r1 beside this program. */
proa_status proa_model_dir(const proa_options *options, char *dir, size_t bytes, proa_error *err);

/* A folder with a config.json that comes with the program, "models/tiny-r1" for example: is it there? */
bool proa_bundled_dir(const char *name, char *dir, size_t bytes);

/* --served-model-name, else --model-path as given, else the folder's name of the bundled model. May lie inside `dir`. */
const char *proa_served_model_name(const proa_options *options, const char *dir);

/* --kv-cache-dtype. */
proa_kv_cache proa_asked_kv_cache(const proa_options *options);

/* Says which flags of guides that are written for GPUs change nothing on the device that was asked for. Opening a rank does; who opens none and
 * starts others that do (proa_options_by_parent) says it for all. */
void proa_loaded_tell_of_idle_flags(const proa_options *options);

/* With --load-format proof, config and generation alone. */
proa_status proa_loaded_open(const proa_options *options, proa_loaded *loaded, proa_error *err);
/* The same with this folder and format instead of what --model-path and --load-format say. */
proa_status proa_loaded_open_dir(const proa_options *options, const char *dir, proa_load_format format,
                                 proa_loaded *loaded, proa_error *err);
/* A forward on the device that was asked for. `host_logits`: the caller reads them, and does not only draw tokens. */
proa_status proa_loaded_forward(const proa_loaded *loaded, const proa_options *options,
                                const proa_forward_limits *limits, bool host_logits, proa_forward **forward,
                                proa_error *err);
void proa_loaded_close(proa_loaded *loaded); /* accepts a half-built one */

#endif
