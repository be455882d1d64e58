/* ucx.h - the headers of UCX, included here and nowhere else, and the library behind them, loaded at run time. For the files that
 * transfer KV by UCX (net/kv_ucx*.c) and that look at what it could use (net/ucx_probe.c).
 *
 * It is not linked, and its symbols stay local: NIXL's plugin brings a UCX of its own, whose calls would be bound to this one
 * otherwise. A proa_ucx and what is made of it belong to one thread.
 */
#ifndef PROA_NET_UCX_H
#define PROA_NET_UCX_H

#include "base/status.h"

#include <ucp/api/ucp.h>
#include <ucs/debug/log_def.h>

#define PROA_UCX_CALLS(X)                                                                                    \
    X(ucp_am_recv_data_nbx)                                                                                  \
    X(ucp_am_send_nbx)                                                                                       \
    X(ucp_cleanup)                                                                                           \
    X(ucp_config_modify)                                                                                     \
    X(ucp_config_print)                                                                                      \
    X(ucp_config_read)                                                                                       \
    X(ucp_config_release)                                                                                    \
    X(ucp_context_print_info)                                                                                \
    X(ucp_ep_close_nbx)                                                                                      \
    X(ucp_ep_create)                                                                                         \
    X(ucp_ep_print_info)                                                                                     \
    X(ucp_get_version_string)                                                                                \
    X(ucp_init_version)                                                                                      \
    X(ucp_mem_map)                                                                                           \
    X(ucp_mem_unmap)                                                                                         \
    X(ucp_request_free)                                                                                      \
    X(ucp_worker_arm)                                                                                        \
    X(ucp_worker_create)                                                                                     \
    X(ucp_worker_destroy)                                                                                    \
    X(ucp_worker_get_address)                                                                                \
    X(ucp_worker_get_efd)                                                                                    \
    X(ucp_worker_progress)                                                                                   \
    X(ucp_worker_release_address)                                                                            \
    X(ucp_worker_set_am_recv_handler)                                                                        \
    X(ucs_log_pop_handler)                                                                                   \
    X(ucs_log_push_handler)                                                                                  \
    X(ucs_status_string)

/* The functions, typed by UCX's own declarations, and a context. */
typedef struct proa_ucx {
    void *library;
    ucp_context_h context;
    bool logs; /* UCX's messages come to our log */
#define PROA_UCX_MEMBER(name) __typeof__(name) *name;
    PROA_UCX_CALLS(PROA_UCX_MEMBER)
#undef PROA_UCX_MEMBER
} proa_ucx;

/* PROA_ERR_NOT_FOUND names the package to install. Close it also when this or the next fails. */
proa_status proa_ucx_load(proa_ucx *ucx, proa_error *err);
/* As `tls`: no queues in shared memory, where a process that dies can stop all others (ucx.c), unless the environment chooses transports. */
#define PROA_UCX_NO_QUEUES "^mm"

/* A context for active messages and wake-ups. `tls` and `net_devices` are as UCX_TLS and UCX_NET_DEVICES; NULL: what the environment
 * says. What else is set, ucx.c tells. */
proa_status proa_ucx_open(proa_ucx *ucx, const char *tls, const char *net_devices, proa_error *err);
void proa_ucx_close(proa_ucx *ucx);

/* The value of "NAME=" among UCX's settings, the environment's included; "" when there is none of that name. */
void proa_ucx_setting(const proa_ucx *ucx, const ucp_config_t *config, const char *name, char *value,
                      size_t bytes);

/* A worker whose descriptor is in the epoll set. */
proa_status proa_ucx_worker_open(const proa_ucx *ucx, int epoll, ucp_worker_h *worker, proa_error *err);
void proa_ucx_worker_close(const proa_ucx *ucx, int epoll, ucp_worker_h worker); /* accepts NULL */
ucs_status_t proa_ucx_worker_handle(const proa_ucx *ucx, ucp_worker_h worker, unsigned id,
                                    ucp_am_recv_callback_t call, void *context);
/* An endpoint to the worker whose address this is; its operations fail when the peer is lost, and `failed` is called. */
ucs_status_t proa_ucx_endpoint_open(const proa_ucx *ucx, ucp_worker_h worker, const void *address,
                                    size_t bytes, ucp_err_handler_cb_t failed, void *context,
                                    ucp_ep_h *endpoint);
/* At once: what is under way ends with errors, as far as so many turns of progress bring it. Accepts NULL. */
void proa_ucx_endpoint_close(const proa_ucx *ucx, ucp_worker_h worker, ucp_ep_h endpoint, int turns);

/* Progress until there is nothing to do, then armed; or until the deadline. True while there may be more to do at once. */
bool proa_ucx_worker_drive(const proa_ucx *ucx, ucp_worker_h worker, int64_t deadline_us);

#endif
