// What deltas agree on (consensus.hpp) as a kernel's parameter, and at one element.
#pragma once

#include <algorithm>

#include "cuda/compare.cuh"
#include "cuda/deltas.cuh"

namespace tvmerge::cuda {

template <typename Sum, unsigned Most>
struct Agreement {
  Terms<Most> terms;  // the first is the base; the others only for the variance
  CardPart<Sum> parts[Most];
  unsigned part_count;
  Sum scale, least;
  bool elects, any_sign, normalizes, takes_largest, counts_alone, ranks_variance;
  std::uint64_t first;
  void* out;
  Edit* edits;
  std::size_t count;
  std::size_t first_tile;  // of those that the kernel for any tile looks at
  Dtype out_dtype;
};

// What takes part of every delta at one element; made again when it is asked for again.
template <typename Sum, unsigned Most>
struct MadeValues {
  const Agreement<Sum, Most>& all;
  std::size_t i;
  Sum base;
  float variance;

  __device__ __forceinline__ Sum operator()(unsigned p) const {
    const CardPart<Sum>& part = all.parts[p];
    const Sum delta = value_at<Sum>(part.term, i) - base;
    return kept_value(part, delta, variance, i, all.first + i);
  }
};

// Before it is rounded. `value(p)` is what takes part of delta p.
template <typename Sum, unsigned Most, typename Value>
__device__ __forceinline__ Sum agreed_at(const Agreement<Sum, Most>& all, Sum base,
                                         const Value& value) {
  Sum sum = 0, weight = 0;
  for (unsigned p = 0; p < all.part_count; ++p) sum += value(p);
  if (all.elects) {
    const Sum whole = sum;
    const bool negative = whole < 0;
    Sum agreed = 0, once = 0, number = 0;
    for (unsigned p = 0; p < all.part_count; ++p) {
      const CardPart<Sum>& part = all.parts[p];
      const Sum one = value(p);
      const bool agrees = ops::agrees(one, negative, all.any_sign);
      const Sum late = part.late * one;
      const Sum larger = agrees && ops::is_larger(late, agreed) ? late : agreed;
      agreed = all.takes_largest ? larger : agreed + (agrees ? late : Sum{0});
      weight += agrees ? part.own : Sum{0};
      const bool counts = ops::counts(one, whole - one, part.threshold, agrees);
      once = counts ? part.alone : once;
      number += counts ? part.votes : Sum{0};
    }
    if (all.takes_largest) agreed = ops::shown(agreed, whole);
    sum = all.counts_alone && number == 1 ? once * agreed : agreed;
    sum = ops::backed(sum, number >= all.least);
  }
  if (all.normalizes) sum /= weight != 0 ? weight : Sum{1};
  return fused(all.scale, sum, base);
}

// Elements [start, end) of a tile, any dtypes.
template <typename Sum, unsigned Most>
__device__ __forceinline__ Edit agree_in_order(const Agreement<Sum, Most>& all,
                                               std::size_t start, std::size_t end) {
  Comparison<Sum> comparison;
  for (std::size_t i = start + threadIdx.x % kLanes<Sum>; i < end; i += kLanes<Sum>) {
    const Sum base = value_at<Sum>(all.terms.at[0], i);
    const float variance = all.ranks_variance ? variance_at(all.terms, i) : 0;
    const Sum sum = agreed_at(all, base, MadeValues<Sum, Most>{all, i, base, variance});
    const Sum z = AnyDtype::store(all.out_dtype, all.out, i, sum);
    if (all.edits != nullptr) comparison.add(base, sum, z);
  }
  return all.edits != nullptr ? comparison.template edit<kLanes<Sum>>() : Edit{};
}

template <typename Sum, unsigned Most>
Agreement<Sum, Most> agreement(const ConsensusSlice& slice) {
  const Consensus& consensus = *slice.consensus;
  Agreement<Sum, Most> all{};
  all.terms =
      card_terms<Most>(slice.terms, std::min<std::size_t>(slice.term_count, Most));
  all.part_count = static_cast<unsigned>(consensus.parts.size());
  all.scale = static_cast<Sum>(consensus.scale);
  all.any_sign = !consensus.elect;
  all.least = static_cast<Sum>(consensus.least);
  all.normalizes = consensus.normalize;
  all.takes_largest = consensus.largest;
  all.first = slice.first;
  all.out = slice.out;
  all.edits = slice.edits;
  all.count = slice.count;
  all.out_dtype = slice.out_dtype;
  for (unsigned p = 0; p < all.part_count; ++p) {
    const Part& part = consensus.parts[p];
    const double factor = consensus.elect_first ? part.gain : part.weight * part.gain;
    const double late = consensus.elect_first ? part.weight : 1;
    all.parts[p] = card_part<Sum>(
        part, slice.terms, factor, late,
        slice.limits == nullptr ? nullptr : slice.limits + p * slice.count);
    all.counts_alone = all.counts_alone || part.alone != 1;
    all.ranks_variance = all.ranks_variance || part.keep.of_variance;
  }
  all.elects = consensus.elect || consensus.normalize || consensus.largest ||
               consensus.least > 0 || all.counts_alone;
  return all;
}

}  // namespace tvmerge::cuda
