/* labsw.h - a lab of hosts on one machine: what its three files share.
 *
 *   labsw.c         the program: arguments, orders, the loop
 *   labsw_host.c    hosts: namespaces and the TAP device that is a host's eth0
 *   labsw_fabric.c  the switch between TAPs: delay, jitter, rate, loss, duplication, corruption, partition
 *
 * One thread, but for what lab_host_power_off leaves to others. Structs are owned by main() and live as long as the program.
 */
#ifndef PROA_TESTS_LABSW_H
#define PROA_TESTS_LABSW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
    LAB_HOSTS_MAX = 32,
    LAB_FRAME_BYTES_MAX = 65536 + 64, /* what segmentation offload hands over, with headers */
    LAB_WAITING_FRAMES_MAX =
        1 << 16, /* delayed frames; more are dropped, as a switch does when its memory is full */
    LAB_WAITING_BYTES_MAX = 64 << 20,
    LAB_BACKLOG_US_MAX = 400000, /* a rate-limited pair drops what would wait longer */
    LAB_ERROR_BYTES = 256,
};

/* --- hosts --- */

typedef struct lab_host {
    pid_t pid; /* its init, in labsw's pid namespace; 0: off */
    int tap;   /* -1: off */
} lab_host;

/* Host `index` of `count`: a process that is init of its own net, uts, ipc, pid and mount namespaces, with its own
 * /proc, /sys and /dev/shm, named h<index>, 10.77.0.<10 + index>/24 on eth0 and no route to anywhere else. It ends, and all
 * processes in it, when the last write end of `lifeline` is closed. False: `error` says what failed, errno why; nothing is left. */
bool lab_host_start(int index, int count, const int lifeline[2], lab_host *host, char error[LAB_ERROR_BYTES]);

/* Kills all its processes and waits until nothing is left. Accepts one that is off. */
void lab_host_stop(lab_host *host);

/* The same without waiting, for a host that is on: from now on nothing of it gets out. The kernel takes seconds at times to
 * give up a TAP and its namespace, and the switch must not stand still meanwhile: a thread of its own does it. */
void lab_host_power_off(lab_host *host);

/* --- the switch --- */

typedef struct lab_rule {
    uint32_t delay_us;
    uint32_t jitter_us; /* evenly spread over 0 .. jitter_us, so frames overtake one another */
    uint32_t loss_ppm;
    uint32_t duplicate_ppm;
    uint32_t corrupt_ppm; /* one bit of the payload; the receiver's checksum does not notice */
    uint32_t rate_kbit;   /* 0: no limit */
    uint32_t down;        /* 1: nothing passes */
} lab_rule;

typedef struct lab_counts {
    uint64_t passed; /* frames */
    uint64_t lost;   /* by rule */
    uint64_t duplicated;
    uint64_t corrupted;
    uint64_t overflowed; /* lost for want of room */
} lab_counts;

typedef struct lab_pair {
    lab_rule rule;
    lab_counts counts;
    uint64_t free_ns; /* when a rate-limited pair has sent what it has */
} lab_pair;

typedef struct lab_frame {
    uint64_t due_ns;
    uint64_t number; /* of frames due at the same time, the first comes first */
    int to;
    uint32_t length;
    uint8_t *data;
} lab_frame;

typedef struct lab_fabric {
    int host_count;
    lab_host *hosts;                              /* borrowed; of those, only `tap` */
    lab_pair pairs[LAB_HOSTS_MAX][LAB_HOSTS_MAX]; /* [from][to] */
    uint64_t random;
    uint64_t frame_number;
    lab_frame *waiting; /* heap, soonest first; [LAB_WAITING_FRAMES_MAX] */
    size_t waiting_count;
    size_t waiting_bytes;
    uint8_t buffer[LAB_FRAME_BYTES_MAX];
} lab_fabric;

/* False when memory is out. `seed` is not 0. */
bool lab_fabric_init(lab_fabric *fabric, lab_host *hosts, int host_count, uint64_t seed);
void lab_fabric_free(lab_fabric *fabric);

/* Forwards what host `from` has sent, at most a few dozen frames. */
void lab_fabric_receive(lab_fabric *fabric, int from);

/* Delivers delayed frames that are due; returns when the next one is, UINT64_MAX when none waits. */
uint64_t lab_fabric_deliver_due(lab_fabric *fabric);

uint64_t lab_now_ns(void);

#endif
