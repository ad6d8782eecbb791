// A machine that runs the CUDA kernels of this repository on the CPU, thread by thread, and watches them.
//
// Put before each source by the compiler (-include). Each CUDA thread is a fiber; blocks run one after the other.
// Kernels are instrumented by -fsanitize=thread, whose callbacks (memory.cpp) are ours: every load and store is
// held against the arrays that the launch's MeteoraCall names, against their read-only or writable nature and
// against alignment; two accesses to shared memory, of which one is a write, must be ordered by __syncthreads or,
// in one warp, by __syncwarp. Shared memory and workspace are poisoned. A seed runs threads and blocks in random
// order. An upload from page-locked memory arrives as late as it may, and its source must not change until then
// (copies.cpp). What is found is a fault: the launch fails, and meteora_emulator_last_fault() says where and why.
//
// Not modelled: time, caches, bank conflicts, registers; warps in lockstep (no kernel may count on it); blocks at
// the same time, and races between threads in global memory; weak memory order; in a graph, anything but kernels;
// overlap of launches, except that workspace and outputs must not be touched before griddepcontrol.wait; the rounding
// inside a tensor core (sums are kept in double and rounded once); a cp.async that comes in before its wait (here it
// always comes last).

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#define __device__
#define __forceinline__ inline
#define __noinline__ inline // in headers
#define __global__ __attribute__((visibility("default")))
#define __grid_constant__
#define __launch_bounds__(threads)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __shared__ static __attribute__((section("meteora_shared")))

struct Dim3 {
    unsigned x = 1, y = 1, z = 1;
};
extern Dim3 threadIdx, blockIdx, blockDim, gridDim;

// One access each, so that a misaligned one is seen.
typedef uint32_t uint4 __attribute__((vector_size(16), may_alias));
typedef uint32_t uint2 __attribute__((vector_size(8), may_alias));

void __syncthreads();
void __syncwarp(uint32_t mask = 0xffffffffu);
uint32_t __ballot_sync(uint32_t mask, bool predicate);
int atomicAdd(int *address, int value);

// The value of lane `source` (of this one for sources that the mask lacks: a fault).
uint64_t shuffle(uint32_t mask, uint64_t value, int source);
int lane();

template <class T> T __shfl_sync(uint32_t mask, T value, int source) {
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = shuffle(mask, bits, source);
    memcpy(&value, &bits, sizeof value);
    return value;
}

template <class T> T __shfl_xor_sync(uint32_t mask, T value, int distance) {
    return __shfl_sync(mask, value, lane() ^ distance);
}

template <class T> T __shfl_up_sync(uint32_t mask, T value, int distance) {
    return __shfl_sync(mask, value, lane() < distance ? lane() : lane() - distance);
}

inline int __popc(uint32_t bits) { return __builtin_popcount(bits); }
inline int __ffs(uint32_t bits) { return __builtin_ffs(int(bits)); }

template <class To, class From> To same_bits(From from) {
    To to;
    static_assert(sizeof to == sizeof from);
    memcpy(&to, &from, sizeof to);
    return to;
}
inline uint32_t __float_as_uint(float value) { return same_bits<uint32_t>(value); }
inline float __uint_as_float(uint32_t bits) { return same_bits<float>(bits); }
inline float __int_as_float(int32_t bits) { return same_bits<float>(bits); }

template <class T> T min(T a, T b) { return b < a ? b : a; }
template <class T> T max(T a, T b) { return a < b ? b : a; }
