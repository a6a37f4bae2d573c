// Elements between memory and arithmetic, a tile at a time (see kernels_body.hpp).
#pragma once

#include <cmath>
#include <cstring>
#include <type_traits>

#include "core/ops.hpp"
#include "kernels/kernels.hpp"

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
};

// The lanes for which a comparison holds: -1 in them, 0 in the others; or bits, where a
// processor makes them (overloads in kernels_avx*.cpp).
template <typename Vector>
inline auto greater_lanes(Vector a, Vector b) {
  return a > b;
}
template <typename Vector>
inline auto unequal_lanes(Vector a, Vector b) {
  return a != b;
}
template <typename Vector>
inline auto equal_lanes(Vector a, Vector b) {
  return a == b;
}
template <typename Vector>
using Lanes = decltype(unequal_lanes(Vector{}, Vector{}));

// How many lanes it was, all comparisons together.
template <typename Lanes>
class LaneCount {
 public:
  inline void add(Lanes found) { count_ -= found; }
  [[nodiscard]] std::uint64_t total() const {
    std::uint64_t sum = 0;
    for (std::size_t lane = 0; lane < sizeof count_ / sizeof count_[0]; ++lane)
      sum += static_cast<std::uint64_t>(count_[lane]);
    return sum;
  }

 private:
  Lanes count_{};
};
template <>
class LaneCount<unsigned> {
 public:
  inline void add(unsigned found) {
    count_ += static_cast<unsigned>(__builtin_popcount(found));
  }
  [[nodiscard]] std::uint64_t total() const { return count_; }

 private:
  std::uint64_t count_ = 0;
};

// Asks for elements before their turn. Where tiles of several terms are read in turn,
// processors' own fetching begins anew with each of them.
inline void fetch(const Term& term, std::size_t start, std::size_t count) {
  constexpr std::size_t kLineBytes = 64;
  const std::size_t width = size_of(term.dtype);
  const auto* const from = static_cast<const unsigned char*>(term.data) + start * width;
  for (std::size_t at = 0; at < count * width; at += kLineBytes)
    __builtin_prefetch(from + at, 0, 2);
}

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

}  // namespace
}  // namespace tvmerge::TVMERGE_ISA
