// What the launcher and the kernels agree on: parameters, entry points, grids, workspace.
//
// Plain C, mirrored field by field in Rust. A launch passes one `MeteoraCall` by value. Kernels never allocate
// and never synchronise; all memory is the caller's. Pools, table and routes are as rust/core/src/layout.rs says.
//
// Modules: one for each cuda/<folder>/<folder>.cu (decode, prefill), compiled with -I cuda. Functions are
// extern "C"; element types are told at run time: an instance for each would be five times the code, and what
// dominates is memory.
//
//   decode, gather form (three launches)            grid                                          dynamic shared bytes
//     decode_logits             block 128 G         (slots, ceil(T / 4), slices)                  0
//     decode_shrink             block 128 G         (S, T, slices), any S >= 1                    CHOOSE
//     decode_expand             block 128           (ceil(widest out / 256), T, slices)           0
//   decode, dense form (two launches; reads every adapter's A, waits once less)
//     decode_dense              block 128           (4 * slots, ceil(T / 4), slices)              0
//     decode_choose_expand      block 128           (ceil(widest out / 256), T, slices)           CHOOSE
//   prefill (five launches)
//     prefill_logits            block 256           (ceil(slots / 32), ceil(T / 16), slices)      0
//     prefill_choose            block 32            (T, 1, slices)                                CHOOSE
//     prefill_scatter           block 128           (ceil(T / 128), 1, slices)                    SCATTER
//     prefill_shrink            block 128           (any G >= 1, 1, slices); G about 4 per SM     SHRINK
//     prefill_expand            block 128           (ceil(widest out / 32), ceil(T / 64), slices) 0
//
// G, the groups of 128 threads that share a row, is 1 to METEORA_DOT_GROUPS and changes no bit.
// CHOOSE, SCATTER, SHRINK are the METEORA_*_BYTES below; above 48 KiB the launcher raises the function's
// limit (CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES). Launches of one call go to one stream in this order.
// From sm_90 on, every launch but the first of a call may carry programmatic stream serialisation; kernels wait
// (griddepcontrol.wait) before they read or write anything that another launch writes.
//
// A call may be made in pieces: all launches but the last for every slice, then the last one for a slice at a time,
// with that slice alone in `slices` and the workspace's arrays begun at its part (`u`) or its leader's (the others).
//
// The decode forms give a token the same choice and the same output, to the bit, and every form does so whatever else
// is in the batch.

#ifndef METEORA_ABI_H
#define METEORA_ABI_H

#ifdef __CUDACC_RTC__
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
#else
#include <stdint.h>
#endif

#define METEORA_ABI_VERSION 5

#define METEORA_MAX_SLICES 4   // q, k, v; gate, up
#define METEORA_MAX_SLOTS 4098 // 4,096 adapters, and two for the base as a class

// Dynamic shared memory, bytes.
#define METEORA_CHOOSE_BYTES(slots, places) (4 + 4 * (slots) + 8 * (places))
#define METEORA_SCATTER_BYTES(slots) (8 * (slots) + 1024)
#define METEORA_SHRINK_BYTES 49152

// The order of summation of the decode path's dot products, see cuda/common/dots.cuh: a group of 128 threads takes
// segments of so many elements, and so many groups take them in turn.
#define METEORA_DOT_SEGMENT 4096
#define METEORA_DOT_GROUPS 4

// Which form to take, by the predictions of cuda/PREDICTED.md; nothing was measured.
// Up to this many tokens: decode; more: prefill.
#define METEORA_DECODE_TOKENS 64
// Decode, dense form: up to this many tokens, and rank rows of all adapters that the routes admit, of all slices; for
// rows of one segment, since wider ones gain more by a large block, which this form lacks.
#define METEORA_DENSE_TOKENS 4
#define METEORA_DENSE_ROWS 256

// One output slice of a site.
typedef struct MeteoraSlice {
    const float *gate;            // [slots, in_features]
    const float *gate_bias;       // [slots]
    const uint8_t *lora_a;        // pool: pages of 8 rows of 16-bit elements, width in_features
    const uint8_t *lora_b_packed; // pool, width out_features
    const int32_t *table;         // [slots, 4]: page_start, rank, kind, bits of the f32 scaling
    void *y;                      // [tokens, out_features], rows y_stride elements apart; added to in place
    int64_t y_stride;
    int32_t out_features;
    int32_t leader; // the slice (itself, or a lower one) whose gate, logits and choice this slice uses
} MeteoraSlice;

// One call: y_slice += sum over chosen adapters of w * s * B (A x), for all slices of a site.
typedef struct MeteoraCall {
    const void *x; // [tokens, in_features], rows x_stride elements apart
    int64_t x_stride;
    const int32_t *row_route; // [rows]: token t obeys routes[row_route[(first_token + t) * rows / total_tokens]]
    const int32_t *routes;    // [n_routes, 2 + 2 * slots]
    // Null, or [4]: rows, n_routes, top_k and the f32 bits of temperature, read anew by each launch, in place of those
    // below (which then say what there is room for): a captured graph follows routes that change between its replays.
    const int32_t *options;

    // Workspace. Each array starts at a multiple of 256 bytes; nothing need be zeroed; what is read was written by
    // the same call. Sizes in elements; the arrays below `u` are for prefill alone.
    float *logits;          // [slices, tokens, slots]
    int32_t *chosen_count;  // [slices, tokens]
    int32_t *chosen_slots;  // [slices, tokens, places], ascending; only a leader's part is written
    float *chosen_weights;  // [slices, tokens, places]
    float *u;               // [slices, tokens, u_stride]: A x, at 8 * page_start + row
    int32_t *slot_counts;   // [slices, 2, slots]: pairs of each slot; tokens by their heaviest slot
    int32_t *slot_cursors;  // [slices, 2, slots]
    int32_t *segment_indptr; // [slices, slots + 2]: where each slot's pairs begin; all pairs; tokens in token_order
    int32_t *pair_tokens;   // [slices, tokens * places]: the pairs' tokens, by slot
    int32_t *token_order;   // [slices, tokens]: tokens that have a pair, by their heaviest slot

    int64_t first_token;  // of x within the batch of total_tokens: a batch may be worked off in parts
    int64_t total_tokens;
    int32_t tokens;
    int32_t rows;
    int32_t n_routes;
    int32_t slots;
    int32_t in_features;
    int32_t places;   // most adapters that one token can use: >= min(top_k, slots), >= every fixed route's count
    int32_t top_k;    // 1 to slots
    int32_t pages;    // of each pool
    int32_t u_stride; // 8 * pages
    int32_t n_slices; // 1 to METEORA_MAX_SLICES
    float temperature; // above zero
    int16_t x_dtype;   // codes of rust/core/src/dtype.rs: 0 f32, 1 f16, 2 bf16
    int16_t y_dtype;
    MeteoraSlice slices[METEORA_MAX_SLICES];
} MeteoraCall;

#endif
