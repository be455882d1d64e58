/* proof.h - a model that proves the cache: `--load-format proof`.
 *
 * Its KV rows are real memory of the checkpoint's geometry, and every value in them depends on every token before; its next token
 * is a keyed hash of all rows that it reads. So a block that is lost, stale, foreign or out of order anywhere changes the
 * output, and whoever knows the key knows every right answer (closed form below). It computes nothing else, so it
 * also measures what is around it.
 *
 *   mix(a, b)      x = a ^ (b + 0x9E3779B97F4A7C15 + (a << 6) + (a >> 2)); x = (x ^ x >> 32) * 0xD6E8FEB86659FD93;
 *                  x = (x ^ x >> 29) * 0xBF58476D1CE4E5B9; x ^ x >> 32          (all modulo 2^64)
 *   row[-1]        = mix(key, 0);   row[p] = mix(row[p - 1], token[p])
 *   fold[-1]       = key;           fold[p] = (fold[p - 1] ^ row[p]) * 0x9E3779B97F4A7C15
 *   next token     = mix(fold[p], p) % vocab_size;   logprob = -(float)(mix(fold[p], p + 2^32) % 4096) / 256
 *
 * where p is the last position. In memory, word w of row p in layer l is row[p] + l * 0x100000001B3 + w (64-bit); for each
 * token all words of all layers of all rows are read. What is folded is word 0 of layer 0; when any other word does not agree
 * with it, the token is any but the one that the formula gives.
 * Temperature, penalties and bias change nothing; top_logprobs gives the token alone. Ends are ends as with any model.
 *
 * A proof belongs to the engine thread from start to stop; others may only touch the rows that the engine lends them.
 */
#ifndef PROA_ENGINE_PROOF_H
#define PROA_ENGINE_PROOF_H

#include "engine/engine.h"
#include "net/kv_transfer.h"

typedef struct proa_proof proa_proof;

enum { PROA_PROOF_KEY_DEFAULT = 1 };

/* KV memory for limits->kv_blocks blocks; layers as config says, rows as it says in bf16, rounded up to whole words. */
proa_status proa_proof_create(const proa_model_config *config, const proa_forward_limits *limits,
                              uint64_t key, proa_proof **proof, proa_error *err);
void proa_proof_free(proa_proof *proof); /* after the engine has stopped; accepts NULL */
void proa_proof_layout(const proa_proof *proof, proa_kv_layout *layout);

/* As proa_engine_start, with the proof in the place of the model. */
proa_status proa_proof_start(const proa_engine_options *options, const proa_model_config *config,
                             proa_proof *proof, proa_engine **engine, proa_error *err);

#endif
