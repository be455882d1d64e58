/* doctor_links.c - networks, RDMA, what UCX and NIXL make of them, and the libraries in use. */
#include "cmd/doctor.h"

#include "base/progress.h"
#include "cluster/nats_plane.h"
#include "net/http_client.h"
#include "net/link.h"
#include "net/ucx_probe.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { DEVICES_MAX = 64, PATH_BYTES = 1200 };

/* What a child process has found out about UCX. */
typedef struct ucx_finding {
    proa_error error;
    proa_ucx_info info;
} ucx_finding;

/* ---- sysfs ---- */

/* The first line of a file below /sys; "" when it is not there. */
static void read_line(const proa_doctor *doctor, const char *below, char *line, size_t bytes)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/%s", proa_options_string(doctor->options, "sysfs"), below);
    FILE *file = fopen(path, "r");
    line[0] = 0;
    if (file == NULL)
        return;
    if (fgets(line, (int)bytes, file) == NULL)
        line[0] = 0;
    line[strcspn(line, "\n")] = 0;
    fclose(file);
}

static DIR *open_folder(const proa_doctor *doctor, const char *below)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/%s", proa_options_string(doctor->options, "sysfs"), below);
    return opendir(path);
}

int proa_doctor_count_rdma(const proa_doctor *doctor)
{
    int count = 0;
    DIR *folder = open_folder(doctor, "class/infiniband");
    for (const struct dirent *e; folder != NULL && (e = readdir(folder)) != NULL;)
        count += e->d_name[0] != '.';
    if (folder != NULL)
        closedir(folder);
    return count;
}

/* ---- RDMA ---- */

static void say_port(proa_doctor *doctor, const char *device, const char *port)
{
    char path[600], state[64], rate[64], layer[64], name[300];
    snprintf(path, sizeof path, "class/infiniband/%s/ports/%s/state", device, port);
    read_line(doctor, path, state, sizeof state);
    snprintf(path, sizeof path, "class/infiniband/%s/ports/%s/rate", device, port);
    read_line(doctor, path, rate, sizeof rate);
    snprintf(path, sizeof path, "class/infiniband/%s/ports/%s/link_layer", device, port);
    read_line(doctor, path, layer, sizeof layer);
    snprintf(name, sizeof name, "rdma %.200s:%.20s", device, port);
    bool active = strstr(state, "ACTIVE") != NULL;
    proa_doctor_say(doctor, active ? PROA_FINDING_GOOD : PROA_FINDING_WARNING, name,
                    active ? NULL
                           : "the port carries nothing: look at cable, switch and subnet manager (ibstat)",
                    "%s, %s, %s", layer, rate, state);
}

static void say_rdma_device(proa_doctor *doctor, const char *device)
{
    char below[400];
    snprintf(below, sizeof below, "class/infiniband/%s/ports", device);
    DIR *folder = open_folder(doctor, below);
    for (const struct dirent *e; folder != NULL && (e = readdir(folder)) != NULL;)
        if (e->d_name[0] != '.')
            say_port(doctor, device, e->d_name);
    if (folder != NULL)
        closedir(folder);
}

static void say_rdma(proa_doctor *doctor)
{
    DIR *folder = open_folder(doctor, "class/infiniband");
    for (const struct dirent *e; folder != NULL && (e = readdir(folder)) != NULL;)
        if (e->d_name[0] != '.')
            say_rdma_device(doctor, e->d_name);
    if (folder != NULL)
        closedir(folder);
    if (doctor->rdma_devices == 0)
        proa_doctor_say(doctor, PROA_FINDING_PLAIN, "rdma", NULL, "no devices");
    else if (access("/dev/infiniband", X_OK) != 0)
        proa_doctor_say(
            doctor, PROA_FINDING_WARNING, "rdma",
            "the devices are not given to this container: docker run --device=/dev/infiniband --ulimit "
            "memlock=-1",
            "/dev/infiniband is not there, though the machine has %d device%s", doctor->rdma_devices,
            doctor->rdma_devices == 1 ? "" : "s");
}

/* ---- network devices ---- */

static bool is_usable(const struct ifaddrs *a)
{
    return (a->ifa_flags & IFF_LOOPBACK) == 0 && (a->ifa_flags & IFF_UP) != 0;
}

/* Appends the device's addresses from this entry on; link-local ones lead nowhere. */
static void list_addresses(const struct ifaddrs *from, char *list, size_t bytes)
{
    list[0] = 0;
    for (const struct ifaddrs *a = from; a != NULL; a = a->ifa_next) {
        char text[INET6_ADDRSTRLEN];
        int family = a->ifa_addr != NULL ? a->ifa_addr->sa_family : AF_UNSPEC;
        const void *raw =
            family == AF_INET    ? (const void *)&((const struct sockaddr_in *)a->ifa_addr)->sin_addr
            : family == AF_INET6 ? (const void *)&((const struct sockaddr_in6 *)a->ifa_addr)->sin6_addr
                                 : NULL;
        size_t used = strlen(list);
        if (raw != NULL && strcmp(a->ifa_name, from->ifa_name) == 0 &&
            inet_ntop(family, raw, text, sizeof text) != NULL && strncmp(text, "fe80:", 5) != 0)
            snprintf(list + used, bytes - used, "%s%s", used > 0 ? ", " : "", text);
    }
}

static void say_device(proa_doctor *doctor, const char *device, const char *addresses)
{
    char path[64], speed[32], name[32];
    snprintf(path, sizeof path, "class/net/%s/speed", device);
    read_line(doctor, path, speed, sizeof speed);
    snprintf(name, sizeof name, "network %s", device);
    long megabits = strtol(speed, NULL, 10);
    if (megabits > 0)
        proa_doctor_say(doctor, PROA_FINDING_PLAIN, name, NULL, "%s; %.4g Gbit/s", addresses,
                        (double)megabits / 1000);
    else
        proa_doctor_say(doctor, PROA_FINDING_PLAIN, name, NULL, "%s", addresses);
}

/* One line for each device that is up and has an address; returns how many those are. */
static int say_devices(proa_doctor *doctor)
{
    struct ifaddrs *all = NULL;
    char seen[DEVICES_MAX][IF_NAMESIZE], addresses[600];
    int count = 0;
    if (getifaddrs(&all) != 0)
        return 0;
    for (const struct ifaddrs *a = all; a != NULL && count < DEVICES_MAX; a = a->ifa_next) {
        bool known = !is_usable(a);
        for (int i = 0; i < count && !known; i++)
            known = strcmp(seen[i], a->ifa_name) == 0;
        if (known)
            continue;
        list_addresses(a, addresses, sizeof addresses);
        if (addresses[0] == 0)
            continue;
        snprintf(seen[count++], IF_NAMESIZE, "%s", a->ifa_name);
        say_device(doctor, a->ifa_name, addresses);
    }
    freeifaddrs(all);
    return count;
}

/* ---- UCX ---- */

/* "rc_mlx5 (mlx5_0:1, mlx5_1:1), ud_mlx5 (...)"; returns how many resources that are. */
static int list_class(const proa_ucx_info *info, proa_ucx_class class, char *text, size_t bytes)
{
    int found = 0;
    size_t used = 0;
    const char *open = "";
    text[0] = 0;
    for (size_t i = 0; i < info->count; i++) {
        const proa_ucx_resource *r = &info->resources[i];
        bool device = strncmp(r->device, "memory", 6) != 0;
        if (r->class != class || used >= bytes)
            continue;
        bool same = strcmp(open, r->transport) == 0;
        if (same && device) /* another device of the transport before */
            used += (size_t)snprintf(text + used - 1, bytes - used + 1, ", %s)", r->device) - 1;
        else
            used +=
                (size_t)snprintf(text + used, bytes - used, "%s%s%s%s%s", used > 0 ? ", " : "", r->transport,
                                 device ? " (" : "", device ? r->device : "", device ? ")" : "");
        open = r->transport;
        found++;
    }
    return found;
}

static void say_ucx_classes(proa_doctor *doctor, const proa_ucx_info *info)
{
    char text[800], settings[600];
    snprintf(settings, sizeof settings,
             "UCX_TLS is %s and UCX_NET_DEVICES is %s: see what `ucx_info -d` lists, and whether this UCX "
             "has its ib module",
             info->tls, info->net_devices);
    if (list_class(info, PROA_UCX_SHARED, text, sizeof text) > 0)
        proa_doctor_say(doctor, PROA_FINDING_GOOD, "within this host", NULL, "%s", text);
    else
        proa_doctor_say(
            doctor, PROA_FINDING_WARNING, "within this host",
            "UCX_TLS leaves out shared memory (sm): workers of this host use the network, ten times slower",
            "no shared memory; UCX_TLS is %s", info->tls);
    if (list_class(info, PROA_UCX_RDMA, text, sizeof text) > 0)
        proa_doctor_say(doctor, PROA_FINDING_GOOD, "between hosts", NULL, "RDMA: %s", text);
    else if (doctor->rdma_devices > 0)
        proa_doctor_say(doctor, PROA_FINDING_WARNING, "between hosts", settings,
                        "no RDMA in UCX, though this machine has %d RDMA device%s: KV rows go by TCP",
                        doctor->rdma_devices, doctor->rdma_devices == 1 ? "" : "s");
    if (list_class(info, PROA_UCX_TCP, text, sizeof text) > 0)
        proa_doctor_say(doctor, PROA_FINDING_PLAIN, "between hosts", NULL, "TCP: %s", text);
    else if (list_class(info, PROA_UCX_RDMA, text, sizeof text) == 0)
        proa_doctor_say(doctor, PROA_FINDING_WARNING, "between hosts", settings,
                        "nothing: KV rows cannot leave this host");
    if (list_class(info, PROA_UCX_GPU, text, sizeof text) > 0)
        proa_doctor_say(doctor, PROA_FINDING_GOOD, "GPU memory", NULL, "%s", text);
    else
        proa_doctor_say(doctor, PROA_FINDING_PLAIN, "GPU memory", NULL, "UCX has no transports for it");
}

static void say_trial(proa_doctor *doctor, const char *name, const proa_transfer_trial *trial,
                      proa_finding otherwise)
{
    char rate[24];
    if (trial->error.status == PROA_OK)
        proa_doctor_say(
            doctor, PROA_FINDING_GOOD, name, NULL, "rows arrive in another process of this host: %s, %s/s",
            trial->path,
            proa_format_bytes((double)trial->bytes * 1e6 / (double)(trial->us > 0 ? trial->us : 1), rate));
    else
        proa_doctor_say(doctor, otherwise, name, NULL, "%s", trial->error.text);
}

static void probe_ucx(const void *input, void *result)
{
    ucx_finding *found = result;
    (void)input;
    proa_ucx_probe(&found->info, &found->error);
}

static void say_ucx(proa_doctor *doctor, int networks)
{
    ucx_finding *found = calloc(1, sizeof *found);
    proa_transfer_trial trial;
    if (found == NULL)
        return;
    if (!proa_doctor_in_child(probe_ucx, NULL, found, sizeof *found))
        proa_error_set(&found->error, PROA_ERR_INTERNAL, "UCX crashed, or did not answer");
    const proa_ucx_info *info = &found->info;
    if (found->error.status != PROA_OK) {
        proa_doctor_say(doctor, PROA_FINDING_WARNING, "ucx",
                        "apt install libucx0; without it, --disaggregation-transfer-backend nixl or local",
                        "%s", found->error.text);
        free(found);
        return;
    }
    proa_doctor_say(doctor, PROA_FINDING_PLAIN, "ucx", NULL, "%s; UCX_TLS is %s, UCX_NET_DEVICES is %s",
                    info->version, info->tls, info->net_devices);
    say_ucx_classes(doctor, info);
    if (networks > 1 && strcmp(info->net_devices, "all") == 0)
        proa_doctor_say(doctor, PROA_FINDING_WARNING, "ucx devices",
                        "name the fast ones: UCX_NET_DEVICES=mlx5_0:1, or eth0 for example",
                        "%d networks are up and UCX_NET_DEVICES is not set: UCX takes any of them", networks);
    proa_doctor_try_transfer(PROA_KV_TRANSFER_UCX, &(proa_kv_transfer_options){0}, &trial);
    say_trial(doctor, "ucx trial", &trial, PROA_FINDING_WARNING);
    free(found);
}

/* ---- all ---- */

void proa_doctor_networks(proa_doctor *doctor)
{
    proa_transfer_trial trial;
    proa_doctor_section(doctor, "links");
    int networks = say_devices(doctor);
    say_rdma(doctor);
    say_ucx(doctor, networks);
    const proa_kv_transfer_options options = {.nixl_library =
                                                  proa_options_string(doctor->options, "nixl-library")};
    proa_doctor_try_transfer(PROA_KV_TRANSFER_NIXL, &options, &trial);
    /* it is one of two ways: absent is no fault, there and out of order is one */
    say_trial(doctor, "nixl", &trial,
              trial.error.status == PROA_ERR_NOT_FOUND ? PROA_FINDING_PLAIN : PROA_FINDING_WARNING);
}

void proa_doctor_libraries(proa_doctor *doctor)
{
    proa_doctor_section(doctor, "libraries");
    proa_doctor_say(doctor, PROA_FINDING_PLAIN, "libevent", NULL, "%s", proa_loop_library_version());
    proa_doctor_say(doctor, PROA_FINDING_PLAIN, "OpenSSL", NULL, "%s", proa_crypto_library_version());
    proa_doctor_say(doctor, PROA_FINDING_PLAIN, "libcurl", NULL, "%s", proa_http_client_library_version());
    proa_doctor_say(doctor, PROA_FINDING_PLAIN, "nats.c", NULL, "%s", proa_nats_library_version());
}
