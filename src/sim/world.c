/* world.c - time, chance and the network. */
#include "sim/sim_internal.h"

#include "base/random.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- chance ---- */

uint32_t proa_sim_random(sim_world *w, uint32_t below)
{
    uint32_t words[4];
    proa_random_philox(w->seed, w->draws++, 0x51, words);
    return (uint32_t)(((uint64_t)words[0] * below) >> 32);
}

bool proa_sim_chance(sim_world *w, uint32_t permille)
{
    return proa_sim_random(w, 1000) < permille;
}

void proa_sim_find(sim_world *w, const char *format, ...)
{
    va_list args;
    if (w->result->finding[0] != 0)
        return; /* the first one counts */
    va_start(args, format);
    vsnprintf(w->result->finding, sizeof w->result->finding, format, args);
    va_end(args);
}

/* ---- time ---- */

void proa_sim_post(sim_world *w, const sim_event *event, int64_t delay_us)
{
    proa_sim_queue_post(&w->queue, event, w->now_us + delay_us);
}

bool proa_sim_take(sim_world *w, sim_event *event)
{
    return proa_sim_queue_take(&w->queue, event, &w->now_us);
}

/* ---- links ---- */

int32_t proa_sim_dial(sim_world *w, int32_t a, int32_t b)
{
    if (!w->nodes[a].alive || !w->nodes[b].alive)
        return -1;
    if (w->link_count == w->link_room) {
        w->link_room = w->link_room > 0 ? 2 * w->link_room : 64;
        w->links = realloc(w->links, (size_t)w->link_room * sizeof *w->links);
        if (w->links == NULL)
            abort();
    }
    w->links[w->link_count] = (sim_link){.a = a, .b = b, .up = {true, true}};
    return w->link_count++;
}

void proa_sim_send(sim_world *w, int32_t number, int32_t from, const sim_event *message)
{
    if (number < 0 || !w->links[number].up[from == w->links[number].b] || w->links[number].cut)
        return;
    const sim_link *link = &w->links[number];
    sim_event sent = *message;
    sent.link = number;
    sent.from = from;
    sent.to = from == link->a ? link->b : link->a;
    bool of_room = sent.kind >= SIM_OPEN && sent.kind <= SIM_QUIET;
    int64_t delay = 100; /* ordered: the same for all */
    if (of_room && w->rough) {
        delay = 50 + proa_sim_random(w, 3000);
        if (proa_sim_chance(w, 30))
            return;
        if (proa_sim_chance(w, 50))
            proa_sim_post(w, &sent, delay + proa_sim_random(w, 20000));
    }
    proa_sim_post(w, &sent, delay);
}

/* The link is gone; each end hears of it by itself: at once when the stream ends (certain), else after a silence. */
void proa_sim_cut(sim_world *w, int32_t number, bool certain, int32_t except)
{
    sim_link *link = &w->links[number];
    if (link->cut)
        return;
    link->cut = true;
    for (int end = 0; end < 2; end++) {
        int32_t node = end == 0 ? link->a : link->b;
        if (node == except)
            link->up[end] = false;
        else
            proa_sim_post(w,
                          &(sim_event){.kind = SIM_DOWN,
                                       .to = node,
                                       .link = number,
                                       .number = certain,
                                       .epoch = w->nodes[node].epoch},
                          certain ? 200 + proa_sim_random(w, 5000) : 2000000 + proa_sim_random(w, 1000000));
    }
}

/* ---- the oracle's arithmetic, also the engines' ---- */

uint64_t proa_sim_mix(uint64_t a, uint64_t b)
{
    uint64_t x = a ^ (b + 0x9E3779B97F4A7C15u + (a << 6) + (a >> 2));
    x = (x ^ (x >> 32)) * 0xD6E8FEB86659FD93u;
    x = (x ^ (x >> 29)) * 0xBF58476D1CE4E5B9u;
    return x ^ (x >> 32);
}

int32_t proa_sim_prompt_token(int32_t prompt, int32_t i)
{
    return (int32_t)(proa_sim_mix((uint64_t)prompt, (uint64_t)i) % SIM_VOCAB);
}

uint64_t proa_sim_next_row(uint64_t row, int32_t token)
{
    return proa_sim_mix(row, (uint64_t)token);
}

uint64_t proa_sim_fold(uint64_t fold, uint64_t row)
{
    return (fold ^ row) * 0x9E3779B97F4A7C15u;
}

int32_t proa_sim_token_of(uint64_t fold, int32_t position)
{
    return (int32_t)(proa_sim_mix(fold, (uint64_t)position) % SIM_VOCAB);
}
