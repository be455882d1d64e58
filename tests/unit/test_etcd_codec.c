/* test_etcd_codec.c - what etcd 3.4.23's gateway really answers, word for word, and what is refused. */
#include "cluster/etcd_codec.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A header as all answers have it. Ids are larger than 2^53. */
#define HEADER(revision)                                                                                     \
    "\"header\":{\"cluster_id\":\"12101053776118486841\",\"member_id\":\"15985099378392235387\","            \
    "\"revision\":\"" revision "\",\"raft_term\":\"2\"}"

static int setup(void **state)
{
    *state = proa_arena_create(1 << 20);
    return *state == NULL;
}

static int teardown(void **state)
{
    proa_arena_free(*state);
    return 0;
}

/* --- base64: the vectors of RFC 4648, and what is malformed --- */

static void test_base64(void **state)
{
    static const char *const table[][2] = {
        {"", ""},
        {"f", "Zg=="},
        {"fo", "Zm8="},
        {"foo", "Zm9v"},
        {"foob", "Zm9vYg=="},
        {"fooba", "Zm9vYmE="},
        {"foobar", "Zm9vYmFy"},
        {"\xff\xfe\xfd", "//79"},
        {"/w/", "L3cv"},
        {"\xfb\xef", "++8="},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        proa_buf out = {0};
        size_t bytes = 99;
        proa_base64_write(table[i][0], strlen(table[i][0]), &out);
        assert_string_equal(proa_buf_text(&out), table[i][1]);
        const char *back = proa_base64_read(table[i][1], strlen(table[i][1]), *state, &bytes);
        assert_non_null(back);
        assert_int_equal(bytes, strlen(table[i][0]));
        assert_string_equal(back, table[i][0]);
        proa_buf_free(&out);
    }
    static const char *const malformed[] = {"Z",        "Zg",     "Zg=",  "=",    "==",    "====",    "Z===",
                                            "Zg==Zg==", "Zm9v\n", "Zm-v", "Zm_v", "Zm 9v", "\xc3g==", "Zg=v"};
    for (size_t i = 0; i < sizeof malformed / sizeof malformed[0]; i++) {
        size_t bytes;
        if (proa_base64_read(malformed[i], strlen(malformed[i]), *state, &bytes) != NULL)
            fail_msg("\"%s\" was taken", malformed[i]);
    }
}

/* --- requests --- */

static void test_requests(void **state)
{
    (void)state;
    static const char *const keys[] = {"/w/a", "/w/b"};
    proa_buf out[9] = {0};
    proa_etcd_write_put("/w/a", "1", 9041998809317816584, &out[0]);
    proa_etcd_write_list("/w/", &out[1]);
    proa_etcd_write_count("/w/", &out[2]);
    proa_etcd_write_look(keys, 2, &out[3]);
    proa_etcd_write_delete("/w/a", 77, &out[4]);
    proa_etcd_write_grant(3, &out[5]);
    proa_etcd_write_lease(9041998809317816584, &out[6]);
    proa_etcd_write_watch("a\xff\xff", 434, &out[7]); /* the first key behind: "b" */
    proa_etcd_write_watch("\xff", 1, &out[8]);        /* nothing is behind: to the end */
    static const char *const expected[] = {
        "{\"key\":\"L3cvYQ==\",\"value\":\"MQ==\",\"lease\":\"9041998809317816584\"}",
        "{\"key\":\"L3cv\",\"range_end\":\"L3cw\"}",
        "{\"key\":\"L3cv\",\"range_end\":\"L3cw\",\"count_only\":true}",
        "{\"success\":[{\"requestRange\":{\"key\":\"L3cvYQ==\"}},{\"requestRange\":{\"key\":\"L3cvYg==\"}}]}",
        "{\"compare\":[{\"key\":\"L3cvYQ==\",\"target\":\"LEASE\",\"result\":\"EQUAL\",\"lease\":\"77\"}],"
        "\"success\":[{\"requestDeleteRange\":{\"key\":\"L3cvYQ==\"}}]}",
        "{\"TTL\":\"3\"}",
        "{\"ID\":\"9041998809317816584\"}",
        "{\"create_request\":{\"key\":\"Yf//\",\"range_end\":\"Yg==\",\"start_revision\":\"434\","
        "\"progress_notify\":true}}",
        "{\"create_request\":{\"key\":\"/w==\",\"range_end\":\"AA==\",\"start_revision\":\"1\","
        "\"progress_notify\":true}}",
    };
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        assert_string_equal(proa_buf_text(&out[i]), expected[i]);
        proa_buf_free(&out[i]);
    }
}

/* --- answers --- */

/* "key=value@revision/lease; " for each, a "-" before those that are deleted. */
static const char *describe(const proa_etcd_list *list, char *text, size_t bytes)
{
    text[0] = 0;
    for (size_t i = 0; i < list->count; i++) {
        const proa_etcd_kv *kv = &list->kvs[i];
        size_t used = strlen(text);
        snprintf(text + used, bytes - used, "%s%s=%s@%lld/%lld; ", kv->deleted ? "-" : "", kv->key, kv->value,
                 (long long)kv->mod_revision, (long long)kv->lease);
        assert_int_equal(strlen(kv->value), kv->length);
    }
    return text;
}

static void test_lists(void **state)
{
    static const struct {
        const char *answer;
        int64_t revision;
        const char *kvs;
    } table[] = {
        {"{" HEADER("4") "}", 4, ""},
        {"{" HEADER("4") ",\"kvs\":[{\"key\":\"L3cvYQ==\",\"create_revision\":\"4\",\"mod_revision\":\"4\","
                         "\"version\":\"1\",\"value\":\"MQ==\",\"lease\":\"9041998809317816584\"},"
                         "{\"key\":\"L3cvYg==\",\"create_revision\":\"3\",\"mod_revision\":\"3\",\"version\":"
                         "\"1\"}],"
                         "\"count\":\"2\"}",
         4, "/w/a=1@4/9041998809317816584; /w/b=@3/0; "},
        /* a key with a zero byte ("a\0b") is nobody's of ours */
        {"{" HEADER("9") ",\"kvs\":[{\"key\":\"YQBi\",\"mod_revision\":\"4\"},{\"key\":\"YQ==\","
                         "\"mod_revision\":5}]}",
         9, "a=@5/0; "},
    };
    char text[300];
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        proa_etcd_list list;
        proa_error err = {0};
        if (proa_etcd_read_list(table[i].answer, strlen(table[i].answer), *state, &list, &err) != PROA_OK)
            fail_msg("row %zu: %s", i, err.text);
        assert_int_equal(list.revision, table[i].revision);
        assert_string_equal(describe(&list, text, sizeof text), table[i].kvs);
    }
    static const char look[] = "{" HEADER(
        "2") ",\"succeeded\":true,\"responses\":[{\"response_range\":{\"header\":{\"revision\":\"2\"},"
             "\"kvs\":[{\"key\":\"YQ==\",\"create_revision\":\"2\",\"mod_revision\":\"2\",\"version\":"
             "\"1\",\"value\":\"MQ==\",\"lease\":\"77\"}],\"count\":\"1\"}},{\"response_range\":"
             "{\"header\":{\"revision\":\"2\"}}}]}";
    proa_etcd_list list;
    assert_int_equal(proa_etcd_read_look(look, strlen(look), *state, &list, NULL), PROA_OK);
    assert_string_equal(describe(&list, text, sizeof text), "a=1@2/77; ");
    int64_t revision;
    static const char deleted[] =
        "{" HEADER("3") ",\"succeeded\":true,\"responses\":[{\"response_delete_range\":"
                        "{\"header\":{\"revision\":\"3\"},\"deleted\":\"1\"}}]}";
    assert_int_equal(proa_etcd_read_header(deleted, strlen(deleted), &revision, NULL), PROA_OK);
    assert_int_equal(revision, 3);
}

static void test_leases(void **state)
{
    (void)state;
    static const struct {
        const char *answer;
        proa_status status;
        int64_t id, ttl_s;
    } table[] = {
        {"{" HEADER("3") ",\"ID\":\"9041998809317816584\",\"TTL\":\"3\"}", PROA_OK, 9041998809317816584, 3},
        {"{\"result\":{" HEADER("3") ",\"ID\":\"9041998809317816584\",\"TTL\":\"3\"}}\n", PROA_OK,
         9041998809317816584, 3},
        /* the only sign of a lease that is over */
        {"{\"result\":{" HEADER("3") ",\"ID\":\"9041998809317816584\"}}\n", PROA_OK, 9041998809317816584, 0},
        {"{" HEADER("3") ",\"ID\":\"7\",\"TTL\":\"-1\"}", PROA_OK, 7, 0}, /* as timetolive says it */
        {"{\"error\":{\"grpc_code\":14,\"http_code\":503,\"message\":\"etcdserver: no "
         "leader\",\"http_status\":"
         "\"Service Unavailable\"}}",
         PROA_ERR_UNREACHABLE, 0, 0},
        {"{" HEADER("3") "}", PROA_ERR_PROTOCOL, 0, 0},
        {"{" HEADER("3") ",\"ID\":\"0\",\"TTL\":\"3\"}", PROA_ERR_PROTOCOL, 0, 0},
        {"{" HEADER("3") ",\"ID\":\"7\",\"TTL\":\"9000000000000000000\"}", PROA_ERR_PROTOCOL, 7, 0},
        {"{" HEADER("3") ",\"ID\":\"7\",\"TTL\":\"many\"}", PROA_ERR_PROTOCOL, 7, 0},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        proa_etcd_lease lease;
        proa_error err = {0};
        proa_status status = proa_etcd_read_lease(table[i].answer, strlen(table[i].answer), &lease, &err);
        if (status != table[i].status)
            fail_msg("row %zu: status %d, %s", i, status, err.text);
        if (status == PROA_OK) {
            assert_int_equal(lease.id, table[i].id);
            assert_int_equal(lease.ttl_s, table[i].ttl_s);
        } else {
            assert_true(strlen(err.text) > 10);
        }
    }
}

static void test_news(void **state)
{
    static const struct {
        const char *line;
        proa_etcd_news_kind kind;
        int64_t revision, compact_revision;
        const char *kvs, *text;
    } table[] = {
        {"{\"result\":{" HEADER("8") ",\"created\":true}}", PROA_ETCD_CREATED, 8, 0, "", ""},
        {"{\"result\":{" HEADER("9") ",\"watch_id\":\"1\",\"created\":true}}", PROA_ETCD_CREATED, 9, 0, "",
         ""},
        {"{\"result\":{" HEADER("9") ",\"events\":[{\"kv\":{\"key\":\"L3cvZQ==\",\"create_revision\":\"9\","
                                     "\"mod_revision\":\"9\",\"version\":\"1\",\"value\":\"MQ==\"}}]}}",
         PROA_ETCD_EVENTS, 9, 0, "/w/e=1@9/0; ", ""},
        {"{\"result\":{" HEADER("11") ",\"events\":[{\"type\":\"DELETE\",\"kv\":{\"key\":\"L3cvZQ==\","
                                      "\"mod_revision\":\"11\"}},{\"type\":\"PUT\",\"kv\":{\"key\":\"YQ==\","
                                      "\"mod_revision\":\"10\",\"value\":\"\"}}]}}",
         PROA_ETCD_EVENTS, 11, 0, "-/w/e=@11/0; a=@10/0; ", ""},
        {"{\"result\":{\"header\":{\"revision\":\"1\"}}}", PROA_ETCD_EVENTS, 1, 0, "", ""},
        {"{\"result\":{" HEADER("433") ",\"canceled\":true,\"compact_revision\":\"433\"}}",
         PROA_ETCD_CANCELED, 433, 433, "", ""},
        {"{\"result\":{" HEADER("4") ",\"canceled\":true,\"cancel_reason\":\"why\"}}", PROA_ETCD_CANCELED, 4,
         0, "", "why"},
        {"{\"error\":{\"grpc_code\":14,\"http_code\":503,\"message\":\"transport is "
         "closing\",\"http_status\":"
         "\"Service Unavailable\"}}",
         PROA_ETCD_FAILED, 0, 0, "", "transport is closing"},
        {"{\"error\":\"etcdserver: no leader\"}", PROA_ETCD_FAILED, 0, 0, "", "etcdserver: no leader"},
    };
    char text[300];
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        proa_etcd_news news;
        proa_error err = {0};
        if (proa_etcd_read_news(table[i].line, strlen(table[i].line), *state, &news, &err) != PROA_OK)
            fail_msg("row %zu: %s", i, err.text);
        assert_int_equal(news.kind, table[i].kind);
        assert_int_equal(news.list.revision, table[i].revision);
        assert_int_equal(news.compact_revision, table[i].compact_revision);
        assert_string_equal(describe(&news.list, text, sizeof text), table[i].kvs);
        assert_string_equal(news.text, table[i].text);
    }
}

static void test_errors(void **state)
{
    (void)state;
    static const struct {
        const char *body;
        int code;
        const char *text;
    } table[] = {
        {"{\"error\":\"etcdserver: requested lease not found\",\"message\":\"etcdserver: requested lease not "
         "found\",\"code\":5}",
         5, "etcdserver: requested lease not found"},
        {"{\"error\":{\"grpc_code\":14,\"http_code\":503,\"message\":\"no\\nleader\"}}", 14, "no leader"},
        {"Not Found\n", 0, "Not Found "},
        {"", 0, ""},
        {"{\"code\":99999999999}", 0, "{\"code\":99999999999}"},
        {"[]", 0, "[]"},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        char text[200];
        assert_int_equal(proa_etcd_read_error(table[i].body, strlen(table[i].body), text, sizeof text),
                         table[i].code);
        assert_string_equal(text, table[i].text);
    }
}

/* Each is refused by each reader, with a sentence; none that it might fit is taken. */
static void test_malformed(void **state)
{
    static const char *const table[] = {
        "",
        "[]",
        "7",
        "{}",
        "{" HEADER("4"),
        "{" HEADER("-4") "}",
        "{" HEADER("4x") "}",
        "{" HEADER("") "}",
        "{\"header\":{\"revision\":true}}",
        "{\"header\":\"4\"}",
        "{\"result\":[]}",
        "{\"result\":{}}",
        "{\"result\":{" HEADER("4") ",\"events\":{}}}",
        "{\"result\":{" HEADER("4") ",\"events\":[{}]}}",
        "{\"result\":{" HEADER("4") ",\"events\":[{\"kv\":{\"key\":\"?\"}}]}}",
        "{\"result\":{" HEADER("4") ",\"events\":[{\"kv\":{\"key\":\"\"}}]}}",
        "{\"result\":{" HEADER("4") ",\"events\":[{\"kv\":{\"key\":\"YQ==\",\"value\":\"?\"}}]}}",
        "{\"result\":{" HEADER("4") ",\"events\":[{\"kv\":{\"key\":\"YQ==\",\"mod_revision\":\"1e3\"}}]}}",
        "{\"result\":{" HEADER("4") ",\"canceled\":true,\"compact_revision\":[]}}",
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        size_t length = strlen(table[i]);
        proa_etcd_list list;
        proa_etcd_news news;
        int64_t revision;
        proa_error err[4] = {0};
        assert_int_equal(proa_etcd_read_list(table[i], length, *state, &list, &err[0]), PROA_ERR_PROTOCOL);
        assert_int_equal(proa_etcd_read_look(table[i], length, *state, &list, &err[1]), PROA_ERR_PROTOCOL);
        assert_int_equal(proa_etcd_read_header(table[i], length, &revision, &err[2]), PROA_ERR_PROTOCOL);
        if (proa_etcd_read_news(table[i], length, *state, &news, &err[3]) != PROA_ERR_PROTOCOL)
            fail_msg("row %zu was taken for news", i);
        for (int e = 0; e < 4; e++)
            assert_non_null(strstr(err[e].text, "etcd's answer"));
    }
    static const char *const lists[] = {
        "{" HEADER("4") ",\"kvs\":{\"key\":\"YQ==\"}}",
        "{" HEADER("4") ",\"kvs\":[7]}",
        "{" HEADER("4") ",\"kvs\":[{\"key\":\"YQ==\",\"lease\":\"\"}]}",
        "{" HEADER("4") ",\"kvs\":[],\"more\":true}",
    };
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        proa_etcd_list list;
        if (proa_etcd_read_list(lists[i], strlen(lists[i]), *state, &list, NULL) != PROA_ERR_PROTOCOL)
            fail_msg("list %zu was taken", i);
    }
}

/* Cut at every place, the same lines come out. */
static void test_lines(void **state)
{
    (void)state;
    static const char stream[] = "{\"a\":1}\n\n{\"b\":22}\n{\"rest\"";
    for (size_t piece = 1; piece <= sizeof stream; piece++) {
        proa_etcd_lines lines = {0};
        char text[64] = "";
        const char *line;
        size_t length;
        for (size_t at = 0; at < sizeof stream - 1; at += piece) {
            size_t left = sizeof stream - 1 - at;
            assert_true(proa_etcd_lines_add(&lines, stream + at, left < piece ? left : piece));
            while ((line = proa_etcd_lines_next(&lines, &length)) != NULL)
                snprintf(text + strlen(text), sizeof text - strlen(text), "[%.*s]", (int)length, line);
        }
        assert_string_equal(text, "[{\"a\":1}][][{\"b\":22}]");
        line = proa_etcd_lines_rest(&lines, &length);
        assert_int_equal(length, strlen("{\"rest\""));
        assert_memory_equal(line, "{\"rest\"", length);
        proa_etcd_lines_free(&lines);
    }
    static char large[1 << 20];
    proa_etcd_lines lines = {0};
    size_t length;
    memset(large, 'x', sizeof large);
    for (int i = 0; i < 16; i++) {
        assert_true(proa_etcd_lines_add(&lines, large, sizeof large));
        assert_null(proa_etcd_lines_next(&lines, &length));
    }
    assert_false(proa_etcd_lines_add(&lines, large, 1)); /* a line may not be longer */
    proa_etcd_lines_free(&lines);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_base64, setup, teardown),    cmocka_unit_test(test_requests),
        cmocka_unit_test_setup_teardown(test_lists, setup, teardown),     cmocka_unit_test(test_leases),
        cmocka_unit_test_setup_teardown(test_news, setup, teardown),      cmocka_unit_test(test_errors),
        cmocka_unit_test_setup_teardown(test_malformed, setup, teardown), cmocka_unit_test(test_lines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
