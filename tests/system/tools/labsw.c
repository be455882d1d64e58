/* labsw.c - a lab of hosts on one machine, for system tests: `labsw HOSTS SECONDS SEED`.
 *
 * Each host is a set of namespaces (labsw_host.c) whose eth0 is a TAP device; between the TAPs stands a switch in user space
 * (labsw_fabric.c), which can do to frames what the kernel's netem would, were it there. When it is ready it prints one line:
 *
 *   ready PID...                 the init of each host: nsenter --target PID --net --uts --ipc --pid --mount COMMAND
 *
 * Then it takes orders from standard input, a line each, and answers each with one line, "ok ..." or "error: ...":
 *
 *   rule FROM TO delay_us jitter_us loss_ppm duplicate_ppm corrupt_ppm rate_kbit down    -1: all hosts
 *   counts FROM TO               ok passed lost duplicated corrupted overflowed
 *   off HOST                     power off: its processes die at once, and no packet of theirs gets out
 *   on HOST                      ok PID: started again, with nothing in it
 *
 * At the end of standard input, after SECONDS, or when it is killed, all hosts end with all that runs in them. Exit status: 0;
 * 1 wrong usage or a broken machine; 77 a machine where labs cannot be (no right, no namespaces, no /dev/net/tun).
 *
 * It lacks on purpose: broadcast (neighbours are permanent), IPv6, a way out of the lab.
 */
#include "labsw.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { ORDER_BYTES_MAX = 512, EXIT_CANNOT = 77, NUMBERS_MAX = 9, SECONDS_MAX = 86400 };

typedef struct lab {
    int host_count;
    lab_host hosts[LAB_HOSTS_MAX];
    int lifeline[2];
    lab_fabric fabric;
    char order[ORDER_BYTES_MAX]; /* read so far, without its end */
    size_t order_bytes;
} lab;

/* A whole decimal number within bounds. */
static bool parse_number(const char *text, long long least, long long most, long long *number)
{
    char *end;
    errno = 0;
    *number = strtoll(text, &end, 10);
    return errno == 0 && end != text && *end == 0 && *number >= least && *number <= most;
}

/* --- orders --- */

/* Splits at spaces: the word, then exactly `count` numbers within -1 .. UINT32_MAX. */
static bool parse_numbers(char *words, int count, long long numbers[NUMBERS_MAX])
{
    char *rest = NULL;
    for (int i = 0; i < count; i++) {
        const char *word = strtok_r(i == 0 ? words : NULL, " ", &rest);
        if (word == NULL || !parse_number(word, -1, UINT32_MAX, &numbers[i]))
            return false;
    }
    return strtok_r(count == 0 ? words : NULL, " ", &rest) == NULL;
}

static bool is_host(const lab *l, long long number)
{
    return number >= 0 && number < l->host_count;
}

static void order_rule(lab *l, const long long *n)
{
    bool good = (n[0] == -1 || is_host(l, n[0])) && (n[1] == -1 || is_host(l, n[1])) && n[8] <= 1;
    for (int i = 2; i < NUMBERS_MAX; i++)
        good = good && n[i] >= 0;
    if (!good) {
        printf("error: a host or value of the rule is out of range\n");
        return;
    }
    lab_rule rule = {(uint32_t)n[2], (uint32_t)n[3], (uint32_t)n[4], (uint32_t)n[5],
                     (uint32_t)n[6], (uint32_t)n[7], (uint32_t)n[8]};
    for (int from = 0; from < l->host_count; from++) {
        for (int to = 0; to < l->host_count; to++) {
            if ((n[0] == -1 || n[0] == from) && (n[1] == -1 || n[1] == to)) {
                l->fabric.pairs[from][to].rule = rule;
                l->fabric.pairs[from][to].free_ns = 0;
            }
        }
    }
    printf("ok\n");
}

static void order_counts(const lab *l, const long long *n)
{
    if (!is_host(l, n[0]) || !is_host(l, n[1])) {
        printf("error: no such host\n");
        return;
    }
    const lab_counts *c = &l->fabric.pairs[n[0]][n[1]].counts;
    printf("ok %llu %llu %llu %llu %llu\n", (unsigned long long)c->passed, (unsigned long long)c->lost,
           (unsigned long long)c->duplicated, (unsigned long long)c->corrupted,
           (unsigned long long)c->overflowed);
}

static void order_off(lab *l, const long long *n)
{
    if (!is_host(l, n[0]) || l->hosts[n[0]].pid == 0) {
        printf("error: no such host, or it is off\n");
        return;
    }
    lab_host_power_off(&l->hosts[n[0]]);
    printf("ok\n");
}

static void order_on(lab *l, const long long *n)
{
    char error[LAB_ERROR_BYTES];
    if (!is_host(l, n[0]) || l->hosts[n[0]].pid != 0)
        printf("error: no such host, or it is on\n");
    else if (lab_host_start((int)n[0], l->host_count, l->lifeline, &l->hosts[n[0]], error))
        printf("ok %d\n", (int)l->hosts[n[0]].pid);
    else
        printf("error: %s\n", error);
}

static void obey(lab *l, char *line)
{
    long long numbers[NUMBERS_MAX];
    char *numbers_text = strchr(line, ' ');
    if (numbers_text == NULL)
        numbers_text = line + strlen(line);
    else
        *numbers_text++ = 0;
    if (strcmp(line, "rule") == 0 && parse_numbers(numbers_text, 9, numbers))
        order_rule(l, numbers);
    else if (strcmp(line, "counts") == 0 && parse_numbers(numbers_text, 2, numbers))
        order_counts(l, numbers);
    else if (strcmp(line, "off") == 0 && parse_numbers(numbers_text, 1, numbers))
        order_off(l, numbers);
    else if (strcmp(line, "on") == 0 && parse_numbers(numbers_text, 1, numbers))
        order_on(l, numbers);
    else
        printf("error: not an order with its numbers: %.100s\n", line);
    fflush(stdout);
}

/* False at the end of standard input. */
static bool read_orders(lab *l)
{
    ssize_t got = read(STDIN_FILENO, l->order + l->order_bytes, sizeof l->order - 1 - l->order_bytes);
    if (got <= 0)
        return got < 0 && errno == EINTR;
    l->order_bytes += (size_t)got;
    l->order[l->order_bytes] = 0;
    char *line = l->order;
    for (char *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
        *end = 0;
        obey(l, line);
    }
    l->order_bytes = strlen(line);
    memmove(l->order, line, l->order_bytes + 1);
    return l->order_bytes < sizeof l->order - 1; /* an order that does not end is the end */
}

/* --- the loop --- */

static void run(lab *l, uint64_t end_ns)
{
    struct pollfd polled[LAB_HOSTS_MAX + 1];
    for (;;) {
        uint64_t next = lab_fabric_deliver_due(&l->fabric), now = lab_now_ns();
        if (now >= end_ns)
            return;
        if (next > end_ns)
            next = end_ns;
        uint64_t wait = next > now ? next - now : 0;
        struct timespec timeout = {(time_t)(wait / 1000000000u), (long)(wait % 1000000000u)};
        for (int i = 0; i < l->host_count; i++)
            polled[i] = (struct pollfd){.fd = l->hosts[i].tap, .events = POLLIN};
        polled[l->host_count] = (struct pollfd){.fd = STDIN_FILENO, .events = POLLIN};
        if (ppoll(polled, (nfds_t)l->host_count + 1, &timeout, NULL) <= 0)
            continue;
        for (int i = 0; i < l->host_count; i++) {
            if (polled[i].revents & POLLIN)
                lab_fabric_receive(&l->fabric, i);
        }
        if (polled[l->host_count].revents != 0 && !read_orders(l))
            return;
    }
}

static int start_hosts(lab *l)
{
    char error[LAB_ERROR_BYTES];
    for (int i = 0; i < l->host_count; i++) {
        if (!lab_host_start(i, l->host_count, l->lifeline, &l->hosts[i], error)) {
            bool cannot = errno == EPERM || errno == EACCES || errno == ENOENT || errno == ENODEV ||
                          errno == ENOSYS || errno == EINVAL || errno == ENOSPC;
            fprintf(stderr, "labsw: %s\n", error);
            return cannot ? EXIT_CANNOT : 1;
        }
    }
    printf("ready");
    for (int i = 0; i < l->host_count; i++)
        printf(" %d", (int)l->hosts[i].pid);
    printf("\n");
    fflush(stdout);
    return 0;
}

int main(int argc, char **argv)
{
    long long hosts, seconds, seed;
    if (argc != 4 || !parse_number(argv[1], 1, LAB_HOSTS_MAX, &hosts) ||
        !parse_number(argv[2], 1, SECONDS_MAX, &seconds) || !parse_number(argv[3], 1, LLONG_MAX, &seed)) {
        fprintf(stderr, "usage: labsw HOSTS SECONDS SEED (at most %d hosts, %d seconds; seed from 1)\n",
                LAB_HOSTS_MAX, SECONDS_MAX);
        return 1;
    }
    lab *l = calloc(1, sizeof *l);
    if (l == NULL || !lab_fabric_init(&l->fabric, l->hosts, (int)hosts, (uint64_t)seed) ||
        pipe2(l->lifeline, O_CLOEXEC) != 0) {
        fprintf(stderr, "labsw: %s\n", strerror(errno));
        free(l);
        return 1;
    }
    signal(SIGPIPE, SIG_IGN);
    l->host_count = (int)hosts;
    for (int i = 0; i < LAB_HOSTS_MAX; i++)
        l->hosts[i].tap = -1;
    int status = start_hosts(l);
    if (status == 0)
        run(l, lab_now_ns() + (uint64_t)seconds * 1000000000u);
    for (int i = 0; i < l->host_count; i++)
        lab_host_stop(&l->hosts[i]);
    lab_fabric_free(&l->fabric);
    close(l->lifeline[0]);
    close(l->lifeline[1]);
    free(l);
    return status;
}
