/* doctor_servers.c - etcd, nats-server, and ports of this machine: each asked once, with a deadline. */
#include "cmd/doctor.h"

#include "base/progress.h"
#include "cluster/nats_message.h"
#include "cluster/nats_plane.h"
#include "cmd/probe.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- etcd ---- */

/* etcd writes 64-bit numbers as strings. */
static uint64_t number(const proa_json *object, const char *name)
{
    return strtoull(proa_json_string(proa_json_get(object, name), "0"), NULL, 10);
}

static void say_status(proa_doctor *doctor, const char *endpoint, const proa_json *status, bool healthy,
                       int64_t us)
{
    uint64_t leader = number(status, "leader"), member = number(proa_json_get(status, "header"), "member_id");
    char size[24];
    proa_format_bytes((double)number(status, "dbSize"), size);
    const char *version = proa_json_string(proa_json_get(status, "version"), "unknown");
    if (leader == 0)
        proa_doctor_say(doctor, PROA_FINDING_FAILURE, "etcd",
                        "most members must be up and reach each other: etcdctl endpoint status --cluster",
                        "%s: version %s has no leader", endpoint, version);
    else if (!healthy)
        proa_doctor_say(doctor, PROA_FINDING_FAILURE, "etcd",
                        "see etcdctl endpoint health, and alarms: etcdctl alarm list",
                        "%s: version %s says that it is not healthy", endpoint, version);
    else
        proa_doctor_say(doctor, PROA_FINDING_GOOD, "etcd", NULL,
                        "%s: version %s, healthy, %s (%" PRIx64 "), %s, %.1f ms", endpoint, version,
                        leader == member ? "the leader" : "follows the leader", leader, size,
                        (double)us / 1000);
}

static void visit_etcd(proa_doctor *doctor, const char *endpoint)
{
    static const char remedy[] =
        "start etcd there, or correct --etcd-endpoints (ETCD_ENDPOINTS): http://host:2379";
    char url[600];
    int code = 0;
    int64_t us = 0, health_us = 0;
    proa_json *status = NULL, *health = NULL;
    proa_error err = {0};
    size_t length = strlen(endpoint);
    while (length > 0 && endpoint[length - 1] == '/')
        length--;
    snprintf(url, sizeof url, "%.*s/v3/maintenance/status", (int)length, endpoint);
    proa_status got = proa_probe_fetch(url, "{}", &code, &us, &status, &err);
    if (got != PROA_OK) {
        proa_doctor_say(doctor, PROA_FINDING_FAILURE, "etcd", remedy, "%s", err.text);
        return;
    }
    if (code != 200 || proa_json_get(status, "version") == NULL) {
        proa_doctor_say(
            doctor, PROA_FINDING_FAILURE, "etcd",
            "is this an etcd of version 3.4 or later, with its JSON gateway (--enable-v2 or grpc-gateway "
            "on, as by default)?",
            "%s answers with status %d and is no etcd v3 gateway", url, code);
        proa_json_free(status);
        return;
    }
    snprintf(url, sizeof url, "%.*s/health", (int)length, endpoint);
    got = proa_probe_fetch(url, NULL, &code, &health_us, &health, &err);
    const char *word = proa_json_string(proa_json_get(health, "health"), "");
    say_status(doctor, endpoint, status, got == PROA_OK && code == 200 && strcmp(word, "true") == 0, us);
    proa_json_free(status);
    proa_json_free(health);
}

void proa_doctor_etcd(proa_doctor *doctor)
{
    const char *endpoints = proa_options_string(doctor->options, "etcd-endpoints");
    if (endpoints == NULL)
        proa_doctor_say(doctor, PROA_FINDING_PLAIN, "etcd", NULL, "not asked for (--etcd-endpoints)");
    proa_doctor_each(endpoints, visit_etcd, doctor);
}

/* ---- nats-server ---- */

static void visit_nats(proa_doctor *doctor, const char *server)
{
    static const char remedy[] =
        "start nats-server there, or correct --nats-server (NATS_SERVER): nats://host:4222";
    char shown[512], most[24];
    proa_nats_check check;
    proa_error err = {0};
    proa_nats_hide_password(server, shown, sizeof shown);
    if (!proa_nats_server_valid(server))
        proa_doctor_say(doctor, PROA_FINDING_FAILURE, "nats-server", remedy,
                        "\"%s\" is no address of a server", shown);
    else if (proa_nats_probe(server, &check, &err) != PROA_OK)
        proa_doctor_say(doctor, PROA_FINDING_FAILURE, "nats-server", remedy, "%s", err.text);
    else
        proa_doctor_say(
            doctor, PROA_FINDING_GOOD, "nats-server", NULL, "%s: messages up to %s, round trip %.2f ms",
            shown, proa_format_bytes((double)check.max_payload, most), (double)check.round_trip_us / 1000);
}

void proa_doctor_nats(proa_doctor *doctor)
{
    const char *servers = proa_options_string(doctor->options, "nats-server");
    if (servers == NULL)
        proa_doctor_say(doctor, PROA_FINDING_PLAIN, "nats-server", NULL, "not asked for (--nats-server)");
    proa_doctor_each(servers, visit_nats, doctor);
}

/* ---- ports ---- */

static void visit_port(proa_doctor *doctor, const char *text)
{
    char name[40], *end;
    long port = strtol(text, &end, 10);
    snprintf(name, sizeof name, "port %.20s", text);
    if (*end != 0 || port < 1 || port > 65535) {
        proa_doctor_say(doctor, PROA_FINDING_FAILURE, name, NULL, "ports are 1 to 65535");
        return;
    }
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on,
               sizeof on); /* as servers do: a connection that lingers is no server */
    bool is_free =
        fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, 1) == 0;
    int why = errno;
    if (fd >= 0)
        close(fd);
    bool asked = proa_options_given(doctor->options, "ports");
    if (is_free)
        proa_doctor_say(doctor, asked ? PROA_FINDING_GOOD : PROA_FINDING_PLAIN, name, NULL, "free");
    else
        proa_doctor_say(doctor, asked ? PROA_FINDING_FAILURE : PROA_FINDING_PLAIN, name,
                        asked ? "see who has it: ss -ltnp; or take another port" : NULL, "%s",
                        why == EADDRINUSE ? "in use" : strerror(why));
}

void proa_doctor_ports(proa_doctor *doctor)
{
    proa_doctor_each(proa_options_string(doctor->options, "ports"), visit_port, doctor);
}
