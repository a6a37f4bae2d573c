// Input files seen where they lie in the page cache, without copying them out of it.
//
// What the cache holds in large folios (as written by several megabytes at once, or
// brought as below) is mapped in a tenth of the time that copying takes; small ones take
// about as long to map as to copy. Nobody can be asked which of the two a window is, so
// its first pages are mapped and the clock is looked at: the rest follows, or the window
// is read.
//
// What the cache does not hold yet is brought by threads that do nothing else than wait
// for the disk: into folios as large as there are, where advice leaves single pages.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "files/bus_errors.hpp"
#include "files/file.hpp"
#include "files/window.hpp"

namespace tvmerge {

class Mapping;

// The windows that are mapped or about to be, of all files of a run: at most so many, and
// more when some come from the disk before they are looked at. The one that came first
// makes room. Whoever still looks into it faults it in again, so it is dropped once more
// when as many others have gone.
class MappedWindows {
 public:
  MappedWindows(std::size_t most, std::size_t most_ahead)
      : most_(most), most_ahead_(most_ahead) {}
  MappedWindows(const MappedWindows&) = delete;
  MappedWindows& operator=(const MappedWindows&) = delete;
  ~MappedWindows() { stop(); }

  [[nodiscard]] bool any() const { return most_ > 0; }
  // No window is fetched any more: call it before a mapping ends.
  void stop();

 private:
  friend class Mapping;
  using Window = std::pair<Mapping*, std::uint64_t>;

  // Has a busy window brought from the disk by a thread that waits for it; false where
  // there can be none.
  [[nodiscard]] bool fetch(Mapping& mapping, std::uint64_t window);
  // The caller holds the mutex: counts a window, and returns those that must go.
  [[nodiscard]] std::vector<Window> admit(Mapping& mapping, std::uint64_t window);
  void work();

  std::mutex mutex_;  // of all states but for looking at them
  std::condition_variable asked_, done_;
  std::size_t most_;
  const std::size_t most_ahead_;
  std::deque<Window> held_, dropped_, wanted_;
  std::vector<std::thread> threads_;
  std::size_t idle_ = 0;
  bool stopped_ = false;
};

class Mapping {
 public:
  // Of `file`, [begin, end) will be looked at. Both arguments outlive this.
  Mapping(const File& file, std::uint64_t begin_bytes, std::uint64_t end_bytes,
          MappedWindows& mapped);
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping();

  // Whether a range is worth a view: large, and its elements aligned.
  [[nodiscard]] bool suits(std::uint64_t offset_bytes, std::uint64_t size_bytes) const;
  // Begins to bring a window into the page cache and to map it; false where it cannot.
  [[nodiscard]] bool fetch(std::uint64_t window);
  // Where a range that suits lies in memory, as long as this does; null where it is to be
  // read. What is `cached` is mapped now if that is fast; what is being fetched is waited
  // for. A view changes when the file does: who looks twice may see two things. Any
  // thread may call it.
  [[nodiscard]] const unsigned char* view(std::uint64_t offset_bytes,
                                          std::uint64_t size_bytes, bool cached);
  // Throws Error(storage) if not all that was viewed was the file's.
  void check() const;

 private:
  friend class MappedWindows;
  enum class State : std::uint8_t { unknown, busy, mapped, refused };

  // A window from its first page on.
  [[nodiscard]] unsigned char* memory(std::uint64_t window) const;
  [[nodiscard]] std::uint64_t size_bytes(std::uint64_t window) const;
  // Makes an unknown window busy; false where it is none.
  [[nodiscard]] bool begin(std::uint64_t window);
  void settle(std::uint64_t window, State state);
  [[nodiscard]] bool is_mapped(std::uint64_t window, bool cached);
  // Maps what is cached, if it is fast; what the disk has to bring, however long it
  // takes.
  [[nodiscard]] State populate_fast(std::uint64_t window);
  [[nodiscard]] State populate(std::uint64_t window) const;
  void drop(std::uint64_t window) const;

  const File& file_;
  const std::uint64_t end_bytes_;
  const std::uint64_t origin_bytes_;  // what lies at address_
  const Windows cut_;
  MappedWindows& mapped_;
  unsigned char* address_ = nullptr;
  std::unique_ptr<std::atomic<State>[]> states_;
  std::atomic<std::int64_t> to_skip_{0};
  std::optional<BusErrors> bus_errors_;
};

}  // namespace tvmerge
