// Sums of deltas of which only some elements take part: TIES (Yadav et al., 2306.01708),
// DARE (Yu et al., 2311.03099), Model Breadcrumbs (Davari and Belilovsky, 2312.06795),
// SCE (Wan et al., 2408.07990), NegMerge (Kim et al., 2410.05583), Consensus Task
// Arithmetic (Wang et al., 2405.07813), EMR-Merging (Huang et al., 2405.17461), and what
// they have in common.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <vector>

namespace tvmerge {

// A magnitude as an integer in the same order: the bits of |float32|; NaN comes last
// (ops_consensus.hpp).
using Key = std::uint32_t;

// The first elements in descending order of magnitude, equal ones in the order of their
// place in the tensor: those whose key is above `key`, and of those that have it the ones
// before element `ties_end`.
struct Cut {
  Key key = 0;
  std::uint64_t ties_end = UINT64_MAX;
};
constexpr Cut kAll{0, UINT64_MAX};
constexpr Cut kNone{UINT32_MAX, 0};

// Random numbers are 32 bits each: below this all are kept.
constexpr std::uint64_t kAlways = std::uint64_t{1} << 32;

// What magnitudes are multiplied with before they are ranked, row by row of `row`
// elements (divergence.hpp).
struct RowFactors {
  std::uint64_t row = 0;
  std::vector<float> factors;
};

// What is drawn, a bit for each element: what measures notes it, and what merges need
// neither draw numbers nor rank again.
struct DrawnMask {
  static constexpr std::uint64_t kWordElements = 32;

  explicit DrawnMask(std::uint64_t count)
      : elements(count),
        words(new std::uint32_t[(count + kWordElements - 1) / kWordElements]) {}

  const std::uint64_t elements;
  const std::unique_ptr<std::uint32_t[]> words;  // uninitialised until they are noted
  bool complete = false;
};

// An element is kept if it is in `outer`, is not in `inner`, and draws less than
// `random_below` (kernels_random.hpp).
struct Keep {
  Cut outer = kAll, inner = kNone;
  // Whether the cuts rank the variance of all deltas rather than the delta itself.
  bool of_variance = false;
  std::uint64_t random_below = kAlways;
  std::uint64_t key = 0;  // of the random numbers
  // With rows of so many elements `random_below` is that of a row's smallest magnitude,
  // and rises with the rank by `random_span` up to the largest (row_ranks.hpp).
  std::uint64_t row = 0;
  std::uint64_t random_span = 0;
  // With these, which have the same `row`, nothing is drawn.
  std::shared_ptr<const RowFactors> factors = nullptr;
  std::shared_ptr<DrawnMask> mask = nullptr;  // if it is to be noted

  [[nodiscard]] bool is_noted() const { return mask && mask->complete; }
};

// One delta, sources[source] - sources[0], times `weight` and `gain`.
struct Part {
  std::int32_t source;
  double weight;
  double gain;  // not counted as weight: what makes up for elements that were dropped
  Keep keep;
  // Finite values of a larger magnitude (weight and gain included) are cut down to it.
  double limit = std::numeric_limits<double>::infinity();
  // Multiplies the sum where it is the only part that counts.
  double alone = 1;
  // It counts where it takes part and its |value| is not less than so many times the
  // magnitude of what the others' values come to.
  double threshold = 0;
  // As how many parts it counts; 1 where a part has `alone`.
  unsigned votes = 1;
};

// With v_k = gain_k delta_k where it is kept and 0 elsewhere (and limited),
//   out = base + scale * sum_k weight_k v_k / d.
// With `elect` only terms of the sign of their sum (0 counts as positive) take part: the
// sum of weight_k v_k, or with `elect_first` that of v_k alone. With `normalize` d is the
// sum of |weight_k| of those that take part and are not 0, or 1 where none does. With
// `largest` the one of the largest magnitude stands for the sum of those that take part.
// Where fewer than `least` parts count, each with a value that is not 0, the sum is 0.
constexpr std::size_t kMostParts = 256;
struct Consensus {
  std::vector<Part> parts;
  double scale;
  bool elect;
  bool elect_first;
  bool normalize;
  std::size_t least = 0;
  bool largest = false;
};

// Of one part's delta, in float64: sum |d|, and over kept elements sum |d| and sum d^2.
// If asked for: how many kept elements are not 0, and how many of these
// no other part has; or of one part sum |v|, v being its values in the consensus, and
// over those that have the elected sign sums of what is largest there.
struct DeltaSums {
  double all = 0, kept = 0, kept_sq = 0;
  std::uint64_t count = 0, alone = 0;

  constexpr DeltaSums& operator+=(const DeltaSums& other) {
    all += other.all;
    kept += other.kept;
    kept_sq += other.kept_sq;
    count += other.count;
    alone += other.alone;
    return *this;
  }
};

}  // namespace tvmerge
