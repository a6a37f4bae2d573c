// Sums of deltas of which only some elements take part (consensus.hpp).
#pragma once

#include "consensus.hpp"
#include "kernels_random.hpp"
#include "kernels_select.hpp"

namespace tvmerge::TVMERGE_ISA {
namespace {

// Keys that are kept in a stretch of elements: [at_least, below).
struct Band {
  Key at_least, below;
};

// Equal magnitudes are in a cut up to some element, so what is kept of a tile is one
// band, or another one from there on. Calls use(begin, end, band) for each stretch.
template <typename Use>
void with_bands(const Keep& keep, std::uint64_t first, std::size_t count, Use&& use) {
  const auto end_of_ties = [&](const Cut& cut) {
    const std::uint64_t end = std::max(cut.ties_end, first) - first;
    return static_cast<std::size_t>(std::min<std::uint64_t>(end, count));
  };
  const auto limit = [](const Cut& cut, bool ties) {
    return ties || cut.key == UINT32_MAX ? cut.key : cut.key + 1;
  };
  const std::size_t outer = end_of_ties(keep.outer), inner = end_of_ties(keep.inner);
  for (std::size_t begin = 0; begin < count;) {
    std::size_t end = count;
    if (begin < outer) end = std::min(end, outer);
    if (begin < inner) end = std::min(end, inner);
    use(begin, end,
        Band{limit(keep.outer, begin < outer), limit(keep.inner, begin < inner)});
    begin = end;
  }
}

// What decides beside a delta's own magnitude, where anything does.
struct Deciders {
  alignas(64) std::uint32_t numbers[kTile];
  alignas(64) float variance[kTile];
  bool random, of_variance;

  Deciders(const Term* terms, std::size_t term_count, const Keep& keep,
           std::uint64_t first, std::size_t start, std::size_t count)
      : random(keep.random_below < kAlways), of_variance(keep.of_variance) {
    if (random) draw_tile(keep.key, first, numbers);
    if (of_variance) variance_tile(terms, term_count, start, count, variance);
  }
};

// value[i] = factor * value[i] where it is kept, else 0; sum[i] += value[i].
template <bool Random, bool OfVariance, typename Sum>
void mask_values(const Keep& keep, const Deciders& deciders, std::uint64_t first,
                 std::size_t count, Sum factor, Sum* __restrict value,
                 Sum* __restrict sum) {
  const auto random_below = static_cast<std::uint32_t>(keep.random_below);
  const std::uint32_t* __restrict const numbers = deciders.numbers;
  const float* __restrict const variance = deciders.variance;
  with_bands(keep, first, count, [=](std::size_t begin, std::size_t end, Band band) {
    for (std::size_t i = begin; i < end; ++i) {
      const float ranked = OfVariance ? variance[i] : static_cast<float>(value[i]);
      const Key key = ops::bits_of(ranked) & 0x7fffffffu;
      bool kept = (key >= band.at_least) & (key < band.below);
      if constexpr (Random) kept = kept & (numbers[i] < random_below);
      value[i] = kept ? factor * value[i] : Sum{0};
      sum[i] += value[i];
    }
  });
}

// Turns the deltas in `value` into what takes part of them, and adds it to `sum`.
template <typename Sum>
void keep_values(const Term* terms, std::size_t term_count, const Part& part,
                 double factor, std::uint64_t first, std::size_t start, std::size_t count,
                 Sum* value, Sum* sum) {
  const Deciders deciders(terms, term_count, part.keep, first, start, count);
  auto* mask = mask_values<false, false, Sum>;
  if (deciders.random && deciders.of_variance) mask = mask_values<true, true, Sum>;
  if (deciders.random && !deciders.of_variance) mask = mask_values<true, false, Sum>;
  if (!deciders.random && deciders.of_variance) mask = mask_values<false, true, Sum>;
  mask(part.keep, deciders, first, count, static_cast<Sum>(factor), value, sum);
}

// Of the values that take part, the sum and the weights. `Parts` is their number, or 0
// where the compiler cannot know it.
template <std::size_t Parts, typename Sum>
void elect(const Consensus& consensus, const Sum* __restrict values, std::size_t count,
           Sum* __restrict sum, Sum* __restrict weight) {
  const std::size_t parts = Parts == 0 ? consensus.parts.size() : Parts;
  Sum factor[Parts == 0 ? kMostParts : Parts], own[Parts == 0 ? kMostParts : Parts];
  for (std::size_t k = 0; k < parts; ++k) {
    own[k] = static_cast<Sum>(std::fabs(consensus.parts[k].weight));
    factor[k] = consensus.elect_first ? static_cast<Sum>(consensus.parts[k].weight) : 1;
  }
  const bool any_sign = !consensus.elect;
  for (std::size_t i = 0; i < count; ++i) {
    const bool negative = sum[i] < 0;
    Sum agreed = 0, shared = 0;
    for (std::size_t k = 0; k < parts; ++k) {
      const Sum value = values[k * kTile + i];
      const Sum with_sign = negative ? -value : value;
      // NaN takes part: it must show.
      const bool agrees = (!(with_sign <= 0)) | (any_sign & (value != 0));
      agreed += agrees ? factor[k] * value : Sum{0};
      shared += agrees ? own[k] : Sum{0};
    }
    sum[i] = agreed;
    weight[i] = shared;
  }
}

template <typename Sum>
void elect_tile(const Consensus& consensus, const Sum* values, std::size_t count,
                Sum* sum, Sum* weight) {
  switch (consensus.parts.size()) {
    case 1:
      return elect<1>(consensus, values, count, sum, weight);
    case 2:
      return elect<2>(consensus, values, count, sum, weight);
    case 3:
      return elect<3>(consensus, values, count, sum, weight);
    case 4:
      return elect<4>(consensus, values, count, sum, weight);
    default:
      return elect<0>(consensus, values, count, sum, weight);
  }
}

// sum[i] before it is rounded.
template <typename Sum>
void consensus_sum(const ConsensusSlice& slice, std::size_t start, std::size_t count,
                   Sum* values, Sum* __restrict sum) {
  const Consensus& consensus = *slice.consensus;
  alignas(64) Sum base[kTile], weight[kTile];
  decode(slice.terms[0].data, slice.terms[0].dtype, start, count, base);
  std::fill_n(sum, count, Sum{0});
  const std::uint64_t first = consensus.first + slice.first + start;
  for (std::size_t k = 0; k < consensus.parts.size(); ++k) {
    const Part& part = consensus.parts[k];
    Sum* const value = values + k * kTile;
    deltas_of(slice.terms[part.source], base, start, count, value);
    const double factor = consensus.elect_first ? part.gain : part.weight * part.gain;
    keep_values(slice.terms, slice.term_count, part, factor, first, start, count, value,
                sum);
  }
  if (consensus.elect || consensus.normalize)
    elect_tile(consensus, values, count, sum, weight);
  const auto scale = static_cast<Sum>(consensus.scale);
  if (consensus.normalize) {
    for (std::size_t i = 0; i < count; ++i) sum[i] /= weight[i] != 0 ? weight[i] : Sum{1};
  }
  for (std::size_t i = 0; i < count; ++i) sum[i] = fused(scale, sum[i], base[i]);
}

template <typename Sum>
void consensus_in(const ConsensusSlice& slice) {
  std::vector<Sum> values(slice.consensus->parts.size() * kTile);
  const CombineSlice out{slice.terms,         slice.term_count,    slice.out,
                         slice.out_dtype,     slice.count,         slice.edits,
                         slice.terms[0].data, slice.terms[0].dtype};
  alignas(64) Sum sum[kTile];
  for (std::size_t start = 0; start < slice.count; start += kTile) {
    const std::size_t count = std::min(kTile, slice.count - start);
    consensus_sum(slice, start, count, values.data(), sum);
    finish_tile(out, start, count, sum);
  }
}

void consensus(const ConsensusSlice& slice) {
  if (accumulates_in_double(slice.terms, slice.term_count, slice.out_dtype)) {
    consensus_in<double>(slice);
  } else {
    consensus_in<float>(slice);
  }
}

DeltaSums delta_sums_tile(const DeltaSlice& slice, std::size_t start, std::size_t count) {
  using V = Vectors<double>;
  alignas(64) double base[kTile], all[kTile]{}, kept[kTile]{}, unused[kTile]{};
  decode(slice.terms[0].data, slice.terms[0].dtype, start, count, base);
  deltas_of(slice.terms[slice.part->source], base, start, count, kept);
  std::copy_n(kept, count, all);
  keep_values(slice.terms, slice.term_count, *slice.part, 1, slice.first + start, start,
              count, kept, unused);
  for (std::size_t i = 0; i < count; ++i) {
    all[i] = std::fabs(all[i]);
    kept[i] = std::fabs(kept[i]);
  }
  V::Vector sum[kRegisters]{}, kept_sum[kRegisters]{}, square[kRegisters]{};
  for (std::size_t i = 0; i < kTile; i += V::kLanes) {
    for (std::size_t r = 0; r < kRegisters; ++r) {
      const V::Vector value = V::load(kept + i + r * V::kWidth);
      sum[r] += V::load(all + i + r * V::kWidth);
      kept_sum[r] += value;
      square[r] += value * value;
    }
  }
  return {V::total(sum), V::total(kept_sum), V::total(square)};
}

DeltaSums delta_sums(const DeltaSlice& slice) {
  DeltaSums sums;
  for (std::size_t start = 0; start < slice.count; start += kTile)
    sums += delta_sums_tile(slice, start, std::min(kTile, slice.count - start));
  return sums;
}

}  // namespace
}  // namespace tvmerge::TVMERGE_ISA
