/* doctor_machine.c - processor, memory, limits, clock. */
#include "cmd/doctor.h"

#include "base/cpu.h"
#include "base/progress.h"
#include "cmd/memory.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/timex.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

enum { FILES_LEAST = 4096 };
static const double shared_memory_least = 1e9;

/* The text after "model name :" of the first processor; the machine's name where /proc has none (arm64). */
static void find_processor(char *name, size_t bytes)
{
    char line[512];
    struct utsname self;
    FILE *file = fopen("/proc/cpuinfo", "r");
    name[0] = 0;
    while (file != NULL && name[0] == 0 && fgets(line, sizeof line, file) != NULL) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && colon != NULL)
            snprintf(name, bytes, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
    }
    if (file != NULL)
        fclose(file);
    if (name[0] == 0 && uname(&self) == 0)
        snprintf(name, bytes, "%s", self.machine);
}

static void say_processor(proa_doctor *doctor)
{
    char name[128];
    struct utsname self;
    int cores = proa_cpu_core_count(), nodes = proa_cpu_node_count();
    find_processor(name, sizeof name);
    proa_doctor_say(doctor, PROA_FINDING_PLAIN, "program", NULL, "proa %s", PROA_VERSION);
    if (uname(&self) == 0)
        proa_doctor_say(doctor, PROA_FINDING_PLAIN, "system", NULL, "%s %s, %s", self.sysname, self.release,
                        self.machine);
    bool portable = strcmp(proa_isa_name(proa_cpu_isa()), "portable") == 0;
    proa_doctor_say(doctor, portable ? PROA_FINDING_WARNING : PROA_FINDING_PLAIN, "processor",
                    portable ? "kernels for AVX2 and AVX-512 cannot be used here: models run much slower"
                             : NULL,
                    "%s; kernels: %s; %d core%s, %d NUMA node%s", name, proa_isa_name(proa_cpu_isa()), cores,
                    cores == 1 ? "" : "s", nodes, nodes == 1 ? "" : "s");
}

static void say_memory(proa_doctor *doctor)
{
    char total[24], available[24];
    double bytes = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGE_SIZE);
    proa_doctor_say(doctor, PROA_FINDING_PLAIN, "memory", NULL, "%s, %s available to this process",
                    proa_format_bytes(bytes, total),
                    proa_format_bytes((double)proa_memory_available(), available));
}

static const char *format_limit(rlim_t limit, bool bytes, char text[24])
{
    if (limit == RLIM_INFINITY)
        return "unlimited";
    if (bytes)
        return proa_format_bytes((double)limit, text);
    snprintf(text, 24, "%llu", (unsigned long long)limit);
    return text;
}

static void say_locked_memory(proa_doctor *doctor)
{
    struct rlimit limit;
    char text[24];
    if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0)
        return;
    bool low = doctor->rdma_devices > 0 && limit.rlim_cur != RLIM_INFINITY;
    proa_doctor_say(
        doctor, low ? PROA_FINDING_WARNING : PROA_FINDING_PLAIN, "locked memory",
        low ? "RDMA locks the whole KV cache: ulimit -l unlimited (limits.conf: memlock; docker: --ulimit "
              "memlock=-1; systemd: LimitMEMLOCK=infinity)"
            : NULL,
        "at most %s%s", format_limit(limit.rlim_cur, true, text),
        doctor->rdma_devices > 0 ? "" : " (matters with RDMA only)");
}

static void say_files(proa_doctor *doctor)
{
    struct rlimit limit;
    char soft[24], hard[24];
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return;
    bool low = limit.rlim_cur < FILES_LEAST;
    proa_doctor_say(
        doctor, low ? PROA_FINDING_WARNING : PROA_FINDING_PLAIN, "open files",
        low ? "each client takes one: ulimit -n 65536 (limits.conf: nofile; docker: --ulimit nofile=65536)"
            : NULL,
        "at most %s (hard limit %s)", format_limit(limit.rlim_cur, false, soft),
        format_limit(limit.rlim_max, false, hard));
}

static void say_shared_memory(proa_doctor *doctor)
{
    static const char remedy[] =
        "UCX moves KV rows between workers of this host through it: docker run --shm-size=8g, "
        "or mount -o remount,size=8g /dev/shm";
    struct statvfs s;
    char total[24], left[24];
    if (statvfs("/dev/shm", &s) != 0) {
        proa_doctor_say(doctor, PROA_FINDING_WARNING, "shared memory", remedy, "/dev/shm: %s",
                        strerror(errno));
        return;
    }
    double size = (double)s.f_blocks * (double)s.f_frsize;
    bool low = size < shared_memory_least;
    proa_doctor_say(doctor, low ? PROA_FINDING_WARNING : PROA_FINDING_PLAIN, "shared memory",
                    low ? remedy : NULL, "/dev/shm has %s, %s free", proa_format_bytes(size, total),
                    proa_format_bytes((double)s.f_bavail * (double)s.f_frsize, left));
}

/* Nothing in a cluster depends on agreeing clocks; certificates and whoever compares logs do. */
static void say_clock(proa_doctor *doctor)
{
    struct timex state = {0};
    char text[64];
    time_t now = time(NULL);
    struct tm utc;
    gmtime_r(&now, &utc);
    strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S UTC", &utc);
    int answer = adjtimex(&state);
    bool wrong = utc.tm_year + 1900 < 2025;
    const char *word = answer < 0 ? "" : answer == TIME_ERROR ? ", not synchronised" : ", synchronised";
    proa_doctor_say(doctor, wrong ? PROA_FINDING_WARNING : PROA_FINDING_PLAIN, "clock",
                    wrong ? "certificates will not be valid yet: set the clock (chrony, systemd-timesyncd)"
                          : NULL,
                    "%s%s", text, word);
}

void proa_doctor_machine(proa_doctor *doctor)
{
    proa_doctor_section(doctor, "machine");
    say_processor(doctor);
    say_memory(doctor);
    say_shared_memory(doctor);
    say_files(doctor);
    say_locked_memory(doctor);
    say_clock(doctor);
}
