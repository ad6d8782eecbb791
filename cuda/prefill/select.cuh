// Choices of all tokens, and (token, adapter) pairs sorted by slot, on the device.
//
// prefill_logits zeroes the counts; prefill_choose counts; prefill_scatter scans the counts and puts each pair
// behind those of lower slots. Pairs of one slot stand in any order: no sum runs over them. `token_order` has the
// tokens by their heaviest slot, so that neighbours share adapters.

#pragma once

#include "../common/choose.cuh"

__device__ __forceinline__ int32_t *counts_of(const MeteoraCall &call, int32_t *array, int leader) {
    return array + int64_t(leader) * 2 * call.slots;
}

// Zeroes one leader's counts, by one block.
__device__ __forceinline__ void clear_counts(const MeteoraCall &call, int leader) {
#pragma unroll 1
    for (int i = threadIdx.x; i < 2 * call.slots; i += blockDim.x) {
        counts_of(call, call.slot_counts, leader)[i] = 0;
        counts_of(call, call.slot_cursors, leader)[i] = 0;
    }
}

// The place of the weight farthest from zero, the first of equal ones; -1 where all are zero.
__device__ __forceinline__ int heaviest(const float *weights, int count) {
    int place = -1;
    float most = 0.0f;
#pragma unroll 1
    for (int i = 0; i < count; i++) {
        const float weight = fabsf(weights[i]);
        if (weight != 0.0f && (place < 0 || weight > most)) {
            most = weight;
            place = i;
        }
    }
    return place;
}

// Chooses for one token and counts its pairs; one warp.
__device__ __forceinline__ void choose_and_count(const MeteoraCall &call, int leader, int token, void *shared) {
    const Choice choice = Choice::in(shared, call);
    choose(call, leader, token, choice);
    __syncwarp();
    keep(call, leader, token, choice);
    int32_t *counts = counts_of(call, call.slot_counts, leader);
#pragma unroll 1
    for (int i = threadIdx.x; i < *choice.count; i += 32)
        if (choice.weights[i] != 0.0f)
            atomicAdd(counts + choice.slots[i], 1);
    if (threadIdx.x == 0) {
        const int place = heaviest(choice.weights, *choice.count);
        if (place >= 0)
            atomicAdd(counts + call.slots + choice.slots[place], 1);
    }
}

// starts[i] = sum of counts[..i], by one block; returns the sum of all. `room`: BLOCK ints.
__device__ __forceinline__ int scan(const int32_t *counts, int32_t *starts, int length, int32_t *room) {
    const int share = (length + BLOCK - 1) / BLOCK, first = min(length, int(threadIdx.x) * share);
    const int end = min(length, first + share);
    int sum = 0;
#pragma unroll 1
    for (int i = first; i < end; i++)
        sum += counts[i];
    room[threadIdx.x] = sum;
    __syncthreads();
    int before = 0, total = 0;
#pragma unroll 4
    for (int i = 0; i < BLOCK; i++) {
        before += i < int(threadIdx.x) ? room[i] : 0;
        total += room[i];
    }
#pragma unroll 1
    for (int i = first; i < end; i++) {
        starts[i] = before;
        before += counts[i];
    }
    __syncthreads();
    return total;
}

// Puts the pairs of BLOCK tokens in their places; every block scans the counts for itself.
__device__ __forceinline__ void scatter(const MeteoraCall &call, int leader, void *shared) {
    int32_t *pair_starts = static_cast<int32_t *>(shared), *token_starts = pair_starts + call.slots;
    int32_t *room = token_starts + call.slots;
    const int32_t *counts = counts_of(call, call.slot_counts, leader);
    int32_t *cursors = counts_of(call, call.slot_cursors, leader);
    const int pairs = scan(counts, pair_starts, call.slots, room);
    const int tokens = scan(counts + call.slots, token_starts, call.slots, room);
    if (blockIdx.x == 0) {
        int32_t *indptr = call.segment_indptr + int64_t(leader) * (call.slots + 2);
#pragma unroll 1
        for (int slot = threadIdx.x; slot < call.slots; slot += BLOCK)
            indptr[slot] = pair_starts[slot];
        if (threadIdx.x == 0) {
            indptr[call.slots] = pairs;
            indptr[call.slots + 1] = tokens;
        }
    }
    const int token = blockIdx.x * BLOCK + threadIdx.x;
    if (token >= call.tokens)
        return;
    const int64_t row = row_of(call, leader, token);
    const int32_t *slots = call.chosen_slots + row * call.places;
    const float *weights = call.chosen_weights + row * call.places;
    const int count = call.chosen_count[row];
    int32_t *pair_tokens = call.pair_tokens + row_of(call, leader, 0) * call.places;
#pragma unroll 1
    for (int i = 0; i < count; i++)
        if (weights[i] != 0.0f)
            pair_tokens[pair_starts[slots[i]] + atomicAdd(cursors + slots[i], 1)] = token;
    const int place = heaviest(weights, count);
    if (place >= 0) {
        const int slot = slots[place];
        const int at = token_starts[slot] + atomicAdd(cursors + call.slots + slot, 1);
        call.token_order[row_of(call, leader, at)] = token;
    }
}
