// Deltas of which some elements take part (consensus.hpp), element by element:
// kernels_select.hpp and the masks of kernels_consensus.hpp on a card.
#pragma once

#include <cmath>

#include "core/ops_consensus.hpp"
#include "cuda/launches.hpp"
#include "cuda/tile.cuh"

namespace tvmerge::cuda {

// The terms of a slice as a kernel's parameter; the first is the base.
template <unsigned Most>
struct Terms {
  CardTerm at[Most];
  unsigned count;
};

template <unsigned Most>
Terms<Most> card_terms(const Term* terms, std::size_t count) {
  Terms<Most> made{{}, static_cast<unsigned>(count)};
  for (std::size_t k = 0; k < count; ++k)
    made.at[k] = {terms[k].data, terms[k].coefficient, terms[k].dtype};
  return made;
}

// In float32, by float64 where either side is.
__device__ __forceinline__ float delta_at(const CardTerm& base, const CardTerm& x,
                                          std::size_t i) {
  if (base.dtype != Dtype::f64 && x.dtype != Dtype::f64)
    return value_at<float>(x, i) - value_at<float>(base, i);
  return static_cast<float>(value_at<double>(x, i) - value_at<double>(base, i));
}

// The population variance of all terms' deltas from the first term, as variance_of of
// kernels_select.hpp has it.
template <unsigned Most>
__device__ __forceinline__ float variance_at(const Terms<Most>& terms, std::size_t i) {
  const auto times = static_cast<float>(terms.count - 1);
  float whole = 0, square = 0;
  for (unsigned k = 1; k < terms.count; ++k)
    whole += delta_at(terms.at[0], terms.at[k], i);
  for (unsigned k = 1; k < terms.count; ++k) {
    const float apart = delta_at(terms.at[0], terms.at[k], i) * times - whole;
    square += apart * apart;
  }
  return square * (1.0f / (times * times * times));
}

// A part as a kernel's parameter: its numbers in Sum already, and the smallest keys that
// its cuts hold, of elements before the end of their ties and behind it.
struct CardCut {
  Key before, after;
  std::uint64_t ties_end;
};
template <typename Sum>
struct CardPart {
  CardTerm term;
  Sum factor, own, late, alone, limit, threshold, votes;
  CardCut outer, inner;
  std::uint64_t random_below, key;
  // Whether every element is drawn, or the bits of its row's factor; null: drawn here.
  const std::uint32_t* limits;
  bool of_variance, weighed, limited;
  // Nothing is cut from above, and from below not NaN's keys: magnitudes can be compared
  // as they are.
  bool compares_numbers;
};

inline CardCut card_cut(const Cut& cut) {
  return {ops::limit_of(cut, true), ops::limit_of(cut, false), cut.ties_end};
}

// `factor` is what a value is multiplied with; `late` what it is in the election.
template <typename Sum>
CardPart<Sum> card_part(const Part& part, const Term* terms, double factor, double late,
                        const std::uint32_t* limits) {
  const Term& term = terms[part.source];
  return {{term.data, 0, term.dtype},
          static_cast<Sum>(factor),
          static_cast<Sum>(std::fabs(part.weight)),
          static_cast<Sum>(late),
          static_cast<Sum>(part.alone),
          static_cast<Sum>(part.limit),
          static_cast<Sum>(part.threshold),
          static_cast<Sum>(part.votes),
          card_cut(part.keep.outer),
          card_cut(part.keep.inner),
          part.keep.random_below,
          part.keep.key,
          part.keep.row != 0 ? limits : nullptr,
          part.keep.of_variance,
          part.keep.factors != nullptr,
          std::isfinite(part.limit),
          part.keep.inner.key == kNone.key && part.keep.outer.key < 0x7f800000u};
}

// How many of `count` elements, the first being `element` of its tensor, come before the
// end of a cut's ties.
__device__ __forceinline__ unsigned ties_left(const CardCut& cut, std::uint64_t element,
                                              unsigned count) {
  if (cut.ties_end <= element) return 0;
  return cut.ties_end - element < count ? static_cast<unsigned>(cut.ties_end - element)
                                        : count;
}

// What takes part of a delta, if it is drawn, before it is limited; its element is in the
// ties of the two cuts, or behind them.
template <typename Sum>
__device__ __forceinline__ Sum cut_value(const CardPart<Sum>& part, Sum delta,
                                         float ranked, bool outer_ties, bool inner_ties,
                                         bool drawn) {
  const Key key = ops::key_of(ranked);
  const bool kept = drawn && key >= (outer_ties ? part.outer.before : part.outer.after) &&
                    key < (inner_ties ? part.inner.before : part.inner.after);
  return kept ? part.factor * delta : Sum{0};
}

// What takes part of the delta of element i of the slice, which is `element` of its
// tensor.
template <typename Sum>
__device__ __forceinline__ Sum kept_value(const CardPart<Sum>& part, Sum delta,
                                          float variance, std::size_t i,
                                          std::uint64_t element) {
  bool drawn = true;
  if (part.random_below < kAlways) {
    drawn = part.limits != nullptr
                ? part.limits[i] != 0
                : ops::draw_of(part.key, element, kTile) < part.random_below;
  }
  float ranked = part.of_variance ? variance : static_cast<float>(delta);
  if (part.weighed) ranked = ops::weighed(ranked, part.limits[i]);
  const Sum value = cut_value(part, delta, ranked, element < part.outer.ties_end,
                              element < part.inner.ties_end, drawn);
  return part.limited ? ops::limited(value, part.limit) : value;
}

}  // namespace tvmerge::cuda
