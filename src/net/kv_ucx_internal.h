/* kv_ucx_internal.h - between kv_ucx.c, the side that writes, and kv_ucx_inbox.c, the side that is written to. */
#ifndef PROA_NET_KV_UCX_INTERNAL_H
#define PROA_NET_KV_UCX_INTERNAL_H

#include "net/kv_transfer_internal.h"
#include "net/kv_ucx_message.h"
#include "net/ucx.h"

/* A transfer's own. */
typedef struct proa_kv_ucx {
    proa_ucx lib;
    proa_kv_transfer *transfer;
    ucp_mem_h memory; /* the cache, registered once */
    int epoll;
    ucp_worker_h writer; /* NULL until the first connect */
    ucp_address_t *address;
    size_t address_bytes;
    uint64_t write_last; /* number of a write; begins at random */
    int32_t in_flight;   /* ROWS */
    struct ucx_link *links;
    struct ucx_send *sends;
    struct ucx_send *spare;
} proa_kv_ucx;

proa_status proa_kv_ucx_inbox_open(proa_kv_inbox *outer, proa_buf *out, proa_error *err);
void proa_kv_ucx_inbox_close(proa_kv_inbox *outer);
/* True while there is more to do at once. */
bool proa_kv_ucx_inbox_drive(proa_kv_inbox *outer, int64_t deadline_us);

#endif
