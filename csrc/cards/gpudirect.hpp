// Files that a card reads past the processor's memory: GPUDirect Storage. NVIDIA's
// library for it, libcufile, is looked for at run time by those who ask for it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "files/file.hpp"

namespace tvmerge {

struct CuFile;  // what is called of the library

// The library, loaded and started once for the process and never ended (it does that
// itself). It is not to read by way of the processor where a card cannot: we do that
// better. A card has to be open: where there is no driver, libcufile 1.20 never returns.
// Throws Error(card).
const CuFile& load_cufile(const std::string& library);

// A file that the library has taken.
class DirectFile {
 public:
  // Null where the file, or its file system, cannot be read so.
  static std::unique_ptr<DirectFile> open(const CuFile& library, const std::string& path);
  DirectFile(const DirectFile&) = delete;
  DirectFile& operator=(const DirectFile&) = delete;
  ~DirectFile();

  // Whether the range is worth it: what is in the page cache is nearer than the disk.
  [[nodiscard]] bool suits(std::uint64_t offset_bytes, std::uint64_t size_bytes) const;
  // The range to byte `at` of an allocation of the card that the calling thread has set;
  // it is there on return. Throws Error(storage) or Error(card).
  void read(unsigned char* allocation, std::uint64_t at, std::uint64_t size_bytes,
            std::uint64_t offset_bytes) const;

 private:
  DirectFile(const CuFile& library, File file, void* handle)
      : library_(library), file_(std::move(file)), handle_(handle) {}

  const CuFile& library_;
  File file_;
  void* handle_;
};

// Of some files those that have been taken, null for each of the others.
using DirectFiles = std::vector<const DirectFile*>;

}  // namespace tvmerge
