/* test_room.c - the two hand-off machines, event by event; the simulator drives them against each other. */
#include "cluster/room.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <string.h>

static const proa_room_limits limits = {
    .waiting_us = 1000, .transfer_us = 100, .abort_us = 50, .starved_us = 30};

/* ---- prefill ---- */

static void test_prefill_in_order(void **state)
{
    (void)state;
    proa_prefill_room r;
    proa_prefill_actions a;
    proa_prefill_asked(&r, 150, 0);
    proa_prefill_offer(&r, 150, 1, &a);
    assert_int_equal(a.write_count, 0);
    proa_prefill_computed(&r, 100, 2, &a);
    assert_int_equal(a.write_first, 0);
    assert_int_equal(a.write_count, 64); /* whole blocks */
    proa_prefill_computed(&r, 150, 3, &a);
    assert_int_equal(a.write_count, 0); /* one write at a time */
    proa_prefill_first(&r, 4, &a);
    assert_false(a.send_done);
    proa_prefill_written(&r, PROA_OK, 5, &a);
    assert_int_equal(a.write_first, 64);
    assert_int_equal(a.write_count, 86);
    proa_prefill_written(&r, PROA_OK, 6, &a);
    assert_true(a.send_done && a.release && a.tell_ok && a.forget);
    assert_false(a.send_fail || a.send_quiet || a.tell_ended);
    proa_prefill_written(&r, PROA_OK, 7, &a); /* nothing twice */
    assert_false(a.send_done || a.release || a.forget);
}

static void test_prefill_offer_first(void **state)
{
    (void)state;
    proa_prefill_room r;
    proa_prefill_actions a;
    proa_prefill_offered(&r, 64, 0);
    proa_prefill_ask(&r, 64, 1, &a);
    proa_prefill_computed(&r, 64, 2, &a);
    assert_int_equal(a.write_count, 64);
    proa_prefill_written(&r, PROA_OK, 3, &a);
    assert_false(a.send_done); /* the first token is not known */
    proa_prefill_first(&r, 4, &a);
    assert_true(a.send_done);
}

static void test_prefill_abort_in_flight(void **state)
{
    (void)state;
    proa_prefill_room r;
    proa_prefill_actions a;
    proa_prefill_asked(&r, 64, 0);
    proa_prefill_offer(&r, 64, 1, &a);
    proa_prefill_computed(&r, 64, 2, &a);
    proa_prefill_abort(&r, &a);
    assert_false(a.send_quiet || a.release || a.tell_ended); /* a write is in flight */
    proa_prefill_abort(&r, &a);
    assert_false(a.stop_writes || a.send_quiet);
    proa_prefill_tick(&r, &limits, false, 103, &a);
    assert_true(a.stop_writes); /* it does not end by itself */
    proa_prefill_written(&r, PROA_ERR_CANCELLED, 3, &a);
    assert_true(a.send_quiet && a.release && a.tell_ended && a.forget);
    assert_false(a.send_fail);
    assert_int_equal(a.status, PROA_ERR_CANCELLED);
}

static void test_prefill_failures(void **state)
{
    (void)state;
    proa_prefill_room r;
    proa_prefill_actions a;
    proa_prefill_asked(&r, 64, 0); /* before the peer: nobody to tell but the frontend */
    proa_prefill_engine_ended(&r, PROA_ERR_DEVICE, "x", &a);
    assert_true(a.tell_ended && a.release && a.forget);
    assert_false(a.send_fail || a.send_quiet);

    proa_prefill_offered(&r, 64, 0); /* nobody asked: FAIL after the deadline */
    proa_prefill_tick(&r, &limits, false, 1001, &a);
    assert_true(a.send_fail && a.forget);
    assert_false(a.tell_ended);

    proa_prefill_offered(&r, 64, 0);
    proa_prefill_ask(&r, 65, 1, &a);
    assert_true(a.send_fail && a.tell_ended);
    assert_int_equal(a.status, PROA_ERR_PROTOCOL);

    proa_prefill_offered(&r, 64, 0); /* the link goes while a write is in flight */
    proa_prefill_ask(&r, 64, 1, &a);
    proa_prefill_computed(&r, 64, 2, &a);
    proa_prefill_link_lost(&r, &a);
    assert_true(a.stop_writes);
    proa_prefill_written(&r, PROA_ERR_CANCELLED, 3, &a);
    assert_true(a.tell_ended && a.release);
    assert_false(a.send_fail || a.send_quiet);
    assert_int_equal(a.status, PROA_ERR_UNREACHABLE);

    proa_prefill_asked(&r, 64, 0); /* memory that others wait for is not held for ever */
    proa_prefill_first(&r, 1, &a);
    proa_prefill_tick(&r, &limits, false, 32, &a);
    assert_false(a.tell_ended);
    proa_prefill_tick(&r, &limits, true, 32, &a);
    assert_true(a.tell_ended && a.release);
}

/* ---- decode ---- */

static void open_room(proa_decode_room *r)
{
    proa_decode_actions a;
    proa_decode_begin(r, 0);
    proa_decode_reserved(r, 1, &a);
    assert_false(a.send_open);
    proa_decode_linked(r, 2, &a);
    assert_true(a.send_open);
}

static void test_decode_in_order(void **state)
{
    (void)state;
    proa_decode_room r;
    proa_decode_actions a;
    open_room(&r);
    proa_decode_done(&r, true, &a);
    assert_true(a.adopt && a.forget);
    assert_false(a.release || a.tell_ended || a.cancel);
    proa_decode_done(&r, true, &a);
    assert_false(a.adopt);
}

static void test_decode_keeps_blocks_until_quiet(void **state)
{
    (void)state;
    proa_decode_room r;
    proa_decode_actions a;
    open_room(&r);
    proa_decode_cancel(&r, 5, &a);
    assert_true(a.tell_ended && a.cancel && a.send_abort);
    assert_false(a.release || a.forget);
    proa_decode_tick(&r, &limits, 30, &a);
    assert_false(a.send_abort);
    proa_decode_tick(&r, &limits, 60, &a);
    assert_true(a.send_abort); /* again */
    proa_decode_link_lost(&r, false, 61, &a);
    assert_false(a.release); /* it may still write */
    proa_decode_link_lost(&r, true, 62, &a);
    assert_true(a.release && a.forget);

    open_room(&r);
    proa_decode_link_lost(&r, false, 5, &a);
    assert_true(a.tell_ended && a.blame && a.cancel);
    assert_false(a.release || a.send_abort);
    proa_decode_quiet(&r, &a);
    assert_true(a.release && a.forget);
    assert_false(a.tell_ended);
}

static void test_decode_failures(void **state)
{
    (void)state;
    proa_decode_room r;
    proa_decode_actions a;
    proa_decode_begin(&r, 0); /* nothing is lent before the room is open */
    proa_decode_cancel(&r, 1, &a);
    assert_true(a.tell_ended && a.cancel && a.release && a.forget);
    assert_false(a.send_abort);

    open_room(&r);
    proa_decode_done(&r, false, &a); /* wrong digests: the peer is quiet all the same */
    assert_true(a.tell_ended && a.blame && a.cancel && a.release && a.forget);
    assert_false(a.adopt);

    open_room(&r);
    proa_decode_fail(&r, PROA_ERR_DEVICE, "x", &a);
    assert_true(a.tell_ended && a.cancel && a.release && a.forget);

    open_room(&r);
    proa_decode_tick(&r, &limits, 1003, &a);
    assert_true(a.tell_ended && a.send_abort);
    assert_int_equal(a.status, PROA_ERR_DEADLINE);
    proa_decode_done(&r, true, &a); /* too late to adopt, but a proof of quiet */
    assert_true(a.release && a.forget);
    assert_false(a.adopt);
}

static void test_graves(void **state)
{
    (void)state;
    proa_graves *g = proa_graves_create(100);
    for (uint64_t i = 1; i <= 1000; i++)
        proa_graves_add(g, i * 0x10001);
    for (uint64_t i = 1; i <= 1000; i++)
        assert_int_equal(proa_graves_has(g, i * 0x10001), i > 900);
    assert_false(proa_graves_has(g, 0));
    proa_graves_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prefill_in_order),
        cmocka_unit_test(test_prefill_offer_first),
        cmocka_unit_test(test_prefill_abort_in_flight),
        cmocka_unit_test(test_prefill_failures),
        cmocka_unit_test(test_decode_in_order),
        cmocka_unit_test(test_decode_keeps_blocks_until_quiet),
        cmocka_unit_test(test_decode_failures),
        cmocka_unit_test(test_graves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
