/* test_link_tls.c - links with certificates on both ends: messages, the end, and who is refused. */
#include "link_certificates.h"
#include "link_fixture.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int make_folder(void **state)
{
    char *folder = strdup("/tmp/proa-tls-XXXXXX");
    if (folder == NULL || mkdtemp(folder) == NULL)
        return -1;
    link_certificates_make(folder);
    *state = folder;
    return 0;
}

static int remove_folder(void **state)
{
    link_certificates_remove(*state);
    free(*state);
    return 0;
}

/* Opens with the listener's security; the dialler gets its own. */
static void open_ends(link_fixture *f, const proa_link_security *acceptor, const proa_link_security *dialler)
{
    link_fixture_open(f, acceptor);
    link_fixture_listen(f, "127.0.0.1");
    f->security = *dialler;
    link_fixture_dial(f, "127.0.0.1");
}

static bool echoed(const link_fixture *f)
{
    return f->dialled.messages > 0;
}

static void test_messages(void **state)
{
    static const size_t sizes[] = {0, 1, 64, 65536, PROA_LINK_FRAME_BYTES_MAX};
    link_paths places[2];
    link_fixture f;
    proa_link_security a = link_certificates_security(*state, "a", "ca", &places[0]);
    proa_link_security b = link_certificates_security(*state, "b", "ca", &places[1]);
    open_ends(&f, &a, &b);
    if (!link_fixture_run(&f, link_both_up, 2))
        fail_msg("%s", f.dialled.why.text);
    assert_memory_equal(proa_link_session_key(f.dialled.link), proa_link_session_key(f.accepted.link),
                        PROA_LINK_KEY_BYTES);
    uint8_t *body = malloc(PROA_LINK_FRAME_BYTES_MAX);
    assert_non_null(body);
    for (size_t i = 0; i < PROA_LINK_FRAME_BYTES_MAX; i++)
        body[i] = (uint8_t)((i * 2654435761u) >> 13);
    f.accepted.echo = true;
    f.dialled.keep = true;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        f.dialled.messages = 0;
        assert_int_equal(proa_link_send(f.dialled.link, 1, body, sizes[i]), PROA_OK);
        if (!link_fixture_run(&f, echoed, 10))
            fail_msg("%zu bytes do not come back: %s", sizes[i], f.dialled.why.text);
        assert_int_equal(f.dialled.body.length, sizes[i]);
        assert_memory_equal(proa_buf_text(&f.dialled.body), body, sizes[i]);
    }
    free(body);
    link_fixture_close(&f);
}

enum { FLOOD = 300, FLOOD_STEP = 1000 };

static bool flooded(const link_fixture *f)
{
    return (f->dialled.messages >= FLOOD && f->accepted.messages >= FLOOD) || f->dialled.downs > 0;
}

/* Both directions full at once: writes stop in the middle of a message while reads go on. (With SSL_MODE_ENABLE_PARTIAL_WRITE, this
 * failed with "bad length" or skipped bytes.) */
static void test_flood(void **state)
{
    link_paths place;
    link_fixture f;
    proa_link_security a = link_certificates_security(*state, "a", "ca", &place);
    uint8_t *body = calloc(FLOOD, FLOOD_STEP);
    assert_non_null(body);
    open_ends(&f, &a, &a);
    assert_true(link_fixture_run(&f, link_both_up, 2));
    for (size_t i = 0; i < FLOOD; i++) {
        assert_int_equal(proa_link_send(f.dialled.link, 1, body, i * FLOOD_STEP), PROA_OK);
        assert_int_equal(proa_link_send(f.accepted.link, 1, body, (FLOOD - 1 - i) * FLOOD_STEP), PROA_OK);
    }
    assert_true(link_fixture_run(&f, flooded, 10));
    if (f.dialled.downs + f.accepted.downs > 0)
        fail_msg("%s; %s", f.dialled.why.text, f.accepted.why.text);
    assert_true(f.accepted.bytes == (uint64_t)FLOOD_STEP * FLOOD * (FLOOD - 1) / 2);
    assert_true(f.dialled.bytes == f.accepted.bytes);
    free(body);
    link_fixture_close(&f);
}

static void test_close(void **state)
{
    link_paths place;
    proa_link_security a = link_certificates_security(*state, "a", "ca", &place);
    for (int dialler = 0; dialler < 2; dialler++) {
        link_fixture f;
        open_ends(&f, &a, &a);
        assert_true(link_fixture_run(&f, link_both_up, 2));
        link_end *closer = dialler ? &f.dialled : &f.accepted, *other = dialler ? &f.accepted : &f.dialled;
        other->keep = true;
        assert_int_equal(proa_link_send(other->link, 2, "noise", 5), PROA_OK);
        assert_int_equal(proa_link_send(closer->link, 1, "farewell", 8), PROA_OK);
        proa_link_close(closer->link);
        closer->link = NULL;
        assert_true(link_fixture_run(&f, dialler ? link_accepted_down : link_dialled_down, 1));
        assert_int_equal(other->why.status, PROA_ERR_UNREACHABLE);
        assert_string_equal(proa_buf_text(&other->body), "farewell");
        link_fixture_close(&f);
    }
}

static void test_who_is_refused(void **state)
{
    static const struct {
        const char *name;
        const char *acceptor[2], *dialler[2]; /* certificate and authority; NULL: no TLS */
        const char *logged;                   /* NULL: nothing */
        const char *heard;
    } cases[] = {
        {"the dialler's authority is another",
         {"a", "ca"},
         {"other", "ca"},
         "TLS: certificate verify failed: ",
         "unknown ca"},
        {"the acceptor's authority is another",
         {"other", "ca"},
         {"a", "ca"},
         "TLS: tlsv1 alert unknown ca",
         "TLS: certificate verify failed: "},
        {"each trusts another", {"a", "ca"}, {"other", "other-ca"}, "TLS: ", "TLS: "},
        {"an expired certificate",
         {"a", "ca"},
         {"late", "ca"},
         "certificate has expired",
         "certificate expired"},
        {"TLS meets plain", {"a", "ca"}, {NULL, NULL}, "TLS: ", ""},
        {"plain meets TLS",
         {NULL, NULL},
         {"a", "ca"},
         "it does not speak Proa's protocol",
         "is TLS on at both ends?"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        link_paths places[2];
        link_fixture f;
        proa_link_security ends[2] = {{.key = LINK_KEY}, {.key = LINK_KEY}};
        if (cases[i].acceptor[0] != NULL)
            ends[0] =
                link_certificates_security(*state, cases[i].acceptor[0], cases[i].acceptor[1], &places[0]);
        if (cases[i].dialler[0] != NULL)
            ends[1] =
                link_certificates_security(*state, cases[i].dialler[0], cases[i].dialler[1], &places[1]);
        open_ends(&f, &ends[0], &ends[1]);
        if (!link_fixture_run(&f, link_dialled_down, 1))
            fail_msg("%s: the dialler hears nothing", cases[i].name);
        link_fixture_run(&f, NULL, 0.02);
        if (strstr(f.dialled.why.text, cases[i].heard) == NULL ||
            link_fixture_logged(&f, cases[i].logged) != 1)
            fail_msg("%s: the dialler hears \"%s\", logged is %d times \"%s\"", cases[i].name,
                     f.dialled.why.text, link_fixture_logged(&f, cases[i].logged), cases[i].logged);
        assert_int_equal(link_fixture_logged(&f, "\n"), 1);
        assert_int_equal(f.dialled.ups + f.accepted.ups + f.accepted.downs, 0);
        link_fixture_close(&f);
    }
}

/* A certificate opens the door; the key is still needed. */
static void test_certificate_without_key(void **state)
{
    link_paths place;
    link_fixture f;
    proa_link_security a = link_certificates_security(*state, "a", "ca", &place), wrong = a;
    wrong.key = "another key of 16 bytes";
    open_ends(&f, &a, &wrong);
    assert_true(link_fixture_run(&f, link_dialled_down, 1));
    assert_non_null(strstr(f.dialled.why.text, "its cluster key is another one"));
    assert_int_equal(link_fixture_logged(&f, "its proof is wrong"), 1);
    link_fixture_close(&f);
}

static void test_files(void **state)
{
    static const struct {
        const char *cert, *key, *ca, *text;
    } cases[] = {
        {"a.pem", NULL, "ca.pem", "the key of the certificate is not given"},
        {NULL, NULL, "ca.pem", "the certificate is not given"},
        {"a.pem", "a.key", NULL, "the certificate of the authority is not given"},
        {"a.pem", "b.key", "ca.pem", "key values mismatch"},
        {"none.pem", "a.key", "ca.pem", "none.pem cannot be used: No such file"},
        {"a.key", "a.key", "ca.pem", "a.key cannot be used: "},
        {"a.pem", "a.key", "a.key", "a.key cannot be used: "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char paths[3][256];
        const char *names[3] = {cases[i].cert, cases[i].key, cases[i].ca};
        for (int j = 0; j < 3; j++)
            snprintf(paths[j], sizeof paths[j], "%s/%s", (const char *)*state,
                     names[j] != NULL ? names[j] : "");
        proa_link_security security = {.key = LINK_KEY,
                                       .tls_cert_path = names[0] != NULL ? paths[0] : NULL,
                                       .tls_key_path = names[1] != NULL ? paths[1] : NULL,
                                       .tls_ca_path = names[2] != NULL ? paths[2] : NULL};
        link_fixture f;
        link_fixture_open(&f, &security);
        proa_link_identity self = link_identity("decode");
        proa_link_hooks hooks = {0};
        proa_link *link = NULL;
        proa_error err = {0};
        assert_int_equal(proa_link_dial(f.loop, &security, &self, "127.0.0.1:9", &hooks, NULL, &link, &err),
                         PROA_ERR_INVALID);
        if (strstr(err.text, cases[i].text) == NULL)
            fail_msg("case %zu: %s", i, err.text);
        link_fixture_close(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_messages),
        cmocka_unit_test(test_flood),
        cmocka_unit_test(test_close),
        cmocka_unit_test(test_who_is_refused),
        cmocka_unit_test(test_certificate_without_key),
        cmocka_unit_test(test_files),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
