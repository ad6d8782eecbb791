// Slots and routes of a call, with everything out of range counted as absent.

#pragma once

#include "element.cuh"

constexpr int PAGE_ROWS = 8;
constexpr int PAGE_BYTES_PER_COLUMN = 2 * PAGE_ROWS;
constexpr int KIND_ABS = 1 << 8;
constexpr int ROUTE_FIXED = 0;
constexpr int ROUTE_AUTO = 1;

struct Adapter {
    int64_t page_start;
    int rank; // 0: adds nothing
    int dtype;
    float scaling;

    // Row r of A or of B transposed in `pool`, whose rows have `width` elements.
    __device__ __forceinline__ const uint8_t *row(const uint8_t *pool, int width, int r) const {
        return pool + page_start * PAGE_BYTES_PER_COLUMN * width + int64_t(r) * width * size_of(dtype);
    }
};

__device__ __forceinline__ Adapter adapter_of(const MeteoraCall &call, const MeteoraSlice &slice, int slot) {
    Adapter adapter = {0, 0, 0, 0.0f};
    if (slot < 0 || slot >= call.slots)
        return adapter;
    const int32_t *entry = slice.table + int64_t(slot) * 4;
    adapter.page_start = entry[0];
    adapter.rank = entry[1];
    adapter.dtype = entry[2] & 0xff;
    adapter.scaling = __int_as_float(entry[3]);
    const int64_t size = adapter.dtype == F32::code ? 2 : 1; // in units of 16 bits
    const bool inside = adapter.page_start >= 0 && adapter.rank >= 0 && adapter.dtype <= BF16::code &&
                        adapter.page_start * PAGE_ROWS + adapter.rank * size <= int64_t(call.pages) * PAGE_ROWS;
    if (!inside)
        adapter.rank = 0;
    return adapter;
}

__device__ __forceinline__ bool sign_free(const MeteoraSlice &slice, int slot) {
    return slice.table[int64_t(slot) * 4 + 2] & KIND_ABS;
}

// What the call says of the routes, or what stands on the device in its place.
__device__ __forceinline__ int rows_of(const MeteoraCall &call) {
    return call.options ? max(1, min(call.options[0], call.rows)) : call.rows;
}

__device__ __forceinline__ int routes_of(const MeteoraCall &call) {
    return call.options ? min(call.options[1], call.n_routes) : call.n_routes;
}

__device__ __forceinline__ int top_k_of(const MeteoraCall &call) {
    return min(call.options ? call.options[2] : call.top_k, call.places);
}

__device__ __forceinline__ float temperature_of(const MeteoraCall &call) {
    return call.options ? __int_as_float(call.options[3]) : call.temperature;
}

// The record that a token obeys; none: no adapter.
__device__ __forceinline__ const int32_t *route_of(const MeteoraCall &call, int token) {
    const int row = int((call.first_token + token) * rows_of(call) / call.total_tokens);
    const int route = call.row_route[row];
    if (route < 0 || route >= routes_of(call))
        return nullptr;
    return call.routes + int64_t(route) * (2 + 2 * call.slots);
}

__device__ __forceinline__ bool is_candidate(const int32_t *record, int slot) {
    return record && record[0] == ROUTE_AUTO && (record[2 + slot / 32] >> (slot % 32) & 1);
}

// Adapters on a fixed record.
__device__ __forceinline__ int fixed_count(const MeteoraCall &call, const int32_t *record) {
    return max(0, min(record[1], min(call.places, call.slots)));
}

// Whether the route leaves room for the slot: a candidate, or on the list.
__device__ __forceinline__ bool may_use(const MeteoraCall &call, const int32_t *record, int slot) {
    if (!record || record[0] != ROUTE_FIXED)
        return is_candidate(record, slot);
    const int count = fixed_count(call, record);
#pragma unroll 1
    for (int i = 0; i < count; i++)
        if (record[2 + 2 * i] == slot)
            return true;
    return false;
}

// Row `token` of x.
__device__ __forceinline__ const uint8_t *input_of(const MeteoraCall &call, int token) {
    return static_cast<const uint8_t *>(call.x) + int64_t(token) * call.x_stride * size_of(call.x_dtype);
}

// Where a [slices, tokens] array has (slice, token).
__device__ __forceinline__ int64_t row_of(const MeteoraCall &call, int slice, int token) {
    return int64_t(slice) * call.tokens + token;
}
