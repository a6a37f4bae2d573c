// The kernels' one source, compiled once per instruction set. The including file defines
// TVMERGE_ISA (a namespace of its own, so that no two copies can be mixed up by the
// linker), TVMERGE_ISA_NAME and TVMERGE_VECTOR_BYTES, and in that namespace the loops
// that compilers do not vectorise well by themselves: digest_stripes and, where the
// processor converts float16 (TVMERGE_HALF), widen_half and narrow_half.
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

// Reductions run in the lanes of 64 bytes, whatever the registers' width, added up in a
// fixed order at the end: the same bits from any instruction set. Product and sum are
// rounded apart (in float64 the products of narrower floats are exact anyway), so that no
// fma is asked of processors that have none.
constexpr std::size_t kLaneBytes = 64;
constexpr std::size_t kRegisters = kLaneBytes / TVMERGE_VECTOR_BYTES;

template <typename Sum>
struct Vectors {
  static constexpr std::size_t kWidth = TVMERGE_VECTOR_BYTES / sizeof(Sum);
  static constexpr std::size_t kLanes = kLaneBytes / sizeof(Sum);
  typedef Sum Vector __attribute__((vector_size(TVMERGE_VECTOR_BYTES)));
  using Count = std::conditional_t<sizeof(Sum) == 4, std::int32_t, std::int64_t>;
  typedef Count Counts __attribute__((vector_size(TVMERGE_VECTOR_BYTES)));

  static inline Vector load(const Sum* from) {
    Vector vector;
    std::memcpy(&vector, from, sizeof vector);
    return vector;
  }
  // Of all registers together, in float64, lane by lane.
  static double total(const Vector* registers) {
    double sum = 0;
    for (std::size_t part = 0; part < kRegisters; ++part) {
      for (std::size_t lane = 0; lane < kWidth; ++lane)
        sum += static_cast<double>(registers[part][lane]);
    }
    return sum;
  }
  static std::uint64_t total(const Counts& counts) {
    Count sum = 0;
    for (std::size_t lane = 0; lane < kWidth; ++lane) sum += counts[lane];
    return static_cast<std::uint64_t>(sum);
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

#ifdef TVMERGE_HALF
// Turns a tile of float16 or 8-bit codes to float32 by the processor's own conversion.
// Returns false for other dtypes.
inline bool widen(Dtype dtype, const void* data, std::size_t start, std::size_t count,
                  float* __restrict to) {
  if (dtype == Dtype::f16) {
    widen_half(static_cast<const std::uint16_t*>(data) + start, count, to);
    return true;
  }
  if (dtype != Dtype::f8_e4m3 && dtype != Dtype::f8_e5m2) return false;
  const auto* __restrict code = static_cast<const std::uint8_t*>(data) + start;
  alignas(64) std::uint16_t half[kTile];
  if (dtype == Dtype::f8_e5m2) {  // float16 with a shorter mantissa
    for (std::size_t i = 0; i < count; ++i)
      half[i] = static_cast<std::uint16_t>(code[i] << 8);
    widen_half(half, count, to);
    return true;
  }
  // The exponent's bias is 7 where float16 has 15: 2^8 too small, subnormals included.
  for (std::size_t i = 0; i < count; ++i) {
    half[i] = static_cast<std::uint16_t>((code[i] & 0x80u) << 8 | (code[i] & 0x7fu) << 7);
  }
  widen_half(half, count, to);
  for (std::size_t i = 0; i < count; ++i) {
    to[i] = (code[i] & 0x7fu) == 0x7fu ? __builtin_nanf("") : to[i] * 256.0f;
  }
  return true;
}

inline bool narrow(Dtype dtype, const float* sum, std::size_t count, void* out,
                   std::size_t start) {
  if (dtype != Dtype::f16) return false;
  narrow_half(sum, count, static_cast<std::uint16_t*>(out) + start);
  return true;
}
#else
inline bool widen(Dtype, const void*, std::size_t, std::size_t, float*) { return false; }
inline bool narrow(Dtype, const float*, std::size_t, void*, std::size_t) { return false; }
#endif
inline bool narrow(Dtype, const double*, std::size_t, void*, std::size_t) {
  return false;
}

// Calls use(element, codes) with elements [start, start + count) of `data`: as they are,
// or widened to float32.
template <typename Use>
inline void with_codes(Dtype dtype, const void* data, std::size_t start,
                       std::size_t count, Use&& use) {
  alignas(64) float wide[kTile];
  if (widen(dtype, data, start, count, wide)) {
    use(ops::Wide{}, static_cast<const float*>(wide));
    return;
  }
  with_element(dtype, [&](auto element, auto) {
    using Bits = typename decltype(element)::Bits;
    use(element, static_cast<const Bits*>(data) + start);
  });
}

// sum[i] = coefficient * x[i] (first) or fma(coefficient, x[i], sum[i]).
template <typename Sum>
void accumulate(const Term& term, std::size_t start, std::size_t count,
                double coefficient, bool first, Sum* __restrict sum) {
  const Sum c = static_cast<Sum>(coefficient);
  with_codes(term.dtype, term.data, start, count, [&](auto element, const auto* codes) {
    using Element = decltype(element);
    const typename Element::Bits* __restrict x = codes;
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

// out[i] = sum[i], rounded once.
template <typename Sum>
void round(const Sum* __restrict sum, Dtype dtype, std::size_t start, std::size_t count,
           void* to) {
  if (narrow(dtype, sum, count, to, start)) return;
  with_element(dtype, [&](auto element, auto tag) {
    using Bits = typename decltype(element)::Bits;
    Bits* __restrict out = static_cast<Bits*>(to) + start;
    for (std::size_t i = 0; i < count; ++i) out[i] = ops::round_once<tag.value>(sum[i]);
  });
}

// Changes below this share of the weight are the sum's own rounding noise, not intended.
template <typename Sum>
constexpr Sum kNoise = sizeof(Sum) == 4 ? Sum{0x1p-21f} : Sum(0x1p-48);

// What `kLanes`-fold many elements with weights x, sums y and outputs z add to an Edit.
template <typename Sum>
void compare(const Sum* x, const Sum* y, const Sum* z, std::size_t count, Edit& edit) {
  using V = Vectors<Sum>;
  typename V::Vector intended_sq[kRegisters]{}, realised_sq[kRegisters]{},
      dot[kRegisters]{};
  typename V::Counts changed{}, intended{}, lost{};
  for (std::size_t i = 0; i < count; i += V::kLanes) {
    for (std::size_t part = 0; part < kRegisters; ++part) {
      const std::size_t at = i + part * V::kWidth;
      const auto from = V::load(x + at);
      const auto d = V::load(y + at) - from;
      const auto r = V::load(z + at) - from;
      const auto noise = from * kNoise<Sum>;
      const typename V::Counts meant = d * d > noise * noise;
      const typename V::Counts moved = r != 0;
      intended_sq[part] += d * d;
      realised_sq[part] += r * r;
      dot[part] += d * r;
      changed -= moved;  // true is -1
      intended -= meant;
      lost -= meant & ~moved;
    }
  }
  edit.changed = V::total(changed);
  edit.intended = V::total(intended);
  edit.lost = V::total(lost);
  edit.intended_sq = V::total(intended_sq);
  edit.realised_sq = V::total(realised_sq);
  edit.dot = V::total(dot);
}

template <typename Sum>
void decode(const void* from, Dtype dtype, std::size_t start, std::size_t count,
            Sum* __restrict to) {
  with_codes(dtype, from, start, count, [&](auto element, const auto* codes) {
    using Element = decltype(element);
    const typename Element::Bits* __restrict x = codes;
    for (std::size_t i = 0; i < count; ++i)
      to[i] = static_cast<Sum>(Element::decode(x[i]));
  });
}

// One tile's Edit; `sum` holds its accumulators, and room for whole lanes.
template <typename Sum>
void compare_tile(const CombineSlice& slice, std::size_t start, std::size_t count,
                  Sum* sum, Edit& edit) {
  alignas(64) Sum x[kTile], z[kTile];
  decode(slice.out, slice.out_dtype, start, count, z);
  if (slice.reference == nullptr) {
    std::memset(x, 0, sizeof x);
  } else {
    decode(slice.reference, slice.reference_dtype, start, count, x);
  }
  const std::size_t lanes = Vectors<Sum>::kLanes;
  const std::size_t padded = (count + lanes - 1) / lanes * lanes;
  for (std::size_t i = count; i < padded; ++i) x[i] = sum[i] = z[i] = 0;
  compare(x, sum, z, padded, edit);
  if (edit.realised_sq - edit.realised_sq == 0) return;  // finite
  edit.changed = 0;  // infinity - infinity is no change; NaN that stays is none either
  for (std::size_t i = 0; i < count; ++i) {
    edit.changed += x[i] != z[i] && (x[i] == x[i] || z[i] == z[i]) ? 1 : 0;
  }
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
    round(sum, slice.out_dtype, start, count, slice.out);
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

// Adds the inner products of `Rows` rows, kRowTile elements each, to gram (its lower
// triangle), and counts what is not 0. Rows are read once for all their products.
template <std::size_t Rows>
void add_products(const double* y, std::size_t stride, double* gram) {
  using V = Vectors<double>;
  V::Vector sums[Rows][Rows][kRegisters]{};
  for (std::size_t i = 0; i < kRowTile; i += V::kLanes) {
    for (std::size_t part = 0; part < kRegisters; ++part) {
      V::Vector row[Rows];
      for (std::size_t r = 0; r < Rows; ++r)
        row[r] = V::load(y + r * kRowTile + i + part * V::kWidth);
      for (std::size_t r = 0; r < Rows; ++r) {
        for (std::size_t s = 0; s <= r; ++s) sums[r][s][part] += row[r] * row[s];
      }
    }
  }
  for (std::size_t r = 0; r < Rows; ++r) {
    for (std::size_t s = 0; s <= r; ++s) gram[r * stride + s] += V::total(sums[r][s]);
  }
}

void add_product(const double* a, const double* b, double& product) {
  using V = Vectors<double>;
  V::Vector sum[kRegisters]{};
  for (std::size_t i = 0; i < kRowTile; i += V::kLanes) {
    for (std::size_t part = 0; part < kRegisters; ++part) {
      const std::size_t at = i + part * V::kWidth;
      sum[part] += V::load(a + at) * V::load(b + at);
    }
  }
  product += V::total(sum);
}

void add_gram(const double* y, std::size_t rows, double* gram) {
  if (rows == 1) return add_products<1>(y, rows, gram);
  if (rows == 2) return add_products<2>(y, rows, gram);
  if (rows == 3) return add_products<3>(y, rows, gram);
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t s = 0; s <= r; ++s)
      add_product(y + r * kRowTile, y + s * kRowTile, gram[r * rows + s]);
  }
}

std::uint64_t count_nonzero(const double* row) {
  using V = Vectors<double>;
  V::Counts found{};
  for (std::size_t i = 0; i < kRowTile; i += V::kWidth) found -= V::load(row + i) != 0;
  return V::total(found);
}

// Row r of a tile, and zeros behind its end.
void fill_row(const MeasureSlice& slice, std::size_t r, std::size_t start,
              std::size_t count, double* row) {
  bool first = true;
  for (std::size_t k = 0; k < slice.term_count; ++k) {
    const double coefficient = slice.rows[r * slice.term_count + k];
    if (coefficient == 0) continue;  // 0 * infinity would be NaN
    accumulate(slice.terms[k], start, count, coefficient, first, row);
    first = false;
  }
  const std::size_t filled = first ? 0 : count;
  std::memset(row + filled, 0, (kRowTile - filled) * sizeof(double));
}

void measure(const MeasureSlice& slice) {
  const std::size_t rows = slice.row_count;
  double* const y = new double[rows * kRowTile];
  for (std::size_t start = 0; start < slice.count; start += kRowTile) {
    const std::size_t count =
        slice.count - start < kRowTile ? slice.count - start : kRowTile;
    for (std::size_t r = 0; r < rows; ++r) {
      fill_row(slice, r, start, count, y + r * kRowTile);
      slice.nonzero[r] += count_nonzero(y + r * kRowTile);
    }
    add_gram(y, rows, slice.gram);
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
  digest_stripes(bytes, stripes, position, lanes);
  if (whole == size_bytes) return;
  unsigned char last[kStripeBytes] = {};
  std::memcpy(last, bytes + whole, size_bytes - whole);
  digest_stripes(last, 1, position + whole, lanes);
}

constexpr Kernels kKernels{TVMERGE_ISA_NAME, combine, measure, count_different, digest};

}  // namespace
}  // namespace tvmerge::TVMERGE_ISA
