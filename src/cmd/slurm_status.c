/* slurm_status.c - `proa slurm status`: what a job's nodes and its service are doing. It looks once and changes nothing; what it cannot
 * find out, since Slurm has forgotten the job or no frontend answers here, it says. */
#include "base/file.h"
#include "cmd/cmd.h"
#include "cmd/slurm.h"
#include "cmd/slurm_layout.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SLURM_SECONDS = 20,
    HEALTH_SECONDS = 3,
    LAYOUT_BYTES_MAX = 8 << 20,
    METADATA_BYTES_MAX = 8 << 20,
    LOG_END_BYTES = 64 << 10,
    LINE_MAX = 200, /* bytes of a word of Slurm's that is shown */
};

typedef struct report {
    const proa_options *options;
    char job[32];
    char dir[64];        /* logs/JOB */
    proa_json *metadata; /* NULL: none was kept */
    proa_buf layout;
    char url[256];
    proa_slurm_health health; /* answer NULL: none */
    char no_health[256];      /* why */
} report;

/* ---- the job ---- */

/* The newest of logs/NUMBER. */
static long newest_job(void)
{
    long newest = -1;
    DIR *dir = opendir("logs");
    for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;) {
        char *end;
        long n = strtol(entry->d_name, &end, 10);
        if (*end == '\0' && end != entry->d_name && n > newest)
            newest = n;
    }
    if (dir != NULL)
        closedir(dir);
    return newest;
}

static proa_status find_job(report *r, proa_error *err)
{
    const char *job = proa_options_argument(r->options, 1);
    long newest = job == NULL ? newest_job() : 0;
    if (job == NULL && newest < 0)
        return proa_error_set(err, PROA_ERR_NOT_FOUND,
                              "there is no logs/JOB here: run this in the folder where jobs are submitted");
    if (job != NULL && (strspn(job, "0123456789") != strlen(job) || strlen(job) >= sizeof r->job))
        return proa_error_set(err, PROA_ERR_INVALID, "\"%.40s\" is no job: give its number", job);
    if (job != NULL)
        snprintf(r->job, sizeof r->job, "%s", job);
    else
        snprintf(r->job, sizeof r->job, "%ld", newest);
    snprintf(r->dir, sizeof r->dir, "logs/%s", r->job);
    if (!proa_file_exists(r->dir))
        return proa_error_set(err, PROA_ERR_NOT_FOUND,
                              "%s is absent: run this in the folder where the job was submitted", r->dir);
    return PROA_OK;
}

/* The value of NAME=value in what scontrol says. */
static void find_word(const char *text, const char *name, char value[LINE_MAX])
{
    size_t length = strlen(name);
    snprintf(value, LINE_MAX, "?");
    for (const char *at = text; (at = strstr(at, name)) != NULL; at += length) {
        bool begins = at == text || at[-1] == ' ' || at[-1] == '\n';
        if (!begins || at[length] != '=')
            continue;
        snprintf(value, LINE_MAX, "%.*s", (int)strcspn(at + length + 1, " \n"), at + length + 1);
        return;
    }
}

static void print_job(const report *r)
{
    char state[LINE_MAX], reason[LINE_MAX], run[LINE_MAX], limit[LINE_MAX], code[LINE_MAX];
    const char *name = proa_json_string(proa_json_get(r->metadata, "job_name"), "");
    const char *const words[] = {"scontrol", "show", "job", r->job, NULL};
    proa_buf output = {0}, complaint = {0};
    proa_error err = {0};
    int exit_status = 0;
    proa_status status =
        proa_slurm_run((char *const *)words, SLURM_SECONDS, &output, &complaint, &exit_status, &err);
    if (status != PROA_OK || exit_status != 0) {
        const char *why = status != PROA_OK ? err.text : proa_buf_text(&complaint);
        printf("job %s %s: state unknown: %.*s\n", r->job, name, (int)strcspn(why, "\n"), why);
    } else {
        const char *text = proa_buf_text(&output);
        find_word(text, "JobState", state);
        find_word(text, "Reason", reason);
        find_word(text, "RunTime", run);
        find_word(text, "TimeLimit", limit);
        find_word(text, "ExitCode", code);
        bool waits = strcmp(state, "PENDING") == 0, runs = strcmp(state, "RUNNING") == 0;
        printf("job %s %s: %s%s%s%s, %s of %s%s%s\n", r->job, name, state, waits ? " (" : "",
               waits ? reason : "", waits ? ")" : "", run, limit, waits || runs ? "" : ", exit code ",
               waits || runs ? "" : code);
    }
    proa_buf_free(&output);
    proa_buf_free(&complaint);
}

/* ---- what is read ---- */

static void read_metadata(report *r)
{
    char path[128];
    proa_error err = {0};
    snprintf(path, sizeof path, "%s/metadata.json", r->dir);
    r->metadata = proa_json_parse_file(path, METADATA_BYTES_MAX, &err);
}

static proa_status read_layout(report *r, proa_error *err)
{
    char path[128];
    snprintf(path, sizeof path, "%s/layout.tsv", r->dir);
    return proa_file_exists(path) ? proa_file_read(path, LAYOUT_BYTES_MAX, &r->layout, err) : PROA_OK;
}

static void ask_health(report *r)
{
    char path[128];
    proa_error err = {0};
    proa_buf url = {0};
    const char *given = proa_options_string(r->options, "url");
    snprintf(path, sizeof path, "%s/url", r->dir);
    if (given != NULL)
        proa_buf_append_text(&url, given);
    else if (!proa_file_exists(path) || proa_file_read(path, sizeof r->url - 1, &url, &err) != PROA_OK)
        snprintf(r->no_health, sizeof r->no_health, "the job has not said where its service is");
    snprintf(r->url, sizeof r->url, "%.*s", (int)strcspn(proa_buf_text(&url), "\n"), proa_buf_text(&url));
    proa_buf_free(&url);
    if (r->no_health[0] == '\0' && proa_slurm_ask_health(r->url, HEALTH_SECONDS, &r->health, &err) != PROA_OK)
        snprintf(r->no_health, sizeof r->no_health, "%s", err.text);
}

/* ---- what is printed ---- */

static int wanted(const report *r, const char *name)
{
    return (int)proa_json_int(proa_json_get(r->metadata, name), 0);
}

/* Whether the service has all of its ranks. */
static bool print_service(const report *r)
{
    const proa_slurm_health *h = &r->health;
    int prefill = wanted(r, "prefill_instances"), decode = wanted(r, "decode_instances");
    if (h->answer == NULL) {
        printf("service: %s\n", r->no_health);
        return false;
    }
    bool whole = h->healthy && h->prefill >= prefill && h->decode >= decode;
    printf("service: %s at %s: %d of %d prefill and %d of %d decode instances are ready\n",
           whole        ? "healthy"
           : h->healthy ? "serving, not whole,"
                        : "not healthy",
           r->url, h->prefill, prefill, h->decode, decode);
    return whole;
}

/* How many of the ready instances are at the address. */
static int ready_at(const report *r, const char *address)
{
    const proa_json *instances = proa_json_get(r->health.answer, "instances");
    size_t length = strlen(address);
    int count = 0;
    for (size_t i = 0; i < proa_json_size(instances); i++) {
        const proa_json *one = proa_json_at(instances, i);
        const char *at = proa_json_string(proa_json_get(proa_json_get(one, "transport"), "tcp"), "");
        count += strncmp(at, address, length) == 0 && at[length] == ':' &&
                 strcmp(proa_json_string(proa_json_get(one, "status"), "ready"), "ready") == 0;
    }
    return count;
}

static void read_notes(const report *r, const char *label, proa_layout_notes *notes)
{
    char path[PROA_LAYOUT_WORD_BYTES + 128];
    proa_buf end = {0};
    proa_error err = {0};
    *notes = (proa_layout_notes){0};
    snprintf(path, sizeof path, "%s/%s.err", r->dir, label);
    if (proa_layout_file_end(path, LOG_END_BYTES, &end, &err) == PROA_OK)
        proa_layout_read_log(proa_buf_text(&end), end.length, notes);
    proa_buf_free(&end);
}

static void print_line(const report *r, const proa_layout_line *line, const proa_layout_notes *notes)
{
    char state[64] = "";
    bool prefill = strcmp(line->role, "prefill") == 0, worker = prefill || strcmp(line->role, "decode") == 0;
    int nodes = wanted(r, prefill ? "prefill_nodes" : "decode_nodes");
    if (worker && r->health.answer != NULL)
        snprintf(state, sizeof state, "%d of %d ready", ready_at(r, line->address),
                 nodes > 0 ? wanted(r, prefill ? "prefill_instances" : "decode_instances") / nodes : 0);
    printf("%-12s %-15s %-9s %6d %4d  %-15s %s\n", line->node, line->address, line->role, line->worker,
           line->rank, state, worker ? notes->progress : "");
}

/* The lines of the layout, one after another; false behind the last one. */
static bool next_line(const char **text, proa_layout_line *line)
{
    while (**text != '\0') {
        size_t length = strcspn(*text, "\n");
        bool good = proa_layout_parse(*text, length, line);
        *text += length + ((*text)[length] == '\n');
        if (good)
            return true;
    }
    return false;
}

static void print_errors(const report *r)
{
    proa_layout_line line;
    proa_layout_notes notes;
    bool any = false;
    const char *text = proa_buf_text(&r->layout);
    for (int i = -1; i < PROA_LAYOUT_LINES_MAX; i++) {
        if (i >= 0 && !next_line(&text, &line))
            break;
        read_notes(r, i < 0 ? "log" : line.label, &notes);
        if (notes.error[0] == '\0')
            continue;
        if (!any)
            printf("\nlast errors\n");
        any = true;
        printf("%s.err: %s\n", i < 0 ? "log" : line.label, notes.error);
    }
}

static void print_nodes(const report *r)
{
    proa_layout_line line;
    proa_layout_notes notes;
    const char *text = proa_buf_text(&r->layout);
    if (r->layout.length == 0)
        return;
    printf("\n%-12s %-15s %-9s %6s %4s  %-15s %s\n", "node", "address", "role", "worker", "rank", "instances",
           "its log says");
    for (int i = 0; i < PROA_LAYOUT_LINES_MAX && next_line(&text, &line); i++) {
        read_notes(r, line.label, &notes);
        print_line(r, &line, &notes);
    }
}

int proa_cmd_slurm_status(const proa_options *options)
{
    report r = {.options = options};
    proa_error err = {0};
    bool whole = false;
    proa_status status = find_job(&r, &err);
    if (status == PROA_OK)
        status = read_layout(&r, &err);
    if (status == PROA_OK) {
        read_metadata(&r);
        ask_health(&r);
        print_job(&r);
        whole = print_service(&r);
        print_nodes(&r);
        print_errors(&r);
    }
    proa_json_free(r.health.answer);
    proa_json_free(r.metadata);
    proa_buf_free(&r.layout);
    if (status != PROA_OK)
        return proa_cmd_fail(&err);
    return whole ? PROA_EXIT_OK : PROA_EXIT_FAILED;
}
