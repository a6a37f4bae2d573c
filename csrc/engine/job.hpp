// What Python has decided, as the engine takes it: flat lists of ranges in files.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include "core/consensus.hpp"
#include "core/dtype.hpp"
#include "core/lines.hpp"

namespace tvmerge {

// A range of an input file that holds one tensor, or a part of one.
struct Source {
  std::uint32_t file;
  std::uint64_t offset_bytes;
  Dtype dtype;
  // Whether its bytes count in the digest of its file: a range that several jobs read
  // counts once.
  bool digested;
};

constexpr std::int32_t kNoReference = -1;
constexpr std::int32_t kZero = -2;

// One weighted sum of a job's sources, or what deltas agree on.
struct Output {
  std::uint32_t file;
  std::uint64_t offset_bytes;
  Dtype dtype;
  // What the sum is compared with, element by element: the source with this number, or
  // kNoReference, or kZero.
  std::int32_t reference;
  std::vector<double> coefficients;  // one per source; 0: the source is no term
  // In place of the coefficients, one of these at most.
  std::optional<Consensus> consensus = std::nullopt;
  std::shared_ptr<const LineCoefficients> lines = nullptr;
};

// Reads its sources once and writes every output.
struct CombineJob {
  std::vector<Source> sources;
  std::uint64_t elements;
  std::vector<Output> outputs;
};

// Copies a range to any number of places (none: it is only read), and compares it with
// ranges that should hold the same bytes.
struct CopyJob {
  std::uint32_t file;
  std::uint64_t offset_bytes;
  std::uint64_t size_bytes;
  bool digested;
  std::vector<std::pair<std::uint32_t, std::uint64_t>> targets;  // (output file, offset)
  std::vector<Source> same_as;
};

// Inner products of linear combinations of one tensor's sources (coefficients are in the
// rows); without rows, how two sources differ (kernels.hpp: MeasureSlice).
struct MeasureJob {
  std::vector<Source> sources;
  std::uint64_t elements;
  std::vector<double> rows;  // row_count * sources.size()
};

struct Measured {
  std::vector<double> gram;            // row_count * row_count; 4 without rows
  std::vector<std::uint64_t> nonzero;  // row_count; 1 without rows
};

// sources[0] is the base. What is ranked is sources[source] - sources[0], in float32
// (from float64 where one of them is), or with kVariance the population variance of all
// deltas.
constexpr std::int32_t kVariance = -1;
// How many elements: a number, or a share (rounded down) of those whose key is not 0.
using Rank = std::variant<std::uint64_t, double>;
struct Query {
  std::int32_t source;
  Rank rank;
};
struct SelectJob {
  std::vector<Source> sources;
  std::uint64_t elements;
  std::vector<Query> queries;
  std::shared_ptr<const RowFactors> factors = nullptr;  // of what is ranked, if any
};

// sources[0] is the base; the weights and gains of the parts are not looked at, unless
// one of them is to be summed as it is elected (kernels.hpp).
struct DeltaSumsJob {
  std::vector<Source> sources;
  std::uint64_t elements;
  std::vector<Part> parts;
  bool counted = false;  // elements are counted too
  std::int32_t elected = -1;
};

}  // namespace tvmerge
