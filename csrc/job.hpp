// What Python has decided, as the engine takes it: flat lists of ranges in files.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "dtype.hpp"

namespace tvmerge {

// A range of an input file that holds one tensor.
struct Source {
  std::uint32_t file;
  std::uint64_t offset_bytes;
  Dtype dtype;
  double coefficient;
};

constexpr std::int32_t kNoReference = -1;
constexpr std::int32_t kZero = -2;

// A source with coefficient 0 is no term of the sum; only the last may be one, as a
// reference.
struct CombineJob {
  std::vector<Source> sources;
  std::uint64_t elements;
  std::uint32_t out_file;
  std::uint64_t out_offset_bytes;
  Dtype out_dtype;
  // What the output is compared with, element by element, to count what changed: the
  // bytes of the source with this number, or kNoReference, or kZero.
  std::int32_t reference;
};

// Copies a range, and compares it with ranges that should hold the same bytes.
struct CopyJob {
  std::uint32_t file;
  std::uint64_t offset_bytes;
  std::uint64_t size_bytes;
  std::uint32_t out_file;
  std::uint64_t out_offset_bytes;
  std::vector<std::pair<std::uint32_t, std::uint64_t>> same_as;  // (file, offset)
};

// Inner products of linear combinations of one tensor's sources (coefficients are in the
// rows).
struct MeasureJob {
  std::vector<Source> sources;
  std::uint64_t elements;
  std::vector<double> rows;  // row_count * sources.size()
};

struct Measured {
  std::vector<double> gram;            // row_count * row_count
  std::vector<std::uint64_t> nonzero;  // row_count
};

}  // namespace tvmerge
