// Stacks to switch between. One host thread at a time uses them (state.hpp has the lock).
#pragma once

#include "context.hpp"

namespace cuda_shim {

struct Fiber {
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  Context context{};
  void* stack;
  void* fake_stack = nullptr;  // ASan's
  void* tsan = nullptr;
};

// Runs `entry` on the fiber's stack, until it suspends or finishes. A fiber that was
// left suspended may be started anew.
void start(Fiber& fiber, void (*entry)());
void resume(Fiber& fiber);
// Back to who started or resumed the running fiber.
void suspend();
// As the last thing of an `entry`.
[[noreturn]] void finish();
Fiber* running_fiber();

}  // namespace cuda_shim
