/* wire_again.h - decodes a message and encodes what came out: for the test and the fuzzer of wire.h. */
#ifndef PROA_TESTS_WIRE_AGAIN_H
#define PROA_TESTS_WIRE_AGAIN_H

#include "cluster/wire.h"

#define WIRE_AGAIN(name)                                                                                     \
    static inline bool wire_again_##name(const uint8_t *body, size_t length, proa_arena *arena,              \
                                         proa_buf *out, proa_error *err)                                     \
    {                                                                                                        \
        proa_wire_##name m;                                                                                  \
        (void)arena;                                                                                         \
        if (!WIRE_GET(name))                                                                                 \
            return false;                                                                                    \
        proa_wire_put_##name(out, &m);                                                                       \
        return true;                                                                                         \
    }

#define WIRE_GET(name) proa_wire_get_##name(body, length, arena, &m, err)
WIRE_AGAIN(submit)
WIRE_AGAIN(kv_events)
WIRE_AGAIN(tokens)
WIRE_AGAIN(room_open)
WIRE_AGAIN(room_done)
#undef WIRE_GET
#define WIRE_GET(name) proa_wire_get_##name(body, length, &m, err)
WIRE_AGAIN(cancel)
WIRE_AGAIN(grant)
WIRE_AGAIN(card)
WIRE_AGAIN(file)
WIRE_AGAIN(load)
WIRE_AGAIN(finish)
WIRE_AGAIN(room_hello)
WIRE_AGAIN(room)
WIRE_AGAIN(room_fail)
WIRE_AGAIN(taken)
#undef WIRE_GET
#undef WIRE_AGAIN

typedef bool (*wire_again)(const uint8_t *body, size_t length, proa_arena *arena, proa_buf *out,
                           proa_error *err);

static const wire_again wire_agains[] = {
    wire_again_submit,    wire_again_cancel,     wire_again_grant,     wire_again_card,
    wire_again_file,      wire_again_load,       wire_again_kv_events, wire_again_tokens,
    wire_again_finish,    wire_again_room_hello, wire_again_room_open, wire_again_room,
    wire_again_room_done, wire_again_room_fail,  wire_again_taken,
};
enum { WIRE_AGAIN_COUNT = sizeof wire_agains / sizeof wire_agains[0] };

#endif
