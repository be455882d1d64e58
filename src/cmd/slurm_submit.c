/* slurm_submit.c - `proa slurm submit`: plan, script, sbatch; script and plan are kept under logs/JOB. */
#include "base/file.h"
#include "base/shell.h"
#include "cmd/cmd.h"
#include "cmd/slurm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SBATCH_SECONDS = 120, JOB_ID_BYTES = 32 };

static const char logs_dir[] = "logs";

typedef struct submission {
    proa_slurm_plan plan;
    proa_buf script;
    proa_words ids; /* of the jobs, the first one and its retries */
} submission;

static proa_status make_dir(const char *path, proa_error *err)
{
    if (mkdir(path, 0777) == 0 || errno == EEXIST)
        return PROA_OK;
    return proa_error_set(err, PROA_ERR_IO, "%s: %s: run this where a folder for logs can be made", path,
                          strerror(errno));
}

/* sbatch's words: the user's come last, and what stands on the command line goes before the script's #SBATCH lines. */
static void sbatch_words(const submission *s, const char *path, proa_words *words)
{
    const char *extra;
    proa_words_add(words, "sbatch");
    if (s->ids.count > 0) {
        proa_buf earlier = {0};
        for (int i = 0; i < s->ids.count; i++)
            proa_buf_append_format(&earlier, ":%s", s->ids.list[i]);
        proa_words_add_format(words, "--dependency=afternotok%s", proa_buf_text(&earlier));
        proa_words_add(words,
                       "--kill-on-invalid-dep=yes"); /* when one ends well, the others are no longer wanted */
        proa_buf_free(&earlier);
    }
    for (int i = 0; (extra = proa_options_repeated(s->plan.options, "extra-slurm-args", i)) != NULL; i++)
        proa_words_add_format(words, "--%s", extra + strspn(extra, "-"));
    proa_words_add(words, path);
}

/* "Submitted batch job 12 on cluster c": the number. */
static bool find_id(const char *text, char id[JOB_ID_BYTES])
{
    static const char before[] = "Submitted batch job ";
    const char *found = strstr(text, before);
    if (found == NULL)
        return false;
    found += strlen(before);
    size_t digits = strspn(found, "0123456789");
    snprintf(id, JOB_ID_BYTES, "%.*s", (int)digits, found);
    return digits > 0 && digits < JOB_ID_BYTES;
}

static proa_status run_sbatch(submission *s, const char *path, proa_error *err)
{
    char id[JOB_ID_BYTES];
    int exit_status;
    proa_buf output = {0}, complaint = {0};
    proa_words words = {.arena = s->plan.arena};
    sbatch_words(s, path, &words);
    proa_status status = words.failed ? proa_error_set(err, PROA_ERR_MEMORY, "no memory for sbatch's words")
                                      : proa_slurm_run((char *const *)words.list, SBATCH_SECONDS, &output,
                                                       &complaint, &exit_status, err);
    if (status == PROA_OK && (exit_status != 0 || !find_id(proa_buf_text(&output), id)))
        status =
            proa_error_set(err, PROA_ERR_INVALID, "sbatch has refused the job (status %d): %.*s", exit_status,
                           (int)strcspn(proa_buf_text(&complaint), "\n"), proa_buf_text(&complaint));
    if (status == PROA_OK)
        proa_words_add(&s->ids, id);
    proa_buf_free(&complaint);
    proa_buf_free(&output);
    return status;
}

static proa_status keep_metadata(const submission *s, const char *dir, const char *id, proa_error *err)
{
    char path[256];
    proa_buf text = {0};
    proa_json *metadata = proa_slurm_metadata(&s->plan);
    bool made = metadata != NULL && proa_json_set(metadata, "job_id", proa_json_new_text(id));
    if (made)
        proa_json_write(metadata, 2, &text);
    proa_buf_append_char(&text, '\n');
    snprintf(path, sizeof path, "%s/metadata.json", dir);
    proa_status status = !made || text.failed ? proa_error_set(err, PROA_ERR_MEMORY, "no memory for %s", path)
                                              : proa_file_write(path, text.data, text.length, err);
    proa_buf_free(&text);
    proa_json_free(metadata);
    return status;
}

static proa_status keep(const submission *s, const char *id, proa_error *err)
{
    char dir[128], path[256];
    snprintf(dir, sizeof dir, "%s/%s", logs_dir, id);
    snprintf(path, sizeof path, "%s/sbatch_script.sh", dir);
    proa_status status = make_dir(dir, err);
    if (status == PROA_OK)
        status = proa_file_write(path, s->script.data, s->script.length, err);
    return status == PROA_OK ? keep_metadata(s, dir, id, err) : status;
}

/* All jobs: the first, and as many as are to follow it if it fails. sbatch reads the script before it answers. */
static proa_status submit_all(submission *s, proa_error *err)
{
    char path[64];
    int64_t jobs = 1 + proa_options_int(s->plan.options, "retries");
    proa_status status = make_dir(logs_dir, err);
    snprintf(path, sizeof path, "%s/.submit-%ld.sh", logs_dir, (long)getpid());
    if (status == PROA_OK)
        status = proa_file_write(path, s->script.data, s->script.length, err);
    for (int64_t i = 0; i < jobs && status == PROA_OK; i++) {
        status = run_sbatch(s, path, err);
        if (status == PROA_OK)
            status = keep(s, s->ids.list[i], err);
        if (status != PROA_OK && i > 0)
            fprintf(stderr, "proa: %lld of %lld jobs are submitted; `scancel %s` takes the first one back\n",
                    (long long)i, (long long)jobs, s->ids.list[0]);
    }
    unlink(path);
    return status;
}

static void say_what_now(const submission *s)
{
    const char *id = s->ids.list[0];
    proa_buf dir = {0};
    proa_shell_quote(&dir, s->plan.work_dir);
    printf("Submitted batch job %s: %d prefill and %d decode nodes\n", id, s->plan.prefill.nodes,
           s->plan.decode.nodes);
    for (int i = 1; i < s->ids.count; i++)
        printf("Job %s runs if those before it fail\n", s->ids.list[i]);
    printf("\n  proa slurm status %s\n  cd %s/%s/%s\n  tail -f *_decode_*.err *_prefill_*.err\n  cat "
           "log.out\n  scancel",
           id, proa_buf_text(&dir), logs_dir, id);
    for (int i = 0; i < s->ids.count; i++)
        printf(" %s", s->ids.list[i]);
    printf("\n");
    proa_buf_free(&dir);
}

int proa_cmd_slurm_submit(const proa_options *options)
{
    proa_error err = {0};
    submission *s = calloc(1, sizeof *s);
    proa_arena *arena = proa_arena_create(0);
    proa_status status =
        s == NULL || arena == NULL ? proa_error_set(&err, PROA_ERR_MEMORY, "no memory for a job") : PROA_OK;
    if (status == PROA_OK) {
        s->ids.arena = arena;
        status = proa_slurm_plan_make(options, arena, &s->plan, &err);
    }
    if (status == PROA_OK)
        status = proa_slurm_render(&s->plan, &s->script, &err);
    bool dry = status == PROA_OK && proa_options_bool(options, "dry-run");
    if (dry)
        fwrite(s->script.data, 1, s->script.length, stdout);
    else if (status == PROA_OK)
        status = submit_all(s, &err);
    if (!dry && status == PROA_OK)
        say_what_now(s);
    if (s != NULL)
        proa_buf_free(&s->script);
    free(s);
    proa_arena_free(arena);
    return status == PROA_OK ? PROA_EXIT_OK : proa_cmd_fail(&err);
}
