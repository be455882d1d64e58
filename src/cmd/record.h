/* record.h - recording the load of experts while a model runs in this process: the flags, the tap, the file. */
#ifndef PROA_CMD_RECORD_H
#define PROA_CMD_RECORD_H

#include "base/option.h"
#include "engine/expert_load.h"
#include "model/forward.h"

/* {0} records nothing. Stays where it is while the forward steps. */
typedef struct proa_recording {
    const char *path; /* --expert-load */
    proa_expert_load_form form;
    proa_expert_load *load;
    int32_t top_k;
    int32_t layer; /* that was recorded last; 0: none yet */
} proa_recording;

/* With --expert-load, counts what the forward's routers choose from now on; without it does nothing. Reads
 * --expert-distribution-recorder-mode and -buffer-size. */
proa_status proa_recording_start(proa_recording *recording, const proa_options *options,
                                 const proa_model_config *config, proa_forward *forward, proa_error *err);

/* Writes the file, once nothing steps any more. */
proa_status proa_recording_write(proa_recording *recording, proa_error *err);

void proa_recording_free(proa_recording *recording);

#endif
