// Which adapters a token uses, and with which weights: one warp, one token.
//
//     S = the top_k of g among the route's candidates, ties to the lowest slot;  w = softmax(g[S] / temperature)
//
// A fixed route brings S and w. A NaN or -inf logit is never chosen; +inf counts as the largest f32. Chosen slots
// ascend, and sums run over them in that order.

#pragma once

#include "dots.cuh"
#include "site.cuh"

constexpr float LARGEST = 3.402823466e+38f;

// The choice in shared memory, METEORA_CHOOSE_BYTES long.
struct Choice {
    int32_t *count;
    int32_t *slots;
    float *weights;
    uint32_t *keys;

    static __device__ __forceinline__ Choice in(void *shared, const MeteoraCall &call) {
        int32_t *words = static_cast<int32_t *>(shared);
        Choice choice;
        choice.count = words;
        choice.slots = words + 1;
        choice.weights = reinterpret_cast<float *>(choice.slots + call.places);
        choice.keys = reinterpret_cast<uint32_t *>(choice.weights + call.places);
        return choice;
    }
};

// Larger logits have larger keys; 0 is what can't be chosen.
__device__ __forceinline__ uint32_t key_of(float logit) {
    if (!(logit >= -LARGEST))
        return 0;
    const uint32_t bits = __float_as_uint(fminf(logit, LARGEST) + 0.0f); // -0 + 0 = 0: both zeros tie
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float logit_of(uint32_t key) {
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// The key with its slot, so that no two are equal and the lowest slot is the largest of a tie.
__device__ __forceinline__ uint64_t ranked(uint32_t key, int slot) {
    return uint64_t(key) << 32 | (0xffffffffu - uint32_t(slot));
}

__device__ __forceinline__ uint64_t warp_max(uint64_t value) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        const uint64_t other = __shfl_xor_sync(0xffffffffu, value, distance);
        value = other > value ? other : value;
    }
    return value;
}

// Fills `choice` for one token from its logits; all 32 lanes of one warp come here together. Others must not read
// the choice before the block has met. Loops are not unrolled: two turns are many.
__device__ __forceinline__ void choose(const MeteoraCall &call, int leader, int token, const Choice &choice) {
    const int lane = threadIdx.x % 32;
    const int32_t *record = route_of(call, token);
    int count = 0;
    if (record && record[0] == ROUTE_FIXED) {
        count = fixed_count(call, record);
#pragma unroll 1
        for (int i = lane; i < count; i += 32) {
            const int slot = record[2 + 2 * i];
            const bool known = slot >= 0 && slot < call.slots;
            choice.slots[i] = known ? slot : 0;
            choice.weights[i] = known ? __int_as_float(record[3 + 2 * i]) : 0.0f;
        }
    } else if (record && record[0] == ROUTE_AUTO) {
        const float *logits = call.logits + row_of(call, leader, token) * call.slots;
#pragma unroll 1
        for (int slot = lane; slot < call.slots; slot += 32)
            choice.keys[slot] = is_candidate(record, slot) ? key_of(logits[slot]) : 0;
        // Each pass finds the next key below the last one; `bar` ends as the last of the chosen.
        uint64_t bar = ~uint64_t(0), best = 0;
        const int top_k = top_k_of(call);
#pragma unroll 1
        for (int found = 0; found < top_k; found++) {
            uint64_t next = 0;
#pragma unroll 1
            for (int slot = lane; slot < call.slots; slot += 32) {
                const uint32_t key = choice.keys[slot];
                const uint64_t candidate = key ? ranked(key, slot) : 0;
                if (candidate < bar && candidate > next)
                    next = candidate;
            }
            next = warp_max(next);
            if (next == 0)
                break;
            best = found == 0 ? next : best;
            bar = next;
        }
        const float largest = logit_of(uint32_t(best >> 32));
        const float temperature = temperature_of(call);
        float sum = 0.0f;
#pragma unroll 1
        for (int first = 0; best != 0 && first < call.slots; first += 32) {
            const int slot = first + lane;
            const uint32_t key = slot < call.slots ? choice.keys[slot] : 0;
            const bool chosen = key && ranked(key, slot) >= bar;
            const uint32_t chosen_lanes = __ballot_sync(0xffffffffu, chosen);
            // The maximum is taken off first: the largest float divided by a small temperature would overflow.
            const float power = chosen ? expf((logit_of(key) - largest) / temperature) : 0.0f;
            if (chosen) {
                const int place = count + __popc(chosen_lanes & ((1u << lane) - 1));
                choice.slots[place] = slot;
                choice.weights[place] = power;
            }
            count += __popc(chosen_lanes);
            sum += warp_sum(power);
        }
        __syncwarp();
#pragma unroll 1
        for (int i = lane; i < count; i += 32)
            choice.weights[i] /= sum;
    }
    if (lane == 0)
        *choice.count = count;
}

// Keeps the choice in the workspace, for later launches and for traces; after the block has met.
__device__ __forceinline__ void keep(const MeteoraCall &call, int leader, int token, const Choice &choice) {
    const int64_t row = row_of(call, leader, token);
    const int count = *choice.count;
#pragma unroll 1
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
        call.chosen_slots[row * call.places + i] = choice.slots[i];
        call.chosen_weights[row * call.places + i] = choice.weights[i];
    }
    if (threadIdx.x == 0)
        call.chosen_count[row] = count;
}
