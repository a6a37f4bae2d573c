#include "sink.hpp"

#include <cstring>

#include "error.hpp"

namespace tvmerge {

Sink::Sink(const Place& place) {
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

void Sink::write(const void* data, std::size_t size_bytes,
                 std::uint64_t offset_bytes) const {
  if (file_) {
    file_->write(data, size_bytes, offset_bytes);
  } else if (memory_.data != nullptr && data != memory_.data + offset_bytes) {
    std::memcpy(memory_.data + offset_bytes, data, size_bytes);
  }
}

}  // namespace tvmerge
