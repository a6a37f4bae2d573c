#include "fibers.hpp"

#include <sys/mman.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif

#ifdef __x86_64__
asm(R"(
    .text
    .globl tvmerge_shim_switch
    .type tvmerge_shim_switch, @function
tvmerge_shim_switch:
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
    .size tvmerge_shim_switch, . - tvmerge_shim_switch
)");
#endif

namespace cuda_shim {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !__OPTIMIZE__
constexpr std::size_t kStack = 256 << 10;  // their frames are larger
#else
constexpr std::size_t kStack = 64 << 10;
#endif
constexpr std::size_t kGuard = 4096;  // an overflow faults

Fiber* running = nullptr;
Context home;
[[maybe_unused]] void* home_tsan = nullptr;
[[maybe_unused]] const void* home_stack = nullptr;
[[maybe_unused]] std::size_t home_size = 0;
void (*entry_of_start)() = nullptr;

// Inlined, for TSan keeps a stack of calls per fiber: none may return on another.

__attribute__((always_inline)) inline void leaving_home(
    [[maybe_unused]] Fiber& to, [[maybe_unused]] void** fake_stack) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(fake_stack, to.stack, kStack);
#endif
#ifdef __SANITIZE_THREAD__
  home_tsan = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(to.tsan, 0);
#endif
}
__attribute__((always_inline)) inline void at_home([[maybe_unused]] void* fake_stack) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
}
__attribute__((always_inline)) inline void leaving_fiber(
    [[maybe_unused]] void** fake_stack) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(fake_stack, home_stack, home_size);
#endif
#ifdef __SANITIZE_THREAD__
  __tsan_switch_to_fiber(home_tsan, 0);
#endif
}
__attribute__((always_inline)) inline void in_fiber([[maybe_unused]] void* fake_stack) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(fake_stack, &home_stack, &home_size);
#endif
}

void first_frame() {
  in_fiber(nullptr);
  entry_of_start();
}

}  // namespace

Fiber::Fiber() {
  void* const memory = mmap(nullptr, kGuard + kStack, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, kGuard, PROT_NONE) != 0) {
    std::perror("cuda_shim: a fiber's stack");
    std::abort();
  }
  stack = static_cast<char*>(memory) + kGuard;
#ifdef __SANITIZE_THREAD__
  tsan = __tsan_create_fiber(0);
#endif
}
Fiber::~Fiber() {
#ifdef __SANITIZE_THREAD__
  __tsan_destroy_fiber(tsan);
#endif
  munmap(static_cast<char*>(stack) - kGuard, kGuard + kStack);
}

void start(Fiber& fiber, void (*entry)()) {
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(fiber.stack, kStack);  // of frames that were left there
#endif
  entry_of_start = entry;
  prepare(fiber.context, fiber.stack, kStack, first_frame);
  resume(fiber);
}

void resume(Fiber& fiber) {
  running = &fiber;
  void* fake_stack = nullptr;
  leaving_home(fiber, &fake_stack);
  switch_to(home, fiber.context);
  at_home(fake_stack);
  running = nullptr;
}

void suspend() {
  Fiber& fiber = *running;
  leaving_fiber(&fiber.fake_stack);
  switch_to(fiber.context, home);
  in_fiber(fiber.fake_stack);
}

void finish() {
  leaving_fiber(nullptr);
  switch_to(running->context, home);
  std::abort();
}

Fiber* running_fiber() { return running; }

}  // namespace cuda_shim
