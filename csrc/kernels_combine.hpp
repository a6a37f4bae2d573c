// Combining: tiles summed, rounded once and compared with what they come from (see
// kernels_body.hpp).
#pragma once

#include "kernels_codes.hpp"
#include "kernels_compare.hpp"
#include "kernels_fused.hpp"

namespace tvmerge::TVMERGE_ISA {
namespace {

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
  using V = Vectors<Sum>;
  const std::size_t padded = (count + V::kLanes - 1) / V::kLanes * V::kLanes;
  for (std::size_t i = count; i < padded; ++i) x[i] = sum[i] = z[i] = 0;
  Comparison<Sum> comparison;
  for (std::size_t i = 0; i < padded; i += V::kLanes) {
    for (std::size_t part = 0; part < kRegisters; ++part) {
      const std::size_t at = i + part * V::kWidth;
      comparison.add(part, V::load(x + at), V::load(sum + at), V::load(z + at));
    }
  }
  edit = comparison.total();
  if (edit.realised_sq - edit.realised_sq != 0) edit.changed = count_changed(x, z, count);
}

// Rounds a tile's sums, and compares if that is asked for.
template <typename Sum>
void finish_tile(const CombineSlice& slice, std::size_t start, std::size_t count,
                 Sum* sum) {
  round(sum, slice.out_dtype, start, count, slice.out);
  if (slice.edits != nullptr)
    compare_tile(slice, start, count, sum, slice.edits[start / kTile]);
}

template <typename Sum>
void combine_tile(const CombineSlice& slice, std::size_t start, std::size_t count) {
  alignas(64) Sum sum[kTile];
  if (slice.term_count == 0) std::memset(sum, 0, sizeof sum);
  for (std::size_t k = 0; k < slice.term_count; ++k) {
    accumulate(slice.terms[k], start, count, slice.terms[k].coefficient, k == 0, sum);
  }
  finish_tile(slice, start, count, sum);
}

void combine_bfloat16(const CombineSlice& slice, std::size_t start, std::size_t count) {
  const Edit edit = combine_bfloat16_tile(slice, start, count);
  if (slice.edits == nullptr) return;
  slice.edits[start / kTile] = edit;
  // NaN and infinity are another path's business.
  if (edit.intended_sq - edit.intended_sq != 0) combine_tile<float>(slice, start, count);
}

void combine(const CombineSlice& slice) {
  const auto tile =
      is_bfloat16_alone(slice) ? combine_bfloat16
      : accumulates_in_double(slice.terms, slice.term_count, slice.out_dtype)
          ? combine_tile<double>
          : combine_tile<float>;
  for (std::size_t start = 0; start < slice.count; start += kTile)
    tile(slice, start, std::min(kTile, slice.count - start));
}

}  // namespace
}  // namespace tvmerge::TVMERGE_ISA
