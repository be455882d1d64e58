/* link_handshake.h - frames and the handshake of a link: bytes in, bytes out. Pure: no socket, clock or chance.
 *
 * The handshake is two frames each way:
 *
 *   dialler                                acceptor
 *      │ ── HELLO  nonce, keyed, identity ──> │   the acceptor says nothing before it has a good HELLO,
 *      │ <── HELLO nonce, keyed, identity ─── │
 *      │ ── PROOF  mac(dialler) ────────────> │   and proves nothing before the dialler has: up
 *   up │ <── PROOF mac(acceptor) ──────────── │
 *
 *   mac(who) = HMAC-SHA256(cluster key, label | binding | length of D | D | length of A | A)
 *     label    "proa link, " who, padded with zeros to 64 bytes
 *     binding  32 bytes of the TLS session, or zeros: a proof cannot be passed on through another session
 *     D, A     the dialler's HELLO and the acceptor's as they travelled; lengths are u32
 *
 * The session key is the same with "session" for who.
 *
 * An end that refuses says why in one byte (REFUSAL), since "the connection was closed" helps nobody who has two key
 * files. It proves nothing and is used for the text alone.
 *
 * HELLO: 32 bytes nonce, u8 keyed, u64 instance, u64 epoch, text role, text name (bytes.h). Role and name are printable
 * ASCII: they go into logs.
 */
#ifndef PROA_NET_LINK_HANDSHAKE_H
#define PROA_NET_LINK_HANDSHAKE_H

#include "net/link.h"

enum {
    PROA_FRAME_HEADER_BYTES = 12,
    PROA_FRAME_HELLO = 0xFF00, /* types from here on are the link's own */
    PROA_FRAME_PROOF,
    PROA_FRAME_REFUSAL,
    PROA_FRAME_BEAT,                     /* empty */
    PROA_HANDSHAKE_BODY_BYTES_MAX = 256, /* what a stranger may send in one frame */
    PROA_HANDSHAKE_NONCE_BYTES = 32,
    PROA_HANDSHAKE_PROOF_BYTES = 32,
};

typedef struct proa_frame {
    uint16_t type;
    uint32_t length; /* of the body */
} proa_frame;

void proa_frame_write(uint8_t header[PROA_FRAME_HEADER_BYTES], uint16_t type, uint32_t length);
/* PROA_ERR_PROTOCOL for another magic or version, or a length over length_max. */
proa_status proa_frame_read(const uint8_t header[PROA_FRAME_HEADER_BYTES], uint32_t length_max,
                            proa_frame *frame, proa_error *err);

typedef enum proa_handshake_state {
    PROA_HANDSHAKE_HELLO, /* the peer's HELLO is awaited */
    PROA_HANDSHAKE_PROOF, /* its PROOF is */
    PROA_HANDSHAKE_DONE,
    PROA_HANDSHAKE_REFUSED,
} proa_handshake_state;

typedef struct proa_handshake_options {
    bool dials;
    const uint8_t *key; /* borrowed until the handshake is over; NULL: none */
    size_t key_bytes;
    proa_link_identity self;
    uint8_t nonce[PROA_HANDSHAKE_NONCE_BYTES]; /* random, of this handshake alone */
    uint8_t binding[32];
} proa_handshake_options;

typedef struct proa_hello {
    uint8_t bytes[PROA_HANDSHAKE_BODY_BYTES_MAX];
    uint32_t length;
} proa_hello;

typedef struct proa_handshake {
    proa_handshake_options options;
    proa_handshake_state state;
    proa_hello mine;
    proa_hello theirs;
    proa_link_identity peer; /* believed when DONE */
    uint8_t session_key[PROA_LINK_KEY_BYTES];
} proa_handshake;

/* Appends to `out` what is to be sent first: nothing, for the accepting end. */
void proa_handshake_start(proa_handshake *handshake, const proa_handshake_options *options, proa_buf *out);

/* Takes one frame and appends what is to be sent. An error (PROA_ERR_PROTOCOL, whose text is about "it", the peer) ends the handshake;
 * what is in `out` should still be sent. PROA_OK: `state` says whether it is over. */
proa_status proa_handshake_take(proa_handshake *handshake, uint16_t type, const uint8_t *body, size_t length,
                                proa_buf *out, proa_error *err);

/* An identity that a peer would take: an epoch, printable texts. */
proa_status proa_handshake_check_identity(const proa_link_identity *identity, proa_error *err);

#endif
