/* nixl_standin.c - a shared library with the part of NIXL's C API that net/kv_nixl.c calls, for tests without NIXL.
 *
 * It keeps to what the published header and its implementation do (nixl 1.x, src/bindings/rust): statuses, who owns what, which
 * mistakes are refused; and it refuses what the real one would crash on. A transfer moves CHUNKS_A_POLL descriptors each time
 * its status is asked for, by a copy within the process and by process_vm_writev to another; so transfers take a while, can be
 * given up half way, and fail when the other process is dead. What is registered with an agent of this process is out of
 * reach as soon as that agent is destroyed.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <unistd.h>

enum { SUCCESS = 0, IN_PROGRESS = 1, INVALID = -1, BACKEND = -2, INVALID_STATE = -3, NOT_FOUND = -6 };
enum {
    CHUNKS_A_POLL = 3,
    REGIONS_MAX = 4,
    REMOTES_MAX = 64,
    AGENTS_MAX = 64,
    NAME_BYTES = 64,
    MAGIC = 0x4c58494e
};

typedef struct region {
    uint64_t address;
    uint64_t bytes;
} region;

/* What an agent tells of itself. */
typedef struct metadata {
    uint32_t magic;
    int32_t pid;
    char name[NAME_BYTES];
    uint32_t region_count;
    region regions[REGIONS_MAX];
} metadata;

typedef struct agent {
    metadata self;
    bool has_backend;
    metadata remotes[REMOTES_MAX]; /* magic 0: free */
} agent;

typedef struct list {
    region *items;
    size_t count;
} list;

typedef struct transfer {
    region *from;
    region *to;
    size_t count;
    size_t done;
    metadata remote;
    bool posted;
    int status;
} transfer;

typedef struct request {
    transfer *inner; /* NULL: released */
} request;

/* Agents of this process, so that a transfer to one that is gone fails. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static agent *agents[AGENTS_MAX];

static bool enlist(agent *a)
{
    bool done = false;
    pthread_mutex_lock(&mutex);
    for (int i = 0; i < AGENTS_MAX && !done; i++) {
        if (agents[i] == NULL) {
            agents[i] = a;
            done = true;
        }
    }
    pthread_mutex_unlock(&mutex);
    return done;
}

int nixl_capi_create_agent(const char *name, agent **out)
{
    if (name == NULL || out == NULL || strlen(name) >= NAME_BYTES)
        return INVALID;
    agent *a = calloc(1, sizeof *a);
    if (a == NULL)
        return BACKEND;
    a->self = (metadata){.magic = MAGIC, .pid = getpid()};
    snprintf(a->self.name, NAME_BYTES, "%s", name);
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY); /* a writer may be no parent of this process */
    if (!enlist(a)) {
        free(a);
        return BACKEND;
    }
    *out = a;
    return SUCCESS;
}

int nixl_capi_destroy_agent(agent *a)
{
    if (a == NULL)
        return INVALID;
    pthread_mutex_lock(&mutex); /* a copy into its memory ends first */
    for (int i = 0; i < AGENTS_MAX; i++) {
        if (agents[i] == a)
            agents[i] = NULL;
    }
    pthread_mutex_unlock(&mutex);
    free(a);
    return SUCCESS;
}

/* --- plugins --- */

int nixl_capi_get_plugin_params(agent *a, const char *plugin, void **mems, void **params)
{
    if (a == NULL || plugin == NULL || mems == NULL || params == NULL)
        return INVALID;
    if (strcmp(plugin, "UCX") != 0)
        return BACKEND;
    *mems = malloc(1);
    *params = malloc(1);
    return SUCCESS;
}

int nixl_capi_destroy_mem_list(void *mems)
{
    free(mems);
    return mems != NULL ? SUCCESS : INVALID;
}

int nixl_capi_destroy_params(void *params)
{
    free(params);
    return params != NULL ? SUCCESS : INVALID;
}

int nixl_capi_create_backend(agent *a, const char *plugin, void *params, void **backend)
{
    if (a == NULL || plugin == NULL || params == NULL || backend == NULL)
        return INVALID;
    if (a->has_backend)
        return BACKEND;
    a->has_backend = true;
    *backend = malloc(1);
    return SUCCESS;
}

int nixl_capi_destroy_backend(void *backend)
{
    free(backend);
    return backend != NULL ? SUCCESS : INVALID;
}

/* --- lists --- */

static int create_list(list **out)
{
    if (out == NULL)
        return INVALID;
    *out = calloc(1, sizeof **out);
    return *out != NULL ? SUCCESS : BACKEND;
}

static int add(list *l, uintptr_t address, size_t bytes)
{
    if (l == NULL)
        return INVALID;
    region *items = realloc(l->items, (l->count + 1) * sizeof *items);
    if (items == NULL)
        return BACKEND;
    l->items = items;
    l->items[l->count++] = (region){address, bytes};
    return SUCCESS;
}

static int destroy_list(list *l)
{
    if (l == NULL)
        return INVALID;
    free(l->items);
    free(l);
    return SUCCESS;
}

int nixl_capi_create_reg_dlist(int memory, list **out)
{
    return memory == 0 ? create_list(out) : INVALID;
}

int nixl_capi_reg_dlist_add_desc(list *l, uintptr_t address, size_t bytes, uint64_t device, const void *data,
                                 size_t data_bytes)
{
    (void)device;
    return data == NULL && data_bytes > 0 ? INVALID : add(l, address, bytes);
}

int nixl_capi_destroy_reg_dlist(list *l)
{
    return destroy_list(l);
}

int nixl_capi_create_xfer_dlist(int memory, list **out)
{
    return memory == 0 ? create_list(out) : INVALID;
}

int nixl_capi_xfer_dlist_add_desc(list *l, uintptr_t address, size_t bytes, uint64_t device)
{
    (void)device;
    return add(l, address, bytes);
}

int nixl_capi_destroy_xfer_dlist(list *l)
{
    return destroy_list(l);
}

/* --- memory and metadata --- */

int nixl_capi_register_mem(agent *a, list *l, void *args)
{
    (void)args;
    if (a == NULL || l == NULL)
        return INVALID;
    if (!a->has_backend)
        return NOT_FOUND;
    if (a->self.region_count + l->count > REGIONS_MAX)
        return BACKEND;
    for (size_t i = 0; i < l->count; i++)
        a->self.regions[a->self.region_count++] = l->items[i];
    return SUCCESS;
}

int nixl_capi_deregister_mem(agent *a, list *l, void *args)
{
    (void)args;
    if (a == NULL || l == NULL)
        return INVALID;
    for (uint32_t i = 0; i < a->self.region_count; i++) {
        if (memcmp(&a->self.regions[i], &l->items[0], sizeof(region)) == 0) {
            a->self.regions[i] = a->self.regions[--a->self.region_count];
            return SUCCESS;
        }
    }
    return BACKEND;
}

int nixl_capi_get_local_md(agent *a, void **data, size_t *bytes)
{
    if (a == NULL || data == NULL || bytes == NULL)
        return INVALID;
    *data = malloc(sizeof a->self);
    if (*data == NULL)
        return BACKEND;
    memcpy(*data, &a->self, sizeof a->self);
    *bytes = sizeof a->self;
    return SUCCESS;
}

static metadata *find_remote(agent *a, const char *name)
{
    for (int i = 0; i < REMOTES_MAX; i++) {
        if (a->remotes[i].magic == MAGIC && strcmp(a->remotes[i].name, name) == 0)
            return &a->remotes[i];
    }
    return NULL;
}

int nixl_capi_load_remote_md(agent *a, const void *data, size_t bytes, char **name)
{
    metadata m;
    if (a == NULL || data == NULL || bytes == 0 || name == NULL)
        return INVALID;
    if (bytes != sizeof m)
        return BACKEND;
    memcpy(&m, data, sizeof m);
    if (m.magic != MAGIC || m.region_count > REGIONS_MAX || memchr(m.name, 0, NAME_BYTES) == NULL)
        return BACKEND;
    if (strcmp(m.name, a->self.name) == 0 || find_remote(a, m.name) != NULL)
        return INVALID;
    for (int i = 0; i < REMOTES_MAX; i++) {
        if (a->remotes[i].magic == 0) {
            a->remotes[i] = m;
            *name = strdup(m.name);
            return *name != NULL ? SUCCESS : BACKEND;
        }
    }
    return BACKEND;
}

int nixl_capi_invalidate_remote_md(agent *a, const char *name)
{
    if (a == NULL || name == NULL)
        return INVALID;
    metadata *m = find_remote(a, name);
    if (m == NULL)
        return NOT_FOUND;
    m->magic = 0;
    return SUCCESS;
}

/* --- transfers --- */

static bool inside(const metadata *m, const region *r)
{
    for (uint32_t i = 0; i < m->region_count; i++) {
        const region *have = &m->regions[i];
        if (r->address >= have->address && r->bytes <= have->bytes &&
            r->address - have->address <= have->bytes - r->bytes)
            return true;
    }
    return false;
}

static transfer *make_transfer(const agent *a, const list *local, const list *remote, const metadata *m)
{
    for (size_t i = 0; i < local->count; i++) {
        if (local->items[i].bytes != remote->items[i].bytes || !inside(&a->self, &local->items[i]) ||
            !inside(m, &remote->items[i]))
            return NULL;
    }
    transfer *t = calloc(1, sizeof *t);
    region *both = malloc(2 * local->count * sizeof *both);
    if (t == NULL || both == NULL) {
        free(t);
        free(both);
        return NULL;
    }
    memcpy(both, local->items, local->count * sizeof *both);
    memcpy(both + local->count, remote->items, local->count * sizeof *both);
    *t = (transfer){.from = both, .to = both + local->count, .count = local->count, .remote = *m};
    return t;
}

int nixl_capi_create_xfer_req(agent *a, int operation, const list *local, const list *remote,
                              const char *name, request **out, void *args)
{
    (void)args;
    if (a == NULL || local == NULL || remote == NULL || name == NULL || out == NULL)
        return INVALID;
    const metadata *m = find_remote(a, name);
    if (operation != 1 || m == NULL || local->count == 0 || local->count != remote->count)
        return BACKEND;
    request *r = calloc(1, sizeof *r);
    if (r == NULL)
        return BACKEND;
    r->inner = make_transfer(a, local, remote, m);
    if (r->inner == NULL) {
        free(r);
        return BACKEND;
    }
    *out = r;
    return SUCCESS;
}

int nixl_capi_post_xfer_req(agent *a, request *r, void *args)
{
    (void)args;
    if (a == NULL || r == NULL || r->inner == NULL)
        return INVALID;
    if (r->inner->posted && r->inner->status == IN_PROGRESS)
        return BACKEND;
    r->inner->posted = true;
    r->inner->done = 0;
    r->inner->status = IN_PROGRESS;
    return IN_PROGRESS;
}

static bool is_alive(const char *name)
{
    for (int i = 0; i < AGENTS_MAX; i++) {
        if (agents[i] != NULL && strcmp(agents[i]->self.name, name) == 0)
            return true;
    }
    return false;
}

static bool move(const transfer *t, size_t i)
{
    struct iovec from = {(void *)(uintptr_t)t->from[i].address, t->from[i].bytes};
    struct iovec to = {(void *)(uintptr_t)t->to[i].address, t->to[i].bytes};
    if (t->remote.pid != getpid())
        return process_vm_writev(t->remote.pid, &from, 1, &to, 1, 0) == (ssize_t)from.iov_len;
    pthread_mutex_lock(&mutex);
    bool alive = is_alive(t->remote.name);
    if (alive)
        memcpy(to.iov_base, from.iov_base, from.iov_len);
    pthread_mutex_unlock(&mutex);
    return alive;
}

int nixl_capi_get_xfer_status(agent *a, request *r)
{
    if (a == NULL || r == NULL || r->inner == NULL)
        return INVALID;
    transfer *t = r->inner;
    if (!t->posted)
        return BACKEND;
    for (int i = 0; i < CHUNKS_A_POLL && t->status == IN_PROGRESS; i++) {
        if (!move(t, t->done))
            t->status = BACKEND;
        else if (++t->done == t->count)
            t->status = SUCCESS;
    }
    return t->status;
}

int nixl_capi_release_xfer_req(agent *a, request *r)
{
    if (a == NULL || r == NULL || r->inner == NULL)
        return INVALID;
    free(r->inner->from);
    free(r->inner);
    r->inner = NULL;
    return SUCCESS;
}

int nixl_capi_destroy_xfer_req(request *r)
{
    if (r == NULL)
        return INVALID;
    if (r->inner != NULL)
        return INVALID_STATE;
    free(r);
    return SUCCESS;
}
