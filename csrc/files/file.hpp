// A file descriptor that reads and writes whole ranges or throws, and closes itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace tvmerge {

class File {
 public:
  // Whether the kernel can tell what is in the page cache (from Linux 6.5 on).
  [[nodiscard]] static bool tells_what_is_cached();

  // Throws Error(storage) where the file cannot be opened.
  [[nodiscard]] static File open_for_reading(const std::string& path);
  [[nodiscard]] static File open_for_writing(const std::string& path);
  // For reading straight from the disk; none where that cannot be.
  [[nodiscard]] static std::optional<File> open_past_the_cache(const std::string& path);
  // Creates the file where there is none, and gives it `size_bytes`, its blocks reserved
  // where the file system can: a disk that is too full says so now, and later writes need
  // not look for space.
  static void allocate(const std::string& path, std::uint64_t size_bytes);

  File(File&& other) noexcept;
  File& operator=(File&&) = delete;
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File();

  // Exactly `size_bytes` at `offset_bytes`; a file that ends before that is an
  // Error(storage).
  void read(void* buffer, std::size_t size_bytes, std::uint64_t offset_bytes) const;
  void write(const void* buffer, std::size_t size_bytes,
             std::uint64_t offset_bytes) const;

  // The range in memory, as it lies in the page cache, from a page on; null where that
  // cannot be. Who asks for it unmaps it.
  [[nodiscard]] unsigned char* map(std::uint64_t offset_bytes,
                                   std::uint64_t size_bytes) const;

  // The error of a read that finds nothing there.
  [[noreturn]] void fail_as_too_short(std::uint64_t offset_bytes,
                                      std::uint64_t size_bytes) const;

  [[nodiscard]] int descriptor() const { return descriptor_; }
  [[nodiscard]] std::uint64_t size_bytes() const;
  [[nodiscard]] const std::string& path() const { return path_; }
  // What the file system places as one: only whole blocks can be shared.
  [[nodiscard]] std::uint64_t block_bytes() const;
  // Makes a range of this file share the blocks of one of `source`, of the same size;
  // false where that cannot be: other file systems, no reflinks, blocks that lie
  // otherwise.
  [[nodiscard]] bool clone(const File& source, std::uint64_t source_offset_bytes,
                           std::uint64_t size_bytes, std::uint64_t offset_bytes) const;

  // Whether all of the range is in the page cache; false where the kernel cannot tell.
  [[nodiscard]] bool is_cached(std::uint64_t offset_bytes,
                               std::uint64_t size_bytes) const;
  // Advice to the kernel, which may do nothing: read what is asked for and no more; read
  // the range soon; drop it from the page cache; begin to write it to the disk.
  void read_nothing_ahead() const;
  void will_need(std::uint64_t offset_bytes, std::uint64_t size_bytes) const;
  void wont_need(std::uint64_t offset_bytes, std::uint64_t size_bytes) const;
  void begin_write_back(std::uint64_t offset_bytes, std::uint64_t size_bytes) const;

 private:
  File(int descriptor, std::string path)
      : descriptor_(descriptor), path_(std::move(path)) {}

  [[nodiscard]] bool reserves_well() const;

  int descriptor_;
  std::string path_;
};

// Lifts the process's soft limit on open files so that `count` more fit, as far as the
// hard limit allows: a sharded model and ten fine-tunes of it can be a thousand files.
void reserve_descriptors(std::size_t count);
// Whether nothing limits how much a process may map.
[[nodiscard]] bool has_address_space();

}  // namespace tvmerge
