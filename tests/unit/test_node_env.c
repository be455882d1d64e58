/* test_node_env.c - which addresses are taken, how the others are refused, and what the lines are; words as a real shell reads them. */
#include "cluster/node_env.h"

#include "base/shell.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#define LABEL63 "a23456789012345678901234567890123456789012345678901234567890123"

static const struct taken {
    const char *given, *host;
    proa_node_address_kind kind;
    bool loopback;
} taken[] = {
    {"10.0.0.1", "10.0.0.1", PROA_NODE_IPV4, false},
    {"127.0.0.1", "127.0.0.1", PROA_NODE_IPV4, true},
    {"127.255.0.9", "127.255.0.9", PROA_NODE_IPV4, true},
    {"fd00::1", "[fd00::1]", PROA_NODE_IPV6, false},
    {"[fd00::1]", "[fd00::1]", PROA_NODE_IPV6, false},
    {"FD00:0:0::00A1", "[fd00::a1]", PROA_NODE_IPV6, false},
    {"::1", "[::1]", PROA_NODE_IPV6, true},
    {"n1", "n1", PROA_NODE_NAME, false},
    {"gb200-rack1-07.cluster.local", "gb200-rack1-07.cluster.local", PROA_NODE_NAME, false},
    {"3com", "3com", PROA_NODE_NAME, false},
    {"10.0.0.1.example", "10.0.0.1.example", PROA_NODE_NAME, false},
    {LABEL63 "." LABEL63, LABEL63 "." LABEL63, PROA_NODE_NAME, false},
    {"localhost", "localhost", PROA_NODE_NAME, true},
};

static void addresses(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++) {
        proa_node_address got;
        proa_error err = {0};
        proa_status status = proa_node_address_parse(taken[i].given, strlen(taken[i].given), &got, &err);
        if (status != PROA_OK)
            fail_msg("%s: %s", taken[i].given, err.text);
        assert_string_equal(got.host, taken[i].host);
        assert_int_equal(got.kind, taken[i].kind);
        assert_int_equal(got.loopback, taken[i].loopback);
    }
}

static const struct refused {
    const char *given, *says;
} refused[] = {
    {"", "is empty"},
    {"10.0.0.256", "is no IPv4 address"},
    {"10.0.0", "is no IPv4 address"},
    {"010.0.0.1", "is no IPv4 address"},
    {"10.0.0.1.", "is no IPv4 address"},
    {"1234", "is no IPv4 address"},
    {"n1.5", "is no IPv4 address"},
    {"0.0.0.0", "of no node"},
    {"255.255.255.255", "of no node"},
    {"239.1.1.1", "of no node"},
    {"::", "of no node"},
    {"ff02::1", "of no node"},
    {"::ffff:10.0.0.1", "IPv4 address"},
    {"fe80::1", "link-local"},
    {"febf::1", "link-local"},
    {"fe80::1%eth0", "has a zone"},
    {"10.0.0.1%eth0", "has a zone"},
    {"10.0.0.1:2379", "has a port"},
    {"n1:2379", "has a port"},
    {"[fd00::1]:2379", "is no IPv6 address"},
    {"fd00::1::2", "is no IPv6 address"},
    {"[10.0.0.1]", "is no IPv6 address"},
    {"http://n1", "is a URL"},
    {"10.0.0.0/24", "is a URL or a network"},
    {"n1..local", "something"},
    {"n1.local.", "something"},
    {"-n1", "begins or ends with '-'"},
    {"n1-.local", "begins or ends with '-'"},
    {LABEL63 "4", "at most 63"},
    {"n1 n2", "\"n1 n2\" has a character"},
    {"n_1", "has a character"},
    {"n1'; reboot; '", "has a character"},
    {"\"n1\"", "has a character"},
    {"$(reboot)", "has a character"},
    {"n1\nn2", "\"n1\\x0an2\" has a character"},
    {"\x1b[31mn1", "\"\\x1b[31mn1\" has a character"},
    {"n\xc3\xb6", "\"n\\xc3\\xb6\" has a character"},
    {LABEL63 "." LABEL63 "." LABEL63 "." LABEL63, "longer than any host name"},
};

static void strangers(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        proa_node_address got;
        proa_error err = {0};
        proa_status status = proa_node_address_parse(refused[i].given, strlen(refused[i].given), &got, &err);
        if (status != PROA_ERR_INVALID || strstr(err.text, refused[i].says) == NULL ||
            strstr(err.text, "such as 10.0.0.1") == NULL)
            fail_msg("%s: \"%s\" does not say \"%s\"", refused[i].given, err.text, refused[i].says);
    }
    proa_node_address got;
    proa_error err = {0};
    assert_int_equal(proa_node_address_parse("n1\0n2", 5, &got, &err), PROA_ERR_INVALID);
    assert_non_null(strstr(err.text, "\"n1\\x00n2\""));
}

static proa_node_env node_env(const char *prefill, const char *decode)
{
    proa_node_env env = {.etcd_port = 2379, .etcd_peer_port = 2380, .nats_port = 4222};
    proa_error err = {0};
    assert_int_equal(proa_node_address_parse(prefill, strlen(prefill), &env.head_prefill, &err), PROA_OK);
    assert_int_equal(proa_node_address_parse(decode, strlen(decode), &env.head_decode, &err), PROA_OK);
    return env;
}

static void together(void **state)
{
    static const struct {
        const char *prefill, *decode, *says; /* NULL: taken */
    } table[] = {
        {"10.0.0.1", "10.0.0.2", NULL},
        {"10.0.0.1", "10.0.0.1", NULL}, /* one machine, as others see it */
        {"127.0.0.1", "::1", NULL},
        {"127.0.0.1", "10.0.0.2",
         "127.0.0.1 is this machine's own address, which is another one at 10.0.0.2"},
        {"10.0.0.1", "localhost",
         "localhost is this machine's own address, which is another one at 10.0.0.1"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        proa_error err = {0};
        proa_node_env env = node_env(table[i].prefill, table[i].decode);
        proa_status status = proa_node_env_check(&env, &err);
        if (table[i].says == NULL)
            assert_int_equal(status, PROA_OK);
        else if (status != PROA_ERR_INVALID || strstr(err.text, table[i].says) == NULL)
            fail_msg("%s, %s: \"%s\"", table[i].prefill, table[i].decode, err.text);
    }
    static const int ports[][3] = {{4222, 2380, 4222}, {2379, 4222, 4222}, {2379, 2379, 4222}};
    for (size_t i = 0; i < sizeof ports / sizeof *ports; i++) {
        proa_error err = {0};
        proa_node_env env = node_env("n1", "n2");
        env.etcd_port = ports[i][0];
        env.etcd_peer_port = ports[i][1];
        env.nats_port = ports[i][2];
        assert_int_equal(proa_node_env_check(&env, &err), PROA_ERR_INVALID);
        assert_non_null(strstr(err.text, "on one port"));
    }
}

/* etcd refuses names to listen on, and whoever gets an advertised 0.0.0.0 or localhost dials itself. */
static void servers(void **state)
{
    static const struct {
        const char *head, *nats, *listen, *advertise;
    } table[] = {
        {"10.0.0.1", "--addr 10.0.0.1 --port 4222 ",
         "--listen-client-urls http://10.0.0.1:2379,http://127.0.0.1:2379 ",
         "--advertise-client-urls http://10.0.0.1:2379 "},
        {"fd00::1", "--addr fd00::1 ", "--listen-client-urls 'http://[fd00::1]:2379',http://127.0.0.1:2379 ",
         "--advertise-client-urls 'http://[fd00::1]:2379' "},
        {"n1", "--addr 0.0.0.0 ", "--listen-client-urls http://0.0.0.0:2379 ",
         "--advertise-client-urls http://n1:2379 "},
        {"127.0.0.2", "--addr 127.0.0.2 ", "--listen-client-urls http://127.0.0.2:2379 ",
         "--advertise-client-urls http://127.0.0.2:2379 "},
        {"localhost", "--addr 127.0.0.1 ", "--listen-client-urls http://127.0.0.1:2379 ",
         "--advertise-client-urls http://localhost:2379 "},
    };
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        proa_buf text = {0};
        proa_node_env env = node_env(table[i].head, "n2");
        proa_node_env_servers(&env, &text);
        const char *const wanted[] = {table[i].nats, table[i].listen, table[i].advertise,
                                      "--initial-advertise-peer-urls http://127.0.0.1:2380 "};
        for (size_t j = 0; j < sizeof wanted / sizeof *wanted; j++)
            if (strstr(proa_buf_text(&text), wanted[j]) == NULL)
                fail_msg("%s: \"%s\" is not in\n%s", table[i].head, wanted[j], proa_buf_text(&text));
        proa_buf_free(&text);
    }
}

static void exports(void **state)
{
    proa_node_env env = node_env("n1", "fd00::2");
    proa_buf text = {0};
    (void)state;
    env.etcd_port = 12379;
    env.key = "it's a key; of 25 bytes..";
    proa_node_env_exports(&env, &text);
    assert_string_equal(proa_buf_text(&text), "export NATS_SERVER=nats://n1:4222\n"
                                              "export ETCD_ENDPOINTS=http://n1:12379\n"
                                              "export HEAD_PREFILL_NODE_IP=n1\n"
                                              "export HEAD_DECODE_NODE_IP='[fd00::2]'\n"
                                              "export PROA_CLUSTER_KEY='it'\\''s a key; of 25 bytes..'\n");
    proa_buf_clear(&text);
    env.key = NULL;
    env.key_path = "/a b/key";
    proa_node_env_exports(&env, &text);
    assert_non_null(
        strstr(proa_buf_text(&text), "IP='[fd00::2]'\nexport PROA_CLUSTER_KEY_FILE='/a b/key'\n"));
    proa_buf_free(&text);
}

/* What a POSIX shell makes of the quoted word. */
static void quoting(void **state)
{
    static const char *const words[] = {
        "plain-1.2/x:y", "",  "'",  "a'b''c", "$HOME `id` \"x\"", "a b\tc\nd", "*?[a]{b,c}~",
        "=ls",           "~", "-n", "#no",    "back\\slash",      "!!",        "\x7f\xc3\xb6;&|<>()"};
    (void)state;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        proa_buf command = {0};
        char got[100];
        proa_buf_append_text(&command, "printf %s. ");
        proa_shell_quote(&command, words[i]);
        FILE *shell = popen(proa_buf_text(&command), "r");
        assert_non_null(shell);
        size_t length = fread(got, 1, sizeof got - 1, shell);
        assert_int_equal(pclose(shell), 0);
        assert_true(length > 0 && got[length - 1] == '.');
        got[length - 1] = '\0';
        assert_string_equal(got, words[i]);
        proa_buf_free(&command);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses), cmocka_unit_test(strangers), cmocka_unit_test(together),
        cmocka_unit_test(servers),   cmocka_unit_test(exports),   cmocka_unit_test(quoting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
