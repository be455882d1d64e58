/* reasoning.h - splits a model's answer into reasoning and content, as a streaming state machine.
 *
 * deepseek-r1: the answer begins inside reasoning (the prompt may end with <think>); a leading <think> is dropped;
 * everything before the first </think> is reasoning. deepseek-v3: as r1 when `thinking`, otherwise all is content.
 * Text parser: tags may be cut anywhere between two pushes; what could be the start of a tag is held back until it is
 * certain. White space right after </think> is dropped (as SGLang and DeepSeek's API present it). One owner.
 */
#ifndef PROA_TEXT_REASONING_H
#define PROA_TEXT_REASONING_H

#include "base/buf.h"
#include "base/status.h"

typedef enum proa_reasoning_kind {
    PROA_REASONING_NONE, /* everything is content */
    PROA_REASONING_DEEPSEEK_R1,
    PROA_REASONING_DEEPSEEK_V3,
} proa_reasoning_kind;

/* "", "none", "deepseek-r1" or "deepseek-v3". */
proa_status proa_reasoning_kind_parse(const char *name, proa_reasoning_kind *kind, proa_error *err);

typedef struct proa_reasoning {
    int state;   /* enum in reasoning.c, drawn there */
    size_t held; /* bytes of a possible tag held back */
    char hold[16];
} proa_reasoning;

void proa_reasoning_init(proa_reasoning *r, proa_reasoning_kind kind, bool thinking);
/* Appends what has become certain. */
void proa_reasoning_push(proa_reasoning *r, const char *text, size_t length, proa_buf *reasoning,
                         proa_buf *content);
/* The answer has ended: what was held back is text. */
void proa_reasoning_finish(proa_reasoning *r, proa_buf *reasoning, proa_buf *content);
/* Is the next text reasoning? For counting reasoning tokens. */
bool proa_reasoning_inside(const proa_reasoning *r);

#endif
