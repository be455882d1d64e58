/* slurm.c - `proa slurm`: which verb. */
#include "cmd/slurm.h"

#include "cmd/cmd.h"

#include <stdio.h>
#include <string.h>

static int print_template(const proa_options *options)
{
    (void)options;
    fputs(proa_slurm_job_template, stdout);
    return PROA_EXIT_OK;
}

int proa_cmd_slurm(const proa_options *options)
{
    static const struct {
        const char *verb;
        int (*run)(const proa_options *options);
        int arguments_max;
    } verbs[] = {
        {"submit", proa_cmd_slurm_submit, PROA_SLURM_ARGUMENTS_MAX},
        {"status", proa_cmd_slurm_status, 1},
        {"wait", proa_cmd_slurm_wait, 0},
        {"template", print_template, 0},
    };
    const char *verb = proa_options_argument(options, 0);
    for (size_t i = 0; verb != NULL && i < sizeof verbs / sizeof *verbs; i++) {
        if (strcmp(verb, verbs[i].verb) != 0)
            continue;
        const char *more = proa_options_argument(options, 1 + verbs[i].arguments_max);
        if (more == NULL)
            return verbs[i].run(options);
        fprintf(stderr, "proa: slurm %s: unexpected argument \"%s\"\n", verb, more);
        return PROA_EXIT_USAGE;
    }
    fprintf(stderr, "proa: slurm %s: give submit, status, wait or template\n",
            verb != NULL ? verb : "needs a verb");
    return PROA_EXIT_USAGE;
}
