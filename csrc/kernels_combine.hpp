// Combining: tiles summed, rounded once and compared with what they come from (see
// kernels_body.hpp).
#pragma once

#include "kernels_codes.hpp"

namespace tvmerge::TVMERGE_ISA {
namespace {

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

}  // namespace
}  // namespace tvmerge::TVMERGE_ISA
