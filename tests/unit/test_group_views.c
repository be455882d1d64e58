/* test_group_views.c - the machine of a worker's ranks, event by event: members that are lost, and ranks that join. */
#include "group_fixture.h"

/* ---- repair ---- */

static void test_crash_at_coordinator(void **state)
{
    (void)state;
    rig r;
    begin_member(&r, 3, 0);
    propose(&r, 1, false, 1);
    hear_proposal(&r, 1, 1, 1, false, 1);
    hear_proposal(&r, 2, 1, 1, false, 1);
    link_down(&r, 1);
    assert_int_equal(did(&r, PROA_GROUP_ABANDON)->shape.step, 1);
    assert_int_equal(sent(&r, PROA_GROUP_ASK, 2)->purpose, PROA_GROUP_REPAIR);
    assert_null(sent(&r, PROA_GROUP_ASK, 1));
    hear_report(&r, 2, PROA_GROUP_REPAIR, "02");
    assert_null(did(&r, PROA_GROUP_INSTALL)); /* its own step still runs */
    ended(&r, false);
    assert_mask(&did(&r, PROA_GROUP_INSTALL)->to, "02");
    assert_int_equal(sent(&r, PROA_GROUP_VIEW, 2)->epoch.count, 2);
    propose(&r, 1, false, 1); /* the step is done again */
    hear_proposal(&r, 2, 1, 1, false, 1);
    assert_int_equal(did(&r, PROA_GROUP_BEGIN)->shape.step, 1);
    end(&r);
}

static void test_crash_at_members(void **state)
{
    (void)state;
    rig r;
    begin_member(&r, 4, 2); /* the coordinator goes: the lowest that is seen collects */
    propose(&r, 1, false, 1);
    hear_shape(&r, 1, 1, 1, true);
    link_down(&r, 0);
    assert_non_null(did(&r, PROA_GROUP_ABANDON));
    assert_null(sent(&r, PROA_GROUP_REPORT, 1)); /* not while its step runs */
    ended(&r, false);
    assert_mask(&sent(&r, PROA_GROUP_REPORT, 1)->mask, "123");
    link_down(&r, 3); /* and another: it is said at once */
    assert_mask(&sent(&r, PROA_GROUP_REPORT, 1)->mask, "12");
    link_down(&r, 1);
    assert_mask(&did(&r, PROA_GROUP_INSTALL)->to, "2"); /* none is left */
    end(&r);

    begin_member(&r, 3, 1);
    link_down(&r, 0);
    assert_non_null(sent(&r, PROA_GROUP_ASK, 2));
    hear_report(&r, 2, PROA_GROUP_REPAIR, "12");
    assert_int_equal(did(&r, PROA_GROUP_INSTALL)->shape.epoch.rank, 1);
    end(&r);

    begin_member(&r, 3,
                 1); /* another one is lost: the coordinator hears of it, and asks those who do not know */
    link_down(&r, 2);
    assert_mask(&sent(&r, PROA_GROUP_REPORT, 0)->mask, "01");
    end(&r);
    begin_member(&r, 3, 1);
    hear_ask(&r, 0, PROA_GROUP_REPAIR);
    assert_mask(&sent(&r, PROA_GROUP_REPORT, 0)->mask, "012");
    hear_view(&r, 0, 2, "01", NULL, 0);
    assert_mask(&did(&r, PROA_GROUP_INSTALL)->to, "01");
    end(&r);
}

static void test_deadlines(void **state)
{
    (void)state;
    rig r;
    begin_member(&r, 4, 0); /* one that is asked does not answer */
    link_down(&r, 3);
    hear_report(&r, 1, PROA_GROUP_REPAIR, "012");
    assert_int_equal(proa_group_deadline(r.group), 100);
    tick(&r, 99);
    assert_null(did(&r, PROA_GROUP_INSTALL));
    tick(&r, 1);
    assert_mask(&did(&r, PROA_GROUP_INSTALL)->to, "01");
    assert_non_null(sent(&r, PROA_GROUP_STATUS, 2)); /* if it wakes, it finds what has happened */
    end(&r);

    begin_member(&r, 4, 2); /* the one that should collect does not */
    proa_group_silent(r.group, 3, r.now_us);
    take(&r);
    assert_non_null(sent(&r, PROA_GROUP_REPORT, 0));
    tick(&r, 250);
    assert_mask(&sent(&r, PROA_GROUP_REPORT, 1)->mask, "12");
    tick(&r, 250);
    assert_mask(&did(&r, PROA_GROUP_INSTALL)->to, "2");
    end(&r);
}

static void test_choice(void **state)
{
    (void)state;
    static const struct {
        const char *seen[4]; /* by ranks 1 .. 4; rank 0 sees all */
        const char *mask;
    } rows[] = {
        {{"01234", "01234", "01234", "01234"}, "01234"},
        {{"0134", "0234", "01234", "01234"}, "0134"},  /* 1 and 2 do not see each other */
        {{"01", "0234", "0234", "0234"}, "0234"},      /* 1 sees none of the rest */
        {{"012", "012", "034", "034"}, "012"},         /* halves; both see 0 */
        {{"01234", "0234", "01234", "01234"}, "0134"}, /* one way */
        {{"1234", "01234", "01234", "01234"}, "0234"}, /* 1 does not see 0 any more */
        {{"01", "02", "03", "04"}, "01"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        rig r;
        begin_member(&r, 6, 0);
        link_down(&r, 5);
        for (int32_t p = 1; p <= 4; p++) {
            assert_null(did(&r, PROA_GROUP_INSTALL));
            hear_report(&r, p, PROA_GROUP_REPAIR, rows[i].seen[p - 1]);
        }
        assert_mask(&did(&r, PROA_GROUP_INSTALL)->to, rows[i].mask);
        end(&r);
    }
}

static void test_report_breaks(void **state)
{
    (void)state;
    rig r;
    begin_member(&r, 3, 0); /* what 1 has seen, before this rank sees it */
    hear_report(&r, 1, PROA_GROUP_REPAIR, "01");
    assert_non_null(sent(&r, PROA_GROUP_ASK, 2));
    assert_null(did(&r, PROA_GROUP_INSTALL));
    link_down(&r, 2);
    assert_mask(&did(&r, PROA_GROUP_INSTALL)->to, "01");
    r.epoch.count--;
    hear_report(&r, 1, PROA_GROUP_REPAIR, "01"); /* of the view before: the new one is on its way */
    assert_int_equal(r.count, 0);
    end(&r);

    begin_member(&r, 3, 1); /* 2 believes that this rank is to collect: it hears from the one that is */
    hear_report(&r, 2, PROA_GROUP_REPAIR, "12");
    assert_non_null(sent(&r, PROA_GROUP_REPORT, 0));
    hear_view(&r, 0, 2, "01", NULL, 0);
    assert_mask(&sent(&r, PROA_GROUP_STATUS, 2)->mask, "01");
    end(&r);
}

static void test_missed(void **state)
{
    (void)state;
    rig r;
    begin_member(&r, 3, 0);
    for (int i = 1; i <= 2; i++) {
        proa_group_epoch epoch = r.epoch;
        const proa_group_mask missed = mask_of("2");
        proa_group_missed(r.group, &missed, &epoch, r.now_us);
        take(&r);
        assert_non_null(sent(&r, PROA_GROUP_ASK, 1));
        hear_report(&r, 1, PROA_GROUP_REPAIR, "012");
        if (i == 1)
            hear_report(&r, 2, PROA_GROUP_REPAIR, "012"); /* it lives: another try */
        assert_mask(&did(&r, PROA_GROUP_INSTALL)->to, i == 1 ? "012" : "01");
        const proa_group_mask old = mask_of("1");
        proa_group_missed(r.group, &old, &epoch, r.now_us); /* of the view before */
        take(&r);
        assert_int_equal(r.count, 0);
    }
    proa_group_message join = message(PROA_GROUP_JOIN, 2, &r.epoch);
    receive(&r, &join);
    assert_null(sent(&r, PROA_GROUP_ASK, 2)); /* shunned */
    tick(&r, limits.shun_us);
    receive(&r, &join);
    assert_non_null(sent(&r, PROA_GROUP_ASK, 2));
    end(&r);
}

/* All that an all-to-all has missed are left out by one view, not one after another. */
static void test_missed_together(void **state)
{
    (void)state;
    rig r;
    begin_member(&r, 5, 0);
    for (int i = 1; i <= 2; i++) {
        proa_group_epoch epoch = r.epoch;
        const proa_group_mask missed = mask_of("24");
        proa_group_missed(r.group, &missed, &epoch, r.now_us);
        take(&r);
        for (int32_t p = 1; p < 5; p++)
            if (i == 1 || p % 2 == 1)
                hear_report(&r, p, PROA_GROUP_REPAIR, "01234");
        assert_mask(&did(&r, PROA_GROUP_INSTALL)->to, i == 1 ? "01234" : "013");
    }
    end(&r);
}

static void test_waits(void **state)
{
    (void)state;
    rig r;
    int32_t rank;
    begin_member(&r, 3, 0); /* 2 says nothing */
    propose(&r, 1, false, 1);
    hear_proposal(&r, 1, 1, 0, false, 1);
    tick(&r, limits.proposal_us - 1);
    assert_int_equal(proa_group_state_of(r.group), PROA_GROUP_MEMBER);
    tick(&r, 1);
    assert_int_equal(proa_group_state_of(r.group), PROA_GROUP_COLLECTING);
    proa_group_why(r.group, &rank);
    assert_int_equal(rank, 2);
    end(&r);

    begin_member(&r, 2, 0); /* 1 never gets its experts */
    propose(&r, 1, false, 1);
    hear_proposal(&r, 1, 1, 0, false, 0);
    tick(&r, limits.placement_us - 1);
    assert_int_equal(proa_group_state_of(r.group), PROA_GROUP_MEMBER);
    tick(&r, 1);
    assert_int_equal(proa_group_state_of(r.group), PROA_GROUP_COLLECTING);
    end(&r);

    begin_member(&r, 2, 1); /* the coordinator gives nothing */
    propose(&r, 1, false, 1);
    tick(&r, limits.proposal_us + limits.placement_us + limits.view_us);
    assert_int_equal(proa_group_state_of(r.group), PROA_GROUP_REPORTING);
    end(&r);

    begin_member(&r, 3, 1); /* an engine that does not leave its step keeps its rank silent */
    hear_shape(&r, 1, 1, 1, false);
    link_down(&r, 2);
    assert_non_null(did(&r, PROA_GROUP_ABANDON));
    tick(&r, limits.abandon_us);
    assert_non_null(did(&r, PROA_GROUP_STUCK));
    tick(&r, limits.abandon_us);
    assert_null(did(&r, PROA_GROUP_STUCK)); /* once */
    end(&r);
}

/* ---- lives ---- */

static void test_lives(void **state)
{
    (void)state;
    rig r;
    begin_member(&r, 3, 0);
    link_up(&r, 2, 2); /* started again: its old life is over, though nobody saw it end */
    assert_non_null(sent(&r, PROA_GROUP_ASK, 1));
    assert_null(sent(&r, PROA_GROUP_ASK, 2));
    hear_report(&r, 2, PROA_GROUP_REPAIR, "012"); /* of the old life */
    assert_int_equal(r.count, 0);
    hear_report(&r, 1, PROA_GROUP_REPAIR, "012");
    assert_mask(&did(&r, PROA_GROUP_INSTALL)->to, "01");
    for (int kind = 0; kind < PROA_GROUP_KINDS; kind++) {
        proa_group_message old = message((proa_group_kind)kind, 2, &r.epoch);
        old.lives = ones;
        receive(&r, &old);
        assert_int_equal(r.count, 0);
    }
    link_down(&r, 2); /* the link to the old life */
    assert_int_equal(r.count, 0);
    proa_group_message join = message(PROA_GROUP_JOIN, 2, &(proa_group_epoch){0});
    join.life = 2;
    receive(&r, &join);
    assert_non_null(sent(&r, PROA_GROUP_ASK, 2)); /* the new one may come */
    end(&r);
}

/* Which of two processes began first does not matter: a clock that was set back in between keeps nobody out. */
static void test_lives_fall(void **state)
{
    (void)state;
    rig r;
    begin(&r, 2, 0);
    link_up(&r, 1, 900);
    proa_group_link_down(r.group, 1, 900, r.now_us);
    take(&r);
    link_up(&r, 1, 5);
    proa_group_message m = message(PROA_GROUP_STATUS, 1, &(proa_group_epoch){0});
    m.life = 5;
    receive(&r, &m);
    assert_int_equal(sent(&r, PROA_GROUP_ASK, 1)->purpose, PROA_GROUP_FORM);
    m = message(PROA_GROUP_REPORT, 1, &(proa_group_epoch){0});
    m.purpose = PROA_GROUP_FORM;
    m.mask = mask_of("01");
    m.life = 900; /* of the one before */
    receive(&r, &m);
    assert_int_equal(r.count, 0);
    m.life = 5;
    receive(&r, &m);
    assert_mask(&did(&r, PROA_GROUP_INSTALL)->to, "01");
    assert_int_equal(sent(&r, PROA_GROUP_VIEW, 1)->lives[1], 5);
    end(&r);
}

static void test_views(void **state)
{
    (void)state;
    rig r;
    begin_member(&r, 4, 2);
    hear_view(&r, 1, 5, "013", NULL, 0); /* without it */
    assert_int_equal(r.count, 0);
    static const uint64_t other_life[] = {1, 1, 2, 1};
    proa_group_message m = message(PROA_GROUP_VIEW, 1, &(proa_group_epoch){7, 1, 1});
    m.mask = mask_of("0123");
    m.lives = other_life; /* for its next life */
    receive(&r, &m);
    assert_int_equal(r.count, 0);
    m.lives = ones;
    m.epoch.rank = 3; /* drawn by another */
    receive(&r, &m);
    assert_int_equal(r.count, 0);
    hear_view(&r, 1, 8, "123", NULL, 0); /* a later one counts */
    assert_mask(&did(&r, PROA_GROUP_INSTALL)->to, "123");
    hear_view(&r, 0, 8, "023", NULL, 0); /* 8.0 < 8.1 */
    assert_mask(&sent(&r, PROA_GROUP_STATUS, 0)->mask, "123");
    static const uint64_t dead_life[] = {1, 1, 9};
    m = message(PROA_GROUP_VIEW, 1, &(proa_group_epoch){9, 1, 1});
    m.mask = mask_of("123");
    m.lives = dead_life; /* 3 is in another life here: that view has already lost it */
    receive(&r, &m);
    assert_non_null(did(&r, PROA_GROUP_INSTALL));
    assert_mask(&sent(&r, PROA_GROUP_REPORT, 1)->mask, "0123");
    end(&r);
}

/* ---- joining ---- */

static void test_yield(void **state)
{
    (void)state;
    static const struct {
        const char *mine, *theirs, *seen;
        bool yields;
    } rows[] = {
        {"3", "012", "012", true},
        {"3", "012", "01", false}, /* not all of it is seen */
        {"234", "01", "01234", false},
        {"23", "01", "012345", true}, /* equal: the one with the lowest rank stays */
        {"03", "12", "012345", false},
        {"13", "12", "012345", false}, /* 1 cannot be in both: one of them is past */
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        rig r;
        proa_group_epoch theirs = {9, rows[i].theirs[0] - '0', 1};
        begin(&r, 6, 3);
        proa_group_mask seen = mask_of(rows[i].seen), mine = mask_of(rows[i].mine);
        for (int32_t p = 0; p < 6; p++)
            if (p != 3 && (proa_group_mask_has(&seen, p) || proa_group_mask_has(&mine, p)))
                link_up(&r, p, 1);
        if (rows[i].mine[1] != 0)
            hear_view(&r, rows[i].mine[0] - '0', 1, rows[i].mine, NULL, 0);
        else
            tick(&r, limits.form_us);
        assert_mask(proa_group_view_of(r.group), rows[i].mine);
        r.now_us += limits.status_us;
        hear_status(&r, rows[i].theirs[1] - '0', &theirs, rows[i].theirs);
        assert_int_equal(did(&r, PROA_GROUP_RESET) != NULL, rows[i].yields);
        assert_int_equal(sent(&r, PROA_GROUP_JOIN, theirs.rank) != NULL, rows[i].yields);
        end(&r);
    }
}

static void test_left_out(void **state)
{
    (void)state;
    rig r;
    begin_member(&r, 3, 2); /* the others have gone on without it, while it slept */
    proa_group_epoch later = {2, 0, 1};
    hear_shape(&r, 1, 1, 1, false);
    hear_status(&r, 1, &later, "01");
    assert_non_null(did(&r, PROA_GROUP_RESET));
    assert_non_null(did(&r, PROA_GROUP_ABANDON));
    assert_null(sent(&r, PROA_GROUP_JOIN, 0));
    ended(&r, false);
    assert_non_null(sent(&r, PROA_GROUP_JOIN, 0));
    tick(&r, limits.join_us);
    assert_int_equal(proa_group_state_of(r.group), PROA_GROUP_OUTSIDE);
    hear_status(&r, 1, &later, "01");
    assert_int_equal(r.count, 0); /* not at once */
    r.now_us += limits.status_us;
    hear_status(&r, 1, &later, "01");
    assert_non_null(sent(&r, PROA_GROUP_JOIN, 0));
    hear_status(&r, 0, &(proa_group_epoch){3, 1, 1}, "01"); /* it does not coordinate any more */
    assert_int_equal(proa_group_state_of(r.group), PROA_GROUP_OUTSIDE);
    end(&r);

    begin_member(&r, 3, 2); /* the same, but it cannot see all of them: alone is better than nothing */
    link_down(&r, 0);
    hear_status(&r, 1, &later, "01");
    assert_mask(&did(&r, PROA_GROUP_INSTALL)->to, "2");
    assert_null(did(&r, PROA_GROUP_RESET));
    end(&r);
}

static void knock(rig *r, int32_t from)
{
    proa_group_message join = message(PROA_GROUP_JOIN, from, &(proa_group_epoch){0});
    receive(r, &join);
}

static void test_grow_at_coordinator(void **state)
{
    (void)state;
    rig r;
    begin_member(&r, 4, 0);
    link_down(&r, 3);
    hear_report(&r, 1, PROA_GROUP_REPAIR, "012");
    hear_report(&r, 2, PROA_GROUP_REPAIR, "012");
    proa_group_epoch before = r.epoch;
    propose(&r, 1, false, 1);
    hear_proposal(&r, 1, 1, 1, false, 1);
    hear_proposal(&r, 2, 1, 0, false, 1);
    link_up(&r, 3, 1);
    knock(&r, 3);
    for (int32_t p = 1; p < 4; p++)
        assert_int_equal(sent(&r, PROA_GROUP_ASK, p)->purpose, PROA_GROUP_GROW);
    hear_report(&r, 1, PROA_GROUP_GROW, "0123");
    hear_report(&r, 3, PROA_GROUP_GROW, "0123");
    hear_report(&r, 2, PROA_GROUP_GROW, "0123");
    const proa_group_message *view = sent(&r, PROA_GROUP_VIEW, 3);
    assert_mask(&view->mask, "0123");
    assert_true(proa_group_epoch_equal(&view->before, &before));
    assert_int_equal(view->step, 1);
    assert_null(did(&r, PROA_GROUP_ABANDON));
    r.epoch = view->epoch;
    hear_proposal(&r, 3, 1, 1, false, 1); /* it is faster than this rank */
    r.epoch = before;
    hear_proposal(&r, 1, 2, 1, false, 1); /* too late for that view */
    assert_int_equal(r.count, 0);
    ended(&r, true);
    assert_mask(&did(&r, PROA_GROUP_INSTALL)->to, "0123");
    propose(&r, 0, false, 1);
    hear_proposal(&r, 1, 1, 0, false, 1);
    hear_proposal(&r, 2, 1, 0, false, 1);
    assert_int_equal(did(&r, PROA_GROUP_BEGIN)->shape.windows, 1);
    end(&r);
}

/* A grown view that was announced and then given up: nobody may wait in it for ever. */
static void test_grown_and_given_up(void **state)
{
    (void)state;
    rig r;
    begin_member(&r, 4, 0);
    link_down(&r, 3);
    hear_report(&r, 1, PROA_GROUP_REPAIR, "012");
    hear_report(&r, 2, PROA_GROUP_REPAIR, "012");
    propose(&r, 1, false, 1);
    hear_proposal(&r, 1, 1, 0, false, 1);
    hear_proposal(&r, 2, 1, 0, false, 1);
    link_up(&r, 3, 1);
    knock(&r, 3);
    for (int32_t p = 1; p < 4; p++)
        hear_report(&r, p, PROA_GROUP_GROW, "0123");
    proa_group_epoch drawn = sent(&r, PROA_GROUP_VIEW, 3)->epoch;
    link_down(&r, 1); /* while its own step still runs */
    assert_true(proa_group_epoch_equal(&sent(&r, PROA_GROUP_ASK, 2)->epoch, &drawn));
    hear_view(&r, 2, drawn.count - 1, "02", NULL,
              0); /* later than what it is in, earlier than what it has drawn */
    assert_null(did(&r, PROA_GROUP_INSTALL));
    ended(&r, false);
    hear_report(&r, 2, PROA_GROUP_REPAIR, "02");
    assert_int_equal(did(&r, PROA_GROUP_INSTALL)->shape.epoch.count, drawn.count + 1);
    assert_mask(&sent(&r, PROA_GROUP_STATUS, 3)->mask, "02"); /* it joined what does not exist */
    end(&r);
}

static void test_grow_refused(void **state)
{
    (void)state;
    rig r;
    begin_member(&r, 3, 0);
    link_down(&r, 2);
    hear_report(&r, 1, PROA_GROUP_REPAIR, "01");
    link_up(&r, 2, 1);
    knock(&r, 2);
    hear_report(&r, 2, PROA_GROUP_GROW, "012");
    hear_report(&r, 1, PROA_GROUP_GROW, "01"); /* does not see it */
    assert_null(sent(&r, PROA_GROUP_VIEW, 2));
    assert_int_equal(proa_group_state_of(r.group), PROA_GROUP_MEMBER);
    end(&r);

    begin_member(&r, 3, 1); /* not the coordinator: it says who is */
    link_down(&r, 2);
    hear_view(&r, 0, 2, "01", NULL, 0);
    link_up(&r, 2, 1);
    knock(&r, 2);
    assert_int_equal(sent(&r, PROA_GROUP_STATUS, 2)->epoch.rank, 0);
    end(&r);
}

static void test_grow_at_members(void **state)
{
    (void)state;
    rig r;
    begin_member(&r, 3, 1);
    link_down(&r, 2);
    hear_view(&r, 0, 2, "01", NULL, 0);
    link_up(&r, 2, 1);
    proa_group_epoch before = r.epoch;
    propose(&r, 0, false, 1);
    hear_shape(&r, 1, 1, 1, false);
    hear_ask(&r, 0, PROA_GROUP_GROW);
    assert_mask(&sent(&r, PROA_GROUP_REPORT, 0)->mask, "012");
    hear_shape(&r, 2, 1, 1, false);
    hear_view(&r, 0, 3, "012", &before, 2);
    assert_int_equal(r.count, 0);
    ended(&r, true);
    assert_int_equal(did(&r, PROA_GROUP_BEGIN)->shape.step, 2); /* all that was agreed is done */
    ended(&r, true);
    assert_mask(&did(&r, PROA_GROUP_INSTALL)->to, "012");
    end(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_crash_at_coordinator),
        cmocka_unit_test(test_crash_at_members),
        cmocka_unit_test(test_deadlines),
        cmocka_unit_test(test_choice),
        cmocka_unit_test(test_report_breaks),
        cmocka_unit_test(test_missed),
        cmocka_unit_test(test_missed_together),
        cmocka_unit_test(test_waits),
        cmocka_unit_test(test_lives),
        cmocka_unit_test(test_lives_fall),
        cmocka_unit_test(test_views),
        cmocka_unit_test(test_yield),
        cmocka_unit_test(test_left_out),
        cmocka_unit_test(test_grow_at_coordinator),
        cmocka_unit_test(test_grown_and_given_up),
        cmocka_unit_test(test_grow_refused),
        cmocka_unit_test(test_grow_at_members),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
