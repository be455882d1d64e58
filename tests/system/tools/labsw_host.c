/* labsw_host.c - hosts: namespaces, the TAP device that is a host's eth0, and permanent neighbours, so that a partition never
 * leaves a failed ARP entry behind and the switch needs no broadcast.
 *
 * Hosts must not share more than a network: with one pid and ipc namespace and one /dev/shm, UCX takes two hosts for one
 * and waits for wake-ups that never come. Their file systems are this machine's. */
#include "labsw.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/sched.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* What a host has sent and the switch has not taken yet. The switch is a process like others: while it waits for a processor, nothing may be
 * lost (the kernel's own 1,000 were too few for dozens of ranks, and TCP then takes a link's silence for seconds). */
enum { QUEUE_FRAMES = 20000 };

static bool fail(char error[LAB_ERROR_BYTES], int index, const char *what)
{
    int cause = errno;
    snprintf(error, LAB_ERROR_BYTES, "host %d: %s: %s", index, what, strerror(cause));
    errno = cause;
    return false;
}

/* --- inside the host --- */

/* Names what failed, or NULL. */
static const char *set_up_inside(int index)
{
    char name[16];
    int length = snprintf(name, sizeof name, "h%d", index);
    if (sethostname(name, (size_t)length) != 0)
        return "sethostname";
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
        return "making / private";
    if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) != 0)
        return "mounting /proc";
    if (mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) != 0)
        return "mounting /sys";
    if (mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777") != 0)
        return "mounting /dev/shm";
    return NULL;
}

/* Keeps `lifeline` and `ready` and none of labsw's other descriptors: a TAP would outlive its host. */
static bool keep_two(int *lifeline, int *ready)
{
    enum { LIFELINE_AT = 3, READY_AT = 4, APART = 64 };
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    int first = fcntl(*lifeline, F_DUPFD, APART), second = fcntl(*ready, F_DUPFD, APART);
    if (null < 0 || first < 0 || second < 0 || dup2(null, STDIN_FILENO) < 0 ||
        dup2(null, STDOUT_FILENO) < 0 || dup2(first, LIFELINE_AT) < 0 || dup2(second, READY_AT) < 0)
        return false;
    *lifeline = LIFELINE_AT;
    *ready = READY_AT;
    return close_range(READY_AT + 1, ~0u, 0) == 0;
}

/* Init of a host: lives until the lifeline ends. Orphans of the host become its children and are reaped by the kernel. */
static void run_init(int index, int lifeline, int ready)
{
    char byte, report[LAB_ERROR_BYTES] = "";
    signal(SIGCHLD, SIG_IGN);
    const char *failed = keep_two(&lifeline, &ready) ? set_up_inside(index) : "its descriptors";
    if (failed != NULL)
        fail(report, index, failed);
    if (write(ready, report, strlen(report) + 1) < 0 || failed != NULL)
        _exit(1);
    close(ready);
    while (read(lifeline, &byte, 1) < 0 && errno == EINTR)
        ;
    _exit(0);
}

/* --- from outside --- */

static pid_t start_init(int index, const int lifeline[2], char error[LAB_ERROR_BYTES])
{
    int ready[2];
    if (pipe2(ready, O_CLOEXEC) != 0) {
        fail(error, index, "pipe");
        return -1;
    }
    /* As fork; each host has namespaces of its own, which unshare could not give to a second child. */
    struct clone_args how = {
        .flags = CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNS,
        .exit_signal = SIGCHLD,
    };
    pid_t pid = (pid_t)syscall(SYS_clone3, &how, sizeof how);
    if (pid == 0) {
        close(ready[0]);
        run_init(index, lifeline[0], ready[1]);
    }
    close(ready[1]);
    if (pid < 0) {
        fail(error, index, "creating its namespaces");
    } else {
        ssize_t length = read(ready[0], error, LAB_ERROR_BYTES);
        bool good = length == 1 && error[0] == 0;
        if (length <= 0)
            snprintf(error, LAB_ERROR_BYTES, "host %d: its init ended at once", index);
        if (!good) {
            waitpid(pid, NULL, 0);
            pid = -1;
            errno = EPERM;
        }
    }
    close(ready[0]);
    return pid;
}

static struct ifreq for_eth0(void)
{
    struct ifreq request;
    memset(&request, 0, sizeof request);
    strcpy(request.ifr_name, "eth0");
    return request;
}

static struct sockaddr internet_address(uint32_t address)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(address)};
    struct sockaddr out;
    memcpy(&out, &in, sizeof out);
    return out;
}

static uint32_t host_address(int index)
{
    return 0x0A4D000Au + (uint32_t)index; /* 10.77.0.10 + index */
}

/* 02:00:00:00:00:index */
static struct sockaddr ethernet_address(int index)
{
    struct sockaddr out = {.sa_family = ARPHRD_ETHER};
    out.sa_data[0] = 2;
    out.sa_data[5] = (char)index;
    return out;
}

/* A TAP in the network namespace that this thread is in. Frames carry a virtio header: segments of up to 64 KiB whose checksum
 * the receiver trusts, which is what makes the switch fast and corruption visible. */
static int open_tap(void)
{
    int tap = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    struct ifreq request = for_eth0();
    request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    int header = sizeof(struct virtio_net_hdr);
    if (tap >= 0 && (ioctl(tap, TUNSETIFF, &request) != 0 || ioctl(tap, TUNSETVNETHDRSZ, &header) != 0 ||
                     ioctl(tap, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4) != 0)) {
        close(tap);
        tap = -1;
    }
    return tap;
}

static bool bring_up(int s, const char *name)
{
    struct ifreq request;
    memset(&request, 0, sizeof request);
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    return ioctl(s, SIOCSIFFLAGS, &request) == 0;
}

static bool set_neighbour(int s, int other)
{
    struct arpreq entry = {.arp_flags = ATF_PERM | ATF_COM};
    entry.arp_pa = internet_address(host_address(other));
    entry.arp_ha = ethernet_address(other);
    strcpy(entry.arp_dev, "eth0");
    return ioctl(s, SIOCSARP, &entry) == 0;
}

/* Names what failed, or NULL. */
static const char *configure(int s, int index, int count)
{
    struct ifreq request = for_eth0();
    request.ifr_hwaddr = ethernet_address(index);
    if (ioctl(s, SIOCSIFHWADDR, &request) != 0)
        return "hardware address of eth0";
    request = for_eth0();
    request.ifr_addr = internet_address(host_address(index));
    if (ioctl(s, SIOCSIFADDR, &request) != 0)
        return "address of eth0";
    request = for_eth0();
    request.ifr_netmask = internet_address(0xFFFFFF00u);
    if (ioctl(s, SIOCSIFNETMASK, &request) != 0)
        return "netmask of eth0";
    request = for_eth0();
    request.ifr_qlen = QUEUE_FRAMES;
    if (ioctl(s, SIOCSIFTXQLEN, &request) != 0)
        return "length of eth0's queue";
    if (!bring_up(s, "lo") || !bring_up(s, "eth0"))
        return "bringing its interfaces up";
    for (int i = 0; i < count; i++) {
        if (i != index && !set_neighbour(s, i))
            return "neighbours of eth0";
    }
    return NULL;
}

/* In the host's network namespace: the TAP, or -1 with the cause. */
static int connect_inside(int index, int count, char error[LAB_ERROR_BYTES])
{
    int tap = open_tap();
    if (tap < 0) {
        fail(error, index, "a TAP device from /dev/net/tun");
        return -1;
    }
    int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    const char *failed = s < 0 ? "socket" : configure(s, index, count);
    if (failed != NULL) {
        fail(error, index, failed);
        close(tap);
        tap = -1;
    }
    if (s >= 0)
        close(s);
    return tap;
}

static int connect_host(int index, int count, pid_t pid, char error[LAB_ERROR_BYTES])
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/ns/net", (int)pid);
    int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    int there = open(path, O_RDONLY | O_CLOEXEC);
    int tap = -1;
    if (home < 0 || there < 0 || setns(there, CLONE_NEWNET) != 0) {
        fail(error, index, "entering its network namespace");
    } else {
        tap = connect_inside(index, count, error);
        if (setns(home, CLONE_NEWNET) != 0) {
            fail(error, index, "leaving its network namespace");
            if (tap >= 0)
                close(tap);
            tap = -1;
        }
    }
    if (there >= 0)
        close(there);
    if (home >= 0)
        close(home);
    return tap;
}

bool lab_host_start(int index, int count, const int lifeline[2], lab_host *host, char error[LAB_ERROR_BYTES])
{
    *host = (lab_host){.tap = -1};
    pid_t pid = start_init(index, lifeline, error);
    if (pid < 0)
        return false;
    host->pid = pid;
    host->tap = connect_host(index, count, pid, error);
    if (host->tap >= 0)
        return true;
    int cause = errno;
    lab_host_stop(host);
    errno = cause;
    return false;
}

void lab_host_stop(lab_host *host)
{
    if (host->pid > 0) {
        kill(host->pid, SIGKILL);
        waitpid(host->pid, NULL, 0);
    }
    if (host->tap >= 0)
        close(host->tap);
    *host = (lab_host){.tap = -1};
}

static void *bury(void *context)
{
    lab_host *host = context;
    lab_host_stop(host);
    free(host);
    return NULL;
}

void lab_host_power_off(lab_host *host)
{
    lab_host *dead = malloc(sizeof *dead);
    pthread_t thread;
    if (dead == NULL) {
        lab_host_stop(host);
        return;
    }
    *dead = *host;
    *host = (lab_host){.tap = -1};
    kill(dead->pid, SIGKILL);
    if (pthread_create(&thread, NULL, bury, dead) == 0)
        pthread_detach(thread);
    else
        bury(dead);
}
