// What a kernel may touch: the arrays of its MeteoraCall, the block's shared memory, its own stack.

#include "machine.h"

#include <algorithm>
#include <climits>

namespace {

struct Region {
    std::string name;
    const uint8_t *start;
    int64_t bytes;
    bool writable;                     // and so not to be touched before griddepcontrol.wait
    int64_t row_bytes, stride_bytes; // between rows nothing may be touched
};
std::vector<Region> regions;
size_t last_region;

// Who touched two bytes of shared memory last, in this interval between barriers.
struct Shadow {
    int writer, write_epoch, write_warp_epoch;
    int reader, read_epoch, read_warp_epoch;
    uint32_t reading_warps;
    bool pending; // a cp.async is to fill it
};
constexpr size_t DYNAMIC_LIMIT = 227 << 10;
alignas(256) uint8_t dynamic_memory[DYNAMIC_LIMIT];
size_t dynamic_size;
std::vector<Shadow> dynamic_shadow(DYNAMIC_LIMIT / 2), static_shadow;

extern "C" __attribute__((visibility("hidden"))) uint8_t __start_meteora_shared[], __stop_meteora_shared[];
extern "C" __attribute__((visibility("hidden"))) const uint8_t __ehdr_start[], _end[];
// So that the section exists whatever the kernels declare.
__attribute__((used, section("meteora_shared"))) uint8_t static_memory[16];

bool inside(const void *address, size_t bytes, const uint8_t *start, const uint8_t *end) {
    const uint8_t *from = static_cast<const uint8_t *>(address);
    return from >= start && from + bytes <= end;
}

Shadow *shadow_of(const void *address, size_t bytes) {
    if (inside(address, bytes, dynamic_memory, dynamic_memory + dynamic_size))
        return &dynamic_shadow[(static_cast<const uint8_t *>(address) - dynamic_memory) / 2];
    if (inside(address, bytes, __start_meteora_shared, __stop_meteora_shared))
        return &static_shadow[(static_cast<const uint8_t *>(address) - __start_meteora_shared) / 2];
    return nullptr;
}

std::string describe(const void *address, size_t bytes, bool write) {
    const uint8_t *at = static_cast<const uint8_t *>(address);
    const Region *nearest = nullptr;
    int64_t least = INT64_MAX;
    for (const Region &region : regions) {
        const int64_t distance =
            at < region.start ? region.start - at : std::max<int64_t>(0, at - region.start - region.bytes + 1);
        if (distance < least) {
            least = distance;
            nearest = &region;
        }
    }
    std::string text = (write ? "writes " : "reads ") + std::to_string(bytes) + " bytes at ";
    if (nearest)
        text += nearest->name + " + " + std::to_string(at - nearest->start) + " of " + std::to_string(nearest->bytes);
    return text;
}

void race(const Shadow &shadow, bool write) {
    const int other = write && shadow.writer < 0 ? shadow.reader : shadow.writer;
    fault(std::string(write ? "writes" : "reads") + " shared memory that thread " + std::to_string(other) +
          " used, without a barrier between them");
}

void check_shared(Shadow *shadow, size_t bytes, bool write) {
    const int self = block.current->index, warp = self / 32;
    const int warp_epoch = block.warps[warp].epoch;
    for (Shadow *end = shadow + std::max<size_t>(bytes / 2, 1); shadow < end; shadow++) {
        if (shadow->pending)
            fault("touches shared memory that a cp.async has not delivered");
        if (shadow->writer >= 0 && shadow->write_epoch != block.epoch)
            shadow->writer = -1;
        if (shadow->reader >= 0 && shadow->read_epoch != block.epoch) {
            shadow->reader = -1;
            shadow->reading_warps = 0;
        }
        if (shadow->writer >= 0 && shadow->writer != self &&
            (shadow->writer / 32 != warp || shadow->write_warp_epoch == warp_epoch))
            race(*shadow, write);
        if (write) {
            const bool own_warp = shadow->reader >= 0 && shadow->reader != self && shadow->reader / 32 == warp;
            if ((shadow->reading_warps & ~(1u << warp)) || (own_warp && shadow->read_warp_epoch == warp_epoch))
                race(*shadow, write);
            shadow->writer = self;
            shadow->write_epoch = block.epoch;
            shadow->write_warp_epoch = warp_epoch;
        } else {
            shadow->reader = self;
            shadow->read_epoch = block.epoch;
            shadow->read_warp_epoch = warp_epoch;
            shadow->reading_warps |= 1u << warp;
        }
    }
}

void check_region(const Region &region, const void *address, size_t bytes, bool write) {
    if (write && !region.writable)
        fault(describe(address, bytes, write) + ", which is read-only");
    if (region.writable && !block.current->waited)
        fault(describe(address, bytes, write) + " before griddepcontrol.wait");
}

bool admits(const Region &region, const void *address, size_t bytes) {
    if (!inside(address, bytes, region.start, region.start + region.bytes))
        return false;
    const int64_t offset = static_cast<const uint8_t *>(address) - region.start;
    return region.stride_bytes == 0 || offset % region.stride_bytes + int64_t(bytes) <= region.row_bytes;
}

void add(const std::string &name, const void *start, int64_t bytes, bool writable, int64_t row_bytes = 0,
         int64_t stride_bytes = 0) {
    if (start)
        regions.push_back({name, static_cast<const uint8_t *>(start), bytes, writable, row_bytes, stride_bytes});
}

} // namespace

void begin_launch(const char *name, const MeteoraCall &call) {
    const std::string kernel = name;
    const int64_t of_x = call.x_dtype == 0 ? 4 : 2, of_y = call.y_dtype == 0 ? 4 : 2;
    const int64_t tokens = call.tokens, slots = call.slots, in = call.in_features, slices = call.n_slices;
    const int64_t rows = slices * tokens;
    regions.clear();
    last_region = 0;
    const bool expands = kernel.find("expand") != std::string::npos;
    if (!expands)
        add("x", call.x, ((tokens - 1) * call.x_stride + in) * of_x, false, in * of_x, call.x_stride * of_x);
    for (int64_t i = 0; i < slices; i++) {
        const MeteoraSlice &slice = call.slices[i];
        const std::string of = "slices[" + std::to_string(i) + "].";
        const int64_t out = slice.out_features;
        add(of + "gate", slice.gate, slots * in * 4, false);
        add(of + "gate_bias", slice.gate_bias, slots * 4, false);
        add(of + "lora_a", slice.lora_a, call.pages * 16 * in, false);
        add(of + "lora_b_packed", slice.lora_b_packed, call.pages * 16 * out, false);
        add(of + "table", slice.table, slots * 16, false);
        if (expands)
            add(of + "y", slice.y, ((tokens - 1) * slice.y_stride + out) * of_y, true, out * of_y,
                slice.y_stride * of_y);
    }
    add("row_route", call.row_route, int64_t(call.rows) * 4, false);
    add("routes", call.routes, int64_t(call.n_routes) * (2 + 2 * slots) * 4, false);
    add("options", call.options, 4 * 4, false);
    const size_t workspace = regions.size();
    add("logits", call.logits, rows * slots * 4, true);
    add("chosen_count", call.chosen_count, rows * 4, true);
    add("chosen_slots", call.chosen_slots, rows * call.places * 4, true);
    add("chosen_weights", call.chosen_weights, rows * call.places * 4, true);
    add("u", call.u, rows * call.u_stride * 4, true);
    add("slot_counts", call.slot_counts, slices * 2 * slots * 4, true);
    add("slot_cursors", call.slot_cursors, slices * 2 * slots * 4, true);
    add("segment_indptr", call.segment_indptr, slices * (slots + 2) * 4, true);
    add("pair_tokens", call.pair_tokens, rows * call.places * 4, true);
    add("token_order", call.token_order, rows * 4, true);
    const bool first = kernel.find("logits") != std::string::npos || kernel.find("dense") != std::string::npos;
    for (size_t i = workspace; first && i < regions.size(); i++)
        memset(const_cast<uint8_t *>(regions[i].start), 0xff, regions[i].bytes);
}

void begin_block(size_t dynamic_bytes) {
    dynamic_size = dynamic_bytes;
    memset(dynamic_memory, 0xff, dynamic_size);
    memset(__start_meteora_shared, 0xff, __stop_meteora_shared - __start_meteora_shared);
    const Shadow untouched = {-1, 0, 0, -1, 0, 0, 0, false};
    std::fill_n(dynamic_shadow.begin(), (dynamic_size + 1) / 2, untouched);
    static_shadow.assign((__stop_meteora_shared - __start_meteora_shared + 1) / 2, untouched);
}

bool is_shared(const void *address, size_t bytes) { return shadow_of(address, bytes) != nullptr; }

void check(const void *address, size_t bytes, bool write, bool atomic) {
    const Thread *self = block.current;
    if (!self || inside(address, bytes, self->stack, self->stack + STACK_BYTES))
        return;
    if (reinterpret_cast<uint64_t>(address) % bytes)
        fault(describe(address, bytes, write) + ", misaligned");
    if (Shadow *shadow = shadow_of(address, bytes)) {
        if (!atomic)
            check_shared(shadow, bytes, write);
        return;
    }
    if (last_region < regions.size() && admits(regions[last_region], address, bytes))
        return check_region(regions[last_region], address, bytes, write);
    for (size_t i = 0; i < regions.size(); i++)
        if (admits(regions[i], address, bytes)) {
            last_region = i;
            return check_region(regions[i], address, bytes, write);
        }
    if (!write && inside(address, bytes, __ehdr_start, _end) &&
        !inside(address, bytes, dynamic_memory, dynamic_memory + DYNAMIC_LIMIT))
        return; // constants, threadIdx
    fault(describe(address, bytes, write) + ", out of bounds");
}

void begin_copy(const Copy &copy) {
    if (!is_shared(copy.to, 16))
        fault("a cp.async to what is not shared memory");
    if (reinterpret_cast<uint64_t>(copy.to) % 16 || reinterpret_cast<uint64_t>(copy.from) % 16)
        fault("a misaligned cp.async");
    check(copy.to, 16, true);
    for (int i = 0; i < copy.bytes; i++)
        check(copy.from + i, 1, false);
    memset(copy.to, 0xff, 16);
    Shadow *shadow = shadow_of(copy.to, 16);
    for (int i = 0; i < 8; i++)
        shadow[i].pending = true;
}

void deliver(const Copy &copy) {
    Shadow *shadow = shadow_of(copy.to, 16);
    for (int i = 0; i < 8; i++) {
        shadow[i].pending = false;
        shadow[i].writer = block.current->index;
        shadow[i].write_epoch = block.epoch;
        shadow[i].write_warp_epoch = block.warps[block.current->index / 32].epoch;
    }
    memset(copy.to, 0, 16);
    memcpy(copy.to, copy.from, copy.bytes);
}

uint4 *dynamic_shared() { return reinterpret_cast<uint4 *>(dynamic_memory); }

// What -fsanitize=thread calls before each access.
#define EXPORTED extern "C" __attribute__((visibility("default")))
#define ACCESSES(bytes)                                                                                                \
    EXPORTED void __tsan_read##bytes(const void *at) { check(at, bytes, false); }                                      \
    EXPORTED void __tsan_write##bytes(const void *at) { check(at, bytes, true); }                                      \
    EXPORTED void __tsan_unaligned_read##bytes(const void *at) { check(at, bytes, false); }                            \
    EXPORTED void __tsan_unaligned_write##bytes(const void *at) { check(at, bytes, true); }
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)
EXPORTED void __tsan_read_range(const uint8_t *at, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        check(at + i, 1, false);
}
EXPORTED void __tsan_write_range(const uint8_t *at, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        check(at + i, 1, true);
}
EXPORTED void __tsan_func_entry(void *) {}
EXPORTED void __tsan_func_exit() {}
EXPORTED void __tsan_init() {}
