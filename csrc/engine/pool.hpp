// Runs numbered units of work on threads, in order of their start, until done or stopped.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

namespace tvmerge {

// A thread's share of the work, and its way to say how much it moved.
class Share {
 public:
  // The next unit that is to be done by this thread; none when all are taken, or when the
  // run has been stopped.
  virtual std::optional<std::uint64_t> next() = 0;
  virtual void add_bytes(std::uint64_t bytes) = 0;

 protected:
  ~Share() = default;
};

// Hands the units [0, units) out in their order to threads that run `body(thread, share)`
// each. A body that cannot get its memory returns false before it takes a unit, and the
// others do the work; Error(memory) if none can. The calling thread sleeps, and calls
// `progress` (may be empty) with the bytes moved so far; when it or a body throws, no new
// unit is handed out, and the first exception passes on once all threads have ended.
void run_threads(std::uint64_t units, unsigned threads,
                 const std::function<bool(unsigned thread, Share& share)>& body,
                 const std::function<void(std::uint64_t)>& progress);

}  // namespace tvmerge
