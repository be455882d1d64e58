/* config_reader.h - reading fields of config.json with their checks. Private to config*.c.
 *
 * A reader looks a field up in the inner object first (`text_config` of a multimodal model), then in the outer one;
 * null counts as absent. A field that is wrong adds a problem and reads as a harmless value, so that reading goes on.
 */
#ifndef PROA_MODEL_CONFIG_READER_H
#define PROA_MODEL_CONFIG_READER_H

#include "base/json.h"
#include "model/config.h"
#include "model/problems.h"

typedef struct proa_config_reader {
    const proa_json *inner;
    const proa_json *outer; /* may be NULL */
    const char *prefix;     /* of field names in messages: "", "rope_scaling." */
    proa_problems *problems;
} proa_config_reader;

/* NULL when absent or null. */
const proa_json *proa_config_field(const proa_config_reader *r, const char *key);

/* A value as JSON, cut to what fits. Returns `text`. */
const char *proa_config_value(const proa_json *value, char text[64]);

/* Absent fields give `otherwise`; a value of the wrong type or out of low..high is a problem and reads as low. */
int32_t proa_config_int(const proa_config_reader *r, const char *key, int64_t low, int64_t high,
                        int32_t otherwise);
/* The same; absent is a problem too. */
int32_t proa_config_int_required(const proa_config_reader *r, const char *key, int64_t low, int64_t high);
double proa_config_real(const proa_config_reader *r, const char *key, double low, double high,
                        double otherwise);
bool proa_config_bool(const proa_config_reader *r, const char *key, bool otherwise);
/* A problem unless absent or equal to `served`. `remedy` ends the sentence. */
void proa_config_expect_text(const proa_config_reader *r, const char *key, const char *served,
                             const char *remedy);
void proa_config_expect_bool(const proa_config_reader *r, const char *key, bool served, const char *remedy);

/* config_rope.c: fills config->rope; max_position_embeddings and qk_rope_head_dim are read already. */
void proa_config_read_rope(const proa_config_reader *r, proa_model_config *config);

#endif
