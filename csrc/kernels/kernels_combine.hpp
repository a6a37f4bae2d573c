// Combining: tiles summed, rounded once and compared with what they come from (see
// kernels_body.hpp).
#pragma once

#include "kernels/kernels_codes.hpp"
#include "kernels/kernels_compare.hpp"
#include "kernels/kernels_fused.hpp"
#include "kernels/kernels_lines.hpp"

namespace tvmerge::TVMERGE_ISA {
namespace {

// One tile's Edit; `sum` holds its accumulators, `x` what they are compared with, and
// both have room for whole lanes.
template <typename Sum>
void compare_tile(const CombineSlice& slice, std::size_t start, std::size_t count,
                  Sum* sum, Sum* x, Edit& edit) {
  alignas(64) Sum z[kTile];
  decode(slice.out, slice.out_dtype, start, count, z);
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

// Rounds a tile's sums, and compares them with `x` if that is asked for.
template <typename Sum>
void finish_tile(const CombineSlice& slice, std::size_t start, std::size_t count,
                 Sum* sum, Sum* x) {
  round(sum, slice.out_dtype, start, count, slice.out);
  if (slice.edits != nullptr)
    compare_tile(slice, start, count, sum, x, slice.edits[start / kTile]);
}

template <typename Sum>
void finish_tile(const CombineSlice& slice, std::size_t start, std::size_t count,
                 Sum* sum) {
  alignas(64) Sum x[kTile];
  if (slice.edits == nullptr || slice.reference == nullptr) {
    std::memset(x, 0, sizeof x);
  } else {
    decode(slice.reference, slice.reference_dtype, start, count, x);
  }
  finish_tile(slice, start, count, sum, x);
}

template <typename Sum>
void combine_tile(const CombineSlice& slice, std::size_t start, std::size_t count) {
  alignas(64) Sum sum[kTile];
  if (slice.lines != nullptr) {
    sum_lines(slice, start, count, sum);
    return finish_tile(slice, start, count, sum);
  }
  if (slice.term_count == 0) std::memset(sum, 0, sizeof sum);
  for (std::size_t k = 0; k < slice.term_count; ++k) {
    accumulate(slice.terms[k], start, count, slice.terms[k].coefficient, k == 0, sum);
  }
  finish_tile(slice, start, count, sum);
}

template <typename Sum>
void combine_tiles(const CombineSlice& slice) {
  for (std::size_t start = 0; start < slice.count; start += kTile)
    combine_tile<Sum>(slice, start, std::min(kTile, slice.count - start));
}

template <typename Codec>
void combine_alone(const CombineSlice& slice) {
  CombineSlice rows = slice;
  // A tensor's end in order: as instruction sets sum it that have no such Codec.
  if (!std::is_same_v<Codec, Bfloat16>) rows.count -= slice.count % kTile;
  combine_rows<Codec>(rows);
  if (rows.count < slice.count) {
    if (digests_rows(slice)) digest_terms(slice, rows.count * Codec::kBytes);
    combine_tile<float>(slice, rows.count, slice.count - rows.count);
  }
  if (slice.edits == nullptr) return;
  for (std::size_t start = 0; start < rows.count; start += kTile) {
    const Edit& edit = slice.edits[start / kTile];
    // NaN and infinity are another path's business.
    const double sum = edit.intended_sq + edit.realised_sq;
    if (sum - sum != 0)
      combine_tile<float>(slice, start, std::min(kTile, rows.count - start));
  }
}

void combine(const CombineSlice& slice) {
  const bool alone = slice.lines == nullptr && is_alone(slice);
  if (!alone || !digests_rows(slice)) digest_terms(slice, 0);
  if (alone && slice.out_dtype == Dtype::bf16) return combine_alone<Bfloat16>(slice);
#ifdef TVMERGE_HALF
  if (alone && slice.out_dtype == Dtype::f16)
    return combine_alone<InOrder<Float16>>(slice);
  if (alone && slice.out_dtype == Dtype::f8_e4m3)
    return combine_alone<InOrder<Float8E4M3>>(slice);
  if (alone && slice.out_dtype == Dtype::f8_e5m2)
    return combine_alone<InOrder<Float8E5M2>>(slice);
#endif
  if (accumulates_in_double(slice.terms, slice.term_count, slice.out_dtype))
    return combine_tiles<double>(slice);
  combine_tiles<float>(slice);
}

}  // namespace
}  // namespace tvmerge::TVMERGE_ISA
