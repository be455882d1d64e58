/* post_ucx.c - messages by UCX's active messages, on a worker of the owner's thread.
 *
 * An address is a token and UCX's own address: what comes without our token is dropped, so that a stranger who finds the port writes
 * nothing. Ranks of a host talk by TCP on loopback, not through queues in shared memory, which a rank that dies can stop for all (ucx.c).
 * Small payloads travel with the message and are copied where `land` says; large ones are announced and fetched from the
 * sender's memory. Callbacks of UCX make no calls of UCX that could come back here: endpoints are closed in progress().
 */
#include "net/bytes.h"
#include "net/post_internal.h"
#include "net/ucx.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

enum {
    AM_ID = 1,
    TOKEN_BYTES = 8,
    HEADER_BYTES = TOKEN_BYTES + 4 + PROA_POST_HEADER_BYTES,
    UNDER_WAY = 8,     /* messages to one rank, and payloads from one rank, at once */
    CLOSE_TURNS = 256, /* of progress, for forced closes */
};

typedef struct ucx_post ucx_post;

typedef struct outgoing {
    struct end *end;
    uint8_t header[HEADER_BYTES];
    bool used;
} outgoing;

typedef struct incoming {
    ucx_post *u;
    int32_t from;
    uint32_t life; /* of the end, when it began */
    uint8_t header[PROA_POST_HEADER_BYTES];
    size_t bytes;
    bool used;
} incoming;

/* What is known of one other rank. */
typedef struct end {
    ucx_post *u;
    int32_t rank;
    ucp_ep_h ep; /* NULL: not connected */
    uint8_t token[TOKEN_BYTES];
    bool broken; /* UCX has said so; told in progress() */
    ucs_status_t why;
    uint32_t life; /* counts connects and disconnects */
    outgoing out[UNDER_WAY];
    incoming in[UNDER_WAY];
} end;

struct ucx_post {
    proa_post post;
    proa_ucx lib;
    ucp_worker_h worker;
    int epoll;
    int bell; /* eventfd */
    uint8_t token[TOKEN_BYTES];
    bool any_broken;
    bool worked; /* a callback has run since progress() began */
    end *ends;   /* [ranks] */
};

static ucx_post *of(const proa_post *post)
{
    return (ucx_post *)(uintptr_t)post;
}

/* ---- in ---- */

static void on_fetched(void *request, ucs_status_t status, size_t bytes, void *context)
{
    incoming *in = context;
    ucx_post *u = in->u;
    (void)bytes;
    u->lib.ucp_request_free(request);
    u->worked = true;
    in->used = false;
    u->post.landing[in->from]--;
    if (status == UCS_OK && in->life == u->ends[in->from].life)
        u->post.hooks.landed(u->post.hooks.context, in->from, in->header, in->bytes);
}

static ucs_status_t fetch(ucx_post *u, end *e, const uint8_t *header, void *announced, void *to, size_t bytes)
{
    incoming *in = NULL;
    for (int i = 0; i < UNDER_WAY && in == NULL; i++)
        in = e->in[i].used ? NULL : &e->in[i];
    if (in == NULL)
        return UCS_ERR_REJECTED;
    *in = (incoming){.u = u, .from = e->rank, .life = e->life, .bytes = bytes, .used = true};
    memcpy(in->header, header, PROA_POST_HEADER_BYTES);
    ucp_request_param_t params = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA,
        .cb.recv_am = on_fetched,
        .user_data = in,
    };
    ucs_status_ptr_t request = u->lib.ucp_am_recv_data_nbx(u->worker, announced, to, bytes, &params);
    if (UCS_PTR_IS_PTR(request)) {
        u->post.landing[e->rank]++;
        return UCS_OK;
    }
    in->used = false;
    if (request == NULL)
        u->post.hooks.landed(u->post.hooks.context, e->rank, header, bytes);
    return UCS_OK;
}

static ucs_status_t on_message(void *context, const void *header, size_t header_bytes, void *data,
                               size_t bytes, const ucp_am_recv_param_t *param)
{
    ucx_post *u = context;
    bool announced = param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV;
    ucs_status_t drop = announced ? UCS_ERR_REJECTED : UCS_OK;
    u->worked = true;
    if (header_bytes != HEADER_BYTES || memcmp(header, u->token, TOKEN_BYTES) != 0)
        return drop;
    proa_reader r = proa_reader_of((const uint8_t *)header + TOKEN_BYTES, header_bytes - TOKEN_BYTES);
    uint32_t from = proa_get_u32(&r);
    const uint8_t *own = (const uint8_t *)header + TOKEN_BYTES + 4;
    if (from >= (uint32_t)u->post.ranks || (int32_t)from == u->post.rank || u->ends[from].ep == NULL)
        return drop;
    void *to = u->post.hooks.land(u->post.hooks.context, (int32_t)from, own, bytes);
    if (to == NULL)
        return drop;
    if (announced)
        return fetch(u, &u->ends[from], own, data, to, bytes);
    if (bytes > 0)
        memcpy(to, data, bytes);
    u->post.hooks.landed(u->post.hooks.context, (int32_t)from, own, bytes);
    return UCS_OK;
}

/* ---- out ---- */

static void on_sent(void *request, ucs_status_t status, void *context)
{
    outgoing *out = context;
    ucx_post *u = out->end->u;
    (void)status; /* the end's error says it */
    u->lib.ucp_request_free(request);
    u->worked = true;
    out->used = false;
    u->post.pending[out->end->rank]--;
}

static proa_status ucx_send(proa_post *post, int32_t to, const uint8_t *header, const void *data,
                            size_t bytes, proa_error *err)
{
    ucx_post *u = of(post);
    end *e = &u->ends[to];
    outgoing *out = NULL;
    if (e->ep == NULL || e->broken)
        return proa_error_set(err, PROA_ERR_UNREACHABLE, "rank %d is not connected", to);
    for (int i = 0; i < UNDER_WAY && out == NULL; i++)
        out = e->out[i].used ? NULL : &e->out[i];
    PROA_ASSERT(out != NULL); /* all-to-alls have at most two a lane under way */
    memcpy(out->header, e->token, TOKEN_BYTES);
    out->header[TOKEN_BYTES] = (uint8_t)post->rank;
    out->header[TOKEN_BYTES + 1] = (uint8_t)(post->rank >> 8);
    out->header[TOKEN_BYTES + 2] = out->header[TOKEN_BYTES + 3] = 0;
    memcpy(out->header + TOKEN_BYTES + 4, header, PROA_POST_HEADER_BYTES);
    ucp_request_param_t params = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA,
        .cb.send = on_sent,
        .user_data = out,
    };
    ucs_status_ptr_t request =
        u->lib.ucp_am_send_nbx(e->ep, AM_ID, out->header, HEADER_BYTES, data, bytes, &params);
    if (UCS_PTR_IS_PTR(request)) {
        out->used = true;
        post->pending[to]++;
        return PROA_OK;
    }
    if (request == NULL)
        return PROA_OK;
    return proa_error_set(err, PROA_ERR_UNREACHABLE, "rank %d is lost: UCX: %s", to,
                          u->lib.ucs_status_string(UCS_PTR_STATUS(request)));
}

/* ---- ends ---- */

static void on_endpoint_error(void *context, ucp_ep_h ep, ucs_status_t status)
{
    end *e = context;
    if (e->ep != ep)
        return;
    e->broken = true;
    e->why = status;
    e->u->any_broken = e->u->worked = true;
}

static void ucx_disconnect(proa_post *post, int32_t rank)
{
    ucx_post *u = of(post);
    end *e = &u->ends[rank];
    ucp_ep_h ep = e->ep;
    if (ep == NULL)
        return;
    e->ep = NULL;
    e->broken = false;
    e->life++;
    proa_ucx_endpoint_close(&u->lib, u->worker, ep, CLOSE_TURNS);
}

static proa_status ucx_connect(proa_post *post, int32_t rank, const void *address, size_t bytes,
                               proa_error *err)
{
    ucx_post *u = of(post);
    end *e = &u->ends[rank];
    if (bytes <= TOKEN_BYTES || bytes > PROA_POST_ADDRESS_BYTES_MAX)
        return proa_error_set(err, PROA_ERR_PROTOCOL, "the UCX address of rank %d has %zu bytes", rank,
                              bytes);
    ucx_disconnect(post, rank);
    memcpy(e->token, address, TOKEN_BYTES);
    ucs_status_t status = proa_ucx_endpoint_open(&u->lib, u->worker, (const uint8_t *)address + TOKEN_BYTES,
                                                 bytes - TOKEN_BYTES, on_endpoint_error, e, &e->ep);
    if (status == UCS_OK)
        return PROA_OK;
    return proa_error_set(err, PROA_ERR_UNREACHABLE,
                          "UCX cannot connect to rank %d: %s; both ends need a transport in common (UCX_TLS, "
                          "UCX_NET_DEVICES)",
                          rank, u->lib.ucs_status_string(status));
}

static bool ucx_is_connected(const proa_post *post, int32_t rank)
{
    const end *e = &of(post)->ends[rank];
    return e->ep != NULL && !e->broken;
}

/* ---- progress ---- */

static void tell_broken(ucx_post *u)
{
    u->any_broken = false;
    for (int32_t i = 0; i < u->post.ranks; i++) {
        end *e = &u->ends[i];
        if (!e->broken || e->ep == NULL)
            continue;
        proa_error why;
        proa_error_set(&why, PROA_ERR_UNREACHABLE, "rank %d is lost: UCX: %s", i,
                       u->lib.ucs_status_string(e->why));
        ucx_disconnect(&u->post, i);
        u->post.hooks.lost(u->post.hooks.context, i, &why);
    }
}

static bool ucx_progress(proa_post *post)
{
    ucx_post *u = of(post);
    u->worked = false;
    while (u->lib.ucp_worker_progress(u->worker) != 0)
        ;
    if (u->any_broken)
        tell_broken(u);
    return u->worked;
}

static void ucx_wait(proa_post *post, int64_t timeout_us)
{
    ucx_post *u = of(post);
    struct epoll_event events[2];
    uint64_t rings;
    if (u->lib.ucp_worker_arm(u->worker) != UCS_OK)
        return; /* something has come */
    int count = epoll_wait(u->epoll, events, 2, (int)((timeout_us + 999) / 1000));
    if (count > 0 && read(u->bell, &rings, sizeof rings) < 0)
        return; /* it was not the bell */
}

static void ucx_wake(proa_post *post)
{
    const uint64_t one = 1;
    if (write(of(post)->bell, &one, sizeof one) < 0)
        return; /* it rings already */
}

/* ---- life ---- */

static void ucx_free(proa_post *post)
{
    ucx_post *u = of(post);
    for (int32_t i = 0; i < post->ranks && u->ends != NULL; i++)
        ucx_disconnect(post, i);
    if (u->worker != NULL)
        proa_ucx_worker_close(&u->lib, u->epoll, u->worker);
    proa_ucx_close(&u->lib);
    if (u->epoll >= 0)
        close(u->epoll);
    if (u->bell >= 0)
        close(u->bell);
    free(u->ends);
    free(post->address);
    proa_post_clear(post);
    free(u);
}

static const proa_post_ops ucx_ops = {
    .free = ucx_free,
    .connect = ucx_connect,
    .is_connected = ucx_is_connected,
    .disconnect = ucx_disconnect,
    .send = ucx_send,
    .progress = ucx_progress,
    .wait = ucx_wait,
    .wake = ucx_wake,
};

static proa_status open_descriptors(ucx_post *u, proa_error *err)
{
    struct epoll_event event = {.events = EPOLLIN};
    u->epoll = epoll_create1(EPOLL_CLOEXEC);
    u->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (u->epoll >= 0 && u->bell >= 0 && epoll_ctl(u->epoll, EPOLL_CTL_ADD, u->bell, &event) == 0)
        return PROA_OK;
    return proa_error_set(err, PROA_ERR_IO, "epoll or eventfd: %s", strerror(errno));
}

static proa_status make_address(ucx_post *u, proa_error *err)
{
    ucp_address_t *own = NULL;
    size_t bytes = 0;
    ucs_status_t status = u->lib.ucp_worker_get_address(u->worker, &own, &bytes);
    if (status != UCS_OK)
        return proa_error_set(err, PROA_ERR_IO, "UCX tells no address: %s", u->lib.ucs_status_string(status));
    u->post.address_bytes = TOKEN_BYTES + bytes;
    u->post.address = malloc(u->post.address_bytes);
    if (u->post.address != NULL) {
        memcpy(u->post.address, u->token, TOKEN_BYTES);
        memcpy((uint8_t *)u->post.address + TOKEN_BYTES, own, bytes);
    }
    u->lib.ucp_worker_release_address(u->worker, own);
    if (u->post.address == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for an address");
    if (u->post.address_bytes > PROA_POST_ADDRESS_BYTES_MAX)
        return proa_error_set(
            err, PROA_ERR_UNSUPPORTED,
            "UCX's address has %zu bytes, %d are possible: name fewer devices in UCX_NET_DEVICES",
            u->post.address_bytes, PROA_POST_ADDRESS_BYTES_MAX);
    return PROA_OK;
}

static proa_status open_worker(ucx_post *u, proa_error *err)
{
    PROA_ASSERT(getrandom(u->token, TOKEN_BYTES, 0) == TOKEN_BYTES);
    proa_status status = open_descriptors(u, err);
    if (status == PROA_OK)
        status = proa_ucx_load(&u->lib, err);
    if (status == PROA_OK)
        status = proa_ucx_open(&u->lib, PROA_UCX_NO_QUEUES, NULL, err);
    if (status == PROA_OK)
        status = proa_ucx_worker_open(&u->lib, u->epoll, &u->worker, err);
    if (status != PROA_OK)
        return status;
    ucs_status_t got = proa_ucx_worker_handle(&u->lib, u->worker, AM_ID, on_message, u);
    if (got != UCS_OK)
        return proa_error_set(err, PROA_ERR_IO, "UCX takes no handler: %s", u->lib.ucs_status_string(got));
    return make_address(u, err);
}

proa_status proa_post_ucx_create(int32_t ranks, int32_t rank, const proa_post_hooks *hooks, proa_post **post,
                                 proa_error *err)
{
    *post = NULL;
    ucx_post *u = calloc(1, sizeof *u);
    if (u == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the post of rank %d", rank);
    u->epoll = u->bell = -1;
    proa_status status = proa_post_prepare(&u->post, &ucx_ops, ranks, rank, hooks, err);
    u->ends = status == PROA_OK ? calloc((size_t)ranks, sizeof *u->ends) : NULL;
    if (status == PROA_OK && u->ends == NULL)
        status = proa_error_set(err, PROA_ERR_MEMORY, "no memory for the ends of %d ranks", ranks);
    for (int32_t i = 0; i < ranks && u->ends != NULL; i++) {
        u->ends[i].u = u;
        u->ends[i].rank = i;
        for (int k = 0; k < UNDER_WAY; k++)
            u->ends[i].out[k].end = &u->ends[i];
    }
    if (status == PROA_OK)
        status = open_worker(u, err);
    if (status != PROA_OK) {
        ucx_free(&u->post);
        return status;
    }
    *post = &u->post;
    return PROA_OK;
}
