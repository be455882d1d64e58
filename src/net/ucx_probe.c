/* ucx_probe.c - what UCX prints of itself, read into a table. */
#include "net/ucx_probe.h"

#include "net/ucx.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static proa_ucx_class class_of(const char *transport)
{
    static const struct {
        const char *prefix;
        proa_ucx_class class;
    } table[] = {
        {"self", PROA_UCX_SELF},  {"posix", PROA_UCX_SHARED}, {"sysv", PROA_UCX_SHARED},
        {"cma", PROA_UCX_SHARED}, {"xpmem", PROA_UCX_SHARED}, {"knem", PROA_UCX_SHARED},
        {"tcp", PROA_UCX_TCP},    {"rc", PROA_UCX_RDMA},      {"dc", PROA_UCX_RDMA},
        {"ud", PROA_UCX_RDMA},    {"cuda", PROA_UCX_GPU},     {"gdr", PROA_UCX_GPU},
        {"rocm", PROA_UCX_GPU},   {"ze", PROA_UCX_GPU},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (strncmp(transport, table[i].prefix, strlen(table[i].prefix)) == 0)
            return table[i].class;
    return PROA_UCX_OTHER;
}

/* UCX has no call that lists them, but prints lines: "#      resource 2  :  md 1  dev 2  flags -- tcp/eth0". */
static void read_resources(const char *text, proa_ucx_info *info)
{
    static const char mark[] = " resource ";
    for (const char *at = text; (at = strstr(at, mark)) != NULL && info->count < PROA_UCX_RESOURCES_MAX;) {
        at += sizeof mark - 1;
        char line[256];
        snprintf(line, sizeof line, "%.*s", (int)strcspn(at, "\n"), at);
        const char *name = strrchr(line, ' ');
        proa_ucx_resource *r = &info->resources[info->count];
        if (name == NULL || sscanf(name, " %23[^/]/%39s", r->transport, r->device) != 2)
            continue;
        r->class = class_of(r->transport);
        info->count++;
    }
}

proa_status proa_ucx_probe(proa_ucx_info *info, proa_error *err)
{
    proa_ucx ucx = {0};
    ucp_config_t *config = NULL;
    char *text = NULL;
    size_t length = 0;
    *info = (proa_ucx_info){0};
    proa_status status = proa_ucx_load(&ucx, err);
    if (proa_failed(status)) {
        proa_ucx_close(&ucx);
        return status;
    }
    snprintf(info->version, sizeof info->version, "%s", ucx.ucp_get_version_string());
    status = proa_ucx_open(&ucx, NULL, NULL, err);
    if (proa_failed(status)) {
        proa_ucx_close(&ucx);
        return status;
    }
    if (ucx.ucp_config_read(NULL, NULL, &config) == UCS_OK) {
        proa_ucx_setting(&ucx, config, "UCX_TLS=", info->tls, sizeof info->tls);
        proa_ucx_setting(&ucx, config, "UCX_NET_DEVICES=", info->net_devices, sizeof info->net_devices);
        ucx.ucp_config_release(config);
    }
    FILE *stream = open_memstream(&text, &length);
    if (stream != NULL) {
        ucx.ucp_context_print_info(ucx.context, stream);
        fclose(stream);
        read_resources(text, info);
    }
    free(text);
    proa_ucx_close(&ucx);
    return PROA_OK;
}
