/* template_filter.c - filters of single values, and the table of all of them.
 *
 * Hugging Face renders without autoescape; so `safe` gives the text back, and `escape` gives plain text (in
 * Jinja what is concatenated to an escaped string is escaped, too: chat templates do not use that).
 */
#include "text/template_internal.h"

#include "base/status.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILTER(name)                                                                                         \
    static bool name(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)

/* --- text --- */

static bool recase(tmpl_render *r, const tmpl_value *self, tmpl_case mode, tmpl_value *out)
{
    tmpl_string *s;
    return proa_tmpl_to_string(r, self, &s) && proa_tmpl_recase(r, s, mode, out);
}

FILTER(filter_upper)
{
    (void)args;
    return recase(r, self, TMPL_CASE_UPPER, out);
}

FILTER(filter_lower)
{
    (void)args;
    return recase(r, self, TMPL_CASE_LOWER, out);
}

FILTER(filter_capitalize)
{
    (void)args;
    return recase(r, self, TMPL_CASE_CAPITAL, out);
}

FILTER(filter_title)
{
    (void)args;
    return recase(r, self, TMPL_CASE_WORDS, out);
}

FILTER(filter_string)
{
    (void)args;
    out->kind = TMPL_STRING;
    return proa_tmpl_to_string(r, self, &out->s);
}

FILTER(filter_trim)
{
    tmpl_value text = {.kind = TMPL_STRING};
    return proa_tmpl_to_string(r, self, &text.s) && proa_tmpl_strip(r, &text, args, out);
}

FILTER(filter_replace)
{
    tmpl_value text = {.kind = TMPL_STRING},
               strings[3] = {{.kind = TMPL_STRING}, {.kind = TMPL_STRING}, args[2]};
    if (strings[2].kind == TMPL_NONE)
        strings[2].kind = TMPL_MISSING;
    return proa_tmpl_to_string(r, self, &text.s) && proa_tmpl_to_string(r, &args[0], &strings[0].s) &&
           proa_tmpl_to_string(r, &args[1], &strings[1].s) && proa_tmpl_replace(r, &text, strings, out);
}

FILTER(filter_escape)
{
    tmpl_string *s;
    (void)args;
    if (!proa_tmpl_to_string(r, self, &s) || proa_tmpl_string_bytes(r, s) == NULL)
        return false;
    proa_buf_clear(&r->scratch);
    for (size_t i = 0; i < s->length; i++) {
        switch (s->bytes[i]) {
        case '&': proa_buf_append_text(&r->scratch, "&amp;"); break;
        case '<': proa_buf_append_text(&r->scratch, "&lt;"); break;
        case '>': proa_buf_append_text(&r->scratch, "&gt;"); break;
        case '"': proa_buf_append_text(&r->scratch, "&#34;"); break;
        case '\'': proa_buf_append_text(&r->scratch, "&#39;"); break;
        default: proa_buf_append_char(&r->scratch, s->bytes[i]);
        }
    }
    return tmpl_set_string(out, proa_tmpl_string_scratch(r, proa_tmpl_taint_whole(s)));
}

static bool indentation(tmpl_render *r, const tmpl_value *width, tmpl_string **out)
{
    static const char spaces[] = "                                                                ";
    if (width->kind == TMPL_STRING) {
        *out = width->s;
        return true;
    }
    int64_t n = width->kind == TMPL_MISSING ? 4 : tmpl_is_integer(width) ? tmpl_integer(width) : -1;
    if ((width->kind != TMPL_MISSING && !tmpl_is_integer(width)) || n > (int64_t)sizeof spaces - 1)
        return proa_tmpl_fail(r, PROA_ERR_INVALID, "indent: the width must be a string or a number up to 64");
    *out = proa_tmpl_string_run(r, spaces, n > 0 ? (size_t)n : 0, TMPL_TRUSTED);
    return *out != NULL;
}

/* indent(width=4, first=False, blank=False): the parts stay apart, as in a concatenation. */
FILTER(filter_indent)
{
    tmpl_string *pad = NULL, *newline = proa_tmpl_string_run(r, "\n", 1, TMPL_TRUSTED), *text = r->empty;
    tmpl_value lines, keep = tmpl_bool(false), whole = *self;
    if (self->kind != TMPL_STRING)
        return proa_tmpl_fail(r, PROA_ERR_INVALID, "indent: a str is needed, not %s",
                              proa_tmpl_type_name(self));
    if (newline == NULL || !indentation(r, &args[0], &pad) ||
        !tmpl_set_string(&whole, proa_tmpl_string_concat(r, self->s, newline)) ||
        !proa_tmpl_splitlines(r, &whole, &keep, &lines))
        return false;
    bool first = proa_tmpl_truth(&args[1]), blank = proa_tmpl_truth(&args[2]);
    for (size_t i = 0; i < lines.q->count && text != NULL; i++) {
        tmpl_string *line = lines.q->items[i].s;
        if (i > 0)
            text = proa_tmpl_string_concat(r, text, newline);
        if (text != NULL && (i == 0 ? first : blank || line->length > 0))
            text = proa_tmpl_string_concat(r, text, pad);
        if (text != NULL)
            text = proa_tmpl_string_concat(r, text, line);
    }
    return tmpl_set_string(out, text);
}

/* --- numbers --- */

/* A number as Python's int() and float() read them from text: white space around, underscores between digits.
 * Copies into `to` without them; false: not a number of such a form. */
static bool clean_number(tmpl_render *r, tmpl_string *s, char *to, size_t size)
{
    tmpl_value self = {.kind = TMPL_STRING, .s = s}, none = tmpl_none(), stripped;
    if (!proa_tmpl_strip(r, &self, &none, &stripped) || stripped.s->length == 0 || stripped.s->length >= size)
        return false;
    const char *from = stripped.s->bytes;
    size_t n = 0;
    for (size_t i = 0; i < stripped.s->length; i++) {
        bool between = i > 0 && i + 1 < stripped.s->length && isalnum((unsigned char)from[i - 1]) &&
                       isalnum((unsigned char)from[i + 1]);
        if (from[i] == 0 || (from[i] == '_' && !between))
            return false;
        if (from[i] != '_')
            to[n++] = from[i];
    }
    to[n] = 0;
    return true;
}

static bool parse_real(tmpl_render *r, tmpl_string *s, double *d)
{
    char text[400], *end;
    if (!clean_number(r, s, text, sizeof text) || strpbrk(text, "xX( \t\n\v\f\r") != NULL)
        return false;
    *d = strtod(text, &end);
    return *end == 0;
}

/* 1: done, 0: not an integer, -1: too large. */
static int parse_integer(tmpl_render *r, tmpl_string *s, int64_t base, int64_t *i)
{
    char text[400], *end, *digits = text;
    if (!clean_number(r, s, text, sizeof text))
        return 0;
    if (*digits == '+' || *digits == '-')
        digits++;
    if (!isalnum((unsigned char)*digits) || (base != 0 && base != 16 && (digits[1] | 0x20) == 'x'))
        return 0;
    errno = 0;
    *i = strtoll(text, &end, (int)base);
    return *end != 0 ? 0 : errno == ERANGE ? -1 : 1;
}

static bool too_large(tmpl_render *r, const char *filter)
{
    return proa_tmpl_fail(r, PROA_ERR_INVALID, "%s: the number does not fit 64 bits", filter);
}

static bool truncate_real(tmpl_render *r, double d, const tmpl_value *otherwise, tmpl_value *out)
{
    *out = *otherwise;
    if (isnan(d))
        return true;
    if (!(fabs(d) < 0x1p63))
        return too_large(r, "int");
    *out = tmpl_int((int64_t)d);
    return true;
}

/* int(default=0, base=10) */
FILTER(filter_int)
{
    tmpl_value otherwise = args[0].kind != TMPL_MISSING ? args[0] : tmpl_int(0);
    int64_t base = tmpl_is_integer(&args[1]) ? tmpl_integer(&args[1]) : 10, i = 0;
    double d;
    if (self->kind == TMPL_UNDEFINED)
        return proa_tmpl_fail_undefined(r, self);
    if (base != 0 && base != 2 && base != 8 && base != 10 && base != 16)
        return proa_tmpl_fail(r, PROA_ERR_UNSUPPORTED, "int: base %" PRId64 " is not supported", base);
    *out = otherwise;
    if (tmpl_is_integer(self))
        *out = tmpl_int(tmpl_integer(self));
    else if (self->kind == TMPL_REAL)
        return truncate_real(r, self->d, &otherwise, out);
    if (self->kind != TMPL_STRING)
        return true;
    int parsed = parse_integer(r, self->s, base, &i);
    if (parsed < 0)
        return too_large(r, "int");
    if (parsed > 0)
        *out = tmpl_int(i);
    else if (parse_real(r, self->s, &d) && isfinite(d))
        return truncate_real(r, d, &otherwise, out);
    return !proa_failed(r->status);
}

FILTER(filter_float)
{
    double d;
    if (self->kind == TMPL_UNDEFINED)
        return proa_tmpl_fail_undefined(r, self);
    if (tmpl_is_number(self))
        *out = tmpl_real(proa_tmpl_as_real(self));
    else if (self->kind == TMPL_STRING && parse_real(r, self->s, &d))
        *out = tmpl_real(d);
    else
        *out = args[0].kind != TMPL_MISSING ? args[0] : tmpl_real(0.0);
    return !proa_failed(r->status);
}

FILTER(filter_abs)
{
    (void)args;
    if (self->kind == TMPL_UNDEFINED)
        return proa_tmpl_fail_undefined(r, self);
    if (!tmpl_is_number(self) || (tmpl_is_integer(self) && tmpl_integer(self) == INT64_MIN))
        return proa_tmpl_fail(r, PROA_ERR_INVALID, "abs: a number is needed, not %s",
                              proa_tmpl_type_name(self));
    *out = self->kind == TMPL_REAL ? tmpl_real(fabs(self->d)) : tmpl_int(llabs(tmpl_integer(self)));
    return true;
}

/* Python's round(): correctly rounded in decimal, which is what printf does. */
static double round_decimal(double d, int precision)
{
    char text[400];
    if (!isfinite(d) || precision > 300)
        return d;
    if (precision < 0) {
        double unit = pow(10, -precision);
        return nearbyint(d / unit) * unit;
    }
    snprintf(text, sizeof text, "%.*f", precision > 60 ? 60 : precision, d);
    return fabs(d) < 1e22 ? strtod(text, NULL) : d;
}

static bool is_string(const tmpl_value *v, const char *text)
{
    return v->kind == TMPL_STRING && proa_tmpl_string_is(v->s, text);
}

/* round(precision=0, method='common'): an integer stays one, unless rounded by ceil or floor. */
FILTER(filter_round)
{
    int64_t precision = tmpl_is_integer(&args[0]) ? tmpl_integer(&args[0]) : 0;
    bool common = args[1].kind == TMPL_MISSING || is_string(&args[1], "common");
    bool up = is_string(&args[1], "ceil");
    if (self->kind == TMPL_UNDEFINED)
        return proa_tmpl_fail_undefined(r, self);
    if (!tmpl_is_number(self) || precision < -20 || precision > 300 ||
        (!common && !up && !is_string(&args[1], "floor")))
        return proa_tmpl_fail(
            r, PROA_ERR_INVALID,
            "round: needs a number, a precision from -20 to 300, and common, ceil or floor");
    if (common && tmpl_is_integer(self) && precision >= 0) {
        *out = tmpl_int(tmpl_integer(self));
        return true;
    }
    double d = proa_tmpl_as_real(self), unit = pow(10, (double)precision);
    if (common)
        d = round_decimal(d, (int)precision);
    else if (isfinite(d * unit))
        d = ((up ? ceil(d * unit) : floor(d * unit)) + 0.0) / unit; /* Python's are integers: no -0.0 */
    else
        return too_large(r, "round");
    *out = common && tmpl_is_integer(self) ? tmpl_int((int64_t)d) : tmpl_real(d);
    return true;
}

/* --- any value --- */

FILTER(filter_default)
{
    bool missing = self->kind == TMPL_UNDEFINED || (proa_tmpl_truth(&args[1]) && !proa_tmpl_truth(self));
    *out = *self;
    if (missing && args[0].kind == TMPL_MISSING)
        return tmpl_set_string(out, r->empty);
    if (missing)
        *out = args[0];
    return true;
}

FILTER(filter_length)
{
    (void)args;
    out->kind = TMPL_INT;
    return proa_tmpl_length(r, self, &out->i);
}

static const tmpl_callable filters[] = {
    {"abs", "", filter_abs},
    {"capitalize", "", filter_capitalize},
    {"count", "", filter_length},
    {"d", "default_value? boolean?", filter_default},
    {"default", "default_value? boolean?", filter_default},
    {"e", "", filter_escape},
    {"escape", "", filter_escape},
    {"float", "default?", filter_float},
    {"forceescape", "", filter_escape},
    {"indent", "width? first? blank?", filter_indent},
    {"int", "default? base?", filter_int},
    {"length", "", filter_length},
    {"lower", "", filter_lower},
    {"replace", "old new count?", filter_replace},
    {"round", "precision? method?", filter_round},
    {"safe", "", filter_string},
    {"string", "", filter_string},
    {"title", "", filter_title},
    {"tojson", "ensure_ascii? indent? separators? sort_keys?", proa_tmpl_filter_tojson},
    {"trim", "chars?", filter_trim},
    {"upper", "", filter_upper},
    {NULL},
};

const tmpl_callable *proa_tmpl_find_filter(const char *name, size_t length)
{
    const tmpl_callable *found = proa_tmpl_find(filters, name, length);
    return found != NULL ? found : proa_tmpl_find(proa_tmpl_sequence_filters, name, length);
}
