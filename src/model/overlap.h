/* overlap.h - a step in two halves: what one half sends travels while the other one computes.
 *
 * Where ranks share the experts and the exchange has two lanes, the rows of each step are cut in two, A and B, one half a lane. In a layer
 * with one window a half:
 *
 *   A  [collect] attention route -> send, shared │                                       │ receive experts -> give back │
 *   B                                            │ [collect] attention route -> send ... │                              │ receive ...
 *                                                 ~~~~~~~~~~~ rows of A travel ~~~~~~~~~~                                ~ outputs of A ~
 *
 * A's outputs are collected when A enters the next layer, as B's are when B does. With more windows, each half collects one and sends the
 * next in turn. All ranks go through layers, windows and lanes in this order, also those whose halves are empty; a dense layer has no
 * window, and its halves follow each other.
 *
 * The cut: between segments, where the halves differ least; where the smaller one has less than `threshold` of the rows, in the middle,
 * through a segment. A segment that is cut is like a prompt in two chunks: the second part reads the keys of the first from the cache. No
 * bit of a result depends on it (law 2).
 *
 * It pays where transfers are slow and halves are large: each half reads all weights.
 */
#ifndef PROA_MODEL_OVERLAP_H
#define PROA_MODEL_OVERLAP_H

#include "model/forward.h"

/* The rows of the larger half of a step with so many rows, at most. */
int32_t proa_overlap_half_rows(int32_t rows, double threshold);

/* What of the rows goes into the first half. */
int32_t proa_overlap_cut(const proa_step *step, double threshold);

/* The layers of a step, from embedded rows to b.delta of the last layer; rows may be 0. */
proa_status proa_overlap_layers(proa_forward *forward, const proa_step *step, proa_error *err);

#endif
