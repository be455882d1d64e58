/* test_client.c - the client against fake workers over real links, when all goes well: tokens, credit, cancels, refusals at
 * submit, drain, discovery, the model's files. test_client_faults.c has what goes wrong. */
#include "client_fixture.h"

#include "base/file.h"
#include "base/log.h"
#include "cluster/instance.h"

/* ---- undisturbed ---- */

static void test_combined(void **state)
{
    world *w = *state;
    world_add_leg(w, PROA_LEG_COMBINED);
    world_start(w);
    for (int i = 0; i < 60; i++)
        ask_begin(w->client, &w->asks[i], (uint64_t)i);
    for (int i = 0; i < 60; i++)
        ask_check_whole(&w->asks[i]);
    assert_int_equal(w->models, 1);
    world_check_idle(w);
}

static void test_pairs(void **state)
{
    world *w = *state;
    for (int i = 0; i < 4; i++)
        world_add_leg(w, i < 2 ? PROA_LEG_PREFILL : PROA_LEG_DECODE);
    world_start(w);
    for (int i = 0; i < 60; i++)
        ask_begin(w->client, &w->asks[i], (uint64_t)i);
    for (int i = 0; i < 60; i++)
        ask_check_whole(&w->asks[i]);
    for (int i = 0; i < 4; i++) /* all had their share */
        assert_in_range(fake_worker_counts(w->workers[i])->submits, 20, 40);
    assert_true(world_metric(w, "cluster_requests_total") == 60);
    assert_true(world_metric(w, "cluster_migrations_total") == 0);
    world_check_idle(w);
}

static void test_report(void **state)
{
    world *w = *state;
    for (int i = 0; i < 2; i++)
        world_add_leg(w, i == 0 ? PROA_LEG_PREFILL : PROA_LEG_DECODE);
    world_start_with(w, (proa_client_options){.router_mode = PROA_ROUTER_KV});
    proa_buf out = {0};
    WAIT_FOR(world_ready(w) == 2);
    proa_engine_stats stats = {0};
    for (int i = 0; i < 200 && stats.output_tokens < 2; i++, usleep(10000))
        proa_client_get_stats(w->client, &stats);
    assert_int_equal(stats.output_tokens, 2); /* one of each worker */
    assert_int_equal(stats.kv_blocks_total, 2000);
    assert_true(proa_client_write_instances(w->client, &out));
    char expected[128];
    snprintf(
        expected, sizeof expected,
        "{\"component\":\"prefill\",\"endpoint\":\"generate\",\"instance_id\":%llu,\"namespace\":\"test\","
        "\"transport\":{\"tcp\":\"127",
        (unsigned long long)fake_worker_instance(w->workers[0]));
    assert_non_null(strstr(proa_buf_text(&out), expected));
    assert_non_null(strstr(proa_buf_text(&out), "{\"component\":\"backend\""));
    proa_buf_clear(&out);
    fake_worker_kill(w->workers[1]);
    WAIT_FOR(world_ready(w) == 1);
    assert_false(proa_client_write_instances(w->client, &out));
    proa_buf_free(&out);
}

/* Mode kv, from events on the wire to the pick: a prompt goes where its blocks are. */
static void test_cached_prefixes(void **state)
{
    world *w = *state;
    for (int i = 0; i < 3; i++)
        world_add(w, (fake_options){.leg = i < 2 ? PROA_LEG_PREFILL : PROA_LEG_DECODE, .kv_events = true});
    world_start_with(w, (proa_client_options){.router_mode = PROA_ROUTER_KV, .kv_overlap_weight = 1});
    WAIT_FOR(world_ready(w) == 3);
    int went[24];                  /* 1: to the first worker */
    for (int i = 0; i < 24; i++) { /* four prompts, six times each */
        ask *a = &w->asks[i];
        proa_error err = {0};
        ask_fill(a, (uint64_t)(i % 4));
        for (int32_t k = a->prompt_count; k < PROMPT_MAX; k++)
            a->prompt[k] = k;
        a->prompt_count = PROMPT_MAX;
        int before = fake_worker_counts(w->workers[0])->submits;
        assert_int_equal(ask_submit(w->client, a, &err), PROA_OK);
        ask_check_whole(a);
        world_check_idle(w);
        went[i] = fake_worker_counts(w->workers[0])->submits - before;
        if (i >= 4)
            assert_int_equal(went[i], went[i - 4]); /* where it was the time before */
    }
    for (int i = 0; i < 2; i++)
        assert_int_equal(fake_worker_counts(w->workers[i])->submits, 12); /* new ones had spread */
}

/* ---- refused at once ---- */

static void refused(world *w, proa_status status, const char *says)
{
    ask *a = &w->asks[ASKS_MAX - 1];
    proa_error err = {0};
    ask_fill(a, 1);
    if (ask_submit(w->client, a, &err) != status || strstr(err.text, says) == NULL)
        fail_msg("%s: %s", proa_status_name(err.status), err.text);
}

static void test_refused_at_submit(void **state)
{
    world *w = *state;
    world_start(w);
    refused(w, PROA_ERR_UNREACHABLE, "no worker is known");
    world_add(w, (fake_options){.leg = PROA_LEG_PREFILL});
    WAIT_FOR(world_ready(w) == 1);
    refused(w, PROA_ERR_UNREACHABLE, "1 prefill, 0 decode");
    world_add(w,
              (fake_options){.leg = PROA_LEG_DECODE, .running_max = 2, .queued_max = 1, .token_us = SECOND});
    WAIT_FOR(world_ready(w) == 2);
    for (int i = 0; i < 3; i++) { /* long ones */
        ask_fill(&w->asks[i], 77);
        w->asks[i].max_new_tokens = 100;
        proa_error err = {0};
        assert_int_equal(ask_submit(w->client, &w->asks[i], &err), PROA_OK);
    }
    refused(w, PROA_ERR_OVERLOADED, ""); /* whether the loop has sent them or not */
    usleep(100000);
    refused(w, PROA_ERR_OVERLOADED, "all decode workers are full");
    proa_client_cancel(w->client, w->asks[0].id);
    ask_check_error(&w->asks[0], PROA_ERR_CANCELLED, "cancelled");
    ask_begin_when_possible(w->client, &w->asks[3], 5);
    proa_client_cancel(w->client, w->asks[0].id); /* an old id is harmless */
    proa_client_grant(w->client, w->asks[0].id, 5);
    proa_client_cancel(w->client, 0);
    proa_client_cancel(w->client, UINT64_MAX);
    world_end_client(w);
    for (int i = 1; i < 4; i++)
        ask_check_error(&w->asks[i], PROA_ERR_CANCELLED, "stopping");
    world_check_idle(w);
}

/* The end of a request makes room for the next one, before its sink hears of it. */
static void test_one_after_another(void **state)
{
    world *w = *state;
    world_add(w, (fake_options){.leg = PROA_LEG_COMBINED, .running_max = 1});
    world_start(w);
    for (int i = 0; i < 20; i++) {
        ask_fill(&w->asks[i], (uint64_t)i);
        w->asks[i].then = i < 19 ? &w->asks[i + 1] : NULL;
    }
    proa_error err = {0};
    assert_int_equal(ask_submit(w->client, &w->asks[0], &err), PROA_OK);
    for (int i = 0; i < 20; i++) {
        ask_check_whole(&w->asks[i]);
        assert_int_equal(w->asks[i].then_status, PROA_OK);
    }
}

static void test_drain(void **state)
{
    world *w = *state;
    world_add(w, (fake_options){.leg = PROA_LEG_COMBINED, .token_us = 5000});
    world_add_leg(w, PROA_LEG_COMBINED);
    world_start(w);
    for (int i = 0; i < 10; i++)
        ask_begin(w->client, &w->asks[i], (uint64_t)i);
    WAIT_FOR(fake_worker_counts(w->workers[0])->submits == 5);
    fake_worker_drain(w->workers[0]);
    WAIT_FOR(world_ready(w) == 1);
    for (int i = 10; i < 20; i++)
        ask_begin(w->client, &w->asks[i], (uint64_t)i);
    for (int i = 0; i < 20; i++)
        ask_check_whole(&w->asks[i]);
    assert_int_equal(fake_worker_counts(w->workers[0])->submits, 5);
    assert_true(world_metric(w, "cluster_migrations_total") == 0); /* what ran there ended there */
}

static void test_cancel(void **state)
{
    world *w = *state;
    for (int i = 0; i < 2; i++)
        world_add(w, (fake_options){.leg = i == 0 ? PROA_LEG_PREFILL : PROA_LEG_DECODE, .token_us = 1000});
    world_start(w);
    for (int i = 0; i < 40; i++) {
        ask_begin(w->client, &w->asks[i], (uint64_t)i + 50);
        usleep((useconds_t)(i % 4) * 1000);
        proa_client_cancel(w->client, w->asks[i].id);
        proa_client_cancel(w->client, w->asks[i].id);
    }
    for (int i = 0; i < 40; i++) {
        ask_wait(&w->asks[i]);
        assert_true(w->asks[i].finish_us > 0);
    }
    usleep(20000);
    for (int i = 0; i < 40; i++)
        assert_int_equal(w->asks[i].finishes, 1);
    world_check_idle(w);
    ask_begin(w->client, &w->asks[50], 1);
    ask_check_whole(&w->asks[50]);
}

/* A CANCEL that was missed is said again when tokens come all the same. */
static void test_cancel_is_missed(void **state)
{
    world *w = *state;
    world_add(w, (fake_options){.leg = PROA_LEG_COMBINED, .token_us = 5000, .mood = FAKE_HARD_OF_HEARING});
    world_start(w);
    ask *a = &w->asks[0];
    for (uint64_t seed = 1; a->prompt_count == 0 || fake_token_stop(a->prompt, a->prompt_count) >= 0; seed++)
        ask_fill(a, seed);
    a->max_new_tokens = OUTPUT_MAX;
    a->window = OUTPUT_MAX;
    a->no_grants = true;
    proa_error err = {0};
    assert_int_equal(ask_submit(w->client, a, &err), PROA_OK);
    WAIT_FOR(a->count > 0);
    proa_client_cancel(w->client, a->id);
    ask_check_error(a, PROA_ERR_CANCELLED, "cancelled");
    world_check_idle(w);
    assert_in_range(fake_worker_counts(w->workers[0])->cancels, 2, OUTPUT_MAX);
}

static void test_flush(void **state)
{
    world *w = *state;
    world_add(w, (fake_options){.leg = PROA_LEG_COMBINED, .token_us = 2000});
    world_start(w);
    ask_begin(w->client, &w->asks[0], 1);
    assert_int_equal(proa_client_flush_cache(w->client), PROA_BUSY);
    ask_check_whole(&w->asks[0]);
    assert_int_equal(fake_worker_counts(w->workers[0])->flushes, 0);
    assert_int_equal(proa_client_flush_cache(w->client), PROA_OK);
    WAIT_FOR(fake_worker_counts(w->workers[0])->flushes == 1);
}

/* ---- discovery ---- */

static void test_unlisted_and_connected(void **state)
{
    world *w = *state;
    world_add_leg(w, PROA_LEG_COMBINED);
    world_start(w);
    fake_worker_unlist(w->workers[0]);
    usleep(100000);
    ask_begin(w->client, &w->asks[0], 1); /* nobody else: the connection is believed */
    ask_check_whole(&w->asks[0]);
    world_add_leg(w, PROA_LEG_COMBINED);
    WAIT_FOR(world_ready(w) == 2);
    for (int i = 1; i < 10; i++)
        ask_begin(w->client, &w->asks[i], (uint64_t)i);
    for (int i = 1; i < 10; i++)
        ask_check_whole(&w->asks[i]);
    assert_int_equal(fake_worker_counts(w->workers[0])->submits, 1); /* what left is left alone */
    fake_worker_hang_up(w->workers[0]);
    WAIT_FOR(world_ready(w) == 1);
    WAIT_FOR(world_ready(w) == 2); /* and is dialled again */
}

static void test_strange_records(void **state)
{
    world *w = *state;
    world_add_leg(w, PROA_LEG_COMBINED);
    world_start(w);
    static const char *const records[][2] = {
        {"v1/instances/test/backend/generate/0000000000000005", "{"},
        {"v1/instances/test/backend/generate/0000000000000006", "{\"component\":1}"},
        {"v1/instances/test/backend/generate/0000000000000007",
         "{\"component\":\"backend\",\"endpoint\":\"generate\",\"namespace\":\"test\",\"instance_id\":7,"
         "\"transport\":{\"tcp\":\"nonsense\"},\"epoch\":\"0000000000000001\"}"},
        {"v1/instances/test/backend/generate/0000000000000008",
         "{\"component\":\"backend\",\"endpoint\":\"generate\",\"namespace\":\"test\",\"instance_id\":8,"
         "\"transport\":{\"tcp\":\"127.0.0.1:1\"},\"epoch\":\"0000000000000001\"}"},
        {"v1/instances/test/backend/clear/0000000000000009",
         "{\"component\":\"backend\",\"endpoint\":\"clear\",\"namespace\":\"test\",\"instance_id\":9,"
         "\"transport\":{\"tcp\":\"127.0.0.1:1\"},\"epoch\":\"0000000000000001\"}"},
    };
    proa_error err = {0};
    for (size_t i = 0; i < sizeof records / sizeof records[0]; i++)
        assert_int_equal(proa_discovery_register(w->discovery, records[i][0], records[i][1], &err), PROA_OK);
    /* and one whose address is another process's */
    proa_instance liar = {
        .component = "backend", .endpoint = "generate", .namespace_name = "test", .id = 10, .epoch = 11};
    proa_buf out = {0};
    proa_client_write_instances(w->client, &out);
    const char *at = strstr(proa_buf_text(&out), "127.0.0.1:");
    snprintf(liar.address, sizeof liar.address, "%.*s", (int)strcspn(at, "\""), at);
    proa_buf_clear(&out);
    char key[512];
    proa_instance_key(&liar, key, sizeof key);
    proa_instance_write(&liar, &out);
    assert_int_equal(proa_discovery_register(w->discovery, key, proa_buf_text(&out), &err), PROA_OK);
    proa_buf_free(&out);
    usleep(300000);
    assert_int_equal(world_ready(w), 1);
    ask_begin(w->client, &w->asks[0], 1);
    ask_check_whole(&w->asks[0]);
}

/* ---- the model ---- */

static void check_files(world *w)
{
    for (int f = 0; f < FAKE_FILES; f++) {
        char path[4200];
        proa_buf content = {0};
        proa_error err = {0};
        snprintf(path, sizeof path, "%s/%s", w->dir, fake_files[f].name);
        if (proa_file_read(path, 1 << 24, &content, &err) != PROA_OK)
            fail_msg("%s", err.text);
        assert_int_equal(content.length, fake_files[f].bytes);
        for (size_t i = 0; i < content.length; i++)
            assert_int_equal((uint8_t)content.data[i], fake_file_byte(f, i));
        proa_buf_free(&content);
    }
}

static void test_files(void **state)
{
    world *w = *state;
    world_add_leg(w, PROA_LEG_COMBINED);
    world_start_with(w, (proa_client_options){.wants_files = true});
    WAIT_FOR(w->models == 1);
    check_files(w);
    world_end_client(w);
    assert_false(proa_file_exists(w->dir)); /* the folder was the client's own */
}

static void test_files_from_the_next_one(void **state)
{
    world *w = *state;
    snprintf(w->cache, sizeof w->cache, "/tmp/proa-client-XXXXXX");
    assert_non_null(mkdtemp(w->cache));
    world_add(w, (fake_options){.leg = PROA_LEG_COMBINED, .mood = FAKE_SLOW_FILES});
    world_add(w, (fake_options){.leg = PROA_LEG_COMBINED, .mood = FAKE_WRONG_FILES});
    world_start_with(w, (proa_client_options){.wants_files = true, .cache_dir = w->cache});
    usleep(600000);
    assert_int_equal(w->models, 0);
    world_add(w, (fake_options){.leg = PROA_LEG_COMBINED, .mood = FAKE_WELL});
    WAIT_FOR(w->models == 1);
    assert_int_equal(strncmp(w->dir, w->cache, strlen(w->cache)), 0);
    check_files(w);
    world_end_client(w);
    check_files(w); /* kept */
    char command[128];
    snprintf(command, sizeof command, "ls %s/* | grep -c part; rm -rf %s", w->cache, w->cache);
    FILE *left = popen(command, "r");
    int parts = -1;
    assert_int_equal(fscanf(left, "%d", &parts), 1);
    pclose(left);
    assert_int_equal(parts, 0);
}

static void test_another_model_is_refused(void **state)
{
    world *w = *state;
    world_add_leg(w, PROA_LEG_COMBINED);
    world_start(w);
    WAIT_FOR(w->models == 1);
    fake_worker *other = world_add(w, (fake_options){.leg = PROA_LEG_COMBINED, .model_digest = 5});
    usleep(300000);
    assert_int_equal(world_ready(w), 1);
    assert_int_equal(fake_worker_counts(other)->links, 0);
    for (int i = 0; i < 10; i++) {
        ask_begin(w->client, &w->asks[i], (uint64_t)i);
        ask_check_whole(&w->asks[i]);
    }
    assert_int_equal(w->models, 1);
}

int main(void)
{
    proa_log_set_level("error");
    const struct CMUnitTest tests[] = {
        TEST(test_combined),
        TEST(test_pairs),
        TEST(test_report),
        TEST(test_cached_prefixes),
        TEST(test_refused_at_submit),
        TEST(test_one_after_another),
        TEST(test_drain),
        TEST(test_cancel),
        TEST(test_cancel_is_missed),
        TEST(test_flush),
        TEST(test_unlisted_and_connected),
        TEST(test_strange_records),
        TEST(test_files),
        TEST(test_files_from_the_next_one),
        TEST(test_another_model_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
