/* fuzz_rebalance.c - messages about loads and plans of experts: what is decoded encodes to the same bytes, and no content, however wrong,
 * harms the machine. The first byte picks ranks, slots and who this is; then come messages, each after its length in two bytes. */
#include "engine/rebalance_wire.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { LAYERS = 3, EXPERTS = 5, PHYSICAL_MAX = 64 };

typedef struct shell {
    proa_expert_shape shape;
    proa_rebalance_tables tables;
    proa_rebalance *machine;
    uint32_t said;
} shell;

static void check_again(shell *s, const uint8_t *body, size_t length, const proa_rebalance_message *m)
{
    proa_buf out = {0};
    proa_rebalance_encode(m, &s->shape, &out);
    if (out.failed || out.length != length || memcmp(proa_buf_text(&out), body, length) != 0)
        abort();
    proa_buf_free(&out);
}

static void obey(shell *s)
{
    proa_rebalance_action a;
    while (proa_rebalance_next(s->machine, &a)) {
        if (a.kind == PROA_REBALANCE_PREPARE)
            proa_rebalance_prepared(s->machine, a.version);
        if (a.kind == PROA_REBALANCE_SAY)
            s->said = a.version;
    }
}

static void open_machine(shell *s, uint8_t seed)
{
    proa_group_mask all = {{0}};
    int32_t placement[LAYERS * PHYSICAL_MAX], ranks = 1 + seed % 7;
    s->shape = (proa_expert_shape){.layers = LAYERS,
                                   .experts = EXPERTS,
                                   .physical = (EXPERTS + ranks) / ranks * ranks,
                                   .ranks = ranks,
                                   .nodes = 1};
    const proa_rebalance_options options = {.self = seed / 7 % ranks,
                                            .shape = s->shape,
                                            .algorithm = PROA_EPLB_DEEPSEEK,
                                            .iterations = 2,
                                            .layers_per_chunk = seed / 128,
                                            .threshold = 1,
                                            .gather_us = 300,
                                            .resend_us = 300};
    s->machine = proa_rebalance_create(&options);
    if (s->machine == NULL)
        abort();
    for (int32_t i = 0; i < ranks; i++)
        proa_group_mask_add(&all, i);
    proa_expert_place_trivially(&s->shape, placement);
    proa_rebalance_install(s->machine, &(proa_group_epoch){.count = 1, .life = 1}, &all, s->shape.physical,
                           placement, 0);
    s->said = 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint32_t counts[LAYERS * EXPERTS] = {9, 1, 0, 0, 0, 3, 3};
    proa_rebalance_message m;
    proa_error err = {0};
    int64_t now_us = 0;
    uint64_t step = 0;
    if (size < 1)
        return 0;
    shell *s = calloc(1, sizeof *s);
    if (s == NULL)
        abort();
    open_machine(s, data[0]);
    for (size_t at = 1; at + 1 < size;) {
        size_t length = (size_t)data[at] | (size_t)data[at + 1] << 8, left = size - at - 2;
        const uint8_t *body = data + at + 2;
        length = length < left ? length : left;
        at += 2 + length;
        now_us += 50;
        if (proa_rebalance_decode(body, length, &s->shape, &s->tables, &m, &err) == PROA_OK) {
            check_again(s, body, length, &m);
            proa_rebalance_receive(s->machine, &m, now_us);
        } else if (err.status != PROA_ERR_PROTOCOL || err.text[0] == 0) {
            abort();
        } else {
            proa_rebalance_tick(s->machine, now_us);
        }
        obey(s);
        (void)proa_rebalance_begin(s->machine, s->said);
        proa_rebalance_ended(s->machine, ++step, counts, now_us);
        obey(s);
    }
    proa_rebalance_free(s->machine);
    free(s);
    return 0;
}
