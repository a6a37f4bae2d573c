// Survives a mapped file that cannot be read any more (SIGBUS): it became shorter, or its
// disk failed, after it was mapped.
#pragma once

#include <atomic>
#include <cstddef>

namespace tvmerge {

// Addresses at which, as long as this lives, a bus error is not the end of the process:
// zeros take the place of the page, and `happened` says so from then on. What was
// computed from it is wrong.
class BusErrors {
 public:
  BusErrors(void* begin, std::size_t size_bytes);
  BusErrors(const BusErrors&) = delete;
  BusErrors& operator=(const BusErrors&) = delete;
  ~BusErrors();

  [[nodiscard]] bool happened() const { return happened_; }

 private:
  friend bool cover(void* address);

  char *const begin_, *const end_;
  std::atomic<bool> happened_{false};
  BusErrors *next_ = nullptr, *previous_ = nullptr;
};

}  // namespace tvmerge
