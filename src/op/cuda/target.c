/* target.c - see target.h. */
#include "op/cuda/target.h"

#include <stdio.h>

/* What people know a compute capability by. */
static const struct {
    int32_t capability;
    const char *products;
} known[] = {{90, "H100, H200"}, {100, "B200, GB200"}};

enum { KNOWN = sizeof known / sizeof *known, LIST_BYTES = 256 };

static const char *products_of(int32_t capability)
{
    for (int32_t i = 0; i < KNOWN; i++)
        if (known[i].capability == capability)
            return known[i].products;
    return NULL;
}

/* "9.0 (H100, H200) and 10.0 (B200, GB200)" */
static void list_built(const int32_t *built, int32_t count, char *list)
{
    size_t used = 0;
    list[0] = 0;
    for (int32_t i = 0; i < count && used < LIST_BYTES; i++) {
        const char *products = products_of(built[i]), *between = i == 0 ? "" : i + 1 < count ? ", " : " and ";
        used += (size_t)snprintf(list + used, LIST_BYTES - used, "%s%d.%d%s%s%s", between, built[i] / 10,
                                 built[i] % 10, products != NULL ? " (" : "",
                                 products != NULL ? products : "", products != NULL ? ")" : "");
    }
}

proa_status proa_gpu_target_check(const proa_gpu_facts *facts, const int32_t *built, int32_t built_count,
                                  proa_error *err)
{
    char list[LIST_BYTES];
    for (int32_t i = 0; i < built_count; i++)
        if (built[i] == facts->capability)
            return PROA_OK;
    list_built(built, built_count, list);
    return proa_error_set(err, PROA_ERR_UNSUPPORTED,
                          "GPU %d is a %s of compute capability %d.%d; kernels are built for %s",
                          facts->ordinal, facts->name, facts->capability / 10, facts->capability % 10, list);
}
