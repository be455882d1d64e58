/* node_env.c - the lines.
 *
 * Both servers listen on the head's address, and on loopback for who looks at them there: neither asks for a password, so other networks of
 * the node need not see them. A name cannot be listened on (etcd refuses it), so then it is any address. etcd is one node and stays one:
 * its peers' port is on loopback. What it keeps lives as long as the processes that registered, so each start has a fresh folder: nothing
 * of an earlier cluster is found, and no slow shared home is written to. Without nohup both would end with the terminal. */
#include "cluster/node_env.h"

#include "base/shell.h"

#include <stdio.h>
#include <string.h>

enum { URL_BYTES = PROA_NODE_HOST_BYTES + 20 };

static void append_export(proa_buf *out, const char *name, const char *value)
{
    proa_buf_append_format(out, "export %s=", name);
    proa_shell_quote(out, value);
    proa_buf_append_char(out, '\n');
}

static void append_url_export(proa_buf *out, const char *name, const char *scheme, const char *host, int port)
{
    char url[URL_BYTES];
    snprintf(url, sizeof url, "%s://%s:%d", scheme, host, port);
    append_export(out, name, url);
}

proa_status proa_node_env_check(const proa_node_env *env, proa_error *err)
{
    const proa_node_address *prefill = &env->head_prefill, *decode = &env->head_decode;
    const proa_node_address *local = prefill->loopback ? prefill : decode;
    if (prefill->loopback != decode->loopback)
        return proa_error_set(
            err, PROA_ERR_INVALID,
            "%s is this machine's own address, which is another one at %s: give an address of the "
            "network that the nodes share, or a loopback address for both",
            local->host, local == prefill ? decode->host : prefill->host);
    if (env->etcd_port == env->etcd_peer_port || env->etcd_port == env->nats_port ||
        env->etcd_peer_port == env->nats_port)
        return proa_error_set(
            err, PROA_ERR_INVALID,
            "--etcd-port %d, --etcd-peer-port %d, --nats-port %d: two servers cannot listen on one port",
            env->etcd_port, env->etcd_peer_port, env->nats_port);
    return PROA_OK;
}

void proa_node_env_servers(const proa_node_env *env, proa_buf *out)
{
    const proa_node_address *head = &env->head_prefill;
    char bare[PROA_NODE_HOST_BYTES], url[URL_BYTES];
    const char *listen = head->kind != PROA_NODE_NAME ? head->host : head->loopback ? "127.0.0.1" : "0.0.0.0";
    snprintf(bare, sizeof bare, "%s", listen + (listen[0] == '['));
    bare[strcspn(bare, "]")] = '\0';
    proa_buf_append_format(out,
                           "# Start NATS server\n"
                           "nohup nats-server --addr %s --port %d > nats-server.log 2>&1 &\n\n",
                           bare, env->nats_port);

    snprintf(url, sizeof url, "http://%s:%d", listen, env->etcd_port);
    proa_buf_append_text(out, "# Start etcd\nnohup etcd --data-dir \"$(mktemp -d -t etcd.XXXXXX)\" \\\n"
                              "  --listen-client-urls ");
    proa_shell_quote(out, url);
    if (head->kind != PROA_NODE_NAME && !head->loopback)
        proa_buf_append_format(out, ",http://127.0.0.1:%d", env->etcd_port);
    snprintf(url, sizeof url, "http://%s:%d", head->host, env->etcd_port);
    proa_buf_append_text(out, " \\\n  --advertise-client-urls ");
    proa_shell_quote(out, url);
    proa_buf_append_format(out,
                           " \\\n  --listen-peer-urls http://127.0.0.1:%d --initial-advertise-peer-urls "
                           "http://127.0.0.1:%d \\\n  --initial-cluster default=http://127.0.0.1:%d "
                           "> etcd.log 2>&1 &\n",
                           env->etcd_peer_port, env->etcd_peer_port, env->etcd_peer_port);
}

void proa_node_env_exports(const proa_node_env *env, proa_buf *out)
{
    append_url_export(out, "NATS_SERVER", "nats", env->head_prefill.host, env->nats_port);
    append_url_export(out, "ETCD_ENDPOINTS", "http", env->head_prefill.host, env->etcd_port);
    append_export(out, "HEAD_PREFILL_NODE_IP", env->head_prefill.host);
    append_export(out, "HEAD_DECODE_NODE_IP", env->head_decode.host);
    if (env->key != NULL)
        append_export(out, "PROA_CLUSTER_KEY", env->key);
    else if (env->key_path != NULL)
        append_export(out, "PROA_CLUSTER_KEY_FILE", env->key_path);
}
