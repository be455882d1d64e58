/* slurm_preset.c - the flags of workers by type of GPU: those of the two guides, with limits of a worker kept as what they are a rank, so
 * that they fit any number of nodes.
 *
 * Other than in the guides: GB200's decode workers have chunks of 256 tokens a rank, not 768, since a step of the low-latency mode may have
 * 1,024 rows; and on H100, where the guide relies on SGLang's defaults, what a rank may have is said.
 * Left out of the guides' lists, since they hide failures or flood logs: --watchdog-timeout 1000000, --log-level debug,
 * --decode-log-interval 1. Left to whoever has it in the image: --disaggregation-transfer-backend nixl; UCX moves rows otherwise.
 */
#include "cmd/slurm.h"

#include <stdio.h>
#include <string.h>

/* Of both lists, of prefill workers, of decode workers. */
typedef enum side_of { BOTH, PREFILL, DECODE } side_of;

typedef struct row {
    side_of side;
    const char *name;
    const char *value; /* NULL: stands alone */
    int a_rank;        /* not 0: the value is so many times the ranks */
} row;

static const row hopper[] = {
    {BOTH, "skip-tokenizer-init", NULL, 0},
    {BOTH, "enable-dp-attention", NULL, 0},
    {BOTH, "decode-log-interval", "1000", 0},
    {BOTH, "moe-a2a-backend", "deepep", 0},
    {PREFILL, "load-balance-method", "round_robin", 0},
    {DECODE, "prefill-round-robin-balance", NULL, 0},
    {BOTH, "page-size", "1", 0},
    {BOTH, "trust-remote-code", NULL, 0},
    {BOTH, "moe-dense-tp-size", "1", 0},
    {BOTH, "enable-dp-lm-head", NULL, 0},
    {BOTH, "disable-radix-cache", NULL, 0},
    {BOTH, "enable-two-batch-overlap", NULL, 0},
    {PREFILL, "deepep-mode", "normal", 0},
    {DECODE, "deepep-mode", "low_latency", 0},
    {PREFILL, "mem-fraction-static", "0.85", 0},
    {DECODE, "mem-fraction-static", "0.835", 0},
    {PREFILL, "ep-dispatch-algorithm", "dynamic", 0},
    {PREFILL, "eplb-algorithm", "deepseek", 0},
    {DECODE, "cuda-graph-bs", "128", 0},
    {PREFILL, "max-running-requests", NULL, 256},
    {DECODE, "max-running-requests", NULL, 128},
    {PREFILL, "chunked-prefill-size", NULL, 1024},
    {DECODE, "chunked-prefill-size", NULL, 128},
    {BOTH, NULL, NULL, 0},
};

static const row grace_blackwell[] = {
    {BOTH, "skip-tokenizer-init", NULL, 0},
    {BOTH, "trust-remote-code", NULL, 0},
    {BOTH, "enable-dp-attention", NULL, 0},
    {BOTH, "decode-log-interval", "1000", 0},
    {PREFILL, "max-running-requests", NULL, 768},
    {DECODE, "max-running-requests", NULL, 768},
    {BOTH, "context-length", "2716", 0},
    {BOTH, "disable-radix-cache", NULL, 0},
    {BOTH, "moe-dense-tp-size", "1", 0},
    {BOTH, "enable-dp-lm-head", NULL, 0},
    {BOTH, "disable-shared-experts-fusion", NULL, 0},
    {BOTH, "moe-a2a-backend", "deepep", 0},
    {PREFILL, "deepep-mode", "normal", 0},
    {DECODE, "deepep-mode", "low_latency", 0},
    {PREFILL, "ep-dispatch-algorithm", "static", 0},
    {BOTH, "eplb-algorithm", "deepseek", 0},
    {BOTH, "attention-backend", "cutlass_mla", 0},
    {PREFILL, "disable-cuda-graph", NULL, 0},
    {DECODE, "cuda-graph-bs", "768", 0},
    {PREFILL, "chunked-prefill-size", NULL, 2048},
    {DECODE, "chunked-prefill-size", NULL, 256},
    {BOTH, "max-total-tokens", "32768", 0},
    {PREFILL, "mem-fraction-static", "0.8", 0},
    {DECODE, "mem-fraction-static", "0.82", 0},
    {BOTH, NULL, NULL, 0},
};

typedef struct preset {
    const char *gpu_type;
    const row *rows;
    bool deepep_config; /* prefill workers are given deepep.json, where the configuration has it */
    const char *prefill_location, *decode_location;
} preset;

static const char h100_prefill[] = "prefill_in4096.json", h100_decode[] = "decode_in2000out100.json";
static const char gb200_prefill[] = "prefill_dsr1-0528_in1000out1000_num40000.json",
                  gb200_decode[] = "decode_dsr1-0528_loadgen_in1024out1024_num2000_2p12d.json";

static const preset presets[] = {
    {"h100", hopper, true, h100_prefill, h100_decode},
    {"h200", hopper, true, h100_prefill, h100_decode},
    {"gb200", grace_blackwell, false, gb200_prefill, gb200_decode},
    {"gb200-fp8", grace_blackwell, false, gb200_prefill, gb200_decode},
    {"gb300", grace_blackwell, false, gb200_prefill, gb200_decode},
};

enum {
    REDUNDANT_EXPERTS = 32, /* of both guides */
    GUIDE_EXPERTS = 256,    /* DeepSeek-R1's, where the model's are unknown */
    LIMIT_MAX = 65536,      /* of --max-running-requests */
};

static const preset *find(const char *gpu_type)
{
    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++) {
        if (strcmp(presets[i].gpu_type, gpu_type) == 0)
            return &presets[i];
    }
    PROA_ASSERT(!"the table of options has no other types");
    return NULL;
}

const char *proa_slurm_preset_location(const char *gpu_type, const char *mode)
{
    const preset *p = find(gpu_type);
    return strcmp(mode, "prefill") == 0 ? p->prefill_location : p->decode_location;
}

static proa_status set_number(proa_slurm_side *side, const char *name, int64_t value, proa_error *err)
{
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)value);
    return proa_flags_set(&side->flags, name, text, err);
}

static proa_status set_row(const row *r, proa_slurm_side *side, proa_error *err)
{
    if (r->a_rank == 0)
        return proa_flags_set(&side->flags, r->name, r->value, err);
    int64_t limit = (int64_t)r->a_rank * side->ranks;
    return set_number(side, r->name, limit < LIMIT_MAX ? limit : LIMIT_MAX, err);
}

/* The guides have 32, for 256 experts on 8, 32, 48 or 72 ranks. Elsewhere the nearest number that lets all divide; the larger of two. */
static proa_status set_redundant(int experts, proa_slurm_side *side, proa_error *err)
{
    int own = experts > 0 ? experts : GUIDE_EXPERTS, over = (own + REDUNDANT_EXPERTS) % side->ranks;
    bool fewer = over < side->ranks - over && over <= REDUNDANT_EXPERTS;
    int redundant = REDUNDANT_EXPERTS - over + (fewer || over == 0 ? 0 : side->ranks);
    return set_number(side, "ep-num-redundant-experts", redundant, err);
}

proa_status proa_slurm_preset(const char *gpu_type, const char *config_dir, bool deepep_config, int experts,
                              proa_slurm_side *side, proa_error *err)
{
    const preset *p = find(gpu_type);
    bool prefill = strcmp(side->mode, "prefill") == 0;
    proa_status status = PROA_OK;
    for (const row *r = p->rows; r->name != NULL && status == PROA_OK; r++) {
        if (r->side == BOTH || (r->side == PREFILL) == prefill)
            status = set_row(r, side, err);
    }
    if (status == PROA_OK)
        status = set_redundant(experts, side, err);
    if (status != PROA_OK || !p->deepep_config || !prefill || !deepep_config)
        return status;
    char path[PROA_SLURM_PATH_MAX + 32];
    snprintf(path, sizeof path, "%s/deepep.json", config_dir);
    return proa_flags_set(&side->flags, "deepep-config", path, err);
}
