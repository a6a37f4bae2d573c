// A file's range cut into windows that end at multiples of their size, wherever it
// begins.
#pragma once

#include <algorithm>
#include <cstdint>

namespace tvmerge {

// Measured on a disk of 3 GB/s (docs/results.md): enough requests in flight for it, and
// little enough memory with ten inputs.
constexpr std::uint64_t kWindowBytes = std::uint64_t{4} * 1024 * 1024;
constexpr std::uint64_t kWindowsAhead = 4;

class Windows {
 public:
  Windows(std::uint64_t begin_bytes, std::uint64_t end_bytes)
      : begin_bytes_(begin_bytes), end_bytes_(std::max(begin_bytes, end_bytes)) {}

  [[nodiscard]] std::uint64_t count() const {
    return begin_bytes_ == end_bytes_ ? 0 : at(end_bytes_ - 1) + 1;
  }
  // The window that a byte of the file lies in.
  [[nodiscard]] std::uint64_t at(std::uint64_t offset_bytes) const {
    return offset_bytes / kWindowBytes - begin_bytes_ / kWindowBytes;
  }
  // Where a window begins and ends in the file.
  [[nodiscard]] std::uint64_t begin(std::uint64_t window) const {
    return std::max(begin_bytes_, start() + window * kWindowBytes);
  }
  [[nodiscard]] std::uint64_t end(std::uint64_t window) const {
    return std::min(end_bytes_, start() + (window + 1) * kWindowBytes);
  }
  [[nodiscard]] std::uint64_t size(std::uint64_t window) const {
    return end(window) - begin(window);
  }

 private:
  [[nodiscard]] std::uint64_t start() const {
    return begin_bytes_ / kWindowBytes * kWindowBytes;
  }

  std::uint64_t begin_bytes_, end_bytes_;
};

}  // namespace tvmerge
