/* env.c - `proa env`: asks for the head nodes' addresses, unless flags give them, and prints what each node has to start and to export.
 *
 * It prints and starts nothing. Standard output holds the lines alone, so that they can be evaluated or copied; prompts and errors go to
 * standard error. When something is wrong nothing else is printed, so no node gets half of it. */
#include "cluster/node_env.h"
#include "cmd/cmd.h"
#include "net/link.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LINE_BYTES_MAX = 4096, KEY_BYTES = 16 };

typedef struct plan {
    const proa_options *options;
    proa_node_env env;
    bool shell;
    char *key;  /* owned */
    char *path; /* of --cluster-key-file, owned */
} plan;

/* A line of standard input without white space around it. */
static proa_status read_line(proa_buf *line, const char *what, proa_error *err)
{
    int c;
    proa_buf_init(line, LINE_BYTES_MAX);
    while ((c = getchar()) != EOF && c != '\n')
        proa_buf_append_char(line, (char)c);
    if (ferror(stdin))
        return proa_error_set(err, PROA_ERR_IO, "%s: cannot read standard input: %s", what, strerror(errno));
    if (line->failed)
        return proa_error_set(err, PROA_ERR_INVALID, "%s: the line on standard input is longer than %d bytes",
                              what, LINE_BYTES_MAX);
    if (c == EOF && line->length == 0)
        return proa_error_set(err, PROA_ERR_INVALID,
                              "%s: standard input has ended; give it as a flag or a line", what);
    while (line->length > 0 && isspace((unsigned char)line->data[line->length - 1]))
        proa_buf_truncate(line, line->length - 1);
    size_t blanks = 0;
    while (blanks < line->length && isspace((unsigned char)line->data[blanks]))
        blanks++;
    proa_buf_drop_front(line, blanks);
    return PROA_OK;
}

/* From the flag, or else the next line of standard input. */
static proa_status read_address(const plan *p, const char *flag, const char *title,
                                proa_node_address *address, proa_error *err)
{
    const char *given = proa_options_string(p->options, flag);
    proa_buf line = {0};
    proa_status status = PROA_OK;
    char place[80];
    snprintf(place, sizeof place, "--%s", flag);
    if (given == NULL) {
        if (isatty(STDIN_FILENO))
            fprintf(stderr, "Enter %s IP: ", title);
        status = read_line(&line, place, err);
    } else
        proa_buf_append_text(&line, given);
    if (status == PROA_OK) {
        status = proa_node_address_parse(proa_buf_text(&line), line.length, address, err);
        if (status != PROA_OK)
            proa_error_prefix(err, "%s", place);
    }
    proa_buf_free(&line);
    return status;
}

/* The key that was given, checked. Who prints the lines of all nodes at once gets a new one; with --shell each node runs the command, and
 * would make its own. */
static proa_status find_key(plan *p, proa_error *err)
{
    const char *text = proa_options_string(p->options, "cluster-key");
    const char *path = proa_options_string(p->options, "cluster-key-file");
    proa_status status = proa_link_read_key(text, path, &p->key, err);
    if (status != PROA_OK)
        return status;
    if (text == NULL && path != NULL) {
        p->path = realpath(path, NULL); /* the worker may run in another folder */
        if (p->path == NULL)
            return proa_error_set(err, PROA_ERR_IO, "--cluster-key-file %s: %s", path, strerror(errno));
        p->env.key_path = p->path;
        return PROA_OK;
    }
    if (p->key == NULL && !p->shell && proa_options_string(p->options, "role") == NULL) {
        uint8_t bytes[KEY_BYTES];
        p->key = malloc(2 * KEY_BYTES + 1);
        if (p->key == NULL)
            return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the cluster key");
        proa_random_bytes(bytes, sizeof bytes);
        for (int i = 0; i < KEY_BYTES; i++)
            snprintf(p->key + 2 * i, 3, "%02x", bytes[i]);
    } else if (p->key == NULL && !p->env.head_prefill.loopback)
        fputs("proa: no cluster key: without one, workers listen on 127.0.0.1 alone. Export the same "
              "PROA_CLUSTER_KEY on "
              "all nodes (`openssl rand -hex 32` makes one), or give --cluster-key-file\n",
              stderr);
    p->env.key = p->key;
    return PROA_OK;
}

static proa_status read_plan(plan *p, proa_error *err)
{
    p->env.etcd_port = (int)proa_options_int(p->options, "etcd-port");
    p->env.etcd_peer_port = (int)proa_options_int(p->options, "etcd-peer-port");
    p->env.nats_port = (int)proa_options_int(p->options, "nats-port");
    proa_status status =
        read_address(p, "head-prefill-node-ip", "HEAD_PREFILL_NODE", &p->env.head_prefill, err);
    if (status == PROA_OK)
        status = read_address(p, "head-decode-node-ip", "HEAD_DECODE_NODE", &p->env.head_decode, err);
    if (status == PROA_OK)
        status = proa_node_env_check(&p->env, err);
    if (status == PROA_OK)
        status = find_key(p, err);
    return status;
}

static void write_exports(const plan *p, proa_buf *out)
{
    proa_buf_append_text(out, "# Export environment variables\n");
    proa_node_env_exports(&p->env, out);
}

static void write_plan(const plan *p, proa_buf *out)
{
    const char *role = proa_options_string(p->options, "role");
    bool head = role != NULL ? strcmp(role, "head") == 0 : !p->shell;
    bool other = role != NULL ? strcmp(role, "other") == 0 : true;
    if (head) {
        if (!p->shell)
            proa_buf_append_format(out,
                                   "=== HEAD PREFILL NODE (%s) ===\n"
                                   "Run all of these commands on the head prefill node:\n\n",
                                   p->env.head_prefill.host);
        proa_node_env_servers(&p->env, out);
        proa_buf_append_char(out, '\n');
        write_exports(p, out);
        if (!p->shell)
            proa_buf_append_text(out, "\n# Check both, and what this node has\nproa doctor\n");
    }
    if (other) {
        if (head)
            proa_buf_append_char(out, '\n');
        if (!p->shell)
            proa_buf_append_text(out, "=== ALL OTHER NODES ===\n"
                                      "Run these commands on all other nodes (prefill and decode):\n\n");
        write_exports(p, out);
    }
}

int proa_cmd_env(const proa_options *options)
{
    plan p = {.options = options, .shell = proa_options_bool(options, "shell")};
    proa_buf text = {0};
    proa_error err = {0};
    proa_status status = read_plan(&p, &err);
    if (status == PROA_OK) {
        write_plan(&p, &text);
        if (text.failed)
            status = proa_error_set(&err, PROA_ERR_MEMORY, "no memory for the lines");
    }
    /* eval of nothing succeeds: a script would go on without the variables */
    fputs(status == PROA_OK ? proa_buf_text(&text) : p.shell ? "false\n" : "", stdout);
    if ((fflush(stdout) != 0 || ferror(stdout)) && status == PROA_OK)
        status = proa_error_set(&err, PROA_ERR_IO, "cannot write to standard output: %s", strerror(errno));
    proa_buf_free(&text);
    if (p.key != NULL)
        explicit_bzero(p.key, strlen(p.key));
    free(p.key);
    free(p.path);
    return status == PROA_OK ? PROA_EXIT_OK : proa_cmd_fail(&err);
}
