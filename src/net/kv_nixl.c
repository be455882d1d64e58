/* kv_nixl.c - KV rows by NIXL, through its C API in libnixl_capi.so, which is loaded at run time.
 *
 *   an agent for writing            post(list of chunks) ── poll status ──> done
 *   an agent for each inbox         destroying it ends what its peer's writes travel on
 *
 * Every agent has the UCX plugin and the whole cache registered; a descriptor is an inbox agent's metadata. NIXL's agents have a
 * progress thread of their own and no descriptor to wait for, so requests are polled. A request is a batch of chunks of one
 * write; NIXL flushes at its end, so a completed batch is in the peer's memory.
 *
 * A batch cannot be taken back while it moves (its keys are in use): when a peer is closed, its link lives on until the last batch
 * has ended, and is invalidated then. At the end of the transfer that is waited for, CLOSE_US at most.
 *
 * The declarations below are ours, of the part of the published interface (nixl 1.x, src/bindings/rust/wrapper.h) that is
 * called. The handles are pointers to things that only NIXL sees into; metadata and names that it returns are malloc'd.
 */
#include "net/kv_transfer_internal.h"

#include "base/clock.h"

#include <dlfcn.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum {
    BATCH_CHUNKS = 1024,
    BATCH_BYTES = 4 << 20,
    CLOSE_US = 200000,
};

#define LIBRARY "libnixl_capi.so"
#define PLUGIN  "UCX"

/* --- the C API --- */

enum { NIXL_OK = 0, NIXL_IN_PROGRESS = 1 };
enum { NIXL_MEMORY_DRAM = 0 };
enum { NIXL_WRITE = 1 };

typedef int nixl_status; /* an enum there; negative: failed */
typedef void *nixl_handle;

#define NIXL_CALLS(X)                                                                                        \
    X(create_agent, (const char *name, nixl_handle *agent))                                                  \
    X(destroy_agent, (nixl_handle agent))                                                                    \
    X(get_plugin_params, (nixl_handle agent, const char *plugin, nixl_handle *mems, nixl_handle *params))    \
    X(destroy_mem_list, (nixl_handle mems))                                                                  \
    X(destroy_params, (nixl_handle params))                                                                  \
    X(create_backend, (nixl_handle agent, const char *plugin, nixl_handle params, nixl_handle *backend))     \
    X(destroy_backend, (nixl_handle backend))                                                                \
    X(create_reg_dlist, (int memory, nixl_handle *list))                                                     \
    X(reg_dlist_add_desc, (nixl_handle list, uintptr_t address, size_t bytes, uint64_t device,               \
                           const void *metadata, size_t metadata_bytes))                                     \
    X(destroy_reg_dlist, (nixl_handle list))                                                                 \
    X(register_mem, (nixl_handle agent, nixl_handle list, nixl_handle args))                                 \
    X(deregister_mem, (nixl_handle agent, nixl_handle list, nixl_handle args))                               \
    X(get_local_md, (nixl_handle agent, void **data, size_t *bytes))                                         \
    X(load_remote_md, (nixl_handle agent, const void *data, size_t bytes, char **name))                      \
    X(invalidate_remote_md, (nixl_handle agent, const char *name))                                           \
    X(create_xfer_dlist, (int memory, nixl_handle *list))                                                    \
    X(xfer_dlist_add_desc, (nixl_handle list, uintptr_t address, size_t bytes, uint64_t device))             \
    X(destroy_xfer_dlist, (nixl_handle list))                                                                \
    X(create_xfer_req, (nixl_handle agent, int operation, nixl_handle local, nixl_handle remote,             \
                        const char *remote_agent, nixl_handle *request, nixl_handle args))                   \
    X(post_xfer_req, (nixl_handle agent, nixl_handle request, nixl_handle args))                             \
    X(get_xfer_status, (nixl_handle agent, nixl_handle request))                                             \
    X(release_xfer_req, (nixl_handle agent, nixl_handle request))                                            \
    X(destroy_xfer_req, (nixl_handle request))

typedef struct nixl_library {
    void *handle;
#define MEMBER(name, parameters) nixl_status(*name) parameters;
    NIXL_CALLS(MEMBER)
#undef MEMBER
} nixl_library;

static proa_status load(nixl_library *lib, const char *path, proa_error *err)
{
    static const char *const names[] = {
#define NAME(name, parameters) "nixl_capi_" #name,
        NIXL_CALLS(NAME)
#undef NAME
    };
    void *calls[sizeof names / sizeof names[0]];
    lib->handle = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (lib->handle == NULL)
        return proa_error_set(
            err, PROA_ERR_NOT_FOUND,
            "--disaggregation-transfer-backend nixl: %s: install NIXL (pip install nixl-cu12 or "
            "nixl-cu13; the wheel has " LIBRARY " in its .mesonpy.libs folder) and say where "
            "it is: --nixl-library",
            dlerror());
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        calls[i] = dlsym(lib->handle, names[i]);
        if (calls[i] == NULL)
            return proa_error_set(err, PROA_ERR_NOT_FOUND, "%s has no %s: NIXL 0.6 or later is needed", path,
                                  names[i]);
    }
    size_t i = 0;
#define ASSIGN(name, parameters) memcpy(&lib->name, &calls[i++], sizeof calls[0]);
    NIXL_CALLS(ASSIGN)
#undef ASSIGN
    return PROA_OK;
}

static const char *status_text(nixl_status status)
{
    static const char *const texts[] = {"success",       "invalid parameter", "backend error",
                                        "invalid state", "C++ exception",     "no telemetry",
                                        "not found"};
    size_t i = status <= 0 ? (size_t)-status : sizeof texts;
    return i < sizeof texts / sizeof texts[0] ? texts[i] : "unknown status";
}

/* --- agents --- */

typedef struct nixl_agent {
    nixl_handle agent;
    nixl_handle backend;
    nixl_handle memory; /* list of one: the cache; NULL: not registered */
} nixl_agent;

typedef struct nixl_link nixl_link;
typedef struct nixl_batch nixl_batch;

typedef struct nixl_state {
    nixl_library lib;
    nixl_agent
        writer; /* made at the start: loading the first plugin takes half a second, later agents a tenth */
    nixl_link *links;
    nixl_batch *batches; /* posted */
} nixl_state;

/* A remote agent: a peer's, and then on its own until its last batch has ended. */
struct nixl_link {
    proa_kv_peer *peer; /* NULL: closed */
    char *name;         /* of the remote agent, malloc'd by NIXL */
    uint64_t base;      /* of the peer's cache */
    int32_t batches;    /* posted */
    nixl_link *next;
};

/* A request. */
struct nixl_batch {
    nixl_link *link;
    proa_kv_write_state *write; /* NULL: nobody waits any more */
    nixl_handle local;
    nixl_handle remote;
    nixl_handle request; /* NULL: being filled */
    int32_t chunks;
    size_t bytes;
    bool last; /* of its write */
    nixl_batch *next;
};

static void close_agent(const nixl_library *lib, nixl_agent *a)
{
    if (a->memory != NULL) {
        lib->deregister_mem(a->agent, a->memory, NULL);
        lib->destroy_reg_dlist(a->memory);
    }
    if (a->agent != NULL)
        lib->destroy_agent(a->agent);
    if (a->backend != NULL)
        lib->destroy_backend(a->backend); /* the handle alone: the agent owned what it stands for */
    *a = (nixl_agent){0};
}

static nixl_status add_plugin(const nixl_library *lib, nixl_agent *a)
{
    nixl_handle mems = NULL, params = NULL;
    nixl_status status = lib->get_plugin_params(a->agent, PLUGIN, &mems, &params);
    if (status == NIXL_OK)
        status = lib->create_backend(a->agent, PLUGIN, params, &a->backend);
    if (mems != NULL)
        lib->destroy_mem_list(mems);
    if (params != NULL)
        lib->destroy_params(params);
    return status;
}

static nixl_status register_cache(const nixl_library *lib, nixl_agent *a, const proa_kv_layout *layout)
{
    nixl_handle list = NULL;
    nixl_status status = lib->create_reg_dlist(NIXL_MEMORY_DRAM, &list);
    if (status != NIXL_OK)
        return status;
    status = lib->reg_dlist_add_desc(list, (uintptr_t)layout->base, proa_kv_layout_bytes(layout), 0, NULL, 0);
    if (status == NIXL_OK)
        status = lib->register_mem(a->agent, list, NULL);
    if (status == NIXL_OK)
        a->memory = list;
    else
        lib->destroy_reg_dlist(list);
    return status;
}

static proa_status open_agent(const nixl_library *lib, nixl_agent *a, const proa_kv_layout *layout,
                              proa_error *err)
{
    uint64_t id[2];
    char name[48];
    PROA_ASSERT(getrandom(id, sizeof id, 0) == sizeof id);
    snprintf(name, sizeof name, "proa-%016" PRIx64 "%016" PRIx64, id[0], id[1]);
    const char *what = "make an agent";
    nixl_status status = lib->create_agent(name, &a->agent);
    if (status == NIXL_OK) {
        what = "use its plugin " PLUGIN " (NIXL_PLUGIN_DIR says where plugins are)";
        status = add_plugin(lib, a);
    }
    if (status == NIXL_OK) {
        what = "register the KV cache";
        status = register_cache(lib, a, layout);
    }
    if (status == NIXL_OK)
        return PROA_OK;
    close_agent(lib, a);
    return proa_error_set(err, PROA_ERR_UNSUPPORTED, "NIXL cannot %s: %s", what, status_text(status));
}

static proa_status nixl_create(proa_kv_transfer *transfer, const proa_kv_transfer_options *options,
                               proa_error *err)
{
    nixl_state *nixl = calloc(1, sizeof *nixl);
    if (nixl == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a NIXL transfer");
    transfer->state = nixl;
    proa_status status =
        load(&nixl->lib, options->nixl_library != NULL ? options->nixl_library : LIBRARY, err);
    return proa_failed(status) ? status : open_agent(&nixl->lib, &nixl->writer, &transfer->layout, err);
}

static int nixl_fd(const proa_kv_transfer *transfer)
{
    (void)transfer;
    return -1;
}

/* --- inboxes --- */

static proa_status nixl_inbox_open(proa_kv_inbox *inbox, proa_buf *out, proa_error *err)
{
    const nixl_state *nixl = inbox->transfer->state;
    nixl_agent *a = calloc(1, sizeof *a);
    if (a == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a KV inbox");
    inbox->backend = a;
    proa_status status = open_agent(&nixl->lib, a, &inbox->transfer->layout, err);
    if (proa_failed(status))
        return status;
    void *metadata = NULL;
    size_t bytes = 0;
    nixl_status got = nixl->lib.get_local_md(a->agent, &metadata, &bytes);
    if (got != NIXL_OK)
        return proa_error_set(err, PROA_ERR_IO, "NIXL has no metadata of an agent: %s", status_text(got));
    proa_put_u64(out, (uint64_t)(uintptr_t)inbox->transfer->layout.base);
    proa_put_u32(out, (uint32_t)bytes);
    proa_buf_append(out, metadata, bytes);
    free(metadata);
    return PROA_OK;
}

static void nixl_inbox_close(proa_kv_inbox *inbox)
{
    const nixl_state *nixl = inbox->transfer->state;
    if (inbox->backend != NULL)
        close_agent(&nixl->lib, inbox->backend);
    free(inbox->backend);
}

/* --- peers --- */

static proa_status nixl_connect(proa_kv_peer *peer, const proa_kv_descriptor *descriptor, proa_error *err)
{
    nixl_state *nixl = peer->transfer->state;
    proa_reader r = proa_reader_of(descriptor->backend, descriptor->backend_bytes);
    uint64_t base = proa_get_u64(&r);
    uint32_t bytes = proa_get_count(&r, PROA_KV_DESCRIPTOR_BYTES_MAX, 1);
    const uint8_t *metadata = proa_get_bytes(&r, bytes);
    if (!proa_reader_done(&r) || bytes == 0)
        return proa_error_set(err, PROA_ERR_PROTOCOL, "%s: malformed NIXL KV descriptor", peer->name);
    nixl_link *link = calloc(1, sizeof *link);
    if (link == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the KV peer %s", peer->name);
    *link = (nixl_link){.peer = peer, .base = base, .next = nixl->links};
    nixl->links = link;
    peer->backend = link;
    nixl_status status = nixl->lib.load_remote_md(nixl->writer.agent, metadata, bytes, &link->name);
    if (status != NIXL_OK)
        return proa_error_set(err, PROA_ERR_UNREACHABLE, "%s: NIXL does not take its metadata: %s",
                              peer->name, status_text(status));
    memcpy(peer->path, "NIXL's " PLUGIN, sizeof "NIXL's " PLUGIN);
    return PROA_OK;
}

static void free_link(nixl_state *nixl, nixl_link *link)
{
    nixl_link **at = &nixl->links;
    while (*at != link)
        at = &(*at)->next;
    *at = link->next;
    if (link->name != NULL)
        nixl->lib.invalidate_remote_md(nixl->writer.agent, link->name);
    free(link->name);
    free(link);
}

static void nixl_close(proa_kv_peer *peer)
{
    nixl_link *link = peer->backend;
    if (link == NULL)
        return;
    link->peer = NULL;
    if (link->batches == 0)
        free_link(peer->transfer->state, link);
}

/* --- batches --- */

static void drop_request(const nixl_state *nixl, nixl_batch *b)
{
    if (b->request != NULL && nixl->lib.release_xfer_req(nixl->writer.agent, b->request) == NIXL_OK)
        nixl->lib.destroy_xfer_req(b->request);
    b->request = NULL;
}

static void free_batch(const nixl_state *nixl, nixl_batch *b)
{
    drop_request(nixl, b);
    if (b->local != NULL)
        nixl->lib.destroy_xfer_dlist(b->local);
    if (b->remote != NULL)
        nixl->lib.destroy_xfer_dlist(b->remote);
    free(b);
}

static nixl_batch *new_batch(const nixl_state *nixl, proa_kv_write_state *write)
{
    nixl_batch *b = calloc(1, sizeof *b);
    if (b == NULL)
        return NULL;
    *b = (nixl_batch){.link = write->peer->backend, .write = write};
    if (nixl->lib.create_xfer_dlist(NIXL_MEMORY_DRAM, &b->local) != NIXL_OK ||
        nixl->lib.create_xfer_dlist(NIXL_MEMORY_DRAM, &b->remote) != NIXL_OK) {
        free_batch(nixl, b);
        return NULL;
    }
    return b;
}

/* From now on its status is polled. */
static proa_status post(nixl_state *nixl, nixl_batch *b, proa_error *err)
{
    nixl_status status = nixl->lib.create_xfer_req(nixl->writer.agent, NIXL_WRITE, b->local, b->remote,
                                                   b->link->name, &b->request, NULL);
    if (status == NIXL_OK)
        status = nixl->lib.post_xfer_req(nixl->writer.agent, b->request, NULL);
    if (status < 0)
        return proa_error_set(err, PROA_ERR_UNREACHABLE,
                              "KV peer %s is lost: NIXL cannot post a transfer: %s", b->link->peer->name,
                              status_text(status));
    b->link->batches++;
    b->next = nixl->batches;
    nixl->batches = b;
    return PROA_OK;
}

/* What a batch that is no longer listed was for. */
static void end_batch(nixl_state *nixl, nixl_batch *b, nixl_status status)
{
    nixl_link *link = b->link;
    proa_kv_write_state *write = b->write;
    bool last = b->last;
    free_batch(nixl, b);
    link->batches--;
    if (write != NULL)
        write->backend = NULL;
    if (write != NULL && status < 0)
        proa_kv_peer_fail(link->peer, PROA_ERR_UNREACHABLE, "KV peer %s is lost: a transfer: NIXL: %s",
                          link->peer->name, status_text(status));
    else if (write != NULL && last)
        proa_kv_write_end(write, PROA_OK);
    if (link->peer == NULL && link->batches == 0)
        free_link(nixl, link);
}

static bool poll_batches(nixl_state *nixl)
{
    bool any = false;
    for (nixl_batch **at = &nixl->batches; *at != NULL;) {
        nixl_batch *b = *at;
        nixl_status status = nixl->lib.get_xfer_status(nixl->writer.agent, b->request);
        if (status == NIXL_IN_PROGRESS) {
            at = &b->next;
            continue;
        }
        *at = b->next;
        end_batch(nixl, b, status);
        any = true;
    }
    return any;
}

static bool nixl_progress(proa_kv_transfer *transfer)
{
    return poll_batches(transfer->state);
}

/* --- writes: `backend` is the batch that is being filled or moves; one at a time --- */

static proa_status nixl_begin(proa_kv_write_state *write)
{
    (void)write;
    return PROA_OK;
}

static void nixl_forget(proa_kv_write_state *write)
{
    nixl_batch *b = write->backend;
    write->backend = NULL;
    if (b == NULL)
        return;
    b->write = NULL;
    if (b->request == NULL)
        free_batch(write->peer->transfer->state, b);
}

static proa_status nixl_put(proa_kv_write_state *write, const proa_kv_chunk *chunk, proa_error *err)
{
    nixl_state *nixl = write->peer->transfer->state;
    nixl_batch *b = write->backend;
    uintptr_t base = (uintptr_t)write->peer->transfer->layout.base;
    if (b != NULL && b->request != NULL)
        return PROA_BUSY;
    if (b == NULL)
        write->backend = b = new_batch(nixl, write);
    if (b == NULL ||
        nixl->lib.xfer_dlist_add_desc(b->local, base + chunk->from, chunk->bytes, 0) != NIXL_OK ||
        nixl->lib.xfer_dlist_add_desc(b->remote, b->link->base + chunk->to, chunk->bytes, 0) != NIXL_OK)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for a NIXL transfer to %s", write->peer->name);
    b->chunks++;
    b->bytes += chunk->bytes;
    return b->chunks == BATCH_CHUNKS || b->bytes >= BATCH_BYTES ? post(nixl, b, err) : PROA_OK;
}

static proa_status nixl_flush(proa_kv_write_state *write, proa_error *err)
{
    nixl_state *nixl = write->peer->transfer->state;
    nixl_batch *b = write->backend; /* has chunks: flush comes right after a put */
    b->last = true;
    return b->request == NULL ? post(nixl, b, err) : PROA_OK;
}

/* --- end --- */

static void nixl_free(proa_kv_transfer *transfer)
{
    nixl_state *nixl = transfer->state;
    if (nixl == NULL)
        return;
    int64_t deadline = proa_clock_us() + CLOSE_US;
    while (nixl->batches != NULL && proa_clock_us() < deadline)
        poll_batches(nixl);
    while (nixl->batches != NULL) {
        nixl_batch *b = nixl->batches;
        nixl->batches = b->next;
        end_batch(nixl, b, NIXL_OK);
    }
    close_agent(&nixl->lib, &nixl->writer);
    if (nixl->lib.handle != NULL)
        dlclose(nixl->lib.handle);
    free(nixl);
}

const proa_kv_backend proa_kv_backend_nixl = {
    .name = "nixl",
    .create = nixl_create,
    .free = nixl_free,
    .fd = nixl_fd,
    .inbox_open = nixl_inbox_open,
    .inbox_close = nixl_inbox_close,
    .connect = nixl_connect,
    .close = nixl_close,
    .begin = nixl_begin,
    .forget = nixl_forget,
    .put = nixl_put,
    .flush = nixl_flush,
    .progress = nixl_progress,
};
