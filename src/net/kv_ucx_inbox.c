/* kv_ucx_inbox.c - the side that is written to: a worker of its own for each inbox, that takes rows in and answers.
 *
 * Callbacks only note what has come; endpoints are made and answers sent by the drive, outside of them. A rendezvous names its
 * ucx_incoming until it has ended: those live until the worker is destroyed.
 */
#include "net/kv_ucx_internal.h"

#include "base/log.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum {
    CLOSE_TURNS = 64,    /* of progress, for the forced close of the endpoint back */
    INCOMING_MAX = 4096, /* unfinished writes */
};

/* A write as its receiver sees it. */
typedef struct ucx_incoming {
    struct ucx_inbox *inbox;
    uint64_t write;
    uint64_t received;
    uint64_t total;  /* what END says */
    int32_t pulling; /* rendezvous that have not ended */
    bool ended;
    bool failed;
    bool answered; /* DONE is on its way */
    uint8_t header[PROA_KV_MESSAGE_BYTES];
    struct ucx_incoming *next;
} ucx_incoming;

typedef struct ucx_inbox {
    proa_kv_ucx *ucx;
    ucp_worker_h worker;
    uint8_t token[PROA_KV_TOKEN_BYTES];
    uint8_t *hello; /* the writer's address, until `back` is made */
    size_t hello_bytes;
    ucp_ep_h back;
    bool lost;       /* the writer */
    bool complained; /* of strangers */
    int32_t incoming_count;
    ucx_incoming *incoming;
} ucx_inbox;

/* --- inbox: messages in --- */

static bool is_ours(ucx_inbox *inbox, const void *header, size_t length, uint64_t *write, uint64_t *value)
{
    bool ours = proa_kv_message_get(header, length, inbox->token, write, value);
    if (!ours && !inbox->complained)
        proa_log(PROA_LOG_WARN, "ucx",
                 "a message without the KV inbox's token was dropped: who else writes here?");
    inbox->complained = inbox->complained || !ours;
    return ours;
}

static ucx_incoming *incoming_of(ucx_inbox *inbox, uint64_t write)
{
    ucx_incoming *in = inbox->incoming;
    while (in != NULL && in->write != write)
        in = in->next;
    if (in != NULL || inbox->incoming_count == INCOMING_MAX)
        return in;
    in = calloc(1, sizeof *in);
    if (in == NULL)
        return NULL;
    *in = (ucx_incoming){.inbox = inbox, .write = write, .next = inbox->incoming};
    inbox->incoming = in;
    inbox->incoming_count++;
    return in;
}

static void free_incoming(ucx_incoming *in)
{
    ucx_incoming **at = &in->inbox->incoming;
    while (*at != in)
        at = &(*at)->next;
    *at = in->next;
    in->inbox->incoming_count--;
    free(in);
}

static ucs_status_t on_hello(void *context, const void *header, size_t header_bytes, void *data, size_t bytes,
                             const ucp_am_recv_param_t *param)
{
    ucx_inbox *inbox = context;
    uint64_t write, value;
    if (!is_ours(inbox, header, header_bytes, &write, &value) || inbox->hello != NULL ||
        inbox->back != NULL || param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV ||
        bytes > PROA_KV_DESCRIPTOR_BYTES_MAX)
        return UCS_OK;
    inbox->hello = malloc(bytes + 1); /* the endpoint is made outside of this callback */
    if (inbox->hello != NULL)
        memcpy(inbox->hello, data, bytes);
    inbox->hello_bytes = bytes;
    return UCS_OK;
}

static void on_pulled(void *request, ucs_status_t status, size_t bytes, void *context)
{
    ucx_incoming *in = context;
    in->inbox->ucx->lib.ucp_request_free(request);
    in->pulling--;
    in->failed = in->failed || status != UCS_OK;
    in->received += status == UCS_OK ? bytes : 0;
}

/* Large rows: announced, and fetched from the writer's memory straight into the cache. */
static void pull(ucx_incoming *in, void *announced, char *to, size_t bytes)
{
    proa_kv_ucx *ucx = in->inbox->ucx;
    ucp_request_param_t params = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA,
        .cb.recv_am = on_pulled,
        .user_data = in,
    };
    ucs_status_ptr_t request =
        ucx->lib.ucp_am_recv_data_nbx(in->inbox->worker, announced, to, bytes, &params);
    if (UCS_PTR_IS_ERR(request))
        in->failed = true;
    else if (request != NULL)
        in->pulling++;
    else
        in->received += bytes;
}

static ucs_status_t on_rows(void *context, const void *header, size_t header_bytes, void *data, size_t bytes,
                            const ucp_am_recv_param_t *param)
{
    ucx_inbox *inbox = context;
    const proa_kv_layout *layout = &inbox->ucx->transfer->layout;
    uint64_t write, offset;
    ucx_incoming *in =
        is_ours(inbox, header, header_bytes, &write, &offset) ? incoming_of(inbox, write) : NULL;
    bool announced = param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV;
    if (in != NULL && !proa_kv_message_fits(offset, bytes, proa_kv_layout_bytes(layout)))
        in->failed = true;
    if (in == NULL || in->failed)
        return announced ? UCS_ERR_REJECTED : UCS_OK;
    if (announced) {
        pull(in, data, (char *)layout->base + offset, bytes);
    } else {
        memcpy((char *)layout->base + offset, data, bytes);
        in->received += bytes;
    }
    return UCS_OK;
}

static ucs_status_t on_end(void *context, const void *header, size_t header_bytes, void *data, size_t bytes,
                           const ucp_am_recv_param_t *param)
{
    ucx_inbox *inbox = context;
    uint64_t write, total;
    (void)data;
    (void)bytes;
    (void)param;
    ucx_incoming *in =
        is_ours(inbox, header, header_bytes, &write, &total) ? incoming_of(inbox, write) : NULL;
    if (in != NULL) {
        in->ended = true;
        in->total = total;
    }
    return UCS_OK;
}

/* --- inbox: answers --- */

static void on_back_error(void *context, ucp_ep_h ep, ucs_status_t status)
{
    ucx_inbox *inbox = context;
    (void)ep;
    (void)status; /* the writer's death is its session's to tell */
    inbox->lost = true;
}

static void on_answered(void *request, ucs_status_t status, void *context)
{
    ucx_incoming *in = context;
    (void)status;
    in->inbox->ucx->lib.ucp_request_free(request);
    free_incoming(in);
}

static void open_back(ucx_inbox *inbox)
{
    inbox->lost |= proa_ucx_endpoint_open(&inbox->ucx->lib, inbox->worker, inbox->hello, inbox->hello_bytes,
                                          on_back_error, inbox, &inbox->back) != UCS_OK;
    free(inbox->hello);
    inbox->hello = NULL;
}

static void answer(ucx_incoming *in)
{
    ucx_inbox *inbox = in->inbox;
    ucp_request_param_t params = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA,
        .cb.send = on_answered,
        .user_data = in,
    };
    in->answered = true;
    proa_kv_message_put(in->header, inbox->token, in->write, in->failed || in->received != in->total);
    ucs_status_ptr_t request = inbox->ucx->lib.ucp_am_send_nbx(inbox->back, PROA_KV_DONE, in->header,
                                                               PROA_KV_MESSAGE_BYTES, NULL, 0, &params);
    if (!UCS_PTR_IS_PTR(request))
        free_incoming(in);
}

/* What the messages have left to do. True when anything was sent. */
static bool answer_all(ucx_inbox *inbox)
{
    bool any = false;
    if (inbox->hello != NULL)
        open_back(inbox);
    for (ucx_incoming *in = inbox->incoming, *next; in != NULL && inbox->back != NULL && !inbox->lost;
         in = next) {
        next = in->next;
        bool over = in->ended && in->pulling == 0 && (in->failed || in->received >= in->total);
        if (over && !in->answered) {
            answer(in);
            any = true;
        }
    }
    return any;
}

bool proa_kv_ucx_inbox_drive(proa_kv_inbox *outer, int64_t deadline_us)
{
    ucx_inbox *inbox = outer->backend;
    bool more = proa_ucx_worker_drive(&inbox->ucx->lib, inbox->worker, deadline_us);
    return answer_all(inbox) ? proa_ucx_worker_drive(&inbox->ucx->lib, inbox->worker, deadline_us) || more
                             : more;
}

proa_status proa_kv_ucx_inbox_open(proa_kv_inbox *outer, proa_buf *out, proa_error *err)
{
    proa_kv_ucx *ucx = outer->transfer->state;
    ucx_inbox *inbox = calloc(1, sizeof *inbox);
    if (inbox == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a KV inbox");
    outer->backend = inbox;
    inbox->ucx = ucx;
    PROA_ASSERT(getrandom(inbox->token, PROA_KV_TOKEN_BYTES, 0) == PROA_KV_TOKEN_BYTES);
    proa_status status = proa_ucx_worker_open(&ucx->lib, ucx->epoll, &inbox->worker, err);
    if (proa_failed(status))
        return status;
    ucp_address_t *address = NULL;
    size_t address_bytes = 0;
    ucs_status_t got = proa_ucx_worker_handle(&ucx->lib, inbox->worker, PROA_KV_HELLO, on_hello, inbox);
    if (got == UCS_OK)
        got = proa_ucx_worker_handle(&ucx->lib, inbox->worker, PROA_KV_ROWS, on_rows, inbox);
    if (got == UCS_OK)
        got = proa_ucx_worker_handle(&ucx->lib, inbox->worker, PROA_KV_END, on_end, inbox);
    if (got == UCS_OK)
        got = ucx->lib.ucp_worker_get_address(inbox->worker, &address, &address_bytes);
    if (got != UCS_OK)
        return proa_error_set(err, PROA_ERR_IO, "UCX cannot make a KV inbox: %s",
                              ucx->lib.ucs_status_string(got));
    proa_buf_append(out, inbox->token, PROA_KV_TOKEN_BYTES);
    proa_put_u32(out, (uint32_t)address_bytes);
    proa_buf_append(out, address, address_bytes);
    ucx->lib.ucp_worker_release_address(inbox->worker, address);
    return PROA_OK;
}

void proa_kv_ucx_inbox_close(proa_kv_inbox *outer)
{
    ucx_inbox *inbox = outer->backend;
    if (inbox == NULL)
        return;
    proa_ucx_endpoint_close(&inbox->ucx->lib, inbox->worker, inbox->back, CLOSE_TURNS);
    proa_ucx_worker_close(&inbox->ucx->lib, inbox->ucx->epoll, inbox->worker);
    while (inbox->incoming != NULL)
        free_incoming(inbox->incoming);
    free(inbox->hello);
    free(inbox);
}
