// How two tensors differ, in registers: their inner products, that of b - a with itself,
// and the elements that differ, for `diff` (kernels_measure.hpp has any other sums).
#pragma once

#include "kernels/kernels_pairs.hpp"

namespace tvmerge::TVMERGE_ISA {
namespace {

using Doubles = Vectors<double>::Vector;

// Where products are exact (of floats narrower than float64) an fma gives the same bits.
template <bool Exact>
inline Doubles add_exact(Doubles a, Doubles b, Doubles sum) {
#ifdef TVMERGE_HALF
  if constexpr (Exact) return fused_lanes(a, b, sum);
#endif
  return sum + a * b;
}

class Differing {
 public:
  template <bool Exact>
  inline void add(std::size_t part, Doubles a, Doubles b) {
    const Doubles d = b - a;
    aa_[part] = add_exact<Exact>(a, a, aa_[part]);
    ab_[part] = add_exact<Exact>(a, b, ab_[part]);
    bb_[part] = add_exact<Exact>(b, b, bb_[part]);
    dd_[part] += d * d;  // b - a has more digits: rounded, then added
  }
  // A register of float32 is two of float64; lanes are 8, so two registers may share one.
  inline void add(std::size_t part, Floats a, Floats b) {
    changed_.add(unequal_lanes(a, b));
    add<true>(2 * part % kRegisters, widened_low(a), widened_low(b));
    add<true>((2 * part + 1) % kRegisters, widened_high(a), widened_high(b));
  }
  void add_to(double* gram, std::uint64_t& changed) const {
    using V = Vectors<double>;
    gram[0] += V::total(aa_);
    gram[1] += V::total(ab_);
    gram[2] += V::total(bb_);
    gram[3] += V::total(dd_);
    changed += changed_.total();
  }

 private:
  Doubles aa_[kRegisters]{}, ab_[kRegisters]{}, bb_[kRegisters]{}, dd_[kRegisters]{};
  LaneCount<Lanes<Floats>> changed_;
};

// One tile, its even elements or its odd ones. Both at once where that many sums fit into
// registers, else one after the other: the same bits.
template <bool Even, bool Odd>
void differ_words(const unsigned char* a, const unsigned char* b, double* gram,
                  std::uint64_t& changed) {
  Differing evens, odds;
  for (std::size_t row = 0; row < kTile * sizeof(std::uint16_t); row += kLaneBytes) {
    for (std::size_t part = 0; part < kRegisters; ++part) {
      const std::size_t at = row + part * TVMERGE_VECTOR_BYTES;
      const Pair x = Bfloat16::load(a + at), y = Bfloat16::load(b + at);
      if constexpr (Even) evens.add(part, x.first, y.first);
      if constexpr (Odd) odds.add(part, x.second, y.second);
    }
  }
  if constexpr (Even) evens.add_to(gram, changed);
  if constexpr (Odd) odds.add_to(gram, changed);
}

void differ_bfloat16(const unsigned char* a, const unsigned char* b, double* gram,
                     std::uint64_t& changed) {
  if constexpr (kRegisters == 1) return differ_words<true, true>(a, b, gram, changed);
  differ_words<true, false>(a, b, gram, changed);
  differ_words<false, true>(a, b, gram, changed);
}

void differ_floats(const float* a, const float* b, std::size_t padded, double* gram,
                   std::uint64_t& changed) {
  using V = Vectors<float>;
  Differing sums;
  for (std::size_t i = 0; i < padded; i += V::kLanes) {
    for (std::size_t part = 0; part < kRegisters; ++part) {
      const std::size_t at = i + part * V::kWidth;
      sums.add(part, V::load(a + at), V::load(b + at));
    }
  }
  sums.add_to(gram, changed);
}

void differ_floats(const double* a, const double* b, std::size_t padded, double* gram,
                   std::uint64_t& changed) {
  using V = Vectors<double>;
  Differing sums;
  for (std::size_t i = 0; i < padded; i += V::kLanes) {
    for (std::size_t part = 0; part < kRegisters; ++part) {
      const std::size_t at = i + part * V::kWidth;
      sums.add<false>(part, V::load(a + at), V::load(b + at));
    }
  }
  sums.add_to(gram, changed);
  for (std::size_t i = 0; i < padded; ++i) changed += a[i] != b[i] ? 1 : 0;
}

template <typename Number>
void differ_tile(const MeasureSlice& slice, std::size_t start, std::size_t count) {
  alignas(64) Number a[kTile], b[kTile];
  decode(slice.terms[0].data, slice.terms[0].dtype, start, count, a);
  decode(slice.terms[1].data, slice.terms[1].dtype, start, count, b);
  using V = Vectors<float>;
  const std::size_t padded =
      (count + V::kLanes - 1) / V::kLanes * V::kLanes;  // whole lanes of either
  std::memset(a + count, 0, (padded - count) * sizeof(Number));
  std::memset(b + count, 0, (padded - count) * sizeof(Number));
  differ_floats(a, b, padded, slice.gram, slice.nonzero[0]);
}

void differ(const MeasureSlice& slice) {
  const auto* const a = static_cast<const unsigned char*>(slice.terms[0].data);
  const auto* const b = static_cast<const unsigned char*>(slice.terms[1].data);
  const bool wide =
      slice.terms[0].dtype == Dtype::f64 || slice.terms[1].dtype == Dtype::f64;
  const bool bfloat16 =
      slice.terms[0].dtype == Dtype::bf16 && slice.terms[1].dtype == Dtype::bf16;
  for (std::size_t start = 0; start < slice.count; start += kTile) {
    const std::size_t count = std::min(kTile, slice.count - start);
    if (bfloat16 && count == kTile) {
      const std::size_t at = start * sizeof(std::uint16_t);
      differ_bfloat16(a + at, b + at, slice.gram, slice.nonzero[0]);
    } else if (wide) {
      differ_tile<double>(slice, start, count);
    } else {
      differ_tile<float>(slice, start, count);
    }
  }
}

}  // namespace
}  // namespace tvmerge::TVMERGE_ISA
