#include "files/mapping.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <exception>

#include "core/error.hpp"

namespace tvmerge {
namespace {

#ifdef MADV_POPULATE_READ
constexpr int kPopulate = MADV_POPULATE_READ;
#else
constexpr int kPopulate = 22;  // Linux 5.14
#endif

// Less is read in less time than it takes to find out where it lies.
constexpr std::uint64_t kLeastBytes = std::uint64_t{16} * 1024;
constexpr std::uint64_t kAlignmentBytes = 8;  // the widest dtype's
// Measured (docs/results.md): 4 KiB of large folios are mapped in 10 to 60 ns, of smaller
// ones in 150 to 400. To copy them takes 400, of which 270 remain if they are mapped, for
// then the arithmetic waits for memory.
constexpr std::uint64_t kTrialBytes = std::uint64_t{1024} * 1024;
constexpr std::chrono::nanoseconds kTrialTime{256 * 100};
// Threads that wait for the disk, at most: sixteen took more of the processor, and no
// less time, on a disk in the machine. What a disk far away wants has not been measured.
constexpr std::size_t kFetchers = 4;
// So many windows are read without a trial after one that was slow.
constexpr std::int64_t kPatience = 4;

std::uint64_t page_of(std::uint64_t offset_bytes) {
  const auto page = static_cast<std::uint64_t>(::getpagesize());
  return offset_bytes / page * page;
}

// Whether this kernel populates mappings and can tell what it has cached.
bool kernel_can() {
  static const bool can =
      ::madvise(nullptr, 0, kPopulate) == 0 && File::tells_what_is_cached();
  return can;
}

}  // namespace

bool MappedWindows::fetch(Mapping& mapping, std::uint64_t window) {
  const std::lock_guard<std::mutex> lock(mutex_);
  wanted_.emplace_back(&mapping, window);
  if (wanted_.size() > idle_ && threads_.size() < kFetchers) {
    try {
      threads_.emplace_back([this] { work(); });
    } catch (const std::exception&) {  // no thread, or no memory
      if (threads_.empty()) {
        wanted_.pop_back();
        return false;
      }
    }
  }
  most_ = most_ahead_;
  asked_.notify_one();
  return true;
}

void MappedWindows::work() {
  for (std::unique_lock<std::mutex> lock(mutex_);;) {
    ++idle_;
    asked_.wait(lock, [&] { return stopped_ || !wanted_.empty(); });
    --idle_;
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

std::vector<MappedWindows::Window> MappedWindows::admit(Mapping& mapping,
                                                        std::uint64_t window) {
  using State = Mapping::State;
  std::vector<Window> going;
  going.reserve(held_.size() + dropped_.size() + 2);
  held_.emplace_back(&mapping, window);
  const auto go = [&](const Window& one) {
    going.push_back(one);
    one.first->states_[one.second] = State::busy;
  };
  for (std::size_t left = held_.size(); held_.size() > most_ && left > 0; --left) {
    const Window one = held_.front();
    held_.pop_front();
    const State state = one.first->states_[one.second];
    if (state == State::busy) {  // its time will come
      held_.push_back(one);
    } else if (state == State::mapped) {
      dropped_.push_back(one);
      go(one);
    }
  }
  while (dropped_.size() > most_) {
    const Window one = dropped_.front();
    dropped_.pop_front();
    if (one.first->states_[one.second] == State::unknown) go(one);
  }
  return going;
}

Mapping::Mapping(const File& file, std::uint64_t begin_bytes, std::uint64_t end_bytes,
                 MappedWindows& mapped)
    : file_(file),
      end_bytes_(end_bytes),
      origin_bytes_(page_of(begin_bytes)),
      cut_(begin_bytes, end_bytes),
      mapped_(mapped) {
  if (!mapped.any() || begin_bytes + kLeastBytes > end_bytes || !kernel_can()) return;
  if (file.size_bytes() < end_bytes) return;  // reading says so
  states_ = std::make_unique<std::atomic<State>[]>(cut_.count());
  for (std::uint64_t w = 0; w < cut_.count(); ++w) states_[w] = State::unknown;
  address_ = file.map(origin_bytes_, end_bytes_ - origin_bytes_);
  if (address_ == nullptr) return;
  // What is brought from the disk comes in folios of 2 MiB, where there are such.
  ::madvise(address_, end_bytes_ - origin_bytes_, MADV_HUGEPAGE);
  bus_errors_.emplace(address_, end_bytes_ - origin_bytes_);
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
  if (!begin(window)) return true;
  if (mapped_.fetch(*this, window)) return true;
  settle(window, State::refused);
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

bool Mapping::begin(std::uint64_t window) {
  std::vector<MappedWindows::Window> going;
  {
    const std::lock_guard<std::mutex> lock(mapped_.mutex_);
    if (states_[window] != State::unknown) return false;
    going = mapped_.admit(*this, window);
    states_[window] = State::busy;
  }
  for (const auto& [mapping, one] : going) {
    mapping->drop(one);
    mapping->settle(one, State::unknown);
  }
  return true;
}

void Mapping::settle(std::uint64_t window, State state) {
  {
    const std::lock_guard<std::mutex> lock(mapped_.mutex_);
    states_[window] = state;
  }
  mapped_.done_.notify_all();
}

bool Mapping::is_mapped(std::uint64_t window, bool cached) {
  if (states_[window] == State::unknown && cached && begin(window))
    settle(window, populate_fast(window));
  State state = states_[window];
  if (state == State::busy) {
    std::unique_lock<std::mutex> lock(mapped_.mutex_);
    mapped_.done_.wait(lock, [&] { return (state = states_[window]) != State::busy; });
  }
  return state == State::mapped;
}

Mapping::State Mapping::populate_fast(std::uint64_t window) {
  if (to_skip_ > 0) {
    --to_skip_;
    return State::refused;
  }
  unsigned char* const at = memory(window);
  const std::uint64_t size = size_bytes(window);
  const std::uint64_t trial = std::min(kTrialBytes, size);
  const auto started = std::chrono::steady_clock::now();
  const bool mapped = ::madvise(at, trial, kPopulate) == 0;
  if (std::chrono::steady_clock::now() - started > kTrialTime) {
    to_skip_ = kPatience;
  } else if (mapped &&
             (trial == size || ::madvise(at + trial, size - trial, kPopulate) == 0)) {
    return State::mapped;
  }
  drop(window);
  return State::refused;
}

Mapping::State Mapping::populate(std::uint64_t window) const {
  if (::madvise(memory(window), size_bytes(window), kPopulate) == 0) return State::mapped;
  drop(window);
  file_.will_need(cut_.begin(window), cut_.size(window));
  return State::refused;
}

void Mapping::drop(std::uint64_t window) const {
  ::madvise(memory(window), size_bytes(window), MADV_DONTNEED);
}

}  // namespace tvmerge
