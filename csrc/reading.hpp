// One thread's reading: the input files, its buffer, and what it keeps count of.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "digest.hpp"
#include "file.hpp"
#include "job.hpp"
#include "kernels.hpp"
#include "pool.hpp"
#include "slices.hpp"

namespace tvmerge {

inline std::vector<File> open_inputs(const std::vector<std::string>& paths) {
  std::vector<File> files;
  files.reserve(paths.size());
  for (const std::string& path : paths) files.push_back(File::open_for_reading(path));
  return files;
}

class Reader {
 public:
  // `digests`, one per input, take what is read from ranges that ask for it.
  Reader(const std::vector<File>& inputs, const Kernels& kernels, unsigned char* buffer,
         std::vector<DigestLanes>& digests, Share& share)
      : inputs_(inputs),
        kernels_(kernels),
        buffer_(buffer),
        digests_(digests),
        share_(share) {}

  // Reads a range into the buffer at `at`; returns where it lies.
  unsigned char* read(std::uint32_t file, bool digested, std::uint64_t offset_bytes,
                      std::uint64_t size_bytes, std::uint64_t at) const {
    unsigned char* const to = buffer_ + at;
    inputs_[file].read(to, size_bytes, offset_bytes);
    if (digested) kernels_.digest(to, size_bytes, offset_bytes, digests_[file].data());
    share_.add_bytes(size_bytes);
    return to;
  }

  // Reads one slice of every source, one behind the other, and names them as terms
  // (without coefficients).
  void read_terms(const std::vector<Source>& sources, std::uint64_t start,
                  std::uint64_t count, std::vector<Term>& terms) const {
    terms.clear();
    std::uint64_t used = 0;
    for (const Source& source : sources) {
      const std::uint64_t size_bytes = count * size_of(source.dtype);
      const std::uint64_t offset_bytes =
          source.offset_bytes + start * size_of(source.dtype);
      terms.push_back({read(source.file, source.digested, offset_bytes, size_bytes, used),
                       source.dtype, 0});
      used += aligned(size_bytes);
    }
  }

 private:
  const std::vector<File>& inputs_;
  const Kernels& kernels_;
  unsigned char* buffer_;
  std::vector<DigestLanes>& digests_;
  Share& share_;
};

}  // namespace tvmerge
