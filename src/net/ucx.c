/* ucx.c - UCX's library, its settings, contexts and workers.
 *
 * Settings: UCX reads its environment (UCX_TLS, UCX_NET_DEVICES, ...). What is set here:
 *   TLS                 PROA_UCX_NO_QUEUES, for ranks: a sender first reserves its place in a shared-memory queue and then fills it, and one
 *                       that dies in between (kill -9 of a process on a busy machine does it) leaves a place that its reader waits for
 *                       for ever, with all that living senders put behind it. Over TCP each sender has a stream of its own; large
 *                       payloads are read out of its memory (cma) either way.
 *   MM_ERROR_HANDLING   a dead peer must fail its writes (error handling PEER); by default shared memory cannot do that and UCX
 *                       falls back to loopback TCP. Who does not want shared memory says so by UCX_TLS.
 *   MEMORY_INVALIDATE   likewise for process_vm_readv (cma).
 *   RNDV_SCHEME         the receiver fetches large messages: kv_ucx.c says why no writer may put.
 *   CONN_NB, MAX_CONN_RETRIES   TCP: no connect() waits on the loop's thread, and an endpoint that is lost does not connect again by
 *                       itself: after a cut of one direction, each that does so in vain leaves a socket open (UCX 1.13). Who
 *                       wants a new one makes it.
 *   KEEPALIVE_INTERVAL  shared memory learns of a dead peer by this alone: 0.5 s instead of 20 s. The environment's value wins.
 * All but the last count whatever the environment says: UCX does not tell which of them are set there.
 */
#include "net/ucx.h"

#include "base/clock.h"
#include "base/log.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#define LIBRARY "libucp.so.0"

/* --- the library --- */

proa_status proa_ucx_load(proa_ucx *ucx, proa_error *err)
{
    static const char *const names[] = {
#define NAME(name) #name,
        PROA_UCX_CALLS(NAME)
#undef NAME
    };
    void *calls[sizeof names / sizeof names[0]];
    /* It is never unloaded: it hooks the memory functions of the process. */
    ucx->library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (ucx->library == NULL)
        return proa_error_set(err, PROA_ERR_NOT_FOUND, "UCX is not here: %s: install it (Debian: libucx0)",
                              dlerror());
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        calls[i] = dlsym(ucx->library, names[i]);
        if (calls[i] == NULL)
            return proa_error_set(err, PROA_ERR_NOT_FOUND, LIBRARY " has no %s: UCX 1.12 or later is needed",
                                  names[i]);
    }
    size_t i = 0;
#define ASSIGN(name) memcpy(&ucx->name, &calls[i++], sizeof calls[0]);
    PROA_UCX_CALLS(ASSIGN)
#undef ASSIGN
    return PROA_OK;
}

/* UCX's own errors and warnings, into our log; they are of what the text of our error has the name of ("Endpoint timeout"), so an
 * error of a peer is no more than information there. What else UCX_LOG_LEVEL asks for goes where UCX_LOG_FILE says. */
static ucs_log_func_rc_t on_log(const char *file, unsigned line, const char *function, ucs_log_level_t level,
                                const ucs_log_component_config_t *component, const char *format, va_list args)
{
    char text[500];
    (void)file;
    (void)line;
    (void)function;
    (void)component;
    if (level != UCS_LOG_LEVEL_ERROR && level != UCS_LOG_LEVEL_WARN)
        return UCS_LOG_FUNC_RC_CONTINUE;
    vsnprintf(text, sizeof text, format, args);
    proa_log(level == UCS_LOG_LEVEL_WARN ? PROA_LOG_WARN : PROA_LOG_INFO, "ucx", "%s", text);
    return UCS_LOG_FUNC_RC_STOP;
}

/* --- context --- */

void proa_ucx_setting(const proa_ucx *ucx, const ucp_config_t *config, const char *name, char *value,
                      size_t bytes)
{
    char *text = NULL;
    size_t length = 0;
    FILE *stream = open_memstream(&text, &length);
    value[0] = 0;
    if (stream == NULL)
        return;
    ucx->ucp_config_print(config, stream, NULL, UCS_CONFIG_PRINT_CONFIG);
    fclose(stream);
    const char *at = text != NULL ? strstr(text, name) : NULL;
    if (at != NULL)
        snprintf(value, bytes, "%.*s", (int)strcspn(at + strlen(name), "\n"), at + strlen(name));
    free(text);
}

/* Whether a value of UCX_TLS lets one of the transports in; setting what nothing uses would earn a warning. */
static bool lets_in(const char *tls, const char *const *names)
{
    bool named = false;
    for (; *names != NULL; names++)
        named = named || strstr(tls, *names) != NULL;
    return tls[0] == '^' ? !named : named || strstr(tls, "all") != NULL;
}

static proa_status configure(const proa_ucx *ucx, const char *tls, const char *net_devices,
                             ucp_config_t *config, proa_error *err)
{
    static const char *const queues[] = {"sm", "shm", "mm", "posix", "sysv", NULL};
    static const char *const reads[] = {"sm", "shm", "cma", NULL}, *const sockets[] = {"tcp", NULL};
    char environment[256], keepalive[64];
    proa_ucx_setting(ucx, config, "UCX_TLS=", environment, sizeof environment);
    proa_ucx_setting(ucx, config, "UCX_KEEPALIVE_INTERVAL=", keepalive, sizeof keepalive);
    if (tls != NULL && strcmp(tls, PROA_UCX_NO_QUEUES) == 0 && strcmp(environment, "all") != 0)
        tls = NULL; /* whoever has chosen transports has them */
    const char *effective = tls != NULL ? tls : environment;
    const char *const settings[][2] = {
        {"MM_ERROR_HANDLING", lets_in(effective, queues) ? "y" : NULL},
        {"MEMORY_INVALIDATE", lets_in(effective, reads) ? "y" : NULL},
        {"RNDV_SCHEME", "get_zcopy"},
        {"CONN_NB", lets_in(effective, sockets) ? "y" : NULL},
        {"MAX_CONN_RETRIES", lets_in(effective, sockets) ? "1" : NULL},
        {"KEEPALIVE_INTERVAL", strcmp(keepalive, "20000000.00us") == 0 ? "500ms" : NULL},
        {"TLS", tls},
        {"NET_DEVICES", net_devices},
    };
    for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++) {
        const char *name = settings[i][0], *value = settings[i][1];
        ucs_status_t status = value != NULL ? ucx->ucp_config_modify(config, name, value) : UCS_OK;
        if (status != UCS_OK)
            return proa_error_set(err, PROA_ERR_INVALID, "UCX does not take UCX_%s=%s: %s", name, value,
                                  ucx->ucs_status_string(status));
    }
    return PROA_OK;
}

proa_status proa_ucx_open(proa_ucx *ucx, const char *tls, const char *net_devices, proa_error *err)
{
    ucp_config_t *config = NULL;
    ucx->ucs_log_push_handler(on_log);
    ucx->logs = true;
    ucs_status_t status = ucx->ucp_config_read(NULL, NULL, &config);
    if (status != UCS_OK)
        return proa_error_set(err, PROA_ERR_INVALID,
                              "UCX cannot read its settings (UCX_* in the environment): %s",
                              ucx->ucs_status_string(status));
    proa_status configured = configure(ucx, tls, net_devices, config, err);
    if (!proa_failed(configured)) {
        ucp_params_t params = {.field_mask = UCP_PARAM_FIELD_FEATURES,
                               .features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP};
        status = ucx->ucp_init_version(UCP_API_MAJOR, UCP_API_MINOR, &params, config, &ucx->context);
    }
    ucx->ucp_config_release(config);
    if (!proa_failed(configured) && status != UCS_OK)
        return proa_error_set(
            err, PROA_ERR_UNSUPPORTED,
            "UCX cannot start: %s; see `ucx_info -d`, and UCX_TLS and UCX_NET_DEVICES if set",
            ucx->ucs_status_string(status));
    return configured;
}

void proa_ucx_close(proa_ucx *ucx)
{
    if (ucx->context != NULL)
        ucx->ucp_cleanup(ucx->context);
    if (ucx->logs)
        ucx->ucs_log_pop_handler();
    if (ucx->library != NULL)
        dlclose(ucx->library);
    *ucx = (proa_ucx){0};
}

/* --- workers --- */

void proa_ucx_worker_close(const proa_ucx *ucx, int epoll, ucp_worker_h worker)
{
    int fd = -1;
    if (worker == NULL)
        return;
    if (ucx->ucp_worker_get_efd(worker, &fd) == UCS_OK)
        epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL);
    ucx->ucp_worker_destroy(worker);
}

proa_status proa_ucx_worker_open(const proa_ucx *ucx, int epoll, ucp_worker_h *worker, proa_error *err)
{
    ucp_worker_params_t params = {.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE,
                                  .thread_mode = UCS_THREAD_MODE_SINGLE};
    struct epoll_event event = {.events = EPOLLIN};
    int fd = -1;
    *worker = NULL;
    ucs_status_t status = ucx->ucp_worker_create(ucx->context, &params, worker);
    if (status == UCS_OK)
        status = ucx->ucp_worker_get_efd(*worker, &fd);
    if (status == UCS_OK && epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0)
        return PROA_OK;
    if (status == UCS_OK)
        proa_error_set(err, PROA_ERR_IO, "epoll_ctl: %s", strerror(errno));
    else
        proa_error_set(err, PROA_ERR_UNSUPPORTED, "UCX cannot make a worker that can be waited for: %s",
                       ucx->ucs_status_string(status));
    proa_ucx_worker_close(ucx, epoll, *worker);
    *worker = NULL;
    return status == UCS_OK ? PROA_ERR_IO : PROA_ERR_UNSUPPORTED;
}

ucs_status_t proa_ucx_worker_handle(const proa_ucx *ucx, ucp_worker_h worker, unsigned id,
                                    ucp_am_recv_callback_t call, void *context)
{
    ucp_am_handler_param_t params = {
        .field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                      UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG,
        .id = id,
        .flags = UCP_AM_FLAG_WHOLE_MSG,
        .cb = call,
        .arg = context,
    };
    return ucx->ucp_worker_set_am_recv_handler(worker, &params);
}

ucs_status_t proa_ucx_endpoint_open(const proa_ucx *ucx, ucp_worker_h worker, const void *address,
                                    size_t bytes, ucp_err_handler_cb_t failed, void *context,
                                    ucp_ep_h *endpoint)
{
    enum { PADDING = 4096 }; /* zeros behind the address, which UCX reads without a length */
    uint8_t *padded = calloc(1, bytes + PADDING);
    if (padded == NULL)
        return UCS_ERR_NO_MEMORY;
    memcpy(padded, address, bytes);
    ucp_ep_params_t params = {
        .field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                      UCP_EP_PARAM_FIELD_ERR_HANDLER,
        .address = (const ucp_address_t *)padded,
        .err_mode = UCP_ERR_HANDLING_MODE_PEER,
        .err_handler = {failed, context},
    };
    ucs_status_t status = ucx->ucp_ep_create(worker, &params, endpoint);
    if (status != UCS_OK)
        *endpoint = NULL;
    free(padded);
    return status;
}

void proa_ucx_endpoint_close(const proa_ucx *ucx, ucp_worker_h worker, ucp_ep_h endpoint, int turns)
{
    ucp_request_param_t force = {.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS, .flags = UCP_EP_CLOSE_FLAG_FORCE};
    if (endpoint == NULL)
        return;
    ucs_status_ptr_t request = ucx->ucp_ep_close_nbx(endpoint, &force);
    for (int i = 0; i < turns && ucx->ucp_worker_progress(worker) != 0; i++)
        ;
    if (UCS_PTR_IS_PTR(request))
        ucx->ucp_request_free(request);
}

bool proa_ucx_worker_drive(const proa_ucx *ucx, ucp_worker_h worker, int64_t deadline_us)
{
    bool worked = false;
    while (ucx->ucp_worker_progress(worker) != 0) {
        worked = true;
        if (proa_clock_us() >= deadline_us)
            return true;
    }
    return ucx->ucp_worker_arm(worker) == UCS_ERR_BUSY || worked;
}
