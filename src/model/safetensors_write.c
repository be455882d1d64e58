/* safetensors_write.c - writing a .safetensors file: header first, padded with spaces, then the data.
 *
 * Tensors are laid out by falling width of their type, then by name, so that every one is aligned to its type.
 */
#include "model/safetensors.h"

#include "base/buf.h"
#include "base/file.h"
#include "base/json.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 8 };

static int compare_layout(const void *a, const void *b)
{
    const proa_tensor *x = *(const proa_tensor *const *)a, *y = *(const proa_tensor *const *)b;
    size_t wide_x = proa_dtype_bytes(x->dtype), wide_y = proa_dtype_bytes(y->dtype);
    if (wide_x != wide_y)
        return wide_x > wide_y ? -1 : 1;
    return strcmp(x->name, y->name);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static proa_status check_names(const char *path, const proa_tensor *tensors, size_t count, proa_error *err)
{
    const char **names = calloc(count + 1, sizeof names[0]);
    if (names == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory left to write %s", path);
    for (size_t i = 0; i < count; i++)
        names[i] = tensors[i].name;
    qsort(names, count, sizeof names[0], compare_names);
    proa_status status = PROA_OK;
    for (size_t i = 0; i < count && status == PROA_OK; i++) {
        proa_json *text = proa_json_new_text(names[i]);
        if (text == NULL || names[i][0] == '\0' || strcmp(names[i], "__metadata__") == 0)
            status = proa_error_set(err, PROA_ERR_INVALID, "cannot write %s: \"%s\" is no name for a tensor",
                                    path, names[i]);
        else if (i > 0 && strcmp(names[i - 1], names[i]) == 0)
            status = proa_error_set(err, PROA_ERR_INVALID, "cannot write %s: two tensors are named %s", path,
                                    names[i]);
        proa_json_free(text);
    }
    free(names);
    return status;
}

/* Bytes of a tensor by shape and type; false when they do not fit. */
static bool tensor_bytes(const proa_tensor *t, uint64_t *bytes)
{
    *bytes = proa_dtype_bytes(t->dtype);
    bool overflow = t->dims < 0 || t->dims > PROA_TENSOR_MAX_DIMS || *bytes == 0;
    for (int32_t i = 0; i < t->dims && !overflow; i++)
        overflow = t->shape[i] < 0 || __builtin_mul_overflow(*bytes, (uint64_t)t->shape[i], bytes);
    return !overflow && *bytes <= INT64_MAX;
}

/* Appends the header for tensors in layout order and lists their data in pieces[1..]. */
static proa_status make_header(const char *path, const proa_tensor *const *order, size_t count,
                               proa_buf *header, proa_piece *pieces, proa_error *err)
{
    uint64_t offset = 0;
    proa_buf_append(header, "\0\0\0\0\0\0\0\0{", ALIGNMENT + 1); /* the length, filled in at the end */
    for (size_t i = 0; i < count; i++) {
        const proa_tensor *t = order[i];
        uint64_t bytes;
        if (!tensor_bytes(t, &bytes) || offset > INT64_MAX - bytes)
            return proa_error_set(err, PROA_ERR_INVALID,
                                  "cannot write %s: tensor %s has an impossible shape or type", path,
                                  t->name);
        if (i > 0)
            proa_buf_append_char(header, ',');
        proa_json_write_string(t->name, strlen(t->name), header);
        proa_buf_append_format(header, ":{\"dtype\":\"%s\",\"shape\":[",
                               proa_safetensors_dtype_name(t->dtype));
        for (int32_t d = 0; d < t->dims; d++)
            proa_buf_append_format(header, "%s%" PRId64, d > 0 ? "," : "", t->shape[d]);
        proa_buf_append_format(header, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", offset,
                               offset + bytes);
        pieces[i + 1] = (proa_piece){t->data, bytes};
        offset += bytes;
    }
    proa_buf_append_char(header, '}');
    while (header->length % ALIGNMENT != 0)
        proa_buf_append_char(header, ' ');
    if (header->failed)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory left to write %s", path);
    uint64_t length = header->length - ALIGNMENT;
    for (int i = 0; i < ALIGNMENT; i++)
        header->data[i] = (char)(length >> (8 * i));
    pieces[0] = (proa_piece){header->data, header->length};
    return PROA_OK;
}

proa_status proa_safetensors_write(const char *path, const proa_tensor *tensors, size_t count,
                                   proa_error *err)
{
    proa_status status = check_names(path, tensors, count, err);
    if (status != PROA_OK)
        return status;
    const proa_tensor **order = calloc(count + 1, sizeof order[0]);
    proa_piece *pieces = calloc(count + 1, sizeof pieces[0]);
    proa_buf header = {0};
    if (order == NULL || pieces == NULL) {
        status = proa_error_set(err, PROA_ERR_MEMORY, "no memory left to write %s", path);
    } else {
        for (size_t i = 0; i < count; i++)
            order[i] = &tensors[i];
        qsort(order, count, sizeof order[0], compare_layout);
        status = make_header(path, order, count, &header, pieces, err);
    }
    if (status == PROA_OK)
        status = proa_file_write_pieces(path, pieces, count + 1, err);
    proa_buf_free(&header);
    free(order);
    free(pieces);
    return status;
}
