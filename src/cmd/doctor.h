/* doctor.h - `proa doctor`: what is here, what will be used, and what stands in the way.
 *
 * doctor.c has the report, doctor_machine.c processor and limits, doctor_links.c networks, RDMA and libraries, doctor_transfer.c
 * trials of KV transfers between two processes, doctor_servers.c and doctor_address.c what is reached over the network (probe.h). Each check has
 * a deadline, prints its line as soon as it is known, and is kept for --json. One thread.
 */
#ifndef PROA_CMD_DOCTOR_H
#define PROA_CMD_DOCTOR_H

#include "base/json.h"
#include "base/option.h"
#include "net/kv_transfer.h"

typedef enum proa_finding {
    PROA_FINDING_PLAIN, /* that is how it is */
    PROA_FINDING_GOOD,  /* it was looked for, and is there */
    PROA_FINDING_WARNING,
    PROA_FINDING_FAILURE, /* something that was asked for is not there: exit status 1 */
} proa_finding;

typedef struct proa_doctor {
    const proa_options *options;
    bool colours;
    const char *section;
    proa_json *checks; /* array; NULL: --json was not given, or memory is out */
    int warnings;
    int failures;
    int rdma_devices;
} proa_doctor;

/* A headline; the checks that follow belong to it. */
void proa_doctor_section(proa_doctor *doctor, const char *name);

/* A line: name, what was found, and below it what to do (NULL: nothing). */
void proa_doctor_say(proa_doctor *doctor, proa_finding finding, const char *name, const char *remedy,
                     const char *format, ...) __attribute__((format(printf, 5, 6)));

/* How many devices /sys/class/infiniband has. */
int proa_doctor_count_rdma(const proa_doctor *doctor);

void proa_doctor_machine(proa_doctor *doctor);
void proa_doctor_libraries(proa_doctor *doctor);
void proa_doctor_networks(proa_doctor *doctor);
void proa_doctor_etcd(proa_doctor *doctor);
void proa_doctor_nats(proa_doctor *doctor);
void proa_doctor_addresses(proa_doctor *doctor);
void proa_doctor_ports(proa_doctor *doctor);

/* Calls `visit` for each item of a list with commas, spaces left out. */
void proa_doctor_each(const char *list, void (*visit)(proa_doctor *doctor, const char *item),
                      proa_doctor *doctor);

/* Runs `work` in a child process, whose `result` is copied back: what libraries do there stays there. False: it crashed, or took
 * more than 10 s. */
bool proa_doctor_in_child(void (*work)(const void *input, void *result), const void *input, void *result,
                          size_t bytes);

/* What a trial has shown. */
typedef struct proa_transfer_trial {
    proa_error error; /* status PROA_OK: rows arrived whole in another process of this host */
    char path[128];   /* what carried them */
    uint64_t bytes;
    int64_t us;
} proa_transfer_trial;

/* Writes KV rows from one child process into another, in 10 s at most. Before this process has threads. */
void proa_doctor_try_transfer(proa_kv_transfer_kind kind, const proa_kv_transfer_options *options,
                              proa_transfer_trial *trial);

#endif
