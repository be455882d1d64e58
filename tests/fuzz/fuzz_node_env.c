/* fuzz_node_env.c - any bytes as an address: refused with a text that prints, or taken as what no shell, URL or "host:port" misreads. */
#include "cluster/node_env.h"

#include <ctype.h>
#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    proa_node_address address, again;
    proa_error err = {0};
    if (proa_node_address_parse((const char *)data, size, &address, &err) != PROA_OK) {
        PROA_ASSERT(err.text[0] != '\0');
        for (const char *c = err.text; *c != '\0'; c++)
            PROA_ASSERT(isprint((unsigned char)*c));
        return 0;
    }
    size_t length = strlen(address.host);
    bool brackets = address.host[0] == '[';
    PROA_ASSERT(brackets == (address.kind == PROA_NODE_IPV6));
    PROA_ASSERT(strspn(address.host, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-.:[]") ==
                length);
    PROA_ASSERT(brackets || strchr(address.host, ':') == NULL);
    proa_status status = proa_node_address_parse(address.host, length, &again, &err);
    PROA_ASSERT(status == PROA_OK);
    PROA_ASSERT(memcmp(&address, &again, sizeof address) == 0);

    proa_node_env env = {address, address, 2379, 2380, 4222, NULL, NULL};
    proa_buf text = {0};
    proa_node_env_servers(&env, &text);
    proa_node_env_exports(&env, &text);
    PROA_ASSERT(!text.failed);
    proa_buf_free(&text);
    return 0;
}
