/* tile_cache.c - see tile_cache.h. */
#include "model/cuda/tile_cache.h"

#include "base/clock.h"
#include "base/digest.h"
#include "base/file.h"
#include "op/cuda/kernels.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    VERSION = 1,
    FILE_MAX = 64 << 20,
    CHOICES_MAX = 1 << 17,
    SHAPE_MAX = 1 << 28, /* of n, k, rows and groups: no model comes near */
    LOCK_US = 10000000,
    LOCK_STEP_US = 5000,
};

static const char *const forms[] = {[PROA_CUDA_GROUPS_ROWS] = "rows",
                                    [PROA_CUDA_GROUPS_HEADS] = "heads",
                                    [PROA_CUDA_GROUPS_SLICES] = "slices"};

enum { FORMS = sizeof forms / sizeof *forms };

const char *proa_cuda_shape_type(const proa_cuda_shape *shape)
{
    return shape->fp8 ? "fp8" : "bf16";
}

const char *proa_cuda_shape_form(const proa_cuda_shape *shape)
{
    return forms[shape->form];
}

/* ---- the key ---- */

proa_cuda_tile_key proa_cuda_tile_key_of(const proa_gpu *gpu)
{
    const proa_gpu_facts *facts = proa_gpu_facts_of(gpu);
    proa_cuda_tile_key key = {.capability = facts->capability, .multiprocessors = facts->multiprocessors};
    snprintf(key.gpu, sizeof key.gpu, "%s", facts->name);
    snprintf(key.kernels, sizeof key.kernels, "%s", proa_cuda_kernels_digest);
    return key;
}

/* "tiles-nvidia-h100-80gb-hbm3-": what files of this kind of GPU begin with. */
static void name_begin(const proa_cuda_tile_key *key, char begin[160])
{
    size_t length = (size_t)snprintf(begin, 160, "tiles-");
    for (const char *c = key->gpu; *c != '\0' && length < 150; c++) {
        const bool upper = *c >= 'A' && *c <= 'Z',
                   kept = (*c >= 'a' && *c <= 'z') || (*c >= '0' && *c <= '9');
        begin[length++] = (char)(upper ? *c - 'A' + 'a' : kept ? *c : '-');
    }
    snprintf(begin + length, 160 - length, "-");
}

static void file_name(const proa_cuda_tile_key *key, char name[224])
{
    char begin[160], whole[512];
    const int length = snprintf(whole, sizeof whole, "%d|%s|%d|%d|%s", VERSION, key->gpu, key->capability,
                                key->multiprocessors, key->kernels);
    name_begin(key, begin);
    snprintf(name, 224, "%s%016llx.json", begin, (unsigned long long)proa_digest(whole, (size_t)length, 0));
}

proa_status proa_cuda_tile_cache_path(const char *dir, const proa_cuda_tile_key *key,
                                      char path[PROA_CUDA_TILE_PATH], proa_error *err)
{
    char name[224];
    file_name(key, name);
    const int length = snprintf(path, PROA_CUDA_TILE_PATH, "%s/%s", dir, name);
    if (length < PROA_CUDA_TILE_PATH - 64) /* room for what temporary files and the lock have behind it */
        return PROA_OK;
    return proa_error_set(err, PROA_ERR_TOO_LONG, "--kernel-cache-dir: the path is longer than %d bytes",
                          PROA_CUDA_TILE_PATH - 64);
}

int32_t proa_cuda_tile_cache_others(const char *dir, const proa_cuda_tile_key *key)
{
    char begin[160], own[224];
    int32_t count = 0;
    DIR *folder = opendir(dir);
    name_begin(key, begin);
    file_name(key, own);
    for (const struct dirent *e; folder != NULL && (e = readdir(folder)) != NULL;) {
        const char *end = strrchr(e->d_name, '.');
        count += strncmp(e->d_name, begin, strlen(begin)) == 0 && end != NULL && strcmp(end, ".json") == 0 &&
                 strcmp(e->d_name, own) != 0;
    }
    if (folder != NULL)
        closedir(folder);
    return count;
}

/* ---- reading ---- */

/* A whole number from `low` to `high`. */
static bool read_int(const proa_json *object, const char *name, int64_t low, int64_t high, int32_t *value)
{
    const int64_t found = proa_json_int(proa_json_get(object, name), low - 1);
    *value = (int32_t)found;
    return found >= low && found <= high;
}

/* Which of the words a field is; `count`: none of them. */
static size_t read_word(const proa_json *object, const char *name, const char *const *words, size_t count)
{
    const char *found = proa_json_string(proa_json_get(object, name), "");
    size_t i = 0;
    while (i < count && strcmp(found, words[i]) != 0)
        i++;
    return i;
}

static bool is_built(const proa_cuda_shape *shape, const proa_cuda_tile *tile)
{
    proa_cuda_tile there;
    for (int32_t i = 0; proa_cuda_shape_tiles(shape, i, &there); i++)
        if (there.rows == tile->rows && there.columns == tile->columns)
            return true;
    return false;
}

static bool read_choice(const proa_json *from, proa_cuda_choice *choice)
{
    static const char *const types[] = {"bf16", "fp8"}, *const outputs[] = {"bf16", "float32"};
    proa_cuda_shape *p = &choice->shape;
    const proa_json *tile = proa_json_get(from, "tile");
    const size_t type = read_word(from, "type", types, 2), output = read_word(from, "output", outputs, 2),
                 form = read_word(from, "form", forms, FORMS);
    *choice = (proa_cuda_choice){.us = proa_json_real(proa_json_get(from, "us"), -1),
                                 .built_in_us = proa_json_real(proa_json_get(from, "built_in_us"), -1)};
    if (type == 2 || output == 2 || form == FORMS || !proa_json_is(tile, PROA_JSON_ARRAY) ||
        proa_json_size(tile) != 2)
        return false;
    p->fp8 = type == 1;
    p->y_float = output == 1;
    p->form = (proa_cuda_linear_groups)form;
    const int64_t rows = proa_json_int(proa_json_at(tile, 0), 0),
                  columns = proa_json_int(proa_json_at(tile, 1), 0);
    choice->tile = (proa_cuda_tile){(int32_t)rows, (int32_t)columns};
    return read_int(from, "groups", 1, SHAPE_MAX, &p->groups) && read_int(from, "n", 1, SHAPE_MAX, &p->n) &&
           read_int(from, "k", 1, SHAPE_MAX, &p->k) && read_int(from, "rows", 1, SHAPE_MAX, &p->rows) &&
           choice->us > 0 && choice->built_in_us > 0 && choice->tile.rows == rows &&
           choice->tile.columns == columns && is_built(p, &choice->tile);
}

static proa_status check_key(const proa_json *whole, const char *where, const proa_cuda_tile_key *key,
                             proa_error *err)
{
    static const char *const remedy = "`proa precompile` with the worker's flags measures anew";
    const char *gpu = proa_json_string(proa_json_get(whole, "gpu"), NULL),
               *kernels = proa_json_string(proa_json_get(whole, "kernels"), NULL);
    const int64_t version = proa_json_int(proa_json_get(whole, "version"), 0),
                  capability = proa_json_int(proa_json_get(whole, "capability"), 0),
                  processors = proa_json_int(proa_json_get(whole, "multiprocessors"), 0);
    if (version <= 0 || gpu == NULL || kernels == NULL)
        return proa_error_set(
            err, PROA_ERR_CORRUPT,
            "%s is no file of tile choices (version, gpu or kernels is missing): delete it; %s", where,
            remedy);
    if (version != VERSION)
        return proa_error_set(err, PROA_ERR_UNSUPPORTED, "%s has format %lld, this program reads %d: %s",
                              where, (long long)version, VERSION, remedy);
    if (strcmp(gpu, key->gpu) != 0 || capability != key->capability || processors != key->multiprocessors)
        return proa_error_set(
            err, PROA_ERR_UNSUPPORTED,
            "%s was measured on a GPU called %.100s with %lld multiprocessors, this one is called %s "
            "and has %d: %s",
            where, gpu, (long long)processors, key->gpu, key->multiprocessors, remedy);
    if (strcmp(kernels, key->kernels) != 0)
        return proa_error_set(err, PROA_ERR_UNSUPPORTED,
                              "%s was measured with other kernels (%.32s, this program has %s): %s", where,
                              kernels, key->kernels, remedy);
    return PROA_OK;
}

static proa_status read_choices(const proa_json *whole, const char *where, proa_cuda_tiles *tiles,
                                proa_error *err)
{
    const proa_json *list = proa_json_get(whole, "choices");
    const size_t count = proa_json_size(list);
    proa_cuda_choice choice;
    if (!proa_json_is(list, PROA_JSON_ARRAY) || count > CHOICES_MAX)
        return proa_error_set(err, PROA_ERR_CORRUPT,
                              "%s: choices is no list, or one of more than %d: delete the file", where,
                              CHOICES_MAX);
    for (size_t i = 0; i < count; i++)
        if (!read_choice(proa_json_at(list, i), &choice))
            return proa_error_set(
                err, PROA_ERR_CORRUPT,
                "%s: choices[%zu] is none, or has a tile that is not built: delete the file", where, i);
    for (size_t i = 0; i < count; i++)
        if (!read_choice(proa_json_at(list, i), &choice) || !proa_cuda_tiles_set(tiles, &choice))
            return proa_error_set(err, PROA_ERR_MEMORY, "no memory for %zu tile choices", count);
    return PROA_OK;
}

proa_status proa_cuda_tile_cache_parse(const char *text, size_t length, const char *where,
                                       const proa_cuda_tile_key *key, proa_cuda_tiles *tiles, proa_error *err)
{
    proa_error why = {0};
    proa_json *whole = proa_json_parse(text, length, &why);
    if (whole == NULL)
        return proa_error_set(err, PROA_ERR_CORRUPT, "%s is no JSON (%.300s): delete it", where, why.text);
    proa_status status = check_key(whole, where, key, err);
    if (status == PROA_OK)
        status = read_choices(whole, where, tiles, err);
    proa_json_free(whole);
    return status;
}

proa_status proa_cuda_tile_cache_read(const char *path, const proa_cuda_tile_key *key, proa_cuda_tiles *tiles,
                                      proa_error *err)
{
    proa_buf text = {0};
    proa_status status = proa_file_read(path, FILE_MAX, &text, err);
    if (status == PROA_OK)
        status = proa_cuda_tile_cache_parse(proa_buf_text(&text), text.length, path, key, tiles, err);
    proa_buf_free(&text);
    return status;
}

/* ---- writing ---- */

proa_json *proa_cuda_tile_json(const proa_cuda_tile *tile)
{
    proa_json *to = proa_json_new_array();
    proa_json_append(to, proa_json_new_int(tile->rows));
    proa_json_append(to, proa_json_new_int(tile->columns));
    return to;
}

void proa_cuda_choice_json(const proa_cuda_choice *c, proa_json *to)
{
    const proa_cuda_shape *p = &c->shape;
    proa_json_set(to, "type", proa_json_new_text(proa_cuda_shape_type(p)));
    proa_json_set(to, "form", proa_json_new_text(proa_cuda_shape_form(p)));
    proa_json_set(to, "groups", proa_json_new_int(p->groups));
    proa_json_set(to, "n", proa_json_new_int(p->n));
    proa_json_set(to, "k", proa_json_new_int(p->k));
    proa_json_set(to, "rows", proa_json_new_int(p->rows));
    proa_json_set(to, "output", proa_json_new_text(p->y_float ? "float32" : "bf16"));
    proa_json_set(to, "tile", proa_cuda_tile_json(&c->tile));
    proa_json_set(to, "us", proa_json_new_real(c->us));
    proa_json_set(to, "built_in_us", proa_json_new_real(c->built_in_us));
}

void proa_cuda_tile_cache_print(const proa_cuda_tile_key *key, const proa_cuda_tiles *tiles, proa_buf *out)
{
    proa_json *whole = proa_json_new_object(), *choices = proa_json_new_array();
    proa_json_set(whole, "version", proa_json_new_int(VERSION));
    proa_json_set(whole, "gpu", proa_json_new_text(key->gpu));
    proa_json_set(whole, "capability", proa_json_new_int(key->capability));
    proa_json_set(whole, "multiprocessors", proa_json_new_int(key->multiprocessors));
    proa_json_set(whole, "kernels", proa_json_new_text(key->kernels));
    for (int32_t i = 0; i < tiles->count; i++) {
        proa_json *choice = proa_json_new_object();
        proa_cuda_choice_json(&tiles->choices[i], choice);
        proa_json_append(choices, choice);
    }
    proa_json_set(whole, "choices", choices);
    proa_json_write(whole, 1, out);
    proa_buf_append_char(out, '\n');
    proa_json_free(whole);
}

static proa_status make_folders(const char *dir, proa_error *err)
{
    char part[PROA_CUDA_TILE_PATH];
    snprintf(part, sizeof part, "%s", dir);
    for (char *slash = strchr(part + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        (void)mkdir(part, 0777); /* the last one tells */
        *slash = '/';
    }
    if (mkdir(part, 0777) == 0 || errno == EEXIST)
        return PROA_OK;
    return proa_error_set(err, PROA_ERR_IO, "cannot make the folder %s: %s", dir, strerror(errno));
}

/* A descriptor that has the lock; -1: the file system has none. */
static proa_status take_lock(const char *path, int *fd, proa_error *err)
{
    char name[PROA_CUDA_TILE_PATH + 8];
    const int64_t end_us = proa_clock_us() + LOCK_US;
    snprintf(name, sizeof name, "%s.lock", path);
    *fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (*fd < 0)
        return proa_error_set(err, PROA_ERR_IO, "cannot create %s: %s", name, strerror(errno));
    while (flock(*fd, LOCK_EX | LOCK_NB) != 0) {
        const struct timespec step = {.tv_nsec = LOCK_STEP_US * 1000};
        const bool held = errno == EWOULDBLOCK || errno == EINTR;
        if (held && proa_clock_us() < end_us) {
            nanosleep(&step, NULL);
            continue;
        }
        close(*fd);
        *fd = -1;
        if (!held)
            return PROA_OK;
        return proa_error_set(
            err, PROA_ERR_DEADLINE,
            "waited %d s for %s, which another process holds: it writes the same cache; try again",
            LOCK_US / 1000000, name);
    }
    return PROA_OK;
}

/* Finds the file's path, makes its folder, takes its lock. */
static proa_status open_folder(const char *dir, const proa_cuda_tile_key *key, char path[PROA_CUDA_TILE_PATH],
                               int *lock, proa_error *err)
{
    proa_status status = proa_cuda_tile_cache_path(dir, key, path, err);
    if (status == PROA_OK)
        status = make_folders(dir, err);
    return status == PROA_OK ? take_lock(path, lock, err) : status;
}

proa_status proa_cuda_tile_cache_prepare(const char *dir, const proa_cuda_tile_key *key,
                                         char path[PROA_CUDA_TILE_PATH], proa_error *err)
{
    int lock = -1;
    const proa_status status = open_folder(dir, key, path, &lock, err);
    if (lock >= 0)
        close(lock);
    return status;
}

proa_status proa_cuda_tile_cache_write(const char *dir, const proa_cuda_tile_key *key,
                                       const proa_cuda_tiles *tiles, proa_error *err)
{
    char path[PROA_CUDA_TILE_PATH];
    proa_cuda_tiles all = {0};
    proa_buf text = {0};
    proa_error unused;
    int lock = -1;
    proa_status status = open_folder(dir, key, path, &lock, err);
    if (status != PROA_OK)
        return status;
    if (proa_cuda_tile_cache_read(path, key, &all, &unused) != PROA_OK)
        proa_cuda_tiles_free(&all);
    for (int32_t i = 0; i < tiles->count && status == PROA_OK; i++)
        if (!proa_cuda_tiles_set(&all, &tiles->choices[i]))
            status = proa_error_set(err, PROA_ERR_MEMORY, "no memory for tile choices");
    if (status == PROA_OK)
        proa_cuda_tile_cache_print(key, &all, &text);
    if (status == PROA_OK && text.failed)
        status = proa_error_set(err, PROA_ERR_MEMORY, "no memory to write tile choices");
    if (status == PROA_OK)
        status = proa_file_write(path, proa_buf_text(&text), text.length, err);
    proa_buf_free(&text);
    proa_cuda_tiles_free(&all);
    if (lock >= 0)
        close(lock);
    return status;
}
