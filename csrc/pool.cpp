#include "pool.hpp"

#include <atomic>
#include <cfenv>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "error.hpp"

namespace tvmerge {
namespace {

constexpr std::chrono::milliseconds kProgressInterval{100};

class AtomicMeter final : public Meter {
 public:
  void add(std::uint64_t bytes) override {
    total_.fetch_add(bytes, std::memory_order_relaxed);
  }
  [[nodiscard]] std::uint64_t total() const {
    return total_.load(std::memory_order_relaxed);
  }

 private:
  std::atomic<std::uint64_t> total_{0};
};

struct Shared {
  std::atomic<std::uint64_t> next{0};
  std::atomic<bool> stop{false};
  AtomicMeter meter;
  std::mutex mutex;
  std::condition_variable changed;
  unsigned running = 0;
  std::exception_ptr failure;

  void fail(std::exception_ptr error) {
    stop = true;
    const std::lock_guard<std::mutex> lock(mutex);
    if (!failure) failure = std::move(error);
  }
};

}  // namespace

void run_units(std::uint64_t units, unsigned threads,
               const std::function<void(std::uint64_t, unsigned, Meter&)>& work,
               const std::function<void(std::uint64_t)>& progress) {
  Shared shared;
  shared.running = threads;
  const auto body = [&](unsigned thread) {
    // Inherited from the caller, in whose process some library may flush subnormals to 0.
    std::fesetenv(FE_DFL_ENV);
    try {
      while (!shared.stop) {
        const std::uint64_t unit = shared.next.fetch_add(1);
        if (unit >= units) break;
        work(unit, thread, shared.meter);
      }
    } catch (...) {
      shared.fail(std::current_exception());
    }
    const std::lock_guard<std::mutex> lock(shared.mutex);
    --shared.running;
    shared.changed.notify_all();
  };

  std::vector<std::thread> pool;
  pool.reserve(threads);
  try {
    while (pool.size() < threads) {
      pool.emplace_back(body, static_cast<unsigned>(pool.size()));
    }
  } catch (const std::system_error& error) {
    if (pool.empty()) {
      throw Error(ErrorKind::memory,
                  std::string("cannot start a thread: ") + error.what());
    }
    // The system gives no more threads: those that run do the work.
    const std::lock_guard<std::mutex> lock(shared.mutex);
    shared.running = shared.running + static_cast<unsigned>(pool.size()) - threads;
  }

  for (bool finished = false; !finished;) {
    {
      std::unique_lock<std::mutex> lock(shared.mutex);
      finished = shared.changed.wait_for(lock, kProgressInterval,
                                         [&] { return shared.running == 0; });
    }
    if (!progress || shared.stop) continue;
    try {
      progress(shared.meter.total());
    } catch (...) {
      shared.fail(std::current_exception());
    }
  }
  for (std::thread& thread : pool) thread.join();
  if (shared.failure) std::rethrow_exception(shared.failure);
}

}  // namespace tvmerge
