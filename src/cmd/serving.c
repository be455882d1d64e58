/* serving.c - see serving.h. */
#include "cmd/serving.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

proa_server_options proa_serving_options(const proa_options *o)
{
    proa_server_options options = proa_server_default_options();
    options.api_key = proa_options_string(o, "api-key");
    options.http.tls_cert_path = proa_options_string(o, "tls-cert-path");
    options.http.tls_key_path = proa_options_string(o, "tls-key-path");
    options.version = proa_options_program(o)->version;
    options.drain_s = proa_options_real(o, "shutdown-timeout");
    options.watchdog_s = proa_options_real(o, "watchdog-timeout");
    return options;
}

void proa_serving_raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

void proa_serving_print_address(const proa_options *o, const char *host_flag, int port)
{
    const char *host = proa_options_string(o, host_flag);
    bool v6 = strchr(host, ':') != NULL;
    const char *scheme = proa_options_string(o, "tls-cert-path") != NULL ? "https" : "http";
    printf("proa: listening on %s://%s%s%s:%d\n", scheme, v6 ? "[" : "", host, v6 ? "]" : "", port);
    fflush(stdout);
}
