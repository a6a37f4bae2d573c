// Runs a kernel: its blocks one after the other, the threads of a block in turn, each
// until it meets others or exits. A fiber goes on with the next thread that has not
// started, so that a kernel which never synchronises needs one fiber and no switches.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "block.hpp"
#include "launch.hpp"

uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_shim {

Block active;
Thread threads[kMaxBlock];
unsigned in_meeting[kMaxBlock / 32];

namespace {

enum class Order { ascending, descending, random };
Order order_of_settings() {
  const char* const text = std::getenv("TVMERGE_SHIM_ORDER");
  const std::string order = text ? text : "";
  if (order.empty() || order == "ascending") return Order::ascending;
  if (order == "descending") return Order::descending;
  if (order != "random") complain("TVMERGE_SHIM_ORDER=%s is no order", order.c_str());
  return Order::random;
}

void run_threads() {
  while (active.started < active.size) {
    const unsigned index = active.order[active.started++];
    threads[index].fiber = running_fiber();
    threadIdx.x = index;
    (*active.run)();
    leave(index);
  }
  finish();
}

Fiber& take_fiber() {
  static auto& pool = *new std::vector<std::unique_ptr<Fiber>>;
  if (active.fibers == pool.size()) pool.push_back(std::make_unique<Fiber>());
  return *pool[active.fibers++];
}

void complain_of_deadlock() {
  std::vector<std::string> seen;
  for (unsigned index = 0; index < active.size; ++index) {
    const Thread& one = threads[index];
    std::string what = one.at == At::exit ? " has exited"
                       : one.at == At::barrier
                           ? " waits in __syncthreads of " + place(one.site)
                           : " waits for its warp in " + place(one.site);
    bool is_new = seen.size() < 4;
    for (const std::string& other : seen) is_new = is_new && what != other;
    if (!is_new) continue;
    complain("%s, block %u: thread %u%s", active.name, blockIdx.x, index, what.c_str());
    seen.push_back(std::move(what));
  }
}

void shuffle_order() {
  for (unsigned left = active.size; left > 1; --left) {
    std::swap(active.order[left - 1], active.order[draw(left)]);
  }
}

// At random some warps rest while others can go on: these are then far ahead, as no order
// of threads alone makes them.
std::uint64_t slow_warps = 0;
bool is_slow(unsigned index) { return (slow_warps >> index / 32 & 1) != 0; }
bool fast_one_is_ready() {
  for (unsigned index = 0; index < active.size; ++index) {
    if (threads[index].at == At::ready && !is_slow(index)) return true;
  }
  return false;
}

bool run_block(Order order) {
  active.started = active.exited = active.at_barrier = 0;
  active.fibers = 0;
  for (Shared& one : active.shared) one.poisoned = false;
  for (unsigned index = 0; index < active.size; ++index) threads[index].at = At::ready;
  std::memset(in_meeting, 0, sizeof in_meeting);
  if (order == Order::random) shuffle_order();
  slow_warps = order == Order::random ? draw(std::uint64_t{1} << 32) : 0;
  active.poison = order == Order::random && draw(2) != 0 ? 0 : kPoison;
  while (active.started < active.size && !active.failed) start(take_fiber(), run_threads);
  while (active.exited < active.size && !active.failed) {
    if (order == Order::random) shuffle_order();
    bool stuck = true;
    const bool fast = slow_warps != 0 && fast_one_is_ready();
    for (const unsigned index : active.order) {
      if (threads[index].at != At::ready || (fast && is_slow(index))) continue;
      stuck = false;
      threadIdx.x = index;
      resume(*threads[index].fiber);
      if (active.failed) break;
    }
    if (!stuck) continue;
    complain_of_deadlock();
    active.failed = true;
  }
  return !active.failed;
}

}  // namespace

std::string place(const Site& site) {
  return std::string(site.file) + ":" + std::to_string(site.line);
}

void fail(const std::string& what) {
  complain("%s, block %u: %s", active.name, blockIdx.x, what.c_str());
  active.failed = true;
}
void stop() {
  suspend();
  std::abort();
}

bool run_kernel(const char* name, const std::function<void()>& thread, unsigned grid,
                unsigned size) {
  const Order order = order_of_settings();
  active = {};
  active.name = name;
  active.run = &thread;
  active.size = size;
  active.order.resize(size);
  std::iota(active.order.begin(), active.order.end(), 0u);
  if (order == Order::descending) std::reverse(active.order.begin(), active.order.end());
  blockDim = {size, 1, 1};
  gridDim = {grid, 1, 1};
  // At random: a step that has no factor in common with the grid visits every active.
  std::uint64_t step = order == Order::random ? 1 + draw(grid) : 1;
  while (std::gcd(step, std::uint64_t{grid}) != 1) ++step;
  std::uint64_t at = order == Order::random ? draw(grid) : 0;
  for (unsigned index = 0; index < grid; ++index, at = (at + step) % grid) {
    const auto number = static_cast<unsigned>(at);
    blockIdx = {order == Order::descending ? grid - 1 - number : number, 0, 0};
    if (!run_block(order)) return false;
  }
  return true;
}

void* shared_memory(const void* key, std::size_t size, std::size_t alignment) {
  std::size_t sum = size;
  Shared* found = nullptr;
  for (Shared& one : active.shared) {
    if (one.key == key) found = &one;
    sum += one.size;
  }
  if (!found) {
    if (sum > kSharedMemory) {
      fail("more than 48 KiB of shared memory");
      stop();
    }
    // A multiple of the alignment, but not of its double; the end is the allocation's.
    void* memory = nullptr;
    if (posix_memalign(&memory, 2 * std::max<std::size_t>(alignment, 8),
                       alignment + size) != 0)
      std::abort();
    active.shared.push_back({key, std::shared_ptr<void>(memory, std::free),
                             static_cast<char*>(memory) + alignment, size, false});
    found = &active.shared.back();
  }
  if (!found->poisoned) std::memset(found->begin, active.poison, size);
  found->poisoned = true;
  return found->begin;
}

}  // namespace cuda_shim
