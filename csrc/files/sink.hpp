// Where an output goes: a file, memory that the caller owns, or nowhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "files/file.hpp"

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
  // With `drop_behind` a file's bytes go to the disk soon and leave the page cache.
  Sink(const Place& place, bool drop_behind);

  // Where the bytes for [offset, offset + size) are to be put before `write`: their own
  // place in memory, or `scratch`. Throws Error(config) beyond the end of memory.
  [[nodiscard]] unsigned char* prepare(unsigned char* scratch, std::size_t size_bytes,
                                       std::uint64_t offset_bytes) const;
  [[nodiscard]] bool is_file() const { return file_.has_value(); }
  // Null where the output is none.
  [[nodiscard]] const File* file() const { return file_ ? &*file_ : nullptr; }

  // Held while writing to a file. The kernel lets one thread write to a file at a time,
  // and has the others spin: whoever finds this taken can read on instead.
  [[nodiscard]] std::mutex& writing() { return writing_; }
  // The caller holds `writing` if this is a file.
  void write(const void* data, std::size_t size_bytes, std::uint64_t offset_bytes);

 private:
  void let_go(const File& file, std::size_t size_bytes, std::uint64_t offset_bytes);

  std::optional<File> file_;
  Memory memory_{nullptr, 0};
  bool drop_behind_;
  std::uint64_t unflushed_bytes_ = 0;
  // What is on its way to the disk, and may be dropped when it has arrived.
  std::uint64_t flushing_begin_ = 0, flushing_end_ = 0;
  std::mutex writing_;
};

// One thread's writes. They are large, since the kernel takes a file's bytes cheaper that
// way (docs/results.md), and what finds its file busy waits for the next chance.
class Writer {
 public:
  // `slots` is room for `slot_count` writes of up to `slot_bytes`.
  Writer(std::deque<Sink>& sinks, unsigned char* slots, std::size_t slot_bytes,
         std::size_t slot_count)
      : sinks_(sinks), slots_(slots), slot_bytes_(slot_bytes), taken_(slot_count) {}

  // How many writes may wait beside those that are being made.
  static constexpr std::size_t kWaiting = 3;

  // Takes a slot for the next write; writes what waits if none is free.
  unsigned char* take_slot();
  // Writes `data`, which lies in `slot` unless the sink had a place of its own, now or
  // later, and gives the slot back.
  void write(std::uint32_t sink, const unsigned char* slot, const unsigned char* data,
             std::size_t size_bytes, std::uint64_t offset_bytes);
  // Writes all that waits.
  void flush();

 private:
  struct Waiting {
    std::uint32_t sink;
    const unsigned char* slot;
    std::size_t size_bytes;
    std::uint64_t offset_bytes;
  };

  // Writes all that waits for the file; the caller holds its mutex.
  void write_waiting(std::uint32_t sink);
  void give_back(const unsigned char* slot);

  std::deque<Sink>& sinks_;
  unsigned char* slots_;
  std::size_t slot_bytes_;
  std::vector<bool> taken_;
  std::vector<Waiting> waiting_;
};

}  // namespace tvmerge
