// Copies between host and device, and the host memory that is page-locked: what is copied from there arrives only when
// its stream is waited for, and has to be as it was until then.

#include "machine.h"

#include <cstdlib>
#include <map>
#include <mutex>

#define API extern "C" __attribute__((visibility("default")))

typedef int CUresult;
enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, ALREADY_REGISTERED = 712, NOT_REGISTERED = 713 };

namespace {

struct Upload { // under way
    uint8_t *to;
    const uint8_t *from;
    std::vector<uint8_t> expected;
    void *stream;
};
std::vector<Upload> uploads;
typedef std::map<const uint8_t *, size_t> Runs; // bytes by starts
Runs locked;                                    // page-locked
Runs registered;                                // those of them that were the caller's
uint64_t from_registered;                     // bytes uploaded
bool refusing;
int allowed_uploads = -1; // negative: any number
std::mutex lock;

bool overlap(const uint8_t *a, size_t a_bytes, const uint8_t *b, size_t b_bytes) {
    return a < b + b_bytes && b < a + a_bytes;
}

// The page-locked run that these bytes meet.
Runs::iterator met(const uint8_t *from, size_t bytes) {
    auto run = locked.begin();
    while (run != locked.end() && !overlap(run->first, run->second, from, bytes))
        run++;
    return run;
}

CUresult deliver(void *stream) {
    CUresult result = SUCCESS;
    std::vector<Upload> others;
    for (Upload &upload : uploads) {
        if (upload.stream != stream) {
            others.push_back(std::move(upload));
            continue;
        }
        const size_t bytes = upload.expected.size();
        if (memcmp(upload.from, upload.expected.data(), bytes) != 0) {
            last_fault = "what was uploaded has changed before it was on the device";
            result = INVALID_VALUE;
        }
        memcpy(upload.to, upload.from, bytes);
    }
    uploads.swap(others);
    return result;
}

} // namespace

CUresult finish_copies(void *stream) {
    const std::lock_guard<std::mutex> guard(lock);
    return deliver(stream);
}

// While on, no memory can be page-locked.
API void meteora_emulator_refuse_registration(int on) { refusing = on; }
// The upload after so many fails, and those behind it; negative: none does.
API void meteora_emulator_allow_uploads(int count) { allowed_uploads = count; }
// Bytes of the caller's own memory that are page-locked now.
API uint64_t meteora_emulator_registered() {
    const std::lock_guard<std::mutex> guard(lock);
    uint64_t bytes = 0;
    for (const auto &run : registered)
        bytes += run.second;
    return bytes;
}
// Bytes uploaded from there until now.
API uint64_t meteora_emulator_uploaded_from_registered() { return from_registered; }

API CUresult cuMemHostRegister_v2(void *memory, size_t bytes, unsigned flags) {
    if (const CUresult refused = disturbing())
        return refused;
    const std::lock_guard<std::mutex> guard(lock);
    const uint8_t *from = static_cast<uint8_t *>(memory);
    if (refusing)
        return OUT_OF_MEMORY;
    if (bytes == 0 || flags > 0xf)
        return INVALID_VALUE;
    if (met(from, bytes) != locked.end())
        return ALREADY_REGISTERED;
    return locked[from] = registered[from] = bytes, SUCCESS;
}
API CUresult cuMemHostUnregister(void *memory) {
    if (const CUresult refused = disturbing())
        return refused;
    const std::lock_guard<std::mutex> guard(lock);
    const uint8_t *from = static_cast<uint8_t *>(memory);
    if (!registered.erase(from))
        return NOT_REGISTERED;
    return locked.erase(from), SUCCESS;
}
API CUresult cuMemAllocHost_v2(void **memory, size_t bytes) {
    if (const CUresult refused = disturbing())
        return refused;
    const std::lock_guard<std::mutex> guard(lock);
    if (posix_memalign(memory, 256, bytes))
        return OUT_OF_MEMORY;
    return locked[static_cast<uint8_t *>(*memory)] = bytes, SUCCESS;
}

API CUresult cuMemcpyHtoDAsync_v2(void *to, const void *memory, size_t bytes, void *stream) {
    if (const CUresult refused = on_stream(stream))
        return refused;
    const std::lock_guard<std::mutex> guard(lock);
    const uint8_t *from = static_cast<const uint8_t *>(memory);
    if (allowed_uploads == 0)
        return INVALID_VALUE;
    allowed_uploads -= allowed_uploads > 0;
    const auto run = met(from, bytes);
    if (run == locked.end()) { // taken before this returns
        const CUresult result = deliver(stream);
        return memmove(to, from, bytes), result;
    }
    if (from < run->first || from + bytes > run->first + run->second)
        return INVALID_VALUE;
    if (registered.count(run->first))
        from_registered += bytes;
    uploads.push_back({static_cast<uint8_t *>(to), from, {from, from + bytes}, stream});
    return SUCCESS;
}
API CUresult cuMemcpyDtoHAsync_v2(void *to, const void *from, size_t bytes, void *stream) {
    if (const CUresult refused = on_stream(stream))
        return refused;
    const CUresult result = finish_copies(stream);
    return memmove(to, from, bytes), result;
}
