// The arithmetic on slices that are in memory, and the choice of instruction set.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "core/consensus.hpp"
#include "core/dtype.hpp"
#include "core/edit.hpp"
#include "core/lines.hpp"

namespace tvmerge {

// One input of a slice: `count` elements of `dtype`, to be multiplied by `coefficient`.
// Only a sum looks at `digest`: lanes that take its bytes, which begin at `position` of
// their file; null where that has been done or nobody wants it.
struct Term {
  const void* data;
  Dtype dtype;
  double coefficient;
  std::uint64_t* digest = nullptr;
  std::uint64_t position = 0;
};

// Elements of which one Edit is summed; every slice but a tensor's last is whole tiles.
constexpr std::size_t kTileElements = 1024;
constexpr std::size_t whole_tiles(std::size_t elements) {
  return (elements + kTileElements - 1) / kTileElements * kTileElements;
}

// Reductions give one result for each of so many elements, whatever is looked at at once:
// their sums must not depend on an option.
constexpr std::uint64_t kSumElements = std::uint64_t{64} * 1024;

// out[i] = round(sum_k coefficient_k * x_k[i]), by fma in the order of the terms, rounded
// once; no terms give 0. Accumulates in float32 where the output has at most 16 bits,
// else (and wherever float64 goes in, or a coefficient that float32 cannot hold) in
// float64, so that a float32 output is not the accumulator's own rounding error.
//
// Takes the digests that its terms want.
//
// With `lines`, coefficient_k is that of the element's line, and a term whose coefficient
// is 0 is none; the terms' own only decide the precision. A line of no terms gives -0.
struct CombineSlice {
  const Term* terms;
  std::size_t term_count;
  void* out;
  Dtype out_dtype;
  std::size_t count;
  // What the sum is compared with, and one Edit per tile to say how; null: not compared.
  Edit* edits;
  const void* reference;  // null: zero
  Dtype reference_dtype;
  const LineTable* lines = nullptr;
};

// out = round(base + ...) as consensus.hpp has it; terms[0] is the base, with which it is
// compared. `first` is the element of the job that the slice begins with; `limits`, for
// every part with rows `count`, are all ones where the element is drawn, else 0, or the
// bits of its row's factor.
struct ConsensusSlice {
  const Term* terms;
  std::size_t term_count;
  const Consensus* consensus;
  const std::uint32_t* limits;
  std::uint64_t first;
  void* out;
  Dtype out_dtype;
  std::size_t count;
  Edit* edits;
};

// Reductions over rows y_r = sum_k rows[r * term_count + k] * x_k, accumulated in
// float64. gram: row_count * row_count inner products; nonzero: elements of y_r that are
// not 0 (NaN counts). No rows: how two terms a and b differ; gram is a.a, a.b, b.b and
// (b - a).(b - a), nonzero the number of elements where a is not b.
struct MeasureSlice {
  const Term* terms;
  std::size_t term_count;
  const double* rows;
  std::size_t row_count;
  std::size_t count;
  double* gram;
  std::uint64_t* nonzero;
};

// Adds the products of rows, as MeasureSlice has them, column by column: products has
// `columns` for each pair (r, s), s <= r, in their order. `first` is the column of the
// slice's first element.
struct ColumnSlice {
  const Term* terms;
  std::size_t term_count;
  const double* rows;
  std::size_t row_count;
  std::size_t count;
  std::uint64_t columns, first;
  double* products;
};

// What is ranked in a slice (select.hpp): the delta of terms[term] from terms[0], or for
// -1 the variance of all deltas; times `factors`, if there are some, of the rows of the
// tensor's element `first` and those behind it. Looks at elements of the terms from
// `start` on.
struct RankedSlice {
  const Term* terms;
  std::size_t term_count;
  std::int32_t term;
  std::size_t count;
  const RowFactors* factors = nullptr;
  std::uint64_t first = 0;
  std::size_t start = 0;
};

// The softmaxes of a row of terms[0] and of terms[1], and how far the second is from the
// first: what each step over all of the row's stretches finds, the next one needs.
struct RowDivergence {
  double peak[2] = {-std::numeric_limits<double>::infinity(),
                    -std::numeric_limits<double>::infinity()};
  double mass[2] = {0, 0};  // of e^(x - peak)
  double sum = 0;
};
constexpr double kSoftmaxMargin = 1e-8;  // is added to both
enum class DivergenceStep : std::uint8_t { peaks, masses, sum };
constexpr DivergenceStep kDivergenceSteps[] = {
    DivergenceStep::peaks, DivergenceStep::masses, DivergenceStep::sum};
struct DivergenceSlice {
  const Term* terms;
  std::size_t start, count;
  DivergenceStep step;
  RowDivergence* row;
  // Room for 2 * whole_tiles(count) if the slice is the whole row: what `masses` found of
  // its elements, for `sum`. Null: it is computed again.
  double* exponentials = nullptr;
};

// Counts keys above `high` and equal to `tie`.
struct KeyScan {
  std::uint32_t low, high, tie;
  std::uint64_t above = 0, ties = 0;
};

// Bins of a row's keys in descending order of magnitude (row_draw.hpp). A level is what
// keys have above `shift` bits, counted from the largest one's: bin 2l holds the keys of
// level l that have more bits, bin 2l + 1 those that have none and are thus all the same.
// Then come one of what lies below all levels, and some of zeros, which take turns.
constexpr std::uint32_t kZeroBins = 16;
struct KeyBins {
  std::uint32_t shift, levels;

  [[nodiscard]] constexpr std::uint32_t below_levels() const { return 2 * levels; }
  [[nodiscard]] constexpr std::uint32_t first_zeros() const { return 2 * levels + 1; }
  [[nodiscard]] constexpr bool one_key(std::uint32_t bin) const {
    return bin % 2 == 1 || bin > below_levels();
  }
  [[nodiscard]] constexpr std::uint32_t count() const {
    return first_zeros() + kZeroBins;
  }
};

// An element whose random number is near its limit.
struct DoubtfulDraw {
  std::uint32_t element, number;
};

// Adds what it finds of every part to `sums`; `first` is the element of the tensor that
// the slice begins with, `limits` are as in ConsensusSlice. With the number of a part in
// `elected` that one alone is summed, as what the parts' weights make of it.
struct DeltaSlice {
  const Term* terms;
  std::size_t term_count;
  const Part* parts;
  std::size_t part_count;
  const std::uint32_t* limits;
  std::uint64_t first;
  std::size_t count;
  DeltaSums* sums;
  std::int32_t elected = -1;
};

// out[i, j] = round(out[i, j] + scale * sum_k left[i, k] * right[k, j]): the sum in
// float64 in the order of k, rounded once. Matrices lie row by row.
struct LowRankSlice {
  const float* left;   // rows * rank
  const float* right;  // rank * columns
  float* out;          // rows * columns
  std::size_t rows, rank, columns;
  double scale;
};

struct Kernels {
  const char* isa;
  void (*combine)(const CombineSlice&);
  void (*consensus)(const ConsensusSlice&);
  void (*measure)(const MeasureSlice&);
  void (*measure_columns)(const ColumnSlice&);
  // The keys of slice.count elements.
  void (*ranked_keys)(const RankedSlice& slice, std::uint32_t* keys);
  // Adds to the counts of `scan`; writes the keys in [low, high] but for ties to
  // `inside`, which has room for `count` and kTileElements more, and returns how many
  // they are.
  std::size_t (*scan_keys)(const std::uint32_t* keys, std::size_t count, KeyScan& scan,
                           std::uint32_t* inside);
  void (*delta_sums)(const DeltaSlice&);
  // What delta_sums leaves out: the counts.
  void (*count_kept)(const DeltaSlice&);
  void (*diverge)(const DivergenceSlice&);
  // How many bytes differ between a and b.
  std::size_t (*count_different)(const void* a, const void* b, std::size_t size_bytes);
  // Adds bytes that stand at `position` of their file to its digest (digest.hpp).
  void (*digest)(const void* data, std::size_t size_bytes, std::uint64_t position,
                 std::uint64_t* lanes);
  void (*add_low_rank)(const LowRankSlice&);
  // The random numbers of elements [first, first + count); `first` is a whole tile's.
  void (*draw_numbers)(std::uint64_t key, std::uint64_t first, std::size_t count,
                       std::uint32_t* numbers);
  // With `exact_zeros` all zeros are in the first of their bins.
  void (*bin_keys)(const KeyBins& bins, const std::uint32_t* keys, std::uint32_t count,
                   bool exact_zeros, std::uint16_t* to);
  // Numbers become all ones where they are below their limits, else 0. Writes those that
  // are at most `doubt` away (none for 0) to `doubtful`, which has room for one more than
  // `count`, and returns how many they are.
  std::size_t (*draw_below)(const std::uint32_t* limits, std::size_t count,
                            std::uint32_t doubt, std::uint32_t* numbers,
                            DoubtfulDraw* doubtful);
  // Between all ones or 0 for each element, and bits of DrawnMask; whole words.
  void (*pack_bits)(const std::uint32_t* masks, std::size_t count, std::uint32_t* words);
  void (*spread_bits)(const std::uint32_t* words, std::size_t count,
                      std::uint32_t* masks);
};

// Whether `combine` accumulates these dtypes in float64.
bool accumulates_in_double(const Term* terms, std::size_t term_count, Dtype out);

// The names of the instruction sets that this build has and this processor runs, best
// first.
std::vector<std::string> available_isas();

// The kernels of `isa`, or the best for an empty name; throws Error(config) for an
// unusable one.
const Kernels& kernels_for(const std::string& isa);

const Kernels& generic_kernels();
#ifdef TVMERGE_X86
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
#endif

}  // namespace tvmerge
