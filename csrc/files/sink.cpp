#include "files/sink.hpp"

#include <algorithm>
#include <cstring>

#include "core/error.hpp"

namespace tvmerge {
namespace {

constexpr std::uint64_t kFlushBytes = std::uint64_t{16} * 1024 * 1024;

}  // namespace

Sink::Sink(const Place& place, bool drop_behind) : drop_behind_(drop_behind) {
  if (const auto* path = std::get_if<std::string>(&place)) {
    file_.emplace(File::open_for_writing(*path));
  } else if (const auto* memory = std::get_if<Memory>(&place)) {
    memory_ = *memory;
  }
}

unsigned char* Sink::prepare(unsigned char* scratch, std::size_t size_bytes,
                             std::uint64_t offset_bytes) const {
  if (memory_.data == nullptr) return scratch;
  if (offset_bytes + size_bytes > memory_.size_bytes) {
    throw Error(ErrorKind::config, "an output of " + std::to_string(memory_.size_bytes) +
                                       " bytes in memory ends before byte " +
                                       std::to_string(offset_bytes + size_bytes));
  }
  return memory_.data + offset_bytes;
}

void Sink::write(const void* data, std::size_t size_bytes, std::uint64_t offset_bytes) {
  if (file_) {
    file_->write(data, size_bytes, offset_bytes);
    if (drop_behind_) let_go(*file_, size_bytes, offset_bytes);
  } else if (memory_.data != nullptr && data != memory_.data + offset_bytes) {
    std::memcpy(memory_.data + offset_bytes, data, size_bytes);
  }
}

void Sink::let_go(const File& file, std::size_t size_bytes, std::uint64_t offset_bytes) {
  unflushed_bytes_ += size_bytes;
  if (unflushed_bytes_ < kFlushBytes) return;
  unflushed_bytes_ = 0;
  // Slices come nearly in order: all up to here has been written, or will be soon.
  const std::uint64_t end = offset_bytes + size_bytes;
  if (end <= flushing_end_) return;
  file.wont_need(flushing_begin_, flushing_end_ - flushing_begin_);
  flushing_begin_ = flushing_end_ == 0 ? offset_bytes - std::min<std::uint64_t>(
                                                            offset_bytes, kFlushBytes)
                                       : flushing_end_;
  flushing_end_ = end;
  file.begin_write_back(flushing_begin_, end - flushing_begin_);
}

unsigned char* Writer::take_slot() {
  auto free = std::find(taken_.begin(), taken_.end(), false);
  if (free == taken_.end()) {
    flush();
    free = std::find(taken_.begin(), taken_.end(), false);
  }
  *free = true;
  return slots_ + static_cast<std::size_t>(free - taken_.begin()) * slot_bytes_;
}

void Writer::write(std::uint32_t sink, const unsigned char* slot,
                   const unsigned char* data, std::size_t size_bytes,
                   std::uint64_t offset_bytes) {
  if (!sinks_[sink].is_file()) {
    sinks_[sink].write(data, size_bytes, offset_bytes);
    return give_back(slot);
  }
  waiting_.push_back({sink, slot, size_bytes, offset_bytes});
  const std::unique_lock<std::mutex> lock(sinks_[sink].writing(), std::try_to_lock);
  if (lock.owns_lock()) write_waiting(sink);
}

void Writer::flush() {
  while (!waiting_.empty()) {
    const std::uint32_t sink = waiting_.front().sink;
    const std::lock_guard<std::mutex> lock(sinks_[sink].writing());
    write_waiting(sink);
  }
}

void Writer::write_waiting(std::uint32_t sink) {
  const auto done = [&](const Waiting& one) {
    if (one.sink != sink) return false;
    sinks_[sink].write(one.slot, one.size_bytes, one.offset_bytes);
    give_back(one.slot);
    return true;
  };
  waiting_.erase(std::remove_if(waiting_.begin(), waiting_.end(), done), waiting_.end());
}

void Writer::give_back(const unsigned char* slot) {
  taken_[static_cast<std::size_t>(slot - slots_) / slot_bytes_] = false;
}

}  // namespace tvmerge
