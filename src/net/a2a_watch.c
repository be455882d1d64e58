/* a2a_watch.c - what the owner of an all-to-all does, told to other threads. */
#include "net/a2a_internal.h"

#include "base/clock.h"

void proa_a2a_moved(proa_a2a *a)
{
    atomic_fetch_add_explicit(&a->watch.moves, 1, memory_order_relaxed);
}

void proa_a2a_wait_begins(proa_a2a *a, const char *what)
{
    atomic_store_explicit(&a->watch.since_us, proa_clock_us(), memory_order_relaxed);
    atomic_store_explicit(&a->watch.waits_for, what, memory_order_relaxed);
}

void proa_a2a_wait_ends(proa_a2a *a)
{
    atomic_store_explicit(&a->watch.waits_for, NULL, memory_order_relaxed);
    proa_a2a_moved(a);
}

void proa_a2a_get_look(const proa_a2a *a, proa_a2a_look *look)
{
    const a2a_watch *w = &a->watch;
    *look = (proa_a2a_look){
        .moves = atomic_load_explicit(&w->moves, memory_order_relaxed),
        .waits_for = atomic_load_explicit(&w->waits_for, memory_order_relaxed),
        .since_us = atomic_load_explicit(&w->since_us, memory_order_relaxed),
        .layer = atomic_load_explicit(&w->layer, memory_order_relaxed),
        .window = atomic_load_explicit(&w->window, memory_order_relaxed),
    };
}

bool proa_a2a_misses(const proa_a2a *a, int32_t rank)
{
    return atomic_load_explicit(&a->watch.missing[rank], memory_order_relaxed);
}
