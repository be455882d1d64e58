/* fuzz_mesh.c - what a peer may say to form a mesh. The first byte picks the message; what is accepted is used as the mesh uses it, and
 * says the same when it is written again. */
#include "net/mesh_book.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { WORLD = 4, RANK = 2 };

static void require(bool condition)
{
    if (!condition)
        abort();
}

static bool accepted(proa_status status, const proa_error *err)
{
    require(status == PROA_OK || (status == PROA_ERR_PROTOCOL && err->status == status && err->text[0] != 0));
    return status == PROA_OK;
}

static void require_same(const proa_buf *out, const uint8_t *data, size_t size)
{
    require(!out->failed && out->length == size && memcmp(out->data, data, size) == 0);
}

static void try_hello(const uint8_t *data, size_t size, proa_buf *out)
{
    proa_mesh_hello hello;
    proa_mesh_hello mine = {.rank = RANK, .world = WORLD, .term_count = 1, .terms = {{"model", "m"}}};
    proa_error err = {0};
    char why[PROA_MESH_REASON_BYTES] = "";
    if (!accepted(proa_mesh_hello_get(data, size, &hello, &err), &err))
        return;
    proa_mesh_hello_put(&hello, out);
    require_same(out, data, size);
    proa_mesh_book *book = proa_mesh_book_create(RANK, WORLD, 0);
    require(book != NULL);
    if (proa_mesh_book_judge(book, &mine, &hello, 1, why) == PROA_MESH_ADMIT)
        proa_mesh_book_up(book, hello.rank, 1, &hello.place, hello.formed, 0);
    else
        require(why[0] != 0);
    proa_mesh_book_free(book);
}

static void try_refusal(const uint8_t *data, size_t size, proa_buf *out)
{
    proa_mesh_refusal refusal;
    proa_error err = {0};
    if (!accepted(proa_mesh_refusal_get(data, size, &refusal, &err), &err))
        return;
    proa_mesh_refusal_put(&refusal, out);
    require_same(out, data, size);
}

static void try_table(const uint8_t *data, size_t size, proa_buf *out)
{
    proa_mesh_table table, again;
    proa_mesh_entry entry;
    proa_error err = {0};
    if (!accepted(proa_mesh_table_get(data, size, &table, &err), &err))
        return;
    again = table;
    proa_mesh_table_begin(table.world, table.formed, table.count, out);
    while (proa_mesh_table_next(&table, &entry))
        proa_mesh_entry_put(&entry, out);
    require_same(out, data, size);
    proa_mesh_book *book = proa_mesh_book_create(RANK, WORLD, 0);
    require(book != NULL);
    if (accepted(proa_mesh_book_take_table(book, &again, 0, &err), &err)) {
        for (int32_t rank; (rank = proa_mesh_book_dial(book, 0)) >= 0;)
            require(rank < RANK && (rank == 0 || book->peers[rank].place.port != 0));
        proa_mesh_book_settle(book, 0);
    }
    proa_mesh_book_free(book);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const tries[])(const uint8_t *, size_t, proa_buf *) = {try_hello, try_refusal, try_table};
    if (size < 1 || data[0] >= sizeof tries / sizeof *tries)
        return 0;
    proa_buf out = {0};
    uint8_t *copy = malloc(size > 1 ? size - 1 : 1); /* of its own, so that a byte too far is found */
    require(copy != NULL);
    memcpy(copy, data + 1, size - 1);
    tries[data[0]](copy, size - 1, &out);
    free(copy);
    proa_buf_free(&out);
    return 0;
}
