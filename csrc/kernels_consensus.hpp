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

// A tile of all terms; the variance of their deltas is there if a part asks for it.
struct ConsensusTile {
  const Term* terms;
  std::uint64_t first;  // the element of the tensor that it begins with
  std::size_t start, count;
  alignas(64) float variance[kTile];

  ConsensusTile(const Term* terms, std::size_t term_count, const Part* parts,
                std::size_t part_count, std::uint64_t first, std::size_t start,
                std::size_t count)
      : terms(terms), first(first), start(start), count(count) {
    if (std::any_of(parts, parts + part_count,
                    [](const Part& part) { return part.keep.of_variance; }))
      variance_tile(terms, term_count, start, count, variance);
  }
};

// value[i] = factor * value[i] where it is kept, else 0; sum[i] += value[i].
template <bool Random, bool OfVariance, typename Sum>
void mask_values(const ConsensusTile& tile, const Keep& keep, Sum factor,
                 Sum* __restrict value, Sum* __restrict sum) {
  alignas(64) std::uint32_t numbers[kTile];
  if constexpr (Random) draw_tile(keep.key, tile.first, numbers);
  const auto random_below = static_cast<std::uint32_t>(keep.random_below);
  const float* __restrict const variance = tile.variance;
  const std::uint32_t* __restrict const drawn = numbers;
  with_bands(
      keep, tile.first, tile.count, [=](std::size_t begin, std::size_t end, Band band) {
        for (std::size_t i = begin; i < end; ++i) {
          const float ranked = OfVariance ? variance[i] : static_cast<float>(value[i]);
          const Key key = ops::bits_of(ranked) & 0x7fffffffu;
          bool kept = (key >= band.at_least) & (key < band.below);
          if constexpr (Random) kept = kept & (drawn[i] < random_below);
          value[i] = kept ? factor * value[i] : Sum{0};
          sum[i] += value[i];
        }
      });
}

// Turns the deltas in `value` into what takes part of them, and adds it to `sum`.
template <typename Sum>
void keep_values(const ConsensusTile& tile, const Keep& keep, double factor, Sum* value,
                 Sum* sum) {
  const bool random = keep.random_below < kAlways;
  auto* mask = mask_values<false, false, Sum>;
  if (random && keep.of_variance) mask = mask_values<true, true, Sum>;
  if (random && !keep.of_variance) mask = mask_values<true, false, Sum>;
  if (!random && keep.of_variance) mask = mask_values<false, true, Sum>;
  mask(tile, keep, static_cast<Sum>(factor), value, sum);
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
  const ConsensusTile tile(slice.terms, slice.term_count, consensus.parts.data(),
                           consensus.parts.size(), consensus.first + slice.first + start,
                           start, count);
  for (std::size_t k = 0; k < consensus.parts.size(); ++k) {
    const Part& part = consensus.parts[k];
    Sum* const value = values + k * kTile;
    deltas_of(slice.terms[part.source], base, start, count, value);
    const double factor = consensus.elect_first ? part.gain : part.weight * part.gain;
    keep_values(tile, part.keep, factor, value, sum);
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

// What one part's delta adds, from a tile of the base in Sum.
template <typename Sum>
DeltaSums part_sums(const ConsensusTile& tile, const Part& part, const Sum* base) {
  using V = Vectors<double>;
  alignas(64) Sum all[kTile]{}, kept[kTile]{}, unused[kTile]{};
  deltas_of(tile.terms[part.source], base, tile.start, tile.count, kept);
  std::copy_n(kept, tile.count, all);
  keep_values(tile, part.keep, 1, kept, unused);
  V::Vector sum[kRegisters]{}, kept_sum[kRegisters]{}, square[kRegisters]{};
  for (std::size_t i = 0; i < kTile; i += V::kLanes) {
    for (std::size_t r = 0; r < kRegisters; ++r) {
      V::Vector value, whole;
      for (std::size_t lane = 0; lane < V::kWidth; ++lane) {
        value[lane] = std::fabs(static_cast<double>(kept[i + r * V::kWidth + lane]));
        whole[lane] = std::fabs(static_cast<double>(all[i + r * V::kWidth + lane]));
      }
      sum[r] += whole;
      kept_sum[r] += value;
      square[r] += value * value;
    }
  }
  return {V::total(sum), V::total(kept_sum), V::total(square)};
}

template <typename Sum>
void delta_sums_in(const DeltaSlice& slice) {
  alignas(64) Sum base[kTile];
  for (std::size_t start = 0; start < slice.count; start += kTile) {
    const std::size_t count = std::min(kTile, slice.count - start);
    decode(slice.terms[0].data, slice.terms[0].dtype, start, count, base);
    const ConsensusTile tile(slice.terms, slice.term_count, slice.parts, slice.part_count,
                             slice.first + start, start, count);
    for (std::size_t p = 0; p < slice.part_count; ++p)
      slice.sums[p] += part_sums(tile, slice.parts[p], base);
  }
}

// In float32, and in float64 where an input is.
void delta_sums(const DeltaSlice& slice) {
  const bool wide =
      std::any_of(slice.terms, slice.terms + slice.term_count,
                  [](const Term& term) { return term.dtype == Dtype::f64; });
  wide ? delta_sums_in<double>(slice) : delta_sums_in<float>(slice);
}

}  // namespace
}  // namespace tvmerge::TVMERGE_ISA
