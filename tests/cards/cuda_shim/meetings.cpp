// Where threads of a block meet: __syncthreads, and what a warp does together.
#include "block.hpp"

namespace cuda_shim {
namespace {

void hand_out(unsigned first, unsigned present) {
  std::uint64_t given[32];
  for (unsigned lane = 0; lane < 32; ++lane) given[lane] = threads[first + lane].value;
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (!(present >> lane & 1)) continue;
    Thread& thread = threads[first + lane];
    thread.at = At::ready;
    --in_meeting[first / 32];
    if (thread.kind == Meeting::shuffle) {
      if (!(present >> thread.source & 1)) {
        fail("thread " + std::to_string(first + lane) + " reads lane " +
             std::to_string(thread.source) + ", which is absent, at " +
             place(thread.site));
        stop();
      }
      thread.value = given[thread.source];
      continue;
    }
    std::uint64_t lanes = 0;
    for (unsigned other = 0; other < 32; ++other) {
      const bool counts = thread.kind == Meeting::ballot ? given[other] != 0
                                                         : given[other] == given[lane];
      if (present >> other & 1 && counts) lanes |= std::uint64_t{1} << other;
    }
    thread.value = lanes;
  }
}

// Ends the meeting that the thread waits for, if all have come.
void try_meeting(unsigned index) {
  const Thread& thread = threads[index];
  const unsigned first = index & ~31u;
  unsigned present = 0;
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (!(thread.mask >> lane & 1)) continue;
    const Thread& other = threads[first + lane];
    if (first + lane >= active.size || other.at == At::exit) continue;
    if (other.at != At::meeting || other.site.id != thread.site.id ||
        other.mask != thread.mask) {
      return;
    }
    present |= 1u << lane;
  }
  hand_out(first, present);
}

Thread& running_thread(const Site& site) {
  if (!running_fiber()) {
    complain("%s is reached outside of a kernel", place(site).c_str());
    std::abort();
  }
  return threads[threadIdx.x];
}

}  // namespace

void leave(unsigned index) {
  threads[index].at = At::exit;
  ++active.exited;
  const unsigned first = index & ~31u;
  for (unsigned lane = 0; in_meeting[first / 32] > 0 && lane < 32; ++lane) {
    if (threads[first + lane].at == At::meeting) try_meeting(first + lane);
  }
}

// A barrier takes all threads: one that exited before is an error, which shows as threads
// that wait for ever. (Since Volta CUDA lets them go; no kernel should lean on it.)
void Site::sync_block() const {
  Thread& thread = running_thread(*this);
  thread.at = At::barrier;
  thread.site = *this;
  if (++active.at_barrier == active.size) {
    for (unsigned index = 0; index < active.size; ++index) {
      if (threads[index].site.id != id) {
        fail("thread " + std::to_string(threadIdx.x) + " is in __syncthreads of " +
             place(*this) + ", thread " + std::to_string(index) + " in that of " +
             place(threads[index].site));
        stop();
      }
    }
    for (unsigned index = 0; index < active.size; ++index) threads[index].at = At::ready;
    active.at_barrier = 0;
  }
  suspend();
}

std::uint64_t Site::meet(Meeting kind, unsigned mask, std::uint64_t value,
                         unsigned source) const {
  Thread& thread = running_thread(*this);
  const unsigned index = threadIdx.x;
  if (!(mask >> lane() & 1)) {
    fail("thread " + std::to_string(index) + " is not in its own mask, at " +
         place(*this));
    stop();
  }
  thread = {At::meeting, thread.fiber, *this, kind, mask, source, value};
  ++in_meeting[index / 32];
  try_meeting(index);
  suspend();
  return thread.value;
}

}  // namespace cuda_shim
