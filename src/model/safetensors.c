/* safetensors.c - reading the header of a .safetensors file, with every number in it checked.
 *
 *   bytes 0..7      n, the header's length, little endian
 *   bytes 8..8+n-1  JSON: {"name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [begin, end]}, ...}, perhaps
 *                   "__metadata__": {"key": "text"}; may end in spaces
 *   then            the data; offsets count from here; tensors fill it without holes or overlaps
 *
 * Reading makes a table sorted by offset (the check for holes and overlaps is then one pass) and an index sorted
 * by name. Lacks: protection against a file that is cut short while it is mapped (SIGBUS), as every reader by
 * mmap; the header's own metadata is checked and dropped.
 */
#include "model/safetensors.h"

#include "base/arena.h"
#include "base/file.h"
#include "base/json.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { LENGTH_BYTES = 8, HEADER_BYTES_MAX = 100 * 1000 * 1000, NAME_BYTES_MAX = 1024 };

struct proa_safetensors {
    proa_map map; /* {0} when parsed from the caller's memory */
    proa_arena *arena;
    proa_tensor *tensors;        /* [count], by offset */
    const proa_tensor **by_name; /* [count] */
    size_t count;
};

/* What is known while reading: the source's name for errors and the bounds of the data. */
typedef struct source {
    const char *name;
    const unsigned char *data; /* after the header */
    uint64_t data_bytes;
} source;

/* The format's types. Those of less than a byte count by bits. */
static const struct dtype_row {
    const char *name;
    proa_dtype dtype;
    int bits;
} dtype_table[] = {
    {"F32", PROA_DTYPE_F32, 32},          {"BF16", PROA_DTYPE_BF16, 16},
    {"F8_E4M3", PROA_DTYPE_E4M3, 8},      {"I32", PROA_DTYPE_I32, 32},
    {"I64", PROA_DTYPE_I64, 64},          {"U8", PROA_DTYPE_U8, 8},
    {"F64", PROA_DTYPE_F64, 64},          {"F8_E8M0", PROA_DTYPE_E8M0, 8},
    {"F16", PROA_DTYPE_OTHER, 16},        {"I16", PROA_DTYPE_OTHER, 16},
    {"U16", PROA_DTYPE_OTHER, 16},        {"U32", PROA_DTYPE_OTHER, 32},
    {"U64", PROA_DTYPE_OTHER, 64},        {"C64", PROA_DTYPE_OTHER, 64},
    {"I8", PROA_DTYPE_OTHER, 8},          {"BOOL", PROA_DTYPE_OTHER, 8},
    {"F8_E5M2", PROA_DTYPE_OTHER, 8},     {"F8_E4M3FNUZ", PROA_DTYPE_OTHER, 8},
    {"F8_E5M2FNUZ", PROA_DTYPE_OTHER, 8}, {"F6_E2M3", PROA_DTYPE_OTHER, 6},
    {"F6_E3M2", PROA_DTYPE_OTHER, 6},     {"F4", PROA_DTYPE_OTHER, 4},
};

enum { DTYPE_COUNT = sizeof dtype_table / sizeof dtype_table[0] };

const char *proa_safetensors_dtype_name(proa_dtype dtype)
{
    for (int i = 0; i < DTYPE_COUNT && dtype != PROA_DTYPE_OTHER; i++) {
        if (dtype_table[i].dtype == dtype)
            return dtype_table[i].name;
    }
    return NULL;
}

static const struct dtype_row *dtype_find(const char *name)
{
    for (int i = 0; i < DTYPE_COUNT; i++) {
        if (strcmp(dtype_table[i].name, name) == 0)
            return &dtype_table[i];
    }
    return NULL;
}

static proa_status corrupt(const source *src, proa_error *err, const char *tensor, const char *what)
{
    return proa_error_set(err, PROA_ERR_CORRUPT, "%s: tensor %s: %s; fetch the file again", src->name, tensor,
                          what);
}

/* Names stand in messages on terminals: printable, not empty, of sane length. UTF-8 is the JSON parser's check. */
static bool name_is_printable(const char *name)
{
    size_t length = strlen(name);
    for (size_t i = 0; i < length; i++) {
        if ((unsigned char)name[i] < 0x20 || name[i] == 0x7f)
            return false;
    }
    return length > 0 && length <= NAME_BYTES_MAX;
}

/* Fills dims and shape and returns the number of elements through `count`. */
static proa_status read_shape(const source *src, const proa_json *shape, proa_tensor *t, uint64_t *count,
                              proa_error *err)
{
    if (!proa_json_is(shape, PROA_JSON_ARRAY))
        return corrupt(src, err, t->name, "\"shape\" is missing or not an array");
    if (proa_json_size(shape) > PROA_TENSOR_MAX_DIMS)
        return proa_error_set(err, PROA_ERR_UNSUPPORTED,
                              "%s: tensor %s has %zu dimensions, at most %d are read", src->name, t->name,
                              proa_json_size(shape), PROA_TENSOR_MAX_DIMS);
    t->dims = (int32_t)proa_json_size(shape);
    *count = 1;
    bool overflow = false;
    for (int32_t i = 0; i < t->dims; i++) {
        const proa_json *value = proa_json_at(shape, (size_t)i);
        t->shape[i] = proa_json_int(value, -1);
        if (t->shape[i] < 0)
            return corrupt(src, err, t->name, "\"shape\" holds something other than counts from 0 up");
        overflow |= __builtin_mul_overflow(*count, (uint64_t)t->shape[i], count);
    }
    /* A dimension of 0 beside huge ones may have hidden the overflow: such a shape is no less absurd. */
    if (overflow || *count > UINT64_MAX / 64)
        return corrupt(src, err, t->name, "the product of its shape does not fit 64 bits");
    return PROA_OK;
}

static proa_status read_offsets(const source *src, const proa_json *offsets, proa_tensor *t, proa_error *err)
{
    int64_t begin = proa_json_int(proa_json_at(offsets, 0), -1),
            end = proa_json_int(proa_json_at(offsets, 1), -1);
    if (!proa_json_is(offsets, PROA_JSON_ARRAY) || proa_json_size(offsets) != 2 || begin < 0 || end < 0)
        return corrupt(src, err, t->name, "\"data_offsets\" is not an array of two counts from 0 up");
    if (begin > end)
        return proa_error_set(err, PROA_ERR_CORRUPT,
                              "%s: tensor %s begins at %" PRId64 ", after its end at %" PRId64
                              "; fetch the file again",
                              src->name, t->name, begin, end);
    if ((uint64_t)end > src->data_bytes)
        return proa_error_set(err, PROA_ERR_CORRUPT,
                              "%s: tensor %s ends at %" PRId64 ", but the file holds %" PRIu64
                              " bytes of data: it is cut short; fetch it again",
                              src->name, t->name, end, src->data_bytes);
    t->data = src->data + begin;
    t->bytes = (uint64_t)(end - begin);
    return PROA_OK;
}

/* Reads one entry of the header; t->name is set. */
static proa_status read_tensor(const source *src, const proa_json *entry, proa_tensor *t, proa_error *err)
{
    if (!proa_json_is(entry, PROA_JSON_OBJECT))
        return corrupt(src, err, t->name, "its entry is not an object");
    const char *dtype_name = proa_json_string(proa_json_get(entry, "dtype"), NULL);
    if (dtype_name == NULL)
        return corrupt(src, err, t->name, "\"dtype\" is missing or not a string");
    const struct dtype_row *row = dtype_find(dtype_name);
    if (row == NULL)
        return proa_error_set(
            err, PROA_ERR_UNSUPPORTED,
            "%s: tensor %s has the type \"%.40s\", which the format does not know as of version "
            "0.7; convert the file or update proa",
            src->name, t->name, dtype_name);
    t->dtype = row->dtype;
    t->dtype_name = row->name;
    uint64_t count = 0;
    proa_status status = read_shape(src, proa_json_get(entry, "shape"), t, &count, err);
    if (status == PROA_OK)
        status = read_offsets(src, proa_json_get(entry, "data_offsets"), t, err);
    if (status != PROA_OK)
        return status;
    uint64_t bits = count * (uint64_t)row->bits; /* fits: read_shape bounds the count */
    if (bits % 8 != 0 || bits / 8 != t->bytes)
        return proa_error_set(err, PROA_ERR_CORRUPT,
                              "%s: tensor %s holds %" PRIu64 " bytes, but its shape has %" PRIu64
                              " elements of %s (%d bits each); fetch the file again",
                              src->name, t->name, t->bytes, count, row->name, row->bits);
    return PROA_OK;
}

static proa_status check_metadata(const source *src, const proa_json *metadata, proa_error *err)
{
    bool good = proa_json_is(metadata, PROA_JSON_OBJECT);
    for (void *it = good ? proa_json_first(metadata) : NULL; it != NULL; it = proa_json_next(metadata, it))
        good &= proa_json_is(proa_json_value(it), PROA_JSON_STRING);
    if (!good)
        return proa_error_set(err, PROA_ERR_CORRUPT,
                              "%s: \"__metadata__\" is not an object of strings; fetch the file again",
                              src->name);
    return PROA_OK;
}

static int compare_offsets(const void *a, const void *b)
{
    const proa_tensor *x = a, *y = b;
    if (x->data != y->data)
        return (const char *)x->data < (const char *)y->data ? -1 : 1;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? -1 : 1; /* empty tensors first */
    return strcmp(x->name, y->name);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp((*(const proa_tensor *const *)a)->name, (*(const proa_tensor *const *)b)->name);
}

/* Sorts by offset; then each tensor must begin where the one before it ends, and the last end with the data. */
static proa_status check_layout(const source *src, proa_safetensors *file, proa_error *err)
{
    qsort(file->tensors, file->count, sizeof file->tensors[0], compare_offsets);
    uint64_t end = 0;
    const char *before = "the start";
    for (size_t i = 0; i < file->count; i++) {
        const proa_tensor *t = &file->tensors[i];
        uint64_t begin = (uint64_t)((const unsigned char *)t->data - src->data);
        if (begin != end)
            return proa_error_set(err, PROA_ERR_CORRUPT,
                                  "%s: tensor %s begins at %" PRIu64 ", but %s ends at %" PRIu64
                                  ": tensors must neither overlap nor leave holes; fetch the file again",
                                  src->name, t->name, begin, before, end);
        end += t->bytes;
        before = t->name;
    }
    if (end != src->data_bytes)
        return proa_error_set(err, PROA_ERR_CORRUPT,
                              "%s: the last tensor ends at %" PRIu64 " of %" PRIu64
                              " bytes of data: the rest belongs to none; fetch the file again",
                              src->name, end, src->data_bytes);
    return PROA_OK;
}

static proa_status out_of_memory(const source *src, proa_error *err)
{
    return proa_error_set(err, PROA_ERR_MEMORY, "%s: no memory left for its table of tensors", src->name);
}

static proa_status read_entries(const source *src, const proa_json *header, proa_safetensors *file,
                                proa_error *err)
{
    size_t entries = proa_json_size(header);
    file->tensors = proa_arena_array(file->arena, entries, sizeof file->tensors[0]);
    file->by_name = proa_arena_array(file->arena, entries, sizeof file->by_name[0]);
    if (file->tensors == NULL || file->by_name == NULL)
        return out_of_memory(src, err);
    for (void *it = proa_json_first(header); it != NULL; it = proa_json_next(header, it)) {
        const char *name = proa_json_key(it);
        proa_status status;
        if (strcmp(name, "__metadata__") == 0) {
            status = check_metadata(src, proa_json_value(it), err);
        } else if (!name_is_printable(name)) {
            status =
                proa_error_set(err, PROA_ERR_CORRUPT,
                               "%s: a tensor's name is empty, longer than %d bytes or has control characters",
                               src->name, NAME_BYTES_MAX);
        } else {
            proa_tensor *t = &file->tensors[file->count++];
            t->name = proa_arena_string(file->arena, name, strlen(name));
            status =
                t->name != NULL ? read_tensor(src, proa_json_value(it), t, err) : out_of_memory(src, err);
        }
        if (status != PROA_OK)
            return status;
    }
    proa_status status = check_layout(src, file, err);
    for (size_t i = 0; i < file->count; i++)
        file->by_name[i] = &file->tensors[i];
    if (file->count > 0)
        qsort(file->by_name, file->count, sizeof file->by_name[0], compare_names);
    return status;
}

/* Finds the header's JSON and where the data begins. */
static proa_status find_header(const void *data, uint64_t bytes, source *src, uint64_t *header_bytes,
                               proa_error *err)
{
    if (bytes < LENGTH_BYTES)
        return proa_error_set(err, PROA_ERR_CORRUPT,
                              "%s: %" PRIu64
                              " bytes are too few for a safetensors file (at least %d); fetch it again",
                              src->name, bytes, LENGTH_BYTES);
    const unsigned char *first = data;
    uint64_t length = 0;
    for (int i = LENGTH_BYTES - 1; i >= 0; i--)
        length = length << 8 | first[i];
    if (length > HEADER_BYTES_MAX)
        return proa_error_set(err, PROA_ERR_CORRUPT,
                              "%s: a header of %" PRIu64
                              " bytes is over the limit of %d: not a safetensors file?",
                              src->name, length, HEADER_BYTES_MAX);
    if (length > bytes - LENGTH_BYTES)
        return proa_error_set(err, PROA_ERR_CORRUPT,
                              "%s: the header has %" PRIu64 " bytes, but only %" PRIu64
                              " follow: the file is cut short; fetch it again",
                              src->name, length, bytes - LENGTH_BYTES);
    if (length == 0 || first[LENGTH_BYTES] != '{')
        return proa_error_set(err, PROA_ERR_CORRUPT,
                              "%s: the header does not start with '{': not a safetensors file", src->name);
    src->data = first + LENGTH_BYTES + length;
    src->data_bytes = bytes - LENGTH_BYTES - length;
    *header_bytes = length;
    return PROA_OK;
}

proa_status proa_safetensors_parse(const void *data, uint64_t bytes, const char *name, proa_safetensors **out,
                                   proa_error *err)
{
    *out = NULL;
    source src = {.name = name};
    uint64_t header_bytes = 0;
    proa_status status = find_header(data, bytes, &src, &header_bytes, err);
    if (status != PROA_OK)
        return status;
    proa_error cause = {0};
    proa_json *header = proa_json_parse((const char *)data + LENGTH_BYTES, header_bytes, &cause);
    if (header == NULL)
        return proa_error_set(err, PROA_ERR_CORRUPT, "%s: the header is %s; fetch the file again", name,
                              cause.text);
    proa_safetensors *file = calloc(1, sizeof *file);
    if (file != NULL)
        file->arena = proa_arena_create(0); /* bounded by the header's own limit */
    if (file == NULL || file->arena == NULL)
        status = out_of_memory(&src, err);
    else
        status = read_entries(&src, header, file, err);
    proa_json_free(header);
    if (status != PROA_OK) {
        proa_safetensors_close(file);
        return status;
    }
    *out = file;
    return PROA_OK;
}

proa_status proa_safetensors_open(const char *path, proa_safetensors **file, proa_error *err)
{
    *file = NULL;
    proa_map map;
    proa_status status = proa_map_open(path, &map, err);
    if (status != PROA_OK)
        return status;
    status = proa_safetensors_parse(map.data, map.bytes, path, file, err);
    if (*file == NULL)
        proa_map_close(&map);
    else
        (*file)->map = map;
    return status;
}

void proa_safetensors_close(proa_safetensors *file)
{
    if (file == NULL)
        return;
    proa_map_close(&file->map);
    proa_arena_free(file->arena);
    free(file);
}

size_t proa_safetensors_count(const proa_safetensors *file)
{
    return file->count;
}

const proa_tensor *proa_safetensors_at(const proa_safetensors *file, size_t index)
{
    PROA_ASSERT(index < file->count);
    return &file->tensors[index];
}

const proa_tensor *proa_safetensors_find(const proa_safetensors *file, const char *name)
{
    size_t low = 0, high = file->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(file->by_name[middle]->name, name);
        if (order == 0)
            return file->by_name[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}
