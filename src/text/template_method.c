/* template_method.c - what can be called by name: how arguments reach it, dict and list methods, global functions.
 *
 * Methods that change their object do not exist here, as in Jinja's immutable sandbox: their names are
 * undefined even where a dict has such a key.
 */
#include "text/template_internal.h"

#include "base/status.h"

#include <string.h>
#include <time.h>

const tmpl_callable *proa_tmpl_find(const tmpl_callable *table, const char *name, size_t length)
{
    for (; table->name != NULL; table++) {
        if (strlen(table->name) == length && memcmp(table->name, name, length) == 0)
            return table;
    }
    return NULL;
}

/* --- arguments --- */

/* Number of the parameter with this name, or -1. */
static int parameter_number(const char *params, const tmpl_string *name)
{
    int number = 0;
    for (const char *c = params; *c != 0; number++) {
        size_t n = strcspn(c, " ?");
        if (n == name->length && memcmp(c, name->bytes, n) == 0)
            return number;
        c += strcspn(c, " ");
        c += strspn(c, " ");
    }
    return -1;
}

static bool check_required(tmpl_render *r, const tmpl_callable *callable, const tmpl_value *bound)
{
    size_t i = 0;
    for (const char *c = callable->params; *c != 0; i++) {
        size_t n = strcspn(c, " ?");
        if (c[n] != '?' && bound[i].kind == TMPL_MISSING)
            return proa_tmpl_fail(r, PROA_ERR_INVALID, "'%s' needs an argument '%.*s'", callable->name,
                                  (int)n, c);
        c += strcspn(c, " ");
        c += strspn(c, " ");
    }
    return true;
}

static size_t parameter_count(const char *params)
{
    size_t count = *params != 0;
    for (; *params != 0; params++)
        count += *params == ' ';
    return count;
}

bool proa_tmpl_arguments(tmpl_render *r, const tmpl_callable *callable, const tmpl_args *args,
                         tmpl_value bound[TMPL_PARAMS_MAX])
{
    size_t count = parameter_count(callable->params);
    PROA_ASSERT(count <= TMPL_PARAMS_MAX);
    memset(bound, 0, TMPL_PARAMS_MAX * sizeof bound[0]);
    if (args->count > count)
        return proa_tmpl_fail(r, PROA_ERR_INVALID, "'%s' takes at most %zu arguments, %zu were given",
                              callable->name, count, args->count);
    if (args->count > 0)
        memcpy(bound, args->positional, args->count * sizeof bound[0]);
    for (size_t i = 0; i < args->keyword_count; i++) {
        const tmpl_keyword *keyword = &args->keywords[i];
        int number = parameter_number(callable->params, keyword->name);
        if (number < 0 || bound[number].kind != TMPL_MISSING)
            return proa_tmpl_fail(r, PROA_ERR_INVALID, "'%s' has no argument '%.*s', or got it twice",
                                  callable->name, (int)keyword->name->length, keyword->name->bytes);
        bound[number] = keyword->value;
    }
    return check_required(r, callable, bound);
}

bool proa_tmpl_apply(tmpl_render *r, const tmpl_callable *callable, const tmpl_value *self,
                     const tmpl_args *args, tmpl_value *out)
{
    tmpl_value bound[TMPL_PARAMS_MAX];
    if (callable->raw != NULL)
        return callable->raw(r, self, args, out);
    if (callable->bound == NULL)
        return proa_tmpl_fail(r, PROA_ERR_UNSUPPORTED, "'%s' is not supported here", callable->name);
    return proa_tmpl_arguments(r, callable, args, bound) && callable->bound(r, self, bound, out);
}

/* --- methods of dicts and sequences --- */

static bool dict_get(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    bool found;
    if (!proa_tmpl_dict_find(r, self->m, &args[0], out, &found))
        return false;
    if (!found)
        *out = args[1].kind != TMPL_MISSING ? args[1] : tmpl_none();
    return true;
}

static bool dict_items(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    (void)args;
    return proa_tmpl_dict_view(r, self->m, TMPL_ITEMS, out);
}

static bool dict_keys(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    (void)args;
    return proa_tmpl_dict_view(r, self->m, TMPL_KEYS, out);
}

static bool dict_values(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    (void)args;
    return proa_tmpl_dict_view(r, self->m, TMPL_VALUES, out);
}

/* Nothing changes a dict or list once it is made, so that a copy is the thing itself. */
static bool copy(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    (void)r;
    (void)args;
    *out = *self;
    return true;
}

/* How often `item` is in self, and where first (count: nowhere). */
static bool search(tmpl_render *r, const tmpl_value *self, const tmpl_value *item, size_t *times,
                   size_t *first)
{
    *times = 0;
    *first = self->q->count;
    for (size_t i = 0; i < self->q->count; i++) {
        tmpl_value element = proa_tmpl_sequence_at(self->q, i);
        bool equal;
        if (!proa_tmpl_spend(r, 1) || !proa_tmpl_equal(r, &element, item, &equal))
            return false;
        if (equal && ++*times == 1)
            *first = i;
    }
    return true;
}

static bool list_count(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    size_t times, first;
    if (!search(r, self, &args[0], &times, &first))
        return false;
    *out = tmpl_int((int64_t)times);
    return true;
}

static bool list_index(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    size_t times, first;
    if (!search(r, self, &args[0], &times, &first))
        return false;
    *out = tmpl_int((int64_t)first);
    return times > 0 || proa_tmpl_fail(r, PROA_ERR_INVALID, "index: the value is not in the list");
}

/* Entries without params are the ones that would change the object. */
static const tmpl_callable dict_methods[] = {
    {"get", "key default?", dict_get},
    {"items", "", dict_items},
    {"keys", "", dict_keys},
    {"values", "", dict_values},
    {"copy", "", copy},
    {"fromkeys", ""},
    {"clear", NULL},
    {"pop", NULL},
    {"popitem", NULL},
    {"setdefault", NULL},
    {"update", NULL},
    {NULL},
};

static const tmpl_callable list_methods[] = {
    {"count", "value", list_count},
    {"index", "value", list_index},
    {"copy", "", copy},
    {"append", NULL},
    {"clear", NULL},
    {"pop", NULL},
    {"reverse", NULL},
    {"insert", NULL},
    {"sort", NULL},
    {"extend", NULL},
    {"remove", NULL},
    {NULL},
};

const tmpl_callable *proa_tmpl_find_method(tmpl_kind kind, tmpl_flavour flavour, const tmpl_string *name)
{
    if (kind == TMPL_STRING)
        return proa_tmpl_find(proa_tmpl_string_methods, name->bytes, name->length);
    if (kind == TMPL_DICT)
        return proa_tmpl_find(dict_methods, name->bytes, name->length);
    if (kind == TMPL_SEQUENCE && flavour <= TMPL_RANGE) {
        const tmpl_callable *found = proa_tmpl_find(list_methods, name->bytes, name->length);
        bool has = found != NULL &&
                   (flavour == TMPL_LIST || found->bound == list_count || found->bound == list_index);
        return has ? found : NULL;
    }
    return NULL;
}

/* --- global functions --- */

static bool add_pair(tmpl_render *r, tmpl_dict *m, const tmpl_value *pair)
{
    tmpl_sequence *q;
    if (!proa_tmpl_iterate(r, pair, &q))
        return false;
    if (q->count != 2)
        return proa_tmpl_fail(r, PROA_ERR_INVALID, "a dict is made of pairs, this element has %zu parts",
                              q->count);
    tmpl_value key = proa_tmpl_sequence_at(q, 0), value = proa_tmpl_sequence_at(q, 1);
    return proa_tmpl_dict_set(r, m, &key, &value);
}

static bool add_all(tmpl_render *r, tmpl_dict *m, const tmpl_value *from)
{
    if (from->kind == TMPL_DICT) {
        for (size_t i = 0; i < from->m->count; i++) {
            if (!proa_tmpl_dict_set(r, m, &from->m->keys[i], &from->m->values[i]))
                return false;
        }
        return true;
    }
    tmpl_sequence *q;
    if (!proa_tmpl_iterate(r, from, &q))
        return false;
    for (size_t i = 0; i < q->count; i++) {
        tmpl_value pair = proa_tmpl_sequence_at(q, i);
        if (!proa_tmpl_spend(r, 1) || !add_pair(r, m, &pair))
            return false;
    }
    return true;
}

static bool make_dict(tmpl_render *r, const tmpl_args *args, tmpl_dict **out)
{
    tmpl_dict *m = proa_tmpl_dict_new(r, args->keyword_count);
    if (m == NULL)
        return false;
    if (args->count > 1)
        return proa_tmpl_fail(r, PROA_ERR_INVALID, "dict and namespace take at most one positional argument");
    if (args->count == 1 && !add_all(r, m, &args->positional[0]))
        return false;
    for (size_t i = 0; i < args->keyword_count; i++) {
        tmpl_value key = {.kind = TMPL_STRING, .s = (tmpl_string *)(uintptr_t)args->keywords[i].name};
        if (!proa_tmpl_dict_set(r, m, &key, &args->keywords[i].value))
            return false;
    }
    *out = m;
    return true;
}

static bool function_dict(tmpl_render *r, const tmpl_value *self, const tmpl_args *args, tmpl_value *out)
{
    (void)self;
    out->kind = TMPL_DICT;
    return make_dict(r, args, &out->m);
}

static bool function_namespace(tmpl_render *r, const tmpl_value *self, const tmpl_args *args, tmpl_value *out)
{
    (void)self;
    out->kind = TMPL_NAMESPACE;
    return make_dict(r, args, &out->m);
}

/* Made lazily: a range is three numbers. */
static bool function_range(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    int64_t numbers[3] = {0, 0, 1};
    (void)self;
    for (size_t i = 0; i < 3 && args[i].kind != TMPL_MISSING; i++) {
        int64_t limit = (int64_t)1 << 60;
        if (!tmpl_is_integer(&args[i]) || tmpl_integer(&args[i]) > limit || tmpl_integer(&args[i]) < -limit)
            return proa_tmpl_fail(r, PROA_ERR_INVALID, "range needs integers (up to 2**60), not %s",
                                  proa_tmpl_type_name(&args[i]));
        numbers[i] = tmpl_integer(&args[i]);
    }
    int64_t start = numbers[0], stop = numbers[1], step = numbers[2];
    if (args[1].kind == TMPL_MISSING) {
        start = 0;
        stop = numbers[0];
    }
    if (step == 0)
        return proa_tmpl_fail(r, PROA_ERR_INVALID, "range's step must not be 0");
    int64_t count = step > 0 ? (stop - start + step - 1) / step : (start - stop - step - 1) / -step;
    if (count > TMPL_RANGE_MAX)
        return proa_tmpl_fail(r, PROA_ERR_TOO_LONG, "range has more than %d numbers", TMPL_RANGE_MAX);
    tmpl_sequence *q = proa_tmpl_alloc(r, 1, sizeof *q);
    if (q == NULL)
        return false;
    *q = (tmpl_sequence){.flavour = TMPL_RANGE,
                         .count = count > 0 ? (size_t)count : 0,
                         .start = start,
                         .stop = stop,
                         .step = step};
    *out = (tmpl_value){.kind = TMPL_SEQUENCE, .q = q};
    return true;
}

/* The message reaches the client as it is. */
static bool function_raise(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    tmpl_string *message;
    (void)self;
    (void)out;
    if (!proa_tmpl_to_string(r, &args[0], &message))
        return false;
    const char *bytes = proa_tmpl_string_bytes(r, message);
    if (bytes == NULL)
        return false;
    int length = message->length < 900 ? (int)message->length : 900;
    r->status = proa_error_set(r->err, PROA_ERR_INVALID, "%.*s", length, bytes);
    return false;
}

/* The time is the caller's trusted variable of the same name: seconds since 1970, already in the wanted zone. */
static bool function_strftime(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    char format[256], text[1024];
    struct tm parts;
    (void)self;
    if (args[0].kind != TMPL_STRING || args[0].s->length >= sizeof format)
        return proa_tmpl_fail(r, PROA_ERR_INVALID, "strftime_now needs a format of at most %zu bytes",
                              sizeof format - 1);
    const char *bytes = proa_tmpl_string_bytes(r, args[0].s);
    if (bytes == NULL)
        return false;
    memcpy(format, bytes, args[0].s->length);
    format[args[0].s->length] = 0;
    time_t now = (time_t)proa_json_real(proa_json_get(r->variables, "strftime_now"), 0);
    if (gmtime_r(&now, &parts) == NULL)
        return proa_tmpl_fail(r, PROA_ERR_INVALID, "the variable strftime_now is not a time");
    size_t length = strftime(text, sizeof text, format, &parts);
    return tmpl_set_string(out, proa_tmpl_string_copy(r, text, length, proa_tmpl_taint_whole(args[0].s)));
}

static const tmpl_callable functions[] = {
    {.name = "range", .params = "start stop? step?", .bound = function_range},
    {.name = "dict", .raw = function_dict},
    {.name = "namespace", .raw = function_namespace},
    {.name = "raise_exception", .params = "message", .bound = function_raise},
    {.name = "strftime_now", .params = "format", .bound = function_strftime},
    {.name = "cycler", .params = ""},
    {.name = "joiner", .params = ""},
    {.name = "lipsum", .params = ""},
    {NULL},
};

const tmpl_callable *proa_tmpl_find_function(const tmpl_string *name)
{
    return proa_tmpl_find(functions, name->bytes, name->length);
}
