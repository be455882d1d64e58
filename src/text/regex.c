/* regex.c - the wrapper of PCRE2.
 *
 * Beside PCRE2's own start optimisations, a table says which ASCII bytes a match can begin with: most stages of a
 * pre-tokenizer find nothing in most text (digits, CJK), and skipping by table is ten times faster than trying a
 * Unicode property at each character. The table is measured, not guessed: a byte is excluded when a match
 * anchored at that byte alone fails without having asked for a second one (PCRE2_PARTIAL_HARD), which is exact
 * as long as the pattern does not look behind.
 *
 * Lacks: captures and replacement; callers need only where a match lies.
 */
#include "text/regex.h"

#include "text/regex_dialect.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

enum {
    PATTERN_BYTES_MAX = 1 << 16,
    /* of backtracking, from one start: an honest pattern takes a few for each byte of a run */
    MATCH_STEPS_BASE = 1000000,
    MATCH_STEPS_A_BYTE = 8,
    START_STEPS_MAX = 10000, /* of measuring one first byte; one that takes more is allowed */
    HEAP_KIB_MAX = 64 * 1024,
    JIT_STACK_BYTES_MIN = 32 * 1024,
    JIT_STACK_BYTES_MAX = 4 * 1024 * 1024,
};

struct proa_regex {
    pcre2_code *code;
    bool jit;
    bool skips;                /* `starts` excludes something */
    unsigned char starts[256]; /* 1: a match may begin with this byte, or the match may be empty */
};

struct proa_regex_scratch {
    pcre2_match_data *match;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

proa_regex_scratch *proa_regex_scratch_create(void)
{
    proa_regex_scratch *scratch = calloc(1, sizeof *scratch);
    if (scratch == NULL)
        return NULL;
    scratch->match = pcre2_match_data_create(1, NULL);
    scratch->context = pcre2_match_context_create(NULL);
    scratch->stack = pcre2_jit_stack_create(JIT_STACK_BYTES_MIN, JIT_STACK_BYTES_MAX, NULL);
    if (scratch->match == NULL || scratch->context == NULL || scratch->stack == NULL) {
        proa_regex_scratch_free(scratch);
        return NULL;
    }
    pcre2_set_heap_limit(scratch->context, HEAP_KIB_MAX);
    pcre2_jit_stack_assign(scratch->context, NULL, scratch->stack);
    return scratch;
}

void proa_regex_scratch_free(proa_regex_scratch *scratch)
{
    if (scratch == NULL)
        return;
    pcre2_match_data_free(scratch->match);
    pcre2_match_context_free(scratch->context);
    pcre2_jit_stack_free(scratch->stack);
    free(scratch);
}

/* Fills `starts`; leaves everything allowed when memory is out or the pattern looks behind. */
static void measure_starts(proa_regex *regex)
{
    memset(regex->starts, 1, sizeof regex->starts);
    uint32_t behind = 1;
    pcre2_pattern_info(regex->code, PCRE2_INFO_MAXLOOKBEHIND, &behind);
    pcre2_match_data *match = pcre2_match_data_create(1, NULL);
    pcre2_match_context *context = pcre2_match_context_create(NULL);
    if (behind == 0 && match != NULL && context != NULL) {
        pcre2_set_match_limit(context, START_STEPS_MAX);
        for (int c = 0; c < 0x80; c++) {
            unsigned char byte = (unsigned char)c;
            int rc = pcre2_match(regex->code, &byte, 1, 0, PCRE2_ANCHORED | PCRE2_PARTIAL_HARD | PCRE2_NO_JIT,
                                 match, context);
            regex->starts[c] = rc != PCRE2_ERROR_NOMATCH;
            regex->skips |= rc == PCRE2_ERROR_NOMATCH;
        }
    }
    pcre2_match_data_free(match);
    pcre2_match_context_free(context);
}

static proa_status compile(const char *pattern, size_t length, uint32_t options, const char *where,
                           proa_regex *regex, proa_error *err)
{
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (context == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "%s: no memory left to compile a pattern", where);
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    pcre2_set_max_pattern_length(context, (size_t)PATTERN_BYTES_MAX * 8);
    int code;
    PCRE2_SIZE offset;
    regex->code = pcre2_compile((PCRE2_SPTR)pattern, length, options, &code, &offset, context);
    pcre2_compile_context_free(context);
    if (regex->code == NULL) {
        char message[256];
        pcre2_get_error_message(code, (PCRE2_UCHAR *)message, sizeof message);
        return proa_error_set(err, PROA_ERR_UNSUPPORTED,
                              "%s: the pattern cannot be compiled: %s (as \"%.200s\", offset %zu)", where,
                              message, pattern, (size_t)offset);
    }
    /* Without leave to make executable memory the interpreter does the same, slower. */
    regex->jit = pcre2_jit_compile(regex->code, PCRE2_JIT_COMPLETE) == 0;
    measure_starts(regex);
    return PROA_OK;
}

proa_status proa_regex_compile(const char *pattern, size_t length, proa_regex_syntax syntax,
                               const char *where, proa_regex **regex, proa_error *err)
{
    *regex = NULL;
    if (length > PATTERN_BYTES_MAX)
        return proa_error_set(err, PROA_ERR_TOO_LONG, "%s: a pattern of %zu bytes; at most %d are taken",
                              where, length, PATTERN_BYTES_MAX);
    proa_regex *made = calloc(1, sizeof *made);
    if (made == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "%s: no memory left to compile a pattern", where);
    proa_buf translated = {0};
    proa_status status = PROA_OK;
    if (syntax == PROA_REGEX_ONIGURUMA) {
        status = proa_regex_translate(pattern, length, &translated, err);
        if (status != PROA_OK)
            proa_error_prefix(err, "%s", where);
        pattern = proa_buf_text(&translated);
        length = translated.length;
    }
    uint32_t options =
        PCRE2_UTF | (syntax == PROA_REGEX_LITERAL ? PCRE2_LITERAL
                                                  : PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C);
    if (status == PROA_OK)
        status = compile(pattern, length, options, where, made, err);
    proa_buf_free(&translated);
    if (status == PROA_OK)
        *regex = made;
    else
        proa_regex_free(made);
    return status;
}

void proa_regex_free(proa_regex *regex)
{
    if (regex == NULL)
        return;
    pcre2_code_free(regex->code);
    free(regex);
}

static proa_status limit_error(int rc, proa_error *err)
{
    char message[256];
    pcre2_get_error_message(rc, (PCRE2_UCHAR *)message, sizeof message);
    return proa_error_set(
        err, PROA_ERR_TOO_LONG,
        "a pattern of tokenizer.json takes too many steps on this text (%s): shorten runs of "
        "similar characters in the text, or use another tokenizer.json",
        message);
}

proa_status proa_regex_find(const proa_regex *regex, proa_regex_scratch *scratch, const char *text,
                            size_t length, size_t from, size_t *start, size_t *end, proa_error *err)
{
    PROA_ASSERT(from <= length);
    if (regex->skips) {
        while (from < length && !regex->starts[(unsigned char)text[from]])
            from++;
    }
    size_t steps = MATCH_STEPS_BASE + MATCH_STEPS_A_BYTE * (length - from);
    pcre2_set_match_limit(scratch->context, steps < UINT32_MAX ? (uint32_t)steps : UINT32_MAX);
    int rc;
    if (regex->jit)
        rc =
            pcre2_jit_match(regex->code, (PCRE2_SPTR)text, length, from, 0, scratch->match, scratch->context);
    else
        rc = pcre2_match(regex->code, (PCRE2_SPTR)text, length, from, PCRE2_NO_UTF_CHECK, scratch->match,
                         scratch->context);
    if (rc == PCRE2_ERROR_NOMATCH)
        return PROA_END;
    if (rc < 0)
        return limit_error(rc, err);
    const PCRE2_SIZE *bounds = pcre2_get_ovector_pointer(scratch->match);
    *start = bounds[0];
    *end = bounds[1];
    return PROA_OK;
}
