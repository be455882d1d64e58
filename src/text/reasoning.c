/* reasoning.c - the state machine; see reasoning.h for what it promises.
 *
 * A tag is found by holding back text as long as it is a beginning of the tag. Both tags begin with their only '<', so
 * after a mismatch only the latest byte can begin another one. White space is ASCII's.
 *
 * Lacks: other tags, and reasoning that begins again after </think>: a second <think> is content.
 */
#include "text/reasoning.h"

#include <stdint.h>
#include <string.h>

/*
 *            answer begins
 *            │           │
 *   reasoning on       reasoning off
 *            │           │
 *            v           │
 *          BEGIN ──────┐ │      "<think>", or anything that is no beginning of it
 *                      v │
 *                REASONING│     everything before "</think>"
 *                      │ │
 *             </think> v │
 *                   BETWEEN     white space is dropped
 *                      │ │
 *      something else  v v
 *                   CONTENT     everything
 */
enum {
    BEGIN,
    REASONING,
    BETWEEN,
    CONTENT,
};

static const char open_tag[] = "<think>", close_tag[] = "</think>";

_Static_assert(sizeof close_tag <= sizeof((proa_reasoning *)NULL)->hold, "a held tag fits");

proa_status proa_reasoning_kind_parse(const char *name, proa_reasoning_kind *kind, proa_error *err)
{
    static const struct {
        const char *name;
        proa_reasoning_kind kind;
    } kinds[] = {{"", PROA_REASONING_NONE},
                 {"none", PROA_REASONING_NONE},
                 {"deepseek-r1", PROA_REASONING_DEEPSEEK_R1},
                 {"deepseek-v3", PROA_REASONING_DEEPSEEK_V3}};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strcmp(name, kinds[i].name) == 0) {
            *kind = kinds[i].kind;
            return PROA_OK;
        }
    }
    return proa_error_set(err, PROA_ERR_UNSUPPORTED,
                          "no reasoning parser \"%.60s\": known are none, deepseek-r1 and deepseek-v3", name);
}

void proa_reasoning_init(proa_reasoning *r, proa_reasoning_kind kind, bool thinking)
{
    bool reasons = kind == PROA_REASONING_DEEPSEEK_R1 || (kind == PROA_REASONING_DEEPSEEK_V3 && thinking);
    *r = (proa_reasoning){.state = reasons ? BEGIN : CONTENT};
}

bool proa_reasoning_inside(const proa_reasoning *r)
{
    return r->state == BEGIN || r->state == REASONING;
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* In BEGIN or REASONING, with nothing held: passes on what cannot begin a tag. Returns how much that was. */
static size_t pass_plain(proa_reasoning *r, const char *text, size_t length, proa_buf *reasoning)
{
    const char *tag = memchr(text, '<', length);
    size_t plain = tag != NULL ? (size_t)(tag - text) : length;
    if (plain > 0) {
        proa_buf_append(reasoning, text, plain);
        r->state = REASONING;
    }
    return plain;
}

/* Adds a byte to what is held; decides when it is a whole tag or none. */
static void hold(proa_reasoning *r, char c, proa_buf *reasoning)
{
    if (r->state == BEGIN) {
        if (c == open_tag[r->held]) {
            r->hold[r->held++] = c;
            if (r->held < sizeof open_tag - 1)
                return;
            r->held = 0;
            r->state = REASONING;
            return;
        }
        r->state = REASONING; /* what is held, '<' at least, may still begin the other tag */
        if (r->held > 1) {
            proa_buf_append(reasoning, r->hold, r->held);
            r->held = 0;
        }
    }
    if (c != close_tag[r->held]) {
        proa_buf_append(reasoning, r->hold, r->held);
        r->held = 0;
    }
    if (c != close_tag[r->held]) {
        proa_buf_append_char(reasoning, c);
        return;
    }
    r->hold[r->held++] = c;
    if (r->held == sizeof close_tag - 1) {
        r->held = 0;
        r->state = BETWEEN;
    }
}

void proa_reasoning_push(proa_reasoning *r, const char *text, size_t length, proa_buf *reasoning,
                         proa_buf *content)
{
    size_t i = 0;
    while (i < length && proa_reasoning_inside(r)) {
        if (r->held == 0)
            i += pass_plain(r, text + i, length - i, reasoning);
        if (i < length)
            hold(r, text[i++], reasoning);
    }
    while (i < length && r->state == BETWEEN) {
        if (is_space(text[i]))
            i++;
        else
            r->state = CONTENT;
    }
    proa_buf_append(content, text + i, length - i);
}

void proa_reasoning_finish(proa_reasoning *r, proa_buf *reasoning, proa_buf *content)
{
    (void)content; /* nothing is ever held back from it */
    proa_buf_append(reasoning, r->hold, r->held);
    r->held = 0;
}
