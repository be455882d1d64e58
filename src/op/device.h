/* device.h - a device: its table of ops, its memory, its precision. The layer graph (model/forward.c) is written
 * against this table alone and is the same for all devices.
 *
 * `ref` is scalar with double accumulation and is the specification; `cpu` is AVX2 / AVX-512 over threads.
 * One engine thread owns a device. Everything is reserved at creation or by proa_device_reserve, before the first
 * step; ops allocate nothing (law 5).
 */
#ifndef PROA_OP_DEVICE_H
#define PROA_OP_DEVICE_H

#include "op/combine/combine.h"
#include "op/embed/embed.h"
#include "op/experts/experts.h"
#include "op/linear/linear.h"
#include "op/mla/mla.h"
#include "op/quantise/quantise.h"
#include "op/rmsnorm/rmsnorm.h"
#include "op/rope/rope.h"
#include "op/router/router.h"
#include "op/sample/sample.h"
#include "op/swiglu/swiglu.h"
#include "op/tensor.h"

typedef struct proa_ops {
    const char *name; /* "ref", "cpu" */
    void (*embed)(const proa_host *, const proa_embed_args *);
    void (*rmsnorm)(const proa_host *, const proa_rmsnorm_args *);
    void (*quantise)(const proa_host *, const proa_quantise_args *);
    void (*linear)(const proa_host *, const proa_linear_args *);
    void (*linear_heads)(const proa_host *, const proa_linear_heads_args *);
    void (*rope)(const proa_host *, const proa_rope_args *);
    void (*kv_append)(const proa_host *, const proa_kv_append_args *);
    void (*kv_gather)(const proa_host *, const proa_kv_gather_args *);
    void (*kv_copy)(const proa_host *, const proa_kv_copy_args *);
    void (*mla_expanded)(const proa_host *, const proa_mla_expanded_args *);
    void (*mla_absorbed)(const proa_host *, const proa_mla_absorbed_args *);
    void (*router)(const proa_host *, const proa_router_args *);
    void (*swiglu)(const proa_host *, const proa_swiglu_args *);
    void (*experts)(const proa_host *, const proa_experts_args *);
    void (*combine)(const proa_host *, const proa_combine_args *);
    void (*sample)(const proa_host *, const proa_sample_args *);
} proa_ops;

typedef struct proa_device {
    const proa_ops *ops;
    proa_host host;
} proa_device;

/* `name` is "ref" or "cpu"; threads >= 1. Logs nothing; the error names what is wrong. */
proa_status proa_device_create(const char *name, int threads, proa_precision precision, proa_device **device,
                               proa_error *err);
void proa_device_free(proa_device *device); /* accepts NULL */

/* Grows the scratch to at least `bytes`. Not during a step. */
proa_status proa_device_reserve(proa_device *device, size_t bytes, proa_error *err);

#endif
