// Runs numbered units of work on threads, in order of their start, until done or stopped.
#pragma once

#include <cstdint>
#include <functional>

namespace tvmerge {

// Given to each unit so that it can count the bytes it moved.
class Meter {
 public:
  virtual void add(std::uint64_t bytes) = 0;

 protected:
  ~Meter() = default;
};

// Calls work(unit, thread) for every unit in [0, units). The calling thread sleeps, and
// calls `progress` (may be empty) with the metered bytes; when progress or a unit throws,
// no new unit is started, and the first exception passes on once all threads have ended.
void run_units(
    std::uint64_t units, unsigned threads,
    const std::function<void(std::uint64_t unit, unsigned thread, Meter&)>& work,
    const std::function<void(std::uint64_t)>& progress);

}  // namespace tvmerge
