// Two registers of float32 from memory and back, for loops that keep elements in
// registers (kernels_fused.hpp, kernels_difference.hpp): one Codec per narrow dtype.
//
// 64 bytes of bfloat16 are 16 words of two elements. The even element of a word becomes
// float32 by a shift and the odd one by a mask, so lanes hold every other element: the
// order of the sums differs from that of other dtypes, and is the same for every
// instruction set. float16 and 8-bit floats go through the processor's own conversion of
// float16, in their order.
#pragma once

#include "kernels/kernels_codes.hpp"

namespace tvmerge::TVMERGE_ISA {
namespace {

using Floats = Vectors<float>::Vector;
typedef std::int32_t Ints __attribute__((vector_size(TVMERGE_VECTOR_BYTES)));
typedef std::uint32_t Words __attribute__((vector_size(TVMERGE_VECTOR_BYTES)));

// The elements of two registers.
constexpr std::size_t kPairElements = TVMERGE_VECTOR_BYTES / 2;
struct Pair {
  Floats first, second;
};

inline Words load_words(const void* from) {
  Words words;
  std::memcpy(&words, from, sizeof words);
  return words;
}

// A Codec loads a Pair, and stores one, returning what the stored codes stand for. NaN is
// made canonical only where `Nans`: whoever compares sees it in the sums. place_1 and
// place_2 say where the registers of a row's pair number `part` are among the lanes.
struct Bfloat16 {
  static constexpr std::size_t kBytes = 2;
  static constexpr std::size_t place_1(std::size_t part) { return part; }
  static constexpr std::size_t place_2(std::size_t part) { return part; }

  static inline Pair load(const unsigned char* from) {
    const Words words = load_words(from);
    return {(Floats)(words << 16), (Floats)(words & 0xffff0000u)};
  }
  template <bool Nans>
  static inline Pair store(Pair sum, unsigned char* to) {
    const Words low = rounded<Nans>(sum.first), high = rounded<Nans>(sum.second);
    const Words out = low >> 16 | high;
    std::memcpy(to, &out, sizeof out);
    return {(Floats)low, (Floats)high};
  }

 private:
  // As ops::Element<Dtype::bf16>::encode, left in the upper half of each word.
  template <bool Nans>
  static inline Words rounded(Floats value) {
    const Words bits = (Words)value;
    const Words nearest = bits + 0x7fffu + ((bits >> 16) & 1u);
    if constexpr (!Nans) return nearest & 0xffff0000u;
    return (value == value ? nearest : Words{} + 0x7fc00000u) & 0xffff0000u;
  }
};

#ifdef TVMERGE_HALF
// One register's codes widened to 16 bits each.
typedef std::int16_t Shorts __attribute__((vector_size(TVMERGE_VECTOR_BYTES / 2)));

// To the nearest multiple (ties to even) of a narrower float's last place: adding a
// number whose last place is that lets the floating-point unit do the rounding. What
// overflows stays beyond the largest; signs of zeros are kept.
template <int mantissa_bits, int bias>
inline Floats on_grid(Floats value) {
  constexpr std::int32_t kSmallest = (127 - bias + 1) << 23, kLargest = (127 + bias + 2)
                                                                        << 23;
  const Ints bits = (Ints)value;
  const Ints size = bits & 0x7fffffff;
  Ints exponent = size & 0x7f800000;
  exponent = exponent < kSmallest ? Ints{} + kSmallest : exponent;
  exponent = exponent > kLargest ? Ints{} + kLargest : exponent;
  const Floats aligner = (Floats)(exponent + ((23 - mantissa_bits) << 23));
  const Floats nearest = ((Floats)size + aligner) - aligner;
  return (Floats)((Ints)nearest | (bits & std::int32_t{INT32_MIN}));
}

template <bool Nans>
inline Shorts canonical(Shorts half) {
  if constexpr (!Nans) return half;
  return (half & 0x7fff) > 0x7c00 ? Shorts{} + std::int16_t{0x7e00} : half;
}

struct Float16 {
  static constexpr std::size_t kBytes = 2;

  static inline Floats load(const unsigned char* from) {
    Shorts half;
    std::memcpy(&half, from, sizeof half);
    return floats_of(half);
  }
  template <bool Nans>
  static inline Floats store(Floats value, unsigned char* to) {
    const Shorts half = canonical<Nans>(halves_of(value));
    std::memcpy(to, &half, sizeof half);
    return floats_of(half);
  }
};

// float16 with a shorter mantissa.
struct Float8E5M2 {
  static constexpr std::size_t kBytes = 1;

  static inline Floats load(const unsigned char* from) {
    return floats_of(load_bytes(from) << 8);
  }
  template <bool Nans>
  static inline Floats store(Floats value, unsigned char* to) {
    const Shorts half = canonical<Nans>(halves_of(on_grid<2, 15>(value)));
    store_bytes((half >> 8) & 0xff, to);
    return floats_of(half);
  }
};

// The exponent's bias is 7 where float16 has 15: 2^8 too small, subnormals included. What
// would be 480 is NaN, and there is no infinity.
struct Float8E4M3 {
  static constexpr std::size_t kBytes = 1;
  static constexpr std::int16_t kNaN = 0x3f80, kHalfNaN = 0x7e00;

  static inline Floats load(const unsigned char* from) {
    const Shorts half = (load_bytes(from) << 7) & std::int16_t(0xbfff);
    // The last place added to NaN, and to nothing else, carries into the top exponent
    // bit.
    return floats_of(half | ((half + 0x80) & 0x4000)) * 256.0f;
  }
  template <bool Nans>
  static inline Floats store(Floats value, unsigned char* to) {
    const Shorts half = halves_of(on_grid<3, 7>(value) * 0x1p-8f);
    const Shorts size = half & 0x7fff;
    const Shorts code = ((half >> 8) & 0x80) | (size >> 7);
    store_bytes(size >= kNaN ? Shorts{} + std::int16_t{0x7f} : code, to);
    return floats_of(size >= kNaN ? Shorts{} + kHalfNaN : half) * 256.0f;
  }
};

// Registers one after the other.
template <typename One>
struct InOrder {
  static constexpr std::size_t kBytes = One::kBytes;
  static constexpr std::size_t kSecond = kPairElements / 2 * kBytes;
  static constexpr std::size_t place_1(std::size_t part) { return 2 * part % kRegisters; }
  static constexpr std::size_t place_2(std::size_t part) {
    return (2 * part + 1) % kRegisters;
  }

  static inline Pair load(const unsigned char* from) {
    return {One::load(from), One::load(from + kSecond)};
  }
  template <bool Nans>
  static inline Pair store(Pair sum, unsigned char* to) {
    return {One::template store<Nans>(sum.first, to),
            One::template store<Nans>(sum.second, to + kSecond)};
  }
};
#endif

}  // namespace
}  // namespace tvmerge::TVMERGE_ISA
