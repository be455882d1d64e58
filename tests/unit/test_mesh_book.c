/* The mesh's messages, to bytes and back and with every byte cut off; what a rank concludes from them, in made-up time. */
#include "net/mesh_book.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

static const proa_mesh_place at_a = {.host = "10.0.0.1", .port = 4001},
                             at_b = {.host = "10.0.0.2", .port = 4002};

/* ---- wire ---- */

static proa_mesh_hello make_hello(int rank, int wanted, int world)
{
    proa_mesh_hello h = {.rank = rank, .wanted = wanted, .world = world, .place = at_a, .term_count = 2};
    strcpy(h.terms[0].name, "--page-size");
    strcpy(h.terms[0].value, "64");
    strcpy(h.terms[1].name, "model");
    strcpy(h.terms[1].value, "abc");
    h.blob = (const uint8_t *)"blob";
    h.blob_bytes = 4;
    return h;
}

static void hello_travels(void **state)
{
    (void)state;
    proa_mesh_hello h = make_hello(3, 1, 8), back;
    proa_buf out = {0};
    proa_error err;
    h.formed = true;
    proa_mesh_hello_put(&h, &out);
    assert_int_equal(proa_mesh_hello_get((uint8_t *)out.data, out.length, &back, NULL), PROA_OK);
    assert_int_equal(back.rank, 3);
    assert_int_equal(back.wanted, 1);
    assert_int_equal(back.world, 8);
    assert_true(back.formed);
    assert_string_equal(back.place.host, at_a.host);
    assert_int_equal(back.place.port, at_a.port);
    assert_int_equal(back.term_count, 2);
    assert_string_equal(back.terms[1].name, "model");
    assert_string_equal(back.terms[1].value, "abc");
    assert_int_equal(back.blob_bytes, 4);
    assert_memory_equal(back.blob, "blob", 4);
    for (size_t i = 0; i < out.length; i++)
        assert_int_equal(proa_mesh_hello_get((uint8_t *)out.data, i, &back, &err), PROA_ERR_PROTOCOL);
    out.data[0] = 9; /* the version */
    assert_int_equal(proa_mesh_hello_get((uint8_t *)out.data, out.length, &back, &err), PROA_ERR_PROTOCOL);
    assert_non_null(strstr(err.text, "version 9"));
    proa_buf_free(&out);
}

static void wrong_hellos_are_refused(void **state)
{
    static const struct {
        int rank, wanted, world;
    } cases[] = {{8, 1, 8}, {-1, 1, 8}, {3, 8, 8}, {3, -1, 8}, {3, 3, 8}, {0, 0, 1}, {1, 0, 1025}, {1, 0, 0}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        proa_mesh_hello h = make_hello(cases[i].rank, cases[i].wanted, cases[i].world), back;
        proa_buf out = {0};
        proa_mesh_hello_put(&h, &out);
        assert_int_equal(proa_mesh_hello_get((uint8_t *)out.data, out.length, &back, NULL),
                         PROA_ERR_PROTOCOL);
        proa_buf_free(&out);
    }
    proa_mesh_hello h = make_hello(1, 0, 2), back;
    proa_buf out = {0};
    strcpy(h.terms[0].value, "\033[2J"); /* would go into a log */
    proa_mesh_hello_put(&h, &out);
    assert_int_equal(proa_mesh_hello_get((uint8_t *)out.data, out.length, &back, NULL), PROA_ERR_PROTOCOL);
    proa_buf_free(&out);
}

static void refusals_travel(void **state)
{
    (void)state;
    const proa_mesh_refusal r = {.for_good = true, .why = "no room"};
    proa_mesh_refusal back;
    proa_buf out = {0};
    proa_mesh_refusal_put(&r, &out);
    assert_int_equal(proa_mesh_refusal_get((uint8_t *)out.data, out.length, &back, NULL), PROA_OK);
    assert_true(back.for_good);
    assert_string_equal(back.why, "no room");
    for (size_t i = 0; i < out.length; i++)
        assert_int_equal(proa_mesh_refusal_get((uint8_t *)out.data, i, &back, NULL), PROA_ERR_PROTOCOL);
    proa_buf_free(&out);
}

static void put_table(proa_buf *out, int world, bool formed, int count, const int *ranks,
                      const proa_mesh_place *place)
{
    proa_mesh_table_begin(world, formed, (uint32_t)count, out);
    for (int i = 0; i < count; i++) {
        const proa_mesh_entry e = {
            .rank = ranks[i], .incarnation = 100 + (uint64_t)ranks[i], .place = *place};
        proa_mesh_entry_put(&e, out);
    }
}

static void tables_travel(void **state)
{
    static const struct {
        int world, count, ranks[3];
        bool right;
    } cases[] = {
        {8, 3, {1, 2, 7}, true}, {8, 0, {0}, true},   {8, 2, {2, 1}, false}, {8, 2, {2, 2}, false},
        {8, 1, {8}, false},      {8, 1, {-1}, false}, {1, 0, {0}, false},    {1025, 0, {0}, false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        proa_buf out = {0};
        proa_mesh_table table;
        proa_mesh_entry e;
        put_table(&out, cases[i].world, true, cases[i].count, cases[i].ranks, &at_b);
        proa_status status = proa_mesh_table_get((uint8_t *)out.data, out.length, &table, NULL);
        assert_int_equal(status, cases[i].right ? PROA_OK : PROA_ERR_PROTOCOL);
        for (int j = 0; j < cases[i].count && cases[i].right; j++) {
            assert_true(proa_mesh_table_next(&table, &e));
            assert_int_equal(e.rank, cases[i].ranks[j]);
            assert_int_equal(e.incarnation, 100 + e.rank);
            assert_string_equal(e.place.host, at_b.host);
        }
        if (cases[i].right)
            assert_false(proa_mesh_table_next(&table, &e));
        for (size_t j = 0; j < out.length; j++)
            assert_int_equal(proa_mesh_table_get((uint8_t *)out.data, j, &table, NULL), PROA_ERR_PROTOCOL);
        proa_buf_free(&out);
    }
}

/* ---- the book ---- */

static void take(proa_mesh_book *book, bool formed, int count, const int *ranks, const proa_mesh_place *place,
                 int64_t now_us)
{
    proa_buf out = {0};
    proa_mesh_table table;
    put_table(&out, book->world, formed, count, ranks, place);
    assert_int_equal(proa_mesh_table_get((uint8_t *)out.data, out.length, &table, NULL), PROA_OK);
    assert_int_equal(proa_mesh_book_take_table(book, &table, now_us, NULL), PROA_OK);
    proa_buf_free(&out);
}

static void dials_lower_ranks_with_backoff(void **state)
{
    (void)state;
    proa_mesh_book *book = proa_mesh_book_create(3, 5, 1000);
    assert_int_equal(proa_mesh_book_dial(book, 1000), 0); /* the one that it knows */
    assert_int_equal(proa_mesh_book_dial(book, 1000), -1);
    int64_t now = 1000, waited[8];
    for (int i = 0; i < 8; i++) {
        int64_t failed = now;
        proa_mesh_book_dial_failed(book, 0, true, now);
        while (proa_mesh_book_dial(book, now) != 0)
            now += 1000;
        waited[i] = now - failed;
    }
    for (int i = 1; i < 8; i++)
        assert_true(waited[i] >= waited[i - 1]);
    assert_int_equal(waited[0], 50000);
    assert_int_equal(waited[7], 1000000);
    proa_mesh_book_up(book, 0, 7, &at_a, false, now);
    assert_int_equal(proa_mesh_book_dial(book, now + 10000000), -1);
    take(book, false, 3, (const int[]){1, 3, 4}, &at_b, now); /* itself, and a higher one, which will dial */
    assert_int_equal(proa_mesh_book_dial(book, now), 1);
    assert_int_equal(proa_mesh_book_dial(book, now), -1);
    proa_mesh_book_dial_failed(book, 1, true, now); /* nobody there: until a table says more */
    assert_int_equal(proa_mesh_book_dial(book, now + 10000000), -1);
    take(book, false, 3, (const int[]){1, 3, 4}, &at_b, now);
    assert_int_equal(proa_mesh_book_dial(book, now), 1);
    take(book, false, 3, (const int[]){1, 3, 4}, &at_a, now); /* it has moved while it is dialled */
    proa_mesh_book_dial_failed(book, 1, true, now);
    assert_int_equal(proa_mesh_book_dial(book, now), 1);
    assert_string_equal(book->peers[1].place.host, at_a.host);
    proa_mesh_book_dial_failed(book, 1, false, now); /* a time-out: it may be reached later */
    assert_int_equal(proa_mesh_book_dial(book, now), -1);
    assert_int_equal(proa_mesh_book_dial(book, now + 1000000), 1);
    proa_mesh_book_free(book);
}

/* What a table names while the link to the process before it lives is dialled when that link has ended. */
static void place_is_kept_until_the_link_ends(void **state)
{
    (void)state;
    proa_mesh_book *book = proa_mesh_book_create(2, 3, 0);
    assert_int_equal(proa_mesh_book_dial(book, 0), 0);
    proa_mesh_book_up(book, 0, 7, &at_a, false, 0);
    take(book, false, 2, (const int[]){1, 2}, &at_a, 0);
    assert_int_equal(proa_mesh_book_dial(book, 0), 1);
    proa_mesh_book_up(book, 1, 8, &at_a, false, 0);
    take(book, true, 2, (const int[]){1, 2}, &at_b, 0);
    assert_int_equal(proa_mesh_book_dial(book, 10000000), -1);
    proa_mesh_book_down(book, 1, 0);
    assert_int_equal(proa_mesh_book_dial(book, 10000000), 1);
    assert_string_equal(book->peers[1].place.host, at_b.host);
    proa_mesh_book_free(book);
}

static void readiness(void **state)
{
    (void)state;
    proa_mesh_book *book = proa_mesh_book_create(2, 4, 0);
    proa_mesh_book_dial(book, 0);
    proa_mesh_book_up(book, 0, 7, &at_a, true, 0);
    assert_false(proa_mesh_book_settle(book, 1)); /* the table is not there */
    take(book, false, 2, (const int[]){2, 3}, &at_a, 1);
    assert_false(proa_mesh_book_settle(book, 1)); /* rank 1 never came */
    take(book, true, 2, (const int[]){2, 3}, &at_a, 1);
    assert_false(proa_mesh_book_settle(book, 1)); /* rank 3 will dial */
    proa_mesh_book_up(book, 3, 9, &at_a, false, 2);
    assert_true(proa_mesh_book_settle(book, 2));  /* rank 1 is dead, and the others go on */
    assert_false(proa_mesh_book_settle(book, 3)); /* once */
    proa_mesh_book_free(book);

    book = proa_mesh_book_create(0, 3, 0);
    proa_mesh_book_up(book, 2, 9, &at_a, true,
                      1000000); /* has seen all before: rank 1 has 4 s to say that it lives */
    assert_false(proa_mesh_book_settle(book, 4900000));
    assert_true(proa_mesh_book_settle(book, 5000000));
    proa_mesh_book_free(book);

    book = proa_mesh_book_create(0, 3, 0);
    proa_mesh_book_up(book, 2, 9, &at_a, false, 0);
    assert_false(proa_mesh_book_settle(book, 3600000000));
    proa_mesh_book_down(book, 2, 0);
    proa_mesh_book_up(book, 1, 9, &at_a, false, 0);
    assert_true(proa_mesh_book_settle(book, 0)); /* each was there once */
    proa_mesh_book_free(book);
}

static void judgements(void **state)
{
    static const struct {
        int rank, wanted, world;
        const char *page_size;
        uint64_t incarnation;
        proa_mesh_verdict verdict;
        const char *why;
    } cases[] = {
        {3, 2, 4, "64", 30, PROA_MESH_ADMIT, ""},
        {3, 1, 4, "64", 30, PROA_MESH_REFUSE_NOW, "here is rank 2, not rank 1"},
        {1, 2, 4, "64", 10, PROA_MESH_REFUSE_FOR_GOOD, "rank 1 dials rank 2"},
        {3, 2, 5, "64", 30, PROA_MESH_REFUSE_FOR_GOOD, "--tp-size is 5 at rank 3 and 4 at rank 2"},
        {3, 2, 4, "1", 30, PROA_MESH_REFUSE_FOR_GOOD, "--page-size is 1 at rank 3 and 64 at rank 2"},
    };
    char why[PROA_MESH_REASON_BYTES];
    (void)state;
    proa_mesh_book *book = proa_mesh_book_create(2, 4, 0);
    proa_mesh_hello mine = make_hello(2, 0, 4);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        proa_mesh_hello h = make_hello(cases[i].rank, cases[i].wanted, cases[i].world);
        strcpy(h.terms[0].value, cases[i].page_size);
        why[0] = 0;
        assert_int_equal(proa_mesh_book_judge(book, &mine, &h, cases[i].incarnation, why), cases[i].verdict);
        if (strstr(why, cases[i].why) == NULL)
            fail_msg("case %zu: told \"%s\"", i, why);
    }
    proa_mesh_hello h = make_hello(3, 2, 4);
    proa_mesh_book_up(book, 3, 30, &at_a, false, 0);
    assert_int_equal(proa_mesh_book_judge(book, &mine, &h, 31, why), PROA_MESH_REFUSE_NOW);
    assert_non_null(strstr(why, "rank 3 is there already"));
    assert_int_equal(proa_mesh_book_judge(book, &mine, &h, 30, why),
                     PROA_MESH_ADMIT); /* it has lost the link first */
    proa_mesh_book_down(book, 3, 0);
    assert_int_equal(proa_mesh_book_judge(book, &mine, &h, 31, why), PROA_MESH_ADMIT);
    proa_mesh_book_free(book);
}

static void missing_ranks_are_named(void **state)
{
    static const struct {
        int rank, world;
        const char *up, *text;
    } cases[] = {
        {0, 2, "..", "rank 1"},
        {0, 4, "....", "ranks 1-3"},
        {0, 4, "..x.", "ranks 1, 3"},
        {2, 6, "x.....", "ranks 1, 3-5"},
        {1, 3, "...", "ranks 0, 2"},
        {0, 3, "...", "ranks 1, 2"},
        {0, 30, "..x.x.x.x.x.x.x.x.x.x.x.x.x.x.",
         "ranks 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23 and 3 more"},
    };
    char text[200];
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        proa_mesh_book *book = proa_mesh_book_create(cases[i].rank, cases[i].world, 0);
        for (int j = 0; j < cases[i].world; j++) {
            if (cases[i].up[j] == 'x')
                proa_mesh_book_up(book, j, 1, &at_a, false, 0);
        }
        proa_mesh_book_missing(book, text, sizeof text);
        assert_string_equal(text, cases[i].text);
        proa_mesh_book_free(book);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hello_travels),
        cmocka_unit_test(wrong_hellos_are_refused),
        cmocka_unit_test(refusals_travel),
        cmocka_unit_test(tables_travel),
        cmocka_unit_test(dials_lower_ranks_with_backoff),
        cmocka_unit_test(place_is_kept_until_the_link_ends),
        cmocka_unit_test(readiness),
        cmocka_unit_test(judgements),
        cmocka_unit_test(missing_ranks_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
