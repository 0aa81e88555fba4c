// CUDA's threads on a processor: those of a block are fibers, which take turns between its
// barriers. What waits for threads that have ended, or for half a warp, aborts instead of hanging.
#pragma once

#include <cuda_runtime.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#undef __shared__
#define __shared__ static  // one block runs at a time

namespace emulator {

constexpr int kWarp = 32, kStack = 256 << 10;

struct Index {
  unsigned x;
};

enum State { kReady, kAtBarrier, kAtWarp, kDone };

struct Fiber {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(kStack);
  State state = kDone;
  int64_t given = 0;  // to the other lanes of its warp
};

inline Index thread, block, blocks;
inline std::vector<Fiber> fibers;
inline ucontext_t scheduler;
inline const std::function<void()>* kernel;

inline void enter() {
  const unsigned me = thread.x;
  (*kernel)();
  fibers[me].state = kDone;
  swapcontext(&fibers[me].context, &scheduler);
}

inline void wait(State state) {
  const unsigned me = thread.x;
  fibers[me].state = state;
  swapcontext(&fibers[me].context, &scheduler);
}

inline bool all(int from, int to, State state) {
  for (int i = from; i < to; ++i) {
    if (fibers[i].state != state) return false;
  }
  return true;
}

inline bool release(int from, int to, State state) {
  if (!all(from, to, state)) return false;
  for (int i = from; i < to; ++i) fibers[i].state = kReady;
  return true;
}

inline void begin(Fiber& fiber) {
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.data();
  fiber.context.uc_stack.ss_size = kStack;
  makecontext(&fiber.context, enter, 0);
  fiber.state = kReady;
}

// What is right in any order between two barriers is right in both of these.
inline bool backwards() { return std::getenv("EMULATE_BACKWARDS") != nullptr; }

inline void run_block() {
  const int count = static_cast<int>(fibers.size());
  const bool last_first = backwards();
  for (Fiber& fiber : fibers) begin(fiber);
  while (!all(0, count, kDone)) {
    bool moved = false;
    for (int k = 0; k < count; ++k) {
      const int i = last_first ? count - 1 - k : k;
      if (fibers[i].state != kReady) continue;
      thread.x = static_cast<unsigned>(i);
      swapcontext(&scheduler, &fibers[i].context);
      moved = true;
    }
    for (int i = 0; i < count; i += kWarp) moved |= release(i, i + kWarp, kAtWarp);
    moved |= release(0, count, kAtBarrier);
    if (!moved) {
      std::fputs("threads wait for others that will not come\n", stderr);
      std::abort();
    }
  }
}

inline void launch(unsigned grid, int count, const std::function<void()>& call) {
  if (fibers.empty()) fibers.resize(count);
  kernel = &call;
  blocks.x = grid;
  for (block.x = 0; block.x < grid; ++block.x) run_block();
}

// combine(what the lanes of this warp have given).
template <typename Combine>
auto exchange(int64_t given, const Combine& combine) {
  const unsigned me = thread.x;
  fibers[me].given = given;
  wait(kAtWarp);
  const auto found = combine(&fibers[me / kWarp * kWarp]);
  wait(kAtWarp);  // until all have read
  return found;
}

}  // namespace emulator

#define threadIdx ::emulator::thread
#define blockIdx ::emulator::block
#define gridDim ::emulator::blocks

inline void __syncthreads() { emulator::wait(emulator::kAtBarrier); }

template <typename T>
T __shfl_xor_sync(unsigned /*all*/, T value, int step) {
  const unsigned other = (threadIdx.x % emulator::kWarp) ^ step;
  int64_t given = 0;
  std::memcpy(&given, &value, sizeof(T));
  given =
      emulator::exchange(given, [&](const emulator::Fiber* lanes) { return lanes[other].given; });
  std::memcpy(&value, &given, sizeof(T));
  return value;
}

inline int __any_sync(unsigned /*all*/, bool value) {
  return emulator::exchange(value, [](const emulator::Fiber* lanes) {
    int any = 0;
    for (int i = 0; i < emulator::kWarp; ++i) any |= lanes[i].given != 0 ? 1 : 0;
    return any;
  });
}

inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int32_t min(int32_t a, int32_t b) { return a < b ? a : b; }
inline int32_t max(int32_t a, int32_t b) { return a > b ? a : b; }
inline double normcdf(double x) { return std::erfc(x * -0.70710678118654752440) / 2; }
inline float normcdf(float x) { return static_cast<float>(normcdf(static_cast<double>(x))); }
