// The kernels' one source, compiled once per instruction set. The including file defines
// TVMERGE_ISA (a namespace of its own, so that no two copies can be mixed up by the
// linker) and TVMERGE_ISA_NAME.
//
// A slice is walked in tiles of kTile elements whose accumulators stay in the first-level
// cache; within a tile each term is one plain loop over one dtype, which the compiler
// vectorises.

#include <cmath>
#include <cstring>

#include "kernels.hpp"
#include "ops.hpp"

namespace tvmerge::TVMERGE_ISA {
namespace {

constexpr std::size_t kTile = 1024;
// Reductions run in this many independent sums, added up in a fixed order at the end: the
// same bits from scalar code and from any vector width up to this.
constexpr std::size_t kLanes = 8;

template <typename Function>
inline void with_element(Dtype dtype, Function&& function) {
  switch (dtype) {
    case Dtype::f64:
      return function(ops::Element<Dtype::f64>{}, ops::DtypeTag<Dtype::f64>{});
    case Dtype::f32:
      return function(ops::Element<Dtype::f32>{}, ops::DtypeTag<Dtype::f32>{});
    case Dtype::f16:
      return function(ops::Element<Dtype::f16>{}, ops::DtypeTag<Dtype::f16>{});
    case Dtype::bf16:
      return function(ops::Element<Dtype::bf16>{}, ops::DtypeTag<Dtype::bf16>{});
    case Dtype::f8_e4m3:
      return function(ops::Element<Dtype::f8_e4m3>{}, ops::DtypeTag<Dtype::f8_e4m3>{});
    case Dtype::f8_e5m2:
      return function(ops::Element<Dtype::f8_e5m2>{}, ops::DtypeTag<Dtype::f8_e5m2>{});
  }
}

inline float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline double fused(double a, double b, double c) { return __builtin_fma(a, b, c); }

// sum[i] = coefficient * x[i] (first) or fma(coefficient, x[i], sum[i]).
template <typename Sum>
void accumulate(const Term& term, std::size_t start, std::size_t count,
                double coefficient, bool first, Sum* __restrict sum) {
  const Sum c = static_cast<Sum>(coefficient);
  with_element(term.dtype, [&](auto element, auto) {
    using Element = decltype(element);
    using Bits = typename Element::Bits;
    const Bits* __restrict x = static_cast<const Bits*>(term.data) + start;
    if (first) {
      for (std::size_t i = 0; i < count; ++i)
        sum[i] = c * static_cast<Sum>(Element::decode(x[i]));
    } else {
      for (std::size_t i = 0; i < count; ++i) {
        sum[i] = fused(c, static_cast<Sum>(Element::decode(x[i])), sum[i]);
      }
    }
  });
}

template <typename Sum>
void combine_in(const CombineSlice& slice) {
  alignas(64) Sum sum[kTile];
  for (std::size_t start = 0; start < slice.count; start += kTile) {
    const std::size_t count = slice.count - start < kTile ? slice.count - start : kTile;
    if (slice.term_count == 0) std::memset(sum, 0, sizeof sum);
    for (std::size_t k = 0; k < slice.term_count; ++k) {
      accumulate(slice.terms[k], start, count, slice.terms[k].coefficient, k == 0, sum);
    }
    with_element(slice.out_dtype, [&](auto element, auto tag) {
      using Bits = typename decltype(element)::Bits;
      Bits* __restrict out = static_cast<Bits*>(slice.out) + start;
      for (std::size_t i = 0; i < count; ++i) out[i] = ops::round_once<tag.value>(sum[i]);
    });
  }
}

void combine(const CombineSlice& slice) {
  if (accumulates_in_double(slice.terms, slice.term_count, slice.out_dtype)) {
    combine_in<double>(slice);
  } else {
    combine_in<float>(slice);
  }
}

double dot(const double* __restrict a, const double* __restrict b, std::size_t count) {
  double lanes[kLanes] = {};
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] = fused(a[i + lane], b[i + lane], lanes[lane]);
    }
  }
  for (std::size_t lane = 0; i + lane < count; ++lane) {
    lanes[lane] = fused(a[i + lane], b[i + lane], lanes[lane]);
  }
  double total = 0;
  for (double lane : lanes) total += lane;
  return total;
}

// One tile of every row stays in memory at a time; kRowTile keeps 16 rows within 64 KiB.
constexpr std::size_t kRowTile = 512;

void measure(const MeasureSlice& slice) {
  const std::size_t rows = slice.row_count;
  double* const y = new double[rows * kRowTile];
  for (std::size_t start = 0; start < slice.count; start += kRowTile) {
    const std::size_t count =
        slice.count - start < kRowTile ? slice.count - start : kRowTile;
    for (std::size_t r = 0; r < rows; ++r) {
      double* const row = y + r * kRowTile;
      std::memset(row, 0, count * sizeof(double));
      bool first = true;
      for (std::size_t k = 0; k < slice.term_count; ++k) {
        const double coefficient = slice.rows[r * slice.term_count + k];
        if (coefficient == 0) continue;  // 0 * infinity would be NaN
        accumulate(slice.terms[k], start, count, coefficient, first, row);
        first = false;
      }
      std::uint64_t nonzero = 0;
      for (std::size_t i = 0; i < count; ++i) nonzero += row[i] != 0 ? 1 : 0;
      slice.nonzero[r] += nonzero;
    }
    for (std::size_t r = 0; r < rows; ++r) {
      for (std::size_t s = 0; s <= r; ++s) {
        slice.gram[r * rows + s] += dot(y + r * kRowTile, y + s * kRowTile, count);
      }
    }
  }
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t s = r + 1; s < rows; ++s)
      slice.gram[r * rows + s] = slice.gram[s * rows + r];
  }
  delete[] y;
}

// Calls function(first value of a Bits type) for the unsigned type of that size.
template <typename Function>
inline std::size_t with_bits(std::size_t element_size, Function&& function) {
  switch (element_size) {
    case 8:
      return function(std::uint64_t{});
    case 4:
      return function(std::uint32_t{});
    case 2:
      return function(std::uint16_t{});
    default:
      return function(std::uint8_t{});
  }
}

// Counts the i in [0, count) for which test(i); a 32-bit inner count vectorises better.
template <typename Test>
inline std::size_t count_where(std::size_t count, Test&& test) {
  std::size_t total = 0;
  for (std::size_t start = 0; start < count; start += kTile) {
    const std::size_t stop = count - start < kTile ? count : start + kTile;
    std::uint32_t found = 0;
    for (std::size_t i = start; i < stop; ++i) found += test(i) ? 1 : 0;
    total += found;
  }
  return total;
}

std::size_t count_different(const void* a, const void* b, std::size_t count,
                            std::size_t element_size) {
  if (std::memcmp(a, b, count * element_size) == 0) return 0;
  return with_bits(element_size, [&](auto type) {
    const auto* __restrict x = static_cast<const decltype(type)*>(a);
    const auto* __restrict y = static_cast<const decltype(type)*>(b);
    return count_where(count, [&](std::size_t i) { return x[i] != y[i]; });
  });
}

std::size_t count_nonzero(const void* data, std::size_t count, std::size_t element_size) {
  return with_bits(element_size, [&](auto type) {
    const auto* __restrict x = static_cast<const decltype(type)*>(data);
    return count_where(count, [&](std::size_t i) { return x[i] != 0; });
  });
}

constexpr Kernels kKernels{TVMERGE_ISA_NAME, combine, measure, count_different,
                           count_nonzero};

}  // namespace
}  // namespace tvmerge::TVMERGE_ISA
