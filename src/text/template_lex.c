/* template_lex.c - template source to tokens, with Jinja's whitespace control.
 *
 * Text between tags comes as one DATA token, already trimmed: a '-' at a tag strips all white space on its side, a
 * block or comment alone at the start of a line loses its indentation (lstrip_blocks) and the newline behind
 * a block or comment is dropped (trim_blocks); '+' keeps both. Comments and raw blocks end here: the parser never sees
 * them. Deliberately absent: line statements and other delimiters, which Hugging Face does not turn on.
 */
#include "text/template_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char *const token_names[] = {
    [TMPL_T_EOF] = "end of template",
    [TMPL_T_DATA] = "text",
    [TMPL_T_BLOCK_BEGIN] = "'{%'",
    [TMPL_T_BLOCK_END] = "'%}'",
    [TMPL_T_VARIABLE_BEGIN] = "'{{'",
    [TMPL_T_VARIABLE_END] = "'}}'",
    [TMPL_T_NAME] = "a name",
    [TMPL_T_STRING] = "a string",
    [TMPL_T_INT] = "a number",
    [TMPL_T_REAL] = "a number",
    [TMPL_T_ADD] = "'+'",
    [TMPL_T_SUB] = "'-'",
    [TMPL_T_MUL] = "'*'",
    [TMPL_T_DIV] = "'/'",
    [TMPL_T_FLOORDIV] = "'//'",
    [TMPL_T_MOD] = "'%'",
    [TMPL_T_POW] = "'**'",
    [TMPL_T_TILDE] = "'~'",
    [TMPL_T_EQ] = "'=='",
    [TMPL_T_NE] = "'!='",
    [TMPL_T_LT] = "'<'",
    [TMPL_T_LE] = "'<='",
    [TMPL_T_GT] = "'>'",
    [TMPL_T_GE] = "'>='",
    [TMPL_T_IN] = "'in'",
    [TMPL_T_NOT_IN] = "'not in'",
    [TMPL_T_ASSIGN] = "'='",
    [TMPL_T_DOT] = "'.'",
    [TMPL_T_COMMA] = "','",
    [TMPL_T_COLON] = "':'",
    [TMPL_T_PIPE] = "'|'",
    [TMPL_T_SEMICOLON] = "';'",
    [TMPL_T_LPAREN] = "'('",
    [TMPL_T_RPAREN] = "')'",
    [TMPL_T_LBRACKET] = "'['",
    [TMPL_T_RBRACKET] = "']'",
    [TMPL_T_LBRACE] = "'{'",
    [TMPL_T_RBRACE] = "'}'",
};

const char *proa_tmpl_token_name(tmpl_token_kind kind)
{
    return token_names[kind];
}

static bool fail_with(tmpl_lexer *lx, proa_status status, const tmpl_token *at, const char *what)
{
    proa_error_set(lx->err, status, "template line %u, column %u: %s", at->line, at->column, what);
    return false;
}

static bool fail(tmpl_lexer *lx, const tmpl_token *at, const char *what)
{
    return fail_with(lx, PROA_ERR_INVALID, at, what);
}

/* Line and column of a position at or behind the last one asked for. */
static void locate(tmpl_lexer *lx, size_t position, tmpl_token *token)
{
    for (; lx->counted < position; lx->counted++) {
        if (lx->source[lx->counted] == '\n') {
            lx->line++;
            lx->column = 1;
        } else if (((unsigned char)lx->source[lx->counted] & 0xc0) != 0x80) {
            lx->column++;
        }
    }
    token->line = lx->line;
    token->column = lx->column;
}

/* CR LF and CR become LF; one newline at the end is dropped (keep_trailing_newline is off). */
bool proa_tmpl_lexer_init(tmpl_lexer *lx, proa_arena *arena, const char *source, size_t length,
                          proa_error *err)
{
    *lx = (tmpl_lexer){
        .arena = arena, .line = 1, .column = 1, .mode = TMPL_T_DATA, .line_starting = true, .err = err};
    char *copy = proa_arena_alloc(arena, length + 1);
    if (copy == NULL) {
        proa_error_set(err, PROA_ERR_MEMORY, "no memory for a template of %zu bytes", length);
        return false;
    }
    size_t n = 0;
    for (size_t i = 0; i < length; i++) {
        if (source[i] != '\r')
            copy[n++] = source[i];
        else if (i + 1 == length || source[i + 1] != '\n')
            copy[n++] = '\n';
    }
    if (n > 0 && copy[n - 1] == '\n')
        n--;
    lx->source = copy;
    lx->length = n;
    for (size_t i = 0, bytes; i < n; i += bytes) {
        proa_tmpl_character(copy + i, n - i, &bytes);
        if (bytes == 0) {
            proa_error_set(err, PROA_ERR_INVALID, "template: byte %zu is not UTF-8; save the file as UTF-8",
                           i);
            return false;
        }
    }
    return true;
}

static int peek(const tmpl_lexer *lx, size_t position)
{
    return position < lx->length ? (unsigned char)lx->source[position] : -1;
}

static bool looking_at(const tmpl_lexer *lx, size_t position, const char *text)
{
    size_t n = strlen(text);
    return lx->length - position >= n && memcmp(lx->source + position, text, n) == 0;
}

static size_t skip_space(const tmpl_lexer *lx, size_t position)
{
    while (position < lx->length) {
        size_t bytes;
        if (!proa_tmpl_is_space(proa_tmpl_character(lx->source + position, lx->length - position, &bytes)))
            break;
        position += bytes;
    }
    return position;
}

/* --- text between tags --- */

/* Where the text start..end ends when a tag with this sign follows. */
static size_t strip_before(const tmpl_lexer *lx, size_t start, size_t end, int sign, bool is_variable)
{
    if (sign == '-') {
        size_t kept = start;
        for (size_t i = start, bytes; i < end; i += bytes) {
            if (!proa_tmpl_is_space(proa_tmpl_character(lx->source + i, end - i, &bytes)))
                kept = i + bytes;
        }
        return kept;
    }
    if (sign == '+' || is_variable)
        return end;
    size_t line = end;
    while (line > start && lx->source[line - 1] != '\n')
        line--;
    if ((line == start && !lx->line_starting) || skip_space(lx, line) < end)
        return end;
    return line;
}

/* Moves behind "%}" or "#}" with its sign and what white space control drops there. `position` is at the sign or the
 * mark. */
static void end_tag(tmpl_lexer *lx, size_t position, bool trims)
{
    int sign = peek(lx, position);
    position += sign == '-' || sign == '+' ? 3 : 2;
    if (sign == '-')
        position = skip_space(lx, position);
    else if (sign != '+' && trims && peek(lx, position) == '\n')
        position++;
    lx->position = position;
    lx->line_starting = lx->source[position - 1] == '\n';
}

/* Is there a raw or endraw tag (without its "{%" and sign) at `position`? Then the place of its end, else 0. */
static size_t raw_tag(const tmpl_lexer *lx, size_t position, const char *name)
{
    position = skip_space(lx, position);
    if (!looking_at(lx, position, name))
        return 0;
    position = skip_space(lx, position + strlen(name));
    bool signs = peek(lx, position) == '-' || (peek(lx, position) == '+' && name[0] == 'e');
    return looking_at(lx, position + (signs ? 1 : 0), "%}") ? position : 0;
}

static bool lex_comment(tmpl_lexer *lx, const tmpl_token *at)
{
    size_t first = lx->position;
    for (size_t i = first; i + 1 < lx->length; i++) {
        if (lx->source[i] == '#' && lx->source[i + 1] == '}') {
            bool sign = i > first && (lx->source[i - 1] == '-' || lx->source[i - 1] == '+');
            end_tag(lx, sign ? i - 1 : i, true);
            return true;
        }
    }
    return fail(lx, at, "this comment has no end ('#}')");
}

/* At the end of a raw tag; the token becomes the text inside. */
static bool lex_raw(tmpl_lexer *lx, size_t tag_end, tmpl_token *token)
{
    end_tag(lx, tag_end, false);
    size_t start = lx->position;
    for (size_t i = start; i + 1 < lx->length; i++) {
        if (lx->source[i] != '{' || lx->source[i + 1] != '%')
            continue;
        int sign = peek(lx, i + 2) == '-' || peek(lx, i + 2) == '+' ? peek(lx, i + 2) : 0;
        size_t end = raw_tag(lx, i + (sign != 0 ? 3 : 2), "endraw");
        if (end == 0)
            continue;
        token->text = lx->source + start;
        token->length = strip_before(lx, start, i, sign, false) - start;
        end_tag(lx, end, true);
        return true;
    }
    return fail(lx, token, "this raw block has no end ('{% endraw %}')");
}

static size_t find_tag(const tmpl_lexer *lx, size_t position)
{
    while (position + 1 < lx->length) {
        const char *brace = memchr(lx->source + position, '{', lx->length - position - 1);
        if (brace == NULL)
            break;
        if (brace[1] == '{' || brace[1] == '%' || brace[1] == '#')
            return (size_t)(brace - lx->source);
        position = (size_t)(brace - lx->source) + 1;
    }
    return lx->length;
}

/* Text up to the next tag, and which tag that is; the text may be empty. */
static bool lex_text(tmpl_lexer *lx, tmpl_token *token)
{
    size_t start = lx->position, tag = find_tag(lx, start);
    *token = (tmpl_token){.kind = TMPL_T_DATA, .text = lx->source + start};
    locate(lx, start, token);
    if (tag == lx->length) {
        token->length = tag - start;
        lx->position = tag;
        return true;
    }
    int mark = peek(lx, tag + 1), sign = peek(lx, tag + 2);
    if (sign != '-' && sign != '+')
        sign = 0;
    token->length = strip_before(lx, start, tag, sign, mark == '{') - start;
    lx->position = tag + (sign != 0 ? 3 : 2);
    tmpl_token here = *token;
    locate(lx, tag, &here);
    if (mark == '#')
        return lex_comment(lx, &here);
    size_t raw_end = mark == '%' ? raw_tag(lx, lx->position, "raw") : 0;
    if (raw_end == 0) {
        lx->pending = mark == '%' ? TMPL_T_BLOCK_BEGIN : TMPL_T_VARIABLE_BEGIN;
        return true;
    }
    if (token->length > 0) { /* come back for the raw block */
        lx->position = tag;
        return true;
    }
    *token = here;
    return lex_raw(lx, raw_end, token);
}

/* --- inside tags --- */

static size_t skip_digits(const tmpl_lexer *lx, size_t position)
{
    while ((peek(lx, position) >= '0' && peek(lx, position) <= '9') ||
           (peek(lx, position) == '_' && peek(lx, position + 1) >= '0' && peek(lx, position + 1) <= '9'))
        position++;
    return position;
}

static bool is_digit(int c)
{
    return c >= '0' && c <= '9';
}

/* The end of a floating-point literal that starts here, or 0. */
static size_t real_end(const tmpl_lexer *lx, size_t start)
{
    if (start > 0 && lx->source[start - 1] == '.') /* x.0.1 is two subscripts */
        return 0;
    size_t end = skip_digits(lx, start);
    bool is_real = false;
    if (peek(lx, end) == '.' && is_digit(peek(lx, end + 1))) {
        end = skip_digits(lx, end + 1);
        is_real = true;
    }
    if (peek(lx, end) == 'e' || peek(lx, end) == 'E') {
        size_t digits = end + 1 + (peek(lx, end + 1) == '+' || peek(lx, end + 1) == '-');
        if (is_digit(peek(lx, digits))) {
            end = skip_digits(lx, digits);
            is_real = true;
        }
    }
    return is_real ? end : 0;
}

static int radix_of(const tmpl_lexer *lx, size_t start)
{
    if (peek(lx, start) != '0')
        return 10;
    switch (peek(lx, start + 1) | 0x20) {
    case 'x': return 16;
    case 'o': return 8;
    case 'b': return 2;
    default: return 10;
    }
}

static int hex_digit(int c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool lex_number(tmpl_lexer *lx, tmpl_token *token)
{
    size_t start = lx->position, end = real_end(lx, start);
    int radix = 10;
    token->kind = end != 0 ? TMPL_T_REAL : TMPL_T_INT;
    if (end == 0) {
        radix = radix_of(lx, start);
        end = skip_digits(lx, start);
        if (radix != 10) {
            end = start + 2;
            while (peek(lx, end) == '_' || hex_digit(peek(lx, end)) >= 0)
                end++;
        } else if (peek(lx, start) == '0') { /* 012 is two numbers, as Jinja reads it */
            for (end = start; peek(lx, end) == '0';)
                end++;
        }
    }
    char digits[512];
    size_t n = 0;
    for (size_t i = radix == 10 ? start : start + 2; i < end && n < sizeof digits; i++) {
        if (lx->source[i] != '_')
            digits[n++] = lx->source[i];
    }
    if (n == 0 || n == sizeof digits)
        return fail(lx, token, "this is not a number, or it is longer than 511 digits");
    digits[n] = 0;
    char *rest;
    errno = 0;
    if (token->kind == TMPL_T_REAL)
        token->d = strtod(digits, &rest);
    else
        token->i = strtoll(digits, &rest, radix);
    if (*rest != 0 || (errno == ERANGE && token->kind == TMPL_T_INT))
        return fail(lx, token, "this number is malformed or does not fit 64 bits");
    lx->position = end;
    return true;
}

/* \xNN, \uNNNN, \UNNNNNNNN or \ooo at `i` (behind the backslash). */
static bool numeric_escape(const char *s, size_t *i, size_t end, uint32_t *character)
{
    uint32_t value = 0;
    if (s[*i] >= '0' && s[*i] <= '7') {
        for (int n = 0; n < 3 && *i < end && s[*i] >= '0' && s[*i] <= '7'; n++)
            value = value * 8 + (uint32_t)(s[(*i)++] - '0');
    } else {
        int digits = s[*i] == 'x' ? 2 : s[*i] == 'u' ? 4 : 8;
        (*i)++;
        for (int n = 0; n < digits; n++) {
            if (*i == end || hex_digit(s[*i]) < 0 || value > 0x10ffff)
                return false;
            value = value * 16 + (uint32_t)hex_digit(s[(*i)++]);
        }
    }
    *character = value;
    return value <= 0x10ffff && (value < 0xd800 || value > 0xdfff);
}

static bool unescape(tmpl_lexer *lx, tmpl_token *token)
{
    static const char letters[] = "abfnrtv\\'\"", meanings[] = "\a\b\f\n\r\t\v\\'\"";
    const char *s = token->text;
    if (memchr(s, '\\', token->length) == NULL)
        return true;
    char *to = proa_arena_alloc(lx->arena, token->length + 1);
    if (to == NULL)
        return fail_with(lx, PROA_ERR_MEMORY, token, "no memory for this string");
    size_t n = 0;
    for (size_t i = 0; i < token->length;) {
        if (s[i] != '\\') {
            to[n++] = s[i++];
            continue;
        }
        const char *letter = memchr(letters, s[++i], sizeof letters - 1);
        if (letter != NULL) {
            to[n++] = meanings[letter - letters];
            i++;
        } else if (s[i] == '\n') { /* the line goes on */
            i++;
        } else if ((s[i] >= '0' && s[i] <= '7') || s[i] == 'x' || s[i] == 'u' || s[i] == 'U') {
            uint32_t character;
            if (!numeric_escape(s, &i, token->length, &character))
                return fail(lx, token,
                            "a string has a malformed \\x, \\u or \\U escape, or one of half a character");
            n += proa_tmpl_encode(character, to + n);
        } else if (s[i] == 'N') {
            return fail(lx, token, "\\N{...} escapes are not supported; write the character itself");
        } else {
            to[n++] = '\\';
        }
    }
    token->text = to;
    token->length = n;
    return true;
}

static bool lex_string(tmpl_lexer *lx, tmpl_token *token)
{
    int quote = peek(lx, lx->position);
    size_t i = lx->position + 1;
    while (i < lx->length && lx->source[i] != quote)
        i += lx->source[i] == '\\' ? 2 : 1;
    if (i >= lx->length)
        return fail(lx, token, "this string has no end");
    token->kind = TMPL_T_STRING;
    token->text = lx->source + lx->position + 1;
    token->length = i - lx->position - 1;
    lx->position = i + 1;
    return unescape(lx, token);
}

static bool is_name_character(int c)
{
    return c == '_' || is_digit(c) || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
}

static const struct {
    char text[3];
    tmpl_token_kind kind;
} operators[] = {
    {"//", TMPL_T_FLOORDIV}, {"**", TMPL_T_POW},      {"==", TMPL_T_EQ},    {"!=", TMPL_T_NE},
    {">=", TMPL_T_GE},       {"<=", TMPL_T_LE},       {"+", TMPL_T_ADD},    {"-", TMPL_T_SUB},
    {"/", TMPL_T_DIV},       {"*", TMPL_T_MUL},       {"%", TMPL_T_MOD},    {"~", TMPL_T_TILDE},
    {"[", TMPL_T_LBRACKET},  {"]", TMPL_T_RBRACKET},  {"(", TMPL_T_LPAREN}, {")", TMPL_T_RPAREN},
    {"{", TMPL_T_LBRACE},    {"}", TMPL_T_RBRACE},    {">", TMPL_T_GT},     {"<", TMPL_T_LT},
    {"=", TMPL_T_ASSIGN},    {".", TMPL_T_DOT},       {":", TMPL_T_COLON},  {"|", TMPL_T_PIPE},
    {",", TMPL_T_COMMA},     {";", TMPL_T_SEMICOLON},
};

/* Inside brackets "}}" and "%}" are operators; so the brackets are counted. */
static bool balance(tmpl_lexer *lx, const tmpl_token *token)
{
    static const char opening[] = "([{", closing[] = ")]}";
    char c = token->text[0];
    if (token->length != 1)
        return true;
    if (strchr(opening, c) != NULL) {
        if (lx->bracket_count == sizeof lx->brackets)
            return fail_with(lx, PROA_ERR_TOO_LONG, token, "brackets nest deeper than 100 levels");
        lx->brackets[lx->bracket_count++] = closing[strchr(opening, c) - opening];
    } else if (strchr(closing, c) != NULL) {
        if (lx->bracket_count == 0 || lx->brackets[--lx->bracket_count] != c)
            return fail(lx, token, "this bracket does not match an open one");
    }
    return true;
}

static bool lex_operator(tmpl_lexer *lx, tmpl_token *token)
{
    for (size_t i = 0; i < sizeof operators / sizeof operators[0]; i++) {
        if (!looking_at(lx, lx->position, operators[i].text))
            continue;
        token->kind = operators[i].kind;
        token->length = strlen(operators[i].text);
        lx->position += token->length;
        return balance(lx, token);
    }
    return fail(lx, token, "unexpected character; a tag holds names, numbers, strings and operators");
}

static bool is_tag_end(const tmpl_lexer *lx)
{
    int c = peek(lx, lx->position);
    bool block = lx->mode == TMPL_T_BLOCK_BEGIN;
    size_t mark = lx->position + (c == '-' || (c == '+' && block) ? 1 : 0);
    return lx->bracket_count == 0 && looking_at(lx, mark, block ? "%}" : "}}");
}

static bool lex_in_tag(tmpl_lexer *lx, tmpl_token *token)
{
    lx->position = skip_space(lx, lx->position);
    *token = (tmpl_token){.kind = TMPL_T_EOF, .text = lx->source + lx->position};
    locate(lx, lx->position, token);
    int c = peek(lx, lx->position);
    if (c < 0)
        return true;
    if (is_tag_end(lx)) {
        bool block = lx->mode == TMPL_T_BLOCK_BEGIN;
        token->kind = block ? TMPL_T_BLOCK_END : TMPL_T_VARIABLE_END;
        end_tag(lx, lx->position, block);
        lx->mode = TMPL_T_DATA;
        return true;
    }
    if (is_digit(c))
        return lex_number(lx, token);
    if (c == '"' || c == '\'')
        return lex_string(lx, token);
    if (!is_name_character(c))
        return lex_operator(lx, token);
    token->kind = TMPL_T_NAME;
    while (is_name_character(peek(lx, lx->position + token->length)))
        token->length++;
    lx->position += token->length;
    return true;
}

bool proa_tmpl_lexer_next(tmpl_lexer *lx, tmpl_token *token)
{
    if (lx->mode != TMPL_T_DATA)
        return lex_in_tag(lx, token);
    while (lx->pending == TMPL_T_EOF && lx->position < lx->length) {
        if (!lex_text(lx, token))
            return false;
        if (token->length > 0)
            return true;
    }
    *token = (tmpl_token){.kind = lx->pending, .text = lx->source + lx->position};
    locate(lx, lx->position, token);
    if (lx->pending != TMPL_T_EOF)
        lx->mode = lx->pending;
    lx->pending = TMPL_T_EOF;
    return true;
}
