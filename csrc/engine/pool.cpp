#include "engine/pool.hpp"

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

#include "core/error.hpp"

namespace tvmerge {
namespace {

constexpr std::chrono::milliseconds kProgressInterval{100};

class Shared final : public Share {
 public:
  explicit Shared(std::uint64_t units, unsigned threads)
      : running(threads), units_(units) {}

  std::optional<std::uint64_t> next() override {
    if (stopped()) return std::nullopt;
    const std::uint64_t unit = next_.fetch_add(1);
    return unit < units_ ? std::optional(unit) : std::nullopt;
  }
  void add_bytes(std::uint64_t bytes) override {
    bytes_.fetch_add(bytes, std::memory_order_relaxed);
  }
  [[nodiscard]] std::uint64_t bytes() const {
    return bytes_.load(std::memory_order_relaxed);
  }
  [[nodiscard]] bool stopped() const { return stop_; }
  void fail(std::exception_ptr error) {
    stop_ = true;
    const std::lock_guard<std::mutex> lock(mutex);
    if (!failure) failure = std::move(error);
  }

  std::mutex mutex;
  std::condition_variable changed;
  unsigned running;
  std::exception_ptr failure;
  std::atomic<bool> worked{false};

 private:
  const std::uint64_t units_;
  std::atomic<std::uint64_t> next_{0}, bytes_{0};
  std::atomic<bool> stop_{false};
};

}  // namespace

void run_threads(std::uint64_t units, unsigned threads,
                 const std::function<bool(unsigned, Share&)>& body,
                 const std::function<void(std::uint64_t)>& progress) {
  Shared shared(units, threads);
  const auto run = [&](unsigned thread) {
    // Inherited from the caller, in whose process some library may flush subnormals to 0.
    std::fesetenv(FE_DFL_ENV);
    try {
      if (body(thread, shared)) shared.worked = true;
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
      pool.emplace_back(run, static_cast<unsigned>(pool.size()));
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
    if (!progress || shared.stopped()) continue;
    try {
      progress(shared.bytes());
    } catch (...) {
      shared.fail(std::current_exception());
    }
  }
  for (std::thread& thread : pool) thread.join();
  if (shared.failure) std::rethrow_exception(shared.failure);
  if (!shared.worked) {
    throw Error(ErrorKind::memory, "no thread can get its buffer: free some memory");
  }
}

}  // namespace tvmerge
