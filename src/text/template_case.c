/* template_case.c - upper and lower case, and classes of characters.
 *
 * Case follows the C library's Unicode tables, one character to one (and sharp s to SS): Python's other special cases
 * (final sigma, ligatures) are missing.
 */
#include "text/template_internal.h"

#include "base/status.h"

#include <wctype.h>

static bool set_bool(tmpl_value *out, bool b)
{
    *out = tmpl_bool(b);
    return true;
}

static wint_t change_case(const tmpl_render *r, uint32_t c, bool upper)
{
    if (c < 0x80)
        return upper ? (c >= 'a' && c <= 'z' ? c - 32 : c) : (c >= 'A' && c <= 'Z' ? c + 32 : c);
    locale_t locale = r->program->locale;
    if (locale == (locale_t)0)
        return c;
    return upper ? towupper_l(c, locale) : towlower_l(c, locale);
}

static bool is_cased(const tmpl_render *r, uint32_t c)
{
    return change_case(r, c, true) != c || change_case(r, c, false) != c || c == 0xdf;
}

static bool is_word_start(uint32_t c) /* Jinja's title filter: a capital behind these */
{
    return proa_tmpl_is_space(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<';
}

bool proa_tmpl_recase(tmpl_render *r, tmpl_string *s, tmpl_case mode, tmpl_value *out)
{
    const char *bytes = proa_tmpl_string_bytes(r, s);
    if (bytes == NULL || !proa_tmpl_spend(r, s->length / 16))
        return false;
    bool start = true; /* of a word, or of the text */
    proa_buf_clear(&r->scratch);
    for (size_t i = 0, n; i < s->length; i += n) {
        uint32_t c = proa_tmpl_character(bytes + i, s->length - i, &n);
        bool upper = mode == TMPL_CASE_UPPER || (mode != TMPL_CASE_LOWER && start);
        char encoded[4];
        if (mode == TMPL_CASE_TITLE)
            start = !is_cased(r, c);
        else
            start = mode == TMPL_CASE_WORDS ? is_word_start(c) : false;
        if (c == 0xdf && upper)
            proa_buf_append(&r->scratch, mode == TMPL_CASE_UPPER || mode == TMPL_CASE_WORDS ? "SS" : "Ss", 2);
        else
            proa_buf_append(&r->scratch, encoded,
                            proa_tmpl_encode((uint32_t)change_case(r, c, upper), encoded));
    }
    return tmpl_set_string(out, proa_tmpl_string_scratch(r, proa_tmpl_taint_whole(s)));
}

bool proa_tmpl_str_upper(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    (void)args;
    return proa_tmpl_recase(r, self->s, TMPL_CASE_UPPER, out);
}

bool proa_tmpl_str_lower(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    (void)args;
    return proa_tmpl_recase(r, self->s, TMPL_CASE_LOWER, out);
}

bool proa_tmpl_str_title(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    (void)args;
    return proa_tmpl_recase(r, self->s, TMPL_CASE_TITLE, out);
}

bool proa_tmpl_str_capitalize(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    (void)args;
    return proa_tmpl_recase(r, self->s, TMPL_CASE_CAPITAL, out);
}

static bool is_of_case(const tmpl_render *r, uint32_t c, bool upper)
{
    locale_t locale = r->program->locale;
    if (c < 0x80 || locale == (locale_t)0)
        return change_case(r, c, !upper) != c;
    return upper ? iswupper_l((wint_t)c, locale) : iswlower_l((wint_t)c, locale);
}

/* Some cased character, and none of the other case. */
bool proa_tmpl_is_case(tmpl_render *r, tmpl_string *s, bool upper, bool *is)
{
    const char *bytes = proa_tmpl_string_bytes(r, s);
    bool any = false, other = false;
    if (bytes == NULL || !proa_tmpl_spend(r, s->length / 16))
        return false;
    for (size_t i = 0, n; i < s->length; i += n) {
        uint32_t c = proa_tmpl_character(bytes + i, s->length - i, &n);
        any |= is_of_case(r, c, upper);
        other |= is_of_case(r, c, !upper);
    }
    *is = any && !other;
    return true;
}

bool proa_tmpl_str_isupper(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    (void)args;
    out->kind = TMPL_BOOL;
    return proa_tmpl_is_case(r, self->s, true, &out->b);
}

bool proa_tmpl_str_islower(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    (void)args;
    out->kind = TMPL_BOOL;
    return proa_tmpl_is_case(r, self->s, false, &out->b);
}

/* --- classes: of ASCII text, since libraries disagree about the rest --- */

enum { CLASS_DIGIT = 1, CLASS_LETTER = 2, CLASS_SPACE = 4 };

static bool all_of(tmpl_render *r, const tmpl_value *self, int classes, tmpl_value *out)
{
    const char *s;
    if ((s = proa_tmpl_need_string(r, self)) == NULL || !proa_tmpl_spend_bytes(r, self->s->length))
        return false;
    bool all = self->s->length > 0;
    for (size_t i = 0, n; i < self->s->length && all; i += n) {
        uint32_t c = proa_tmpl_character(s + i, self->s->length - i, &n);
        if (c >= 0x80 && classes != CLASS_SPACE)
            return proa_tmpl_fail(r, PROA_ERR_UNSUPPORTED,
                                  "isalpha, isalnum and isdigit know ASCII text only");
        int class = c >= '0' && c <= '9'                                 ? CLASS_DIGIT
                    : (c | 0x20) >= 'a' && (c | 0x20) <= 'z' && c < 0x80 ? CLASS_LETTER
                    : proa_tmpl_is_space(c)                              ? CLASS_SPACE
                                                                         : 0;
        all = (class & classes) != 0;
    }
    return set_bool(out, all);
}

bool proa_tmpl_str_isdigit(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    (void)args;
    return all_of(r, self, CLASS_DIGIT, out);
}

bool proa_tmpl_str_isalpha(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    (void)args;
    return all_of(r, self, CLASS_LETTER, out);
}

bool proa_tmpl_str_isalnum(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    (void)args;
    return all_of(r, self, CLASS_LETTER | CLASS_DIGIT, out);
}

bool proa_tmpl_str_isspace(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out)
{
    (void)args;
    return all_of(r, self, CLASS_SPACE, out);
}
