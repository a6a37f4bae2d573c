// The block that runs, for the files that make it up.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "fibers.hpp"
#include "site.hpp"
#include "streams.hpp"

namespace cuda_shim {

enum class At : std::uint8_t { ready, barrier, meeting, exit };

struct Thread {
  At at = At::ready;
  Fiber* fiber = nullptr;
  Site site{};
  Meeting kind{};
  unsigned mask = 0, source = 0;
  std::uint64_t value = 0;  // given, and after the meeting got
};

struct Shared {
  const void* key;
  std::shared_ptr<void> memory;
  void* begin;
  std::size_t size;
  bool poisoned;  // in this block
};

struct Block {
  const char* name = nullptr;
  const std::function<void()>* run = nullptr;
  unsigned size = 0, started = 0, exited = 0, at_barrier = 0;
  bool failed = false;
  int poison = 0;  // of shared memory: at random 0, which looks as if it were set
  std::vector<unsigned> order{};
  std::vector<Shared> shared{};
  std::size_t fibers = 0;  // taken of the pool
};

extern Block active;
extern Thread threads[kMaxBlock];
extern unsigned in_meeting[kMaxBlock / 32];  // threads that wait, per warp

std::string place(const Site& site);
// The kernel fails, and then the fiber does not go on. Two functions, for what such a
// fiber still holds is never freed.
void fail(const std::string& what);
[[noreturn]] void stop();
// meetings.cpp: the running thread has exited.
void leave(unsigned index);

}  // namespace cuda_shim
