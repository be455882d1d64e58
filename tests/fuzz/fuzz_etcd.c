/* fuzz_etcd.c - any bytes as etcd's answer to anything and as the stream of a watch: they are read or refused, and what a view makes of
 * them is in order. */
#include "cluster/discovery_view.h"
#include "cluster/etcd_codec.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void on_put(void *context, const char *key, const char *value, size_t length)
{
    (void)context;
    PROA_ASSERT(strlen(key) >= 2);
    PROA_ASSERT(value[length] == 0);
}

static void on_gone(void *context, const char *key)
{
    (void)context;
    PROA_ASSERT(strncmp(key, "v1", 2) == 0);
}

static void check_list(const proa_etcd_list *list)
{
    PROA_ASSERT(list->revision >= 0);
    for (size_t i = 0; i < list->count; i++) {
        PROA_ASSERT(list->kvs[i].key[0] != 0);
        PROA_ASSERT(list->kvs[i].value[list->kvs[i].length] == 0);
    }
}

static void check_view(const proa_view *view)
{
    for (size_t i = 0; i < view->count; i++) {
        PROA_ASSERT(i == 0 || strcmp(view->entries[i - 1].key, view->entries[i].key) < 0);
        PROA_ASSERT(view->entries[i].present == (view->entries[i].value != NULL));
    }
}

static void read_answers(const char *text, size_t size, proa_arena *arena, proa_view *view)
{
    proa_etcd_list list;
    proa_etcd_lease lease;
    proa_error err = {0};
    int64_t revision;
    char message[64];
    if (proa_etcd_read_list(text, size, arena, &list, &err) == PROA_OK) {
        check_list(&list);
        proa_view_list_begin(view, list.revision);
        for (size_t i = 0; i < list.count; i++)
            proa_view_list_put(view, list.kvs[i].key, list.kvs[i].value, list.kvs[i].length,
                               list.kvs[i].mod_revision);
        proa_view_list_end(view, 0, (int64_t)(size % 2));
    } else {
        PROA_ASSERT(err.text[0] != 0);
    }
    if (proa_etcd_read_look(text, size, arena, &list, NULL) == PROA_OK)
        check_list(&list);
    if (proa_etcd_read_lease(text, size, &lease, NULL) == PROA_OK)
        PROA_ASSERT(lease.ttl_s >= 0);
    proa_etcd_read_header(text, size, &revision, NULL);
    proa_etcd_read_error(text, size, message, sizeof message);
    for (const char *c = message; *c != 0; c++)
        PROA_ASSERT((uint8_t)*c >= 0x20);
}

static void read_stream(const char *text, size_t size, proa_arena *arena, proa_view *view)
{
    proa_etcd_lines lines = {0};
    size_t cut = size > 0 ? (uint8_t)text[0] % size : 0, length;
    const char *line;
    for (int part = 0; part < 2; part++) {
        proa_etcd_lines_add(&lines, part == 0 ? text : text + cut, part == 0 ? cut : size - cut);
        while ((line = proa_etcd_lines_next(&lines, &length)) != NULL) {
            proa_etcd_news news;
            if (proa_etcd_read_news(line, length, arena, &news, NULL) != PROA_OK)
                continue;
            PROA_ASSERT(news.text != NULL);
            check_list(&news.list);
            for (size_t i = 0; i < news.list.count; i++) {
                const proa_etcd_kv *kv = &news.list.kvs[i];
                if (kv->deleted)
                    proa_view_event_gone(view, kv->key, kv->mod_revision);
                else
                    proa_view_event_put(view, kv->key, kv->value, kv->length, kv->mod_revision);
            }
        }
    }
    proa_etcd_lines_rest(&lines, &length);
    proa_etcd_lines_free(&lines);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    proa_arena *arena = proa_arena_create(1 << 20);
    const proa_discovery_hooks hooks = {.put = on_put, .gone = on_gone};
    proa_view view;
    proa_view_init(&view, "v1", &hooks);
    read_answers((const char *)data, size, arena, &view);
    check_view(&view);
    read_stream((const char *)data, size, arena, &view);
    check_view(&view);
    proa_view_expire(&view, 1);
    check_view(&view);
    proa_view_free(&view);
    proa_arena_free(arena);
    return 0;
}
