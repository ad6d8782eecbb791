// R x T dot products of one block: out[r][t] = w[r] . x[t], in f32.
//
// One order of summation everywhere, whatever R and T: thread i takes elements 8 i to 8 i + 7 of every 1,024 in
// turn, one fused multiply-add each; then lanes by a tree of exchanges, then the four warps in order. So a dot
// product has the same bits in every kernel and every batch.

#pragma once

#include "element.cuh"

constexpr int BLOCK = 128;
constexpr int WARPS = BLOCK / 32;
constexpr int CHUNK = 8;

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    return value;
}

// Calls emit(r, t, dot) from one thread for each product. All threads of the block come here together; `room`,
// for R * T rows, is shared by them.
template <class X, class W, int R, int T, class Emit>
__device__ __forceinline__ void dots(const typename W::Bits *const (&w)[R], const typename X::Bits *const (&x)[T],
                                     int width, float (*room)[WARPS], Emit emit) {
    bool w_vector[R], x_vector[T];
#pragma unroll
    for (int r = 0; r < R; r++)
        w_vector[r] = aligned(w[r], 16);
#pragma unroll
    for (int t = 0; t < T; t++)
        x_vector[t] = aligned(x[t], 16);
    float sums[R][T] = {};
#pragma unroll 2
    for (int at = threadIdx.x * CHUNK; at < width; at += BLOCK * CHUNK) {
        float token[T][CHUNK];
#pragma unroll
        for (int t = 0; t < T; t++)
            load<X, CHUNK>(token[t], x[t] + at, width - at, x_vector[t]);
#pragma unroll
        for (int r = 0; r < R; r++) {
            float row[CHUNK];
            load<W, CHUNK>(row, w[r] + at, width - at, w_vector[r]);
#pragma unroll
            for (int t = 0; t < T; t++)
#pragma unroll
                for (int i = 0; i < CHUNK; i++)
                    sums[r][t] = fmaf(row[i], token[t][i], sums[r][t]);
        }
    }
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
        for (int t = 0; t < T; t++) {
            const float sum = warp_sum(sums[r][t]);
            if (threadIdx.x % 32 == 0)
                room[r * T + t][threadIdx.x / 32] = sum;
        }
    __syncthreads();
    for (int i = threadIdx.x; i < R * T; i += BLOCK) {
        float sum = room[i][0];
#pragma unroll
        for (int warp = 1; warp < WARPS; warp++)
            sum += room[i][warp];
        emit(i / T, i % T, sum);
    }
    __syncthreads();
}
