/* cpu.c - the wrapper of hwloc and of the compiler's CPU detection. */
#define _GNU_SOURCE /* sched_setaffinity */
#include "base/cpu.h"

#include <hwloc.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

proa_isa proa_cpu_isa(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return PROA_ISA_PORTABLE;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
        return PROA_ISA_AVX2;
    if (!__builtin_cpu_supports("avx512bf16") || !__builtin_cpu_supports("avx512vbmi"))
        return PROA_ISA_AVX512;
    return PROA_ISA_AVX512_BF16;
#else
    return PROA_ISA_PORTABLE;
#endif
}

const char *proa_isa_name(proa_isa isa)
{
#if defined(__aarch64__)
    static const char *const least = "neon";
#else
    static const char *const least = "portable";
#endif
    switch (isa) {
    case PROA_ISA_PORTABLE: return least;
    case PROA_ISA_AVX2: return "avx2";
    case PROA_ISA_AVX512: return "avx512";
    case PROA_ISA_AVX512_BF16: return "avx512-bf16";
    }
    return "unknown";
}

int proa_cpu_core_count(void)
{
    int count = 0;
    hwloc_topology_t topology;
    if (hwloc_topology_init(&topology) == 0) {
        hwloc_bitmap_t allowed = hwloc_bitmap_alloc();
        if (allowed != NULL && hwloc_topology_load(topology) == 0 &&
            hwloc_get_cpubind(topology, allowed, HWLOC_CPUBIND_PROCESS) == 0)
            count = hwloc_get_nbobjs_inside_cpuset_by_type(topology, allowed, HWLOC_OBJ_CORE);
        hwloc_bitmap_free(allowed);
        hwloc_topology_destroy(topology);
    }
    if (count <= 0)
        count = (int)sysconf(_SC_NPROCESSORS_ONLN);
    return count > 0 ? count : 1;
}

/* ---- shares ---- */

struct proa_cpu_shares {
    int count;
    size_t words;         /* of a mask */
    unsigned long *masks; /* [count][words], as the kernel has them */
};

/* The cores first <= i < end, in hwloc's order, which has neighbours side by side. */
static void add_cores(hwloc_topology_t topology, hwloc_const_bitmap_t allowed, int first, int end,
                      hwloc_bitmap_t set)
{
    hwloc_bitmap_zero(set);
    for (int i = first; i < end; i++) {
        hwloc_obj_t core =
            hwloc_get_obj_inside_cpuset_by_type(topology, allowed, HWLOC_OBJ_CORE, (unsigned)i);
        if (core != NULL)
            hwloc_bitmap_or(set, set, core->cpuset);
    }
    hwloc_bitmap_and(set, set, allowed);
}

static bool split(proa_cpu_shares *s, hwloc_topology_t topology, hwloc_const_bitmap_t allowed)
{
    int cores = hwloc_get_nbobjs_inside_cpuset_by_type(topology, allowed, HWLOC_OBJ_CORE);
    hwloc_bitmap_t set = hwloc_bitmap_alloc();
    s->words = (size_t)hwloc_bitmap_nr_ulongs(allowed);
    s->masks = calloc((size_t)s->count * s->words, sizeof *s->masks);
    bool done = set != NULL && s->masks != NULL && cores >= s->count;
    for (int i = 0; i < s->count && done; i++) {
        add_cores(topology, allowed, (int)((long)i * cores / s->count),
                  (int)((long)(i + 1) * cores / s->count), set);
        done = hwloc_bitmap_to_ulongs(set, (unsigned)s->words, s->masks + (size_t)i * s->words) == 0;
    }
    hwloc_bitmap_free(set);
    return done;
}

proa_cpu_shares *proa_cpu_shares_create(int count)
{
    proa_cpu_shares *s = calloc(1, sizeof *s);
    hwloc_topology_t topology;
    bool done = false;
    if (s == NULL)
        return NULL;
    s->count = count;
    if (hwloc_topology_init(&topology) == 0) {
        hwloc_bitmap_t allowed = hwloc_bitmap_alloc();
        done = allowed != NULL && hwloc_topology_load(topology) == 0 &&
               hwloc_get_cpubind(topology, allowed, HWLOC_CPUBIND_PROCESS) == 0 &&
               split(s, topology, allowed);
        hwloc_bitmap_free(allowed);
        hwloc_topology_destroy(topology);
    }
    if (done)
        return s;
    proa_cpu_shares_free(s);
    return NULL;
}

void proa_cpu_shares_free(proa_cpu_shares *shares)
{
    if (shares != NULL)
        free(shares->masks);
    free(shares);
}

bool proa_cpu_shares_take(const proa_cpu_shares *shares, int index)
{
    const unsigned long *mask = shares->masks + (size_t)index * shares->words;
    return sched_setaffinity(0, shares->words * sizeof *mask, (const cpu_set_t *)mask) == 0;
}

int proa_cpu_node_count(void)
{
    int count = 0;
    hwloc_topology_t topology;
    if (hwloc_topology_init(&topology) == 0) {
        if (hwloc_topology_load(topology) == 0)
            count = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_NUMANODE);
        hwloc_topology_destroy(topology);
    }
    return count > 0 ? count : 1;
}
