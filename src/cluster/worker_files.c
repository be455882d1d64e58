/* worker_files.c - the model's small files: what a frontend needs to speak the model's language without its weights. */
#include "base/digest.h"
#include "base/file.h"
#include "base/log.h"
#include "cluster/worker_internal.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char *const file_names[] = {
    "config.json",           "generation_config.json", "tokenizer.json",
    "tokenizer_config.json", "chat_template.jinja",    "special_tokens_map.json",
};

enum { PENDING_MAX = 2 << 20 }; /* bytes of files that may wait in a link */

/* ---- describing ---- */

static proa_status digest_file(const char *path, uint64_t *digest, uint64_t *bytes, proa_error *err)
{
    uint8_t piece[65536];
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        return proa_error_set(err, PROA_ERR_IO, "%s cannot be read", path);
    *bytes = 0;
    for (size_t n; (n = fread(piece, 1, sizeof piece, file)) > 0; *bytes += n)
        *digest = proa_digest(piece, n, *digest);
    bool bad = ferror(file) != 0;
    fclose(file);
    return bad ? proa_error_set(err, PROA_ERR_IO, "%s cannot be read to its end", path) : PROA_OK;
}

static int is_weights(const struct dirent *entry)
{
    size_t length = strlen(entry->d_name);
    return length > 12 && strcmp(entry->d_name + length - 12, ".safetensors") == 0;
}

/* Names and sizes: reading terabytes of weights at each start would be the price of more. */
static void digest_weights(const char *dir, uint64_t *digest)
{
    struct dirent **entries = NULL;
    int count = scandir(dir, &entries, is_weights, alphasort);
    for (int i = 0; i < count; i++) {
        char path[4600];
        struct stat stat_of = {0};
        snprintf(path, sizeof path, "%s/%s", dir, entries[i]->d_name);
        uint64_t size = stat(path, &stat_of) == 0 ? (uint64_t)stat_of.st_size : 0;
        *digest = proa_digest(entries[i]->d_name, strlen(entries[i]->d_name), *digest);
        *digest = proa_digest(&size, sizeof size, *digest);
        free(entries[i]);
    }
    free(entries);
}

proa_status proa_worker_describe_model(const char *dir, proa_wire_card *card, proa_error *err)
{
    card->model_digest = 0;
    card->file_count = 0;
    for (size_t i = 0; i < sizeof file_names / sizeof file_names[0]; i++) {
        char path[4600];
        snprintf(path, sizeof path, "%s/%s", dir, file_names[i]);
        if (!proa_file_exists(path))
            continue;
        uint64_t *bytes = &card->files[card->file_count].bytes;
        card->model_digest = proa_digest(file_names[i], strlen(file_names[i]), card->model_digest);
        proa_status status = digest_file(path, &card->model_digest, bytes, err);
        if (status != PROA_OK)
            return status;
        if (*bytes > PROA_WIRE_FILE_BYTES_MAX)
            return proa_error_set(err, PROA_ERR_TOO_LONG, "%s has %llu bytes; at most %d are served", path,
                                  (unsigned long long)*bytes, PROA_WIRE_FILE_BYTES_MAX);
        snprintf(card->files[card->file_count++].name, sizeof card->files[0].name, "%s", file_names[i]);
    }
    digest_weights(dir, &card->model_digest);
    return PROA_OK;
}

/* ---- sending ---- */

static void end_files(worker_front *front)
{
    if (front->file != NULL)
        fclose(front->file);
    front->file = NULL;
    front->wants_files = false;
    front->file_index = 0;
    front->file_offset = 0;
}

/* One piece; false when nothing more is to be sent now. A file that has become shorter ends it: the frontend asks another
 * worker after its deadline. */
static bool send_piece(worker_front *front)
{
    proa_worker *w = front->worker;
    if (front->file_index == w->card.file_count) {
        end_files(front);
        return false;
    }
    if (front->file == NULL) {
        char path[4600];
        snprintf(path, sizeof path, "%s/%s", w->dir, w->card.files[front->file_index].name);
        front->file = fopen(path, "rb");
    }
    uint8_t *piece = proa_arena_alloc(w->arena, PROA_WIRE_CHUNK_MAX);
    size_t n = front->file != NULL && piece != NULL ? fread(piece, 1, PROA_WIRE_CHUNK_MAX, front->file) : 0;
    uint64_t bytes = w->card.files[front->file_index].bytes;
    if (n == 0 && front->file_offset < bytes) {
        proa_log(PROA_LOG_ERROR, "worker", "%s/%s cannot be sent to a frontend", w->dir,
                 w->card.files[front->file_index].name);
        end_files(front);
        return false;
    }
    proa_buf_clear(&w->scratch);
    proa_wire_put_file(&w->scratch, &(proa_wire_file){.index = front->file_index,
                                                      .offset = front->file_offset,
                                                      .data = piece,
                                                      .length = (uint32_t)n});
    if (proa_link_send(front->link, PROA_WIRE_FILE, w->scratch.data, w->scratch.length) != PROA_OK)
        return false;
    front->file_offset += n;
    if (front->file_offset >= bytes) {
        fclose(front->file);
        front->file = NULL;
        front->file_offset = 0;
        front->file_index++;
    }
    return true;
}

void proa_worker_send_files(proa_worker *w)
{
    for (worker_front *front = w->fronts; front != NULL; front = front->next) {
        while (front->wants_files && proa_link_pending(front->link) < PENDING_MAX) {
            proa_arena_reset(w->arena);
            if (!send_piece(front))
                break;
        }
    }
}
