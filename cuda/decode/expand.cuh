// y[t, c] = round(y[t, c] + sum over chosen slots, ascending, and their rows of w * s * u[t, row] * B[row, c])
//
// One token and BLOCK * COLUMNS columns a block; a thread has COLUMNS of them and reads each row once. A token
// without an adapter keeps its output, bit for bit.

#pragma once

#include "../common/dots.cuh"
#include "../common/site.cuh"

constexpr int COLUMNS = 2;

// Rows whose loads are under way at once.
constexpr int ROWS_AT_ONCE = 8;

// sums += coefficients . B for one slot; `vector`: a thread's columns all exist and are loaded at once.
template <class W, bool VECTOR>
__device__ __forceinline__ void add_rows(float (&sums)[COLUMNS], const typename W::Bits *b, int width, int columns,
                                         int rank, float scale, const float *u) {
    constexpr int ROWS = VECTOR ? ROWS_AT_ONCE : 1;
#pragma unroll 1
    for (int first = 0; first < rank; first += ROWS) {
        float rows[ROWS][COLUMNS], coefficients[ROWS];
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            const int r = min(first + i, rank - 1);
            load<W, COLUMNS>(rows[i], b + int64_t(r) * width, VECTOR ? COLUMNS : columns, VECTOR);
            coefficients[i] = u[r];
        }
#pragma unroll
        for (int i = 0; i < ROWS; i++)
            if (first + i < rank) {
                const float coefficient = scale * coefficients[i];
#pragma unroll
                for (int c = 0; c < COLUMNS; c++)
                    sums[c] = fmaf(coefficient, rows[i][c], sums[c]);
            }
    }
}

__device__ __forceinline__ void expand(const MeteoraCall &call, int index, int token, int count, const int32_t *slots,
                                       const float *weights) {
    const MeteoraSlice &slice = call.slices[index];
    const int width = slice.out_features;
    const int column = (blockIdx.x * BLOCK + threadIdx.x) * COLUMNS, columns = min(COLUMNS, width - column);
    if (columns <= 0)
        return;
    const float *u = call.u + row_of(call, index, token) * call.u_stride;
    float sums[COLUMNS] = {};
    bool adds = false;
    for (int i = 0; i < count; i++) {
        const Adapter adapter = adapter_of(call, slice, slots[i]);
        // A zero weight is left out: zero times an infinity in the adapter would be NaN.
        if (adapter.rank == 0 || weights[i] == 0.0f)
            continue;
        adds = true;
        const float scale = weights[i] * adapter.scaling;
        with_element(adapter.dtype, [&](auto element) {
            typedef decltype(element) W;
            typedef typename W::Bits Bits;
            const Bits *b = reinterpret_cast<const Bits *>(adapter.row(slice.lora_b_packed, width, 0)) + column;
            const float *coefficients = u + adapter.page_start * PAGE_ROWS;
            if (width % COLUMNS == 0 && aligned(b, COLUMNS * sizeof(Bits)))
                add_rows<W, true>(sums, b, width, columns, adapter.rank, scale, coefficients);
            else
                add_rows<W, false>(sums, b, width, columns, adapter.rank, scale, coefficients);
        });
    }
    if (adds)
        with_element(call.y_dtype, [&](auto element) {
            typedef decltype(element) Y;
            typename Y::Bits *y = reinterpret_cast<typename Y::Bits *>(slice.y) + token * slice.y_stride + column;
            add<Y, COLUMNS>(y, sums, columns, aligned(y, COLUMNS * sizeof(*y)));
        });
}
