// One thread's reading: the input files, its buffer, and what it keeps count of.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "core/digest.hpp"
#include "engine/engine.hpp"
#include "engine/job.hpp"
#include "engine/pool.hpp"
#include "engine/slices.hpp"
#include "files/file.hpp"
#include "files/mapping.hpp"
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
    widest_ = std::max(widest_, sources.size());
  }
  // How many ranges a job reads at most at a time.
  [[nodiscard]] std::size_t widest() const { return widest_; }
  [[nodiscard]] std::pair<std::uint64_t, std::uint64_t> at(std::size_t file) const {
    const auto [begin, end] = extents_[file];
    return {std::min(begin, end), end};
  }

 private:
  std::vector<std::pair<std::uint64_t, std::uint64_t>> extents_;
  std::size_t widest_ = 2;  // what is copied, and compared with
};

// Of what was read of a job's sources, the terms of one of its sums.
inline void terms_of(const Output& output, const std::vector<Term>& read,
                     std::vector<Term>& terms) {
  terms.clear();
  if (output.lines) {
    const LineCoefficients& lines = *output.lines;
    for (std::size_t k = 0; k < lines.sources.size(); ++k) {
      terms.push_back(read[lines.sources[k]]);
      terms.back().coefficient = lines.hardest[k];
    }
    return;
  }
  for (std::size_t k = 0; k < read.size(); ++k) {
    const double coefficient = output.coefficients[k];
    if (coefficient == 0) continue;
    terms.push_back(read[k]);
    terms.back().coefficient = coefficient;
  }
}

// The open input files, what reads ahead in each, and what of them is mapped.
class Inputs {
 public:
  // `elsewhere` says of each file, if of any, whether others read it past the page cache:
  // what is asked for is then all that is brought there.
  Inputs(const std::vector<std::string>& paths, const Extents& extents,
         const Options& options, std::vector<bool> elsewhere = {})
      : elsewhere_(std::move(elsewhere)),
        drops_(options.drop_behind),
        mapped_(windows(extents.widest(), options, 0),
                windows(extents.widest(), options, kWindowsAhead)) {
    elsewhere_.resize(paths.size());
    files_.reserve(paths.size());
    for (std::size_t f = 0; f < paths.size(); ++f) {
      files_.push_back(File::open_for_reading(paths[f]));
      if (elsewhere_[f]) files_.back().read_nothing_ahead();
      const auto [begin, end] = extents.at(f);
      mappings_.emplace_back(files_.back(), begin, end, mapped_);
      ahead_.emplace_back(files_.back(), mappings_.back(), begin, end,
                          options.drop_behind);
    }
  }
  Inputs(const Inputs&) = delete;
  Inputs& operator=(const Inputs&) = delete;
  ~Inputs() { mapped_.stop(); }
  [[nodiscard]] std::size_t count() const { return files_.size(); }
  [[nodiscard]] const File& file(std::uint32_t number) const { return files_[number]; }

  // The range in `buffer`. Any thread may call this and the next one.
  const unsigned char* read(std::uint32_t file, unsigned char* buffer,
                            std::uint64_t size_bytes, std::uint64_t offset_bytes) {
    if (elsewhere_[file])
      return read_alone(files_[file], buffer, size_bytes, offset_bytes);
    ahead_[file].before(offset_bytes, size_bytes, false);
    files_[file].read(buffer, size_bytes, offset_bytes);
    ahead_[file].after(offset_bytes, size_bytes);
    return buffer;
  }
  // The range where it is mapped, else in `buffer`.
  const unsigned char* view(std::uint32_t file, unsigned char* buffer,
                            std::uint64_t size_bytes, std::uint64_t offset_bytes) {
    Mapping& mapping = mappings_[file];
    if (!elsewhere_[file] && mapping.suits(offset_bytes, size_bytes)) {
      ReadAhead& ahead = ahead_[file];
      ahead.before(offset_bytes, size_bytes, true);
      const bool cached = ahead.was_cached(offset_bytes, size_bytes);
      const unsigned char* const at = mapping.view(offset_bytes, size_bytes, cached);
      if (at != nullptr) return at;
    }
    return read(file, buffer, size_bytes, offset_bytes);
  }

  // run_threads for bodies that look at these files. Throws Error(storage) if one of them
  // turned out not to be what was looked at.
  void run(std::uint64_t units, unsigned threads,
           const std::function<bool(unsigned thread, Share& share)>& body,
           const std::function<void(std::uint64_t)>& progress) const {
    run_threads(units, threads, body, progress);
    for (const Mapping& mapping : mappings_) mapping.check();
  }

 private:
  // How many windows the threads look at at a time, where each looks at so many ranges,
  // with those that they will look at soon; none where that is too much, or where address
  // space is scarce.
  static std::size_t windows(std::size_t ranges, const Options& options,
                             std::size_t ahead) {
    constexpr std::size_t kThreadsAWindow = 4;  // each at its megabyte
    const std::size_t each = options.threads / kThreadsAWindow + 3;
    const bool fits =
        ranges * (each + kWindowsAhead) * kWindowBytes <= options.mapped_bytes;
    return fits && has_address_space() ? ranges * (each + ahead) : 0;
  }

  const unsigned char* read_alone(const File& file, unsigned char* buffer,
                                  std::uint64_t size_bytes,
                                  std::uint64_t offset_bytes) const {
    const bool drops = drops_ && !file.is_cached(offset_bytes, size_bytes);
    file.read(buffer, size_bytes, offset_bytes);
    if (drops) file.wont_need(offset_bytes, size_bytes);
    return buffer;
  }

  std::vector<bool> elsewhere_;
  bool drops_;
  std::vector<File> files_;  // never moved: reserved beforehand
  MappedWindows mapped_;
  std::deque<Mapping> mappings_;  // neither copied nor moved
  std::deque<ReadAhead> ahead_;
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

  // Where a range lies; the buffer has room for it at `at`. It may change when the file
  // does: who looks twice and must see the same reads it.
  const unsigned char* view(std::uint32_t file, bool digested, std::uint64_t offset_bytes,
                            std::uint64_t size_bytes, std::uint64_t at) const {
    return seen(inputs_.view(file, buffer_ + at, size_bytes, offset_bytes), file,
                digested, offset_bytes, size_bytes);
  }
  const unsigned char* read(std::uint32_t file, bool digested, std::uint64_t offset_bytes,
                            std::uint64_t size_bytes, std::uint64_t at) const {
    return seen(inputs_.read(file, buffer_ + at, size_bytes, offset_bytes), file,
                digested, offset_bytes, size_bytes);
  }

  // Counts what somebody else has read.
  void count(std::uint64_t size_bytes) const { share_.add_bytes(size_bytes); }

  // One slice of every source, as terms (without coefficients).
  void view_terms(const std::vector<Source>& sources, std::uint64_t start,
                  std::uint64_t count, std::vector<Term>& terms) const {
    name_terms(&Reader::view, sources, start, count, terms);
  }
  // The same, but for digests: the sum of all these terms is to take them.
  void view_undigested(const std::vector<Source>& sources, std::uint64_t start,
                       std::uint64_t count, std::vector<Term>& terms) const {
    name_terms(&Reader::view_only, sources, start, count, terms);
    if (digests_.empty()) return;
    for (std::size_t k = 0; k < sources.size(); ++k) {
      const Source& source = sources[k];
      if (source.digested) terms[k].digest = digests_[source.file].data();
      terms[k].position = source.offset_bytes + start * size_of(source.dtype);
    }
  }
  // The same in the buffer, one behind the other.
  void read_terms(const std::vector<Source>& sources, std::uint64_t start,
                  std::uint64_t count, std::vector<Term>& terms) const {
    name_terms(&Reader::read, sources, start, count, terms);
  }

 private:
  using Way = const unsigned char* (Reader::*)(std::uint32_t file, bool digested,
                                               std::uint64_t offset_bytes,
                                               std::uint64_t size_bytes,
                                               std::uint64_t at) const;

  void name_terms(Way way, const std::vector<Source>& sources, std::uint64_t start,
                  std::uint64_t count, std::vector<Term>& terms) const {
    terms.clear();
    std::uint64_t at = 0;
    for (const Source& source : sources) {
      const std::uint64_t size_bytes = count * size_of(source.dtype);
      const std::uint64_t offset_bytes =
          source.offset_bytes + start * size_of(source.dtype);
      terms.push_back(
          {(this->*way)(source.file, source.digested, offset_bytes, size_bytes, at),
           source.dtype, 0});
      at += aligned(size_bytes);
    }
  }

  const unsigned char* view_only(std::uint32_t file, bool /*digested*/,
                                 std::uint64_t offset_bytes, std::uint64_t size_bytes,
                                 std::uint64_t at) const {
    return seen(inputs_.view(file, buffer_ + at, size_bytes, offset_bytes), file, false,
                offset_bytes, size_bytes);
  }
  const unsigned char* seen(const unsigned char* data, std::uint32_t file, bool digested,
                            std::uint64_t offset_bytes, std::uint64_t size_bytes) const {
    if (digested && !digests_.empty())
      kernels_.digest(data, size_bytes, offset_bytes, digests_[file].data());
    share_.add_bytes(size_bytes);
    return data;
  }

  Inputs& inputs_;
  const Kernels& kernels_;
  unsigned char* buffer_;
  std::vector<DigestLanes>& digests_;
  Share& share_;
};

}  // namespace tvmerge
