/* loop_internal.h - what the files of net/ that run on a loop see of it. */
#ifndef PROA_NET_LOOP_INTERNAL_H
#define PROA_NET_LOOP_INTERNAL_H

#include "net/event.h"
#include "net/loop.h"
#include "net/resolve.h"

struct event_base *proa_loop_base(proa_loop *loop);

/* The look-ups of names that are under way for this loop. */
proa_resolver *proa_loop_resolver(proa_loop *loop);

/* Aborts when the loop runs and the caller is on another thread. */
void proa_loop_assert_owner(const proa_loop *loop);

/* {seconds, microseconds}; at least 0. */
struct timeval proa_loop_timeval(int64_t us);

#endif
