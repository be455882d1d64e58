/* etcd_codec.c - base64, requests of etcd's gateway, its answers, the lines of a watch. */
#include "cluster/etcd_codec.h"

#include "base/json.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- base64 --- */

static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void proa_base64_write(const void *data, size_t length, proa_buf *out)
{
    const uint8_t *in = data;
    for (size_t i = 0; i < length; i += 3) {
        size_t left = length - i;
        uint32_t word = (uint32_t)in[i] << 16 | (left > 1 ? (uint32_t)in[i + 1] << 8 : 0) |
                        (left > 2 ? (uint32_t)in[i + 2] : 0);
        const char four[4] = {letters[word >> 18 & 63], letters[word >> 12 & 63],
                              left > 1 ? letters[word >> 6 & 63] : '=', left > 2 ? letters[word & 63] : '='};
        proa_buf_append(out, four, 4);
    }
}

/* 0 to 63, or -1. */
static int value_of(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

char *proa_base64_read(const char *text, size_t length, proa_arena *arena, size_t *bytes)
{
    size_t padding = 0;
    while (padding < 2 && padding < length && text[length - 1 - padding] == '=')
        padding++;
    if (length % 4 != 0)
        return NULL;
    size_t count = length / 4 * 3 - padding;
    char *data = proa_arena_alloc(arena, count + 1);
    if (data == NULL)
        return NULL;
    uint32_t word = 0;
    size_t written = 0;
    for (size_t i = 0; i < length; i++) {
        int value = i < length - padding ? value_of(text[i]) : 0;
        if (value < 0)
            return NULL;
        word = word << 6 | (uint32_t)value;
        if (i % 4 != 3)
            continue;
        for (int shift = 16; shift >= 0 && written < count; shift -= 8)
            data[written++] = (char)(word >> shift & 255);
        word = 0;
    }
    *bytes = count;
    return data;
}

/* --- requests --- */

static void write_base64(const char *name, const char *text, proa_buf *out)
{
    proa_buf_append_format(out, "\"%s\":\"", name);
    proa_base64_write(text, strlen(text), out);
    proa_buf_append_char(out, '"');
}

/* The keys that begin with `prefix`: from it up to, not including, the first that is greater than all of them. */
static void write_range(const char *prefix, proa_buf *out)
{
    size_t length = strlen(prefix);
    while (length > 0 && (uint8_t)prefix[length - 1] == 0xff)
        length--;
    write_base64("key", prefix, out);
    proa_buf_append_text(out, ",\"range_end\":\"");
    if (length == 0) { /* nothing is greater: to the end, which is written as a zero byte */
        proa_base64_write("", 1, out);
    } else {
        proa_buf end = {0};
        proa_buf_append(&end, prefix, length);
        if (end.failed)
            out->failed = true;
        else
            end.data[length - 1] = (char)((uint8_t)end.data[length - 1] + 1);
        proa_base64_write(end.data, end.length, out);
        proa_buf_free(&end);
    }
    proa_buf_append_char(out, '"');
}

void proa_etcd_write_put(const char *key, const char *value, int64_t lease, proa_buf *out)
{
    proa_buf_append_char(out, '{');
    write_base64("key", key, out);
    proa_buf_append_char(out, ',');
    write_base64("value", value, out);
    proa_buf_append_format(out, ",\"lease\":\"%" PRId64 "\"}", lease);
}

void proa_etcd_write_list(const char *prefix, proa_buf *out)
{
    proa_buf_append_char(out, '{');
    write_range(prefix, out);
    proa_buf_append_char(out, '}');
}

void proa_etcd_write_count(const char *prefix, proa_buf *out)
{
    proa_buf_append_char(out, '{');
    write_range(prefix, out);
    proa_buf_append_text(out, ",\"count_only\":true}");
}

void proa_etcd_write_look(const char *const *keys, size_t count, proa_buf *out)
{
    proa_buf_append_text(out, "{\"success\":[");
    for (size_t i = 0; i < count; i++) {
        proa_buf_append_text(out, i == 0 ? "{\"requestRange\":{" : ",{\"requestRange\":{");
        write_base64("key", keys[i], out);
        proa_buf_append_text(out, "}}");
    }
    proa_buf_append_text(out, "]}");
}

void proa_etcd_write_delete(const char *key, int64_t lease, proa_buf *out)
{
    proa_buf_append_text(out, "{\"compare\":[{");
    write_base64("key", key, out);
    proa_buf_append_format(out,
                           ",\"target\":\"LEASE\",\"result\":\"EQUAL\",\"lease\":\"%" PRId64
                           "\"}],\"success\":[{\"requestDeleteRange\":{",
                           lease);
    write_base64("key", key, out);
    proa_buf_append_text(out, "}}]}");
}

void proa_etcd_write_grant(int64_t ttl_s, proa_buf *out)
{
    proa_buf_append_format(out, "{\"TTL\":\"%" PRId64 "\"}", ttl_s);
}

void proa_etcd_write_lease(int64_t lease, proa_buf *out)
{
    proa_buf_append_format(out, "{\"ID\":\"%" PRId64 "\"}", lease);
}

void proa_etcd_write_watch(const char *prefix, int64_t start_revision, proa_buf *out)
{
    proa_buf_append_text(out, "{\"create_request\":{");
    write_range(prefix, out);
    proa_buf_append_format(out, ",\"start_revision\":\"%" PRId64 "\",\"progress_notify\":true}}",
                           start_revision);
}

/* --- answers --- */

/* A 64-bit integer: a string of digits (or a number); absent is 0. */
static bool take_int(const proa_json *object, const char *name, int64_t *value)
{
    const proa_json *field = proa_json_get(object, name);
    *value = proa_json_int(field, 0);
    if (field == NULL || proa_json_is(field, PROA_JSON_INT))
        return true;
    const char *text = proa_json_string(field, NULL);
    if (text == NULL || text[0] == 0 || strlen(text) != proa_json_string_length(field))
        return false;
    size_t digits = strspn(text + (text[0] == '-'), "0123456789");
    if (digits == 0 || digits > 19 || text[(text[0] == '-') + digits] != 0)
        return false;
    *value = strtoll(text, NULL, 10); /* beyond 64 bits: the nearest */
    return true;
}

static bool take_bool(const proa_json *object, const char *name)
{
    return proa_json_bool(proa_json_get(object, name), false);
}

static proa_status malformed(proa_error *err, const char *field)
{
    return proa_error_set(err, PROA_ERR_PROTOCOL, "etcd's answer is malformed: %s", field);
}

static proa_json *parse(const char *body, size_t length, proa_error *err)
{
    proa_json *json = proa_json_parse(body, length, err);
    if (json == NULL) {
        proa_error_prefix(err, "etcd's answer");
        if (err != NULL)
            err->status = PROA_ERR_PROTOCOL;
    } else if (!proa_json_is(json, PROA_JSON_OBJECT)) {
        proa_json_free(json);
        malformed(err, "it is no object");
        return NULL;
    }
    return json;
}

static bool take_revision(const proa_json *object, int64_t *revision)
{
    const proa_json *header = proa_json_get(object, "header");
    return proa_json_is(header, PROA_JSON_OBJECT) && take_int(header, "revision", revision) && *revision >= 0;
}

/* *kept is false for a key that no C string holds. */
static bool take_kv(const proa_json *json, proa_arena *arena, proa_etcd_kv *kv, bool *kept)
{
    const proa_json *key = proa_json_get(json, "key"), *value = proa_json_get(json, "value");
    size_t key_length = 0;
    *kv = (proa_etcd_kv){.value = ""};
    kv->key = proa_base64_read(proa_json_string(key, ""), proa_json_string_length(key), arena, &key_length);
    if (kv->key == NULL || key_length == 0)
        return false;
    if (value != NULL)
        kv->value =
            proa_base64_read(proa_json_string(value, ""), proa_json_string_length(value), arena, &kv->length);
    *kept = strlen(kv->key) == key_length;
    return kv->value != NULL && take_int(json, "mod_revision", &kv->mod_revision) &&
           take_int(json, "lease", &kv->lease);
}

/* Adds the elements of `array` (NULL: none) to the list, which has room for them. */
static bool take_kvs(const proa_json *array, proa_arena *arena, proa_etcd_list *list)
{
    if (array != NULL && !proa_json_is(array, PROA_JSON_ARRAY))
        return false;
    for (size_t i = 0; i < proa_json_size(array); i++) {
        bool kept;
        if (!take_kv(proa_json_at(array, i), arena, &list->kvs[list->count], &kept))
            return false;
        list->count += kept;
    }
    return true;
}

static bool make_room(proa_etcd_list *list, size_t count, proa_arena *arena)
{
    list->kvs = proa_arena_array(arena, count, sizeof list->kvs[0]);
    return list->kvs != NULL;
}

proa_status proa_etcd_read_header(const char *body, size_t length, int64_t *revision, proa_error *err)
{
    *revision = 0;
    proa_json *json = parse(body, length, err);
    if (json == NULL)
        return PROA_ERR_PROTOCOL;
    bool good = take_revision(json, revision);
    proa_json_free(json);
    return good ? PROA_OK : malformed(err, "header.revision");
}

proa_status proa_etcd_read_list(const char *body, size_t length, proa_arena *arena, proa_etcd_list *list,
                                proa_error *err)
{
    *list = (proa_etcd_list){0};
    proa_json *json = parse(body, length, err);
    if (json == NULL)
        return PROA_ERR_PROTOCOL;
    const char *bad = NULL;
    const proa_json *kvs = proa_json_get(json, "kvs");
    if (!take_revision(json, &list->revision))
        bad = "header.revision";
    else if (!make_room(list, proa_json_size(kvs), arena) || !take_kvs(kvs, arena, list))
        bad = "kvs";
    else if (take_bool(json, "more"))
        bad = "more: the list is not complete";
    proa_json_free(json);
    return bad == NULL ? PROA_OK : malformed(err, bad);
}

proa_status proa_etcd_read_look(const char *body, size_t length, proa_arena *arena, proa_etcd_list *list,
                                proa_error *err)
{
    *list = (proa_etcd_list){0};
    proa_json *json = parse(body, length, err);
    if (json == NULL)
        return PROA_ERR_PROTOCOL;
    const proa_json *responses = proa_json_get(json, "responses");
    size_t count = 0;
    bool good = take_revision(json, &list->revision) && proa_json_is(responses, PROA_JSON_ARRAY);
    for (size_t i = 0; good && i < proa_json_size(responses); i++)
        count +=
            proa_json_size(proa_json_get(proa_json_get(proa_json_at(responses, i), "response_range"), "kvs"));
    good = good && make_room(list, count, arena);
    for (size_t i = 0; good && i < proa_json_size(responses); i++)
        good = take_kvs(proa_json_get(proa_json_get(proa_json_at(responses, i), "response_range"), "kvs"),
                        arena, list);
    proa_json_free(json);
    return good ? PROA_OK : malformed(err, "responses");
}

proa_status proa_etcd_read_lease(const char *body, size_t length, proa_etcd_lease *lease, proa_error *err)
{
    *lease = (proa_etcd_lease){0};
    proa_json *json = parse(body, length, err);
    if (json == NULL)
        return PROA_ERR_PROTOCOL;
    const proa_json *error = proa_json_get(json, "error"), *result = proa_json_get(json, "result");
    const proa_json *object = result != NULL ? result : json; /* a keep-alive is a stream: wrapped */
    proa_status status = PROA_OK;
    if (error != NULL)
        status =
            proa_error_set(err, PROA_ERR_UNREACHABLE, "%.200s",
                           proa_json_string(proa_json_get(error, "message"), proa_json_string(error, "")));
    else if (!take_int(object, "ID", &lease->id) || lease->id == 0)
        status = malformed(err, "ID");
    else if (!take_int(object, "TTL", &lease->ttl_s) || lease->ttl_s > INT32_MAX)
        status = malformed(err, "TTL");
    if (lease->ttl_s < 0)
        lease->ttl_s = 0;
    proa_json_free(json);
    return status;
}

/* One event: {"type": "DELETE" or absent, "kv": {...}}. */
static bool take_event(const proa_json *event, proa_arena *arena, proa_etcd_list *list)
{
    bool kept;
    proa_etcd_kv *kv = &list->kvs[list->count];
    if (!take_kv(proa_json_get(event, "kv"), arena, kv, &kept))
        return false;
    kv->deleted = strcmp(proa_json_string(proa_json_get(event, "type"), "PUT"), "DELETE") == 0;
    list->count += kept;
    return true;
}

static const char *take_result(const proa_json *result, proa_arena *arena, proa_etcd_news *news)
{
    const proa_json *events = proa_json_get(result, "events");
    if (!take_revision(result, &news->list.revision))
        return "result.header.revision";
    if (!take_int(result, "compact_revision", &news->compact_revision))
        return "compact_revision";
    news->text = proa_arena_string(arena, "", 0);
    if (take_bool(result, "canceled")) {
        const proa_json *reason = proa_json_get(result, "cancel_reason");
        news->kind = PROA_ETCD_CANCELED;
        news->text =
            proa_arena_string(arena, proa_json_string(reason, ""), strlen(proa_json_string(reason, "")));
    } else if (take_bool(result, "created")) {
        news->kind = PROA_ETCD_CREATED;
    } else {
        news->kind = PROA_ETCD_EVENTS;
    }
    if (news->text == NULL || (events != NULL && !proa_json_is(events, PROA_JSON_ARRAY)) ||
        !make_room(&news->list, proa_json_size(events), arena))
        return "events";
    for (size_t i = 0; i < proa_json_size(events); i++) {
        if (!take_event(proa_json_at(events, i), arena, &news->list))
            return "events";
    }
    return NULL;
}

proa_status proa_etcd_read_news(const char *line, size_t length, proa_arena *arena, proa_etcd_news *news,
                                proa_error *err)
{
    *news = (proa_etcd_news){0};
    proa_json *json = parse(line, length, err);
    if (json == NULL)
        return PROA_ERR_PROTOCOL;
    const char *bad = NULL;
    const proa_json *error = proa_json_get(json, "error"), *result = proa_json_get(json, "result");
    if (error != NULL) {
        const char *text =
            proa_json_string(proa_json_get(error, "message"), proa_json_string(error, "no reason"));
        news->kind = PROA_ETCD_FAILED;
        news->text = proa_arena_string(arena, text, strlen(text));
        bad = news->text == NULL ? "error" : NULL;
    } else if (!proa_json_is(result, PROA_JSON_OBJECT)) {
        bad = "result";
    } else {
        bad = take_result(result, arena, news);
    }
    proa_json_free(json);
    return bad == NULL ? PROA_OK : malformed(err, bad);
}

int proa_etcd_read_error(const char *body, size_t length, char *text, size_t bytes)
{
    proa_json *json = proa_json_parse(body, length, NULL);
    int64_t code = 0;
    const char *message = NULL;
    if (proa_json_is(json, PROA_JSON_OBJECT)) {
        const proa_json *error = proa_json_get(json, "error");
        bool wrapped = proa_json_is(error, PROA_JSON_OBJECT); /* of streams */
        message = proa_json_string(proa_json_get(wrapped ? error : json, "message"), NULL);
        code = proa_json_int(proa_json_get(wrapped ? error : json, wrapped ? "grpc_code" : "code"), 0);
    }
    if (message != NULL)
        snprintf(text, bytes, "%s", message);
    else
        snprintf(text, bytes, "%.*s", (int)(length < 100 ? length : 100), body);
    for (char *c = text; *c != 0; c++) /* it goes into a log */
        *c = (uint8_t)*c < 0x20 ? ' ' : *c;
    proa_json_free(json);
    return code >= 0 && code <= 100 ? (int)code : 0;
}

/* --- lines --- */

void proa_etcd_lines_free(proa_etcd_lines *lines)
{
    proa_buf_free(&lines->pending);
    *lines = (proa_etcd_lines){0};
}

bool proa_etcd_lines_add(proa_etcd_lines *lines, const char *bytes, size_t length)
{
    if (lines->begin > 0) { /* lines that were taken */
        proa_buf_drop_front(&lines->pending, lines->begin);
        lines->searched -= lines->begin;
        lines->begin = 0;
    }
    lines->pending.limit = PROA_ETCD_LINE_BYTES_MAX;
    proa_buf_append(&lines->pending, bytes, length);
    return !lines->pending.failed;
}

const char *proa_etcd_lines_next(proa_etcd_lines *lines, size_t *length)
{
    if (lines->pending.length == lines->searched)
        return NULL;
    const char *from = lines->pending.data + lines->searched;
    const char *newline = memchr(from, '\n', lines->pending.length - lines->searched);
    if (newline == NULL) {
        lines->searched = lines->pending.length;
        return NULL;
    }
    const char *line = lines->pending.data + lines->begin;
    *length = (size_t)(newline - line);
    lines->begin = lines->searched = (size_t)(newline + 1 - lines->pending.data);
    return line;
}

const char *proa_etcd_lines_rest(const proa_etcd_lines *lines, size_t *length)
{
    *length = lines->pending.length - lines->begin;
    return *length > 0 ? lines->pending.data + lines->begin : "";
}
