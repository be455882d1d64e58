/* nats_message.c - seals and subjects: bytes that go through the broker, and which of them are believed. */
#include "cluster/nats_message.h"

#include "base/log.h"
#include "net/bytes.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { VERSION = 1, HEAD_BYTES = 4 + 2 + 8 + 8 + 4, TAG_BYTES = 32 };
static const uint32_t magic = 0x54414e50; /* "PNAT" */

_Static_assert(PROA_NATS_SEAL_BYTES == HEAD_BYTES + TAG_BYTES, "the header says what a seal adds");

/* ---- names ---- */

void proa_nats_subject(const proa_instance *i, char *subject, size_t bytes)
{
    snprintf(subject, bytes, "%s_%s.%s-%" PRIx64, i->namespace_name, i->component, i->endpoint, i->id);
}

bool proa_nats_subject_valid(const char *subject)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-$";
    for (const char *at = subject;; at++) {
        size_t token = strspn(at, letters);
        if (token == 0)
            return false;
        at += token;
        if (*at == 0)
            return true;
        if (*at != '.')
            return false;
    }
}

void proa_nats_hide_password(const char *server, char *shown, size_t bytes)
{
    size_t at = 0;
    shown[0] = 0;
    for (const char *from = server; *from != 0 && at + 1 < bytes;) {
        size_t part = strcspn(from, ",");
        const char *host = from, *slashes = strstr(from, "://");
        const char *sign = memchr(from, '@', part);
        if (slashes != NULL && slashes < from + part)
            host = slashes + 3;
        if (sign == NULL || sign < host)
            sign = host - 1;
        at += (size_t)snprintf(shown + at, bytes - at, "%.*s%.*s", (int)(host - from), from,
                               (int)(from + part - sign - 1), sign + 1);
        from += part;
        if (*from == ',' && at + 1 < bytes) {
            shown[at++] = *from++;
            shown[at] = 0;
        }
    }
}

/* "host", "host:port" or "[v6]:port". */
static bool host_valid(const char *host, size_t length)
{
    const char *end = host + length;
    const char *colon = memchr(host, ':', length);
    if (length > 0 && host[0] == '[') {
        colon = memchr(host, ']', length);
        if (colon == NULL || ++colon == end)
            return colon == end;
    }
    if (colon == NULL)
        return length > 0;
    size_t digits = strspn(colon + 1, "0123456789");
    long port = strtol(colon + 1, NULL, 10);
    return colon > host && *colon == ':' && colon + 1 + digits == end && digits >= 1 && digits <= 5 &&
           port >= 1 && port <= 65535;
}

bool proa_nats_server_valid(const char *server)
{
    for (const char *from = server;;) {
        size_t part = strcspn(from, ",");
        const char *host = from;
        if (strncmp(host, "nats://", 7) == 0)
            host += 7;
        else if (strncmp(host, "tls://", 6) == 0)
            host += 6;
        const char *end = from + part, *sign = memchr(host, '@', (size_t)(end - host));
        if (sign != NULL)
            host = sign + 1;
        if (memchr(host, '/', (size_t)(end - host)) != NULL || !host_valid(host, (size_t)(end - host)))
            return false;
        if (*end == 0)
            return true;
        from = end + 1;
    }
}

/* ---- seals ---- */

/* The fields before the body; false when they are not those of a sealed message of this length. */
static bool read_head(const void *message, size_t length, uint64_t *frontend, proa_nats_letter *letter,
                      proa_error *err)
{
    proa_reader in = proa_reader_of(message, length);
    uint32_t mark = proa_get_u32(&in);
    uint16_t version = proa_get_u16(&in);
    *frontend = proa_get_u64(&in);
    letter->sequence = proa_get_u64(&in);
    letter->length = proa_get_u32(&in);
    letter->body = proa_get_bytes(&in, letter->length);
    proa_get_bytes(&in, TAG_BYTES);
    if (length >= 4 && mark != magic)
        proa_error_set(err, PROA_ERR_PROTOCOL, "it begins with %08" PRIx32 ", not with \"PNAT\"", mark);
    else if (length >= 6 && version != VERSION)
        proa_error_set(err, PROA_ERR_PROTOCOL, "it has version %u, this program knows %d", version, VERSION);
    else if (!proa_reader_done(&in))
        proa_error_set(err, PROA_ERR_PROTOCOL, "its %zu bytes are not those of a sealed request", length);
    else if (letter->sequence == 0)
        proa_error_set(err, PROA_ERR_PROTOCOL, "it has the sequence number 0");
    else
        return true;
    return false;
}

bool proa_nats_peek(const void *message, size_t length, uint64_t *frontend, proa_error *err)
{
    proa_nats_letter letter;
    return read_head(message, length, frontend, &letter, err);
}

void proa_nats_seal(const uint8_t key[PROA_LINK_KEY_BYTES], uint64_t frontend, uint64_t sequence,
                    const void *body, size_t length, proa_buf *out)
{
    PROA_ASSERT(length <= UINT32_MAX);
    uint8_t tag[TAG_BYTES];
    proa_put_u32(out, magic);
    proa_put_u16(out, VERSION);
    proa_put_u64(out, frontend);
    proa_put_u64(out, sequence);
    proa_put_u32(out, (uint32_t)length);
    proa_buf_append(out, body, length);
    if (out->failed)
        return;
    proa_hmac(key, PROA_LINK_KEY_BYTES, out->data, out->length, tag);
    proa_buf_append(out, tag, sizeof tag);
}

/* ---- the inbox: a window over the sequence numbers, as in the anti-replay service of IPsec (RFC 4303, 3.4.3) ---- */

void proa_nats_inbox_init(proa_nats_inbox *inbox, const uint8_t key[PROA_LINK_KEY_BYTES], uint64_t frontend)
{
    *inbox = (proa_nats_inbox){.frontend = frontend};
    memcpy(inbox->key, key, PROA_LINK_KEY_BYTES);
}

static bool get_bit(const uint64_t *bits, uint64_t sequence)
{
    uint64_t i = sequence % PROA_NATS_WINDOW;
    return bits[i / 64] >> i % 64 & 1;
}

static void set_bit(uint64_t *bits, uint64_t sequence, bool value)
{
    uint64_t i = sequence % PROA_NATS_WINDOW;
    bits[i / 64] = (bits[i / 64] & ~(1ull << i % 64)) | (uint64_t)value << i % 64;
}

/* Moves the window up to `sequence`; numbers that it passes have not been seen. */
static void advance(proa_nats_inbox *inbox, uint64_t sequence)
{
    if (sequence - inbox->newest >= PROA_NATS_WINDOW) {
        memset(inbox->seen, 0, sizeof inbox->seen);
        memset(inbox->relayed, 0, sizeof inbox->relayed);
    } else {
        for (uint64_t s = inbox->newest + 1; s <= sequence; s++) {
            set_bit(inbox->seen, s, false);
            set_bit(inbox->relayed, s, false);
        }
    }
    inbox->newest = sequence;
}

static proa_status admit(proa_nats_inbox *inbox, bool by_relay, uint64_t sequence, proa_error *err)
{
    if (sequence > inbox->newest)
        advance(inbox, sequence);
    else if (inbox->newest - sequence >= PROA_NATS_WINDOW)
        return proa_error_set(err, PROA_ERR_PROTOCOL,
                              "its sequence number %" PRIu64 " is too old, the newest is %" PRIu64, sequence,
                              inbox->newest);
    if (!get_bit(inbox->seen, sequence)) {
        set_bit(inbox->seen, sequence, true);
        set_bit(inbox->relayed, sequence, by_relay);
        return PROA_OK;
    }
    if (by_relay)
        return PROA_END;
    if (!get_bit(inbox->relayed, sequence))
        return proa_error_set(err, PROA_ERR_PROTOCOL,
                              "its sequence number %" PRIu64 " has been used before: a replay", sequence);
    set_bit(inbox->relayed, sequence, false);
    return PROA_END;
}

proa_status proa_nats_inbox_open(proa_nats_inbox *inbox, bool by_relay, const void *message, size_t length,
                                 proa_nats_letter *letter, proa_error *err)
{
    uint64_t frontend;
    uint8_t tag[TAG_BYTES];
    if (!read_head(message, length, &frontend, letter, err))
        return PROA_ERR_PROTOCOL;
    if (frontend != inbox->frontend)
        return proa_error_set(err, PROA_ERR_PROTOCOL, "it is of frontend %" PRIx64 ", not of %" PRIx64,
                              frontend, inbox->frontend);
    proa_hmac(inbox->key, sizeof inbox->key, message, length - TAG_BYTES, tag);
    if (!proa_hmac_equal(tag, (const uint8_t *)message + length - TAG_BYTES))
        return proa_error_set(err, PROA_ERR_PROTOCOL,
                              "it is not authenticated by the key of frontend %" PRIx64
                              "'s link: forged, or of an earlier link",
                              frontend);
    return admit(inbox, by_relay, letter->sequence, err);
}

/* ---- complaints ---- */

void proa_nats_complain(proa_nats_complaints *complaints, int64_t now_us, const char *text)
{
    if (now_us < complaints->next_us) {
        complaints->silent++;
        return;
    }
    complaints->next_us = now_us + PROA_NATS_LOG_US;
    if (complaints->silent > 0)
        proa_log(PROA_LOG_WARN, "nats", "refused a message: %s (and %" PRIu64 " more that were not logged)",
                 text, complaints->silent);
    else
        proa_log(PROA_LOG_WARN, "nats", "refused a message: %s", text);
    complaints->silent = 0;
}
