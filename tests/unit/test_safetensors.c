/* test_safetensors.c - headers good and bad, each bad one with the words that its message must hold; files written
 * and read back; the golden checkpoints' headers when present. */
#include "base/file.h"
#include "model/safetensors.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#define F32_2 "{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}"

/* A file in memory: length, header, `data_bytes` zero bytes. Returns malloc'ed bytes, so that ASan sees reads
 * beyond the end. */
static unsigned char *make_file(const char *header, size_t header_bytes, size_t data_bytes, size_t *total)
{
    *total = 8 + header_bytes + data_bytes;
    unsigned char *bytes = calloc(1, *total);
    for (int i = 0; i < 8; i++)
        bytes[i] = (unsigned char)(header_bytes >> (8 * i));
    memcpy(bytes + 8, header, header_bytes);
    return bytes;
}

static const struct {
    const char *header;
    size_t data_bytes;
    const char *says; /* NULL: good */
} headers[] = {
    {"{}", 0, NULL},
    {"{}   ", 0, NULL},
    {"{\"a\":" F32_2 "}", 8, NULL},
    {"{\"__metadata__\":{\"format\":\"pt\"},\"a\":" F32_2 "}", 8, NULL},
    {"{\"a\":{\"dtype\":\"F16\",\"shape\":[],\"data_offsets\":[0,2]}}", 2, NULL},
    {"{\"a\":{\"dtype\":\"F4\",\"shape\":[3,2],\"data_offsets\":[0,3]}}", 3, NULL},
    {"{\"b\":{\"dtype\":\"U8\",\"shape\":[0,5],\"data_offsets\":[8,8]},\"a\":" F32_2 "}", 8, NULL},
    {"{\"b\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},\"a\":" F32_2 "}", 8, NULL},
    {"", 0, "does not start with '{'"},
    {" {}", 0, "does not start with '{'"},
    {"[]", 0, "does not start with '{'"},
    {"{", 0, "not valid JSON"},
    {"{} x", 0, "not valid JSON"},
    {"{\"a\":" F32_2 ",\"a\":" F32_2 "}", 8, "duplicate"},
    {"{\"\xff\":" F32_2 "}", 8, "unable to decode byte 0xff"},
    {"{\"\":" F32_2 "}", 8, "name is empty"},
    {"{\"a\\nb\":" F32_2 "}", 8, "control characters"},
    {"{\"a\":[]}", 0, "tensor a: its entry is not an object"},
    {"{\"a\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "\"dtype\" is missing"},
    {"{\"a\":{\"dtype\":7,\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "\"dtype\" is missing"},
    {"{\"a\":{\"dtype\":\"F99\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "\"F99\""},
    {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8, "\"shape\" is missing"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":2,\"data_offsets\":[0,8]}}", 8, "\"shape\" is missing"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8, "counts from 0 up"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2.0],\"data_offsets\":[0,8]}}", 8, "counts from 0 up"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,2],\"data_offsets\":[0,8]}}", 8, "9 dimensions"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0, "64 bits"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296,0],\"data_offsets\":[0,0]}}", 0, "64 bits"},
    {"{\"a\":{\"dtype\":\"F64\",\"shape\":[4611686018427387904],\"data_offsets\":[0,0]}}", 0, "64 bits"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[99999999999999999999],\"data_offsets\":[0,0]}}", 0,
     "not valid JSON"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, "\"data_offsets\" is not"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}}", 8, "\"data_offsets\" is not"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8,8]}}", 8, "\"data_offsets\" is not"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[-8,0]}}", 8, "\"data_offsets\" is not"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", 8,
     "begins at 8, after its end at 0"},
    {"{\"a\":" F32_2 "}", 7, "ends at 8, but the file holds 7 bytes of data"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}", 8,
     "holds 8 bytes, but its shape has 3 "},
    {"{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]}}", 2, "3 elements of F4"},
    {"{\"a\":" F32_2 ",\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[6,10]}}", 10, "overlap"},
    {"{\"a\":" F32_2 ",\"b\":" F32_2 "}", 8, "overlap"},
    {"{\"a\":" F32_2 ",\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[9,13]}}", 13, "a ends at 8"},
    {"{\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[1,5]}}", 5, "the start ends at 0"},
    {"{\"a\":" F32_2 "}", 9, "the last tensor ends at 8 of 9"},
    {"{\"__metadata__\":{\"a\":1},\"a\":" F32_2 "}", 8, "__metadata__"},
    {"{\"__metadata__\":3}", 0, "__metadata__"},
};

static void headers_are_checked(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof headers / sizeof headers[0]; i++) {
        size_t total;
        unsigned char *bytes =
            make_file(headers[i].header, strlen(headers[i].header), headers[i].data_bytes, &total);
        proa_safetensors *file;
        proa_error err = {0};
        proa_status status = proa_safetensors_parse(bytes, total, "x.safetensors", &file, &err);
        if (headers[i].says == NULL && status != PROA_OK)
            fail_msg("%s: %s", headers[i].header, err.text);
        if (headers[i].says != NULL) {
            if (status == PROA_OK || strstr(err.text, headers[i].says) == NULL)
                fail_msg("%s: \"%s\" lacks \"%s\"", headers[i].header, err.text, headers[i].says);
            assert_non_null(strstr(err.text, "x.safetensors"));
            assert_null(file);
        }
        proa_safetensors_close(file);
        free(bytes);
    }
}

static void lengths_are_checked(void **state)
{
    (void)state;
    static const struct {
        uint64_t length;
        size_t bytes;
        const char *says;
    } cases[] = {
        {0, 0, "0 bytes are too few"},
        {2, 7, "7 bytes are too few"},
        {0, 8, "'{'"},
        {2, 9, "only 1 follow"},
        {99999999, 100, "only 92 follow"},
        {100000001, 100, "over the limit"},
        {UINT64_MAX, 100, "over the limit"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        unsigned char *bytes = calloc(1, cases[i].bytes + 1);
        for (size_t b = 0; b < 8 && b < cases[i].bytes; b++)
            bytes[b] = (unsigned char)(cases[i].length >> (8 * b));
        if (cases[i].bytes > 9)
            memcpy(bytes + 8, "{}", 2);
        proa_safetensors *file;
        proa_error err = {0};
        assert_int_equal(proa_safetensors_parse(bytes, cases[i].bytes, "x", &file, &err), PROA_ERR_CORRUPT);
        if (strstr(err.text, cases[i].says) == NULL)
            fail_msg("\"%s\" lacks \"%s\"", err.text, cases[i].says);
        free(bytes);
    }
}

static void many_levels_of_nesting_are_refused(void **state)
{
    (void)state;
    enum { DEPTH = 1000000 };
    char *header = malloc(DEPTH + 5);
    memcpy(header, "{\"a\":", 5);
    memset(header + 5, '[', DEPTH);
    size_t total;
    unsigned char *bytes = make_file(header, DEPTH + 5, 0, &total);
    proa_safetensors *file;
    assert_int_equal(proa_safetensors_parse(bytes, total, "x", &file, NULL), PROA_ERR_CORRUPT);
    free(bytes);
    free(header);
}

static char folder[] = "/tmp/proa-safetensors-XXXXXX";

static const char *path_in(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) == NULL;
}

static int remove_folder(void **state)
{
    (void)state;
    unlink(path_in("good.safetensors"));
    unlink(path_in("short.safetensors"));
    return rmdir(folder);
}

static void files_read_back_as_written(void **state)
{
    (void)state;
    static const uint8_t bytes[3] = {1, 2, 3};
    static const uint16_t halves[4] = {0x3f80, 0x4000, 0, 1};
    static const float floats[6] = {1, 2, 3, 4, 5, 6};
    static const int64_t longs[1] = {-7};
    const proa_tensor tensors[] = {
        {.name = "bytes", .dtype = PROA_DTYPE_U8, .dims = 1, .shape = {3}, .data = bytes},
        {.name = "halves \"q\" \xe6\xaf\x95",
         .dtype = PROA_DTYPE_BF16,
         .dims = 2,
         .shape = {2, 2},
         .data = halves},
        {.name = "floats", .dtype = PROA_DTYPE_F32, .dims = 2, .shape = {2, 3}, .data = floats},
        {.name = "longs", .dtype = PROA_DTYPE_I64, .dims = 0, .data = longs},
        {.name = "nothing", .dtype = PROA_DTYPE_F32, .dims = 1, .shape = {0}, .data = NULL},
    };
    enum { COUNT = sizeof tensors / sizeof tensors[0] };
    proa_error err = {0};
    const char *path = path_in("good.safetensors");
    if (proa_safetensors_write(path, tensors, COUNT, &err) != PROA_OK)
        fail_msg("%s", err.text);
    proa_safetensors *file;
    if (proa_safetensors_open(path, &file, &err) != PROA_OK)
        fail_msg("%s", err.text);
    assert_int_equal(proa_safetensors_count(file), COUNT);
    for (size_t i = 0; i < COUNT; i++) {
        const proa_tensor *t = proa_safetensors_find(file, tensors[i].name);
        assert_non_null(t);
        assert_int_equal(t->dtype, tensors[i].dtype);
        assert_int_equal(t->dims, tensors[i].dims);
        assert_memory_equal(t->shape, tensors[i].shape, sizeof t->shape);
        assert_int_equal((uintptr_t)t->data % proa_dtype_bytes(t->dtype), 0);
        if (t->bytes > 0)
            assert_memory_equal(t->data, tensors[i].data, t->bytes);
        assert_ptr_equal(proa_safetensors_at(file, i)->name,
                         proa_safetensors_find(file, proa_safetensors_at(file, i)->name)->name);
    }
    assert_string_equal(proa_safetensors_at(file, 0)->name, "longs"); /* the widest type first */
    assert_null(proa_safetensors_find(file, "byte"));
    assert_null(proa_safetensors_find(file, "zzz"));
    assert_null(proa_safetensors_find(file, ""));
    proa_safetensors_close(file);
}

static void what_cannot_be_written_is_refused(void **state)
{
    (void)state;
    static const float one[1] = {1};
    static const struct {
        proa_tensor tensors[2];
        const char *says;
    } cases[] = {
        {{{.name = "a", .dims = 1, .shape = {1}, .data = one},
          {.name = "a", .dims = 1, .shape = {1}, .data = one}},
         "two tensors are named a"},
        {{{.name = "a", .dims = 1, .shape = {1}, .data = one}, {.name = "\xff", .data = one}}, "no name"},
        {{{.name = "a", .dims = 1, .shape = {1}, .data = one}, {.name = "", .data = one}}, "no name"},
        {{{.name = "a", .dims = 1, .shape = {1}, .data = one}, {.name = "__metadata__", .data = one}},
         "no name"},
        {{{.name = "a", .dims = 1, .shape = {1}, .data = one},
          {.name = "b", .dims = 1, .shape = {-1}, .data = one}},
         "tensor b"},
        {{{.name = "a", .data = one}, {.name = "b", .dtype = PROA_DTYPE_OTHER, .data = one}}, "tensor b"},
        {{{.name = "a", .data = one}, {.name = "b", .dims = 2, .shape = {INT64_MAX, 4}, .data = one}},
         "tensor b"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        proa_error err = {0};
        const char *path = path_in("bad.safetensors");
        assert_int_equal(proa_safetensors_write(path, cases[i].tensors, 2, &err), PROA_ERR_INVALID);
        if (strstr(err.text, cases[i].says) == NULL || strstr(err.text, path) == NULL)
            fail_msg("case %zu: \"%s\" lacks \"%s\"", i, err.text, cases[i].says);
        assert_false(proa_file_exists(path));
    }
    proa_error err = {0};
    assert_true(proa_failed(proa_safetensors_write("/nonexistent/folder/x", NULL, 0, &err)));
    assert_non_null(strstr(err.text, "/nonexistent/folder/x"));
}

static void unreadable_files_are_errors(void **state)
{
    (void)state;
    proa_safetensors *file;
    proa_error err = {0};
    assert_int_equal(proa_safetensors_open(path_in("absent.safetensors"), &file, &err), PROA_ERR_NOT_FOUND);
    assert_non_null(strstr(err.text, "absent.safetensors"));
    assert_null(file);
    assert_int_equal(proa_safetensors_open(folder, &file, &err), PROA_ERR_INVALID);
    assert_non_null(strstr(err.text, "not a regular file"));
    assert_int_equal(proa_file_write(path_in("short.safetensors"), "", 0, &err), PROA_OK);
    assert_int_equal(proa_safetensors_open(path_in("short.safetensors"), &file, &err), PROA_ERR_CORRUPT);
    if (geteuid() == 0) {
        print_message("root reads every file: permissions not tested\n");
        return;
    }
    chmod(path_in("short.safetensors"), 0);
    assert_int_equal(proa_safetensors_open(path_in("short.safetensors"), &file, &err), PROA_ERR_IO);
}

/* Checkpoints and references written by Python's safetensors package. */
static void files_of_others_are_read(void **state)
{
    (void)state;
    static const struct {
        const char *path;
        const char *tensor;
        proa_dtype dtype;
        int64_t shape[2];
    } cases[] = {
        {"golden/v3-bf16/model-00001-of-00002.safetensors",
         "model.layers.0.self_attn.q_a_proj.weight",
         PROA_DTYPE_BF16,
         {96, 256}},
        {"golden/v3-fp8/model-00001-of-00002.safetensors",
         "model.layers.0.self_attn.kv_b_proj.weight_scale_inv",
         PROA_DTYPE_F32,
         {8, 1}},
        {"golden/v3-fp8/expected.safetensors", "input_ids", PROA_DTYPE_I32, {3, 96}},
        {"golden/ops.safetensors", NULL, 0, {0}},
    };
    const char *data = getenv("PROA_TEST_DATA");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char path[1024];
        snprintf(path, sizeof path, "%s/%s", data != NULL ? data : "", cases[i].path);
        if (!proa_file_exists(path)) {
            print_message("%s is not there (PROA_TEST_DATA): skipped\n", path);
            skip();
        }
        proa_safetensors *file;
        proa_error err = {0};
        if (proa_safetensors_open(path, &file, &err) != PROA_OK)
            fail_msg("%s", err.text);
        assert_true(proa_safetensors_count(file) > 0);
        if (cases[i].tensor != NULL) {
            const proa_tensor *t = proa_safetensors_find(file, cases[i].tensor);
            assert_non_null(t);
            assert_int_equal(t->dtype, cases[i].dtype);
            assert_memory_equal(t->shape, cases[i].shape, sizeof cases[i].shape);
        }
        proa_safetensors_close(file);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(headers_are_checked),
        cmocka_unit_test(lengths_are_checked),
        cmocka_unit_test(many_levels_of_nesting_are_refused),
        cmocka_unit_test(files_read_back_as_written),
        cmocka_unit_test(what_cannot_be_written_is_refused),
        cmocka_unit_test(unreadable_files_are_errors),
        cmocka_unit_test(files_of_others_are_read),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
