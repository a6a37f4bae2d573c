// The kernels' one source, compiled once per instruction set. The including file defines
// TVMERGE_ISA (a namespace of its own, so that no two copies can be mixed up by the
// linker), TVMERGE_ISA_NAME, and TVMERGE_DIGEST_STRIPES (the one loop that compilers do
// not vectorise well by themselves).
//
// A slice is walked in tiles of kTileElements whose accumulators stay in the first-level
// cache; within a tile each term is one plain loop over one dtype, which the compiler
// vectorises.

#include <cmath>
#include <cstring>
#include <type_traits>

#include "digest.hpp"
#include "kernels.hpp"
#include "ops.hpp"

namespace tvmerge::TVMERGE_ISA {
namespace {

constexpr std::size_t kTile = kTileElements;

// Reductions run in the lanes of this many bytes, added up in a fixed order at the end:
// the same bits from any instruction set. Product and sum are rounded apart (in float64
// the products of narrower floats are exact anyway), so that no fma is asked of those
// that have none.
template <typename Sum>
struct Lanes {
  static constexpr std::size_t kCount = 64 / sizeof(Sum);
  typedef Sum Vector __attribute__((vector_size(64), aligned(sizeof(Sum)), may_alias));

  // The lanes' sum in float64.
  static double total(const Vector& lanes) {
    double sum = 0;
    for (std::size_t lane = 0; lane < kCount; ++lane)
      sum += static_cast<double>(lanes[lane]);
    return sum;
  }
};

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

inline double fused(double a, double b, double c) { return __builtin_fma(a, b, c); }
#if defined(__FMA__) || defined(__FP_FAST_FMAF) || defined(__ARM_FEATURE_FMA)
inline float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
#else
// The same bits as fmaf, without a call that keeps loops scalar: the product is exact in
// float64, and a float64 sum rounded to odd rounds to float32 as the exact one would
// (Boldo and Melquiond, 2008).
inline float fused(float a, float b, float c) {
  const double product = static_cast<double>(a) * static_cast<double>(b);
  const double addend = static_cast<double>(c);
  const double sum = product + addend;
  const double part = sum - product;
  const double error = (product - (sum - part)) + (addend - part);  // Knuth's two-sum
  const std::uint64_t bits = ops::bits_of(sum);
  const bool even = (bits & 1u) == 0;
  const bool away = (error > 0) != (sum > 0);  // the sum lies beyond the exact value
  const std::uint64_t odd = away ? bits - 1 : bits + 1;
  const bool adjust = even && (error > 0 || error < 0);
  return static_cast<float>(ops::double_of(adjust ? odd : bits));
}
#endif

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

// Changes below this share of the weight are the sum's own rounding noise, not intended.
template <typename Sum>
constexpr Sum kNoise = sizeof(Sum) == 4 ? Sum{0x1p-21} : Sum{0x1p-48};

// A tile's reference and output, taken apart: d = sum - x, r = z - x (see edit.hpp).
template <typename Sum, typename Reference, typename Out>
void take_apart(const Sum* __restrict sum, const typename Reference::Bits* __restrict x,
                const typename Out::Bits* __restrict z, std::size_t count,
                Sum* __restrict d, Sum* __restrict r, Edit& edit) {
  std::uint32_t changed = 0, intended = 0, lost = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const Sum from = static_cast<Sum>(Reference::decode(x[i]));
    const Sum to = static_cast<Sum>(Out::decode(z[i]));
    d[i] = sum[i] - from;
    r[i] = to - from;
    const Sum size = d[i] < 0 ? -d[i] : d[i];
    const Sum noise = (from < 0 ? -from : from) * kNoise<Sum>;
    const std::uint32_t same_nan = (to != to) & (from != from);
    const std::uint32_t moved = (to != from) & (same_nan ^ 1u);
    const std::uint32_t meant = size > noise;
    changed += moved;
    intended += meant;
    lost += meant & (moved ^ 1u);
  }
  edit.changed = changed;
  edit.intended = intended;
  edit.lost = lost;
}

template <typename Sum>
void decode(const void* from, Dtype dtype, std::size_t start, std::size_t count,
            Sum* __restrict to) {
  with_element(dtype, [&](auto element, auto) {
    using Element = decltype(element);
    const auto* __restrict x = static_cast<const typename Element::Bits*>(from) + start;
    for (std::size_t i = 0; i < count; ++i)
      to[i] = static_cast<Sum>(Element::decode(x[i]));
  });
}

// One tile's Edit; `sum` holds its accumulators.
template <typename Sum>
void compare_tile(const CombineSlice& slice, std::size_t start, std::size_t count,
                  const Sum* sum, Edit& edit) {
  using Plain = std::conditional_t<sizeof(Sum) == 4, ops::Element<Dtype::f32>,
                                   ops::Element<Dtype::f64>>;
  using PlainBits = typename Plain::Bits;
  alignas(64) Sum d[kTile], r[kTile];
  if (slice.reference != nullptr && slice.reference_dtype == slice.out_dtype) {
    with_element(slice.out_dtype, [&](auto element, auto) {
      using Element = decltype(element);
      using Bits = typename Element::Bits;
      take_apart<Sum, Element, Element>(
          sum, static_cast<const Bits*>(slice.reference) + start,
          static_cast<const Bits*>(slice.out) + start, count, d, r, edit);
    });
  } else {
    alignas(64) Sum x[kTile] = {}, z[kTile];
    if (slice.reference != nullptr)
      decode(slice.reference, slice.reference_dtype, start, count, x);
    decode(slice.out, slice.out_dtype, start, count, z);
    alignas(64) PlainBits x_bits[kTile], z_bits[kTile];
    std::memcpy(x_bits, x, count * sizeof(Sum));
    std::memcpy(z_bits, z, count * sizeof(Sum));
    take_apart<Sum, Plain, Plain>(sum, x_bits, z_bits, count, d, r, edit);
  }
  using Vector = typename Lanes<Sum>::Vector;
  constexpr std::size_t kCount = Lanes<Sum>::kCount;
  const std::size_t padded = (count + kCount - 1) / kCount * kCount;
  for (std::size_t i = count; i < padded; ++i) d[i] = r[i] = 0;
  Vector dd{}, rr{}, dr{};
  for (std::size_t i = 0; i < padded; i += kCount) {
    const Vector dv = *reinterpret_cast<const Vector*>(d + i);
    const Vector rv = *reinterpret_cast<const Vector*>(r + i);
    dd += dv * dv;
    rr += rv * rv;
    dr += dv * rv;
  }
  edit.intended_sq = Lanes<Sum>::total(dd);
  edit.realised_sq = Lanes<Sum>::total(rr);
  edit.dot = Lanes<Sum>::total(dr);
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
    if (slice.edits != nullptr)
      compare_tile(slice, start, count, sum, slice.edits[start / kTile]);
  }
}

void combine(const CombineSlice& slice) {
  if (accumulates_in_double(slice.terms, slice.term_count, slice.out_dtype)) {
    combine_in<double>(slice);
  } else {
    combine_in<float>(slice);
  }
}

// One tile of every row stays in memory at a time; kRowTile keeps 16 rows within 64 KiB.
constexpr std::size_t kRowTile = 512;

// `count` is a multiple of the lanes.
double dot(const double* __restrict a, const double* __restrict b, std::size_t count) {
  using Vector = Lanes<double>::Vector;
  Vector sum{};
  for (std::size_t i = 0; i < count; i += Lanes<double>::kCount) {
    sum +=
        *reinterpret_cast<const Vector*>(a + i) * *reinterpret_cast<const Vector*>(b + i);
  }
  return Lanes<double>::total(sum);
}

void measure(const MeasureSlice& slice) {
  const std::size_t rows = slice.row_count;
  double* const y = new double[rows * kRowTile];
  for (std::size_t start = 0; start < slice.count; start += kRowTile) {
    const std::size_t count =
        slice.count - start < kRowTile ? slice.count - start : kRowTile;
    for (std::size_t r = 0; r < rows; ++r) {
      double* const row = y + r * kRowTile;
      std::memset(row, 0, kRowTile * sizeof(double));
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
        slice.gram[r * rows + s] += dot(y + r * kRowTile, y + s * kRowTile, kRowTile);
      }
    }
  }
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t s = r + 1; s < rows; ++s)
      slice.gram[r * rows + s] = slice.gram[s * rows + r];
  }
  delete[] y;
}

std::size_t count_different(const void* a, const void* b, std::size_t size_bytes) {
  if (std::memcmp(a, b, size_bytes) == 0) return 0;
  const auto* __restrict x = static_cast<const unsigned char*>(a);
  const auto* __restrict y = static_cast<const unsigned char*>(b);
  std::size_t total = 0;
  for (std::size_t start = 0; start < size_bytes; start += kTile) {
    const std::size_t stop = size_bytes - start < kTile ? size_bytes : start + kTile;
    std::uint32_t found = 0;  // a 32-bit count vectorises better
    for (std::size_t i = start; i < stop; ++i) found += x[i] != y[i] ? 1 : 0;
    total += found;
  }
  return total;
}

void digest(const void* data, std::size_t size_bytes, std::uint64_t position,
            std::uint64_t* lanes) {
  const auto* const bytes = static_cast<const unsigned char*>(data);
  const std::size_t stripes = size_bytes / kStripeBytes;
  const std::size_t whole = stripes * kStripeBytes;
  TVMERGE_DIGEST_STRIPES(bytes, stripes, position, lanes);
  if (whole == size_bytes) return;
  unsigned char last[kStripeBytes] = {};
  std::memcpy(last, bytes + whole, size_bytes - whole);
  TVMERGE_DIGEST_STRIPES(last, 1, position + whole, lanes);
}

constexpr Kernels kKernels{TVMERGE_ISA_NAME, combine, measure, count_different, digest};

}  // namespace
}  // namespace tvmerge::TVMERGE_ISA
