/* group_sim_net.c - time, chance and links. */
#include "sim/group_sim_internal.h"

#include "base/random.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* ---- chance, findings, the log ---- */

uint32_t proa_gsim_random(gsim_world *w, uint32_t below)
{
    uint32_t words[4];
    proa_random_philox(w->seed, w->draws++, 0x67, words);
    return (uint32_t)(((uint64_t)words[0] * below) >> 32);
}

bool proa_gsim_chance(gsim_world *w, uint32_t permille)
{
    return proa_gsim_random(w, 1000) < permille;
}

void proa_gsim_log(gsim_world *w, const char *format, ...)
{
    if (w->log == NULL)
        return;
    va_list args;
    va_start(args, format);
    fprintf(w->log, "%9.3f ms  ", (double)w->now_us / 1000);
    vfprintf(w->log, format, args);
    fputc('\n', w->log);
    va_end(args);
}

void proa_gsim_find(gsim_world *w, const char *format, ...)
{
    if (w->result->finding[0] != 0)
        return; /* the first one counts */
    va_list args;
    va_start(args, format);
    vsnprintf(w->result->finding, sizeof w->result->finding, format, args);
    va_end(args);
    proa_gsim_log(w, "FINDING: %s", w->result->finding);
}

/* ---- time ---- */

void proa_gsim_post(gsim_world *w, const gsim_event *event, int64_t delay_us)
{
    proa_sim_queue_post(&w->queue, event, w->now_us + delay_us);
}

bool proa_gsim_take(gsim_world *w, gsim_event *event)
{
    return proa_sim_queue_take(&w->queue, event, &w->now_us);
}

/* ---- packets ---- */

static void append(gsim_world *w, int32_t from, int32_t to, gsim_packet *packet)
{
    gsim_way *way = &w->way[from][to];
    int64_t due = w->now_us + 20 + proa_gsim_random(w, GSIM_DELAY_US - 20);
    if (due < way->last_due_us)
        due = way->last_due_us;
    way->last_due_us = packet->due_us = due;
    packet->next = NULL;
    *way->tail = packet;
    way->tail = &packet->next;
    proa_gsim_post(w, &(gsim_event){.kind = GSIM_DELIVER, .rank = to, .peer = from}, due - w->now_us);
}

/* `words` of 8 bytes follow. */
static gsim_packet *packet_new(gsim_packet_kind kind, uint64_t link, uint64_t life, int32_t words)
{
    gsim_packet *packet = calloc(1, sizeof *packet + (size_t)words * sizeof(uint64_t));
    if (packet == NULL)
        abort();
    packet->kind = kind;
    packet->link = link;
    packet->life = life;
    return packet;
}

void proa_gsim_send(gsim_world *w, int32_t from, int32_t to, const proa_group_message *message)
{
    const gsim_way *back = &w->way[to][from]; /* the sender's own end */
    int32_t lives = message->kind == PROA_GROUP_VIEW ? proa_group_mask_count(&message->mask) : 0;
    w->result->messages++;
    w->result->step_messages += message->kind == PROA_GROUP_PROPOSE || message->kind == PROA_GROUP_SHAPE;
    if (back->link == 0) {
        proa_gsim_find(w, "rank %d sends to %d, whose link is down", from, to);
        return;
    }
    if (back->link == w->way[from][to].dead)
        return;
    gsim_packet *packet = packet_new(GSIM_MESSAGE, back->link, w->rank[from].life, lives);
    packet->message = *message;
    if (lives > 0) {
        memcpy(packet->lives, message->lives, (size_t)lives * sizeof(uint64_t));
        packet->message.lives = packet->lives;
    }
    append(w, from, to, packet);
}

void proa_gsim_send_experts(gsim_world *w, int32_t from, int32_t to, const void *bytes, size_t length)
{
    const gsim_way *back = &w->way[to][from];
    if (back->link == 0 || back->link == w->way[from][to].dead)
        return;
    gsim_packet *packet =
        packet_new(GSIM_EXPERTS, back->link, w->rank[from].life, (int32_t)((length + 7) / 8));
    packet->bytes = length;
    memcpy(packet->lives, bytes, length);
    append(w, from, to, packet);
}

void proa_gsim_drop(gsim_world *w, int32_t from, int32_t to)
{
    gsim_way *way = &w->way[from][to];
    while (way->head != NULL) {
        gsim_packet *packet = way->head;
        way->head = packet->next;
        free(packet);
    }
    way->tail = &way->head;
}

/* The end at `to` of its link with `from` goes down. */
static void end_down(gsim_world *w, int32_t from, int32_t to)
{
    gsim_way *way = &w->way[from][to];
    if (way->link == 0)
        return;
    way->link = 0;
    if (w->first_down_us == 0)
        w->first_down_us = w->now_us;
    proa_gsim_log(w, "%d: link to %d down", to, from);
    proa_group_link_down(w->rank[to].group, from, way->life, w->now_us);
    proa_gsim_acted(w, to);
}

void proa_gsim_deliver(gsim_world *w, int32_t from, int32_t to)
{
    gsim_way *way = &w->way[from][to];
    gsim_packet *packet = way->head;
    if (packet == NULL || packet->due_us > w->now_us)
        return; /* it was dropped */
    if (way->blocked > 0) {
        proa_gsim_post(w, &(gsim_event){.kind = GSIM_DELIVER, .rank = to, .peer = from}, 20000);
        return;
    }
    way->head = packet->next;
    if (way->head == NULL)
        way->tail = &way->head;
    gsim_rank *r = &w->rank[to];
    if (!r->alive) {
        free(packet);
        return;
    }
    way->heard_us = w->now_us;
    if (packet->kind == GSIM_HELLO) {
        way->link = packet->link;
        way->life = packet->life;
        way->told_silent = false;
        proa_gsim_log(w, "%d: link to %d up, life %llx", to, from, (unsigned long long)packet->life);
        proa_group_link_up(r->group, from, packet->life, w->now_us);
        proa_gsim_acted(w, to);
    } else if (packet->link == way->link && packet->kind == GSIM_MESSAGE) {
        proa_group_receive(r->group, &packet->message, w->now_us);
        proa_gsim_acted(w, to);
    } else if (packet->link == way->link && packet->kind == GSIM_EXPERTS) {
        proa_gsim_experts_receive(w, to, packet->lives, packet->bytes);
    } else if (packet->link == way->link) {
        end_down(w, from, to);
    }
    free(packet);
}

/* ---- links ---- */

static void dial(gsim_world *w, int32_t a, int32_t b)
{
    uint64_t link = ++w->links;
    proa_gsim_drop(w, a, b);
    proa_gsim_drop(w, b, a);
    append(w, a, b, packet_new(GSIM_HELLO, link, w->rank[a].life, 0));
    append(w, b, a, packet_new(GSIM_HELLO, link, w->rank[b].life, 0));
}

/* `to` hears that its link with `from` is gone. */
static void say_bye(gsim_world *w, int32_t from, int32_t to)
{
    if (w->way[from][to].link != 0)
        append(w, from, to, packet_new(GSIM_BYE, w->way[from][to].link, 0, 0));
}

void proa_gsim_break(gsim_world *w, int32_t a, int32_t b, bool quiet)
{
    proa_gsim_drop(w, a, b);
    proa_gsim_drop(w, b, a);
    w->way[a][b].dead = w->way[b][a].link; /* nothing passes on it any more */
    w->way[b][a].dead = w->way[a][b].link;
    if (!quiet)
        say_bye(w, a, b);
    if (!quiet || proa_gsim_chance(w, 500))
        say_bye(w, b, a);
}

/* The process of `rank` has ended: its ends are gone, the others hear of it. What it had sent arrives, is lost, or comes late. */
void proa_gsim_crash_links(gsim_world *w, int32_t rank)
{
    for (int32_t peer = 0; peer < w->ranks; peer++) {
        gsim_way *out = &w->way[rank][peer];
        proa_gsim_drop(w, peer, rank);
        w->way[peer][rank].link = 0;
        uint32_t fate = proa_gsim_random(w, 3);
        if (fate == 1) {
            proa_gsim_drop(w, rank, peer);
        } else if (fate == 2) {
            while (out->head != NULL) {
                gsim_packet *packet = out->head;
                out->head = packet->next;
                if (packet->kind != GSIM_MESSAGE) {
                    free(packet);
                    continue;
                }
                proa_gsim_post(w,
                               &(gsim_event){.kind = GSIM_GHOST,
                                             .rank = peer,
                                             .peer = rank,
                                             .life = w->rank[peer].life,
                                             .packet = packet},
                               proa_gsim_random(w, 4000000));
            }
            out->tail = &out->head;
        }
        say_bye(w, rank, peer);
    }
}

/* Is the end at `to` kept alive by its peer? */
static bool hears(const gsim_world *w, int32_t from, int32_t to)
{
    const gsim_way *way = &w->way[from][to];
    const gsim_rank *r = &w->rank[from];
    return r->alive && !r->stalled && r->life == way->life && way->blocked == 0 &&
           way->link != w->way[to][from].dead && w->way[to][from].link == way->link;
}

static void watch_end(gsim_world *w, int32_t from, int32_t to)
{
    gsim_way *way = &w->way[from][to];
    if (!w->rank[to].alive || w->rank[to].stalled || way->link == 0)
        return;
    if (hears(w, from, to)) {
        way->heard_us = w->now_us;
        way->told_silent = false;
        return;
    }
    if (w->now_us - way->heard_us < GSIM_SILENCE_US)
        return;
    if (w->watchdog && w->rank[from].stalled && w->way[to][from].link == way->link) {
        if (way->told_silent)
            return;
        way->told_silent = true;
        proa_gsim_log(w, "%d: %d is silent", to, from);
        proa_group_silent(w->rank[to].group, from, w->now_us);
        proa_gsim_acted(w, to);
        return;
    }
    end_down(w, from, to);
    say_bye(w, to, from);
}

/* A link is dialled anew when neither end has it, or one is of a process that is gone. */
static void watch_pair(gsim_world *w, int32_t a, int32_t b)
{
    const gsim_rank *ra = &w->rank[a], *rb = &w->rank[b];
    const gsim_way *ab = &w->way[a][b], *ba = &w->way[b][a];
    if (!ra->alive || !rb->alive || ra->stalled || rb->stalled || ab->blocked > 0 || ba->blocked > 0)
        return;
    if ((ab->link != 0 && ab->life == ra->life) || (ba->link != 0 && ba->life == rb->life))
        return;
    for (const gsim_packet *p = ab->head; p != NULL; p = p->next)
        if (p->kind == GSIM_HELLO)
            return; /* on its way */
    for (const gsim_packet *p = ba->head; p != NULL; p = p->next)
        if (p->kind == GSIM_HELLO)
            return;
    if (w->trouble != PROA_GROUP_SIM_TROUBLE || proa_gsim_chance(w, 600))
        dial(w, a, b);
}

void proa_gsim_watch(gsim_world *w)
{
    for (int32_t a = 0; a < w->ranks; a++) {
        for (int32_t b = 0; b < w->ranks; b++) {
            if (a == b)
                continue;
            watch_end(w, a, b);
            if (a < b)
                watch_pair(w, a, b);
        }
    }
}

/* It reads what has come meanwhile before it calls others silent. */
void proa_gsim_resumed(gsim_world *w, int32_t rank)
{
    for (int32_t peer = 0; peer < w->ranks; peer++)
        w->way[peer][rank].heard_us = w->now_us;
}
