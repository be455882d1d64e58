/* test_rank_leave.c - when a rank that is told to end may go. */
#include "cmd/rank_leave.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

static void table(void **state)
{
    (void)state;
    /* g: gone, s: serves, d: drains, D: drained */
    static const struct {
        const char *peers;
        bool at_once, later;
    } rows[] = {
        {"ggg", true, true},   {"DDD", true, true},
        {"gDg", true, true},   {"sss", false, true}, /* the signal was for this rank alone */
        {"DDs", false, true},                        /* its signal may be on its way */
        {"dgg", false, false},                       /* it has requests that need this rank */
        {"dsD", false, false}, {"DDd", false, false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        proa_rank_leave *l = proa_rank_leave_create((int32_t)strlen(rows[i].peers));
        for (int32_t p = 0; rows[i].peers[p] != 0; p++)
            proa_rank_leave_note(l, p, (proa_rank_standing)(strchr("gsdD", rows[i].peers[p]) - "gsdD"));
        assert_int_equal(proa_rank_leave_may_go(l, 0), rows[i].at_once);
        assert_int_equal(proa_rank_leave_may_go(l, PROA_RANK_LEAVE_SETTLE_US - 1), rows[i].at_once);
        assert_int_equal(proa_rank_leave_may_go(l, PROA_RANK_LEAVE_SETTLE_US), rows[i].later);
        proa_rank_leave_free(l);
    }
}

/* One that goes, or is drained, no longer holds this one. */
static void peers_change(void **state)
{
    (void)state;
    proa_rank_leave *l = proa_rank_leave_create(2);
    proa_rank_leave_note(l, 1, PROA_RANK_DRAINS);
    assert_false(proa_rank_leave_may_go(l, 60000000));
    proa_rank_leave_note(l, 1, PROA_RANK_DRAINED);
    assert_true(proa_rank_leave_may_go(l, 0));
    proa_rank_leave_note(l, 1, PROA_RANK_DRAINS);
    proa_rank_leave_note(l, 1, PROA_RANK_GONE);
    assert_true(proa_rank_leave_may_go(l, 0));
    proa_rank_leave_free(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(table),
        cmocka_unit_test(peers_change),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
