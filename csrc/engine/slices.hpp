// Cuts jobs into slices that fit a thread's memory.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "core/error.hpp"
#include "engine/engine.hpp"
#include "kernels/kernels.hpp"

namespace tvmerge {

// A slice is this many elements times a power of two: whole tiles of the kernels, whole
// stripes of the digest, and whole branches of the tree that sums the edits.
constexpr std::uint64_t kSliceGrain = kTileElements;
// Every slice begins at a multiple of this in its buffer, whatever the one before it
// holds.
constexpr std::uint64_t kAlignmentBytes = 64;
constexpr std::uint64_t kSmallestSliceBytes = std::uint64_t{64} * 1024;

inline std::uint64_t aligned(std::uint64_t bytes) {
  return (bytes + kAlignmentBytes - 1) / kAlignmentBytes * kAlignmentBytes;
}

// What `count` elements of every source take in a buffer.
inline std::uint64_t slice_bytes(const std::vector<Source>& sources,
                                 std::uint64_t count) {
  std::uint64_t bytes = 0;
  for (const Source& source : sources) bytes += aligned(size_of(source.dtype) * count);
  return bytes;
}

// How many threads can run, and what each gets, within options.buffer_bytes.
struct Workspace {
  unsigned threads;
  std::uint64_t bytes;

  Workspace(const Options& options, std::uint64_t needed_bytes) {
    const std::uint64_t smallest = std::max(needed_bytes, std::uint64_t{1});
    threads = std::max(1u, options.threads);
    threads = static_cast<unsigned>(std::min<std::uint64_t>(
        threads, std::max<std::uint64_t>(1, options.buffer_bytes / smallest)));
    bytes = std::min(options.slice_bytes, options.buffer_bytes / threads);
    bytes = std::max(bytes, smallest);
    if (bytes * threads > options.buffer_bytes) {
      throw Error(ErrorKind::memory,
                  "the memory limit leaves " + std::to_string(options.buffer_bytes) +
                      " bytes for buffers; this merge needs at least " +
                      std::to_string(smallest) + ": raise the limit");
    }
  }
};

using Buffer = std::unique_ptr<unsigned char[]>;

// A thread's own, made by itself and uninitialised: memory for threads that do not come
// to run is never asked for. Null where there is none.
inline Buffer make_buffer(std::uint64_t bytes) {
  return Buffer(new (std::nothrow) unsigned char[bytes]);
}

// The jobs cut into slices and numbered through, without a list as long as the model.
class SliceTable {
 public:
  void add(std::uint64_t length, std::uint64_t slice_length) {
    lengths_.push_back(length);
    slice_lengths_.push_back(slice_length);
    first_.push_back(first_.back() + (length + slice_length - 1) / slice_length);
  }
  [[nodiscard]] std::uint64_t count() const { return first_.back(); }

  struct Slice {
    std::size_t job;
    std::uint64_t number;  // within its job
    std::uint64_t start;
    std::uint64_t length;
  };
  [[nodiscard]] Slice at(std::uint64_t unit) const {
    const auto after = std::upper_bound(first_.begin(), first_.end(), unit);
    const auto job = static_cast<std::size_t>(after - first_.begin()) - 1;
    const std::uint64_t number = unit - first_[job];
    const std::uint64_t start = number * slice_lengths_[job];
    return {job, number, start, std::min(slice_lengths_[job], lengths_[job] - start)};
  }

 private:
  std::vector<std::uint64_t> lengths_, slice_lengths_, first_{0};
};

}  // namespace tvmerge
