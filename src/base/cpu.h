/* cpu.h - what the processor can do, and how many cores this process may use (hwloc). Any thread may call. */
#ifndef PROA_BASE_CPU_H
#define PROA_BASE_CPU_H

#include <stdbool.h>

/* Instruction sets that kernels are written for, weakest first: each includes the ones before it. */
typedef enum proa_isa {
    PROA_ISA_PORTABLE,    /* what all processors of the family have: NEON on arm64, else plain C */
    PROA_ISA_AVX2,        /* AVX2 + FMA + F16C */
    PROA_ISA_AVX512,      /* AVX-512 F, BW, DQ, VL */
    PROA_ISA_AVX512_BF16, /* and AVX512_BF16 + VBMI (Zen 4, Sapphire Rapids) */
} proa_isa;

/* The best of this processor. */
proa_isa proa_cpu_isa(void);

const char *proa_isa_name(proa_isa isa);

/* Physical cores that this process is allowed to run on; at least 1. The default of --threads. */
int proa_cpu_core_count(void);

/* The cores that this process may run on, split evenly among `count` processes, neighbours together. NULL when there are fewer cores than
 * processes, or memory is out. Immutable. */
typedef struct proa_cpu_shares proa_cpu_shares;
proa_cpu_shares *proa_cpu_shares_create(int count);
void proa_cpu_shares_free(proa_cpu_shares *shares); /* accepts NULL */
/* Binds the calling thread, and threads and programs that it starts, to share `index`: one system call, also between fork and exec. */
bool proa_cpu_shares_take(const proa_cpu_shares *shares, int index);

/* NUMA nodes of the machine; at least 1. */
int proa_cpu_node_count(void);

/* For kernels: functions compiled for an instruction set, called only after proa_cpu_isa() allowed it. Elsewhere the
 * attributes are empty: a plain C function that is compiled once more for each instruction set needs no #if. */
#if defined(__x86_64__)
#define PROA_TARGET_AVX2   __attribute__((target("avx2,fma,f16c")))
#define PROA_TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")))
#define PROA_TARGET_AVX512_BF16                                                                              \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi,avx2,fma,f16c")))
#else
#define PROA_TARGET_AVX2
#define PROA_TARGET_AVX512
#define PROA_TARGET_AVX512_BF16
#endif

#endif
