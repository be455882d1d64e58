/* fuzz_group.c - messages between the ranks of a worker: what is decoded encodes to the same bytes, and no content, however wrong,
 * harms the machine. The first byte picks the number of ranks; then come messages, each after its length. */
#include "engine/group_wire.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const proa_group_limits limits = {.collect_us = 300,
                                         .view_us = 700,
                                         .join_us = 600,
                                         .form_us = 1000,
                                         .status_us = 300,
                                         .proposal_us = 2000,
                                         .placement_us = 3000,
                                         .shun_us = 3000,
                                         .abandon_us = 4000};

static void check_again(const uint8_t *body, size_t length, int32_t ranks, const proa_group_message *m)
{
    proa_buf out = {0};
    proa_group_encode(m, ranks, &out);
    if (out.failed || out.length != length || memcmp(proa_buf_text(&out), body, length) != 0)
        abort();
    proa_buf_free(&out);
}

typedef struct shell {
    proa_group *group;
    bool running, abandoned, owes;
} shell;

/* Does what the machine says: steps end at once, and there is always more work. A few rounds, since a lone rank would never rest. */
static void obey(shell *s, int64_t now_us)
{
    proa_group_action action;
    for (int round = 0; round < 4; round++) {
        while (proa_group_next(s->group, &action)) {
            if (action.kind == PROA_GROUP_BEGIN && s->running)
                abort();
            s->running |= action.kind == PROA_GROUP_BEGIN;
            s->abandoned = action.kind == PROA_GROUP_ABANDON || (s->abandoned && s->running);
            s->owes |=
                action.kind == PROA_GROUP_INSTALL || (action.kind == PROA_GROUP_BEGIN && action.counted);
        }
        if (s->running) {
            s->running = false;
            proa_group_ended(s->group, !s->abandoned, now_us);
        } else if (s->owes) {
            s->owes = false;
            proa_group_propose(s->group, &(proa_group_want){.windows = 1, .placement = 1}, now_us);
        }
    }
    while (proa_group_next(s->group, &action))
        s->running |= action.kind == PROA_GROUP_BEGIN;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    int32_t ranks = 1 + data[0] % 70;
    int64_t now_us = 0;
    uint64_t lives[70];
    proa_group_message m;
    proa_error err = {0};
    proa_group *group = proa_group_create(ranks, data[0] % ranks, 1, &limits, 0);
    if (group == NULL)
        abort();
    shell s = {.group = group};
    for (int32_t peer = 0; peer < ranks; peer++) {
        if (peer == data[0] % ranks)
            continue;
        proa_group_link_up(group, peer, 1, now_us);
        obey(&s, now_us);
    }
    for (size_t at = 1; at < size;) {
        size_t length = data[at] < size - at ? data[at] : size - at - 1;
        const uint8_t *body = data + at + 1;
        at += 1 + length;
        now_us += 50;
        if (proa_group_decode(body, length, ranks, lives, &m, &err) == PROA_OK) {
            check_again(body, length, ranks, &m);
            proa_group_receive(group, &m, now_us);
        } else if (err.status != PROA_ERR_PROTOCOL || err.text[0] == 0) {
            abort();
        } else {
            proa_group_tick(group, now_us);
        }
        obey(&s, now_us);
    }
    proa_group_free(group);
    return 0;
}
