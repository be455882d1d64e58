/* rebalance_wire.c - loads and plans as bytes. */
#include "engine/rebalance_wire.h"

#include "engine/group_wire.h"

enum { NO_EXPERT = 0xFFFF };

static const char *const names[PROA_REBALANCE_KINDS] = {"LOAD", "PLAN", "READY"};

/* ---- encoding ---- */

static void put_load(proa_buf *out, const proa_rebalance_message *m, int32_t experts)
{
    proa_put_u64(out, m->step);
    proa_put_i32(out, m->first);
    proa_put_i32(out, m->count);
    proa_put_i32(out, m->total);
    for (int64_t i = 0; i < (int64_t)m->count * experts; i++)
        proa_put_u32(out, m->load[i]);
}

static void put_plan(proa_buf *out, const proa_rebalance_message *m)
{
    proa_put_u32(out, m->version);
    proa_put_u64(out, m->digest);
    proa_put_i32(out, m->first);
    proa_put_i32(out, m->count);
    proa_put_i32(out, m->total);
    proa_put_i32(out, m->physical);
    for (int32_t i = 0; i < m->count; i++)
        proa_put_u16(out, (uint16_t)m->layers[i]);
    for (int64_t i = 0; i < (int64_t)m->count * m->physical; i++)
        proa_put_u16(out, m->placement[i] == PROA_EXPERT_NONE ? NO_EXPERT : (uint16_t)m->placement[i]);
}

void proa_rebalance_encode(const proa_rebalance_message *m, const proa_expert_shape *shape, proa_buf *out)
{
    proa_put_u8(out, (uint8_t)m->kind);
    proa_put_i32(out, m->from);
    proa_group_put_epoch(out, &m->epoch);
    switch (m->kind) {
    case PROA_REBALANCE_LOAD: put_load(out, m, shape->experts); break;
    case PROA_REBALANCE_PLAN: put_plan(out, m); break;
    case PROA_REBALANCE_READY: proa_put_u32(out, m->version); break;
    case PROA_REBALANCE_KINDS: break;
    }
}

/* ---- decoding ---- */

typedef struct rebalance_in {
    proa_reader reader;
    const proa_expert_shape *shape;
    proa_rebalance_tables *tables;
    const char *wrong; /* the first field that is */
} rebalance_in;

static void must(rebalance_in *in, bool right, const char *field)
{
    if (in->wrong == NULL && (in->reader.failed || !right))
        in->wrong = field;
}

static int32_t get_i32(rebalance_in *in, int32_t low, int32_t high, const char *field)
{
    int32_t value = proa_get_i32(&in->reader);
    must(in, value >= low && value <= high, field);
    return value;
}

static void get_load(rebalance_in *in, proa_rebalance_message *m)
{
    int32_t layers = in->shape->layers, experts = in->shape->experts;
    m->step = proa_get_u64(&in->reader);
    must(in, m->step > 0, "step");
    m->first = get_i32(in, 0, layers - 1, "first layer");
    m->count = get_i32(in, 0, layers, "layers");
    m->total = get_i32(in, 0, layers, "all layers");
    must(in, m->count <= m->total - m->first, "layers");
    must(in, (int64_t)m->count * experts <= PROA_REBALANCE_PART_BYTES / 4, "layers");
    for (int64_t i = 0; in->wrong == NULL && i < (int64_t)m->count * experts; i++)
        in->tables->load[i] = proa_get_u32(&in->reader);
    m->load = in->tables->load;
}

static void get_moves(rebalance_in *in, proa_rebalance_message *m)
{
    for (int32_t i = 0; in->wrong == NULL && i < m->count; i++) {
        in->tables->layers[i] = proa_get_u16(&in->reader);
        must(in, in->tables->layers[i] < in->shape->layers, "layer");
    }
    for (int64_t i = 0; in->wrong == NULL && i < (int64_t)m->count * m->physical; i++) {
        int32_t expert = proa_get_u16(&in->reader);
        must(in, expert == NO_EXPERT || expert < in->shape->experts, "expert");
        in->tables->placement[i] = expert == NO_EXPERT ? PROA_EXPERT_NONE : expert;
    }
    m->layers = in->tables->layers;
    m->placement = in->tables->placement;
}

static void get_plan(rebalance_in *in, proa_rebalance_message *m)
{
    int32_t layers = in->shape->layers;
    m->version = proa_get_u32(&in->reader);
    must(in, m->version > 1, "version");
    m->digest = proa_get_u64(&in->reader);
    m->first = get_i32(in, 0, layers - 1, "first move");
    m->count = get_i32(in, 1, layers, "moves");
    m->total = get_i32(in, 1, layers, "all moves");
    must(in, m->count <= m->total - m->first, "moves");
    m->physical = get_i32(in, in->shape->experts, in->shape->physical, "slots");
    must(in, m->physical % in->shape->ranks == 0, "slots");
    must(in, (int64_t)m->count * m->physical <= PROA_REBALANCE_PART_BYTES / 2, "moves");
    get_moves(in, m);
}

proa_status proa_rebalance_decode(const void *body, size_t length, const proa_expert_shape *shape,
                                  proa_rebalance_tables *tables, proa_rebalance_message *m, proa_error *err)
{
    rebalance_in in = {.reader = proa_reader_of(body, length), .shape = shape, .tables = tables};
    *m = (proa_rebalance_message){0};
    uint8_t kind = proa_get_u8(&in.reader);
    if (in.reader.failed || kind >= PROA_REBALANCE_KINDS)
        return proa_error_set(err, PROA_ERR_PROTOCOL,
                              "a message about experts of %zu bytes has kind %u, of %d", length, kind,
                              PROA_REBALANCE_KINDS);
    m->kind = (proa_rebalance_kind)kind;
    m->from = get_i32(&in, 0, shape->ranks - 1, "rank");
    must(&in, proa_group_get_epoch(&in.reader, shape->ranks, &m->epoch) && m->epoch.count > 0, "epoch");
    if (m->kind == PROA_REBALANCE_LOAD)
        get_load(&in, m);
    else if (m->kind == PROA_REBALANCE_PLAN)
        get_plan(&in, m);
    else
        m->version = proa_get_u32(&in.reader);
    must(&in, proa_reader_done(&in.reader), "end");
    if (in.wrong != NULL)
        return proa_error_set(err, PROA_ERR_PROTOCOL, "%s of rank %d: %s is %s; the message has %zu bytes",
                              names[kind], m->from, in.wrong,
                              in.reader.failed ? "cut short" : "out of range for this worker", length);
    return PROA_OK;
}
