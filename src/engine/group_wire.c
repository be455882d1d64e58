/* group_wire.c - messages of a group as bytes. */
#include "engine/group_wire.h"

#include <string.h>

static const char *const names[PROA_GROUP_KINDS] = {"PROPOSE", "SHAPE",  "ASK", "REPORT",
                                                    "VIEW",    "STATUS", "JOIN"};

/* ---- encoding ---- */

static int words_of(int32_t ranks)
{
    return (ranks + 63) / 64;
}

void proa_group_put_epoch(proa_buf *out, const proa_group_epoch *epoch)
{
    proa_put_u64(out, epoch->count);
    proa_put_i32(out, epoch->rank);
    proa_put_u64(out, epoch->life);
}

static void put_mask(proa_buf *out, const proa_group_mask *mask, int32_t ranks)
{
    for (int i = 0; i < words_of(ranks); i++)
        proa_put_u64(out, mask->bits[i]);
}

static void put_want(proa_buf *out, const proa_group_message *m)
{
    proa_put_u64(out, m->step);
    proa_put_i32(out, m->want.windows);
    proa_put_u8(out, m->want.extend);
    proa_put_u32(out, m->want.placement);
}

void proa_group_encode(const proa_group_message *m, int32_t ranks, proa_buf *out)
{
    proa_put_u8(out, (uint8_t)m->kind);
    proa_put_i32(out, m->from);
    proa_put_u64(out, m->life);
    proa_group_put_epoch(out, &m->epoch);
    switch (m->kind) {
    case PROA_GROUP_PROPOSE: put_want(out, m); break;
    case PROA_GROUP_SHAPE:
        put_want(out, m);
        proa_put_u8(out, m->counted);
        break;
    case PROA_GROUP_ASK: proa_put_u8(out, (uint8_t)m->purpose); break;
    case PROA_GROUP_REPORT:
        proa_put_u8(out, (uint8_t)m->purpose);
        put_mask(out, &m->mask, ranks);
        break;
    case PROA_GROUP_VIEW:
        put_mask(out, &m->mask, ranks);
        proa_group_put_epoch(out, &m->before);
        proa_put_u64(out, m->step);
        for (int32_t i = 0; i < proa_group_mask_count(&m->mask); i++)
            proa_put_u64(out, m->lives[i]);
        break;
    case PROA_GROUP_STATUS:
        proa_put_u8(out, m->inside);
        put_mask(out, &m->mask, ranks);
        break;
    case PROA_GROUP_JOIN:
    case PROA_GROUP_KINDS: break;
    }
}

/* ---- decoding ---- */

/* No worker lives to draw so many; below it, the next count never overflows. */
#define COUNT_END ((uint64_t)1 << 48)

bool proa_group_get_epoch(proa_reader *reader, int32_t ranks, proa_group_epoch *epoch)
{
    epoch->count = proa_get_u64(reader);
    epoch->rank = proa_get_i32(reader);
    epoch->life = proa_get_u64(reader);
    bool none = epoch->count == 0 && epoch->rank == 0 && epoch->life == 0;
    bool some = epoch->count > 0 && epoch->count < COUNT_END && epoch->life > 0 && epoch->rank >= 0 &&
                epoch->rank < ranks;
    return none || some;
}

typedef struct group_in {
    proa_reader reader;
    int32_t ranks;
    const char *wrong; /* the first field that is */
} group_in;

static void must(group_in *in, bool right, const char *field)
{
    if (in->wrong == NULL && (in->reader.failed || !right))
        in->wrong = field;
}

static bool get_bool(group_in *in, const char *field)
{
    uint8_t value = proa_get_u8(&in->reader);
    must(in, value <= 1, field);
    return value == 1;
}

static proa_group_epoch get_epoch(group_in *in, const char *field)
{
    proa_group_epoch epoch;
    must(in, proa_group_get_epoch(&in->reader, in->ranks, &epoch), field);
    return epoch;
}

static proa_group_mask get_mask(group_in *in, const char *field)
{
    proa_group_mask mask = {{0}};
    for (int i = 0; i < words_of(in->ranks); i++)
        mask.bits[i] = proa_get_u64(&in->reader);
    must(in, in->ranks == PROA_GROUP_RANKS_MAX || proa_group_mask_next(&mask, in->ranks - 1) < 0, field);
    return mask;
}

static void get_want(group_in *in, proa_group_message *m)
{
    m->step = proa_get_u64(&in->reader);
    must(in, m->step > 0, "step");
    m->want.windows = proa_get_i32(&in->reader);
    must(in, m->want.windows >= 0, "windows");
    m->want.extend = get_bool(in, "extend");
    m->want.placement = proa_get_u32(&in->reader);
    must(in, m->kind == PROA_GROUP_PROPOSE || m->want.placement > 0, "placement");
}

static void get_purpose(group_in *in, proa_group_message *m)
{
    uint8_t purpose = proa_get_u8(&in->reader);
    must(in, purpose < PROA_GROUP_PURPOSES, "purpose");
    m->purpose = in->wrong == NULL ? (proa_group_purpose)purpose : PROA_GROUP_REPAIR;
}

static void get_view(group_in *in, proa_group_message *m, uint64_t *lives)
{
    m->mask = get_mask(in, "members");
    must(in, m->epoch.count > 0, "epoch");
    m->before = get_epoch(in, "epoch before");
    m->step = proa_get_u64(&in->reader);
    int32_t count = in->wrong == NULL ? proa_group_mask_count(&m->mask) : 0;
    must(in, count > 0, "members");
    for (int32_t i = 0; i < count && in->wrong == NULL; i++) {
        lives[i] = proa_get_u64(&in->reader);
        must(in, lives[i] > 0, "life of a member");
    }
    m->lives = lives;
}

static void get_body(group_in *in, proa_group_message *m, uint64_t *lives)
{
    switch (m->kind) {
    case PROA_GROUP_PROPOSE: get_want(in, m); break;
    case PROA_GROUP_SHAPE:
        get_want(in, m);
        m->counted = get_bool(in, "counted");
        break;
    case PROA_GROUP_ASK: get_purpose(in, m); break;
    case PROA_GROUP_REPORT:
        get_purpose(in, m);
        m->mask = get_mask(in, "seen");
        break;
    case PROA_GROUP_VIEW: get_view(in, m, lives); break;
    case PROA_GROUP_STATUS:
        m->inside = get_bool(in, "inside");
        m->mask = get_mask(in, "members");
        must(in, m->inside != proa_group_mask_empty(&m->mask), "members");
        break;
    case PROA_GROUP_JOIN:
    case PROA_GROUP_KINDS: break;
    }
}

proa_status proa_group_decode(const void *body, size_t length, int32_t ranks, uint64_t *lives,
                              proa_group_message *m, proa_error *err)
{
    group_in in = {.reader = proa_reader_of(body, length), .ranks = ranks};
    *m = (proa_group_message){0};
    uint8_t kind = proa_get_u8(&in.reader);
    if (in.reader.failed || kind >= PROA_GROUP_KINDS)
        return proa_error_set(err, PROA_ERR_PROTOCOL, "a group's message of %zu bytes has kind %u, of %d",
                              length, kind, PROA_GROUP_KINDS);
    m->kind = (proa_group_kind)kind;
    m->from = proa_get_i32(&in.reader);
    must(&in, m->from >= 0 && m->from < ranks, "rank");
    m->life = proa_get_u64(&in.reader);
    must(&in, m->life > 0, "life");
    m->epoch = get_epoch(&in, "epoch");
    get_body(&in, m, lives);
    must(&in, proa_reader_done(&in.reader), "end");
    if (in.wrong != NULL)
        return proa_error_set(err, PROA_ERR_PROTOCOL, "%s of rank %d: %s is %s; the message has %zu bytes",
                              names[kind], m->from, in.wrong,
                              in.reader.failed ? "cut short" : "out of range for this worker", length);
    return PROA_OK;
}
