// Kernels with a bug each, beside the same kernel without: what the emulator must find and must let pass.
//
// x is [24, 16] 16-bit elements: A, of 16 rows, then B transposed, of 8; u takes 128 floats.

#include "abi.h"
#include <ptx.cuh>

#define PLANTED(name, body)                                                                                            \
    extern "C" __global__ void planted_##name(const __grid_constant__ MeteoraCall call) { body<false>(call); }         \
    extern "C" __global__ void planted_##name##_bug(const __grid_constant__ MeteoraCall call) { body<true>(call); }

template <bool BUG> void barrier(const MeteoraCall &call) {
    grid_dependency_wait();
    DYNAMIC_SHARED(shared);
    float *values = reinterpret_cast<float *>(shared);
    values[threadIdx.x] = float(threadIdx.x);
    if (!BUG)
        __syncthreads();
    call.u[threadIdx.x] = values[127 - threadIdx.x];
}
PLANTED(barrier, barrier)

// The reader's barrier before the next write.
template <bool BUG> void second_barrier(const MeteoraCall &call) {
    grid_dependency_wait();
    DYNAMIC_SHARED(shared);
    float *values = reinterpret_cast<float *>(shared);
    float sum = 0.0f;
    for (int round = 0; round < 2; round++) {
        if (threadIdx.x == 0)
            values[0] = float(round);
        __syncthreads();
        sum += values[0];
        if (!BUG)
            __syncthreads();
    }
    call.u[threadIdx.x] = sum;
}
PLANTED(second_barrier, second_barrier)

template <bool BUG> void warp_barrier(const MeteoraCall &call) {
    grid_dependency_wait();
    DYNAMIC_SHARED(shared);
    float *values = reinterpret_cast<float *>(shared);
    values[threadIdx.x] = float(threadIdx.x);
    if (!BUG)
        __syncwarp();
    call.u[threadIdx.x] = values[threadIdx.x ^ 1];
}
PLANTED(warp_barrier, warp_barrier)

// A barrier that half of the block does not reach, though it goes on.
template <bool BUG> void divergent_shuffle(const MeteoraCall &call) {
    grid_dependency_wait();
    float value = float(threadIdx.x);
    if (!BUG || threadIdx.x % 32 < 16)
        value = __shfl_xor_sync(0xffffffffu, value, 1);
    call.u[threadIdx.x] = value;
}
PLANTED(divergent_shuffle, divergent_shuffle)

template <bool BUG> void read(const MeteoraCall &call) {
    grid_dependency_wait();
    const uint16_t *x = static_cast<const uint16_t *>(call.x);
    const int last = (call.tokens - 1) * int(call.x_stride) + call.in_features - 1;
    call.u[threadIdx.x] = f32_of_f16(x[BUG ? last + 1 : last]);
}
PLANTED(read, read)

// Between two rows of a strided x.
template <bool BUG> void stride(const MeteoraCall &call) {
    grid_dependency_wait();
    const uint16_t *x = static_cast<const uint16_t *>(call.x);
    call.u[threadIdx.x] = f32_of_f16(x[BUG ? call.in_features : call.x_stride]);
}
PLANTED(stride, stride)

template <bool BUG> void read_only(const MeteoraCall &call) {
    grid_dependency_wait();
    float *to = BUG ? const_cast<float *>(call.slices[0].gate_bias) : call.u;
    to[0] = 1.0f;
}
PLANTED(read_only, read_only)

template <bool BUG> void alignment(const MeteoraCall &call) {
    grid_dependency_wait();
    const uint16_t *x = static_cast<const uint16_t *>(call.x) + (BUG ? 1 : 0);
    const uint2 value = *reinterpret_cast<const uint2 *>(x);
    call.u[0] = float(value[0]);
}
PLANTED(alignment, alignment)

template <bool BUG> void dependency(const MeteoraCall &call) {
    if (!BUG)
        grid_dependency_wait();
    call.u[threadIdx.x] = 0.0f;
}
PLANTED(dependency, dependency)

// A's and B's rows into shared memory, each thread a half row; then one thread's wait, or none.
template <bool BUG> void wait(const MeteoraCall &call) {
    grid_dependency_wait();
    DYNAMIC_SHARED(shared);
    uint4 *halves = shared;
    const uint16_t *x = static_cast<const uint16_t *>(call.x);
    if (threadIdx.x < 48) {
        cp_async_16(halves + threadIdx.x, x + threadIdx.x / 2 * call.x_stride + threadIdx.x % 2 * 8, 16);
        cp_async_commit();
    }
    cp_async_wait<BUG ? 1 : 0>();
    __syncthreads();
    call.u[threadIdx.x] = f32_of_f16(reinterpret_cast<uint16_t *>(shared)[threadIdx.x]);
}
PLANTED(wait, wait)

// As above, but others read before they have met the thread that waited.
template <bool BUG> void wait_barrier(const MeteoraCall &call) {
    grid_dependency_wait();
    DYNAMIC_SHARED(shared);
    uint4 *halves = shared;
    const uint16_t *x = static_cast<const uint16_t *>(call.x);
    if (threadIdx.x < 48)
        cp_async_16(halves + threadIdx.x, x + threadIdx.x / 2 * call.x_stride + threadIdx.x % 2 * 8, 16);
    cp_async_commit();
    cp_async_wait<0>();
    if (!BUG)
        __syncthreads();
    call.u[threadIdx.x] = f32_of_f16(reinterpret_cast<uint16_t *>(shared)[threadIdx.x]);
}
PLANTED(wait_barrier, wait_barrier)

// u = A B by one warp; the bug takes B's halves of k in the wrong order.
template <bool BUG> void fragment(const MeteoraCall &call) {
    grid_dependency_wait();
    DYNAMIC_SHARED(shared);
    uint16_t *rows = reinterpret_cast<uint16_t *>(shared);
    const uint16_t *x = static_cast<const uint16_t *>(call.x);
    for (int i = threadIdx.x; i < 24 * 16; i += 32)
        rows[i] = x[i / 16 * call.x_stride + i % 16];
    __syncthreads();
    const int lane = int(threadIdx.x);
    uint32_t a[4], b[4];
    ldmatrix_x4(a, rows + lane % 16 * 16 + lane / 16 * 8);
    ldmatrix_x4(b, rows + (16 + lane % 8) * 16 + lane / 8 % 2 * 8);
    float d[4] = {};
    mma_f16(d, a, BUG ? b[1] : b[0], BUG ? b[0] : b[1]);
    for (int i = 0; i < 4; i++)
        call.u[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = d[i];
}
PLANTED(fragment, fragment)

// Right only if warps take turns: the first thread counts what the last warp has not written yet.
template <bool BUG> void order(const MeteoraCall &call) {
    grid_dependency_wait();
    if (threadIdx.x == 127)
        call.u[0] = 1.0f;
    if (!BUG)
        __syncthreads();
    if (threadIdx.x == 0)
        call.u[1] = call.u[0];
}
PLANTED(order, order)
