/* eval_questions.c - reading, judging and reporting the questions of an evaluation. */
#include "cmd/eval.h"

#include "base/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FILE_BYTES_MAX = 256 << 20, TASKS_MAX = 64, BAR_WIDTH = 30 };

typedef struct task_count {
    const char *name;
    size_t right, count;
    int64_t tokens;
} task_count;

static const char *field(const proa_json *row, const char *name, const char *path, size_t line,
                         proa_arena *arena, proa_error *err)
{
    const proa_json *value = proa_json_get(row, name);
    if (!proa_json_is(value, PROA_JSON_STRING)) {
        proa_error_set(err, PROA_ERR_INVALID, "%s line %zu: needs a string \"%s\"", path, line, name);
        return NULL;
    }
    const char *copy = proa_arena_string(arena, proa_json_string(value, ""), proa_json_string_length(value));
    if (copy == NULL)
        proa_error_set(err, PROA_ERR_MEMORY, "no memory for the questions of %s", path);
    return copy;
}

static proa_status read_line(const char *text, size_t length, const char *path, size_t line,
                             proa_arena *arena, proa_question *question, proa_error *err)
{
    proa_json *row = proa_json_parse(text, length, err);
    if (row == NULL)
        return proa_error_prefix(err, "%s line %zu", path, line);
    question->id = proa_json_int(proa_json_get(row, "id"), (int64_t)line - 1);
    question->task = proa_json_get(row, "task") != NULL ? field(row, "task", path, line, arena, err) : "all";
    question->text = question->task != NULL ? field(row, "question", path, line, arena, err) : NULL;
    question->expected = question->text != NULL ? field(row, "answer", path, line, arena, err) : NULL;
    proa_json_free(row);
    return question->expected != NULL ? PROA_OK : PROA_ERR_INVALID;
}

static size_t count_lines(const proa_buf *text)
{
    size_t lines = 0;
    for (size_t i = 0; i < text->length; i++)
        lines += text->data[i] == '\n';
    return lines + 1;
}

proa_status proa_questions_read(const char *path, int64_t limit, proa_arena *arena, proa_question **questions,
                                size_t *count, proa_error *err)
{
    proa_buf text = {0};
    proa_status status = proa_file_read(path, FILE_BYTES_MAX, &text, err);
    *count = 0;
    *questions = status == PROA_OK ? proa_arena_array(arena, count_lines(&text), sizeof **questions) : NULL;
    if (status == PROA_OK && *questions == NULL)
        status = proa_error_set(err, PROA_ERR_MEMORY, "no memory for the questions of %s", path);
    size_t line = 0;
    for (size_t at = 0; status == PROA_OK && at < text.length; line++) {
        const char *start = text.data + at;
        const char *end = memchr(start, '\n', text.length - at);
        size_t length = end != NULL ? (size_t)(end - start) : text.length - at;
        at += length + 1;
        if (length == 0 || (limit > 0 && *count == (size_t)limit))
            continue;
        status = read_line(start, length, path, line + 1, arena, *questions + *count, err);
        *count += status == PROA_OK;
    }
    proa_buf_free(&text);
    if (status == PROA_OK && *count == 0)
        status = proa_error_set(err, PROA_ERR_INVALID, "%s holds no questions", path);
    return status;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

proa_status proa_question_judge(proa_question *question, const char *output, size_t length, proa_arena *arena,
                                proa_error *err)
{
    static const char mark[] = "</think>";
    char *copy = proa_arena_string(arena, output, length);
    if (copy == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the answers");
    const char *answer = NULL;
    for (const char *at = copy; (at = strstr(at, mark)) != NULL;)
        answer = at += sizeof mark - 1;
    size_t first = 0, last = answer != NULL ? strlen(answer) : 0;
    while (first < last && is_space(answer[first]))
        first++;
    while (last > first && is_space(answer[last - 1]))
        last--;
    question->output = copy;
    question->answer = proa_arena_string(arena, answer != NULL ? answer + first : "", last - first);
    if (question->answer == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the answers");
    question->right = strcmp(question->answer, question->expected) == 0;
    return PROA_OK;
}

/* Tasks in order of their first question; those past the table's end go with the last. */
static size_t count_tasks(const proa_question *questions, size_t count, task_count tasks[TASKS_MAX])
{
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        size_t t = 0;
        while (t < used && strcmp(tasks[t].name, questions[i].task) != 0)
            t++;
        if (t == TASKS_MAX)
            t = TASKS_MAX - 1;
        if (t == used)
            tasks[used++] = (task_count){.name = questions[i].task};
        tasks[t].right += questions[i].right;
        tasks[t].tokens += questions[i].tokens;
        tasks[t].count++;
    }
    return used;
}

static task_count sum_of(const task_count *tasks, size_t count)
{
    task_count all = {.name = "all"};
    for (size_t i = 0; i < count; i++) {
        all.right += tasks[i].right;
        all.count += tasks[i].count;
        all.tokens += tasks[i].tokens;
    }
    return all;
}

static void print_row(const task_count *t, bool terminal)
{
    double share = (double)t->right / (double)t->count;
    printf("%-12s %6zu %10zu %8.1f %%  %10.1f", t->name, t->right, t->count, 100 * share,
           (double)t->tokens / (double)t->count);
    if (terminal) {
        printf("  ");
        for (int i = 0; i < BAR_WIDTH; i++)
            fputs(i < (int)(share * BAR_WIDTH) ? "\033[32m█\033[0m" : "\033[31m░\033[0m", stdout);
    }
    printf("\n");
}

size_t proa_questions_print(const proa_question *questions, size_t count, const proa_eval_run *run)
{
    task_count tasks[TASKS_MAX];
    bool terminal = isatty(STDOUT_FILENO);
    size_t used = count_tasks(questions, count, tasks);
    printf("%-12s %6s %10s %10s  %10s\n", "task", "right", "questions", "share", "tokens each");
    for (size_t i = 0; i < used; i++)
        print_row(&tasks[i], terminal);
    task_count all = sum_of(tasks, used);
    print_row(&all, terminal);
    printf("%.1f s, %.0f tokens/s\n", run->seconds, (double)all.tokens / run->seconds);
    if (run->errors > 0)
        printf("%zu without an answer, counted as wrong\n", run->errors);
    return all.right;
}

static bool set_string(proa_json *object, const char *name, const char *text)
{
    return proa_json_set(object, name, proa_json_new_text(text));
}

proa_status proa_questions_write(const proa_question *questions, size_t count, const char *path,
                                 proa_error *err)
{
    proa_buf out = {0};
    bool good = true;
    for (size_t i = 0; good && i < count; i++) {
        const proa_question *q = &questions[i];
        proa_json *row = proa_json_new_object();
        good = row != NULL && proa_json_set(row, "id", proa_json_new_int(q->id)) &&
               set_string(row, "task", q->task) && set_string(row, "question", q->text) &&
               set_string(row, "expected", q->expected) && set_string(row, "answer", q->answer) &&
               proa_json_set(row, "ok", proa_json_new_bool(q->right)) &&
               proa_json_set(row, "tokens", proa_json_new_int(q->tokens)) &&
               set_string(row, "output", q->output);
        if (good)
            proa_json_write(row, 0, &out);
        proa_buf_append_char(&out, '\n');
        proa_json_free(row);
    }
    proa_status status = good && !out.failed
                             ? proa_file_write(path, proa_buf_text(&out), out.length, err)
                             : proa_error_set(err, PROA_ERR_MEMORY, "no memory to write %s", path);
    proa_buf_free(&out);
    return status;
}

static proa_json *summary_of(const task_count *t)
{
    proa_json *row = proa_json_new_object();
    if (row != NULL && proa_json_set(row, "questions", proa_json_new_int((int64_t)t->count)) &&
        proa_json_set(row, "right", proa_json_new_int((int64_t)t->right)) &&
        proa_json_set(row, "accuracy", proa_json_new_real((double)t->right / (double)t->count)) &&
        proa_json_set(row, "tokens", proa_json_new_int(t->tokens)))
        return row;
    proa_json_free(row);
    return NULL;
}

proa_status proa_questions_write_summary(const proa_question *questions, size_t count,
                                         const proa_eval_run *run, const char *path, proa_error *err)
{
    task_count tasks[TASKS_MAX];
    size_t used = count_tasks(questions, count, tasks);
    task_count all = sum_of(tasks, used);
    proa_json *summary = summary_of(&all), *by_task = proa_json_new_object();
    bool good = summary != NULL && by_task != NULL;
    for (size_t i = 0; good && i < used; i++)
        good = proa_json_set(by_task, tasks[i].name, summary_of(&tasks[i]));
    good = good && proa_json_set(summary, "errors", proa_json_new_int((int64_t)run->errors)) &&
           proa_json_set(summary, "seconds", proa_json_new_real(run->seconds)) &&
           proa_json_set(summary, "tokens_per_second", proa_json_new_real((double)all.tokens / run->seconds));
    if (good)
        good = proa_json_set(summary, "tasks", by_task);
    else
        proa_json_free(by_task);
    proa_buf out = {0};
    if (good)
        proa_json_write(summary, 2, &out);
    proa_buf_append_char(&out, '\n');
    proa_status status = good && !out.failed
                             ? proa_file_write(path, proa_buf_text(&out), out.length, err)
                             : proa_error_set(err, PROA_ERR_MEMORY, "no memory to write %s", path);
    proa_buf_free(&out);
    proa_json_free(summary);
    return status;
}
