/* client_files.c - which model the cluster serves, and its small files: fetched from one worker, from the next one when that is lost
 * or falls silent, and then announced.
 *
 * The first card says what the model is. While it is not announced and no worker with that model is there, the next card may say
 * something else; afterwards the model stays for the life of the client.
 *
 * Files lie in cache_dir/<model digest>/; each is written under a name of its own and renamed when all its bytes are there. They are
 * fetched anew at each start: they are small, and what lies in a folder may be of another time.
 */
#include "base/clock.h"
#include "base/log.h"
#include "cluster/client_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { RETRY_US = 1000000 }; /* pause after a failure of our own, or while no worker is there */

static proa_status make_folder(const char *path, proa_error *err)
{
    if (mkdir(path, 0755) != 0 && errno != EEXIST)
        return proa_error_set(err, PROA_ERR_IO, "the folder %s for the model's files cannot be made: %s",
                              path, strerror(errno));
    return PROA_OK;
}

bool proa_client_files_start(proa_client *client, proa_error *err)
{
    client_files *f = &client->files;
    const char *dir = client->options.cache_dir;
    if (!client->options.wants_files)
        return true;
    f->temporary = dir == NULL;
    f->dir = strdup(dir != NULL ? dir : "/tmp/proa-model-XXXXXX");
    if (f->dir == NULL) {
        proa_error_set(err, PROA_ERR_MEMORY, "out of memory for a path");
        return false;
    }
    if (!f->temporary)
        return make_folder(f->dir, err) == PROA_OK;
    if (mkdtemp(f->dir) != NULL)
        return true;
    proa_error_set(err, PROA_ERR_IO, "no folder for the model's files can be made in /tmp: %s",
                   strerror(errno));
    free(f->dir);
    f->dir = NULL;
    return false;
}

/* ---- paths ---- */

static void path_of(const client_files *f, const char *name, bool part, char path[static 4600])
{
    snprintf(path, 4600, "%s/%s%s", f->path, name, part ? ".part" : "");
}

/* Closes the file that is being written; what is there of it is removed. */
static void drop_part(proa_client *client)
{
    client_files *f = &client->files;
    char path[4600];
    if (f->file == NULL)
        return;
    fclose(f->file);
    f->file = NULL;
    path_of(f, client->model_card.files[f->index].name, true, path);
    unlink(path);
}

static void give_up(proa_client *client, int64_t pause_us)
{
    drop_part(client);
    client->files.worker = -1;
    client->files.deadline_us = proa_clock_us() + pause_us;
}

void proa_client_files_end(proa_client *client)
{
    client_files *f = &client->files;
    drop_part(client);
    if (f->temporary && f->dir != NULL) {
        for (uint32_t i = 0; f->path[0] != 0 && i < client->model_card.file_count; i++) {
            char path[4600];
            path_of(f, client->model_card.files[i].name, false, path);
            unlink(path);
        }
        if (f->path[0] != 0)
            rmdir(f->path);
        rmdir(f->dir);
    }
    free(f->dir);
}

/* ---- asking ---- */

static void announce(proa_client *client)
{
    client->announced = true;
    client->files.worker = -1;
    proa_log(PROA_LOG_INFO, "cluster", "the cluster serves %s (digest %016" PRIx64 ")",
             client->model_card.model_name, client->model_card.model_digest);
    if (client->options.on_model != NULL)
        client->options.on_model(client->options.context, &client->model_card,
                                 client->files.path[0] != 0 ? client->files.path : NULL);
}

static void fail_here(proa_client *client, const proa_error *err)
{
    proa_log(PROA_LOG_ERROR, "cluster", "the model's files cannot be kept here, trying again: %s", err->text);
    give_up(client, RETRY_US);
}

static void ask(client_worker *worker)
{
    proa_client *client = worker->client;
    client_files *f = &client->files;
    proa_error err;
    int n = snprintf(f->path, sizeof f->path, "%s/%016" PRIx64, f->dir, client->model_card.model_digest);
    if (n < 0 || (size_t)n >= sizeof f->path - 100) {
        proa_error_set(&err, PROA_ERR_TOO_LONG, "the path %s is too long", f->dir);
        fail_here(client, &err);
        return;
    }
    if (make_folder(f->path, &err) != PROA_OK) {
        fail_here(client, &err);
        return;
    }
    f->worker = f->tried = worker->number;
    f->index = 0;
    f->offset = 0;
    f->deadline_us = proa_clock_us() + CLIENT_FILES_US;
    client->model_card = worker->card; /* sizes and order as this worker says */
    proa_buf_clear(&client->scratch);
    proa_client_worker_send(worker, PROA_WIRE_ASK_FILES);
}

static bool any_ready(const proa_client *client)
{
    for (int32_t i = 0; i < CLIENT_WORKERS_MAX; i++) {
        if (client->workers[i] != NULL && client->workers[i]->state == CLIENT_WORKER_READY)
            return true;
    }
    return false;
}

bool proa_client_files_card(client_worker *worker)
{
    proa_client *client = worker->client;
    if (client->model_known && !client->announced && !any_ready(client))
        client->model_known = false;
    if (client->model_known)
        return worker->card.model_digest == client->model_card.model_digest;
    client->model_known = true;
    client->model_card = worker->card;
    client->files.deadline_us = 0; /* the next tick asks for the files, or announces */
    return true;
}

void proa_client_files_tick(proa_client *client, int64_t now_us)
{
    client_files *f = &client->files;
    if (client->announced || !client->model_known)
        return;
    if (!client->options.wants_files || client->model_card.file_count == 0) {
        announce(client);
        return;
    }
    if (f->worker >= 0 && now_us >= f->deadline_us) {
        proa_log(PROA_LOG_WARN, "cluster", "the worker at %s has stopped sending the model's files",
                 client->workers[f->worker]->instance.address);
        give_up(client, 0);
    }
    if (f->worker >= 0 || now_us < f->deadline_us)
        return;
    for (int32_t i = 1; i <= CLIENT_WORKERS_MAX; i++) { /* the next one after the one tried last */
        client_worker *worker = client->workers[(f->tried + i) % CLIENT_WORKERS_MAX];
        if (worker != NULL && worker->state == CLIENT_WORKER_READY && !worker->broken) {
            ask(worker);
            return;
        }
    }
}

void proa_client_files_lost(client_worker *worker)
{
    if (worker->client->files.worker == worker->number)
        give_up(worker->client, 0);
}

/* ---- taking ---- */

static bool open_part(proa_client *client, proa_error *err)
{
    client_files *f = &client->files;
    char path[4600];
    path_of(f, client->model_card.files[f->index].name, true, path);
    f->file = fopen(path, "wb");
    if (f->file == NULL)
        proa_error_set(err, PROA_ERR_IO, "%s cannot be written: %s", path, strerror(errno));
    return f->file != NULL;
}

/* The current file has all its bytes. */
static bool complete_part(proa_client *client, proa_error *err)
{
    client_files *f = &client->files;
    const char *name = client->model_card.files[f->index].name;
    char part[4600], path[4600];
    path_of(f, name, true, part);
    path_of(f, name, false, path);
    bool good = fclose(f->file) == 0;
    f->file = NULL;
    if (good && rename(part, path) == 0)
        return true;
    proa_error_set(err, PROA_ERR_IO, "%s cannot be written: %s", path, strerror(errno));
    unlink(part);
    return false;
}

static bool write_piece(proa_client *client, const proa_wire_file *piece, proa_error *err)
{
    client_files *f = &client->files;
    if (f->file == NULL && !open_part(client, err))
        return false;
    if (fwrite(piece->data, 1, piece->length, f->file) != piece->length) {
        proa_error_set(err, PROA_ERR_IO, "%s of the model cannot be written: %s",
                       client->model_card.files[f->index].name, strerror(errno));
        return false;
    }
    f->offset += piece->length;
    if (f->offset < client->model_card.files[f->index].bytes)
        return true;
    f->offset = 0;
    if (!complete_part(client, err))
        return false;
    f->index++;
    return true;
}

void proa_client_files_take(client_worker *worker, const proa_wire_file *piece)
{
    proa_client *client = worker->client;
    client_files *f = &client->files;
    const proa_wire_card *card = &client->model_card;
    proa_error err;
    if (f->worker != worker->number)
        return; /* asked before, and too late */
    if (piece->index != f->index || f->index >= card->file_count || piece->offset != f->offset ||
        piece->length > card->files[f->index].bytes - f->offset ||
        (piece->length == 0 && card->files[f->index].bytes > 0)) {
        proa_client_worker_break(worker, PROA_ERR_PROTOCOL,
                                 "it sent byte %" PRIu64 " of file %u where byte %" PRIu64
                                 " of file %u was due",
                                 piece->offset, piece->index, f->offset, f->index);
        return;
    }
    f->deadline_us = proa_clock_us() + CLIENT_FILES_US;
    if (!write_piece(client, piece, &err))
        fail_here(client, &err);
    else if (f->index == card->file_count)
        announce(client);
}
