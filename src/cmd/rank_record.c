/* rank_record.c - see rank_record.h. A part is: first layer, layers here, then their counts, 64 bits each. */
#include "cmd/rank_record.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "engine/expert_load.h"
#include "net/bytes.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

enum { COLLECT_US = 2000000, PART_BYTES = 64 << 10 };

struct proa_rank_record {
    proa_rank_world world;
    int32_t layers, experts;
    const char *dir;
    proa_rank_record_hooks hooks;
    pthread_mutex_t lock;
    uint64_t *own;    /* [layers, experts] scratch */
    uint64_t *sum;    /* [layers, experts] rank 0: of the dump under way */
    int32_t *heard;   /* [ranks] layers of each */
    int32_t complete; /* ranks */
    int64_t since_us; /* 0: none is under way */
};

proa_status proa_rank_record_check(const proa_options *o, const proa_rank_world *world, proa_error *err)
{
    const char *dir = proa_options_string(o, "expert-distribution-recorder-dir");
    struct stat info;
    if (proa_options_string(o, "expert-distribution-recorder-mode") == NULL || world->rank != 0)
        return PROA_OK;
    bool there = stat(dir, &info) == 0;
    if (there && !S_ISDIR(info.st_mode))
        errno = ENOTDIR;
    if (there && S_ISDIR(info.st_mode) && access(dir, W_OK | X_OK) == 0)
        return PROA_OK;
    return proa_error_set(err, PROA_ERR_IO,
                          "--expert-distribution-recorder-dir %s: %s: make the folder, or give another one",
                          dir, strerror(errno));
}

proa_rank_record *proa_rank_record_create(const proa_options *o, const proa_rank_world *world,
                                          const proa_model_config *config,
                                          const proa_rank_record_hooks *hooks)
{
    proa_rank_record *r = calloc(1, sizeof *r);
    if (r == NULL)
        return NULL;
    r->world = *world;
    r->layers = config->num_hidden_layers;
    r->experts = config->n_routed_experts;
    r->dir = proa_options_string(o, "expert-distribution-recorder-dir");
    r->hooks = *hooks;
    pthread_mutex_init(&r->lock, NULL);
    size_t cells = (size_t)r->layers * (size_t)r->experts;
    r->own = calloc(cells, sizeof *r->own);
    r->sum = calloc(cells, sizeof *r->sum);
    r->heard = calloc((size_t)world->world, sizeof *r->heard);
    if (r->own != NULL && r->sum != NULL && r->heard != NULL)
        return r;
    proa_rank_record_free(r);
    return NULL;
}

void proa_rank_record_free(proa_rank_record *r)
{
    if (r == NULL)
        return;
    pthread_mutex_destroy(&r->lock);
    free(r->own);
    free(r->sum);
    free(r->heard);
    free(r);
}

/* ---- rank 0 ---- */

/* What has come, as a file; under lock. */
static void write_sum(proa_rank_record *r)
{
    struct timeval now;
    char path[4200];
    proa_buf text = {0};
    proa_error err;
    gettimeofday(&now, NULL);
    snprintf(path, sizeof path, "%s/expert_distribution_recorder_%lld.%06ld.json", r->dir,
             (long long)now.tv_sec, (long)now.tv_usec);
    proa_expert_load_write_sums(r->layers, r->experts, r->sum, &text);
    proa_status status = text.failed ? proa_error_set(&err, PROA_ERR_MEMORY, "no memory to write %s", path)
                                     : proa_file_write(path, proa_buf_text(&text), text.length, &err);
    if (status == PROA_OK)
        proa_log(PROA_LOG_INFO, "ranks", "what experts had to do at %d of %d ranks is in %s", r->complete,
                 r->world.world, path);
    else
        proa_log(PROA_LOG_ERROR, "ranks", "%s", err.text);
    proa_buf_free(&text);
    r->since_us = 0;
}

/* Layers `first` .. of a rank; under lock. */
static void add(proa_rank_record *r, int rank, int32_t first, int32_t count, const uint64_t *counts)
{
    if (r->since_us == 0) {
        memset(r->sum, 0, (size_t)r->layers * (size_t)r->experts * sizeof *r->sum);
        memset(r->heard, 0, (size_t)r->world.world * sizeof *r->heard);
        r->complete = 0;
        r->since_us = proa_clock_us();
    }
    if (r->heard[rank] != first)
        return; /* of the dump before, which was late */
    for (int64_t i = 0; i < (int64_t)count * r->experts; i++)
        r->sum[(int64_t)first * r->experts + i] += counts[i];
    r->heard[rank] += count;
    if (r->heard[rank] == r->layers && ++r->complete == r->world.world)
        write_sum(r);
}

void proa_rank_record_receive(proa_rank_record *r, int rank, const uint8_t *body, size_t length,
                              proa_error *err)
{
    proa_reader in = proa_reader_of(body, length);
    int32_t first = proa_get_i32(&in), count = proa_get_i32(&in);
    bool fits = !in.failed && first >= 0 && count > 0 && first < r->layers && count <= r->layers - first &&
                proa_reader_left(&in) == (size_t)count * (size_t)r->experts * 8;
    if (!fits || r->world.rank != 0) {
        proa_error_set(err, PROA_ERR_PROTOCOL,
                       "a record's part of %zu bytes is not one of %d layers of %d experts", length,
                       r->layers, r->experts);
        return;
    }
    pthread_mutex_lock(&r->lock);
    for (int64_t i = 0; i < (int64_t)count * r->experts; i++)
        r->own[i] = proa_get_u64(&in);
    add(r, rank, first, count, r->own);
    pthread_mutex_unlock(&r->lock);
}

void proa_rank_record_tick(proa_rank_record *r)
{
    pthread_mutex_lock(&r->lock);
    if (r->since_us != 0 && proa_clock_us() - r->since_us >= COLLECT_US)
        write_sum(r);
    pthread_mutex_unlock(&r->lock);
}

/* ---- each rank ---- */

static void send_own(proa_rank_record *r)
{
    int32_t most = PART_BYTES / (8 * r->experts);
    most = most < 1 ? 1 : most;
    for (int32_t first = 0; first < r->layers; first += most) {
        int32_t count = r->layers - first < most ? r->layers - first : most;
        proa_buf body = {0};
        proa_put_i32(&body, first);
        proa_put_i32(&body, count);
        for (int64_t i = 0; i < (int64_t)count * r->experts; i++)
            proa_put_u64(&body, r->own[(int64_t)first * r->experts + i]);
        r->hooks.send(r->hooks.context, &body);
        proa_buf_free(&body);
    }
}

void proa_rank_record_act(proa_rank_record *r, proa_ep_group *ep, proa_wire_record action)
{
    if (action != PROA_RECORD_DUMP) {
        proa_ep_group_record(ep, action == PROA_RECORD_START);
        return;
    }
    pthread_mutex_lock(&r->lock);
    proa_ep_group_take_record(ep, r->own);
    if (r->world.rank == 0)
        add(r, 0, 0, r->layers, r->own);
    else
        send_own(r);
    pthread_mutex_unlock(&r->lock);
}
