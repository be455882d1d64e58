/* slurm_layout.h - logs/JOB read: layout.tsv, which says where each process of the job runs, and the ends of their logs. Pure, but for the
 * reading of a file's end. What is read may be half written, or not ours: lines that do not fit are left out.
 */
#ifndef PROA_CMD_SLURM_LAYOUT_H
#define PROA_CMD_SLURM_LAYOUT_H

#include "base/buf.h"
#include "base/status.h"

enum { PROA_LAYOUT_LINES_MAX = 8192, PROA_LAYOUT_WORD_BYTES = 256, PROA_LAYOUT_NOTE_BYTES = 240 };

/* A process of the job. */
typedef struct proa_layout_line {
    char role[32];                      /* "prefill", "decode", "frontend", "nginx", "etcd", "nats" */
    int worker;                         /* its number */
    int rank;                           /* of the node among those of its worker */
    char node[PROA_LAYOUT_WORD_BYTES];  /* its name for Slurm */
    char address[64];                   /* on the interface that others use */
    char label[PROA_LAYOUT_WORD_BYTES]; /* of its logs, without .out and .err; no path */
} proa_layout_line;

/* "role TAB worker TAB rank TAB node TAB address TAB label"; false for anything else. */
bool proa_layout_parse(const char *text, size_t length, proa_layout_line *line);

/* What the end of a process's log says. */
typedef struct proa_layout_notes {
    char progress
        [PROA_LAYOUT_NOTE_BYTES]; /* the last step of its start: loading, linked to other ranks, ...; "": none seen */
    char error[PROA_LAYOUT_NOTE_BYTES]; /* the last line that tells of an error; "": none */
} proa_layout_notes;

void proa_layout_read_log(const char *text, size_t length, proa_layout_notes *notes);

/* Appends at most the last `bytes` of a file, from the begin of a line on. */
proa_status proa_layout_file_end(const char *path, size_t bytes, proa_buf *out, proa_error *err);

#endif
