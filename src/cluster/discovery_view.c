/* discovery_view.c - an ordered array of keys. It is small (instances of a cluster), read and changed rarely. */
#include "cluster/discovery_view.h"

#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void proa_view_init(proa_view *view, const char *prefix, const proa_discovery_hooks *hooks)
{
    *view = (proa_view){.hooks = *hooks};
    PROA_ASSERT(strlen(prefix) < sizeof view->prefix);
    snprintf(view->prefix, sizeof view->prefix, "%s", prefix);
}

static void entry_free(proa_view_entry *entry)
{
    free(entry->key);
    free(entry->value);
}

void proa_view_free(proa_view *view)
{
    for (size_t i = 0; i < view->count; i++)
        entry_free(&view->entries[i]);
    free(view->entries);
    view->entries = NULL;
    view->count = view->capacity = 0;
}

/* Where the key is or belongs. */
static size_t place_of(const proa_view *view, const char *key, bool *found)
{
    size_t low = 0, high = view->count;
    *found = false;
    while (low < high && !*found) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(key, view->entries[middle].key);
        *found = order == 0;
        if (order <= 0)
            high = middle;
        else
            low = middle + 1;
    }
    return high;
}

/* The key's entry, made when absent; NULL when there is no room. */
static proa_view_entry *entry_of(proa_view *view, const char *key)
{
    bool found;
    size_t at = place_of(view, key, &found);
    if (found)
        return &view->entries[at];
    if (view->count == PROA_VIEW_KEYS_MAX) {
        if (!view->full)
            proa_log(PROA_LOG_WARN, "discovery", "over %d keys begin with %s; further ones are ignored",
                     PROA_VIEW_KEYS_MAX, view->prefix);
        view->full = true;
        return NULL;
    }
    if (view->count == view->capacity) {
        size_t capacity = view->capacity == 0 ? 16 : view->capacity * 2;
        proa_view_entry *entries = realloc(view->entries, capacity * sizeof *entries);
        if (entries == NULL)
            return NULL;
        view->entries = entries;
        view->capacity = capacity;
    }
    char *copy = strdup(key);
    if (copy == NULL)
        return NULL;
    memmove(&view->entries[at + 1], &view->entries[at], (view->count - at) * sizeof view->entries[0]);
    view->entries[at] = (proa_view_entry){.key = copy, .revision = -1};
    view->count++;
    return &view->entries[at];
}

/* The hooks are told when it is another value. Without memory nothing changes, and the next list tries again. */
static void set_value(proa_view *view, proa_view_entry *entry, const char *value, size_t length,
                      int64_t revision)
{
    entry->doubt_us = 0;
    if (entry->present && entry->length == length && memcmp(entry->value, value, length) == 0) {
        entry->revision = revision;
        return;
    }
    char *copy = malloc(length + 1);
    if (copy == NULL)
        return;
    memcpy(copy, value, length);
    copy[length] = 0;
    free(entry->value);
    entry->value = copy;
    entry->length = length;
    entry->revision = revision;
    entry->present = true;
    view->hooks.put(view->hooks.context, entry->key, entry->value, length);
}

static void set_gone(proa_view *view, proa_view_entry *entry, int64_t revision)
{
    bool was_present = entry->present;
    free(entry->value);
    entry->value = NULL;
    entry->length = 0;
    entry->present = false;
    entry->doubt_us = 0;
    entry->revision = revision;
    if (was_present)
        view->hooks.gone(view->hooks.context, entry->key);
}

static bool is_ours(const proa_view *view, const char *key)
{
    return strncmp(key, view->prefix, strlen(view->prefix)) == 0 &&
           strlen(key) <= PROA_DISCOVERY_KEY_BYTES_MAX;
}

/* --- lists --- */

void proa_view_list_begin(proa_view *view, int64_t revision)
{
    view->list_revision = revision;
    for (size_t i = 0; i < view->count; i++)
        view->entries[i].listed = false;
}

void proa_view_list_put(proa_view *view, const char *key, const char *value, size_t length, int64_t revision)
{
    if (!is_ours(view, key) || length > PROA_DISCOVERY_VALUE_BYTES_MAX)
        return;
    proa_view_entry *entry = entry_of(view, key);
    if (entry == NULL)
        return;
    entry->listed = true;
    if (entry->revision <= view->list_revision)
        set_value(view, entry, value, length, revision);
}

/* Forgets keys that are gone and that no older news can reach any more. */
static void drop_absent(proa_view *view)
{
    size_t kept = 0;
    for (size_t i = 0; i < view->count; i++) {
        proa_view_entry *entry = &view->entries[i];
        if (entry->present || entry->revision > view->list_revision)
            view->entries[kept++] = *entry;
        else
            entry_free(entry);
    }
    view->count = kept;
}

void proa_view_list_end(proa_view *view, int64_t now_us, int64_t hold_until_us)
{
    for (size_t i = 0; i < view->count; i++) {
        proa_view_entry *entry = &view->entries[i];
        if (!entry->present || entry->listed || entry->revision > view->list_revision)
            continue;
        if (hold_until_us <= now_us)
            set_gone(view, entry, view->list_revision);
        else if (entry->doubt_us == 0)
            entry->doubt_us = hold_until_us;
    }
    drop_absent(view);
    if (!view->synced) {
        view->synced = true;
        if (view->hooks.synced != NULL)
            view->hooks.synced(view->hooks.context);
    }
}

/* --- events --- */

void proa_view_event_put(proa_view *view, const char *key, const char *value, size_t length, int64_t revision)
{
    if (!is_ours(view, key) || length > PROA_DISCOVERY_VALUE_BYTES_MAX || revision <= view->list_revision)
        return;
    proa_view_entry *entry = entry_of(view, key);
    if (entry != NULL && revision > entry->revision)
        set_value(view, entry, value, length, revision);
}

void proa_view_event_gone(proa_view *view, const char *key, int64_t revision)
{
    if (!is_ours(view, key) || revision <= view->list_revision)
        return;
    proa_view_entry *entry = entry_of(view, key);
    if (entry != NULL && revision > entry->revision)
        set_gone(view, entry, revision);
}

/* --- times --- */

void proa_view_lost(proa_view *view)
{
    for (size_t i = 0; i < view->count; i++)
        view->entries[i].doubt_us = 0;
}

void proa_view_forget_revisions(proa_view *view)
{
    for (size_t i = 0; i < view->count; i++)
        view->entries[i].revision = 0;
    view->list_revision = 0;
}

int64_t proa_view_expire(proa_view *view, int64_t now_us)
{
    int64_t next = INT64_MAX;
    for (size_t i = 0; i < view->count; i++) {
        proa_view_entry *entry = &view->entries[i];
        if (entry->doubt_us != 0 && entry->doubt_us <= now_us)
            set_gone(view, entry, entry->revision);
        else if (entry->doubt_us != 0 && entry->doubt_us < next)
            next = entry->doubt_us;
    }
    return next;
}
