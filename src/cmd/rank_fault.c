/* rank_fault.c - see rank_fault.h. */
#include "cmd/rank_fault.h"

#include "base/file.h"
#include "base/log.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STAGES_OF_EXCHANGE = 5, LINE_BYTES = 200 };

/* The messages' are STAGES_OF_EXCHANGE + their kind. */
static const char *const stage_names[] = {"dispatch", "receive", "put",    "give-back", "collect", "propose",
                                          "shape",    "ask",     "report", "view",      "status",  "join"};
enum { STAGES = sizeof stage_names / sizeof stage_names[0] };
_Static_assert((int)STAGES == (int)STAGES_OF_EXCHANGE + (int)PROA_GROUP_KINDS, "each message is a stage");

static const char *const action_names[] = {"kill", "stop", "hang", "spin"};
typedef enum action { KILL, STOP, HANG, SPIN, ACTIONS } action;

struct proa_rank_fault {
    const char *path;
    int32_t rank;
    long order; /* the latest that was seen */
    proa_exchange inner;
    /* written before `left`, read after it: release, acquire */
    int stage;
    action action;
    atomic_int left; /* times that the stage is still passed; 0: no order */
};

/* ---- doing it ---- */

__attribute__((noinline)) _Noreturn void proa_rank_fault_hang(void)
{
    for (;;)
        pause();
}

__attribute__((noinline)) _Noreturn void proa_rank_fault_spin(void)
{
    for (volatile unsigned turns = 0;; turns++) {
    }
}

static void pass(proa_rank_fault *f, int stage)
{
    if (atomic_load_explicit(&f->left, memory_order_acquire) == 0 || f->stage != stage)
        return;
    if (atomic_fetch_sub_explicit(&f->left, 1, memory_order_relaxed) > 1)
        return;
    proa_log(PROA_LOG_WARN, "fault", "--fault-file: %s at %s", action_names[f->action], stage_names[stage]);
    switch (f->action) {
    case KILL: kill(getpid(), SIGKILL); break;
    case STOP: kill(getpid(), SIGSTOP); break;
    case HANG: proa_rank_fault_hang();
    case SPIN: proa_rank_fault_spin();
    case ACTIONS: break;
    }
}

/* ---- the file ---- */

static int find(const char *const *names, int count, const char *name)
{
    int i = 0;
    while (i < count && strcmp(names[i], name) != 0)
        i++;
    return i;
}

/* A new order takes the place of one that was not carried out yet, also when it is for another rank: false then. */
static bool read_order(proa_rank_fault *f, int *stage, int *count, action *what)
{
    proa_buf text = {0};
    long order = 0;
    int rank = -1, found = 0;
    char stage_name[16], action_name[16];
    if (proa_file_read(f->path, LINE_BYTES, &text, NULL) == PROA_OK)
        found = sscanf(proa_buf_text(&text), "%ld %d %15s %d %15s", &order, &rank, stage_name, count,
                       action_name);
    proa_buf_free(&text);
    if (found != 5 || order <= f->order)
        return false;
    f->order = order;
    atomic_store_explicit(&f->left, 0, memory_order_relaxed);
    *stage = find(stage_names, STAGES, stage_name);
    *what = (action)find(action_names, ACTIONS, action_name);
    return rank == f->rank && *stage < (int)STAGES && *what<ACTIONS && * count> 0;
}

void proa_rank_fault_tick(proa_rank_fault *f)
{
    int stage, count;
    action what;
    if (!read_order(f, &stage, &count, &what))
        return;
    f->stage = stage;
    f->action = what;
    atomic_store_explicit(&f->left, count, memory_order_release);
}

/* ---- the stages ---- */

static proa_status dispatch(void *context, int32_t lane, const proa_dispatch_args *args, proa_error *err)
{
    proa_rank_fault *f = context;
    pass(f, 0);
    return f->inner.dispatch(f->inner.context, lane, args, err);
}

static proa_status receive(void *context, int32_t lane, proa_dispatched *work, proa_error *err)
{
    proa_rank_fault *f = context;
    pass(f, 1);
    return f->inner.receive(f->inner.context, lane, work, err);
}

static void put(void *context, int32_t lane, int32_t count, const int32_t *slots, const float *y)
{
    proa_rank_fault *f = context;
    pass(f, 2);
    f->inner.put(f->inner.context, lane, count, slots, y);
}

static proa_status give_back(void *context, int32_t lane, proa_error *err)
{
    proa_rank_fault *f = context;
    pass(f, 3);
    return f->inner.give_back(f->inner.context, lane, err);
}

static proa_status collect(void *context, int32_t lane, proa_collected *out, proa_error *err)
{
    proa_rank_fault *f = context;
    pass(f, 4);
    return f->inner.collect(f->inner.context, lane, out, err);
}

static void progress(void *context)
{
    const proa_rank_fault *f = context;
    f->inner.progress(f->inner.context);
}

proa_exchange proa_rank_fault_wrap(proa_rank_fault *f, const proa_exchange *exchange)
{
    proa_exchange outer = *exchange;
    f->inner = *exchange;
    outer.context = f;
    outer.dispatch = dispatch;
    outer.receive = receive;
    outer.put = put;
    outer.give_back = give_back;
    outer.collect = collect;
    outer.progress = progress;
    return outer;
}

void proa_rank_fault_message(proa_rank_fault *f, proa_group_kind kind)
{
    pass(f, STAGES_OF_EXCHANGE + (int)kind);
}

/* ---- life ---- */

proa_rank_fault *proa_rank_fault_create(const char *path, int32_t rank)
{
    int stage, count;
    action what;
    proa_rank_fault *f = calloc(1, sizeof *f);
    if (f == NULL)
        return NULL;
    f->path = path;
    f->rank = rank;
    read_order(f, &stage, &count, &what);
    return f;
}

void proa_rank_fault_free(proa_rank_fault *f)
{
    free(f);
}
