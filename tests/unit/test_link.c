/* test_link.c - links between real sockets of this machine: messages, strangers, deaths, limits. */
#include "link_fixture.h"

#include "base/clock.h"
#include "net/link_handshake.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const proa_link_security KEYED = {.key = LINK_KEY};

/* ---- messages ---- */

static bool echoed(const link_fixture *f)
{
    return f->dialled.messages > 0;
}

static void test_messages(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 64, 4095, 65536, PROA_LINK_FRAME_BYTES_MAX};
    link_fixture f;
    link_fixture_open(&f, &KEYED);
    link_fixture_connect(&f);
    uint8_t *body = malloc(PROA_LINK_FRAME_BYTES_MAX + 1);
    assert_non_null(body);
    for (size_t i = 0; i <= PROA_LINK_FRAME_BYTES_MAX; i++)
        body[i] = (uint8_t)(i * 2654435761u >> 13);
    f.accepted.echo = true;
    f.dialled.keep = true;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        f.dialled.messages = 0;
        assert_int_equal(
            proa_link_send(f.dialled.link, (uint16_t)(100 + i), body + i, sizes[i] - (sizes[i] > 64 ? i : 0)),
            PROA_OK);
        assert_true(link_fixture_run(&f, echoed, 5));
        assert_int_equal(f.dialled.type, 100 + i);
        assert_int_equal(f.dialled.body.length, sizes[i] - (sizes[i] > 64 ? i : 0));
        assert_memory_equal(proa_buf_text(&f.dialled.body), body + i, f.dialled.body.length);
    }
    assert_int_equal(proa_link_send(f.dialled.link, 1, body, PROA_LINK_FRAME_BYTES_MAX + 1),
                     PROA_ERR_TOO_LONG);
    free(body);
    link_fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
