/* doctor_address.c - is there a worker or a frontend at an address, and would it let this one in? (probe.h asks.) */
#include "cmd/doctor.h"

#include "cmd/probe.h"

#include <stdlib.h>
#include <string.h>

static void say(proa_doctor *doctor, const char *address, const proa_probe *probe)
{
    char text[1000];
    proa_probe_describe(probe, text, sizeof text);
    bool draining = probe->has_card && probe->card.draining;
    if (!probe->serves)
        proa_doctor_say(doctor, PROA_FINDING_FAILURE, "address",
                        "it serves nothing yet: are workers of its namespace up? Its /health names them",
                        "%s: %s", address, text);
    else
        proa_doctor_say(doctor, draining ? PROA_FINDING_WARNING : PROA_FINDING_GOOD, "address", NULL,
                        "%s: %s", address, text);
}

static void visit(proa_doctor *doctor, const char *address)
{
    proa_error err = {0};
    bool http = strstr(address, "://") != NULL;
    proa_probe *probe = calloc(1, sizeof *probe);
    proa_status status = probe != NULL ? proa_probe_address(doctor->options, address, probe, &err)
                                       : proa_error_set(&err, PROA_ERR_MEMORY, "no memory for a link");
    if (status == PROA_OK)
        say(doctor, address, probe);
    else if (http)
        proa_doctor_say(doctor, PROA_FINDING_FAILURE, "address", "is it started, and is no firewall between?",
                        "%s", err.text);
    else
        proa_doctor_say(doctor, PROA_FINDING_FAILURE, "address",
                        "is it started, is no firewall between, and does it have the same cluster key?",
                        "%s: %s", address, err.text);
    free(probe);
}

void proa_doctor_addresses(proa_doctor *doctor)
{
    const char *list = proa_options_string(doctor->options, "address");
    if (list == NULL)
        proa_doctor_say(doctor, PROA_FINDING_PLAIN, "addresses", NULL,
                        "not asked for (--address host:port,host:port)");
    proa_doctor_each(list, visit, doctor);
}
