/* mla.h - multi-head latent attention over the blocked KV cache: append, gather, and the two forms of attention.
 *
 * Both forms compute softmax(scale * q k^T) v, causal, walking the keys in splits of 64 absolute positions from
 * position 0 with a running maximum and sum; the walk of a query depends on its position alone (law 2).
 *   expanded (prompt): k_h = [k_nope_h | k_pe], v_h from kv_b_proj; head dims nope + rope and v.
 *   absorbed (generated): q_lat_h = q_nope_h W_UK_h; score = q_lat . kv_lora + q_pe . k_pe; o_lat = P kv_lora.
 * In the default precision the probabilities and the outputs are rounded to bf16; scores and sums are float32.
 */
#ifndef PROA_OP_MLA_MLA_H
#define PROA_OP_MLA_MLA_H

#include "op/mla/kv_row.h"

/* Writes one row a token into the cache: cache[blocks[p / 64]][p % 64] = row, p = position of the row; rounded to bf16 or quantised as
 * kv_row.h says. */
typedef struct proa_kv_append_args {
    const proa_segment *segments;
    int32_t segment_count;
    const float *kv_lora; /* [rows, kv_lora_rank] at kv_lora_stride, normed */
    int64_t kv_lora_stride;
    const float *k_pe; /* [rows, rope_dim] at k_pe_stride, rotated */
    int64_t k_pe_stride;
    const proa_kv_layer *kv;
} proa_kv_append_args;

void proa_kv_append_ref(const proa_host *host, const proa_kv_append_args *args);
void proa_kv_append_cpu(const proa_host *host, const proa_kv_append_args *args);

/* Reads positions first .. first + count - 1 of one sequence back as floats. */
typedef struct proa_kv_gather_args {
    const proa_kv_layer *kv;
    const int32_t *blocks; /* of the sequence, from position 0 */
    int32_t first;
    int32_t count;
    float *kv_lora; /* [count, kv_lora_rank] */
    float *k_pe;    /* [count, rope_dim] */
} proa_kv_gather_args;

void proa_kv_gather_ref(const proa_host *host, const proa_kv_gather_args *args);
void proa_kv_gather_cpu(const proa_host *host, const proa_kv_gather_args *args);

/* Rows 0 .. tokens - 1 of block `from` go to block `to`: a plain copy, the same on both host devices. */
typedef struct proa_kv_copy_args {
    const proa_kv_layer *kv;
    int32_t from;
    int32_t to;
    int32_t tokens; /* 1 .. 64 */
} proa_kv_copy_args;

void proa_kv_copy_host(const proa_host *host, const proa_kv_copy_args *args);

/* Expanded form, one tile of keys of one segment. Tiles come in order from position 0 and start at multiples
 * of 64; the running state carries from tile to tile, so the tile's size does not change a bit of the result.
 * A row whose position lies before the tile is left alone. */
typedef struct proa_mla_expanded_args {
    int32_t rows;           /* query rows of the segment */
    int32_t position_first; /* of the first query row */
    int32_t heads;
    int32_t nope_dim;
    int32_t rope_dim;
    int32_t v_dim;
    float scale;
    const float *q; /* row r, head h: [nope | rope] at q + r * q_row_stride + h * (nope_dim + rope_dim) */
    int64_t q_row_stride;
    int32_t tile_first; /* position of the tile's first key, a multiple of 64 */
    int32_t tile_count;
    const float *kv;   /* [tile_count, heads, nope_dim + v_dim]: kv_b_proj's output, per head k_nope then v */
    const float *k_pe; /* [tile_count, rope_dim] */
    bool first;        /* initialise the state */
    bool last;         /* write out (and lse) */
    float *state_max; /* [heads, rows], as are the others: rows of a head are neighbours, which caches like */
    float *state_sum; /* [heads, rows] */
    float *state_out; /* [heads, rows, v_dim] */
    float *out;       /* row r, head h at out + r * out_row_stride + h * v_dim */
    int64_t out_row_stride;
    float *lse; /* [heads, rows] natural log-sum-exp of the scaled scores, or NULL */
} proa_mla_expanded_args;

void proa_mla_expanded_ref(const proa_host *host, const proa_mla_expanded_args *args);
void proa_mla_expanded_cpu(const proa_host *host, const proa_mla_expanded_args *args);
size_t proa_mla_expanded_scratch_bytes(const proa_host *host, int32_t rows, int32_t heads, int32_t tile_count,
                                       int32_t nope_dim, int32_t rope_dim, int32_t v_dim);

/* Absorbed form, all absorbed segments of a step at once. Segments that are not absorbed are skipped. */
typedef struct proa_mla_absorbed_args {
    const proa_segment *segments;
    int32_t segment_count;
    int32_t heads;
    float scale;
    const float *q_lat; /* [rows, heads, kv_lora_rank] */
    const float *q_pe;  /* row r, head h at q_pe + r * q_pe_row_stride + h * q_pe_head_stride */
    int64_t q_pe_row_stride;
    int64_t q_pe_head_stride;
    const proa_kv_layer *kv; /* the step's own rows are appended already */
    float *o_lat;            /* [rows, heads, kv_lora_rank] */
    float *lse;              /* [heads, rows] or NULL */
} proa_mla_absorbed_args;

void proa_mla_absorbed_ref(const proa_host *host, const proa_mla_absorbed_args *args);
void proa_mla_absorbed_cpu(const proa_host *host, const proa_mla_absorbed_args *args);
size_t proa_mla_absorbed_scratch_bytes(const proa_host *host, int32_t rows, int32_t heads,
                                       int32_t kv_lora_rank, int32_t rope_dim);

#endif
