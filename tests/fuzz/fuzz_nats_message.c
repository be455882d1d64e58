/* fuzz_nats_message.c - what comes from the broker. Odd first byte: the rest is a message, which nobody sealed, and is refused.
 * Even: the rest is a list of numbers that are sealed and opened; the inbox must agree with a plain list of what it has seen. */
#include "cluster/nats_message.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t key[PROA_LINK_KEY_BYTES] = {1, 2, 3};
enum { FRONTEND = 9, NUMBERS_MAX = 256 };

typedef struct seen {
    uint64_t number;
    bool late; /* a copy by NATS may still come */
} seen;

typedef struct plain {
    seen list[NUMBERS_MAX];
    size_t count;
    uint64_t newest;
} plain;

static proa_status expect(plain *p, bool relay, uint64_t number)
{
    if (number == 0 || (number <= p->newest && p->newest - number >= PROA_NATS_WINDOW))
        return PROA_ERR_PROTOCOL;
    if (number > p->newest)
        p->newest = number;
    for (size_t i = 0; i < p->count; i++) {
        if (p->list[i].number != number)
            continue;
        if (relay)
            return PROA_END;
        bool late = p->list[i].late;
        p->list[i].late = false;
        return late ? PROA_END : PROA_ERR_PROTOCOL;
    }
    p->list[p->count++] = (seen){number, relay};
    return PROA_OK;
}

static void open_numbers(proa_nats_inbox *inbox, const uint8_t *data, size_t size)
{
    plain p = {.count = 0};
    for (size_t at = 0; at + 3 <= size && p.count < NUMBERS_MAX; at += 3) {
        bool relay = data[at] & 1;
        uint64_t number = (data[at + 1] | (uint64_t)data[at + 2] << 8) << (data[at] >> 1 & 31);
        proa_buf sealed = {0};
        proa_nats_letter letter;
        proa_nats_seal(key, FRONTEND, number, data, at, &sealed);
        proa_status status = proa_nats_inbox_open(inbox, relay, sealed.data, sealed.length, &letter, NULL);
        if (status != expect(&p, relay, number))
            abort();
        if (status == PROA_OK && (letter.length != at || memcmp(letter.body, data, at) != 0))
            abort();
        proa_buf_free(&sealed);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    proa_nats_inbox inbox;
    proa_nats_letter letter;
    proa_error err = {0};
    uint64_t frontend;
    proa_nats_inbox_init(&inbox, key, FRONTEND);
    if (data[0] % 2 == 0) {
        open_numbers(&inbox, data + 1, size - 1);
    } else {
        bool formed = proa_nats_peek(data + 1, size - 1, &frontend, &err);
        if (formed != (err.text[0] == 0))
            abort();
        if (proa_nats_inbox_open(&inbox, false, data + 1, size - 1, &letter, &err) != PROA_ERR_PROTOCOL ||
            err.text[0] == 0 || inbox.newest != 0)
            abort();
        char *text = strndup((const char *)data + 1, size - 1), shown[256];
        proa_nats_hide_password(text, shown, sizeof shown);
        proa_nats_subject_valid(text);
        proa_nats_server_valid(text);
        free(text);
    }
    return 0;
}
