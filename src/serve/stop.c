/* stop.c - one KMP automaton a stop string, stepped side by side. */
#include "serve/stop.h"

#include <string.h>

static uint16_t step(const proa_stop_string *stop, const uint16_t *failure, uint16_t matched, char c)
{
    while (matched > 0 && stop->text[matched] != c)
        matched = failure[matched - 1];
    return stop->text[matched] == c ? (uint16_t)(matched + 1) : 0;
}

bool proa_stop_set_init(proa_stop_set *set, const proa_stop_string *stops, int32_t count, proa_arena *arena)
{
    PROA_ASSERT(count <= PROA_API_STOPS_MAX);
    *set = (proa_stop_set){.stops = stops, .count = count};
    for (int32_t i = 0; i < count; i++) {
        PROA_ASSERT(stops[i].length > 0);
        PROA_ASSERT(stops[i].length <= PROA_API_STOP_BYTES_MAX);
        set->failure[i] = proa_arena_array(arena, stops[i].length, sizeof(uint16_t));
        if (set->failure[i] == NULL)
            return false;
        for (size_t k = 1; k < stops[i].length; k++)
            set->failure[i][k] = step(&stops[i], set->failure[i], set->failure[i][k - 1], stops[i].text[k]);
    }
    return true;
}

void proa_stop_matcher_init(proa_stop_matcher *matcher, const proa_stop_set *set)
{
    *matcher = (proa_stop_matcher){.set = set};
}

void proa_stop_matcher_free(proa_stop_matcher *matcher)
{
    proa_buf_free(&matcher->held);
}

/* Steps all automata over one byte. Returns the longest string that is complete, or -1; *longest is how many bytes of the
 * text's end some string still needs. */
static int step_all(proa_stop_matcher *m, char c, size_t *longest)
{
    const proa_stop_set *set = m->set;
    int complete = -1;
    *longest = 0;
    for (int32_t i = 0; i < set->count; i++) {
        m->length[i] = step(&set->stops[i], set->failure[i], m->length[i], c);
        if (m->length[i] > *longest)
            *longest = m->length[i];
        if (m->length[i] == set->stops[i].length &&
            (complete < 0 || set->stops[i].length > set->stops[complete].length))
            complete = i;
    }
    return complete;
}

int proa_stop_matcher_push(proa_stop_matcher *matcher, const char *text, size_t length, bool include,
                           proa_buf *out)
{
    if (matcher->set->count == 0) {
        proa_buf_append(out, text, length);
        return -1;
    }
    proa_buf *held = &matcher->held;
    size_t longest = held->length;
    int complete = -1;
    for (size_t i = 0; i < length && complete < 0; i++) {
        proa_buf_append_char(held, text[i]);
        complete = step_all(matcher, text[i], &longest);
    }
    if (held->failed) {
        out->failed = true; /* no memory: the writer ends the answer with an error */
        return -1;
    }
    if (complete >= 0)
        longest = include ? 0 : matcher->set->stops[complete].length;
    PROA_ASSERT(longest <= held->length);
    proa_buf_append(out, proa_buf_text(held), held->length - longest);
    proa_buf_drop_front(held, held->length - longest);
    if (complete >= 0)
        proa_buf_clear(held);
    return complete;
}

void proa_stop_matcher_finish(proa_stop_matcher *matcher, proa_buf *out)
{
    proa_buf_append(out, proa_buf_text(&matcher->held), matcher->held.length);
    proa_buf_clear(&matcher->held);
}
