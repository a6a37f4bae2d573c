// Where an output goes: a file, memory that the caller owns, or nowhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>

#include "file.hpp"

namespace tvmerge {

struct Memory {
  unsigned char* data;
  std::uint64_t size_bytes;
};
// Computed and digested, and written to no place.
struct Nowhere {};
using Place = std::variant<std::string, Memory, Nowhere>;

class Sink {
 public:
  // Throws Error(storage) where a file cannot be opened.
  explicit Sink(const Place& place);

  // Where the bytes for [offset, offset + size) are to be put before `write`: their own
  // place in memory, or `scratch`. Throws Error(config) beyond the end of memory.
  [[nodiscard]] unsigned char* prepare(unsigned char* scratch, std::size_t size_bytes,
                                       std::uint64_t offset_bytes) const;
  void write(const void* data, std::size_t size_bytes, std::uint64_t offset_bytes) const;

 private:
  std::optional<File> file_;
  Memory memory_{nullptr, 0};
};

}  // namespace tvmerge
