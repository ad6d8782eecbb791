// Threads, warps and the block that runs; inside the emulator only.

#pragma once

#include "abi.h"
#include "emulator.h"
#include <string>
#include <vector>

constexpr int MAX_THREADS = 1024;

struct Copy { // a cp.async under way
    uint8_t *to;
    const uint8_t *from;
    int bytes;
    int group;
};

struct Thread {
    void *stack_pointer;
    uint8_t *stack;
    int index;
    bool done;
    bool waited; // griddepcontrol.wait
    int groups;  // committed
    std::vector<Copy> copies;
};

struct Warp {
    void (*operation)(void *const *arguments, uint32_t mask);
    uint32_t mask, arrived;
    void *arguments[32];
    int epoch; // counts the moments at which its lanes' accesses are ordered
};

struct Block {
    std::string kernel;
    int threads;
    int epoch; // counts barriers
    std::vector<Warp> warps;
    Thread *current;
};
extern Block block;

constexpr size_t STACK_BYTES = 128 << 10;

// Runs one kernel over a grid; false: a fault, whose text is in last_fault.
typedef void (*Kernel)(MeteoraCall);
bool run_grid(const char *name, Kernel kernel, const MeteoraCall &call, Dim3 grid, Dim3 threads, size_t dynamic_bytes);
extern std::string last_fault;
extern uint64_t seed; // 0: in order

// Gives up the launch; called on a fiber, does not return.
[[noreturn]] void fault(const std::string &what);

// Waits for the lanes of `mask`, then one of them runs the operation on everybody's arguments.
void collective(uint32_t mask, void (*operation)(void *const *arguments, uint32_t mask), void *argument);

// Memory (memory.cpp).
void begin_launch(const char *name, const MeteoraCall &call);
void begin_block(size_t dynamic_bytes);
void check(const void *address, size_t bytes, bool write, bool atomic = false);
bool is_shared(const void *address, size_t bytes);
void begin_copy(const Copy &copy);
void deliver(const Copy &copy);

// Carries out what is being copied on a stream; an error: its source has changed meanwhile (copies.cpp).
int finish_copies(void *stream);

// Whether a call is refused, and why (driver.cpp): what may wait for other work or change memory that it uses;
// work on a stream that is no kernel, as the emulator has none in a graph.
int disturbing();
int on_stream(void *stream);
