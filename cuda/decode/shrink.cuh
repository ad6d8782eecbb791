// u[t, row] = A[row] . x[t] for rank rows of one slot, kept at 8 * page_start + row.

#pragma once

#include "../common/dots.cuh"
#include "../common/site.cuh"

constexpr int SHRINK_ROWS = 2;

// Groups of SHRINK_ROWS rows.
__device__ __forceinline__ int row_groups(const Adapter &adapter) {
    return (adapter.rank + SHRINK_ROWS - 1) / SHRINK_ROWS;
}

// One group of rows for T tokens, of which `tokens` exist.
template <int T>
__device__ __forceinline__ void shrink_rows(const MeteoraCall &call, int index, const Adapter &adapter, int group,
                                            int first_token, int tokens, float (*room)[PARTS]) {
    const uint8_t *w[SHRINK_ROWS];
    const uint8_t *x[T];
    const int first = group * SHRINK_ROWS, rows = min(SHRINK_ROWS, adapter.rank - first);
#pragma unroll
    for (int r = 0; r < SHRINK_ROWS; r++)
        w[r] = adapter.row(call.slices[index].lora_a, call.in_features, first + min(r, rows - 1));
#pragma unroll
    for (int t = 0; t < T; t++)
        x[t] = input_of(call, first_token + min(t, tokens - 1));
    dots<SHRINK_ROWS, T, METEORA_DOT_GROUPS>(w, adapter.dtype, x, call.x_dtype, call.in_features, room, [&](int r, int t, float dot) {
        if (r < rows && t < tokens)
            call.u[row_of(call, index, first_token + t) * call.u_stride + adapter.page_start * PAGE_ROWS + first + r] =
                dot;
    });
}
