/* cmd.h - the subcommands. Each is a file of its own here; options.c lists them beside the table of options.
 *
 * A command gets its parsed options, prints results on standard output and errors on standard error, and returns the
 * exit status of the process: one of the codes below.
 */
#ifndef PROA_CMD_CMD_H
#define PROA_CMD_CMD_H

#include "base/option.h"
#include "text/tokenizer.h"

enum {
    PROA_EXIT_OK = 0,
    PROA_EXIT_FAILED = 1, /* the work failed */
    PROA_EXIT_USAGE = 2,  /* the command line was wrong */
};

/* The commands and options of this program. */
extern const proa_program proa_cmd_program;

/* Prints the error for people and returns the exit status that fits. */
int proa_cmd_fail(const proa_error *err);

/* Loads what --tokenizer-path or --model-path names, a folder or a file; prints its own errors. Returns an exit status. */
int proa_cmd_open_tokenizer(const proa_options *options, proa_tokenizer **tokenizer);

int proa_cmd_bench(const proa_options *options);
int proa_cmd_bench_a2a(const proa_options *options);       /* `bench a2a` */
int proa_cmd_bench_load(const proa_options *options);      /* `bench load` */
int proa_cmd_bench_model(const proa_options *options);     /* `bench model` */
int proa_cmd_bench_draw(const proa_options *options);      /* `bench slice --from-json` */
int proa_cmd_bench_slice(const proa_options *options);     /* `bench slice` */
int proa_cmd_bench_tokenizer(const proa_options *options); /* `bench tokenizer` */
int proa_cmd_bench_transfer(const proa_options *options);  /* `bench transfer` */
int proa_cmd_doctor(const proa_options *options);
int proa_cmd_detokenize(const proa_options *options);
int proa_cmd_logits(const proa_options *options);
int proa_cmd_env(const proa_options *options);
int proa_cmd_eplb(const proa_options *options);
int proa_cmd_eval(const proa_options *options);
int proa_cmd_frontend(const proa_options *options);
int proa_cmd_health(const proa_options *options);
int proa_cmd_help(const proa_options *options);
int proa_cmd_precompile(const proa_options *options);
int proa_cmd_slurm(const proa_options *options);
int proa_cmd_serve(const proa_options *options);
int proa_cmd_tokenize(const proa_options *options);
int proa_cmd_version(const proa_options *options);
int proa_cmd_worker(const proa_options *options);

#endif
