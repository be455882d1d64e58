/* post.c - what the kinds of posts have in common. */
#include "net/post_internal.h"

#include <stdlib.h>

proa_status proa_post_prepare(proa_post *post, const proa_post_ops *ops, int32_t ranks, int32_t rank,
                              const proa_post_hooks *hooks, proa_error *err)
{
    PROA_ASSERT(rank >= 0);
    PROA_ASSERT(rank < ranks);
    *post = (proa_post){.ops = ops, .hooks = *hooks, .ranks = ranks, .rank = rank};
    post->pending = calloc(2 * (size_t)ranks, sizeof *post->pending);
    if (post->pending == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for the post of a rank");
    post->landing = post->pending + ranks;
    return PROA_OK;
}

void proa_post_clear(proa_post *post)
{
    free(post->pending);
    post->pending = NULL;
}

void proa_post_free(proa_post *post)
{
    if (post != NULL)
        post->ops->free(post);
}

const void *proa_post_address(const proa_post *post, size_t *bytes)
{
    *bytes = post->address_bytes;
    return post->address;
}

proa_status proa_post_connect(proa_post *post, int32_t rank, const void *address, size_t bytes,
                              proa_error *err)
{
    PROA_ASSERT(rank >= 0);
    PROA_ASSERT(rank < post->ranks);
    PROA_ASSERT(rank != post->rank);
    return post->ops->connect(post, rank, address, bytes, err);
}

bool proa_post_is_connected(const proa_post *post, int32_t rank)
{
    PROA_ASSERT(rank >= 0);
    PROA_ASSERT(rank < post->ranks);
    return post->ops->is_connected(post, rank);
}

void proa_post_disconnect(proa_post *post, int32_t rank)
{
    PROA_ASSERT(rank >= 0);
    PROA_ASSERT(rank < post->ranks);
    post->ops->disconnect(post, rank);
}

proa_status proa_post_send(proa_post *post, int32_t to, const uint8_t *header, const void *data, size_t bytes,
                           proa_error *err)
{
    PROA_ASSERT(to >= 0);
    PROA_ASSERT(to < post->ranks);
    PROA_ASSERT(to != post->rank);
    return post->ops->send(post, to, header, data, bytes, err);
}

int32_t proa_post_pending(const proa_post *post, int32_t rank)
{
    return post->pending[rank];
}

int32_t proa_post_landing(const proa_post *post, int32_t rank)
{
    return post->landing[rank];
}

bool proa_post_progress(proa_post *post)
{
    return post->ops->progress(post);
}

void proa_post_wait(proa_post *post, int64_t timeout_us)
{
    post->ops->wait(post, timeout_us);
}

void proa_post_wake(proa_post *post)
{
    post->ops->wake(post);
}
