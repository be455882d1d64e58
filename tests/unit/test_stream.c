/* test_stream.c - tokens between two threads: none lost, none twice, in order, and the last message really the last. */
#include "serve/stream.h"

#include "base/clock.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

enum { STREAMS = 16, TOKENS = 20000, TOP = 3 };

typedef struct engine {
    proa_stream streams[STREAMS];
    int32_t made[STREAMS];
    _Atomic int64_t credit[STREAMS];
} engine;

static void *make_tokens(void *context)
{
    engine *e = context;
    int left = STREAMS;
    while (left > 0) {
        for (int i = 0; i < STREAMS; i++) {
            if (e->made[i] > TOKENS || atomic_load(&e->credit[i]) == 0)
                continue;
            proa_engine_sink sink = proa_stream_sink(&e->streams[i]);
            if (e->made[i] == TOKENS) {
                proa_engine_finish finish = {.reason = PROA_FINISH_LENGTH, .matched = i};
                e->made[i]++;
                left--;
                sink.finish(sink.context, &finish);
                continue;
            }
            proa_sample_result token = {.token = e->made[i], .logprob = (float)-i, .top_count = TOP};
            for (int k = 0; k < TOP; k++)
                token.top_ids[k] = e->made[i] + k;
            atomic_fetch_sub(&e->credit[i], 1);
            e->made[i]++;
            sink.token(sink.context, &token, e->made[i] == TOKENS);
        }
    }
    return NULL;
}

static void tokens_arrive_in_order(void **state)
{
    (void)state;
    static engine e;
    proa_mailbox *box = proa_mailbox_create((size_t)STREAMS * 2, NULL, NULL);
    int32_t got[STREAMS] = {0};
    for (int i = 0; i < STREAMS; i++) {
        assert_true(proa_stream_init(&e.streams[i], box, TOP));
        atomic_store(&e.credit[i], PROA_STREAM_WINDOW);
    }
    pthread_t thread;
    pthread_create(&thread, NULL, make_tokens, &e);
    for (int finished = 0; finished < STREAMS;) {
        proa_stream_message *m = proa_mailbox_wait(box, 5000000);
        assert_non_null(m);
        long i = m->stream - e.streams;
        if (!m->finished)
            proa_stream_woken(m->stream);
        const int32_t *ids;
        const float *logprobs;
        const proa_stream_record *r;
        int taken = 0;
        while ((r = proa_stream_peek(m->stream, &ids, &logprobs)) != NULL) {
            assert_int_equal(r->token, got[i]);
            assert_int_equal(ids[TOP - 1], got[i] + TOP - 1);
            assert_int_equal(r->stop, got[i] == TOKENS - 1);
            proa_stream_next(m->stream);
            got[i]++;
            taken++;
        }
        atomic_fetch_add(&e.credit[i], taken);
        if (m->finished) {
            assert_int_equal(got[i], TOKENS);
            assert_int_equal(m->stream->finish.matched, i);
            proa_stream_free(m->stream);
            finished++;
        }
    }
    pthread_join(thread, NULL);
    assert_null(proa_mailbox_take(box));
    proa_mailbox_free(box);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(tokens_arrive_in_order)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
