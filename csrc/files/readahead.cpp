#include "files/readahead.hpp"

#include <algorithm>

namespace tvmerge {
namespace {

// Measured on a disk of 3 GB/s (docs/results.md): enough requests in flight for it, and
// little enough memory with ten inputs.
constexpr std::uint64_t kWindowBytes = std::uint64_t{4} * 1024 * 1024;
constexpr std::uint64_t kWindowsAhead = 4;
// The two ends of a window stand for it: to look at every page costs a tenth of the read.
constexpr std::uint64_t kProbeBytes = 4096;

}  // namespace

ReadAhead::ReadAhead(const File& file, std::uint64_t begin_bytes, std::uint64_t end_bytes,
                     bool drops)
    : file_(file),
      begin_bytes_(begin_bytes),
      end_bytes_(end_bytes),
      count_((end_bytes - begin_bytes + kWindowBytes - 1) / kWindowBytes),
      drops_(drops),
      windows_(new Window[count_]) {
  for (std::uint64_t w = 0; w < count_; ++w) windows_[w].unread_bytes = size_bytes(w);
}

void ReadAhead::before(std::uint64_t offset_bytes, std::uint64_t size_bytes) {
  const std::uint64_t start = offset_bytes - begin_bytes_;
  const std::uint64_t stop = (start + size_bytes) / kWindowBytes + kWindowsAhead;
  for (std::uint64_t w = start / kWindowBytes; w < std::min(stop, count_); ++w) {
    if (!windows_[w].requested.exchange(true, std::memory_order_relaxed)) request(w);
  }
}

void ReadAhead::request(std::uint64_t window) {
  const std::uint64_t begin = begin_bytes_ + window * kWindowBytes;
  const std::uint64_t size = size_bytes(window);
  const std::uint64_t probe = std::min(kProbeBytes, size);
  if (file_.is_cached(begin, probe) && file_.is_cached(begin + size - probe, probe)) {
    return;
  }
  windows_[window].ours = true;
  file_.will_need(begin, size);
}

void ReadAhead::after(std::uint64_t offset_bytes, std::uint64_t size_bytes) {
  if (!drops_ || size_bytes == 0) return;
  const std::uint64_t start = offset_bytes - begin_bytes_;
  const std::uint64_t stop = start + size_bytes;
  for (std::uint64_t w = start / kWindowBytes; w <= (stop - 1) / kWindowBytes; ++w) {
    const std::uint64_t begin = w * kWindowBytes;
    const std::uint64_t read =
        std::min(stop, begin + kWindowBytes) - std::max(start, begin);
    Window& window = windows_[w];
    // What is read twice, or never, leaves its window where it is.
    if (window.unread_bytes.fetch_sub(read) == read && window.ours) {
      file_.wont_need(begin_bytes_ + begin, this->size_bytes(w));
    }
  }
}

std::uint64_t ReadAhead::size_bytes(std::uint64_t window) const {
  return std::min(kWindowBytes, end_bytes_ - begin_bytes_ - window * kWindowBytes);
}

}  // namespace tvmerge
