/* instance.c - the record of a worker in discovery, as text and back. */
#include "cluster/instance.h"

#include "base/json.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const uint64_t id_max = (1ull << 53) - 1;

bool proa_instance_name_valid(const char *name)
{
    size_t length = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_-");
    return length > 0 && length < 64 && name[length] == 0;
}

void proa_instance_prefix(const char *namespace_name, char *prefix, size_t bytes)
{
    snprintf(prefix, bytes, "v1/instances/%s/", namespace_name);
}

void proa_instance_key(const proa_instance *i, char *key, size_t bytes)
{
    snprintf(key, bytes, "v1/instances/%s/%s/%s/%016" PRIx64, i->namespace_name, i->component, i->endpoint,
             i->id);
}

static void write_text(const char *name, const char *text, proa_buf *out)
{
    proa_buf_append_format(out, ",\"%s\":", name);
    proa_json_write_string(text, strlen(text), out);
}

void proa_instance_write(const proa_instance *i, proa_buf *out)
{
    proa_buf_append_text(out, "{\"component\":");
    proa_json_write_string(i->component, strlen(i->component), out);
    write_text("endpoint", i->endpoint, out);
    write_text("namespace", i->namespace_name, out);
    proa_buf_append_format(out, ",\"instance_id\":%" PRIu64 ",\"transport\":{\"tcp\":", i->id);
    proa_json_write_string(i->address, strlen(i->address), out);
    proa_buf_append_format(out, "},\"epoch\":\"%016" PRIx64 "\"", i->epoch);
    if (i->nats_subject[0] != 0)
        write_text("nats_subject", i->nats_subject, out);
    proa_buf_append_char(out, '}');
}

/* Copies a string field; false when it is absent, no string or too long. */
static bool take_text(const proa_json *object, const char *name, char *text, size_t bytes)
{
    const proa_json *field = proa_json_get(object, name);
    const char *value = proa_json_string(field, NULL);
    size_t length = proa_json_string_length(field);
    if (value == NULL || length >= bytes || strlen(value) != length)
        return false;
    memcpy(text, value, length + 1);
    return true;
}

static bool take_epoch(const proa_json *object, uint64_t *epoch)
{
    char text[17], *end;
    if (!take_text(object, "epoch", text, sizeof text) || strlen(text) != 16)
        return false;
    *epoch = strtoull(text, &end, 16);
    return *end == 0 && *epoch != 0 && strspn(text, "0123456789abcdef") == 16;
}

static bool take_fields(const proa_json *object, proa_instance *i, const char **bad)
{
    *bad = "component";
    if (!take_text(object, "component", i->component, sizeof i->component) ||
        !proa_instance_name_valid(i->component))
        return false;
    *bad = "endpoint";
    if (!take_text(object, "endpoint", i->endpoint, sizeof i->endpoint) ||
        !proa_instance_name_valid(i->endpoint))
        return false;
    *bad = "namespace";
    if (!take_text(object, "namespace", i->namespace_name, sizeof i->namespace_name) ||
        !proa_instance_name_valid(i->namespace_name))
        return false;
    *bad = "instance_id";
    int64_t id = proa_json_int(proa_json_get(object, "instance_id"), 0);
    if (id < 1 || (uint64_t)id > id_max)
        return false;
    i->id = (uint64_t)id;
    *bad = "transport.tcp";
    proa_json *transport = proa_json_get(object, "transport");
    if (transport == NULL || !take_text(transport, "tcp", i->address, sizeof i->address))
        return false;
    *bad = "epoch";
    if (!take_epoch(object, &i->epoch))
        return false;
    *bad = "nats_subject";
    return proa_json_get(object, "nats_subject") == NULL ||
           take_text(object, "nats_subject", i->nats_subject, sizeof i->nats_subject);
}

proa_status proa_instance_parse(const char *key, const char *value, size_t length, proa_instance *instance,
                                proa_error *err)
{
    *instance = (proa_instance){0};
    const char *bad = NULL;
    char own[512];
    proa_status status = PROA_OK;
    proa_json *json = proa_json_parse(value, length, err);
    if (json == NULL)
        return proa_error_prefix(err, "%s", key);
    if (!take_fields(json, instance, &bad))
        status = proa_error_set(err, PROA_ERR_CORRUPT, "%s: the field %s is absent or malformed", key, bad);
    proa_json_free(json);
    if (status != PROA_OK)
        return status;
    proa_instance_key(instance, own, sizeof own);
    if (strcmp(own, key) != 0)
        return proa_error_set(err, PROA_ERR_CORRUPT, "%s: its value belongs to %s", key, own);
    return PROA_OK;
}
