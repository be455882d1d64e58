/* expert_location.c - reading placements and loads, and writing placements. */
#include "engine/expert_location.h"

#include "base/digest.h"
#include "base/file.h"
#include "base/json.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char map_key[] = "physical_to_logical_map";
static const char count_key[] = "logical_count";
static const double count_max = 1e30; /* what the balancer takes */

/* Where in the text a table begins: its key, and the step when there are several. */
typedef struct place {
    const char *key;
    int32_t step; /* -1: no steps */
} place;

static proa_status wrong(proa_error *err, place at, int32_t row, int32_t column, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* "logical_count[0][3][17]: " and the rest; indices below 0 are left out. */
static proa_status wrong(proa_error *err, place at, int32_t row, int32_t column, const char *format, ...)
{
    proa_buf text = {0};
    va_list arguments;
    char rest[300];
    va_start(arguments, format);
    vsnprintf(rest, sizeof rest, format, arguments);
    va_end(arguments);
    const int32_t indices[] = {at.step, row, column};
    proa_buf_append_text(&text, at.key);
    for (int i = 0; i < 3; i++)
        if (indices[i] >= 0)
            proa_buf_append_format(&text, "[%d]", indices[i]);
    proa_error_set(err, PROA_ERR_INVALID, "%s: %s", proa_buf_text(&text), rest);
    proa_buf_free(&text);
    return PROA_ERR_INVALID;
}

/* An array of 1 to `most` elements? */
static proa_status check_array(const proa_json *value, place at, int32_t row, int32_t most, proa_error *err)
{
    if (!proa_json_is(value, PROA_JSON_ARRAY))
        return wrong(err, at, row, -1, "%s, where an array must be",
                     proa_json_type_name(proa_json_type_of(value)));
    if (proa_json_size(value) < 1 || proa_json_size(value) > (size_t)most)
        return wrong(err, at, row, -1, "%zu elements: 1 to %d are possible", proa_json_size(value), most);
    return PROA_OK;
}

static proa_status read_expert(const proa_json *value, place at, int32_t row, int32_t column, int32_t *out,
                               proa_error *err)
{
    int64_t expert = proa_json_int(value, -1);
    if (!proa_json_is(value, PROA_JSON_INT))
        return wrong(err, at, row, column, "%s, where the number of an expert must be",
                     proa_json_type_name(proa_json_type_of(value)));
    if (expert < 0 || expert >= PROA_EXPERTS_MAX)
        return wrong(err, at, row, column, "expert %lld: 0 to %d are possible", (long long)expert,
                     PROA_EXPERTS_MAX - 1);
    *out = (int32_t)expert;
    return PROA_OK;
}

static proa_status add_count(const proa_json *value, place at, int32_t row, int32_t column, double *sum,
                             proa_error *err)
{
    double count = proa_json_real(value, -1);
    if (!proa_json_is(value, PROA_JSON_INT) && !proa_json_is(value, PROA_JSON_REAL))
        return wrong(err, at, row, column, "%s, where a count must be",
                     proa_json_type_name(proa_json_type_of(value)));
    if (!(count >= 0 && count <= count_max))
        return wrong(err, at, row, column, "%g: a count must be 0 to %g", count, count_max);
    *sum += count;
    return PROA_OK;
}

/* The size of a table is that of its first row; the memory for it. */
static proa_status take_memory(proa_expert_location *l, const proa_json *table, place at, proa_error *err)
{
    bool map = l->kind == PROA_EXPERT_LOCATION_MAP;
    proa_status status = check_array(table, at, -1, PROA_EXPERT_LAYERS_MAX, err);
    if (status == PROA_OK)
        status =
            check_array(proa_json_at(table, 0), at, 0, map ? PROA_EXPERT_SLOTS_MAX : PROA_EXPERTS_MAX, err);
    if (status != PROA_OK)
        return status;
    l->rows = (int32_t)proa_json_size(table);
    l->columns = (int32_t)proa_json_size(proa_json_at(table, 0));
    size_t cells = (size_t)l->rows * (size_t)l->columns;
    if (map)
        l->map = calloc(cells, sizeof *l->map);
    else
        l->load = calloc(cells, sizeof *l->load);
    return l->map != NULL || l->load != NULL
               ? PROA_OK
               : proa_error_set(err, PROA_ERR_MEMORY, "no memory for the location of %zu experts", cells);
}

/* A table of numbers, [rows, columns]: set in a placement, added in a load. */
static proa_status read_table(proa_expert_location *l, const proa_json *table, place at, proa_error *err)
{
    proa_status status = check_array(table, at, -1, PROA_EXPERT_LAYERS_MAX, err);
    if (status == PROA_OK && proa_json_size(table) != (size_t)l->rows)
        return wrong(err, at, -1, -1, "%zu layers, where the first step has %d", proa_json_size(table),
                     l->rows);
    for (int32_t r = 0; status == PROA_OK && r < l->rows; r++) {
        const proa_json *row = proa_json_at(table, (size_t)r);
        status = check_array(row, at, r, PROA_EXPERT_SLOTS_MAX, err);
        if (status == PROA_OK && proa_json_size(row) != (size_t)l->columns)
            return wrong(err, at, r, -1, "%zu elements, where the first row has %d", proa_json_size(row),
                         l->columns);
        for (int32_t c = 0; status == PROA_OK && c < l->columns; c++) {
            const proa_json *value = proa_json_at(row, (size_t)c);
            ptrdiff_t cell = (ptrdiff_t)r * l->columns + c;
            status = l->map != NULL ? read_expert(value, at, r, c, &l->map[cell], err)
                                    : add_count(value, at, r, c, &l->load[cell], err);
        }
    }
    return status;
}

static proa_status read_steps(proa_expert_location *l, const proa_json *steps, proa_error *err)
{
    l->steps = (int32_t)proa_json_size(steps);
    proa_status status = take_memory(l, proa_json_at(steps, 0), (place){count_key, 0}, err);
    for (int32_t s = 0; status == PROA_OK && s < l->steps; s++)
        status = read_table(l, proa_json_at(steps, (size_t)s), (place){count_key, s}, err);
    return status;
}

static proa_status read_json(proa_expert_location *l, const proa_json *json, proa_error *err)
{
    const proa_json *table = proa_json_get(json, map_key);
    place at = {map_key, -1};
    if (!proa_json_is(json, PROA_JSON_OBJECT))
        return proa_error_set(err, PROA_ERR_INVALID, "%s, where an object with \"%s\" or \"%s\" must be",
                              proa_json_type_name(proa_json_type_of(json)), map_key, count_key);
    l->kind = PROA_EXPERT_LOCATION_MAP;
    if (table == NULL) {
        table = proa_json_get(json, count_key);
        at.key = count_key;
        l->kind = PROA_EXPERT_LOCATION_COUNT;
    }
    if (table == NULL)
        return proa_error_set(err, PROA_ERR_INVALID, "neither \"%s\" nor \"%s\"", map_key, count_key);
    bool steps = l->kind == PROA_EXPERT_LOCATION_COUNT &&
                 proa_json_is(proa_json_at(proa_json_at(table, 0), 0), PROA_JSON_ARRAY);
    if (steps)
        return read_steps(l, table, err);
    l->steps = 1;
    proa_status status = take_memory(l, table, at, err);
    return status == PROA_OK ? read_table(l, table, at, err) : status;
}

proa_status proa_expert_location_parse(const char *text, size_t length, proa_expert_location *location,
                                       proa_error *err)
{
    *location = (proa_expert_location){0};
    proa_json *json = proa_json_parse(text, length, err);
    if (json == NULL)
        return PROA_ERR_INVALID;
    proa_status status = read_json(location, json, err);
    if (status != PROA_OK)
        proa_expert_location_free(location);
    proa_json_free(json);
    return status;
}

static proa_status open_file(const char *path, proa_expert_location *location, proa_error *err)
{
    size_t length = strlen(path);
    if (length > 3 && strcmp(path + length - 3, ".pt") == 0)
        return proa_error_set(err, PROA_ERR_UNSUPPORTED,
                              "%s: PyTorch's files are programs and are not read; write its tensor as JSON, "
                              "{\"%s\": [[...]]} or {\"%s\": [[...]]}",
                              path, map_key, count_key);
    proa_buf text = {0};
    proa_status status = proa_file_read(path, PROA_EXPERT_LOCATION_BYTES_MAX, &text, err);
    if (status == PROA_OK) {
        status = proa_expert_location_parse(proa_buf_text(&text), text.length, location, err);
        if (status != PROA_OK)
            proa_error_prefix(err, "%s", path);
    }
    proa_buf_free(&text);
    return status;
}

proa_status proa_expert_location_open(const char *given, proa_expert_location *location, proa_error *err)
{
    *location = (proa_expert_location){0};
    if (strcmp(given, "trivial") == 0)
        return PROA_OK;
    if (given[strspn(given, " \t\r\n")] != '{')
        return open_file(given, location, err);
    return proa_expert_location_parse(given, strlen(given), location, err);
}

void proa_expert_location_free(proa_expert_location *location)
{
    free(location->map);
    free(location->load);
    *location = (proa_expert_location){0};
}

static int32_t count_true(const bool *flags, int32_t count)
{
    int32_t sum = 0;
    for (int32_t i = 0; i < count; i++)
        sum += flags[i];
    return sum;
}

static proa_status check_size(const proa_expert_location *l, const proa_expert_shape *shape,
                              int32_t moe_layers, proa_error *err)
{
    bool map = l->kind == PROA_EXPERT_LOCATION_MAP;
    int32_t columns = map ? shape->physical : shape->experts;
    if (l->rows != shape->layers && l->rows != moe_layers)
        return proa_error_set(err, PROA_ERR_INVALID,
                              "%s: %d layers, where the model has %d, %d of them with experts",
                              map ? map_key : count_key, l->rows, shape->layers, moe_layers);
    if (l->columns == columns)
        return PROA_OK;
    if (!map)
        return proa_error_set(err, PROA_ERR_INVALID, "%s: %d experts a layer, where the model has %d",
                              count_key, l->columns, shape->experts);
    if (l->columns % shape->ranks != 0)
        return proa_error_set(err, PROA_ERR_INVALID,
                              "%s: %d physical experts a layer, which do not divide by %d ranks", map_key,
                              l->columns, shape->ranks);
    return proa_error_set(err, PROA_ERR_INVALID,
                          "%s: %d physical experts a layer, where %d experts and %d redundant ones are %d",
                          map_key, l->columns, shape->experts, shape->physical - shape->experts,
                          shape->physical);
}

/* Each slot of row `r` names an expert, and each expert is named. */
static proa_status check_row(const proa_expert_location *l, int32_t experts, int32_t r, proa_error *err)
{
    bool found[PROA_EXPERTS_MAX] = {false};
    for (int32_t c = 0; c < l->columns; c++) {
        int32_t expert = l->map[(ptrdiff_t)r * l->columns + c];
        if (expert >= experts)
            return wrong(err, (place){map_key, -1}, r, c, "expert %d, where the model has %d", expert,
                         experts);
        found[expert] = true;
    }
    for (int32_t e = 0; e < experts; e++)
        if (!found[e])
            return wrong(err, (place){map_key, -1}, r, -1, "expert %d has no slot", e);
    return PROA_OK;
}

/* Spreads the rows of layers with experts over all layers. */
static proa_status spread(proa_expert_location *l, const proa_expert_shape *shape, const bool *moe,
                          proa_error *err)
{
    size_t cells = (size_t)shape->layers * (size_t)l->columns;
    int32_t *map = l->map != NULL ? calloc(cells, sizeof *map) : NULL;
    double *load = l->load != NULL ? calloc(cells, sizeof *load) : NULL;
    if (map == NULL && load == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the location of %zu experts", cells);
    int32_t from = 0;
    bool whole = l->rows == shape->layers;
    for (int32_t r = 0; r < shape->layers; r++) {
        ptrdiff_t to = (ptrdiff_t)r * l->columns, at = (ptrdiff_t)(whole ? r : from) * l->columns;
        from += moe[r];
        for (int32_t c = 0; c < l->columns; c++) {
            if (map != NULL)
                map[to + c] = moe[r] ? l->map[at + c] : c % shape->experts;
            else
                load[to + c] = moe[r] ? l->load[at + c] : 0;
        }
    }
    free(l->map);
    free(l->load);
    l->map = map;
    l->load = load;
    l->rows = shape->layers;
    return PROA_OK;
}

proa_status proa_expert_location_fit(proa_expert_location *location, const proa_expert_shape *shape,
                                     const bool *moe, proa_error *err)
{
    if (location->kind == PROA_EXPERT_LOCATION_TRIVIAL)
        return PROA_OK;
    proa_status status = check_size(location, shape, count_true(moe, shape->layers), err);
    bool whole = location->rows == shape->layers;
    for (int32_t layer = 0, row = 0; status == PROA_OK && location->map != NULL && layer < shape->layers;
         layer++)
        if (moe[layer])
            status = check_row(location, shape->experts, whole ? layer : row++, err);
    return status == PROA_OK ? spread(location, shape, moe, err) : status;
}

proa_status proa_expert_location_place(const proa_expert_location *location, const proa_expert_shape *shape,
                                       proa_eplb_algorithm algorithm, int32_t *physical_to_logical,
                                       proa_error *err)
{
    const proa_eplb_placement placement = {.physical_to_logical = physical_to_logical};
    if (location->kind == PROA_EXPERT_LOCATION_COUNT)
        return proa_eplb_place(shape, algorithm, NULL, location->load, &placement, err);
    proa_expert_place_trivially(shape, physical_to_logical);
    if (location->kind == PROA_EXPERT_LOCATION_MAP)
        memcpy(physical_to_logical, location->map,
               (size_t)shape->layers * (size_t)shape->physical * sizeof *physical_to_logical);
    return PROA_OK;
}

uint64_t proa_expert_location_digest(const proa_expert_location *l)
{
    const int32_t head[] = {(int32_t)l->kind, l->rows, l->columns};
    size_t cells = (size_t)l->rows * (size_t)l->columns;
    uint64_t digest = proa_digest(head, sizeof head, 0);
    if (l->map != NULL)
        digest = proa_digest(l->map, cells * sizeof *l->map, digest);
    if (l->load != NULL)
        digest = proa_digest(l->load, cells * sizeof *l->load, digest);
    return digest;
}

void proa_expert_location_write(const proa_expert_shape *shape, const int32_t *physical_to_logical,
                                proa_buf *out)
{
    proa_buf_append_format(out, "{\"%s\": [", map_key);
    for (int32_t l = 0; l < shape->layers; l++) {
        proa_buf_append_text(out, l == 0 ? "\n[" : ",\n[");
        for (int32_t p = 0; p < shape->physical; p++)
            proa_buf_append_format(out, p == 0 ? "%d" : ",%d",
                                   physical_to_logical[(ptrdiff_t)l * shape->physical + p]);
        proa_buf_append_char(out, ']');
    }
    proa_buf_append_text(out, "\n]}\n");
}
