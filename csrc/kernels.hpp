// The arithmetic on slices that are in memory, and the choice of instruction set.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "consensus.hpp"
#include "dtype.hpp"
#include "edit.hpp"

namespace tvmerge {

// One input of a slice: `count` elements of `dtype`, to be multiplied by `coefficient`.
struct Term {
  const void* data;
  Dtype dtype;
  double coefficient;
};

// Elements of which one Edit is summed; every slice but a tensor's last is whole tiles.
constexpr std::size_t kTileElements = 1024;

// Reductions give one result for each of so many elements, whatever is looked at at once:
// their sums must not depend on an option.
constexpr std::uint64_t kSumElements = std::uint64_t{64} * 1024;

// out[i] = round(sum_k coefficient_k * x_k[i]), by fma in the order of the terms, rounded
// once; no terms give 0. Accumulates in float32 where the output has at most 16 bits,
// else (and wherever float64 goes in, or a coefficient that float32 cannot hold) in
// float64, so that a float32 output is not the accumulator's own rounding error.
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
};

// out = round(base + ...) as consensus.hpp has it; terms[0] is the base, with which it is
// compared. `first` is the element of the job that the slice begins with; `limits`, for
// every part `count`, what the random numbers of parts with rows have to lie below.
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

// What is ranked in a slice (select.hpp): the delta of terms[term] from terms[0], or for
// -1 the variance of all deltas.
struct RankedSlice {
  const Term* terms;
  std::size_t term_count;
  std::int32_t term;
  std::size_t count;
};

// Counts keys above `high` and equal to `tie`.
struct KeyScan {
  std::uint32_t low, high, tie;
  std::uint64_t above = 0, ties = 0;
};

// Adds what it finds of every part to `sums`; `first` is the element of the tensor that
// the slice begins with, `limits` are as in ConsensusSlice.
struct DeltaSlice {
  const Term* terms;
  std::size_t term_count;
  const Part* parts;
  std::size_t part_count;
  const std::uint32_t* limits;
  std::uint64_t first;
  std::size_t count;
  DeltaSums* sums;
};

struct Kernels {
  const char* isa;
  void (*combine)(const CombineSlice&);
  void (*consensus)(const ConsensusSlice&);
  void (*measure)(const MeasureSlice&);
  // The keys of slice.count elements.
  void (*ranked_keys)(const RankedSlice& slice, std::uint32_t* keys);
  // Adds to the counts of `scan`; writes the keys in [low, high] to `inside`, which has
  // room for `count` and kTileElements more, and returns how many they are.
  std::size_t (*scan_keys)(const std::uint32_t* keys, std::size_t count, KeyScan& scan,
                           std::uint32_t* inside);
  void (*delta_sums)(const DeltaSlice&);
  // What delta_sums leaves out: the counts.
  void (*count_kept)(const DeltaSlice&);
  // How many bytes differ between a and b.
  std::size_t (*count_different)(const void* a, const void* b, std::size_t size_bytes);
  // Adds bytes that stand at `position` of their file to its digest (digest.hpp).
  void (*digest)(const void* data, std::size_t size_bytes, std::uint64_t position,
                 std::uint64_t* lanes);
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
