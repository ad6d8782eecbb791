// Fibers, their scheduler, barriers and warp collectives.

#include "machine.h"

#include <algorithm>
#include <random>
#include <sys/mman.h>

Dim3 threadIdx, blockIdx, blockDim, gridDim;
Block block;
std::string last_fault;
uint64_t seed = 0;

static Thread threads[MAX_THREADS];
static std::vector<int> ready; // threads that can go on
static int at_barrier, finished;
static bool faulted;
static void *scheduler;
static std::mt19937_64 dice;
static Kernel running;
static const MeteoraCall *running_call;

#if !defined(__x86_64__)
#error "the emulator switches fibers on x86-64 only"
#endif

// Saves the callee-saved registers on this stack, and takes those of another.
extern "C" void switch_stack(void **save, void *load);
asm(R"(
.text
.globl switch_stack
.type switch_stack, @function
switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size switch_stack, .-switch_stack
)");

static void yield() {
    Thread *self = block.current;
    switch_stack(&self->stack_pointer, scheduler);
}

static void wake(int thread) { ready.push_back(thread); }

static void open_barrier_if_complete() {
    if (at_barrier == 0 || at_barrier + finished < block.threads)
        return;
    at_barrier = 0;
    block.epoch++;
    for (int i = 0; i < block.threads; i++)
        if (!threads[i].done)
            wake(i);
}

static void enter() {
    running(*running_call);
    block.current->done = true;
    finished++;
    open_barrier_if_complete();
    yield();
}

void fault(const std::string &what) {
    const auto place = [](Dim3 at) {
        return "(" + std::to_string(at.x) + ", " + std::to_string(at.y) + ", " + std::to_string(at.z) + ")";
    };
    last_fault = block.kernel + ", block " + place(blockIdx) + ", thread " + std::to_string(block.current->index) +
                 ": " + what;
    faulted = true;
    yield(); // never comes back: the scheduler gives up the grid
    __builtin_unreachable();
}

static Thread &make_thread(int index) {
    Thread &thread = threads[index];
    if (!thread.stack)
        thread.stack = static_cast<uint8_t *>(
            mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    thread.index = index;
    thread.done = thread.waited = false;
    thread.groups = 0;
    thread.copies.clear();
    void **top = reinterpret_cast<void **>(thread.stack + STACK_BYTES) - 8;
    *top = reinterpret_cast<void *>(enter); // what switch_stack returns to, on a stack as after a call
    std::fill(top - 6, top, nullptr);
    thread.stack_pointer = top - 6;
    return thread;
}

static void go_on(Thread &thread) {
    block.current = &thread;
    const unsigned index = thread.index;
    threadIdx = {index % blockDim.x, index / blockDim.x % blockDim.y, index / blockDim.x / blockDim.y};
    switch_stack(&scheduler, thread.stack_pointer);
}

static void run_block(size_t dynamic_bytes) {
    begin_block(dynamic_bytes);
    block.epoch = at_barrier = finished = 0;
    block.warps.assign((block.threads + 31) / 32, Warp{});
    ready.clear();
    for (int i = block.threads; i-- > 0;)
        wake(make_thread(i).index);
    while (!ready.empty() && !faulted) {
        if (seed)
            std::swap(ready[dice() % ready.size()], ready.back());
        Thread &thread = threads[ready.back()];
        ready.pop_back();
        go_on(thread);
    }
    if (!faulted && finished < block.threads) {
        last_fault = block.kernel + ": " + std::to_string(block.threads - finished) +
                     " threads wait for others that never come";
        faulted = true;
    }
}

bool run_grid(const char *name, Kernel kernel, const MeteoraCall &call, Dim3 grid, Dim3 threads_of_block,
              size_t dynamic_bytes) {
    faulted = false;
    block.kernel = name;
    block.threads = int(threads_of_block.x * threads_of_block.y * threads_of_block.z);
    running = kernel;
    running_call = &call;
    begin_launch(name, call);
    gridDim = grid;
    blockDim = threads_of_block;
    std::vector<uint64_t> order(uint64_t(grid.x) * grid.y * grid.z);
    for (uint64_t i = 0; i < order.size(); i++)
        order[i] = i;
    dice.seed(seed);
    if (seed)
        std::shuffle(order.begin(), order.end(), dice);
    for (uint64_t i : order) {
        blockIdx = {unsigned(i % grid.x), unsigned(i / grid.x % grid.y), unsigned(i / grid.x / grid.y)};
        run_block(dynamic_bytes);
        if (faulted)
            return false;
    }
    return true;
}

void __syncthreads() {
    at_barrier++;
    open_barrier_if_complete();
    yield();
}

int lane() { return block.current->index % 32; }

void collective(uint32_t mask, void (*operation)(void *const *, uint32_t), void *argument) {
    const int index = block.current->index, first = index / 32 * 32;
    Warp &warp = block.warps[index / 32];
    if (!(mask >> lane() & 1))
        fault("a lane outside the mask of its own warp operation");
    if (warp.arrived == 0) {
        warp.operation = operation;
        warp.mask = mask;
    } else if (warp.operation != operation || warp.mask != mask) {
        fault("lanes of one warp meet in different operations");
    }
    warp.arguments[lane()] = argument;
    warp.arrived |= 1u << lane();
    if (warp.arrived == mask) {
        warp.arrived = 0;
        operation(warp.arguments, mask);
        for (int i = 0; i < 32; i++)
            if (mask >> i & 1)
                wake(first + i);
    }
    yield();
}
