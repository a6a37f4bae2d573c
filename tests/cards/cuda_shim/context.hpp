// Switches stacks. swapcontext would do, but asks the kernel for the signal mask each
// time: on x86-64 a few instructions take a twentieth of it.
#pragma once

#include <cstddef>

#ifdef __x86_64__
extern "C" void tvmerge_shim_switch(void** from, void* to);
#else
#include <ucontext.h>
#endif

namespace cuda_shim {

#ifdef __x86_64__
using Context = void*;  // the stack pointer; the rest lies on the stack

inline void prepare(Context& context, void* stack, std::size_t size, void (*entry)()) {
  auto** const top = reinterpret_cast<void**>(static_cast<char*>(stack) + size);
  for (int slot = 1; slot <= 8; ++slot) top[-slot] = nullptr;
  top[-2] = reinterpret_cast<void*>(entry);  // is returned to
  context = top - 8;                         // six registers are popped before
}
inline void switch_to(Context& from, Context& to) { tvmerge_shim_switch(&from, to); }
#else
using Context = ucontext_t;

inline void prepare(Context& context, void* stack, std::size_t size, void (*entry)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = size;
  context.uc_link = nullptr;
  makecontext(&context, entry, 0);
}
inline void switch_to(Context& from, Context& to) { swapcontext(&from, &to); }
#endif

}  // namespace cuda_shim
