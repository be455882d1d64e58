/* expert_location.h - SGLang's JSON about experts: placements, and loads to place them by. What --init-expert-location takes.
 *
 *   {"physical_to_logical_map": [[...], ...]}      [layers, physical]: the expert of each slot
 *   {"logical_count": [[...], ...]}                [layers, experts]: how much each expert had to do
 *   {"logical_count": [[[...], ...], ...]}         [steps, layers, experts]: the same step by step; steps are added up
 *
 * With both keys the placement counts, as in SGLang; other keys are left alone. Numbers of loads may have fractions (moving
 * averages).
 *
 * Layers: SGLang has a row for each layer of the model (num_hidden_layers), also for dense ones, where it means nothing. That
 * is what is written here. Read are two forms: that one, where rows of dense layers must only have the right length;
 * and one row for each layer that has experts, in order, which is what the balancer's own repository counts.
 *
 * Reading has two steps, since a load may be looked at without knowing the model: parse checks what any such text must
 * keep, fit checks it against a model and its ranks. Pure but for proa_expert_location_open; any thread may call.
 */
#ifndef PROA_ENGINE_EXPERT_LOCATION_H
#define PROA_ENGINE_EXPERT_LOCATION_H

#include "base/buf.h"
#include "engine/eplb.h"

enum { PROA_EXPERT_LOCATION_BYTES_MAX = 64 << 20 };

typedef enum proa_expert_location_kind {
    PROA_EXPERT_LOCATION_TRIVIAL, /* nothing but the word */
    PROA_EXPERT_LOCATION_MAP,
    PROA_EXPERT_LOCATION_COUNT,
} proa_expert_location_kind;

/* {0} is the trivial one. Rows are layers: of the text after parse, of the model after fit. */
typedef struct proa_expert_location {
    proa_expert_location_kind kind;
    int32_t rows;
    int32_t columns;
    int32_t steps; /* COUNT: 1, or as many as were added up */
    int32_t *map;  /* MAP: [rows, columns] */
    double *load;  /* COUNT: [rows, columns] */
} proa_expert_location;

/* A JSON text. Errors name key, place, value and what it must be. `location` is freed by the caller when this succeeds. */
proa_status proa_expert_location_parse(const char *text, size_t length, proa_expert_location *location,
                                       proa_error *err);

/* What a flag says: "trivial", a JSON text (from its first brace) or the path of a file with one. */
proa_status proa_expert_location_open(const char *given, proa_expert_location *location, proa_error *err);

void proa_expert_location_free(proa_expert_location *location);

/* Makes its rows those of all layers of the shape; moe [layers] says which have experts. Where the text had no row, a placement
 * gets the trivial one and a load zeros. Fails when rows or columns do not fit, a placement names an expert that does not exist,
 * or leaves one without a slot. */
proa_status proa_expert_location_fit(proa_expert_location *location, const proa_expert_shape *shape,
                                     const bool *moe, proa_error *err);

/* The placement that a fitted location means: itself, or what the balancer makes of its load; [layers, physical]. */
proa_status proa_expert_location_place(const proa_expert_location *location, const proa_expert_shape *shape,
                                       proa_eplb_algorithm algorithm, int32_t *physical_to_logical,
                                       proa_error *err);

/* Of kind, size and table: equal where two processes read the same. */
uint64_t proa_expert_location_digest(const proa_expert_location *location);

/* Appends the JSON text of a placement, a layer a line. */
void proa_expert_location_write(const proa_expert_shape *shape, const int32_t *physical_to_logical,
                                proa_buf *out);

#endif
