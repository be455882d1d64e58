/* health.c - `proa health`: does the server or worker at --address serve? One line and an exit status, for probes of containers and
 * scripts that have no curl; unlike `proa doctor`, it looks at nothing else and costs milliseconds.
 *
 * With --wait it asks again until the answer is yes, so that what is started next finds something to talk to.
 */
#include "base/clock.h"
#include "base/log.h"
#include "cmd/cmd.h"
#include "cmd/probe.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { PAUSE_US = 200000 };

/* Asks once. PROA_OK: it serves; `text` says who. */
static proa_status ask(const proa_options *options, const char *address, proa_probe *probe, char *text,
                       size_t bytes, proa_error *err)
{
    proa_status status = proa_probe_address(options, address, probe, err);
    if (status != PROA_OK)
        return status;
    proa_probe_describe(probe, text, bytes);
    return probe->serves ? PROA_OK : proa_error_set(err, PROA_ERR_UNREACHABLE, "%s", text);
}

/* Whether it may serve later. A malformed address, or one that wants a key, stays wrong. */
static bool may_come(proa_status status)
{
    return proa_failed(status) && status != PROA_ERR_INVALID && status != PROA_ERR_TOO_LONG &&
           status != PROA_ERR_MEMORY;
}

int proa_cmd_health(const proa_options *options)
{
    const char *address = proa_options_string(options, "address");
    double wait_s = proa_options_real(options, "wait");
    int64_t until_us = proa_clock_us() + (int64_t)(wait_s * 1e6);
    char text[1000];
    proa_error err = {0};
    proa_log_set_level("error");
    proa_probe *probe = calloc(1, sizeof *probe);
    proa_status status = probe != NULL ? ask(options, address, probe, text, sizeof text, &err)
                                       : proa_error_set(&err, PROA_ERR_MEMORY, "no memory for a probe");
    while (may_come(status) && proa_clock_us() + PAUSE_US < until_us) {
        usleep(PAUSE_US);
        status = ask(options, address, probe, text, sizeof text, &err);
    }
    free(probe);
    if (status == PROA_OK)
        printf("%s: %s\n", address, text);
    else if (wait_s > 0 && may_come(status))
        fprintf(stderr, "proa: %s does not serve after %.0f s: %s\n", address, wait_s, err.text);
    else
        fprintf(stderr, "proa: %s does not serve: %s\n", address, err.text);
    return status == PROA_OK ? PROA_EXIT_OK : PROA_EXIT_FAILED;
}
