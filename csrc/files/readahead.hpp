// Reads ahead of the threads, and lets go of what they have read.
//
// A file is seen in windows. Before a window is needed the kernel is asked to read it,
// unless it lies in the page cache already; when all of it has been read, and it was not
// in the cache before, it may be dropped again: somebody else's pages stay.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "files/file.hpp"
#include "files/mapping.hpp"
#include "files/window.hpp"

namespace tvmerge {

class ReadAhead {
 public:
  // Of `file`, [begin, end) will be read or viewed in `mapping`, which is of the same
  // range; both outlive this. With `drops`, windows that were not in the cache before are
  // not mapped, and leave it again once they are read.
  ReadAhead(const File& file, Mapping& mapping, std::uint64_t begin_bytes,
            std::uint64_t end_bytes, bool drops);

  // The caller is about to read [offset, offset + size), or to view it.
  void before(std::uint64_t offset_bytes, std::uint64_t size_bytes, bool view);
  // Whether all of it was in the page cache before anybody here asked for it; `before`
  // has been called.
  [[nodiscard]] bool was_cached(std::uint64_t offset_bytes,
                                std::uint64_t size_bytes) const;
  // It has been read.
  void after(std::uint64_t offset_bytes, std::uint64_t size_bytes);

 private:
  // What is known of a window, and how much of it is still to be read.
  enum class State : std::uint8_t { unknown, asking, cached, ours };
  struct Window {
    std::atomic<State> state{State::unknown};
    std::atomic<std::uint64_t> unread_bytes{0};
  };

  void request(std::uint64_t window, bool view);

  const File& file_;
  Mapping& mapping_;
  const Windows cut_;
  const bool drops_;
  std::unique_ptr<Window[]> windows_;
};

}  // namespace tvmerge
