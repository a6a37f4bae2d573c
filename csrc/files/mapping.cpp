#include "files/mapping.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <system_error>

#include "core/error.hpp"

namespace tvmerge {
namespace {

#ifdef MADV_POPULATE_READ
constexpr int kPopulate = MADV_POPULATE_READ;
#else
constexpr int kPopulate = 22;  // Linux 5.14; older ones refuse, and files are read
#endif

// Less is read in less time than it takes to find out where it lies.
constexpr std::uint64_t kLeastBytes = std::uint64_t{16} * 1024;
constexpr std::uint64_t kAlignmentBytes = 8;  // the widest dtype's
// Measured (docs/results.md): 4 KiB of 2 MiB folios are mapped in 10 to 60 ns, of smaller
// ones in 150 to 400. To copy them takes 400, of which 270 remain if they are mapped, for
// then the arithmetic waits for memory.
constexpr std::uint64_t kTrialBytes = std::uint64_t{1024} * 1024;
constexpr std::chrono::nanoseconds kTrialTime{256 * 100};
// Threads that wait for the disk: as many requests as it needs at a time.
constexpr std::size_t kFetchers = 4;
// So many windows are read without a trial after one that was slow.
constexpr std::uint64_t kPatience = 4;

std::uint64_t page_of(std::uint64_t offset_bytes) {
  const auto page = static_cast<std::uint64_t>(::getpagesize());
  return offset_bytes / page * page;
}

}  // namespace

bool MappedWindows::fetch(Mapping& mapping, std::uint64_t window) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (threads_.size() < kFetchers) {
    try {
      threads_.emplace_back([this] { work(); });
    } catch (const std::system_error&) {
      if (threads_.empty()) return false;
    }
  }
  most_ = most_ahead_;
  wanted_.emplace_back(&mapping, window);
  asked_.notify_one();
  return true;
}

void MappedWindows::work() {
  for (std::unique_lock<std::mutex> lock(mutex_);;) {
    asked_.wait(lock, [&] { return stopped_ || !wanted_.empty(); });
    if (stopped_) return;
    const auto [mapping, window] = wanted_.front();
    wanted_.pop_front();
    lock.unlock();
    mapping->settle(window, mapping->populate(window));
    lock.lock();
  }
}

void MappedWindows::stop() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopped_ = true;
  }
  asked_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

void MappedWindows::add(Mapping& mapping, std::uint64_t window) {
  std::optional<Window> first;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    held_.emplace_back(&mapping, window);
    if (held_.size() > most_) {
      first = held_.front();
      held_.pop_front();
    }
  }
  if (first) first->first->drop(first->second);
}

Mapping::Mapping(const File& file, std::uint64_t begin_bytes, std::uint64_t end_bytes,
                 MappedWindows& mapped)
    : file_(file),
      end_bytes_(end_bytes),
      origin_bytes_(page_of(begin_bytes)),
      cut_(begin_bytes, end_bytes),
      mapped_(mapped) {
  if (!mapped.any() || begin_bytes + kLeastBytes > end_bytes) return;
  if (file.size_bytes() < end_bytes) return;  // reading says so
  address_ = file.map(origin_bytes_, end_bytes_ - origin_bytes_);
  if (address_ == nullptr) return;
  // What is brought from the disk comes in folios of 2 MiB, where there are such.
  ::madvise(address_, end_bytes_ - origin_bytes_, MADV_HUGEPAGE);
  bus_errors_.emplace(address_, end_bytes_ - origin_bytes_);
  states_ = std::make_unique<std::atomic<State>[]>(cut_.count());
  for (std::uint64_t w = 0; w < cut_.count(); ++w) states_[w] = State::unknown;
}

Mapping::~Mapping() {
  if (address_ == nullptr) return;
  bus_errors_.reset();  // before somebody else's mapping can take the place
  ::munmap(address_, end_bytes_ - origin_bytes_);
}

bool Mapping::suits(std::uint64_t offset_bytes, std::uint64_t size_bytes) const {
  return address_ != nullptr && size_bytes >= kLeastBytes &&
         offset_bytes % kAlignmentBytes == 0;
}

bool Mapping::fetch(std::uint64_t window) {
  if (address_ == nullptr) return false;
  State state = State::unknown;
  if (!states_[window].compare_exchange_strong(state, State::busy)) return true;
  if (mapped_.fetch(*this, window)) return true;
  settle(window, false);
  return false;
}

const unsigned char* Mapping::view(std::uint64_t offset_bytes, std::uint64_t size_bytes,
                                   bool cached) {
  const std::uint64_t last = cut_.at(offset_bytes + size_bytes - 1);
  for (std::uint64_t w = cut_.at(offset_bytes); w <= last; ++w) {
    if (!is_mapped(w, cached)) return nullptr;
  }
  return address_ + (offset_bytes - origin_bytes_);
}

void Mapping::check() const {
  if (!bus_errors_) return;
  if (!bus_errors_->happened() && file_.size_bytes() >= end_bytes_) return;
  throw Error(ErrorKind::storage, file_.path() +
                                      ": cannot read all of it: it became shorter during "
                                      "the run, or its disk failed");
}

unsigned char* Mapping::memory(std::uint64_t window) const {
  return address_ + (page_of(cut_.begin(window)) - origin_bytes_);
}

std::uint64_t Mapping::size_bytes(std::uint64_t window) const {
  return cut_.end(window) - page_of(cut_.begin(window));
}

bool Mapping::is_mapped(std::uint64_t window, bool cached) {
  State state = states_[window];
  if (state == State::unknown && cached &&
      states_[window].compare_exchange_strong(state, State::busy)) {
    settle(window, window >= next_try_ && populate_fast(window));
  }
  state = states_[window];
  if (state == State::busy) {
    std::unique_lock<std::mutex> lock(mapped_.mutex_);
    mapped_.done_.wait(lock, [&] { return (state = states_[window]) != State::busy; });
  }
  return state == State::mapped;
}

bool Mapping::populate_fast(std::uint64_t window) {
  unsigned char* const at = memory(window);
  const std::uint64_t size = size_bytes(window);
  const std::uint64_t trial = std::min(kTrialBytes, size);
  const auto started = std::chrono::steady_clock::now();
  if (::madvise(at, trial, kPopulate) != 0) return false;
  if (std::chrono::steady_clock::now() - started > kTrialTime) {
    ::madvise(at, trial, MADV_DONTNEED);
    next_try_ = window + kPatience;
    return false;
  }
  return trial == size || ::madvise(at + trial, size - trial, kPopulate) == 0;
}

bool Mapping::populate(std::uint64_t window) const {
  return ::madvise(memory(window), size_bytes(window), kPopulate) == 0;
}

void Mapping::settle(std::uint64_t window, bool mapped) {
  if (mapped) mapped_.add(*this, window);
  {
    const std::lock_guard<std::mutex> lock(mapped_.mutex_);
    states_[window] = mapped ? State::mapped : State::refused;
  }
  mapped_.done_.notify_all();
}

void Mapping::drop(std::uint64_t window) {
  states_[window] = State::unknown;
  ::madvise(memory(window), size_bytes(window), MADV_DONTNEED);
}

}  // namespace tvmerge
