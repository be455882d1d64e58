/* test_group.c - the machine of a worker's ranks, event by event: the first view, and steps. test_group_views.c has what goes wrong,
 * test_group_sim.c lets whole workers live. */
#include "group_fixture.h"

/* ---- forming ---- */

static void test_form(void **state)
{
    (void)state;
    rig r;
    proa_group_epoch none = {0};
    begin(&r, 3, 0);
    link_up(&r, 1, 1);
    assert_non_null(sent(&r, PROA_GROUP_STATUS, 1));
    hear_status(&r, 1, &none, "");
    assert_null(sent(&r, PROA_GROUP_ASK, 1)); /* 2 may come */
    link_up(&r, 2, 1);
    hear_status(&r, 2, &none, "");
    assert_int_equal(sent(&r, PROA_GROUP_ASK, 1)->purpose, PROA_GROUP_FORM);
    hear_report(&r, 1, PROA_GROUP_FORM, "01");
    hear_report(&r, 2, PROA_GROUP_FORM, "02");
    assert_null(did(&r, PROA_GROUP_INSTALL)); /* 1 and 2 do not see each other yet */
    hear_report(&r, 1, PROA_GROUP_FORM, "012");
    hear_report(&r, 2, PROA_GROUP_FORM, "012");
    assert_mask(&did(&r, PROA_GROUP_INSTALL)->to, "012");
    const proa_group_message *view = sent(&r, PROA_GROUP_VIEW, 2);
    assert_mask(&view->mask, "012");
    assert_int_equal(view->epoch.count, 1);
    assert_int_equal(view->lives[2], 1);
    for (int i = 0; i < 100; i++) { /* with nothing to do, nothing is sent */
        tick(&r, 1000);
        assert_int_equal(r.count, 0);
    }
    end(&r);
}

static void test_form_without_some(void **state)
{
    (void)state;
    rig r;
    proa_group_epoch none = {0};
    begin(&r, 3, 0);
    link_up(&r, 1, 1);
    hear_status(&r, 1, &none, "");
    assert_int_equal(proa_group_deadline(r.group), 500); /* STATUS again */
    tick(&r, 999);
    assert_null(sent(&r, PROA_GROUP_ASK, 1));
    tick(&r, 1);
    assert_non_null(sent(&r, PROA_GROUP_ASK, 1));
    hear_report(&r, 1, PROA_GROUP_FORM, "01");
    assert_mask(&did(&r, PROA_GROUP_INSTALL)->to, "01");
    end(&r);

    begin(&r, 2, 1); /* not the lowest: it is asked */
    link_up(&r, 0, 1);
    hear_ask(&r, 0, PROA_GROUP_FORM);
    assert_mask(&sent(&r, PROA_GROUP_REPORT, 0)->mask, "01");
    tick(&r, 1250);
    assert_int_equal(proa_group_state_of(r.group), PROA_GROUP_OUTSIDE); /* no view came */
    end(&r);
}

static void test_alone(void **state)
{
    (void)state;
    rig r;
    begin(&r, 1, 0);
    tick(&r, 0);
    assert_non_null(did(&r, PROA_GROUP_INSTALL));
    propose(&r, 2, true, 1);
    const proa_group_action *step = did(&r, PROA_GROUP_BEGIN);
    assert_true(step->counted && step->shape.extend);
    assert_int_equal(step->shape.windows, 2);
    ended(&r, true);
    assert_int_equal(r.count, 0);
    propose(&r, 0, false, 1);
    assert_int_equal(r.count, 0);
    propose(&r, 1, false, 1);
    assert_int_equal(did(&r, PROA_GROUP_BEGIN)->shape.step, 2);
    end(&r);
}

/* ---- steps at the coordinator ---- */

static void test_shape(void **state)
{
    (void)state;
    static const struct {
        proa_group_want want[3];
        bool given;
        proa_group_want shape;
    } rows[] = {
        {{{1, false, 1}, {2, false, 1}, {3, true, 1}}, true, {3, true, 1}},
        {{{1, false, 3}, {2, false, 2}, {0, true, 7}}, true, {2, false, 2}}, /* nothing to do: no extend */
        {{{0, false, 2}, {1, false, 3}, {0, false, 1}}, true, {1, false, 1}},
        {{{0, false, 1}, {0, false, 1}, {0, false, 1}}, false, {0}}, /* nobody has work */
        {{{1, false, 1}, {1, false, 0}, {1, false, 1}}, false, {0}}, /* 1 has no placement yet */
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        rig r;
        begin_member(&r, 3, 0);
        propose(&r, rows[i].want[0].windows, rows[i].want[0].extend, rows[i].want[0].placement);
        for (int32_t p = 1; p < 3; p++) {
            assert_null(did(&r, PROA_GROUP_BEGIN));
            hear_proposal(&r, p, 1, rows[i].want[p].windows, rows[i].want[p].extend,
                          rows[i].want[p].placement);
        }
        const proa_group_action *step = did(&r, PROA_GROUP_BEGIN);
        assert_int_equal(step != NULL, rows[i].given);
        for (int32_t p = 0; p < 3 && step != NULL; p++) {
            const proa_group_message *m = sent(&r, PROA_GROUP_SHAPE, p);
            assert_int_equal(m != NULL, p != 0);
            bool counted = p == 0 ? step->counted : m->counted;
            assert_int_equal(counted, rows[i].want[p].windows > 0);
            assert_int_equal(p == 0 ? step->shape.windows : m->want.windows, rows[i].shape.windows);
            assert_int_equal(p == 0 ? step->shape.extend : m->want.extend, rows[i].shape.extend);
            assert_int_equal(p == 0 ? step->shape.placement : m->want.placement, rows[i].shape.placement);
        }
        end(&r);
    }
}

static void test_one_ahead(void **state)
{
    (void)state;
    rig r;
    begin_member(&r, 2, 0);
    propose(&r, 1, false, 1);
    hear_proposal(&r, 1, 1, 1, false, 1);
    assert_int_equal(did(&r, PROA_GROUP_BEGIN)->shape.step, 1);
    hear_proposal(&r, 1, 2, 1, false, 1); /* while step 1 runs */
    propose(&r, 1, false, 1);
    assert_int_equal(sent(&r, PROA_GROUP_SHAPE, 1)->step, 2);
    assert_null(did(&r, PROA_GROUP_BEGIN));
    ended(&r, true);
    assert_int_equal(did(&r, PROA_GROUP_BEGIN)->shape.step, 2); /* without any message */
    end(&r);
}

static void test_idle(void **state)
{
    (void)state;
    rig r;
    begin_member(&r, 2, 0);
    propose(&r, 0, false, 1);
    hear_proposal(&r, 1, 1, 2, false, 1);
    assert_false(did(&r, PROA_GROUP_BEGIN)->counted);
    hear_proposal(&r, 1, 2, 3, false, 1); /* nobody waits for the idle rank 0 */
    assert_int_equal(sent(&r, PROA_GROUP_SHAPE, 1)->step, 2);
    propose(&r, 5, false, 1); /* it has work now: for step 3 */
    assert_null(sent(&r, PROA_GROUP_SHAPE, 1));
    hear_proposal(&r, 1, 3, 0, false, 1);
    assert_int_equal(sent(&r, PROA_GROUP_SHAPE, 1)->want.windows, 5);
    assert_false(sent(&r, PROA_GROUP_SHAPE, 1)->counted); /* its word stands */
    ended(&r, true);
    ended(&r, true);
    assert_true(did(&r, PROA_GROUP_BEGIN)->counted);
    end(&r);
}

/* A rank that wakes while shapes are on their way to it. */
static void test_wake_races(void **state)
{
    (void)state;
    rig r;
    begin_member(&r, 3, 0);
    propose(&r, 1, false, 1);
    hear_proposal(&r, 1, 1, 0, false, 1);
    hear_proposal(&r, 2, 1, 0, false, 1);
    assert_non_null(did(&r, PROA_GROUP_BEGIN));
    hear_proposal(&r, 1, 1, 4, false, 1); /* said before it had the shape of 1: counts for 2 */
    propose(&r, 1, false, 1);
    assert_int_equal(sent(&r, PROA_GROUP_SHAPE, 1)->step, 2);
    assert_int_equal(sent(&r, PROA_GROUP_SHAPE, 1)->want.windows, 4);
    assert_true(sent(&r, PROA_GROUP_SHAPE, 1)->counted);
    hear_proposal(&r, 1, 2, 7, false, 1); /* said before it had the shape of 2, which used the other up */
    ended(&r, true);
    propose(&r, 1, false, 1);
    assert_null(sent(&r, PROA_GROUP_SHAPE, 1)); /* 1 is waited for */
    hear_proposal(&r, 1, 3, 1, false, 1);
    assert_int_equal(sent(&r, PROA_GROUP_SHAPE, 2)->want.windows, 1);
    end(&r);
}

static void test_placement_switch(void **state)
{
    (void)state;
    rig r;
    begin_member(&r, 2, 0);
    propose(&r, 1, false, 1);
    hear_proposal(&r, 1, 1, 0, false, 1);
    assert_int_equal(did(&r, PROA_GROUP_BEGIN)->shape.placement, 1);
    propose(&r, 1, false, 2); /* ready for 2; the idle 1 is not */
    assert_int_equal(sent(&r, PROA_GROUP_SHAPE, 1)->want.placement, 1);
    hear_proposal(&r, 1, 3, 0, false, 2);
    ended(&r, true);
    assert_int_equal(did(&r, PROA_GROUP_BEGIN)->shape.placement, 1); /* agreed before */
    propose(&r, 1, false, 2);
    assert_int_equal(sent(&r, PROA_GROUP_SHAPE, 1)->want.placement, 2);
    end(&r);
}

/* ---- steps at a member ---- */

static void test_member(void **state)
{
    (void)state;
    rig r;
    begin_member(&r, 3, 2);
    propose(&r, 0, false, 1);
    assert_int_equal(sent(&r, PROA_GROUP_PROPOSE, 0)->step, 1);
    propose(&r, 0, false, 1);
    assert_int_equal(r.count, 0); /* it stands */
    hear_shape(&r, 2, 1, 1, false);
    assert_null(did(&r, PROA_GROUP_BEGIN)); /* not the next one */
    hear_shape(&r, 1, 1, 1, false);
    assert_int_equal(did(&r, PROA_GROUP_BEGIN)->shape.step, 1);
    hear_shape(&r, 2, 1, 1, false);
    hear_shape(&r, 3, 1, 1, false);
    hear_shape(&r, 4, 1, 1, false); /* cannot be */
    propose(&r, 3, true, 1);
    assert_int_equal(sent(&r, PROA_GROUP_PROPOSE, 0)->step, 4);
    ended(&r, true);
    assert_int_equal(did(&r, PROA_GROUP_BEGIN)->shape.step, 2);
    hear_shape(&r, 4, 3, 1, true);
    propose(&r, 1, false, 1);
    assert_int_equal(r.count, 0); /* it is said when step 4 has begun */
    ended(&r, true);
    ended(&r, true);
    assert_true(did(&r, PROA_GROUP_BEGIN)->counted);
    propose(&r, 1, false, 1);
    assert_int_equal(sent(&r, PROA_GROUP_PROPOSE, 0)->step, 5);
    end(&r);
}

static void test_other_epoch(void **state)
{
    (void)state;
    rig r;
    begin_member(&r, 4, 2);
    proa_group_epoch old = r.epoch;
    link_down(&r, 3);
    hear_view(&r, 0, 2, "012", NULL, 0);
    proa_group_epoch now = r.epoch;
    propose(&r, 1, false, 1);
    r.epoch = old;
    hear_shape(&r, 1, 1, 1, true); /* of the view before: nothing, its sender has told of the new one */
    assert_int_equal(r.count, 0);
    link_up(&r, 3, 1);
    hear_proposal(&r, 3, 1, 1, false, 1);
    assert_non_null(sent(&r, PROA_GROUP_STATUS, 3)); /* it is not in the view, and shall know */
    r.epoch = now;
    hear_shape(&r, 1, 1, 1, true);
    assert_non_null(did(&r, PROA_GROUP_BEGIN));
    end(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_form),       cmocka_unit_test(test_form_without_some),
        cmocka_unit_test(test_alone),      cmocka_unit_test(test_shape),
        cmocka_unit_test(test_one_ahead),  cmocka_unit_test(test_idle),
        cmocka_unit_test(test_wake_races), cmocka_unit_test(test_placement_switch),
        cmocka_unit_test(test_member),     cmocka_unit_test(test_other_epoch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
