// Per-element functors: how one element of each dtype becomes a float and is rounded
// back.
//
// One source for every instruction set (and for device code): plain integer and float
// arithmetic without branches, which compilers turn into vector code. Everything here is
// forced inline, so that a copy compiled for AVX2 can never be linked into the plain
// path.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/dtype.hpp"

#ifdef __CUDACC__
#define TVMERGE_FN static __host__ __device__ __forceinline__
#else
#define TVMERGE_FN static inline __attribute__((always_inline))
#endif

namespace tvmerge::ops {

TVMERGE_FN std::uint32_t bits_of(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

TVMERGE_FN float float_of(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

TVMERGE_FN std::uint64_t bits_of(double value) {
  std::uint64_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

TVMERGE_FN double double_of(std::uint64_t bits) {
  double value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// An IEEE-like format narrower than float. `has_infinity` false is the "FN" family (OCP
// 8-bit floats, E4M3): the all-ones code is NaN, there is no infinity, and overflow
// rounds to NaN.
template <typename Bits, int exponent_bits, int mantissa_bits, bool has_infinity>
struct SmallFloat {
  static constexpr int kShift = 23 - mantissa_bits;
  static constexpr int kBias = (1 << (exponent_bits - 1)) - 1;
  static constexpr std::uint32_t kRebias = static_cast<std::uint32_t>(127 - kBias) << 23;
  static constexpr std::uint32_t kMagnitude = (1u << (exponent_bits + mantissa_bits)) - 1;
  static constexpr std::uint32_t kMaxExponent = ((1u << exponent_bits) - 1)
                                                << mantissa_bits;
  // The first code past the finite ones, which overflow rounds to.
  static constexpr std::uint32_t kOverflow = has_infinity ? kMaxExponent : kMagnitude;
  static constexpr std::uint32_t kNaN =
      has_infinity ? kMaxExponent | (1u << (mantissa_bits - 1)) : kMagnitude;

  TVMERGE_FN float decode(Bits code) {
    const std::uint32_t magnitude = code & kMagnitude;
    const std::uint32_t aligned = magnitude << kShift;
    const std::uint32_t smallest_normal = kRebias + (1u << 23);
    // A subnormal gets the implicit one of the smallest normal, which is then taken away
    // again.
    const float subnormal =
        float_of(aligned + smallest_normal) - float_of(smallest_normal);
    std::uint32_t bits = aligned + kRebias;
    bits = aligned < (1u << 23) ? bits_of(subnormal) : bits;
    const bool special =
        has_infinity ? magnitude >= kMaxExponent : magnitude == kMagnitude;
    bits = special ? (aligned | 0x7f800000u) : bits;
    return float_of(bits | (static_cast<std::uint32_t>(code) & (kMagnitude + 1))
                               << (31 - exponent_bits - mantissa_bits));
  }

  // Round to nearest, ties to even.
  TVMERGE_FN Bits encode(float value) {
    const std::uint32_t bits = bits_of(value);
    const std::uint32_t magnitude = bits & 0x7fffffffu;
    const std::uint32_t sign = (bits >> 31) << (exponent_bits + mantissa_bits);
    const std::uint32_t odd = (magnitude >> kShift) & 1u;
    const std::uint32_t half_below = (1u << (kShift - 1)) - 1;
    std::uint32_t code = (magnitude - kRebias + half_below + odd) >> kShift;
    // Below the smallest normal, adding a number whose unit in the last place is the
    // smallest subnormal lets the floating-point unit do the rounding.
    constexpr std::uint32_t kAligner =
        (static_cast<std::uint32_t>(127 - kBias + 1 + kShift)) << 23;
    const std::uint32_t subnormal =
        bits_of(float_of(magnitude) + float_of(kAligner)) - kAligner;
    code = magnitude < kRebias + (1u << 23) ? subnormal : code;
    code = magnitude >= kRebias && code > kOverflow ? kOverflow : code;
    const bool overflows_to_nan = !has_infinity && code == kOverflow;
    code = magnitude > 0x7f800000u || overflows_to_nan ? kNaN : (code | sign);
    return static_cast<Bits>(code);
  }
};

// Converts one element of dtype D between memory and arithmetic. NaN is stored in one
// canonical form: which payload an fma passes on differs between instruction sets.
template <Dtype D>
struct Element;

template <Dtype D>
struct DtypeTag {
  static constexpr Dtype value = D;
};

template <>
struct Element<Dtype::f64> {
  using Bits = std::uint64_t;
  TVMERGE_FN double decode(Bits code) { return double_of(code); }
  TVMERGE_FN Bits encode(double value) {
    return value != value ? 0x7ff8000000000000u : bits_of(value);
  }
};

template <>
struct Element<Dtype::f32> {
  using Bits = std::uint32_t;
  TVMERGE_FN float decode(Bits code) { return float_of(code); }
  TVMERGE_FN Bits encode(float value) {
    return value != value ? 0x7fc00000u : bits_of(value);
  }
};

// Codes that have been turned to float32 already.
struct Wide {
  using Bits = float;
  TVMERGE_FN float decode(float value) { return value; }
};

template <>
struct Element<Dtype::bf16> {
  using Bits = std::uint16_t;
  TVMERGE_FN float decode(Bits code) {
    return float_of(static_cast<std::uint32_t>(code) << 16);
  }
  TVMERGE_FN Bits encode(float value) {
    const std::uint32_t bits = bits_of(value);
    const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return static_cast<Bits>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
  }
};

template <>
struct Element<Dtype::f16> : SmallFloat<std::uint16_t, 5, 10, true> {
  using Bits = std::uint16_t;
};

template <>
struct Element<Dtype::f8_e4m3> : SmallFloat<std::uint8_t, 4, 3, false> {
  using Bits = std::uint8_t;
};

template <>
struct Element<Dtype::f8_e5m2> : SmallFloat<std::uint8_t, 5, 2, true> {
  using Bits = std::uint8_t;
};

// Rounds to float such that a second rounding to a narrower format gives what one
// rounding from double would have given: "round to odd" (Boldo and Melquiond, 2008).
TVMERGE_FN float round_to_odd(double value) {
  const float nearest = static_cast<float>(value);
  const std::uint32_t bits = bits_of(nearest);
  const bool exact = static_cast<double>(nearest) == value || value != value;
  // When nearest lies beyond value, the neighbour towards zero is the truncation.
  const bool beyond = (nearest < 0 ? -static_cast<double>(nearest) : nearest) >
                      (value < 0 ? -value : value);
  const std::uint32_t truncated = beyond ? bits - 1 : bits;
  return float_of(exact ? bits : truncated | 1u);
}

// Rounds an accumulator to dtype D, once.
template <Dtype D>
TVMERGE_FN typename Element<D>::Bits round_once(float value) {
  return Element<D>::encode(value);
}
template <Dtype D>
TVMERGE_FN typename Element<D>::Bits round_once(double value) {
  if constexpr (D == Dtype::f64) {
    return Element<D>::encode(value);
  } else if constexpr (D == Dtype::f32) {
    return Element<D>::encode(static_cast<float>(value));
  } else {
    return Element<D>::encode(round_to_odd(value));
  }
}

}  // namespace tvmerge::ops
