/* kv_ucx.c - KV rows by UCX: RMA puts into the peer's cache. The only file that includes UCX's headers.
 *
 *   one context, the whole cache registered once          (ucp_mem_map, the key goes into every descriptor)
 *   ├─ a worker for writing, made at the first connect     endpoint ── put, put, ... flush ──> peer's inbox worker
 *   └─ a worker for each inbox: closing it closes the sockets and queue pairs that its peer's writes travel on
 *
 * The workers' descriptors stand in one epoll set, which is the transfer's descriptor: a worker is armed when it has nothing left to
 * do. A put returns before its bytes are anywhere, and tcp's needs the target's worker: only the flush after the last put
 * is proof that the rows are there (measured: an 8-byte put to a dead peer "succeeds").
 *
 * What UCX still names when a peer is closed lives on until UCX lets go: the endpoint until its forced close is done (ucx_link),
 * the counts of a write until its last request is (ucx_write). At the end of the transfer that is waited for, CLOSE_US at most;
 * then the worker is destroyed and nothing can call back any more.
 *
 * Settings: UCX reads its environment (UCX_TLS, UCX_NET_DEVICES, ...). What is set here:
 *   MM_ERROR_HANDLING   a dead peer must fail its writes (error handling PEER); by default shared memory cannot do that and UCX
 *                       falls back to loopback TCP. Who does not want shared memory says so by UCX_TLS.
 *   MM_SEG_SIZE, MM_FIFO_SIZE   the cache is not memory that UCX has made, so a put over shared memory goes through the receiver's
 *                       queue and the receiver copies it out: which is also why a closed inbox is closed. UCX's queue of 0.5 MiB
 *                       costs two process switches each half megabyte where other threads compute: 8 MiB, 12 times faster then.
 *   KEEPALIVE_INTERVAL  shared memory learns of a dead peer by this alone: 1 s instead of 20 s. The environment's value wins.
 * The first three count whatever UCX_POSIX_* and UCX_SYSV_* say: UCX does not tell which of them are set.
 *
 * The library is loaded at run time and not linked, and its symbols stay local: NIXL's plugin brings a UCX of its own, whose calls
 * would otherwise be bound to this one.
 */
#include "net/kv_transfer_internal.h"
#include "net/ucx_probe.h"

#include "base/clock.h"
#include "base/log.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <ucp/api/ucp.h>
#include <ucs/debug/log_def.h>
#include <unistd.h>

enum {
    WINDOW = 32,         /* puts in flight */
    TURN_US = 500,       /* of progress, for all workers together */
    CLOSE_US = 200000,   /* for forced closes at the end of the transfer */
    BLOB_PADDING = 4096, /* zeros behind a peer's address and key, which UCX reads without a length */
};

#define LIBRARY "libucp.so.0"

#define UCX_CALLS(X)                                                                                         \
    X(ucp_cleanup)                                                                                           \
    X(ucp_config_modify)                                                                                     \
    X(ucp_config_print)                                                                                      \
    X(ucp_config_read)                                                                                       \
    X(ucp_config_release)                                                                                    \
    X(ucp_context_print_info)                                                                                \
    X(ucp_ep_close_nbx)                                                                                      \
    X(ucp_ep_create)                                                                                         \
    X(ucp_ep_flush_nbx)                                                                                      \
    X(ucp_ep_print_info)                                                                                     \
    X(ucp_ep_rkey_unpack)                                                                                    \
    X(ucp_get_version_string)                                                                                \
    X(ucp_init_version)                                                                                      \
    X(ucp_mem_map)                                                                                           \
    X(ucp_mem_unmap)                                                                                         \
    X(ucp_put_nbx)                                                                                           \
    X(ucp_request_free)                                                                                      \
    X(ucp_rkey_buffer_release)                                                                               \
    X(ucp_rkey_destroy)                                                                                      \
    X(ucp_rkey_pack)                                                                                         \
    X(ucp_worker_arm)                                                                                        \
    X(ucp_worker_create)                                                                                     \
    X(ucp_worker_destroy)                                                                                    \
    X(ucp_worker_get_address)                                                                                \
    X(ucp_worker_get_efd)                                                                                    \
    X(ucp_worker_progress)                                                                                   \
    X(ucp_worker_release_address)                                                                            \
    X(ucs_log_pop_handler)                                                                                   \
    X(ucs_log_push_handler)                                                                                  \
    X(ucs_status_string)

/* The functions, typed by UCX's own declarations. */
typedef struct ucx_library {
    void *handle;
#define MEMBER(name) __typeof__(name) *name;
    UCX_CALLS(MEMBER)
#undef MEMBER
} ucx_library;

typedef struct ucx_link ucx_link;
typedef struct ucx_write ucx_write;

typedef struct ucx_state {
    ucx_library lib;
    ucp_context_h context;
    ucp_mem_h memory;
    void *rkey; /* packed, for descriptors */
    size_t rkey_bytes;
    bool logs; /* UCX's messages come to on_log */
    int epoll;
    ucp_worker_h writer; /* NULL until the first connect */
    int32_t in_flight;   /* puts */
    ucx_link *links;
    ucx_write *writes;
} ucx_state;

/* An endpoint: a peer's, and then on its own until it is closed. */
struct ucx_link {
    ucx_state *ucx;
    proa_kv_peer *peer; /* NULL: closed by us */
    ucp_ep_h ep;
    ucp_rkey_h rkey;
    uint64_t base; /* of the peer's cache */
    ucx_link *next;
};

/* What UCX's callbacks count for a write. */
struct ucx_write {
    ucx_state *ucx;
    proa_kv_write_state *write; /* NULL: nobody waits any more */
    int32_t in_flight;          /* requests, the flush included */
    ucx_write *next;
};

/* --- the library --- */

static proa_status load(ucx_library *lib, proa_error *err)
{
    static const char *const names[] = {
#define NAME(name) #name,
        UCX_CALLS(NAME)
#undef NAME
    };
    void *calls[sizeof names / sizeof names[0]];
    /* It is never unloaded: it hooks the memory functions of the process. */
    lib->handle = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (lib->handle == NULL)
        return proa_error_set(err, PROA_ERR_NOT_FOUND,
                              "--disaggregation-transfer-backend ucx: %s: install UCX (Debian: libucx0)",
                              dlerror());
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        calls[i] = dlsym(lib->handle, names[i]);
        if (calls[i] == NULL)
            return proa_error_set(err, PROA_ERR_NOT_FOUND, LIBRARY " has no %s: UCX 1.12 or later is needed",
                                  names[i]);
    }
    size_t i = 0;
#define ASSIGN(name) memcpy(&lib->name, &calls[i++], sizeof calls[0]);
    UCX_CALLS(ASSIGN)
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

static proa_status status_of(ucs_status_t status)
{
    if (status == UCS_OK)
        return PROA_OK;
    return status == UCS_ERR_NO_MEMORY ? PROA_ERR_MEMORY : PROA_ERR_UNREACHABLE;
}

/* --- context --- */

/* The value of "NAME=" among the settings, the environment's included, as UCX prints them. */
static void setting_of(const ucx_library *lib, const ucp_config_t *config, const char *name, char *value,
                       size_t bytes)
{
    char *text = NULL;
    size_t length = 0;
    FILE *stream = open_memstream(&text, &length);
    value[0] = 0;
    if (stream == NULL)
        return;
    lib->ucp_config_print(config, stream, NULL, UCS_CONFIG_PRINT_CONFIG);
    fclose(stream);
    const char *at = text != NULL ? strstr(text, name) : NULL;
    if (at != NULL)
        snprintf(value, bytes, "%.*s", (int)strcspn(at + strlen(name), "\n"), at + strlen(name));
    free(text);
}

/* Whether a value of UCX_TLS lets posix and sysv in; setting what nothing uses would earn a warning. */
static bool has_shared_memory(const char *tls)
{
    static const char *const names[] = {"all", "sm", "mm", "shm", "posix", "sysv"};
    bool has = tls[0] == '^';
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        has = has || strstr(tls, names[i]) != NULL;
    return has;
}

static proa_status configure(ucx_state *ucx, const proa_kv_transfer_options *options, ucp_config_t *config,
                             proa_error *err)
{
    const ucx_library *lib = &ucx->lib;
    char tls[256], keepalive[64];
    setting_of(lib, config, "UCX_TLS=", tls, sizeof tls);
    setting_of(lib, config, "UCX_KEEPALIVE_INTERVAL=", keepalive, sizeof keepalive);
    bool shared = has_shared_memory(options->ucx_tls != NULL ? options->ucx_tls : tls);
    const char *const settings[][2] = {
        {"MM_ERROR_HANDLING", shared ? "y" : NULL},
        {"MM_SEG_SIZE", shared ? "32k" : NULL},
        {"MM_FIFO_SIZE", shared ? "256" : NULL},
        {"KEEPALIVE_INTERVAL", strcmp(keepalive, "20000000.00us") == 0 ? "1s" : NULL},
        {"TLS", options->ucx_tls},
        {"NET_DEVICES", options->ucx_net_devices},
    };
    for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++) {
        const char *name = settings[i][0], *value = settings[i][1];
        ucs_status_t status = value != NULL ? lib->ucp_config_modify(config, name, value) : UCS_OK;
        if (status != UCS_OK)
            return proa_error_set(err, PROA_ERR_INVALID, "UCX does not take UCX_%s=%s: %s", name, value,
                                  lib->ucs_status_string(status));
    }
    return PROA_OK;
}

static proa_status open_context(ucx_state *ucx, const proa_kv_transfer_options *options, proa_error *err)
{
    ucp_config_t *config = NULL;
    ucs_status_t status = ucx->lib.ucp_config_read(NULL, NULL, &config);
    if (status != UCS_OK)
        return proa_error_set(err, PROA_ERR_INVALID,
                              "UCX cannot read its settings (UCX_* in the environment): %s",
                              ucx->lib.ucs_status_string(status));
    proa_status configured = configure(ucx, options, config, err);
    if (!proa_failed(configured)) {
        ucp_params_t params = {.field_mask = UCP_PARAM_FIELD_FEATURES,
                               .features = UCP_FEATURE_RMA | UCP_FEATURE_WAKEUP};
        status = ucx->lib.ucp_init_version(UCP_API_MAJOR, UCP_API_MINOR, &params, config, &ucx->context);
    }
    ucx->lib.ucp_config_release(config);
    if (!proa_failed(configured) && status != UCS_OK)
        return proa_error_set(
            err, PROA_ERR_UNSUPPORTED,
            "UCX cannot start: %s; see `ucx_info -d`, and UCX_TLS and UCX_NET_DEVICES if set",
            ucx->lib.ucs_status_string(status));
    return configured;
}

static proa_status register_cache(ucx_state *ucx, const proa_kv_layout *layout, proa_error *err)
{
    ucp_mem_map_params_t params = {
        .field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH,
        .address = layout->base,
        .length = proa_kv_layout_bytes(layout),
    };
    ucs_status_t status = ucx->lib.ucp_mem_map(ucx->context, &params, &ucx->memory);
    if (status == UCS_OK)
        status = ucx->lib.ucp_rkey_pack(ucx->context, ucx->memory, &ucx->rkey, &ucx->rkey_bytes);
    if (status != UCS_OK)
        return proa_error_set(
            err, PROA_ERR_IO,
            "UCX cannot register %zu bytes of KV cache: %s; for RDMA, raise the limit of locked "
            "memory (ulimit -l)",
            params.length, ucx->lib.ucs_status_string(status));
    return PROA_OK;
}

static proa_status ucx_create(proa_kv_transfer *transfer, const proa_kv_transfer_options *options,
                              proa_error *err)
{
    ucx_state *ucx = calloc(1, sizeof *ucx);
    if (ucx == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a UCX transfer");
    transfer->state = ucx;
    ucx->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (ucx->epoll < 0)
        return proa_error_set(err, PROA_ERR_IO, "epoll_create1: %s", strerror(errno));
    proa_status status = load(&ucx->lib, err);
    if (proa_failed(status))
        return status;
    ucx->lib.ucs_log_push_handler(on_log);
    ucx->logs = true;
    status = open_context(ucx, options, err);
    if (!proa_failed(status))
        status = register_cache(ucx, &transfer->layout, err);
    return status;
}

/* --- workers --- */

static void close_worker(ucx_state *ucx, ucp_worker_h worker)
{
    int fd = -1;
    if (worker == NULL)
        return;
    if (ucx->lib.ucp_worker_get_efd(worker, &fd) == UCS_OK)
        epoll_ctl(ucx->epoll, EPOLL_CTL_DEL, fd, NULL);
    ucx->lib.ucp_worker_destroy(worker);
}

static proa_status open_worker(ucx_state *ucx, ucp_worker_h *worker, proa_error *err)
{
    ucp_worker_params_t params = {.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE,
                                  .thread_mode = UCS_THREAD_MODE_SINGLE};
    struct epoll_event event = {.events = EPOLLIN};
    int fd = -1;
    ucs_status_t status = ucx->lib.ucp_worker_create(ucx->context, &params, worker);
    if (status == UCS_OK)
        status = ucx->lib.ucp_worker_get_efd(*worker, &fd);
    if (status != UCS_OK)
        return proa_error_set(err, PROA_ERR_UNSUPPORTED,
                              "UCX cannot make a worker that can be waited for: %s",
                              ucx->lib.ucs_status_string(status));
    if (epoll_ctl(ucx->epoll, EPOLL_CTL_ADD, fd, &event) != 0)
        return proa_error_set(err, PROA_ERR_IO, "epoll_ctl: %s", strerror(errno));
    return PROA_OK;
}

/* Progress until there is nothing to do, then armed; or until the deadline, which is "more to do". */
static bool drive(ucx_state *ucx, ucp_worker_h worker, int64_t deadline)
{
    bool worked = false;
    while (ucx->lib.ucp_worker_progress(worker) != 0) {
        worked = true;
        if (proa_clock_us() >= deadline)
            return true;
    }
    return ucx->lib.ucp_worker_arm(worker) == UCS_ERR_BUSY || worked;
}

static bool ucx_progress(proa_kv_transfer *transfer)
{
    ucx_state *ucx = transfer->state;
    int64_t deadline = proa_clock_us() + TURN_US;
    bool more = ucx->writer != NULL && drive(ucx, ucx->writer, deadline);
    for (proa_kv_inbox *inbox = transfer->inboxes; inbox != NULL; inbox = inbox->next)
        more = drive(ucx, inbox->backend, deadline) || more;
    return more;
}

static int ucx_fd(const proa_kv_transfer *transfer)
{
    return ((const ucx_state *)transfer->state)->epoll;
}

/* --- inboxes --- */

static proa_status ucx_inbox_open(proa_kv_inbox *inbox, proa_buf *out, proa_error *err)
{
    ucx_state *ucx = inbox->transfer->state;
    ucp_worker_h worker = NULL;
    ucp_address_t *address = NULL;
    size_t address_bytes = 0;
    proa_status status = open_worker(ucx, &worker, err);
    inbox->backend = worker;
    if (proa_failed(status))
        return status;
    ucs_status_t got = ucx->lib.ucp_worker_get_address(worker, &address, &address_bytes);
    if (got != UCS_OK)
        return proa_error_set(err, PROA_ERR_IO, "UCX has no address for a worker: %s",
                              ucx->lib.ucs_status_string(got));
    proa_put_u64(out, (uint64_t)(uintptr_t)inbox->transfer->layout.base);
    proa_put_u32(out, (uint32_t)address_bytes);
    proa_buf_append(out, address, address_bytes);
    proa_put_u32(out, (uint32_t)ucx->rkey_bytes);
    proa_buf_append(out, ucx->rkey, ucx->rkey_bytes);
    ucx->lib.ucp_worker_release_address(worker, address);
    return PROA_OK;
}

static void ucx_inbox_close(proa_kv_inbox *inbox)
{
    close_worker(inbox->transfer->state, inbox->backend);
}

/* --- peers --- */

static void on_endpoint_error(void *context, ucp_ep_h ep, ucs_status_t status)
{
    ucx_link *link = context;
    (void)ep;
    if (link->peer != NULL)
        proa_kv_peer_fail(link->peer, PROA_ERR_UNREACHABLE, "KV peer %s is lost: UCX: %s", link->peer->name,
                          link->ucx->lib.ucs_status_string(status));
}

static void free_link(ucx_link *link)
{
    ucx_link **at = &link->ucx->links;
    while (*at != link)
        at = &(*at)->next;
    *at = link->next;
    if (link->rkey != NULL)
        link->ucx->lib.ucp_rkey_destroy(link->rkey);
    free(link);
}

static void on_closed(void *request, ucs_status_t status, void *context)
{
    ucx_link *link = context;
    (void)status;
    link->ucx->lib.ucp_request_free(request);
    free_link(link);
}

/* `blob` holds address and key, zeros behind each. */
static ucs_status_t open_endpoint(ucx_link *link, const void *address, const void *rkey)
{
    const ucx_library *lib = &link->ucx->lib;
    ucp_ep_params_t params = {
        .field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                      UCP_EP_PARAM_FIELD_ERR_HANDLER,
        .address = address,
        .err_mode = UCP_ERR_HANDLING_MODE_PEER,
        .err_handler = {on_endpoint_error, link},
    };
    ucs_status_t status = lib->ucp_ep_create(link->ucx->writer, &params, &link->ep);
    return status == UCS_OK ? lib->ucp_ep_rkey_unpack(link->ep, rkey, &link->rkey) : status;
}

static proa_status ucx_connect(proa_kv_peer *peer, const proa_kv_descriptor *descriptor, proa_error *err)
{
    ucx_state *ucx = peer->transfer->state;
    proa_reader r = proa_reader_of(descriptor->backend, descriptor->backend_bytes);
    uint64_t base = proa_get_u64(&r);
    uint32_t address_bytes = proa_get_count(&r, PROA_KV_DESCRIPTOR_BYTES_MAX, 1);
    const uint8_t *address = proa_get_bytes(&r, address_bytes);
    uint32_t rkey_bytes = proa_get_count(&r, PROA_KV_DESCRIPTOR_BYTES_MAX, 1);
    const uint8_t *rkey = proa_get_bytes(&r, rkey_bytes);
    if (!proa_reader_done(&r) || address_bytes == 0 || rkey_bytes == 0)
        return proa_error_set(err, PROA_ERR_PROTOCOL, "%s: malformed UCX KV descriptor", peer->name);
    proa_status status = ucx->writer == NULL ? open_worker(ucx, &ucx->writer, err) : PROA_OK;
    if (proa_failed(status))
        return status;
    ucx_link *link = calloc(1, sizeof *link);
    uint8_t *blob = calloc(1, address_bytes + rkey_bytes + 2 * BLOB_PADDING);
    if (link == NULL || blob == NULL) {
        free(link);
        free(blob);
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the KV peer %s", peer->name);
    }
    *link = (ucx_link){.ucx = ucx, .peer = peer, .base = base, .next = ucx->links};
    ucx->links = link;
    peer->backend = link;
    memcpy(blob, address, address_bytes);
    memcpy(blob + address_bytes + BLOB_PADDING, rkey, rkey_bytes);
    ucs_status_t opened = open_endpoint(link, blob, blob + address_bytes + BLOB_PADDING);
    free(blob);
    if (opened != UCS_OK)
        return proa_error_set(err, PROA_ERR_UNREACHABLE,
                              "%s: UCX cannot connect: %s; both ends need a transport in common (UCX_TLS, "
                              "UCX_NET_DEVICES)",
                              peer->name, ucx->lib.ucs_status_string(opened));
    return PROA_OK;
}

static void ucx_close(proa_kv_peer *peer)
{
    ucx_state *ucx = peer->transfer->state;
    ucx_link *link = peer->backend;
    if (link == NULL)
        return;
    link->peer = NULL;
    ucp_request_param_t params = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA,
        .flags = UCP_EP_CLOSE_FLAG_FORCE,
        .cb.send = on_closed,
        .user_data = link,
    };
    ucs_status_ptr_t request =
        link->ep != NULL ? ucx->lib.ucp_ep_close_nbx(link->ep, &params) : (ucs_status_ptr_t)NULL;
    if (!UCS_PTR_IS_PTR(request))
        free_link(link);
}

/* The lanes that UCX prints for an endpoint, "lane[0]:  2:tcp/eth0.0 md[1] -> ...", become "tcp/eth0, ...". */
static void find_path(const ucx_link *link)
{
    char *text = NULL, *path = link->peer->path;
    size_t bytes = 0, most = sizeof link->peer->path, used = 0;
    FILE *stream = open_memstream(&text, &bytes);
    if (stream == NULL)
        return;
    link->ucx->lib.ucp_ep_print_info(link->ep, stream);
    fclose(stream);
    char name[64];
    for (const char *at = text; at != NULL && (at = strstr(at, "lane[")) != NULL; at++) {
        if (sscanf(at, "lane[%*d]: %*d:%63[^. ]", name) == 1 && strstr(path, name) == NULL && used < most)
            used += (size_t)snprintf(path + used, most - used, "%s%s", used > 0 ? ", " : "", name);
    }
    free(text);
}

/* --- writes --- */

static proa_status ucx_begin(proa_kv_write_state *write)
{
    ucx_state *ucx = write->peer->transfer->state;
    ucx_write *w = calloc(1, sizeof *w);
    if (w == NULL)
        return PROA_ERR_MEMORY;
    *w = (ucx_write){.ucx = ucx, .write = write, .next = ucx->writes};
    ucx->writes = w;
    write->backend = w;
    return PROA_OK;
}

static void free_if_over(ucx_write *w)
{
    if (w->write != NULL || w->in_flight > 0)
        return;
    ucx_write **at = &w->ucx->writes;
    while (*at != w)
        at = &(*at)->next;
    *at = w->next;
    free(w);
}

static void ucx_forget(proa_kv_write_state *write)
{
    ucx_write *w = write->backend;
    w->write = NULL;
    free_if_over(w);
}

static void fail_write(ucx_write *w, const char *what, ucs_status_t status)
{
    if (w->write != NULL)
        proa_kv_peer_fail(w->write->peer, status_of(status), "KV peer %s is lost: %s: UCX: %s",
                          w->write->peer->name, what, w->ucx->lib.ucs_status_string(status));
}

static void on_put(void *request, ucs_status_t status, void *context)
{
    ucx_write *w = context;
    w->ucx->lib.ucp_request_free(request);
    w->ucx->in_flight--;
    if (status != UCS_OK)
        fail_write(w, "a put", status);
    w->in_flight--;
    free_if_over(w);
}

static void on_flush(void *request, ucs_status_t status, void *context)
{
    ucx_write *w = context;
    w->ucx->lib.ucp_request_free(request);
    if (status != UCS_OK)
        fail_write(w, "the flush", status);
    else if (w->write != NULL)
        proa_kv_write_end(w->write, PROA_OK);
    w->in_flight--;
    free_if_over(w);
}

static proa_status ucx_put(proa_kv_write_state *write, const proa_kv_chunk *chunk, proa_error *err)
{
    ucx_write *w = write->backend;
    ucx_state *ucx = w->ucx;
    const ucx_link *link = write->peer->backend;
    const char *base = write->peer->transfer->layout.base;
    if (ucx->in_flight >= WINDOW)
        return PROA_BUSY;
    ucp_request_param_t params = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA,
        .cb.send = on_put,
        .user_data = w,
    };
    w->in_flight++; /* so that it outlives an error handler that is called in here */
    ucs_status_ptr_t request = ucx->lib.ucp_put_nbx(link->ep, base + chunk->from, chunk->bytes,
                                                    link->base + chunk->to, link->rkey, &params);
    if (UCS_PTR_IS_PTR(request)) {
        ucx->in_flight++;
        return PROA_OK;
    }
    w->in_flight--;
    free_if_over(w);
    if (request == NULL)
        return PROA_OK;
    return proa_error_set(err, status_of(UCS_PTR_STATUS(request)), "KV peer %s is lost: a put: UCX: %s",
                          write->peer->name, ucx->lib.ucs_status_string(UCS_PTR_STATUS(request)));
}

static proa_status ucx_flush(proa_kv_write_state *write, proa_error *err)
{
    ucx_write *w = write->backend;
    const ucx_link *link = write->peer->backend;
    if (write->peer->path[0] == 0)
        find_path(link);
    ucp_request_param_t params = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA,
        .cb.send = on_flush,
        .user_data = w,
    };
    ucs_status_ptr_t request = w->ucx->lib.ucp_ep_flush_nbx(link->ep, &params);
    if (UCS_PTR_IS_ERR(request))
        return proa_error_set(err, status_of(UCS_PTR_STATUS(request)),
                              "KV peer %s is lost: the flush: UCX: %s", write->peer->name,
                              w->ucx->lib.ucs_status_string(UCS_PTR_STATUS(request)));
    if (request != NULL)
        w->in_flight++;
    else
        proa_kv_write_end(write, PROA_OK);
    return PROA_OK;
}

/* --- end --- */

static void ucx_free(proa_kv_transfer *transfer)
{
    ucx_state *ucx = transfer->state;
    if (ucx == NULL)
        return;
    int64_t deadline = proa_clock_us() + CLOSE_US;
    while (ucx->links != NULL && proa_clock_us() < deadline)
        ucx->lib.ucp_worker_progress(ucx->writer);
    while (ucx->links != NULL)
        free_link(ucx->links);
    close_worker(ucx, ucx->writer);
    if (ucx->rkey != NULL)
        ucx->lib.ucp_rkey_buffer_release(ucx->rkey);
    if (ucx->memory != NULL)
        ucx->lib.ucp_mem_unmap(ucx->context, ucx->memory);
    if (ucx->context != NULL)
        ucx->lib.ucp_cleanup(ucx->context);
    if (ucx->logs)
        ucx->lib.ucs_log_pop_handler();
    while (ucx->writes != NULL) {
        ucx_write *next = ucx->writes->next;
        free(ucx->writes);
        ucx->writes = next;
    }
    if (ucx->epoll >= 0)
        close(ucx->epoll);
    if (ucx->lib.handle != NULL)
        dlclose(ucx->lib.handle);
    free(ucx);
}

const proa_kv_backend proa_kv_backend_ucx = {
    .name = "ucx",
    .create = ucx_create,
    .free = ucx_free,
    .fd = ucx_fd,
    .inbox_open = ucx_inbox_open,
    .inbox_close = ucx_inbox_close,
    .connect = ucx_connect,
    .close = ucx_close,
    .begin = ucx_begin,
    .forget = ucx_forget,
    .put = ucx_put,
    .flush = ucx_flush,
    .progress = ucx_progress,
};

/* --- for proa doctor --- */

static proa_ucx_class class_of(const char *transport)
{
    static const struct {
        const char *prefix;
        proa_ucx_class class;
    } table[] = {
        {"self", PROA_UCX_SELF},  {"posix", PROA_UCX_SHARED}, {"sysv", PROA_UCX_SHARED},
        {"cma", PROA_UCX_SHARED}, {"xpmem", PROA_UCX_SHARED}, {"knem", PROA_UCX_SHARED},
        {"tcp", PROA_UCX_TCP},    {"rc", PROA_UCX_RDMA},      {"dc", PROA_UCX_RDMA},
        {"ud", PROA_UCX_RDMA},    {"cuda", PROA_UCX_GPU},     {"gdr", PROA_UCX_GPU},
        {"rocm", PROA_UCX_GPU},   {"ze", PROA_UCX_GPU},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (strncmp(transport, table[i].prefix, strlen(table[i].prefix)) == 0)
            return table[i].class;
    return PROA_UCX_OTHER;
}

/* UCX has no call that lists them, but prints lines: "#      resource 2  :  md 1  dev 2  flags -- tcp/eth0". */
static void read_resources(const char *text, proa_ucx_info *info)
{
    static const char mark[] = " resource ";
    for (const char *at = text; (at = strstr(at, mark)) != NULL && info->count < PROA_UCX_RESOURCES_MAX;) {
        at += sizeof mark - 1;
        char line[256];
        snprintf(line, sizeof line, "%.*s", (int)strcspn(at, "\n"), at);
        const char *name = strrchr(line, ' ');
        proa_ucx_resource *r = &info->resources[info->count];
        if (name == NULL || sscanf(name, " %23[^/]/%39s", r->transport, r->device) != 2)
            continue;
        r->class = class_of(r->transport);
        info->count++;
    }
}

proa_status proa_ucx_probe(proa_ucx_info *info, proa_error *err)
{
    ucx_state ucx = {0};
    ucp_config_t *config = NULL;
    char *text = NULL;
    size_t length = 0;
    *info = (proa_ucx_info){0};
    proa_status status = load(&ucx.lib, err);
    if (proa_failed(status))
        return status;
    snprintf(info->version, sizeof info->version, "%s", ucx.lib.ucp_get_version_string());
    status = open_context(&ucx, &(proa_kv_transfer_options){0}, err);
    if (proa_failed(status))
        return status;
    if (ucx.lib.ucp_config_read(NULL, NULL, &config) == UCS_OK) {
        setting_of(&ucx.lib, config, "UCX_TLS=", info->tls, sizeof info->tls);
        setting_of(&ucx.lib, config, "UCX_NET_DEVICES=", info->net_devices, sizeof info->net_devices);
        ucx.lib.ucp_config_release(config);
    }
    FILE *stream = open_memstream(&text, &length);
    if (stream != NULL) {
        ucx.lib.ucp_context_print_info(ucx.context, stream);
        fclose(stream);
        read_resources(text, info);
    }
    free(text);
    ucx.lib.ucp_cleanup(ucx.context);
    return PROA_OK;
}
