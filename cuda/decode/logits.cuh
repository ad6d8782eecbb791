// logits[s, t] = gate[s] . x[t] + gate_bias[s];  sign-free slots: |gate[s] . x[t]| + gate_bias[s]
//
// Only where slot s is a candidate of token t. R slots by T tokens a block.

#pragma once

#include "../common/site.cuh"
#include "../common/dots.cuh"

template <int R, int T>
__device__ __forceinline__ void gate_logits(const MeteoraCall &call, int index, int first_slot, int first_token,
                                            float (*room)[PARTS]) {
    const MeteoraSlice &slice = call.slices[index];
    const int slots = min(R, call.slots - first_slot), tokens = min(T, call.tokens - first_token);
    bool wanted = false;
    for (int t = 0; t < tokens; t++) {
        const int32_t *record = route_of(call, first_token + t);
        for (int r = 0; r < slots; r++)
            wanted = wanted || is_candidate(record, first_slot + r);
    }
    if (!wanted)
        return;
    // Rows beyond the last are the last once more, and thrown away.
    const uint8_t *w[R];
    const uint8_t *x[T];
#pragma unroll
    for (int r = 0; r < R; r++)
        w[r] = reinterpret_cast<const uint8_t *>(slice.gate + int64_t(first_slot + min(r, slots - 1)) * call.in_features);
#pragma unroll
    for (int t = 0; t < T; t++)
        x[t] = input_of(call, first_token + min(t, tokens - 1));
    dots<R, T, METEORA_DOT_GROUPS>(w, F32::code, x, call.x_dtype, call.in_features, room, [&](int r, int t, float dot) {
        if (r < slots && t < tokens) {
            const int slot = first_slot + r;
            const float unsigned_dot = sign_free(slice, slot) ? fabsf(dot) : dot;
            call.logits[row_of(call, index, first_token + t) * call.slots + slot] =
                unsigned_dot + slice.gate_bias[slot];
        }
    });
}
