/* cpu.c - the wrapper of hwloc and of the compiler's CPU detection. */
#include "base/cpu.h"

#include <hwloc.h>
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
    switch (isa) {
    case PROA_ISA_PORTABLE: return "portable";
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
