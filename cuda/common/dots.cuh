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

// Steps of 1,024 elements whose loads are under way at once, so that a row of 4,096 waits for memory once: as many as
// leave registers for them. Types are told at run time, so a compiler would not move loads across what widens them.
constexpr int steps_at_once(int rows, int tokens, bool whole) {
    return !whole || rows * tokens > 8 ? 1 : rows * tokens > 2 ? 2 : 4;
}

// Adds the products of this thread's elements. Loads without a test: WHOLE.
template <int R, int T, bool WHOLE>
__device__ __forceinline__ void add_dots(float (&sums)[R][T], const uint8_t *const (&w)[R], int w_code,
                                         const uint8_t *const (&x)[T], int x_code, int width) {
    constexpr int STEPS = steps_at_once(R, T, WHOLE), STEP = BLOCK * CHUNK;
    const int w_size = size_of(w_code), x_size = size_of(x_code);
#pragma unroll 1
    for (int first = threadIdx.x * CHUNK; first < width; first += STEPS * STEP) {
        Eight tokens[STEPS][T] = {}, rows[STEPS][R] = {};
#pragma unroll
        for (int s = 0; s < STEPS; s++) {
            const int at = first + s * STEP;
            if (at >= width)
                continue;
#pragma unroll
            for (int t = 0; t < T; t++)
                tokens[s][t] = eight_at<WHOLE>(x[t] + int64_t(at) * x_size, x_size, width - at);
#pragma unroll
            for (int r = 0; r < R; r++)
                rows[s][r] = eight_at<WHOLE>(w[r] + int64_t(at) * w_size, w_size, width - at);
        }
#pragma unroll
        for (int s = 0; s < STEPS; s++) {
            if (first + s * STEP >= width)
                continue;
            float token[T][CHUNK];
#pragma unroll
            for (int t = 0; t < T; t++)
                widen(token[t], tokens[s][t], x_code);
#pragma unroll
            for (int r = 0; r < R; r++) {
                float row[CHUNK];
                widen(row, rows[s][r], w_code);
#pragma unroll
                for (int t = 0; t < T; t++)
#pragma unroll
                    for (int i = 0; i < CHUNK; i++)
                        sums[r][t] = fmaf(row[i], token[t][i], sums[r][t]);
            }
        }
    }
}

// Calls emit(r, t, dot) from one thread for each product. All threads of the block come here together; `room`, for
// R * T rows, is shared by them.
template <int R, int T, class Emit>
__device__ __forceinline__ void dots(const uint8_t *const (&w)[R], int w_code, const uint8_t *const (&x)[T], int x_code,
                                     int width, float (*room)[WARPS], Emit emit) {
    bool whole = width % CHUNK == 0;
#pragma unroll
    for (int r = 0; r < R; r++)
        whole = whole && aligned(w[r], 16);
#pragma unroll
    for (int t = 0; t < T; t++)
        whole = whole && aligned(x[t], 16);
    float sums[R][T] = {};
    if (whole)
        add_dots<R, T, true>(sums, w, w_code, x, x_code, width);
    else
        add_dots<R, T, false>(sums, w, w_code, x, x_code, width);
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
        for (int t = 0; t < T; t++) {
            const float sum = warp_sum(sums[r][t]);
            if (threadIdx.x % 32 == 0)
                room[r * T + t][threadIdx.x / 32] = sum;
        }
    __syncthreads();
    if (threadIdx.x < R * T) {
        const int i = threadIdx.x;
        float sum = room[i][0];
#pragma unroll
        for (int warp = 1; warp < WARPS; warp++)
            sum += room[i][warp];
        emit(i / T, i % T, sum);
    }
    __syncthreads();
}
