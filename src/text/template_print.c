/* template_print.c - values as text: Python's str() and repr(), and json.dumps() as Hugging Face's tojson calls it.
 */
#include "text/template_internal.h"

#include "base/status.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wctype.h>

/* Dicts being printed, from the inside out: a namespace can hold itself. */
typedef struct holder {
    const tmpl_dict *dict;
    const struct holder *outer;
} holder;

/* Writes into r->scratch. */
typedef struct printer {
    tmpl_render *r;
    const holder *inside;
    bool tainted; /* a string of the user's went in */
    /* for JSON */
    int32_t base_depth;
    bool ensure_ascii, sort_keys;
    const char *indent; /* NULL: everything on one line */
    size_t indent_length;
    tmpl_string *item_separator, *key_separator;
} printer;

static bool print_repr(printer *p, const tmpl_value *v);
static bool print_json(printer *p, const tmpl_value *v);

static void put(printer *p, const char *text)
{
    proa_buf_append_text(&p->r->scratch, text);
}

static bool put_string(printer *p, tmpl_string *s)
{
    const char *bytes = proa_tmpl_string_bytes(p->r, s);
    p->tainted |= s->taint != TMPL_TRUSTED;
    if (bytes != NULL)
        proa_buf_append(&p->r->scratch, bytes, s->length);
    return bytes != NULL;
}

/* --- numbers --- */

/* Python's repr(float): the fewest digits that give the same number back, scientific outside 1e-4 .. 1e16. */
static void put_real(proa_buf *out, double d)
{
    char text[40];
    int digits = 15;
    do
        snprintf(text, sizeof text, "%.*e", digits - 1, d);
    while (strtod(text, NULL) != d && ++digits <= 17);
    char *mark = strchr(text, 'e'), mantissa[24];
    int exponent = (int)strtol(mark + 1, NULL, 10);
    size_t n = 0;
    for (char *c = text; c < mark; c++) {
        if (*c >= '0' && *c <= '9')
            mantissa[n++] = *c;
    }
    while (n > 1 && mantissa[n - 1] == '0')
        n--;
    if (signbit(d))
        proa_buf_append_char(out, '-');
    if (exponent < -4 || exponent >= 16) {
        proa_buf_append(out, mantissa, 1);
        if (n > 1)
            proa_buf_append_format(out, ".%.*s", (int)n - 1, mantissa + 1);
        proa_buf_append_format(out, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
        return;
    }
    if (exponent < 0) {
        proa_buf_append_format(out, "0.%.*s%.*s", -exponent - 1, "0000", (int)n, mantissa);
        return;
    }
    for (size_t i = 0; i <= (size_t)exponent; i++)
        proa_buf_append_char(out, i < n ? mantissa[i] : '0');
    if (n > (size_t)exponent + 1)
        proa_buf_append_format(out, ".%.*s", (int)(n - (size_t)exponent - 1), mantissa + exponent + 1);
    else
        proa_buf_append_text(out, ".0");
}

static void put_number(printer *p, const tmpl_value *v, bool json)
{
    if (v->kind == TMPL_BOOL)
        put(p, v->b ? json ? "true" : "True" : json ? "false" : "False");
    else if (v->kind == TMPL_INT)
        proa_buf_append_format(&p->r->scratch, "%" PRId64, v->i);
    else if (isnan(v->d))
        put(p, json ? "NaN" : "nan");
    else if (isinf(v->d))
        put(p, v->d > 0 ? json ? "Infinity" : "inf" : json ? "-Infinity" : "-inf");
    else
        put_real(&p->r->scratch, v->d);
}

/* --- repr --- */

/* Not printable: controls, format characters, separators, private use, and what the C library says is not assigned. */
static bool is_printable(const tmpl_render *r, uint32_t c)
{
    static const uint32_t ranges[][2] = {
        {0, 0x1f},          {0x7f, 0xa0},       {0xad, 0xad},       {0x600, 0x605},     {0x61c, 0x61c},
        {0x6dd, 0x6dd},     {0x70f, 0x70f},     {0x890, 0x891},     {0x8e2, 0x8e2},     {0x1680, 0x1680},
        {0x180e, 0x180e},   {0x2000, 0x200f},   {0x2028, 0x202f},   {0x205f, 0x206f},   {0x3000, 0x3000},
        {0xe000, 0xf8ff},   {0xfeff, 0xfeff},   {0xfff0, 0xfffb},   {0xfffe, 0xffff},   {0x110bd, 0x110bd},
        {0x110cd, 0x110cd}, {0x13430, 0x1343f}, {0x1bca0, 0x1bca3}, {0x1d173, 0x1d17a}, {0xe0000, 0x10ffff},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
        if (c >= ranges[i][0] && c <= ranges[i][1])
            return c >= 0xe0100 && c <= 0xe01ef; /* variation selectors, the only ones up there */
    }
    return c < 0x80 || r->program->locale == (locale_t)0 || iswprint_l((wint_t)c, r->program->locale);
}

static bool repr_string(printer *p, tmpl_string *s)
{
    proa_buf *out = &p->r->scratch;
    const char *bytes = proa_tmpl_string_bytes(p->r, s);
    if (bytes == NULL || !proa_tmpl_spend(p->r, s->length / 4))
        return false;
    p->tainted |= s->taint != TMPL_TRUSTED;
    bool single = memchr(bytes, '\'', s->length) != NULL, twice = memchr(bytes, '"', s->length) != NULL;
    char quote = single && !twice ? '"' : '\'';
    proa_buf_append_char(out, quote);
    for (size_t i = 0, n; i < s->length; i += n) {
        uint32_t c = proa_tmpl_character(bytes + i, s->length - i, &n);
        if (c == '\n' || c == '\r' || c == '\t')
            put(p, c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t");
        else if (c == '\\' || c == (uint32_t)quote)
            proa_buf_append_format(out, "\\%c", (char)c);
        else if (is_printable(p->r, c))
            proa_buf_append(out, bytes + i, n);
        else
            proa_buf_append_format(out, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", c);
    }
    proa_buf_append_char(out, quote);
    return true;
}

static bool repr_sequence(printer *p, const tmpl_sequence *q)
{
    static const struct {
        const char *open, *close;
    } shapes[] = {
        [TMPL_LIST] = {"[", "]"},
        [TMPL_TUPLE] = {"(", ")"},
        [TMPL_KEYS] = {"dict_keys([", "])"},
        [TMPL_VALUES] = {"dict_values([", "])"},
        [TMPL_ITEMS] = {"dict_items([", "])"},
    };
    if (q->flavour == TMPL_GENERATOR) {
        put(p, "<generator object>");
        return true;
    }
    if (q->flavour == TMPL_RANGE) {
        proa_buf_append_format(&p->r->scratch, "range(%" PRId64 ", %" PRId64, q->start, q->stop);
        if (q->step != 1)
            proa_buf_append_format(&p->r->scratch, ", %" PRId64, q->step);
        put(p, ")");
        return true;
    }
    put(p, shapes[q->flavour].open);
    for (size_t i = 0; i < q->count; i++) {
        if (i > 0)
            put(p, ", ");
        if (!print_repr(p, &q->items[i]))
            return false;
    }
    if (q->flavour == TMPL_TUPLE && q->count == 1)
        put(p, ",");
    put(p, shapes[q->flavour].close);
    return true;
}

static bool repr_members(printer *p, const tmpl_dict *m)
{
    put(p, "{");
    for (size_t i = 0; i < m->count; i++) {
        if (i > 0)
            put(p, ", ");
        if (!print_repr(p, &m->keys[i]))
            return false;
        put(p, ": ");
        if (!print_repr(p, &m->values[i]))
            return false;
    }
    put(p, "}");
    return true;
}

static bool repr_dict(printer *p, const tmpl_dict *m)
{
    const holder *outer = p->inside, self = {m, outer};
    for (const holder *h = outer; h != NULL; h = h->outer) {
        if (h->dict == m) {
            put(p, "{...}");
            return true;
        }
    }
    p->inside = &self;
    bool ok = repr_members(p, m);
    p->inside = outer;
    return ok;
}

static bool repr_any(printer *p, const tmpl_value *v)
{
    bool ok = true;
    switch ((tmpl_kind)v->kind) {
    case TMPL_STRING: return repr_string(p, v->s);
    case TMPL_SEQUENCE: return repr_sequence(p, v->q);
    case TMPL_DICT: return repr_dict(p, v->m);
    case TMPL_NAMESPACE:
        put(p, "<Namespace ");
        ok = repr_dict(p, v->m);
        put(p, ">");
        return ok;
    case TMPL_MISSING:
    case TMPL_UNDEFINED: put(p, "Undefined"); break;
    case TMPL_NONE: put(p, "None"); break;
    case TMPL_BOOL:
    case TMPL_INT:
    case TMPL_REAL: put_number(p, v, false); break;
    case TMPL_MACRO:
    case TMPL_LOOP:
    case TMPL_METHOD:
    case TMPL_FUNCTION: proa_buf_append_format(&p->r->scratch, "<%s>", proa_tmpl_type_name(v)); break;
    }
    return ok;
}

static bool too_large(printer *p)
{
    return proa_tmpl_fail(p->r, PROA_ERR_TOO_LONG, "a text is longer than the limit of %zu bytes",
                          p->r->string_max);
}

static bool print_repr(printer *p, const tmpl_value *v)
{
    if (p->r->scratch.failed)
        return too_large(p);
    if (!proa_tmpl_spend(p->r, v->kind == TMPL_REAL ? 10 : 1) || !proa_tmpl_descend(p->r))
        return false;
    bool ok = repr_any(p, v);
    p->r->depth--;
    return ok;
}

bool proa_tmpl_to_string(tmpl_render *r, const tmpl_value *v, tmpl_string **out)
{
    if (v->kind == TMPL_STRING || v->kind == TMPL_UNDEFINED || v->kind == TMPL_MISSING) {
        *out = v->kind == TMPL_STRING ? v->s : r->empty;
        return true;
    }
    printer p = {.r = r};
    proa_buf_clear(&r->scratch);
    if (!print_repr(&p, v))
        return false;
    *out = proa_tmpl_string_scratch(r, p.tainted ? TMPL_TAINTED : TMPL_TRUSTED);
    return *out != NULL;
}

/* --- JSON --- */

static bool json_string(printer *p, tmpl_string *s)
{
    proa_buf *out = &p->r->scratch;
    const char *bytes = proa_tmpl_string_bytes(p->r, s);
    if (bytes == NULL || !proa_tmpl_spend(p->r, s->length / (p->ensure_ascii ? 4 : 16)))
        return false;
    p->tainted |= s->taint != TMPL_TRUSTED;
    size_t start = out->length;
    proa_json_write_string(bytes, s->length, out);
    if (!p->ensure_ascii || out->failed)
        return true;
    tmpl_string *quoted = proa_tmpl_string_copy(p->r, out->data + start, out->length - start, TMPL_TRUSTED);
    if (quoted == NULL)
        return false;
    proa_buf_truncate(out, start);
    for (size_t i = 0, n; i < quoted->length; i += n) {
        uint32_t c = proa_tmpl_character(quoted->bytes + i, quoted->length - i, &n);
        if (c < 0x7f)
            proa_buf_append_char(out, (char)c);
        else if (c < 0x10000)
            proa_buf_append_format(out, "\\u%04x", c);
        else
            proa_buf_append_format(out, "\\u%04x\\u%04x", 0xd7c0 + (c >> 10), 0xdc00 | (c & 0x3ff));
    }
    return true;
}

static bool json_key(printer *p, const tmpl_value *key)
{
    if (key->kind == TMPL_STRING)
        return json_string(p, key->s);
    if (!tmpl_is_number(key) && key->kind != TMPL_NONE)
        return proa_tmpl_fail(p->r, PROA_ERR_INVALID,
                              "tojson: keys must be str, int, float, bool or None, not %s",
                              proa_tmpl_type_name(key));
    put(p, "\"");
    if (key->kind == TMPL_NONE)
        put(p, "null");
    else
        put_number(p, key, true);
    put(p, "\"");
    return true;
}

static bool new_line(printer *p, int32_t level)
{
    if (p->indent == NULL)
        return true;
    if (!proa_tmpl_spend_bytes(p->r, p->indent_length * (size_t)level))
        return false;
    put(p, "\n");
    for (int32_t i = 0; i < level; i++)
        proa_buf_append(&p->r->scratch, p->indent, p->indent_length);
    return true;
}

/* Elements or members between brackets; `m` NULL: a sequence. `order` NULL: as they stand. */
static bool json_container(printer *p, const tmpl_sequence *q, const tmpl_dict *m, const size_t *order,
                           int32_t level)
{
    size_t count = m != NULL ? m->count : q->count;
    put(p, m != NULL ? "{" : "[");
    for (size_t i = 0; i < count; i++) {
        size_t at = order != NULL ? order[i] : i;
        if ((i > 0 && !put_string(p, p->item_separator)) || !new_line(p, level + 1))
            return false;
        if (m != NULL && (!json_key(p, &m->keys[at]) || !put_string(p, p->key_separator)))
            return false;
        if (!print_json(p, m != NULL ? &m->values[at] : &q->items[at]))
            return false;
    }
    if (count > 0 && !new_line(p, level))
        return false;
    put(p, m != NULL ? "}" : "]");
    return true;
}

static bool json_any(printer *p, const tmpl_value *v, int32_t level)
{
    if (v->kind == TMPL_STRING)
        return json_string(p, v->s);
    if (tmpl_is_number(v)) {
        put_number(p, v, true);
        return true;
    }
    if (v->kind == TMPL_NONE) {
        put(p, "null");
        return true;
    }
    if (v->kind == TMPL_DICT) {
        size_t *order = NULL;
        if (p->sort_keys && (order = proa_tmpl_sort(p->r, v->m->keys, v->m->count, false)) == NULL)
            return false;
        return json_container(p, NULL, v->m, order, level);
    }
    if (tmpl_is_flavour(v, TMPL_LIST) || tmpl_is_flavour(v, TMPL_TUPLE))
        return json_container(p, v->q, NULL, NULL, level);
    return proa_tmpl_fail(p->r, PROA_ERR_INVALID, "tojson: %s cannot be written as JSON%s",
                          proa_tmpl_type_name(v),
                          tmpl_is_flavour(v, TMPL_GENERATOR) ? "; make it a list with |list first" : "");
}

static bool print_json(printer *p, const tmpl_value *v)
{
    if (p->r->scratch.failed)
        return too_large(p);
    int32_t level = (int32_t)(p->r->depth - p->base_depth);
    if (!proa_tmpl_spend(p->r, v->kind == TMPL_REAL ? 10 : 1) || !proa_tmpl_descend(p->r))
        return false;
    bool ok = json_any(p, v, level);
    p->r->depth--;
    return ok;
}

static bool set_indent(printer *p, const tmpl_value *indent)
{
    if (indent->kind == TMPL_MISSING || indent->kind == TMPL_NONE)
        return true;
    if (indent->kind == TMPL_STRING) {
        p->indent = proa_tmpl_string_bytes(p->r, indent->s);
        p->indent_length = indent->s->length;
        return p->indent != NULL;
    }
    int64_t width = tmpl_is_integer(indent) ? tmpl_integer(indent) : -1;
    if (!tmpl_is_integer(indent) || width > 1000)
        return proa_tmpl_fail(p->r, PROA_ERR_INVALID,
                              "tojson: indent must be a string or a number up to 1000");
    p->indent_length = width > 0 ? (size_t)width : 0;
    char *spaces = proa_tmpl_alloc(p->r, p->indent_length + 1, 1);
    if (spaces != NULL)
        memset(spaces, ' ', p->indent_length);
    p->indent = spaces;
    return spaces != NULL;
}

static bool set_separators(printer *p, const tmpl_value *separators)
{
    if (separators->kind == TMPL_MISSING || separators->kind == TMPL_NONE) {
        p->item_separator = proa_tmpl_string_run(p->r, p->indent != NULL ? "," : ", ",
                                                 p->indent != NULL ? 1 : 2, TMPL_TRUSTED);
        p->key_separator = proa_tmpl_string_run(p->r, ": ", 2, TMPL_TRUSTED);
        return p->item_separator != NULL && p->key_separator != NULL;
    }
    bool pair = separators->kind == TMPL_SEQUENCE && separators->q->count == 2 &&
                separators->q->items != NULL && separators->q->items[0].kind == TMPL_STRING &&
                separators->q->items[1].kind == TMPL_STRING;
    if (!pair)
        return proa_tmpl_fail(p->r, PROA_ERR_INVALID, "tojson: separators must be a pair of strings");
    p->item_separator = separators->q->items[0].s;
    p->key_separator = separators->q->items[1].s;
    return true;
}

/* tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False) */
bool proa_tmpl_filter_tojson(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    printer p = {.r = r,
                 .base_depth = r->depth,
                 .ensure_ascii = proa_tmpl_truth(&args[0]),
                 .sort_keys = proa_tmpl_truth(&args[3])};
    if (!set_indent(&p, &args[1]) || !set_separators(&p, &args[2]))
        return false;
    proa_buf_clear(&r->scratch);
    if (!print_json(&p, self))
        return false;
    return tmpl_set_string(out, proa_tmpl_string_scratch(r, p.tainted ? TMPL_TAINTED : TMPL_TRUSTED));
}
