// CUDA on the CPU, for tests: the kernels' own sources compile against this header with g++.
//
// A block runs as fibers, one for each thread, on one CPU thread. A fiber runs until it reaches a barrier
// or ends; then the scheduler resumes another, in an order drawn anew at every round from a seed. So a
// kernel whose result hangs on the order, because a barrier is missing, fails for some seed.
//
// Also caught: barriers and shuffles that not all threads reach, and shared memory read before it was
// written (it is NaN at the start of every block). Not imitated: the memory model, -ftz, coalescing, limits.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __launch_bounds__(threads)
#define __forceinline__ static inline __attribute__((always_inline))
// Shared variables are gathered in one section of memory. One block runs at a time, so one copy is enough.
#define __shared__ static __attribute__((section("shim_shared"), used))
extern "C" char __start_shim_shared[] __attribute__((weak)), __stop_shim_shared[] __attribute__((weak));

#define PREFETCH shim::prefetch
#define DYNAMIC_SHARED(name) REAL* name = (REAL*)shim::dynamic_shared.data()

struct dim3 {
    unsigned x, y, z;
};
static dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace shim {

enum State { READY, AT_BLOCK_BARRIER, AT_WARP_BARRIER, ENDED };
constexpr unsigned WARP_SIZE = 32;
constexpr size_t STACK = 32 * 1024;

// A fiber is entered through its context the first time and through `resume_at` ever after: swapcontext
// asks the kernel for the signal mask at every switch, which would be most of the run time, and the compiler's own
// jumps take a fifth of the C library's, which look for threads to cancel.
typedef void* Place[5];  // as __builtin_setjmp wants it
struct Fiber {
    ucontext_t context;
    Place resume_at;
    unsigned shuffles;  // of this block so far
    bool entered = false;
    std::unique_ptr<char[]> stack;
};

static std::vector<std::unique_ptr<Fiber>> fibers;  // kept from block to block
static State states[1024];                          // of the fibers, which are looked through at every round
static std::vector<char> dynamic_shared;            // and MARGIN bytes that must stay as they are
constexpr size_t MARGIN = 4096;
static std::vector<uint64_t> mailbox;               // two values for each thread, for shuffles by turns
static std::vector<uint64_t> prefetches;            // of this launch: address and bytes of each
static void prefetch(const void* p, int bytes) { prefetches.insert(prefetches.end(), {(uint64_t)p, (uint64_t)bytes}); }
static Place scheduler;
static unsigned current, threads;
static void (*kernel)(void**);
static void** arguments;
static uint64_t random_state;

static uint64_t random_below(uint64_t n) {  // splitmix64
    uint64_t x = (random_state += 0x9e3779b97f4a7c15u);
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return (unsigned __int128)(x ^ (x >> 31)) * n >> 64;
}

// A function that jumps must not be part of the one that it jumps to.
#define APART __attribute__((noinline))
APART static void to_scheduler() { __builtin_longjmp(scheduler, 1); }

APART static void wait_in(State state) {
    states[current] = state;
    if (__builtin_setjmp(fibers[current]->resume_at) == 0) to_scheduler();
}

static void fiber_main() {
    for (;;) {  // one turn for each block
        kernel(arguments);
        wait_in(ENDED);
    }
}

static void add_fiber() {
    auto fiber = std::make_unique<Fiber>();
    fiber->stack = std::make_unique<char[]>(STACK);
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack.get();
    fiber->context.uc_stack.ss_size = STACK;
    fiber->context.uc_link = nullptr;  // fiber_main never returns
    makecontext(&fiber->context, fiber_main, 0);
    fibers.push_back(std::move(fiber));
}

APART static void to_fiber(Fiber& fiber) {
    if (fiber.entered) __builtin_longjmp(fiber.resume_at, 1);
    fiber.entered = true;
    setcontext(&fiber.context);
}

APART static void resume(unsigned thread) {
    current = thread;
    threadIdx = {thread % blockDim.x, thread / blockDim.x % blockDim.y, thread / (blockDim.x * blockDim.y)};
    if (__builtin_setjmp(scheduler) == 0) to_fiber(*fibers[thread]);  // back here when the fiber waits or has ended
}

static unsigned count(State state, unsigned first, unsigned last) { return std::count(states + first, states + last, state); }

static void release(State state, unsigned first, unsigned last) { std::replace(states + first, states + last, state, READY); }

// Lets every warp pass whose threads all wait at a warp barrier; whether there was one.
static bool release_warps() {
    bool any = false;
    for (unsigned first = 0; first < threads; first += WARP_SIZE) {
        const unsigned last = std::min(threads, first + WARP_SIZE);
        if (count(AT_WARP_BARRIER, first, last) == last - first) {
            release(AT_WARP_BARRIER, first, last);
            any = true;
        }
    }
    return any;
}

static bool untouched_margin() {
    return std::all_of(dynamic_shared.end() - MARGIN, dynamic_shared.end(), [](char byte) { return byte == (char)0xff; });
}

// Returns nullptr, or what the kernel did wrong.
static const char* run_block(std::vector<unsigned>& order) {
    memset(dynamic_shared.data(), 0xff, dynamic_shared.size());
    memset(__start_shim_shared, 0xff, __stop_shim_shared - __start_shim_shared);  // NaN in float and double
    for (unsigned i = 0; i < threads; ++i) states[i] = READY, fibers[i]->shuffles = 0;
    for (;;) {
        for (unsigned i = threads; i > 1; --i) std::swap(order[i - 1], order[random_below(i)]);
        for (unsigned thread : order)
            if (states[thread] == READY) resume(thread);
        const unsigned ended = count(ENDED, 0, threads);
        if (ended == threads) return untouched_margin() ? nullptr : "it wrote beyond its dynamic shared memory";
        if (release_warps()) continue;
        if (count(AT_WARP_BARRIER, 0, threads)) return "a shuffle or __syncwarp was not reached by all threads of its warp";
        if (ended) return "a __syncthreads was not reached by all threads of the block";
        release(AT_BLOCK_BARRIER, 0, threads);
    }
}

// grid, block: three numbers each. shared: bytes of dynamic shared memory. Returns nullptr, or what the kernel did wrong.
static const char* launch(void (*body)(void**), void** values, const unsigned* grid, const unsigned* block, size_t shared, uint64_t seed) {
    kernel = body, arguments = values, random_state = seed;
    gridDim = {grid[0], grid[1], grid[2]}, blockDim = {block[0], block[1], block[2]};
    threads = blockDim.x * blockDim.y * blockDim.z;
    if (threads == 0 || threads > 1024) return "a block has 1 to 1024 threads";
    while (fibers.size() < threads) add_fiber();
    mailbox.assign(2 * threads, 0);
    prefetches.clear();
    dynamic_shared.resize(shared + MARGIN);
    std::vector<unsigned> order(threads);
    for (unsigned i = 0; i < threads; ++i) order[i] = i;
    const uint64_t blocks = (uint64_t)grid[0] * grid[1] * grid[2], shift = random_below(blocks ? blocks : 1);
    for (uint64_t i = 0; i < blocks; ++i) {  // blocks have no order either: start anywhere, go round
        const uint64_t b = (i + shift) % blocks;
        blockIdx = {(unsigned)(b % grid[0]), (unsigned)(b / grid[0] % grid[1]), (unsigned)(b / grid[0] / grid[1])};
        if (const char* wrong = run_block(order)) {
            fibers.clear();  // they hang somewhere inside the kernel
            return wrong;
        }
    }
    return nullptr;
}

// The value that the thread `lane ^ mask` of this warp handed in. One wait is enough where two shuffles in turn use two
// places: who writes to one again has met the others in between, who then had read it.
template <class T>
T exchange_xor(T value, unsigned mask) {
    const unsigned me = current, partner = me ^ mask;
    uint64_t* letters = &mailbox[fibers[me]->shuffles++ % 2 * threads];
    memcpy(&letters[me], &value, sizeof value);
    wait_in(AT_WARP_BARRIER);  // until all have written
    T result;
    memcpy(&result, &letters[partner < threads ? partner : me], sizeof result);
    return result;
}

}  // namespace shim

// What the last launch asked for: copies at most `most` of these numbers, returns how many there are.
extern "C" size_t prefetched(uint64_t* numbers, size_t most) {
    std::copy_n(shim::prefetches.begin(), std::min(most, shim::prefetches.size()), numbers);
    return shim::prefetches.size();
}

static inline void __syncthreads() { shim::wait_in(shim::AT_BLOCK_BARRIER); }
static inline void __syncwarp(unsigned = 0xffffffffu) { shim::wait_in(shim::AT_WARP_BARRIER); }
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
    return shim::exchange_xor(value, (unsigned)mask);
}
static inline float __uint_as_float(unsigned bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
static inline unsigned __float_as_uint(float value) {
    unsigned bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}
static inline float __int_as_float(int bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
