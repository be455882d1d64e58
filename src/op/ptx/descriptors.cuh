/* descriptors.cuh - a tile in shared memory as a product's operand: wgmma's matrix descriptor of the 128-byte swizzle.
 *
 *   bits 0 .. 13    address / 16         16 .. 29   bytes between blocks of 64 columns / 16, of an operand that is N-major
 *   bits 32 .. 45   bytes of an atom / 16           62 .. 63   the swizzle
 *
 * Atoms are aligned to their 1,024 bytes. Products without wgmma take the same words apart. */
#ifndef PROA_OP_PTX_DESCRIPTORS_CUH
#define PROA_OP_PTX_DESCRIPTORS_CUH

#include "op/ptx/hopper.cuh"

namespace proa
{

/* A tile whose rows have 128 bytes, K contiguous; add 2 for each 32 bytes further along K. */
__device__ __forceinline__ uint64_t tile_descriptor(const void *tile)
{
    const uint64_t atom = 1024 >> 4, swizzle_128 = 1;
    return (uint64_t)((shared_address(tile) & 0x3ffff) >> 4) | (uint64_t)1 << 16 | atom << 32 |
           swizzle_128 << 62;
}

/* The same tile as an N-major operand b, rows of K: blocks of 64 columns of N stand `block` bytes apart, eight rows are an atom; add
 * 128 for each 16 rows further along K. */
__device__ __forceinline__ uint64_t values_descriptor(const void *tile, uint32_t block)
{
    const uint64_t atom = 1024 >> 4, swizzle_128 = 1;
    return (uint64_t)((shared_address(tile) & 0x3ffff) >> 4) | (uint64_t)(block >> 4) << 16 | atom << 32 |
           swizzle_128 << 62;
}

/* So many units of 16 bytes further: an address has no carry into the descriptor's upper half, and half the arithmetic is saved. */
__device__ __forceinline__ uint64_t descriptor_step(uint64_t descriptor, uint32_t units)
{
    return (descriptor & 0xffffffff00000000) | (uint32_t)((uint32_t)descriptor + units);
}

__device__ __forceinline__ uint32_t descriptor_address(uint64_t descriptor)
{
    return ((uint32_t)descriptor & 0x3fff) << 4;
}

__device__ __forceinline__ uint32_t descriptor_block(uint64_t descriptor)
{
    return ((uint32_t)descriptor >> 16 & 0x3fff) << 4;
}

} // namespace proa

#endif
