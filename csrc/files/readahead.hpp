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

namespace tvmerge {

class ReadAhead {
 public:
  // Of `file`, which outlives this, [begin, end) will be read. With `drops`, windows that
  // were not in the cache before leave it again once they are read.
  ReadAhead(const File& file, std::uint64_t begin_bytes, std::uint64_t end_bytes,
            bool drops);

  // The caller is about to read [offset, offset + size).
  void before(std::uint64_t offset_bytes, std::uint64_t size_bytes);
  // It has.
  void after(std::uint64_t offset_bytes, std::uint64_t size_bytes);

 private:
  // What is known of a window, and how much of it is still to be read.
  struct Window {
    std::atomic<bool> requested{false};
    std::atomic<bool> ours{false};
    std::atomic<std::uint64_t> unread_bytes{0};
  };

  void request(std::uint64_t window);
  [[nodiscard]] std::uint64_t size_bytes(std::uint64_t window) const;

  const File& file_;
  const std::uint64_t begin_bytes_, end_bytes_;
  const std::uint64_t count_;
  const bool drops_;
  std::unique_ptr<Window[]> windows_;
};

}  // namespace tvmerge
