/* test_group_wire.c - messages of a group as bytes. */
#include "group_fixture.h"

#include "engine/group_wire.h"
#include "net/bytes.h"

static proa_group_message sample(proa_group_kind kind)
{
    proa_group_message m = message(kind, 3, &(proa_group_epoch){7, 2, 9});
    bool step = kind == PROA_GROUP_PROPOSE || kind == PROA_GROUP_SHAPE;
    if (step)
        m.want = (proa_group_want){5, true, 6};
    if (step || kind == PROA_GROUP_VIEW)
        m.step = 11;
    m.counted = kind == PROA_GROUP_SHAPE;
    m.inside = kind == PROA_GROUP_STATUS;
    if (kind == PROA_GROUP_ASK || kind == PROA_GROUP_REPORT)
        m.purpose = PROA_GROUP_GROW;
    if (kind == PROA_GROUP_REPORT || kind == PROA_GROUP_VIEW || kind == PROA_GROUP_STATUS)
        m.mask = mask_of("0137");
    if (kind == PROA_GROUP_VIEW) {
        m.before = (proa_group_epoch){6, 1, 4};
        m.lives = ones;
    }
    return m;
}

static void test_bytes(void **state)
{
    (void)state;
    for (int kind = 0; kind < PROA_GROUP_KINDS; kind++) {
        proa_group_message m = sample((proa_group_kind)kind), back;
        uint64_t lives[8] = {0};
        proa_error err;
        proa_buf out = {0}, again = {0};
        proa_group_encode(&m, 8, &out);
        assert_int_equal(proa_group_decode(proa_buf_text(&out), out.length, 8, lives, &back, &err), PROA_OK);
        proa_group_encode(&back, 8, &again);
        assert_int_equal(again.length, out.length);
        assert_memory_equal(proa_buf_text(&again), proa_buf_text(&out), out.length);
        for (size_t length = 0; length < out.length; length++) /* cut short */
            assert_int_equal(proa_group_decode(proa_buf_text(&out), length, 8, lives, &back, &err),
                             PROA_ERR_PROTOCOL);
        assert_int_equal(proa_group_decode(proa_buf_text(&out), out.length, 3, lives, &back, &err),
                         PROA_ERR_PROTOCOL); /* rank 3 of three */
        proa_put_u8(&out, 0);
        assert_int_equal(proa_group_decode(proa_buf_text(&out), out.length, 8, lives, &back, &err),
                         PROA_ERR_PROTOCOL); /* too long */
        assert_true(err.text[0] != 0);
        proa_buf_free(&out);
        proa_buf_free(&again);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
