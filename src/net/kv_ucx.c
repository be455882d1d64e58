/* kv_ucx.c - KV rows by UCX's active messages. This is the side that writes; kv_ucx_inbox.c is the other.
 *
 *   writer's worker                          inbox's worker (one for each inbox)
 *     HELLO  address of the writer's worker ──>  makes an endpoint back
 *     ROWS   write, offset; the rows        ──>  small ones are copied out of the message; large ones are announced and the
 *     ROWS   ...                                 receiver fetches them (rendezvous: RDMA read, or process_vm_readv on a host)
 *     END    write, bytes in all            ──>  when all of them are there:
 *                                           <──  DONE  write, status
 *
 * Why not puts into the peer's memory: over TCP, and over shared memory that UCX has not made itself, UCX 1.13 emulates a put by a
 * message, whose receiver aborts when the writer has died meanwhile (measured: kill -9 of the writer, "Fatal: unexpected error:
 * Endpoint timeout"), and writes wherever any stranger who reaches its port says. Here, the receiver checks that a message has its
 * inbox's token and that the rows lie in its cache; it moves every byte itself, so that a closed inbox is closed, on every
 * transport and whatever a writer that was stopped does when it goes on.
 *
 * The workers' descriptors stand in one epoll set, which is the transfer's descriptor: a worker is armed when it has nothing left to
 * do. What UCX still names when a peer is closed lives on until UCX lets go: an endpoint until its forced close is done and its
 * last message sent (ucx_link). At the end of the transfer that is waited for, CLOSE_US at most; then the worker is
 * destroyed and nothing can call back any more.
 */
#include "net/kv_ucx_internal.h"

#include "base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <unistd.h>

enum {
    WINDOW = 32, /* ROWS in flight, for all peers together; less than the 64 slots of shared memory's queue */
    TURN_US = 500,     /* of progress, for all workers together */
    CLOSE_US = 200000, /* for forced closes at the end of the transfer */
};

typedef struct ucx_link ucx_link;
typedef struct ucx_send ucx_send;

/* An endpoint to an inbox: a peer's, and then on its own until it is closed. */
struct ucx_link {
    proa_kv_ucx *ucx;
    proa_kv_peer *peer; /* NULL: closed by us */
    ucp_ep_h ep;
    uint8_t token[PROA_KV_TOKEN_BYTES];
    int32_t sends;
    bool closed; /* the endpoint is no more */
    ucx_link *next;
};

/* A message that UCX has not yet done with. */
struct ucx_send {
    ucx_link *link;
    bool is_rows;
    uint8_t header[PROA_KV_MESSAGE_BYTES];
    ucx_send *next;
};

static proa_status register_cache(proa_kv_ucx *ucx, const proa_kv_layout *layout, proa_error *err)
{
    ucp_mem_map_params_t params = {
        .field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH,
        .address = layout->base,
        .length = proa_kv_layout_bytes(layout),
    };
    ucs_status_t status = ucx->lib.ucp_mem_map(ucx->lib.context, &params, &ucx->memory);
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
    proa_kv_ucx *ucx = calloc(1, sizeof *ucx);
    if (ucx == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a UCX transfer");
    transfer->state = ucx;
    ucx->transfer = transfer;
    PROA_ASSERT(getrandom(&ucx->write_last, sizeof ucx->write_last, 0) == sizeof ucx->write_last);
    ucx->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (ucx->epoll < 0)
        return proa_error_set(err, PROA_ERR_IO, "epoll_create1: %s", strerror(errno));
    proa_status status = proa_ucx_load(&ucx->lib, err);
    if (!proa_failed(status))
        status = proa_ucx_open(&ucx->lib, options->ucx_tls, options->ucx_net_devices, err);
    if (!proa_failed(status))
        status = register_cache(ucx, &transfer->layout, err);
    return status;
}

static int ucx_fd(const proa_kv_transfer *transfer)
{
    return ((const proa_kv_ucx *)transfer->state)->epoll;
}

/* --- peers --- */

/* A link without its endpoint, and without a message on its way, goes. */
static void free_if_over(ucx_link *link)
{
    if (!link->closed || link->sends > 0)
        return;
    ucx_link **at = &link->ucx->links;
    while (*at != link)
        at = &(*at)->next;
    *at = link->next;
    free(link);
}

static void on_endpoint_error(void *context, ucp_ep_h ep, ucs_status_t status)
{
    ucx_link *link = context;
    (void)ep;
    if (link->peer != NULL)
        proa_kv_peer_fail(link->peer, PROA_ERR_UNREACHABLE, "KV peer %s is lost: UCX: %s", link->peer->name,
                          link->ucx->lib.ucs_status_string(status));
}

static void on_closed(void *request, ucs_status_t status, void *context)
{
    ucx_link *link = context;
    (void)status;
    link->ucx->lib.ucp_request_free(request);
    link->closed = true;
    free_if_over(link);
}

static ucx_send *take_send(ucx_link *link, uint64_t write, uint64_t value, bool is_rows)
{
    proa_kv_ucx *ucx = link->ucx;
    ucx_send *send = ucx->spare;
    if (send != NULL)
        ucx->spare = send->next;
    else
        send = calloc(1, sizeof *send);
    if (send == NULL)
        return NULL;
    *send = (ucx_send){.link = link, .is_rows = is_rows, .next = ucx->sends};
    ucx->sends = send;
    ucx->in_flight += is_rows;
    link->sends++;
    proa_kv_message_put(send->header, link->token, write, value);
    return send;
}

static void give_send(ucx_send *send)
{
    ucx_link *link = send->link;
    proa_kv_ucx *ucx = link->ucx;
    ucx_send **at = &ucx->sends;
    while (*at != send)
        at = &(*at)->next;
    *at = send->next;
    send->next = ucx->spare;
    ucx->spare = send;
    ucx->in_flight -= send->is_rows;
    link->sends--;
    free_if_over(link);
}

static void on_sent(void *request, ucs_status_t status, void *context)
{
    ucx_send *send = context;
    proa_kv_peer *peer = send->link->peer;
    const proa_ucx *lib = &send->link->ucx->lib;
    lib->ucp_request_free(request);
    if (status != UCS_OK && peer != NULL)
        proa_kv_peer_fail(peer, PROA_ERR_UNREACHABLE, "KV peer %s is lost: a message: UCX: %s", peer->name,
                          lib->ucs_status_string(status));
    give_send(send);
}

static proa_status post(ucx_link *link, unsigned id, uint64_t write, uint64_t value, const void *data,
                        size_t bytes, proa_error *err)
{
    const proa_ucx *lib = &link->ucx->lib;
    const char *name = link->peer->name;
    ucx_send *send = take_send(link, write, value, id == PROA_KV_ROWS);
    if (send == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a KV message to %s", name);
    ucp_request_param_t params = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS,
        .cb.send = on_sent,
        .user_data = send,
        .flags = id == PROA_KV_ROWS ? 0 : UCP_AM_SEND_FLAG_EAGER,
    };
    ucs_status_ptr_t request =
        lib->ucp_am_send_nbx(link->ep, id, send->header, PROA_KV_MESSAGE_BYTES, data, bytes, &params);
    if (UCS_PTR_IS_PTR(request))
        return PROA_OK;
    give_send(send);
    if (request == NULL)
        return PROA_OK;
    return proa_error_set(err, PROA_ERR_UNREACHABLE, "KV peer %s is lost: a message: UCX: %s", name,
                          lib->ucs_status_string(UCS_PTR_STATUS(request)));
}

static ucs_status_t on_done(void *context, const void *header, size_t header_bytes, void *data, size_t bytes,
                            const ucp_am_recv_param_t *param);

static proa_status open_writer(proa_kv_ucx *ucx, proa_error *err)
{
    if (ucx->writer != NULL)
        return PROA_OK;
    proa_status status = proa_ucx_worker_open(&ucx->lib, ucx->epoll, &ucx->writer, err);
    if (proa_failed(status))
        return status;
    ucs_status_t got = proa_ucx_worker_handle(&ucx->lib, ucx->writer, PROA_KV_DONE, on_done, ucx);
    if (got == UCS_OK)
        got = ucx->lib.ucp_worker_get_address(ucx->writer, &ucx->address, &ucx->address_bytes);
    if (got == UCS_OK)
        return PROA_OK;
    proa_ucx_worker_close(&ucx->lib, ucx->epoll, ucx->writer);
    ucx->writer = NULL;
    return proa_error_set(err, PROA_ERR_IO, "UCX cannot make a worker to write with: %s",
                          ucx->lib.ucs_status_string(got));
}

static proa_status open_link(ucx_link *link, const void *address, size_t bytes, proa_error *err)
{
    const proa_ucx *lib = &link->ucx->lib;
    ucs_status_t status =
        proa_ucx_endpoint_open(lib, link->ucx->writer, address, bytes, on_endpoint_error, link, &link->ep);
    if (status != UCS_OK)
        return proa_error_set(err, PROA_ERR_UNREACHABLE,
                              "%s: UCX cannot connect: %s; both ends need a transport in common (UCX_TLS, "
                              "UCX_NET_DEVICES)",
                              link->peer->name, lib->ucs_status_string(status));
    return post(link, PROA_KV_HELLO, 0, 0, link->ucx->address, link->ucx->address_bytes, err);
}

static proa_status ucx_connect(proa_kv_peer *peer, const proa_kv_descriptor *descriptor, proa_error *err)
{
    proa_kv_ucx *ucx = peer->transfer->state;
    proa_reader r = proa_reader_of(descriptor->backend, descriptor->backend_bytes);
    const uint8_t *token = proa_get_bytes(&r, PROA_KV_TOKEN_BYTES);
    uint32_t address_bytes = proa_get_count(&r, PROA_KV_DESCRIPTOR_BYTES_MAX, 1);
    const uint8_t *address = proa_get_bytes(&r, address_bytes);
    if (!proa_reader_done(&r) || address_bytes == 0)
        return proa_error_set(err, PROA_ERR_PROTOCOL, "%s: malformed UCX KV descriptor", peer->name);
    proa_status status = open_writer(ucx, err);
    if (proa_failed(status))
        return status;
    ucx_link *link = calloc(1, sizeof *link);
    if (link == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the KV peer %s", peer->name);
    *link = (ucx_link){.ucx = ucx, .peer = peer, .next = ucx->links};
    memcpy(link->token, token, PROA_KV_TOKEN_BYTES);
    ucx->links = link;
    peer->backend = link;
    return open_link(link, address, address_bytes, err);
}

static void ucx_close(proa_kv_peer *peer)
{
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
    ucs_status_ptr_t request = link->ep != NULL ? link->ucx->lib.ucp_ep_close_nbx(link->ep, &params) : NULL;
    if (UCS_PTR_IS_PTR(request))
        return;
    link->closed = true;
    free_if_over(link);
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
    proa_kv_ucx *ucx = write->peer->transfer->state;
    write->number = ++ucx->write_last;
    return PROA_OK;
}

static void ucx_forget(proa_kv_write_state *write)
{
    (void)write; /* messages name a write by number, and their link */
}

static proa_status ucx_put(proa_kv_write_state *write, const proa_kv_chunk *chunk, proa_error *err)
{
    const proa_kv_ucx *ucx = write->peer->transfer->state;
    const char *base = write->peer->transfer->layout.base;
    if (ucx->in_flight >= WINDOW)
        return PROA_BUSY;
    return post(write->peer->backend, PROA_KV_ROWS, write->number, chunk->to, base + chunk->from,
                chunk->bytes, err);
}

static proa_status ucx_flush(proa_kv_write_state *write, proa_error *err)
{
    return post(write->peer->backend, PROA_KV_END, write->number, write->result.bytes, NULL, 0, err);
}

/* The flushed write of that number, of a peer whose inbox has the token that DONE shows. */
static proa_kv_write_state *find_write(const proa_kv_ucx *ucx, const void *header, size_t bytes,
                                       uint64_t *failed)
{
    for (const proa_kv_peer *peer = ucx->transfer->peers; peer != NULL; peer = peer->next) {
        const ucx_link *link = peer->backend;
        uint64_t number;
        if (!proa_kv_message_get(header, bytes, link->token, &number, failed))
            continue;
        for (proa_kv_write_state *write = peer->writes; write != NULL; write = write->next) {
            if (write->number == number && write->phase == PROA_KV_WRITE_FLUSHING)
                return write;
        }
    }
    return NULL;
}

static ucs_status_t on_done(void *context, const void *header, size_t header_bytes, void *data, size_t bytes,
                            const ucp_am_recv_param_t *param)
{
    uint64_t failed = 0;
    (void)data;
    (void)bytes;
    (void)param;
    proa_kv_write_state *write = find_write(context, header, header_bytes, &failed);
    if (write == NULL)
        return UCS_OK;
    if (failed != 0) {
        proa_kv_peer_fail(write->peer, PROA_ERR_UNREACHABLE, "KV peer %s could not take all rows of a write",
                          write->peer->name);
        return UCS_OK;
    }
    if (write->peer->path[0] == 0)
        find_path(write->peer->backend);
    proa_kv_write_end(write, PROA_OK);
    return UCS_OK;
}

static bool ucx_progress(proa_kv_transfer *transfer)
{
    proa_kv_ucx *ucx = transfer->state;
    int64_t deadline = proa_clock_us() + TURN_US;
    bool more = ucx->writer != NULL && proa_ucx_worker_drive(&ucx->lib, ucx->writer, deadline);
    for (proa_kv_inbox *inbox = transfer->inboxes; inbox != NULL; inbox = inbox->next)
        more = proa_kv_ucx_inbox_drive(inbox, deadline) || more;
    return more;
}

/* --- end --- */

static void free_sends(ucx_send *send)
{
    while (send != NULL) {
        ucx_send *next = send->next;
        free(send);
        send = next;
    }
}

static void close_writer(proa_kv_ucx *ucx)
{
    int64_t deadline = proa_clock_us() + CLOSE_US;
    while (ucx->links != NULL && ucx->writer != NULL && proa_clock_us() < deadline)
        ucx->lib.ucp_worker_progress(ucx->writer);
    if (ucx->address != NULL)
        ucx->lib.ucp_worker_release_address(ucx->writer, ucx->address);
    proa_ucx_worker_close(&ucx->lib, ucx->epoll, ucx->writer);
    free_sends(ucx->sends); /* of links that UCX has not let go of; it can name them no more */
    free_sends(ucx->spare);
    while (ucx->links != NULL) {
        ucx_link *next = ucx->links->next;
        free(ucx->links);
        ucx->links = next;
    }
}

static void ucx_free(proa_kv_transfer *transfer)
{
    proa_kv_ucx *ucx = transfer->state;
    if (ucx == NULL)
        return;
    close_writer(ucx);
    if (ucx->memory != NULL)
        ucx->lib.ucp_mem_unmap(ucx->lib.context, ucx->memory);
    proa_ucx_close(&ucx->lib);
    if (ucx->epoll >= 0)
        close(ucx->epoll);
    free(ucx);
}

const proa_kv_backend proa_kv_backend_ucx = {
    .name = "ucx",
    .create = ucx_create,
    .free = ucx_free,
    .fd = ucx_fd,
    .inbox_open = proa_kv_ucx_inbox_open,
    .inbox_close = proa_kv_ucx_inbox_close,
    .connect = ucx_connect,
    .close = ucx_close,
    .begin = ucx_begin,
    .forget = ucx_forget,
    .put = ucx_put,
    .flush = ucx_flush,
    .progress = ucx_progress,
};
