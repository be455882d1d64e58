/* eval.h - the questions of an evaluation and their table; apart from the engine that answers them (eval.c). */
#ifndef PROA_CMD_EVAL_H
#define PROA_CMD_EVAL_H

#include "base/arena.h"
#include "base/json.h"
#include "base/option.h"

typedef struct proa_question {
    int64_t id;
    const char *task;
    const char *text;
    const char *expected;
    /* what came back */
    const char *output; /* the whole answer, reasoning included */
    const char *answer; /* what follows the last </think>, trimmed; "" without one */
    int32_t tokens;     /* generated */
    bool right;
} proa_question;

/* How the asking went. */
typedef struct proa_eval_run {
    double seconds;
    size_t errors; /* questions without an answer, which count as wrong */
    proa_error first_error;
} proa_eval_run;

/* Asks the server of --url, --concurrency questions at once, and judges what it answers. Fails when there is no server;
 * questions that it does not answer are counted in `run`. */
proa_status proa_eval_over_http(const proa_options *options, proa_question *questions, size_t count,
                                proa_arena *arena, proa_eval_run *run, proa_error *err);

/* Reads JSON lines {"id", "task", "question", "answer"}; at most `limit` of them when it is over 0. Errors name file
 * and line. The questions and their texts live in `arena`. */
proa_status proa_questions_read(const char *path, int64_t limit, proa_arena *arena, proa_question **questions,
                                size_t *count, proa_error *err);

/* Keeps the output and judges the answer: right when it equals what was expected, byte for byte. */
proa_status proa_question_judge(proa_question *question, const char *output, size_t length, proa_arena *arena,
                                proa_error *err);

/* A line a task and the sum, with bars when standard output is a terminal. Returns the number right. */
size_t proa_questions_print(const proa_question *questions, size_t count, const proa_eval_run *run);

/* JSON lines {"id", "task", "question", "expected", "answer", "ok", "tokens", "output"}. */
proa_status proa_questions_write(const proa_question *questions, size_t count, const char *path,
                                 proa_error *err);

/* {"questions", "right", "accuracy", "errors", "seconds", "tokens", "tokens_per_second", "tasks": {name: {...}}} */
proa_status proa_questions_write_summary(const proa_question *questions, size_t count,
                                         const proa_eval_run *run, const char *path, proa_error *err);

#endif
