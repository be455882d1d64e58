/* post_internal.h - a kind of post. */
#ifndef PROA_NET_POST_INTERNAL_H
#define PROA_NET_POST_INTERNAL_H

#include "net/post.h"

typedef struct proa_post_ops {
    void (*free)(proa_post *post);
    proa_status (*connect)(proa_post *post, int32_t rank, const void *address, size_t bytes, proa_error *err);
    bool (*is_connected)(const proa_post *post, int32_t rank);
    void (*disconnect)(proa_post *post, int32_t rank);
    proa_status (*send)(proa_post *post, int32_t to, const uint8_t *header, const void *data, size_t bytes,
                        proa_error *err);
    bool (*progress)(proa_post *post);
    void (*wait)(proa_post *post, int64_t timeout_us);
    void (*wake)(proa_post *post);
} proa_post_ops;

struct proa_post {
    const proa_post_ops *ops;
    proa_post_hooks hooks;
    int32_t ranks;
    int32_t rank;
    int32_t *pending; /* [ranks] */
    int32_t *landing; /* [ranks] */
    void *address;
    size_t address_bytes;
};

/* Fills the common part; proa_post_clear undoes it. */
proa_status proa_post_prepare(proa_post *post, const proa_post_ops *ops, int32_t ranks, int32_t rank,
                              const proa_post_hooks *hooks, proa_error *err);
void proa_post_clear(proa_post *post);

#endif
