/* labsw_fabric.c - the switch: frames from one host's TAP to another's, by the rule of the pair.
 *
 * A frame, as the TAP gives it: a virtio header (10 bytes), Ethernet (14), and mostly IPv4. The last byte of the destination's
 * hardware address is its host. Frames without delay go out at once; the others wait in a heap by the time that they are due. */
#include "labsw.h"

#include <errno.h>
#include <linux/virtio_net.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { ETHERNET = sizeof(struct virtio_net_hdr), INTERNET = ETHERNET + 14, BURST = 32 };

uint64_t lab_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* xorshift64 */
static uint64_t draw(lab_fabric *fabric)
{
    uint64_t x = fabric->random;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    fabric->random = x;
    return x;
}

static bool happens(lab_fabric *fabric, uint32_t ppm)
{
    return ppm > 0 && draw(fabric) % 1000000u < ppm;
}

bool lab_fabric_init(lab_fabric *fabric, lab_host *hosts, int host_count, uint64_t seed)
{
    memset(fabric, 0, sizeof *fabric);
    fabric->hosts = hosts;
    fabric->host_count = host_count;
    fabric->random = seed;
    fabric->waiting = calloc(LAB_WAITING_FRAMES_MAX, sizeof *fabric->waiting);
    return fabric->waiting != NULL;
}

void lab_fabric_free(lab_fabric *fabric)
{
    for (size_t i = 0; i < fabric->waiting_count; i++)
        free(fabric->waiting[i].data);
    free(fabric->waiting);
    fabric->waiting = NULL;
    fabric->waiting_count = 0;
}

/* --- the heap of waiting frames --- */

static bool sooner(const lab_frame *a, const lab_frame *b)
{
    return a->due_ns != b->due_ns ? a->due_ns < b->due_ns : a->number < b->number;
}

static void push(lab_fabric *fabric, lab_frame frame)
{
    lab_frame *heap = fabric->waiting;
    size_t i = fabric->waiting_count++;
    for (; i > 0 && sooner(&frame, &heap[(i - 1) / 2]); i = (i - 1) / 2)
        heap[i] = heap[(i - 1) / 2];
    heap[i] = frame;
    fabric->waiting_bytes += frame.length;
}

static lab_frame pop(lab_fabric *fabric)
{
    lab_frame *heap = fabric->waiting;
    lab_frame first = heap[0];
    lab_frame last = heap[--fabric->waiting_count];
    size_t i = 0;
    for (size_t child = 1; child < fabric->waiting_count; child = 2 * i + 1) {
        if (child + 1 < fabric->waiting_count && sooner(&heap[child + 1], &heap[child]))
            child++;
        if (!sooner(&heap[child], &last))
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = last;
    fabric->waiting_bytes -= first.length;
    return first;
}

/* --- one frame --- */

static bool deliver(const lab_fabric *fabric, int to, const uint8_t *data, size_t length)
{
    int tap = fabric->hosts[to].tap;
    return tap >= 0 && write(tap, data, length) == (ssize_t)length;
}

/* Where the bytes begin that an application sees; `length` when there are none. */
static size_t payload_offset(const uint8_t *data, size_t length)
{
    if (length < INTERNET + 20 || data[INTERNET - 2] != 8 || data[INTERNET - 1] != 0)
        return length;
    size_t transport = INTERNET + (size_t)(data[INTERNET] & 15) * 4;
    size_t at = length;
    if (data[INTERNET + 9] == IPPROTO_TCP && transport + 20 <= length)
        at = transport + (size_t)(data[transport + 12] >> 4) * 4;
    else if (data[INTERNET + 9] == IPPROTO_UDP)
        at = transport + 8;
    return at < length ? at : length;
}

/* Flips one bit of the payload and has the receiver trust the checksum, as with a fault in a network card's memory. */
static bool corrupt(lab_fabric *fabric, uint8_t *data, size_t length)
{
    size_t at = payload_offset(data, length);
    if (at == length)
        return false;
    data[at + draw(fabric) % (length - at)] ^= (uint8_t)(1u << draw(fabric) % 8);
    if ((data[0] & VIRTIO_NET_HDR_F_NEEDS_CSUM) == 0)
        data[0] |= VIRTIO_NET_HDR_F_DATA_VALID;
    return true;
}

/* When a frame sent now arrives; 0 when the pair's queue is too long. */
static uint64_t arrival_ns(lab_fabric *fabric, lab_pair *pair, size_t length)
{
    uint64_t now = lab_now_ns(), sent = now;
    const lab_rule *rule = &pair->rule;
    if (rule->rate_kbit > 0) {
        uint64_t start = pair->free_ns > now ? pair->free_ns : now;
        if (start - now > LAB_BACKLOG_US_MAX * 1000ull)
            return 0;
        sent = start + length * 8000000ull / rule->rate_kbit;
        pair->free_ns = sent;
    }
    uint64_t jitter = rule->jitter_us > 0 ? draw(fabric) % (rule->jitter_us * 1000ull) : 0;
    return sent + rule->delay_us * 1000ull + jitter;
}

static bool hold_back(lab_fabric *fabric, lab_pair *pair, int to, size_t length)
{
    uint64_t due = arrival_ns(fabric, pair, length);
    if (due == 0 || fabric->waiting_count == LAB_WAITING_FRAMES_MAX ||
        fabric->waiting_bytes + length > LAB_WAITING_BYTES_MAX)
        return false;
    uint8_t *copy = malloc(length);
    if (copy == NULL)
        return false;
    memcpy(copy, fabric->buffer, length);
    push(fabric, (lab_frame){due, fabric->frame_number++, to, (uint32_t)length, copy});
    return true;
}

static void forward(lab_fabric *fabric, int from, int to, size_t length)
{
    lab_pair *pair = &fabric->pairs[from][to];
    const lab_rule *rule = &pair->rule;
    if (rule->down || happens(fabric, rule->loss_ppm)) {
        pair->counts.lost++;
        return;
    }
    if (happens(fabric, rule->corrupt_ppm) && corrupt(fabric, fabric->buffer, length))
        pair->counts.corrupted++;
    int copies = 1;
    if (happens(fabric, rule->duplicate_ppm)) {
        pair->counts.duplicated++;
        copies = 2;
    }
    bool waits = rule->delay_us > 0 || rule->jitter_us > 0 || rule->rate_kbit > 0;
    for (; copies > 0; copies--) {
        bool good = waits ? hold_back(fabric, pair, to, length) : deliver(fabric, to, fabric->buffer, length);
        pair->counts.passed += good;
        pair->counts.overflowed += !good;
    }
}

void lab_fabric_receive(lab_fabric *fabric, int from)
{
    for (int i = 0; i < BURST; i++) {
        ssize_t length = read(fabric->hosts[from].tap, fabric->buffer, sizeof fabric->buffer);
        if (length < INTERNET)
            return;
        const uint8_t *hardware = fabric->buffer + ETHERNET;
        if (hardware[0] == 2 && hardware[5] < fabric->host_count && hardware[5] != from)
            forward(fabric, from, hardware[5], (size_t)length);
    }
}

uint64_t lab_fabric_deliver_due(lab_fabric *fabric)
{
    uint64_t now = lab_now_ns();
    while (fabric->waiting_count > 0 && fabric->waiting[0].due_ns <= now) {
        lab_frame frame = pop(fabric);
        deliver(fabric, frame.to, frame.data, frame.length);
        free(frame.data);
    }
    return fabric->waiting_count > 0 ? fabric->waiting[0].due_ns : UINT64_MAX;
}
