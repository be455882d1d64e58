/* doctor.c - `proa doctor`: the report, as lines for people and as JSON. */
#include "cmd/doctor.h"

#include "base/file.h"
#include "base/log.h"
#include "cmd/cmd.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { NAME_WIDTH = 18 };

/* ---- lines ---- */

static const char *const words[] = {"", "ok", "warn", "FAIL"};
static const char *const colours[] = {"", "\033[32m", "\033[33m", "\033[31m"};

void proa_doctor_section(proa_doctor *doctor, const char *name)
{
    printf("%s%s%s%s\n", doctor->section != NULL ? "\n" : "", doctor->colours ? "\033[1m" : "", name,
           doctor->colours ? "\033[0m" : "");
    doctor->section = name;
}

static bool set_text(proa_json *row, const char *name, const char *text)
{
    return proa_json_set(row, name, proa_json_new_text(text));
}

static void keep(proa_doctor *doctor, proa_finding finding, const char *name, const char *value,
                 const char *remedy)
{
    static const char *const states[] = {"plain", "ok", "warning", "failure"};
    proa_json *row = proa_json_new_object();
    bool good = row != NULL && set_text(row, "section", doctor->section) && set_text(row, "name", name) &&
                set_text(row, "value", value) && set_text(row, "state", states[finding]) &&
                (remedy == NULL || set_text(row, "remedy", remedy));
    if (good)
        proa_json_append(doctor->checks, row);
    else
        proa_json_free(row);
}

void proa_doctor_say(proa_doctor *doctor, proa_finding finding, const char *name, const char *remedy,
                     const char *format, ...)
{
    char value[1200];
    va_list args;
    va_start(args, format);
    vsnprintf(value, sizeof value, format, args);
    va_end(args);
    bool colour = doctor->colours && finding != PROA_FINDING_PLAIN;
    printf("%s%4s%s  %-*s %s\n", colour ? colours[finding] : "", words[finding], colour ? "\033[0m" : "",
           NAME_WIDTH, name, value);
    if (remedy != NULL)
        printf("%*s-> %s\n", NAME_WIDTH + 7, "", remedy);
    fflush(stdout);
    doctor->warnings += finding == PROA_FINDING_WARNING;
    doctor->failures += finding == PROA_FINDING_FAILURE;
    if (doctor->checks != NULL)
        keep(doctor, finding, name, value, remedy);
}

void proa_doctor_each(const char *list, void (*visit)(proa_doctor *doctor, const char *item),
                      proa_doctor *doctor)
{
    char item[512];
    for (const char *at = list; at != NULL && *at != 0;) {
        at += strspn(at, ", ");
        size_t length = strcspn(at, ", ");
        if (length > 0 && length < sizeof item) {
            snprintf(item, sizeof item, "%.*s", (int)length, at);
            visit(doctor, item);
        } else if (length > 0) {
            proa_doctor_say(doctor, PROA_FINDING_FAILURE, "list", NULL,
                            "\"%.40s...\" is too long for an address", at);
        }
        at += length;
    }
}

/* ---- the whole ---- */

static proa_status write_json(proa_doctor *doctor, const char *path, proa_error *err)
{
    proa_json *report = proa_json_new_object();
    proa_buf out = {0};
    bool good = doctor->checks != NULL && report != NULL && set_text(report, "version", PROA_VERSION) &&
                proa_json_set(report, "warnings", proa_json_new_int(doctor->warnings)) &&
                proa_json_set(report, "failures", proa_json_new_int(doctor->failures)) &&
                proa_json_set(report, "checks", proa_json_ref(doctor->checks));
    if (good)
        proa_json_write(report, 2, &out);
    proa_buf_append_char(&out, '\n');
    proa_status status = good && !out.failed
                             ? proa_file_write(path, proa_buf_text(&out), out.length, err)
                             : proa_error_set(err, PROA_ERR_MEMORY, "no memory to write %s", path);
    proa_json_free(report);
    proa_buf_free(&out);
    return status;
}

int proa_cmd_doctor(const proa_options *options)
{
    const char *json = proa_options_string(options, "json");
    proa_doctor doctor = {.options = options, .colours = isatty(STDOUT_FILENO)};
    proa_error err = {0};
    proa_log_set_level(proa_options_string(options, "log-level"));
    if (json != NULL)
        doctor.checks = proa_json_new_array();
    doctor.rdma_devices = proa_doctor_count_rdma(&doctor);
    proa_doctor_machine(&doctor);
    proa_doctor_networks(&doctor); /* its trials fork: before anything that starts threads */
    proa_doctor_libraries(&doctor);
    proa_doctor_section(&doctor, "cluster");
    proa_doctor_ports(&doctor);
    proa_doctor_etcd(&doctor);
    proa_doctor_nats(&doctor);
    proa_doctor_addresses(&doctor);
    printf("\n%d warning%s, %d failure%s\n", doctor.warnings, doctor.warnings == 1 ? "" : "s",
           doctor.failures, doctor.failures == 1 ? "" : "s");
    proa_status status = json != NULL ? write_json(&doctor, json, &err) : PROA_OK;
    proa_json_free(doctor.checks);
    if (status != PROA_OK)
        return proa_cmd_fail(&err);
    return doctor.failures == 0 ? PROA_EXIT_OK : PROA_EXIT_FAILED;
}
