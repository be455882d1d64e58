/* test_bytes.c - little-endian fields: what is written is read, the bytes are where they belong, nothing is read beyond the end. */
#include "net/bytes.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void test_every_field(void **state)
{
    (void)state;
    static const uint8_t expected[] = {
        0xfe,                                           /* u8 */
        0x34, 0x12,                                     /* u16 */
        0x78, 0x56, 0x34, 0x12,                         /* u32 */
        0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01, /* u64 */
        0xff, 0xff, 0xff, 0xff,                         /* i32 -1 */
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x80, /* i64 least */
        0x00, 0x00, 0x20, 0xc0,                         /* f32 -2.5 */
        0x05, 0x00, 'P',  'r',  'o',  'a',  '!',        /* text */
        0x00, 0x00,                                     /* text "" */
    };
    proa_buf out = {0};
    proa_put_u8(&out, 0xfe);
    proa_put_u16(&out, 0x1234);
    proa_put_u32(&out, 0x12345678);
    proa_put_u64(&out, 0x0123456789abcdef);
    proa_put_i32(&out, -1);
    proa_put_i64(&out, INT64_MIN);
    proa_put_f32(&out, -2.5f);
    proa_put_text(&out, "Proa!");
    proa_put_text(&out, "");
    assert_false(out.failed);
    assert_int_equal(out.length, sizeof expected);
    assert_memory_equal(out.data, expected, sizeof expected);

    char text[6] = "xxxxx", empty[1] = "x";
    proa_reader reader = proa_reader_of(out.data, out.length);
    assert_int_equal(proa_get_u8(&reader), 0xfe);
    assert_int_equal(proa_get_u16(&reader), 0x1234);
    assert_int_equal(proa_get_u32(&reader), 0x12345678);
    assert_true(proa_get_u64(&reader) == 0x0123456789abcdef);
    assert_int_equal(proa_get_i32(&reader), -1);
    assert_true(proa_get_i64(&reader) == INT64_MIN);
    assert_true(proa_get_f32(&reader) == -2.5f);
    proa_get_text(&reader, text, sizeof text);
    assert_string_equal(text, "Proa!");
    assert_false(proa_reader_done(&reader));
    proa_get_text(&reader, empty, sizeof empty);
    assert_string_equal(empty, "");
    assert_true(proa_reader_done(&reader));
    proa_buf_free(&out);
}

/* A NaN's bits and the sign of zero travel too: law 2 compares bits. */
static void test_float_bits(void **state)
{
    (void)state;
    static const uint32_t bits[] = {0x00000000, 0x80000000, 0x7f800000, 0xff800000,
                                    0x7fc12345, 0x00000001, 0x7f7fffff};
    for (size_t i = 0; i < sizeof bits / sizeof bits[0]; i++) {
        float value, again;
        uint32_t found;
        proa_buf out = {0};
        memcpy(&value, &bits[i], sizeof value);
        proa_put_f32(&out, value);
        proa_reader reader = proa_reader_of(out.data, out.length);
        again = proa_get_f32(&reader);
        memcpy(&found, &again, sizeof found);
        assert_int_equal(found, bits[i]);
        proa_buf_free(&out);
    }
}

/* After the end: zeros, `failed` for good, and no byte outside is touched (the sanitizer's heap says so). */
static void test_beyond_the_end(void **state)
{
    (void)state;
    for (size_t length = 0; length < 8; length++) {
        uint8_t *bytes = malloc(length + 1);
        assert_non_null(bytes);
        memset(bytes, 0xff, length);
        uint8_t *exact = realloc(bytes, length > 0 ? length : 1);
        assert_non_null(exact);
        proa_reader reader = proa_reader_of(exact, length);
        assert_true(proa_get_u64(&reader) == 0);
        assert_true(reader.failed);
        assert_int_equal(proa_get_u8(&reader), 0); /* though a byte may be left */
        assert_null(proa_get_bytes(&reader, 0));
        assert_false(proa_reader_done(&reader));
        free(exact);
    }
    proa_reader reader = proa_reader_of("abc", 3);
    assert_memory_equal(proa_get_bytes(&reader, 2), "ab", 2);
    assert_int_equal(proa_reader_left(&reader), 1);
    assert_null(proa_get_bytes(&reader, SIZE_MAX));
    assert_true(reader.failed);
}

static void test_counts(void **state)
{
    (void)state;
    static const struct {
        uint32_t count, most;
        size_t element_bytes, there;
        bool good;
    } cases[] = {
        {0, 0, 8, 0, true},
        {3, 3, 4, 12, true},
        {3, 3, 4, 13, true},
        {3, 2, 4, 12, false},
        {3, 9, 4, 11, false},
        {1, 9, 1, 0, false},
        {0xffffffff, 0xffffffff, 8, 64, false},
        {0x40000000, 0xffffffff, 4, 0, false}, /* 2^32 bytes: no product may wrap */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        proa_buf out = {0};
        proa_put_u32(&out, cases[i].count);
        for (size_t j = 0; j < cases[i].there; j++)
            proa_put_u8(&out, 1);
        proa_reader reader = proa_reader_of(out.data, out.length);
        assert_int_equal(proa_get_count(&reader, cases[i].most, cases[i].element_bytes),
                         cases[i].good ? cases[i].count : 0);
        assert_int_equal(reader.failed, !cases[i].good);
        proa_buf_free(&out);
    }
}

static void test_texts_that_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t length;
    } cases[] = {
        {"\x04\x00"
         "abcd",
         6}, /* longer than the place for it */
        {"\x03\x00"
         "ab",
         4}, /* longer than what is there */
        {"\x03\x00"
         "a\0b",
         5},         /* a zero byte */
        {"\x01", 1}, /* half a length */
        {"\xff\xff"
         "abc",
         5},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[4] = "old";
        proa_reader reader = proa_reader_of(cases[i].bytes, cases[i].length);
        proa_get_text(&reader, text, sizeof text);
        assert_true(reader.failed);
        assert_string_equal(text, "");
    }
}

static void test_a_text_that_is_too_long_is_cut(void **state)
{
    (void)state;
    char *text = malloc(70001);
    assert_non_null(text);
    memset(text, 'a', 70000);
    text[70000] = 0;
    proa_buf out = {0};
    proa_put_text(&out, text);
    assert_int_equal(out.length, 2 + 65535);
    proa_buf_free(&out);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_field),
        cmocka_unit_test(test_float_bits),
        cmocka_unit_test(test_beyond_the_end),
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_texts_that_are_refused),
        cmocka_unit_test(test_a_text_that_is_too_long_is_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
