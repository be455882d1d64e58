/* ucx_probe.h - what UCX could use on this machine, for `proa doctor`.
 *
 * Opens a context with the settings that transfers have, looks at it and closes it. Any thread; not beside another call of it.
 */
#ifndef PROA_NET_UCX_PROBE_H
#define PROA_NET_UCX_PROBE_H

#include "net/kv_transfer.h"

enum { PROA_UCX_RESOURCES_MAX = 256 };

typedef enum proa_ucx_class {
    PROA_UCX_SELF,   /* within a process */
    PROA_UCX_SHARED, /* between processes of a host: posix, sysv, cma, xpmem, knem */
    PROA_UCX_TCP,
    PROA_UCX_RDMA, /* rc, dc, ud: InfiniBand and RoCE */
    PROA_UCX_GPU,  /* cuda_copy, cuda_ipc, gdr_copy, rocm, ze */
    PROA_UCX_OTHER,
    PROA_UCX_CLASSES,
} proa_ucx_class;

typedef struct proa_ucx_resource {
    proa_ucx_class class;
    char transport[24]; /* "rc_mlx5" */
    char device[40];    /* "mlx5_0:1" */
} proa_ucx_resource;

typedef struct proa_ucx_info {
    char version[32];
    char tls[256];         /* UCX_TLS in effect; "all" when nothing is set */
    char net_devices[256]; /* UCX_NET_DEVICES likewise */
    size_t count;
    proa_ucx_resource resources[PROA_UCX_RESOURCES_MAX];
} proa_ucx_info;

/* PROA_ERR_NOT_FOUND: UCX is not installed. `version` is filled even when the rest fails, if the library is there. */
proa_status proa_ucx_probe(proa_ucx_info *info, proa_error *err);

#endif
