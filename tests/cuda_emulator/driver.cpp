// libcuda's functions, as far as the launcher uses them: one device, streams that do everything at once but for uploads
// (copies.cpp), or keep the launches of a graph for later. The null stream stands for one of each thread's own, so that a
// thread captures alone; what a capture forbids to all threads, they are told, and what needs a current context, where
// there is none.

#include "machine.h"

#include <atomic>
#include <cstdlib>
#include <dlfcn.h>
#include <map>
#include <mutex>

#define API extern "C" __attribute__((visibility("default")))

typedef int CUresult;
enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    INVALID_CONTEXT = 201,
    NOT_FOUND = 500,
    LAUNCH_FAILED = 719,
    NOT_WHILE_CAPTURING = 900
};

namespace {

struct Function {
    std::string name;
    Kernel kernel;
    int dynamic_limit = 48 << 10;
};
std::map<std::string, Function> functions; // never taken out: handles are addresses
std::mutex lock;
int handle; // its address stands for every context, module and event

struct LaunchAttribute { // CUlaunchAttribute
    unsigned id;
    unsigned pad;
    int value[16];
};

struct LaunchConfig { // CUlaunchConfig
    unsigned grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes;
    void *stream;
    const LaunchAttribute *attributes;
    unsigned attribute_count;
};

struct Launch {
    const Function *function;
    Dim3 grid, threads;
    unsigned shared_bytes;
    MeteoraCall call;
};
std::vector<Launch> graph; // of the capture under way, or of the last one
uint64_t captures, launches, early_launches;
std::atomic<int> under_way, events;
thread_local bool capturing;
thread_local int capture_mode; // what of others' captures this thread heeds: 0 everything, 2 nothing
thread_local std::vector<void *> contexts;

int capability() {
    const char *value = getenv("METEORA_EMULATOR_CAPABILITY");
    return value ? atoi(value) : 90;
}

int shared_limit() { return capability() == 86 || capability() == 89 || capability() == 120 ? 99 << 10 : 227 << 10; }

CUresult run(const Launch &launch) {
    const Function &function = *launch.function;
    const bool well = run_grid(function.name.c_str(), function.kernel, launch.call, launch.grid, launch.threads,
                               launch.shared_bytes);
    return well ? SUCCESS : LAUNCH_FAILED;
}

constexpr int ATTRIBUTE_MAX_DYNAMIC_SHARED = 8, ATTRIBUTE_REGISTERS = 4;
constexpr unsigned ATTRIBUTE_EARLY = 6; // programmatic stream serialisation

} // namespace

CUresult disturbing() {
    if (contexts.empty())
        return INVALID_CONTEXT;
    return under_way && capture_mode != 2 ? NOT_WHILE_CAPTURING : SUCCESS;
}

CUresult on_stream(void *stream) {
    if (contexts.empty())
        return INVALID_CONTEXT;
    return !stream && capturing ? NOT_WHILE_CAPTURING : SUCCESS;
}

API int meteora_cuda_emulator() { return 1; }
API const char *meteora_emulator_last_fault() { return last_fault.c_str(); }
// 0: threads and blocks in order; anything else: in an order drawn from it.
API void meteora_emulator_seed(uint64_t value) { seed = value; }

// Launches until now, and those of them that may start before the one ahead is done.
API uint64_t meteora_emulator_launches() { return launches; }
API uint64_t meteora_emulator_early_launches() { return early_launches; }
// Events that nobody has destroyed.
API int meteora_emulator_events() { return events; }
// While on, this thread's launches are kept, in place of those kept before, and not carried out.
API void meteora_emulator_capture(int on) {
    if (on)
        graph.clear(), captures++;
    under_way += on - capturing;
    capturing = on;
}
API CUresult meteora_emulator_replay() {
    const std::lock_guard<std::mutex> guard(lock);
    for (const Launch &launch : graph)
        if (run(launch) != SUCCESS)
            return LAUNCH_FAILED;
    return SUCCESS;
}

API CUresult cuInit(unsigned) {
    if (const char *value = getenv("METEORA_EMULATOR_SEED"))
        seed = strtoull(value, nullptr, 10);
    return SUCCESS;
}
API CUresult cuDriverGetVersion(int *version) { return *version = 12080, SUCCESS; }
API CUresult cuDeviceGetCount(int *count) { return *count = 1, SUCCESS; }
API CUresult cuDeviceGet(int *device, int ordinal) { return *device = ordinal, ordinal == 0 ? SUCCESS : 101; }
API CUresult cuDeviceGetName(char *name, int length, int) {
    strncpy(name, "emulator", size_t(length));
    return SUCCESS;
}
API CUresult cuDeviceGetAttribute(int *value, int attribute, int) {
    const std::map<int, int> attributes = {{75, capability() / 10}, {76, capability() % 10}, {16, 16},
                                           {97, shared_limit()}, {1, 1024}, {10, 32}};
    const auto found = attributes.find(attribute);
    if (found == attributes.end())
        return INVALID_VALUE;
    return *value = found->second, SUCCESS;
}
API CUresult cuDevicePrimaryCtxRetain(void **context, int) { return *context = &handle, SUCCESS; }
API CUresult cuCtxGetCurrent(void **context) {
    return *context = contexts.empty() ? nullptr : contexts.back(), SUCCESS;
}
API CUresult cuCtxPushCurrent_v2(void *context) { return contexts.push_back(context), SUCCESS; }
API CUresult cuCtxPopCurrent_v2(void **context) {
    if (contexts.empty())
        return INVALID_CONTEXT;
    *context = contexts.back();
    return contexts.pop_back(), SUCCESS;
}
API CUresult cuModuleLoadData(void **module, const void *) { return *module = &handle, disturbing(); }

API CUresult cuModuleGetFunction(void **function, void *, const char *name) {
    const std::lock_guard<std::mutex> guard(lock);
    Dl_info self;
    if (!dladdr(&handle, &self))
        return NOT_FOUND;
    void *library = dlopen(self.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    void *symbol = library ? dlsym(library, name) : nullptr;
    if (!symbol)
        return NOT_FOUND;
    Function &entry = functions[name];
    entry.name = name;
    entry.kernel = reinterpret_cast<Kernel>(symbol);
    return *function = &entry, SUCCESS;
}

API CUresult cuFuncSetAttribute(void *function, int attribute, int value) {
    if (attribute != ATTRIBUTE_MAX_DYNAMIC_SHARED || value > shared_limit())
        return INVALID_VALUE;
    static_cast<Function *>(function)->dynamic_limit = value;
    return SUCCESS;
}
API CUresult cuFuncGetAttribute(int *value, int, void *) { return *value = 32, SUCCESS; }

API CUresult cuLaunchKernelEx(const LaunchConfig *config, void *handle_of_function, void **parameters, void **) {
    const std::lock_guard<std::mutex> guard(lock);
    if (contexts.empty())
        return INVALID_CONTEXT;
    for (unsigned i = 0; i < config->attribute_count; i++)
        if (config->attributes[i].id != ATTRIBUTE_EARLY || config->attributes[i].value[0] != 1 || capability() < 90)
            return INVALID_VALUE;
    early_launches += config->attribute_count;
    const Function &function = *static_cast<Function *>(handle_of_function);
    const Dim3 grid = {config->grid_x, config->grid_y, config->grid_z};
    const Dim3 threads = {config->block_x, config->block_y, config->block_z};
    const uint64_t count = uint64_t(threads.x) * threads.y * threads.z;
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535 || count == 0 ||
        count > MAX_THREADS || config->shared_bytes > unsigned(function.dynamic_limit))
        return INVALID_VALUE;
    const MeteoraCall &call = *static_cast<const MeteoraCall *>(parameters[0]);
    const Launch launch = {&function, grid, threads, config->shared_bytes, call};
    launches++;
    if (capturing)
        return graph.push_back(launch), SUCCESS;
    const CUresult copied = finish_copies(config->stream);
    return copied == SUCCESS ? run(launch) : copied;
}

API CUresult cuGetErrorName(CUresult result, const char **text) {
    const std::map<CUresult, const char *> names = {{SUCCESS, "CUDA_SUCCESS"},
                                                    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"},
                                                    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND"},
                                                    {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED"},
                                                    {NOT_WHILE_CAPTURING, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"}};
    const auto found = names.find(result);
    return *text = found == names.end() ? "CUDA_ERROR_INVALID_VALUE" : found->second, SUCCESS;
}
API CUresult cuGetErrorString(CUresult result, const char **text) {
    *text = result == LAUNCH_FAILED ? last_fault.c_str() : "what the emulator does not know or refuses";
    return SUCCESS;
}

API CUresult cuStreamCreate(void **stream, unsigned) { return *stream = new char, disturbing(); }
API CUresult cuStreamSynchronize(void *stream) {
    const CUresult refused = !stream && capturing ? NOT_WHILE_CAPTURING : disturbing();
    return refused ? refused : finish_copies(stream);
}
API CUresult cuStreamGetCaptureInfo_v2(void *, int *status, uint64_t *id, void **, const void ***, size_t *) {
    return *status = capturing, *id = captures, SUCCESS;
}
API CUresult cuThreadExchangeStreamCaptureMode(int *mode) { return std::swap(*mode, capture_mode), SUCCESS; }
API CUresult cuEventCreate(void **event, unsigned) {
    if (contexts.empty())
        return INVALID_CONTEXT;
    return *event = &handle, events++, SUCCESS;
}
API CUresult cuEventRecord(void *, void *stream) {
    const CUresult refused = on_stream(stream);
    return refused ? refused : finish_copies(stream);
}
API CUresult cuEventSynchronize(void *) { return disturbing(); }
API CUresult cuEventDestroy_v2(void *) {
    if (contexts.empty())
        return INVALID_CONTEXT;
    return events--, SUCCESS;
}
