/* link_handshake.c - see the header for the protocol. */
#include "net/link_handshake.h"

#include "net/bytes.h"

#include <stdio.h>
#include <string.h>

enum {
    MAGIC = 0x414f5250, /* "PROA", little-endian */
    LABEL_BYTES = 64,   /* of a proof, padded with zeros */
};

/* Why an end refuses: the byte in REFUSAL. */
typedef enum refusal {
    REFUSAL_MALFORMED = 1,
    REFUSAL_KEY_MISSING, /* you show no key */
    REFUSAL_KEY_UNKNOWN, /* you show a key, I have none */
    REFUSAL_KEY_DIFFERS,
    REFUSAL_IDENTITY,
} refusal;

/* ---- frames ---- */

static void put_u16(uint8_t *at, uint16_t value)
{
    at[0] = (uint8_t)value;
    at[1] = (uint8_t)(value >> 8);
}

static void put_u32(uint8_t *at, uint32_t value)
{
    put_u16(at, (uint16_t)value);
    put_u16(at + 2, (uint16_t)(value >> 16));
}

void proa_frame_write(uint8_t header[PROA_FRAME_HEADER_BYTES], uint16_t type, uint32_t length)
{
    put_u32(header, MAGIC);
    put_u16(header + 4, PROA_LINK_VERSION);
    put_u16(header + 6, type);
    put_u32(header + 8, length);
}

proa_status proa_frame_read(const uint8_t header[PROA_FRAME_HEADER_BYTES], uint32_t length_max,
                            proa_frame *frame, proa_error *err)
{
    proa_reader reader = proa_reader_of(header, PROA_FRAME_HEADER_BYTES);
    uint32_t magic = proa_get_u32(&reader);
    uint16_t version = proa_get_u16(&reader);
    frame->type = proa_get_u16(&reader);
    frame->length = proa_get_u32(&reader);
    if (magic != MAGIC)
        return proa_error_set(
            err, PROA_ERR_PROTOCOL,
            "it does not speak Proa's protocol: a message begins with %02x %02x %02x %02x (another "
            "program's port, or TLS on one end alone?)",
            header[0], header[1], header[2], header[3]);
    if (version != PROA_LINK_VERSION)
        return proa_error_set(
            err, PROA_ERR_PROTOCOL,
            "it speaks version %d of the protocol, this process version %d: run the same release on "
            "both ends",
            version, PROA_LINK_VERSION);
    if (frame->length > length_max)
        return proa_error_set(err, PROA_ERR_PROTOCOL,
                              "it announces a message of %u bytes (type 0x%04x); at most %u are allowed here",
                              frame->length, frame->type, length_max);
    return PROA_OK;
}

static void append_frame(proa_buf *out, uint16_t type, const void *body, size_t length)
{
    uint8_t header[PROA_FRAME_HEADER_BYTES];
    proa_frame_write(header, type, (uint32_t)length);
    proa_buf_append(out, header, sizeof header);
    proa_buf_append(out, body, length);
}

/* ---- proofs ---- */

/* HMAC over the whole conversation, for one purpose. */
static void make_mac(const proa_handshake *h, const char *who, uint8_t mac[PROA_HANDSHAKE_PROOF_BYTES])
{
    const proa_hello *hellos[2] = {h->options.dials ? &h->mine : &h->theirs,
                                   h->options.dials ? &h->theirs : &h->mine};
    uint8_t text[LABEL_BYTES + sizeof h->options.binding + 2 * (4 + PROA_HANDSHAKE_BODY_BYTES_MAX)];
    memset(text, 0, LABEL_BYTES);
    snprintf((char *)text, LABEL_BYTES, "proa link, %s", who);
    size_t at = LABEL_BYTES;
    memcpy(text + at, h->options.binding, sizeof h->options.binding);
    at += sizeof h->options.binding;
    for (int i = 0; i < 2; i++) {
        put_u32(text + at, hellos[i]->length);
        at += 4;
        memcpy(text + at, hellos[i]->bytes, hellos[i]->length);
        at += hellos[i]->length;
    }
    proa_hmac(h->options.key, h->options.key_bytes, text, at, mac);
}

static void send_proof(proa_handshake *h, proa_buf *out)
{
    uint8_t mac[PROA_HANDSHAKE_PROOF_BYTES];
    make_mac(h, h->options.dials ? "dialler" : "acceptor", mac);
    append_frame(out, PROA_FRAME_PROOF, mac, sizeof mac);
}

/* ---- refusing ---- */

static proa_status refuse(proa_handshake *h, refusal why, proa_buf *out, proa_error *err, const char *text)
{
    uint8_t byte = (uint8_t)why;
    append_frame(out, PROA_FRAME_REFUSAL, &byte, 1);
    h->state = PROA_HANDSHAKE_REFUSED;
    return proa_error_set(err, PROA_ERR_PROTOCOL, "%s", text);
}

static proa_status refused(proa_handshake *h, const uint8_t *body, size_t length, proa_error *err)
{
    static const char *const texts[] = {
        [REFUSAL_MALFORMED] = "this end's messages look malformed to it",
        [REFUSAL_KEY_MISSING] = "it has a cluster key, this process has none",
        [REFUSAL_KEY_UNKNOWN] = "it has no cluster key, this process has one",
        [REFUSAL_KEY_DIFFERS] = "its cluster key is another one than this process's",
        [REFUSAL_IDENTITY] = "it does not take this process's identity",
    };
    size_t why = length == 1 ? body[0] : 0;
    bool known = why >= REFUSAL_MALFORMED && why < sizeof texts / sizeof texts[0];
    h->state = PROA_HANDSHAKE_REFUSED;
    return proa_error_set(err, PROA_ERR_PROTOCOL, "it refuses the handshake: %s",
                          known ? texts[why] : "for a reason that this process does not know");
}

/* ---- HELLO ---- */

static bool printable(const char *text, size_t bytes)
{
    size_t length = strnlen(text, bytes);
    if (length == bytes)
        return false;
    for (size_t i = 0; i < length; i++) {
        if (text[i] < 0x20 || text[i] > 0x7e)
            return false;
    }
    return true;
}

proa_status proa_handshake_check_identity(const proa_link_identity *identity, proa_error *err)
{
    if (identity->epoch == 0)
        return proa_error_set(err, PROA_ERR_INVALID, "an identity without an epoch (0)");
    if (!printable(identity->role, sizeof identity->role) ||
        !printable(identity->name, sizeof identity->name))
        return proa_error_set(err, PROA_ERR_INVALID, "an identity whose role or name is not printable ASCII");
    return PROA_OK;
}

static void write_hello(proa_handshake *h, proa_buf *out)
{
    const proa_handshake_options *o = &h->options;
    proa_buf body = {0};
    proa_buf_append(&body, o->nonce, sizeof o->nonce);
    proa_put_u8(&body, o->key != NULL);
    proa_put_u64(&body, o->self.instance);
    proa_put_u64(&body, o->self.epoch);
    proa_put_text(&body, o->self.role);
    proa_put_text(&body, o->self.name);
    if (body.failed) { /* no memory: `out` shall not look whole */
        out->failed = true;
        proa_buf_free(&body);
        return;
    }
    PROA_ASSERT(body.length <= sizeof h->mine.bytes);
    memcpy(h->mine.bytes, body.data, body.length);
    h->mine.length = (uint32_t)body.length;
    append_frame(out, PROA_FRAME_HELLO, body.data, body.length);
    proa_buf_free(&body);
}

static proa_status take_hello(proa_handshake *h, const uint8_t *body, size_t length, proa_buf *out,
                              proa_error *err)
{
    proa_reader reader = proa_reader_of(body, length);
    proa_get_bytes(&reader, PROA_HANDSHAKE_NONCE_BYTES);
    uint8_t keyed = proa_get_u8(&reader);
    h->peer.instance = proa_get_u64(&reader);
    h->peer.epoch = proa_get_u64(&reader);
    proa_get_text(&reader, h->peer.role, sizeof h->peer.role);
    proa_get_text(&reader, h->peer.name, sizeof h->peer.name);
    if (!proa_reader_done(&reader) || keyed > 1 || length > sizeof h->theirs.bytes)
        return refuse(h, REFUSAL_MALFORMED, out, err, "its HELLO is malformed");
    proa_error why;
    if (proa_handshake_check_identity(&h->peer, &why) != PROA_OK) {
        refuse(h, REFUSAL_IDENTITY, out, err, "");
        return proa_error_set(err, PROA_ERR_PROTOCOL, "it shows %s", why.text);
    }
    if (keyed && h->options.key == NULL)
        return refuse(h, REFUSAL_KEY_UNKNOWN, out, err, "it has a cluster key, this process has none");
    if (!keyed && h->options.key != NULL)
        return refuse(h, REFUSAL_KEY_MISSING, out, err, "it has no cluster key, this process has one");
    memcpy(h->theirs.bytes, body, length);
    h->theirs.length = (uint32_t)length;
    if (h->options.dials)
        send_proof(h, out);
    else
        write_hello(h, out);
    h->state = PROA_HANDSHAKE_PROOF;
    return PROA_OK;
}

/* ---- PROOF ---- */

static proa_status take_proof(proa_handshake *h, const uint8_t *body, size_t length, proa_buf *out,
                              proa_error *err)
{
    if (length != PROA_HANDSHAKE_PROOF_BYTES)
        return refuse(h, REFUSAL_MALFORMED, out, err, "its PROOF is malformed");
    uint8_t expected[PROA_HANDSHAKE_PROOF_BYTES];
    make_mac(h, h->options.dials ? "acceptor" : "dialler", expected);
    if (!proa_hmac_equal(expected, body))
        return refuse(
            h, REFUSAL_KEY_DIFFERS, out, err,
            "its proof is wrong: its cluster key is another one, or a recorded handshake is played again");
    if (!h->options.dials)
        send_proof(h, out);
    make_mac(h, "session", h->session_key);
    h->state = PROA_HANDSHAKE_DONE;
    return PROA_OK;
}

/* ---- the machine ---- */

void proa_handshake_start(proa_handshake *h, const proa_handshake_options *options, proa_buf *out)
{
    *h = (proa_handshake){.options = *options, .state = PROA_HANDSHAKE_HELLO};
    if (options->dials)
        write_hello(h, out);
}

proa_status proa_handshake_take(proa_handshake *h, uint16_t type, const uint8_t *body, size_t length,
                                proa_buf *out, proa_error *err)
{
    PROA_ASSERT(h->state == PROA_HANDSHAKE_HELLO || h->state == PROA_HANDSHAKE_PROOF);
    if (type == PROA_FRAME_REFUSAL)
        return refused(h, body, length, err);
    if (h->state == PROA_HANDSHAKE_HELLO && type == PROA_FRAME_HELLO)
        return take_hello(h, body, length, out, err);
    if (h->state == PROA_HANDSHAKE_PROOF && type == PROA_FRAME_PROOF)
        return take_proof(h, body, length, out, err);
    refuse(h, REFUSAL_MALFORMED, out, err, "");
    return proa_error_set(err, PROA_ERR_PROTOCOL, "it sends type 0x%04x where %s is due", type,
                          h->mine.length > 0 && h->theirs.length > 0 ? "PROOF" : "HELLO");
}
