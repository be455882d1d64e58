/* hopper.cuh - what GPUs since sm_90 have and C++ has no words for: mbarriers, the tensor memory accelerator, matrices of a warp,
 * registers that move between warpgroups.
 *
 * Tiles in shared memory have rows of 128 bytes in the 128-byte swizzle: eight rows are an atom of 1,024 bytes, in which the 16-byte
 * pieces of row r stand at piece ^ (r % 8). Products of such tiles: products.cuh.
 */
#ifndef PROA_OP_PTX_HOPPER_CUH
#define PROA_OP_PTX_HOPPER_CUH

#include "op/ptx/follow.cuh"

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <stdint.h>

namespace proa
{

__device__ __forceinline__ uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* Of shared memory, whatever the compiler knows of p. */
__device__ __forceinline__ float shared_float(const float *p)
{
    float value;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(shared_address(p)) : "memory");
    return value;
}

/* ---- mbarriers ---- */

__device__ __forceinline__ void barrier_init(uint64_t *barrier, uint32_t arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals));
}

/* After the inits, before others see them. */
__device__ __forceinline__ void barrier_init_fence()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

__device__ __forceinline__ void barrier_arrive(uint64_t *barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

/* One lane arrives for its warp, after a __syncwarp or a product's wait, which bring what the others read and wrote before that. So of
 * ARRIVAL_LANES lanes one arrives, and a barrier counts WARP_ARRIVES a warp. The race checker does not follow what one lane says for
 * others: with PROA_EVERY_LANE, of a build for it, each arrives for itself. */
#ifdef PROA_EVERY_LANE
enum { ARRIVAL_LANES = 1 };
#else
enum { ARRIVAL_LANES = 32 };
#endif
enum { WARP_ARRIVES = 32 / ARRIVAL_LANES };

__device__ __forceinline__ void warp_arrive(uint64_t *barrier)
{
    __syncwarp();
    if (threadIdx.x % ARRIVAL_LANES == 0)
        barrier_arrive(barrier);
}

/* Arrives, and so many bytes are still to come. */
__device__ __forceinline__ void barrier_expect(uint64_t *barrier, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
                 "r"(bytes)
                 : "memory");
}

__device__ __forceinline__ void barrier_wait(uint64_t *barrier, uint32_t parity)
{
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n"
                 "}\n" ::"r"(shared_address(barrier)),
                 "r"(parity)
                 : "memory");
}

/* ---- copies ---- */

__device__ __forceinline__ void prefetch_map(const CUtensorMap *map)
{
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/* The box at (x, y), x the contiguous one. */
__device__ __forceinline__ void copy_tile(void *to, const CUtensorMap *map, int32_t x, int32_t y,
                                          uint64_t *barrier)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
                 "[%1, {%2, %3}], [%4];" ::"r"(shared_address(to)),
                 "l"(map), "r"(x), "r"(y), "r"(shared_address(barrier))
                 : "memory");
}

__device__ __forceinline__ void copy_tile(void *to, const CUtensorMap *map, int32_t x, int32_t y, int32_t z,
                                          uint64_t *barrier)
{
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
                 "[%1, {%2, %3, %4}], "
                 "[%5];" ::"r"(shared_address(to)),
                 "l"(map), "r"(x), "r"(y), "r"(z), "r"(shared_address(barrier))
                 : "memory");
}

/* The other way: a box of shared memory to (x, y), as far as the tensor goes. */
__device__ __forceinline__ void store_box(const CUtensorMap *map, int32_t x, int32_t y, const void *from)
{
    asm volatile(
        "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map), "r"(x),
        "r"(y), "r"(shared_address(from))
        : "memory");
}

__device__ __forceinline__ void store_commit()
{
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

/* This thread's boxes have been read from shared memory, which may be written again. */
__device__ __forceinline__ void store_wait_read()
{
    asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

/* And they are written. */
__device__ __forceinline__ void store_wait()
{
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

/* Ordinary writes to shared memory, before a barrier after which products or copies touch what was written. */
__device__ __forceinline__ void copy_fence()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* The same box on its way to the second-level cache alone. */
__device__ __forceinline__ void prefetch_tile(const CUtensorMap *map, int32_t x, int32_t y)
{
    asm volatile("cp.async.bulk.prefetch.tensor.2d.L2.global.tile [%0, {%1, %2}];" ::"l"(map), "r"(x), "r"(y)
                 : "memory");
}

/* The line of global memory at p, to the second-level cache. */
__device__ __forceinline__ void prefetch_line(const void *p)
{
    asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
}

/* And to the first-level one. */
__device__ __forceinline__ void prefetch_near(const void *p)
{
    asm volatile("prefetch.global.L1 [%0];" ::"l"(p));
}

/* Contiguous bytes, a multiple of 16, both ends aligned to 16. */
__device__ __forceinline__ void copy_bytes(void *to, const void *from, uint32_t bytes, uint64_t *barrier)
{
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
            shared_address(to)),
        "l"(from), "r"(bytes), "r"(shared_address(barrier))
        : "memory");
}

/* ---- accumulators, matrices ---- */

/* The compiler must not move reads or writes of an accumulator across a product's fence or wait. */
template <int COUNT> __device__ __forceinline__ void product_pin(float (&d)[COUNT])
{
#pragma unroll
    for (int i = 0; i < COUNT; i++)
        asm volatile("" : "+f"(d[i])::"memory");
}

/* The same value, of which the compiler knows nothing: what follows from it is worked out behind here, not ahead and kept. */
__device__ __forceinline__ uint32_t worked_out_here(uint32_t x)
{
    asm volatile("" : "+r"(x));
    return x;
}

__device__ __forceinline__ uint32_t packed_bf16(float low, float high)
{
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *(const uint32_t *)&pair;
}

/* Four 8 x 8 matrices of 2-byte values, the rows of matrix i at lanes 8 i .. 8 i + 7: operand a of a [16, 16] piece. */
__device__ __forceinline__ void load_matrices(uint32_t *d, const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(shared_address(row))
                 : "memory");
}

/* The other way round. */
__device__ __forceinline__ void store_matrices(void *row, const uint32_t *d)
{
    asm volatile(
        "stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(row)),
        "r"(d[0]), "r"(d[1]), "r"(d[2]), "r"(d[3])
        : "memory");
}

/* Some of a block's threads, a multiple of 32, meet. */
template <int ID, int THREADS> __device__ __forceinline__ void threads_meet()
{
    asm volatile("bar.sync %0, %1;" ::"n"(ID), "n"(THREADS) : "memory");
}

/* The 128 threads of a warpgroup meet at barrier `id`. */
__device__ __forceinline__ void warpgroup_meet(int32_t id)
{
    asm volatile("bar.sync %0, 128;" ::"r"(id) : "memory");
}

__device__ __forceinline__ float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

template <int REGISTERS> __device__ __forceinline__ void registers_more()
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

template <int REGISTERS> __device__ __forceinline__ void registers_fewer()
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

} // namespace proa

#endif
