// One thread's reading: the input files, its buffer, and what it keeps count of.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "core/digest.hpp"
#include "engine/job.hpp"
#include "engine/pool.hpp"
#include "engine/slices.hpp"
#include "files/file.hpp"
#include "files/readahead.hpp"
#include "kernels/kernels.hpp"

namespace tvmerge {

// Which part of each input file a run reads, from its first byte to its last.
class Extents {
 public:
  explicit Extents(std::size_t files) : extents_(files, {UINT64_MAX, 0}) {}

  void add(std::uint32_t file, std::uint64_t offset_bytes, std::uint64_t size_bytes) {
    auto& [begin, end] = extents_[file];
    begin = std::min(begin, offset_bytes);
    end = std::max(end, offset_bytes + size_bytes);
  }
  void add(const std::vector<Source>& sources, std::uint64_t elements) {
    for (const Source& source : sources)
      add(source.file, source.offset_bytes, elements * size_of(source.dtype));
  }
  [[nodiscard]] std::pair<std::uint64_t, std::uint64_t> at(std::size_t file) const {
    const auto [begin, end] = extents_[file];
    return {std::min(begin, end), end};
  }

 private:
  std::vector<std::pair<std::uint64_t, std::uint64_t>> extents_;
};

// Of what was read of a job's sources, the terms of one of its sums.
inline void terms_of(const Output& output, const std::vector<Term>& read,
                     std::vector<Term>& terms) {
  terms.clear();
  if (output.lines) {
    const LineCoefficients& lines = *output.lines;
    for (std::size_t k = 0; k < lines.sources.size(); ++k) {
      const Term& term = read[lines.sources[k]];
      terms.push_back({term.data, term.dtype, lines.hardest[k]});
    }
    return;
  }
  for (std::size_t k = 0; k < read.size(); ++k) {
    const double coefficient = output.coefficients[k];
    if (coefficient != 0) terms.push_back({read[k].data, read[k].dtype, coefficient});
  }
}

// The open input files, and what reads ahead in each.
class Inputs {
 public:
  Inputs(const std::vector<std::string>& paths, const Extents& extents, bool drops) {
    files_.reserve(paths.size());
    for (std::size_t f = 0; f < paths.size(); ++f) {
      files_.push_back(File::open_for_reading(paths[f]));
      const auto [begin, end] = extents.at(f);
      ahead_.emplace_back(files_.back(), begin, end, drops);
    }
  }
  [[nodiscard]] std::size_t count() const { return files_.size(); }
  [[nodiscard]] const File& file(std::uint32_t number) const { return files_[number]; }

  // Any thread may call it.
  void read(std::uint32_t file, void* buffer, std::uint64_t size_bytes,
            std::uint64_t offset_bytes) {
    ahead_[file].before(offset_bytes, size_bytes);
    files_[file].read(buffer, size_bytes, offset_bytes);
    ahead_[file].after(offset_bytes, size_bytes);
  }

 private:
  std::vector<File> files_;      // never moved: reserved beforehand
  std::deque<ReadAhead> ahead_;  // neither copied nor moved
};

class Reader {
 public:
  // `digests`, one per input or none, take what is read from ranges that ask for it.
  Reader(Inputs& inputs, const Kernels& kernels, unsigned char* buffer,
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
    inputs_.read(file, to, size_bytes, offset_bytes);
    if (digested && !digests_.empty())
      kernels_.digest(to, size_bytes, offset_bytes, digests_[file].data());
    share_.add_bytes(size_bytes);
    return to;
  }

  // Reads one slice of every source, one behind the other from `at` on, and names them
  // as terms (without coefficients).
  void read_terms(const std::vector<Source>& sources, std::uint64_t start,
                  std::uint64_t count, std::vector<Term>& terms,
                  std::uint64_t at = 0) const {
    terms.clear();
    std::uint64_t used = at;
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
  Inputs& inputs_;
  const Kernels& kernels_;
  unsigned char* buffer_;
  std::vector<DigestLanes>& digests_;
  Share& share_;
};

}  // namespace tvmerge
