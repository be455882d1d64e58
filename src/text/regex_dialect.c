/* regex_dialect.c - one pass over an Oniguruma pattern, writing PCRE2's.
 *
 * Written out: literals and ranges as \x{...}; \s \d as they are (with UCP they mean the same once the text went
 * through unicode_shadow.h), \w \h \b \v in sets of their own, since the dialects differ; \p{...} names
 * normalised, scripts as sc: (PCRE2 would take script extensions). Quantifiers: {,n} gets its 0; a quantifier on a
 * quantifier, among them {n,m}+ which is not possessive in Oniguruma, gets a group: for this the output offset of the
 * latest atom is kept. A character class whose members PCRE2 cannot list (nested classes, &&, \W inside) becomes
 * alternatives and lookaheads that match one character:
 *
 *     [ab\W]   (?:[ab]|[^word])        [^ab\W]  (?:(?!(?:[ab]|[^word]))(?s:.))
 *     [A&&B]   (?:(?=[A])[B])
 *
 * Lacks, with an error that says so: back references, subexpression calls, absent operators, callouts, \R \X \K
 * \G, POSIX brackets, (?x), multi-character case folding (the sharp s matching "ss").
 */
#include "text/regex_dialect.h"

#include "text/regex_property.h"
#include "text/utf8.h"

#include <string.h>

enum { GROUP_DEPTH_MAX = 100, CLASS_DEPTH_MAX = 10, REPEAT_MAX = 65535, WRAPS_MAX = 1000 };

/* Members for a place inside brackets. Outside of them, superscript and fraction digits of Latin-1 are word characters
 * too: Oniguruma looks there in another table. */
#define WORD       "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
#define WORD_ALONE WORD "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}"
#define HEX        "0-9A-Fa-f"

static const size_t NO_ATOM = SIZE_MAX;

typedef struct translator {
    const char *text;
    size_t length;
    size_t at;
    proa_buf *out;
    size_t atom;     /* where the atom that a quantifier would repeat begins in `out`, or NO_ATOM */
    bool quantified; /* that atom has its quantifier */
    size_t group[GROUP_DEPTH_MAX];
    bool group_looks[GROUP_DEPTH_MAX]; /* a lookaround: cannot be repeated */
    int depth;
    int wraps;
    int isolated[GROUP_DEPTH_MAX + 1]; /* (?i) groups to close with the group (or pattern) of this depth */
    proa_error *err;
} translator;

static proa_status unsupported(translator *t, size_t at, const char *what)
{
    return proa_error_set(t->err, PROA_ERR_UNSUPPORTED, "pattern, byte %zu: %s not supported", at, what);
}

static proa_status malformed(translator *t, size_t at, const char *what)
{
    return proa_error_set(t->err, PROA_ERR_INVALID, "pattern, byte %zu: %s", at, what);
}

static int peek(const translator *t, size_t ahead)
{
    return t->length - t->at > ahead ? (unsigned char)t->text[t->at + ahead] : -1;
}

static void put_char(proa_buf *out, uint32_t code)
{
    proa_buf_append_format(out, "\\x{%x}", code);
}

/* After \p or \P: a name in braces. */
static proa_status property(translator *t, bool negated, proa_buf *out)
{
    size_t start = t->at;
    if (peek(t, 0) != '{')
        return unsupported(t, start, "\\p without braces is");
    t->at++;
    if (peek(t, 0) == '^') {
        negated = !negated;
        t->at++;
    }
    const char *name = t->text + t->at, *end = memchr(name, '}', t->length - t->at);
    if (end == NULL || !proa_regex_property(name, (size_t)(end - name), negated, out))
        return malformed(t, start, "not a property's name in braces");
    t->at += (size_t)(end - name) + 1;
    return PROA_OK;
}

/* --- escapes --- */

typedef enum atom_kind {
    ATOM_CHAR,       /* one code point */
    ATOM_SET,        /* text that may stand inside brackets */
    ATOM_COMPLEMENT, /* everything but such text */
} atom_kind;

static int hex_value(int c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* \xHH, \x{H...} and \uHHHH, after the letter. */
static proa_status hex_escape(translator *t, bool is_u, uint32_t *code)
{
    size_t start = t->at;
    bool braces = !is_u && peek(t, 0) == '{';
    if (braces)
        t->at++;
    size_t digits = 0, digits_max = braces ? 8 : is_u ? 4 : 2;
    *code = 0;
    while (digits < digits_max && hex_value(peek(t, 0)) >= 0) {
        *code = *code << 4 | (uint32_t)hex_value(peek(t, 0));
        t->at++;
        digits++;
    }
    if (digits == 0 || (is_u && digits != 4) || (braces && peek(t, 0) != '}'))
        return malformed(t, start, "not a hexadecimal character number");
    if (braces)
        t->at++;
    if (!braces && !is_u && *code >= 0x80)
        return unsupported(t, start, "\\x of a byte over 7f (write \\x{...} for a character) is");
    if (*code > 0x10ffff || (*code >= 0xd800 && *code < 0xe000))
        return malformed(t, start, "not a character's number");
    return PROA_OK;
}

/* After the backslash: what stands for one character. The set's text is appended to `set`. */
static proa_status escape(translator *t, atom_kind *kind, uint32_t *code, proa_buf *set)
{
    static const char letters[] = "tnrfaev", values[] = "\t\n\r\f\a\x1b\v";
    size_t start = t->at - 1;
    proa_utf8_step step = proa_utf8_look(t->text + t->at, t->length - t->at);
    uint32_t c = step.code;
    t->at += step.length;
    *kind = ATOM_CHAR;
    *code = c;
    const char *known = c < 0x80 ? memchr(letters, (int)c, sizeof letters - 1) : NULL;
    if (known != NULL) {
        *code = (uint32_t)values[known - letters];
        return PROA_OK;
    }
    if (c >= 0x80 || !((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')))
        return PROA_OK;
    *kind = c < 'a' ? ATOM_COMPLEMENT : ATOM_SET;
    switch (c) {
    case 'x':
    case 'u': *kind = ATOM_CHAR; return hex_escape(t, c == 'u', code);
    case 's':
    case 'S': proa_buf_append_text(set, "\\s"); return PROA_OK;
    case 'd':
    case 'D': proa_buf_append_text(set, "\\d"); return PROA_OK;
    case 'w':
    case 'W': proa_buf_append_text(set, WORD); return PROA_OK;
    case 'h':
    case 'H': proa_buf_append_text(set, HEX); return PROA_OK;
    case 'p':
    case 'P': *kind = ATOM_SET; return property(t, c == 'P', set);
    default: break;
    }
    char what[32] = "the escape \\? is";
    what[12] = (char)c;
    return unsupported(t, start, what);
}

/* --- character classes --- */

/* One operand of &&: what a class lists. */
typedef struct members {
    proa_buf items; /* for inside brackets */
    proa_buf extra; /* alternatives that match one character, each with a leading '|' */
    bool any;
} members;

static proa_status class(translator *t, int depth, proa_buf *out);

/* Writes one operand as a pattern that matches one character that is (or is not) a member. */
static void put_members(const members *m, bool negated, proa_buf *out)
{
    const char *items = proa_buf_text(&m->items), *extra = proa_buf_text(&m->extra);
    if (m->extra.length == 0) {
        proa_buf_append_format(out, "[%s%s]", negated ? "^" : "", items);
        return;
    }
    proa_buf_append_text(out, negated ? "(?:(?!" : "(?:");
    if (m->items.length > 0)
        proa_buf_append_format(out, "[%s]%s", items, extra);
    else
        proa_buf_append_text(out, extra + 1);
    proa_buf_append_text(out, negated ? ")(?s:.))" : ")");
}

/* The next member of a class: a character (then *kind is ATOM_CHAR, nothing is written yet) or a set, added to m. */
static proa_status class_member(translator *t, int depth, members *m, atom_kind *kind, uint32_t *code)
{
    proa_status status = PROA_OK;
    if (peek(t, 0) == '[') {
        if (peek(t, 1) == ':')
            return unsupported(t, t->at, "a POSIX bracket ([:name:]) is");
        *kind = ATOM_SET;
        proa_buf_append_char(&m->extra, '|');
        return class(t, depth + 1, &m->extra);
    }
    if (peek(t, 0) == '\\') {
        t->at++;
        if (peek(t, 0) == -1)
            return malformed(t, t->at, "the pattern ends after a backslash");
        if (peek(t, 0) == 'b') {
            t->at++;
            *kind = ATOM_CHAR;
            *code = '\b';
            return PROA_OK;
        }
        proa_buf set = {0};
        status = escape(t, kind, code, &set);
        if (status == PROA_OK && *kind == ATOM_SET)
            proa_buf_append_text(&m->items, proa_buf_text(&set));
        else if (status == PROA_OK && *kind == ATOM_COMPLEMENT)
            proa_buf_append_format(&m->extra, "|[^%s]", proa_buf_text(&set));
        proa_buf_free(&set);
        return status;
    }
    proa_utf8_step step = proa_utf8_look(t->text + t->at, t->length - t->at);
    t->at += step.length;
    *kind = ATOM_CHAR;
    *code = step.code;
    return PROA_OK;
}

/* A member and the range it may begin. */
static proa_status class_item(translator *t, int depth, members *m)
{
    atom_kind kind;
    uint32_t low = 0, high = 0;
    size_t start = t->at;
    m->any = true;
    proa_status status = class_member(t, depth, m, &kind, &low);
    if (status != PROA_OK)
        return status;
    bool range = peek(t, 0) == '-' && peek(t, 1) != ']' && peek(t, 1) != -1;
    if (kind != ATOM_CHAR)
        return range
                   ? malformed(t, t->at, "a range in a class begins with a set; write \\- for the character")
                   : PROA_OK;
    put_char(&m->items, low);
    if (!range)
        return PROA_OK;
    t->at++;
    status = class_member(t, depth, m, &kind, &high);
    if (status != PROA_OK)
        return status;
    if (kind != ATOM_CHAR || high < low)
        return malformed(t, start,
                         kind == ATOM_CHAR ? "the range in a class is empty"
                                           : "the range in a class ends with a set");
    proa_buf_append_char(&m->items, '-');
    put_char(&m->items, high);
    return PROA_OK;
}

/* Ends an operand: `before` collects lookaheads of all but the last. */
static proa_status class_operand(translator *t, const members *m, proa_buf *before)
{
    if (!m->any)
        return malformed(t, t->at, "a class, or a side of &&, is empty");
    proa_buf_append_text(before, "(?=");
    put_members(m, false, before);
    proa_buf_append_char(before, ')');
    return PROA_OK;
}

static void members_clear(members *m)
{
    proa_buf_clear(&m->items);
    proa_buf_clear(&m->extra);
    m->any = false;
}

/* From '[' to its ']'; `before` and `m` are working memory. */
static proa_status class_body(translator *t, int depth, members *m, proa_buf *before, proa_buf *out)
{
    size_t start = t->at++;
    bool negated = peek(t, 0) == '^';
    if (negated)
        t->at++;
    if (peek(t, 0) == ']') /* Oniguruma takes a first ']' as a character, or warns: too unclear to guess */
        return unsupported(t, start, "']' as a class's first member (write \\]) is");
    while (peek(t, 0) != ']') {
        if (peek(t, 0) == -1)
            return malformed(t, start, "the class has no end");
        proa_status status;
        if (peek(t, 0) == '&' && peek(t, 1) == '&') {
            status = class_operand(t, m, before);
            members_clear(m);
            t->at += 2;
        } else {
            status = class_item(t, depth, m);
        }
        if (status != PROA_OK)
            return status;
    }
    t->at++;
    if (!m->any)
        return malformed(t, start, "a class, or a side of &&, is empty");
    if (before->length == 0) {
        put_members(m, negated, out);
        return PROA_OK;
    }
    proa_buf_append_format(out, negated ? "(?:(?!%s" : "(?:%s", proa_buf_text(before));
    put_members(m, false, out);
    proa_buf_append_text(out, negated ? ")(?s:.))" : ")");
    return PROA_OK;
}

static proa_status class(translator *t, int depth, proa_buf *out)
{
    if (depth > CLASS_DEPTH_MAX)
        return unsupported(t, t->at, "so deep a nesting of classes is");
    members m = {0};
    proa_buf before = {0};
    proa_status status = class_body(t, depth, &m, &before, out);
    proa_buf_free(&m.items);
    proa_buf_free(&m.extra);
    proa_buf_free(&before);
    return status;
}

/* --- outside classes --- */

static void begin_atom(translator *t)
{
    t->atom = t->out->length;
    t->quantified = false;
}

/* Puts the latest atom and its quantifier into a group, which then is the atom. */
static void wrap_atom(translator *t)
{
    proa_buf tail = {0};
    proa_buf_append(&tail, t->out->data + t->atom, t->out->length - t->atom);
    proa_buf_truncate(t->out, t->atom);
    proa_buf_append_format(t->out, "(?:%s)", proa_buf_text(&tail));
    proa_buf_free(&tail);
    t->quantified = false;
    t->wraps++;
}

/* At '{': reads {n}, {n,}, {,m} or {n,m}. False when it is none, and then a literal. */
static bool interval(translator *t, uint32_t *low, uint32_t *high, bool *open)
{
    size_t at = t->at + 1, digits[2] = {0, 0};
    uint32_t value[2] = {0, 0};
    int side = 0;
    for (; at < t->length && t->text[at] != '}'; at++) {
        char c = t->text[at];
        if (c == ',' && side == 0) {
            side = 1;
        } else if (c >= '0' && c <= '9') {
            value[side] = value[side] > REPEAT_MAX ? value[side] : value[side] * 10 + (uint32_t)(c - '0');
            digits[side]++;
        } else {
            return false;
        }
    }
    if (at == t->length || digits[0] + digits[1] == 0)
        return false;
    t->at = at + 1;
    *low = value[0];
    *high = side == 0 ? value[0] : value[1];
    *open = side == 1 && digits[1] == 0;
    return true;
}

static proa_status repeat_interval(translator *t, bool *is_interval)
{
    size_t start = t->at;
    uint32_t low, high;
    bool open;
    *is_interval = interval(t, &low, &high, &open);
    if (!*is_interval)
        return PROA_OK;
    if (t->atom == NO_ATOM)
        return malformed(t, start, "nothing to repeat");
    if (low > REPEAT_MAX || high > REPEAT_MAX)
        return unsupported(t, start, "repeating more than 65535 times is");
    if (!open && high < low)
        return malformed(t, start, "the repeat's upper bound is below its lower bound");
    if (t->quantified)
        wrap_atom(t);
    bool fixed = !open && low == high;
    if (open)
        proa_buf_append_format(t->out, "{%u,}", low);
    else
        proa_buf_append_format(t->out, "{%u,%u}", low, high);
    t->quantified = true;
    if (peek(t, 0) == '?' && !fixed) { /* after {n}, '?' is a quantifier of its own */
        proa_buf_append_char(t->out, '?');
        t->at++;
    }
    return PROA_OK;
}

static proa_status repeat(translator *t)
{
    if (t->atom == NO_ATOM)
        return malformed(t, t->at, "nothing to repeat");
    if (t->quantified)
        wrap_atom(t);
    proa_buf_append_char(t->out, t->text[t->at++]);
    t->quantified = true;
    int next = peek(t, 0);
    if (next == '?' || next == '+') {
        proa_buf_append_char(t->out, (char)next);
        t->at++;
    }
    return PROA_OK;
}

/* (?flags) and (?flags:, after "(?". Oniguruma's m is PCRE2's s. */
static proa_status group_flags(translator *t, size_t start)
{
    proa_buf_append_text(t->out, "(?");
    for (;; t->at++) {
        int c = peek(t, 0);
        if (c == ':' || c == ')')
            break;
        if (c == 'i' || c == '-')
            proa_buf_append_char(t->out, (char)c);
        else if (c == 'm')
            proa_buf_append_char(t->out, 's');
        else
            return unsupported(t, start, "this kind of group is");
    }
    proa_buf_append_char(t->out, ':');
    if (t->text[t->at++] == ')') { /* a(?i)b|c is a(?i:b|c) in Oniguruma: it ends with the enclosing group */
        t->depth--;
        t->isolated[t->depth]++;
    }
    return PROA_OK;
}

static void close_isolated(translator *t)
{
    for (; t->isolated[t->depth] > 0; t->isolated[t->depth]--)
        proa_buf_append_char(t->out, ')');
}

static proa_status open_group(translator *t)
{
    static const char *const openers[] = {"?:", "?=", "?!", "?<=", "?<!", "?>"};
    static const bool looks[] = {false, true, true, true, true, false};
    size_t start = t->at++;
    if (t->depth == GROUP_DEPTH_MAX)
        return unsupported(t, start, "so deep a nesting of groups is");
    t->group[t->depth] = t->out->length;
    t->group_looks[t->depth++] = false;
    t->atom = NO_ATOM;
    if (peek(t, 0) == '*')
        return unsupported(t, start, "a callout is");
    if (peek(t, 0) != '?') { /* nothing reads captures */
        proa_buf_append_text(t->out, "(?:");
        return PROA_OK;
    }
    for (size_t i = 0; i < sizeof openers / sizeof openers[0]; i++) {
        size_t n = strlen(openers[i]);
        if (t->length - t->at < n || memcmp(t->text + t->at, openers[i], n) != 0)
            continue;
        t->at += n;
        t->group_looks[t->depth - 1] = looks[i];
        proa_buf_append_format(t->out, "(%s", openers[i]);
        return PROA_OK;
    }
    t->at++;
    if (peek(t, 0) != '<')
        return group_flags(t, start);
    for (t->at++; peek(t, 0) != '>'; t->at++) {
        if (peek(t, 0) == -1 || peek(t, 0) == ')')
            return malformed(t, start, "the group's name has no end");
    }
    t->at++;
    proa_buf_append_text(t->out, "(?:");
    return PROA_OK;
}

static proa_status close_group(translator *t)
{
    if (t->depth == 0)
        return malformed(t, t->at, "')' without '('");
    t->at++;
    close_isolated(t);
    t->depth--;
    proa_buf_append_char(t->out, ')');
    t->atom = t->group_looks[t->depth] ? NO_ATOM : t->group[t->depth];
    t->quantified = false;
    return PROA_OK;
}

static proa_status escaped(translator *t)
{
    size_t start = t->at++;
    int c = peek(t, 0);
    if (c == -1)
        return malformed(t, start, "the pattern ends after a backslash");
    if (c == 'A' || c == 'z' || c == 'Z') {
        proa_buf_append_format(t->out, "\\%c", c);
        t->at++;
        t->atom = NO_ATOM;
        return PROA_OK;
    }
    if (c == 'b' || c == 'B') {
        proa_buf_append_text(t->out, c == 'b' ? "(?:(?<=[" WORD_ALONE "])(?![" WORD_ALONE
                                                "])|(?<![" WORD_ALONE "])(?=[" WORD_ALONE "]))"
                                              : "(?:(?<=[" WORD_ALONE "])(?=[" WORD_ALONE
                                                "])|(?<![" WORD_ALONE "])(?![" WORD_ALONE "]))");
        t->at++;
        t->atom = NO_ATOM;
        return PROA_OK;
    }
    begin_atom(t);
    proa_buf set = {0};
    atom_kind kind;
    uint32_t code;
    proa_status status = escape(t, &kind, &code, &set);
    if (status == PROA_OK && kind == ATOM_CHAR)
        put_char(t->out, code);
    else if (status == PROA_OK)
        proa_buf_append_format(t->out, kind == ATOM_SET ? "[%s]" : "[^%s]",
                               c == 'w' || c == 'W' ? WORD_ALONE : proa_buf_text(&set));
    proa_buf_free(&set);
    return status;
}

static proa_status plain(translator *t)
{
    int c = peek(t, 0);
    if (c == '^' || c == '$' || c == '|') {
        proa_buf_append_char(t->out, (char)c);
        t->at++;
        t->atom = NO_ATOM;
        return PROA_OK;
    }
    begin_atom(t);
    if (c == '.') {
        proa_buf_append_char(t->out, '.');
        t->at++;
        return PROA_OK;
    }
    proa_utf8_step step = proa_utf8_look(t->text + t->at, t->length - t->at);
    put_char(t->out, step.code);
    t->at += step.length;
    return PROA_OK;
}

static proa_status next(translator *t)
{
    bool is_interval = false;
    proa_status status;
    switch (t->text[t->at]) {
    case '(': return open_group(t);
    case ')': return close_group(t);
    case '[': begin_atom(t); return class(t, 0, t->out);
    case '\\': return escaped(t);
    case '*':
    case '+':
    case '?': return repeat(t);
    case '{':
        status = repeat_interval(t, &is_interval);
        return status != PROA_OK || is_interval ? status : plain(t);
    default: return plain(t);
    }
}

proa_status proa_regex_translate(const char *pattern, size_t length, proa_buf *out, proa_error *err)
{
    translator t = {.text = pattern, .length = length, .out = out, .atom = NO_ATOM, .err = err};
    size_t valid = proa_utf8_valid_length(pattern, length);
    if (valid < length)
        return malformed(&t, valid, "not UTF-8");
    while (t.at < t.length) {
        if (t.text[t.at] == '(' && t.length - t.at > 2 && memcmp(t.text + t.at, "(?#", 3) == 0) {
            const char *end = memchr(t.text + t.at, ')', t.length - t.at);
            if (end == NULL)
                return malformed(&t, t.at, "the comment has no end");
            t.at = (size_t)(end - t.text) + 1;
            continue;
        }
        proa_status status = next(&t);
        if (status != PROA_OK)
            return status;
        if (out->failed || t.wraps > WRAPS_MAX || out->length > (size_t)8 << 16)
            return unsupported(&t, t.at, "so large a pattern is");
    }
    if (t.depth != 0)
        return malformed(&t, length, "'(' without ')'");
    close_isolated(&t);
    return PROA_OK;
}
