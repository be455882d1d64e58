/* device.c - the tables of the host devices. */
#include "op/device.h"

#include <stdlib.h>
#include <string.h>

enum { SCRATCH_ALIGNMENT = 64 };

static const proa_ops ref_ops = {
    .name = "ref",
    .embed = proa_embed_ref,
    .rmsnorm = proa_rmsnorm_ref,
    .quantise = proa_quantise_ref,
    .linear = proa_linear_ref,
    .linear_heads = proa_linear_heads_ref,
    .rope = proa_rope_ref,
    .kv_append = proa_kv_append_ref,
    .kv_gather = proa_kv_gather_ref,
    .kv_copy = proa_kv_copy_host,
    .mla_expanded = proa_mla_expanded_ref,
    .mla_absorbed = proa_mla_absorbed_ref,
    .router = proa_router_ref,
    .swiglu = proa_swiglu_ref,
    .experts = proa_experts_ref,
    .combine = proa_combine_ref,
    .sample = proa_sample_ref,
};

static const proa_ops cpu_ops = {
    .name = "cpu",
    .embed = proa_embed_cpu,
    .rmsnorm = proa_rmsnorm_cpu,
    .quantise = proa_quantise_cpu,
    .linear = proa_linear_cpu,
    .linear_heads = proa_linear_heads_cpu,
    .rope = proa_rope_cpu,
    .kv_append = proa_kv_append_cpu,
    .kv_gather = proa_kv_gather_cpu,
    .kv_copy = proa_kv_copy_host,
    .mla_expanded = proa_mla_expanded_cpu,
    .mla_absorbed = proa_mla_absorbed_cpu,
    .router = proa_router_cpu,
    .swiglu = proa_swiglu_cpu,
    .experts = proa_experts_cpu,
    .combine = proa_combine_cpu,
    .sample = proa_sample_cpu,
};

proa_status proa_device_create(const char *name, int threads, proa_precision precision, proa_device **device,
                               proa_error *err)
{
    const proa_ops *ops = strcmp(name, "cpu") == 0 ? &cpu_ops : strcmp(name, "ref") == 0 ? &ref_ops : NULL;
    if (ops == NULL)
        return proa_error_set(err, PROA_ERR_INVALID, "unknown device \"%s\": choose cpu or ref", name);
    proa_device *d = calloc(1, sizeof *d);
    if (d == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a device");
    d->ops = ops;
    d->host.isa = proa_cpu_isa();
    d->host.precision = precision;
    d->host.pool = proa_pool_create(threads);
    if (d->host.pool == NULL) {
        free(d);
        return proa_error_set(err, PROA_ERR_MEMORY, "cannot start %d threads: try a smaller --threads",
                              threads);
    }
    *device = d;
    return PROA_OK;
}

void proa_device_free(proa_device *device)
{
    if (device == NULL)
        return;
    proa_pool_free(device->host.pool);
    free(device->host.scratch);
    free(device);
}

proa_status proa_device_reserve(proa_device *device, size_t bytes, proa_error *err)
{
    if (bytes <= device->host.scratch_bytes)
        return PROA_OK;
    size_t rounded = (bytes + SCRATCH_ALIGNMENT - 1) / SCRATCH_ALIGNMENT * SCRATCH_ALIGNMENT;
    void *scratch = aligned_alloc(SCRATCH_ALIGNMENT, rounded);
    if (scratch == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for %zu bytes of kernel scratch", rounded);
    free(device->host.scratch);
    device->host.scratch = scratch;
    device->host.scratch_bytes = rounded;
    return PROA_OK;
}
