/* ref.c - embed, scalar: the specification. */
#include "op/embed/embed.h"

#include "op/host.h"

void proa_embed_ref(const proa_host *host, const proa_embed_args *args)
{
    int64_t k = args->table->k;
    for (int32_t r = 0; r < args->rows; r++) {
        PROA_ASSERT(args->ids[r] >= 0);
        PROA_ASSERT(args->ids[r] < args->table->n);
        for (int64_t i = 0; i < k; i++) {
            float value = proa_host_load(args->table->data, args->table->dtype, args->ids[r] * k + i);
            args->y[r * k + i] = proa_host_round(host, value);
        }
    }
}
