#include "files/readahead.hpp"

#include <algorithm>

namespace tvmerge {
namespace {

// The two ends of a window stand for it: to look at every page costs a tenth of the read.
constexpr std::uint64_t kProbeBytes = 4096;

}  // namespace

ReadAhead::ReadAhead(const File& file, Mapping& mapping, std::uint64_t begin_bytes,
                     std::uint64_t end_bytes, bool drops)
    : file_(file),
      mapping_(mapping),
      cut_(begin_bytes, end_bytes),
      drops_(drops),
      windows_(new Window[cut_.count()]) {
  for (std::uint64_t w = 0; w < cut_.count(); ++w)
    windows_[w].unread_bytes = cut_.size(w);
}

void ReadAhead::before(std::uint64_t offset_bytes, std::uint64_t size_bytes, bool view) {
  const std::uint64_t stop = cut_.at(offset_bytes + size_bytes) + kWindowsAhead;
  for (std::uint64_t w = cut_.at(offset_bytes); w < std::min(stop, cut_.count()); ++w) {
    State state = State::unknown;
    if (windows_[w].state == state &&
        windows_[w].state.compare_exchange_strong(state, State::asking)) {
      request(w, view);
    }
  }
}

void ReadAhead::request(std::uint64_t window, bool view) {
  const std::uint64_t begin = cut_.begin(window), size = cut_.size(window);
  const std::uint64_t probe = std::min(kProbeBytes, size);
  if (file_.is_cached(begin, probe) && file_.is_cached(begin + size - probe, probe)) {
    windows_[window].state = State::cached;
    return;
  }
  windows_[window].state = State::ours;
  if (!view || drops_ || !mapping_.fetch(window)) file_.will_need(begin, size);
}

bool ReadAhead::was_cached(std::uint64_t offset_bytes, std::uint64_t size_bytes) const {
  const std::uint64_t stop = offset_bytes + std::max(size_bytes, std::uint64_t{1});
  for (std::uint64_t w = cut_.at(offset_bytes); w <= cut_.at(stop - 1); ++w) {
    if (windows_[w].state != State::cached) return false;
  }
  return true;
}

void ReadAhead::after(std::uint64_t offset_bytes, std::uint64_t size_bytes) {
  if (!drops_ || size_bytes == 0) return;
  const std::uint64_t stop = offset_bytes + size_bytes;
  for (std::uint64_t w = cut_.at(offset_bytes); w <= cut_.at(stop - 1); ++w) {
    const std::uint64_t read =
        std::min(stop, cut_.end(w)) - std::max(offset_bytes, cut_.begin(w));
    Window& window = windows_[w];
    // What is read twice, or never, leaves its window where it is.
    if (window.unread_bytes.fetch_sub(read) == read && window.state == State::ours) {
      file_.wont_need(cut_.begin(w), cut_.size(w));
    }
  }
}

}  // namespace tvmerge
