/* slurm.h - `proa slurm`: a job that serves one model on the nodes of a Slurm cluster, with prefill and decode apart.
 *
 *   submit    plan (slurm_plan.c, slurm_flags.c: arguments checked, flags of both workers from a preset) ─> script (slurm_render.c: the job template,
 *             slurm_job.sh.j2, or a user's) ─> sbatch (slurm_submit.c), which keeps script and plan under logs/JOB
 *   wait      a step of the job: until the frontends list every worker (slurm_health.c)
 *   status    what job, nodes and service are doing (slurm_status.c, from logs/JOB, scontrol and a frontend's /health)
 *   template  prints the job template, to be changed and given to submit
 *
 * Which node does what, when it is known, the script says in logs/JOB/layout.tsv: role, worker, rank, node, address, name of the logs.
 */
#ifndef PROA_CMD_SLURM_H
#define PROA_CMD_SLURM_H

#include "base/json.h"
#include "cmd/slurm_words.h"

enum {
    PROA_SLURM_HTTP_PORT = 8000,
    PROA_SLURM_NODES_MAX = 4096,
    PROA_SLURM_ARGUMENTS_MAX = 256, /* behind the verb */
    PROA_SLURM_PATH_MAX = 4096,     /* bytes of a path, with the zero byte */
};

/* The job template, slurm_job.sh.j2, as the build has embedded it. */
extern const char proa_slurm_job_template[];

/* Of the prefill or the decode workers. */
typedef struct proa_slurm_side {
    const char *mode; /* "prefill", "decode" */
    int nodes;        /* of all workers */
    int workers;
    int ranks;     /* of a worker */
    int instances; /* of all workers: what frontends list */
    proa_flags flags;
} proa_slurm_side;

/* A job as its user asked for it, checked. Strings live as long as the arena and the options. */
typedef struct proa_slurm_plan {
    const proa_options *options;
    proa_arena *arena;
    bool container;
    char model_dir[PROA_SLURM_PATH_MAX];  /* absolute, of the host */
    char config_dir[PROA_SLURM_PATH_MAX]; /* "": none */
    char program[PROA_SLURM_PATH_MAX];    /* what a step runs */
    char work_dir[PROA_SLURM_PATH_MAX];   /* where logs/ is */
    int gpus_per_node;
    int frontends;
    bool load_balancer;
    proa_slurm_side prefill, decode;
    proa_flags frontend;
    const char *profiler; /* "manual", "sglang", "vllm" */
    int profile_isl, profile_osl;
    proa_words profile_concurrencies;
    char timestamp[32]; /* of the plan: "20261126_215000" */
} proa_slurm_plan;

/* Fills the plan from the options; errors are the user's to correct. */
proa_status proa_slurm_plan_make(const proa_options *options, proa_arena *arena, proa_slurm_plan *plan,
                                 proa_error *err);

/* Its parts (slurm_flags.c, slurm_profiler.c). */
proa_status proa_slurm_plan_flags(proa_slurm_plan *plan, proa_error *err);
proa_status proa_slurm_plan_profiler(proa_slurm_plan *plan, proa_error *err);

/* JSON and the template hold UTF-8, and a script's lines have an end: other text is an error, which calls it `where`. */
proa_status proa_slurm_check_text(const char *text, const char *where, proa_error *err);

/* The flags that a GPU type's preset gives to a side, for its number of ranks; experts of the model 0: unknown. `config_dir` is where
 * steps see it, or "". */
proa_status proa_slurm_preset(const char *gpu_type, const char *config_dir, bool deepep_config, int experts,
                              proa_slurm_side *side, proa_error *err);

/* For --use-init-location: the name that the preset's file has in --config-dir. */
const char *proa_slurm_preset_location(const char *gpu_type, const char *mode);

/* Appends the script. `command_line` is said in it. */
proa_status proa_slurm_render(const proa_slurm_plan *plan, proa_buf *script, proa_error *err);

/* What is kept beside the script: a JSON object. NULL when memory is out. */
proa_json *proa_slurm_metadata(const proa_slurm_plan *plan);

/* Runs a program of PATH to its end and appends what it writes on its standard output; standard error is this process's, or, with
 * `complaint`, appended there. *exit_status as of a shell. Fails when it cannot be started, or has not ended after `seconds` (it is
 * killed then). */
proa_status proa_slurm_run(char *const *words, double seconds, proa_buf *output, proa_buf *complaint,
                           int *exit_status, proa_error *err);

/* How many ranks that have requests frontends list as ready. */
typedef struct proa_slurm_health {
    bool healthy; /* by its status */
    int prefill;
    int decode;
    proa_json *answer; /* of the last frontend asked; NULL: none has answered */
} proa_slurm_health;

/* Asks `url`, http://host:port, and gives what it says; the caller frees answer. */
proa_status proa_slurm_ask_health(const char *url, double seconds, proa_slurm_health *health,
                                  proa_error *err);

/* The verbs; each returns the exit status. */
int proa_cmd_slurm_submit(const proa_options *options);
int proa_cmd_slurm_wait(const proa_options *options);
int proa_cmd_slurm_status(const proa_options *options);

#endif
