/* test_notify.c - what a service manager hears. */
#include "base/notify.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <cmocka.h>

static int listen_at(const char *name, size_t length)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    memcpy(at.sun_path, name, length);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    assert_true(fd >= 0);
    socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, bytes), 0);
    return fd;
}

static void expect_heard(int fd, const char *path)
{
    char heard[64] = "";
    proa_error err = {0};
    if (proa_notify_send(path, "READY=1", &err) != PROA_OK)
        fail_msg("%s", err.text);
    assert_int_equal(recv(fd, heard, sizeof heard - 1, 0), 7);
    assert_string_equal(heard, "READY=1");
    assert_int_equal(recv(fd, heard, sizeof heard, 0), -1); /* once */
    close(fd);
}

static void a_file(void **state)
{
    (void)state;
    char path[80];
    snprintf(path, sizeof path, "/tmp/test_notify.%d", (int)getpid());
    int fd = listen_at(path, strlen(path) + 1);
    expect_heard(fd, path);
    unlink(path);
}

static void an_abstract_name(void **state)
{
    (void)state;
    char name[80];
    int length = snprintf(name, sizeof name, "@test_notify.%d", (int)getpid());
    name[0] = 0;
    int fd = listen_at(name, (size_t)length);
    name[0] = '@';
    expect_heard(fd, name);
}

static void nobody_hears(void **state)
{
    (void)state;
    char path[200];
    proa_error err = {0};
    snprintf(path, sizeof path, "/tmp/test_notify.%d.absent", (int)getpid());
    assert_int_equal(proa_notify_send(path, "READY=1", &err), PROA_ERR_IO);
    assert_non_null(strstr(err.text, path));
    assert_non_null(strstr(err.text, strerror(ENOENT)));
    memset(path, 'x', sizeof path - 1);
    path[0] = '/';
    path[sizeof path - 1] = 0;
    static const char *const malformed[] = {"", "/", "@", "relative"};
    for (size_t i = 0; i < sizeof malformed / sizeof *malformed; i++)
        assert_int_equal(proa_notify_send(malformed[i], "READY=1", &err), PROA_ERR_INVALID);
    assert_int_equal(proa_notify_send(path, "READY=1", &err), PROA_ERR_INVALID);
    path[108] = 0; /* one more than fits with its end */
    assert_int_equal(proa_notify_send(path, "READY=1", &err), PROA_ERR_INVALID);
}

static void a_full_queue(void **state)
{
    (void)state;
    char path[80];
    proa_error err = {0};
    snprintf(path, sizeof path, "/tmp/test_notify.%d.full", (int)getpid());
    int fd = listen_at(path, strlen(path) + 1);
    proa_status status = PROA_OK;
    for (int i = 0; i < 100000 && status == PROA_OK; i++)
        status = proa_notify_send(path, "READY=1", &err);
    assert_int_equal(status, PROA_ERR_IO);
    close(fd);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file),
        cmocka_unit_test(an_abstract_name),
        cmocka_unit_test(nobody_hears),
        cmocka_unit_test(a_full_queue),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
