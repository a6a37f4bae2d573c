// Sums of deltas of which only some elements take part (consensus.hpp).
#pragma once

#include "consensus.hpp"
#include "kernels_random.hpp"
#include "kernels_select.hpp"
#include "ops_consensus.hpp"

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
  const std::size_t outer = end_of_ties(keep.outer), inner = end_of_ties(keep.inner);
  for (std::size_t begin = 0; begin < count;) {
    std::size_t end = count;
    if (begin < outer) end = std::min(end, outer);
    if (begin < inner) end = std::min(end, inner);
    use(begin, end,
        Band{ops::limit_of(keep.outer, begin < outer),
             ops::limit_of(keep.inner, begin < inner)});
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

// Null where the part has no rows.
inline const std::uint32_t* limits_at(const Part& part, const std::uint32_t* limits,
                                      std::size_t at) {
  return part.keep.row != 0 ? limits + at : nullptr;
}

// A number below random_below where the drawn one is below its own limit, else none.
inline void draw_below(const std::uint32_t* __restrict limits, std::size_t count,
                       std::uint32_t* __restrict numbers) {
  for (std::size_t i = 0; i < count; ++i)
    numbers[i] = numbers[i] < limits[i] ? 0 : UINT32_MAX;
}

// value[i] = factor * value[i] where it is kept, else 0; sum[i] += value[i].
template <bool Random, bool OfVariance, bool Limited, typename Sum>
void mask_values(const ConsensusTile& tile, const Part& part, const std::uint32_t* limits,
                 Sum factor, Sum* __restrict value, Sum* __restrict sum) {
  const Keep& keep = part.keep;
  const auto limit = static_cast<Sum>(part.limit);
  alignas(64) std::uint32_t numbers[kTile];
  if constexpr (Random) {
    draw_tile(keep.key, tile.first, numbers);
    if (limits != nullptr) draw_below(limits, tile.count, numbers);
  }
  const auto random_below = static_cast<std::uint32_t>(keep.random_below);
  const float* __restrict const variance = tile.variance;
  const std::uint32_t* __restrict const drawn = numbers;
  with_bands(
      keep, tile.first, tile.count, [=](std::size_t begin, std::size_t end, Band band) {
        for (std::size_t i = begin; i < end; ++i) {
          const float ranked = OfVariance ? variance[i] : static_cast<float>(value[i]);
          const Key key = ops::key_of(ranked);
          bool kept = (key >= band.at_least) & (key < band.below);
          if constexpr (Random) kept = kept & (drawn[i] < random_below);
          value[i] = kept ? factor * value[i] : Sum{0};
          if constexpr (Limited) value[i] = ops::limited(value[i], limit);
          sum[i] += value[i];
        }
      });
}

template <typename Sum>
using Mask = void (*)(const ConsensusTile&, const Part&, const std::uint32_t*, Sum, Sum*,
                      Sum*);

// By whether a part is random, and whether it is limited. Through a pointer: inlined,
// what the loop reads and writes could be the same to the compiler.
template <bool OfVariance, typename Sum>
constexpr Mask<Sum> kMasks[2][2] = {
    {mask_values<false, OfVariance, false, Sum>,
     mask_values<false, OfVariance, true, Sum>},
    {mask_values<true, OfVariance, false, Sum>, mask_values<true, OfVariance, true, Sum>},
};

// Turns the deltas in `value` into what takes part of them, and adds it to `sum`.
template <typename Sum>
void keep_values(const ConsensusTile& tile, const Part& part, const std::uint32_t* limits,
                 double factor, Sum* value, Sum* sum) {
  const auto& masks = part.keep.of_variance ? kMasks<true, Sum> : kMasks<false, Sum>;
  const Mask<Sum> mask =
      masks[part.keep.random_below < kAlways ? 1 : 0][std::isfinite(part.limit) ? 1 : 0];
  mask(tile, part, limits, static_cast<Sum>(factor), value, sum);
}

// Of the values that take part, the sum and the weights. `Parts` is their number, or 0
// where the compiler cannot know it; `Alone`: some part's `alone` is not 1.
template <std::size_t Parts, bool Alone, typename Sum>
void elect(const Consensus& consensus, const Sum* __restrict values, std::size_t count,
           Sum* __restrict sum, Sum* __restrict weight) {
  const std::size_t parts = Parts == 0 ? consensus.parts.size() : Parts;
  constexpr std::size_t kParts = Parts == 0 ? kMostParts : Parts;
  Sum factor[kParts], own[kParts], alone[kParts];
  for (std::size_t k = 0; k < parts; ++k) {
    own[k] = static_cast<Sum>(std::fabs(consensus.parts[k].weight));
    factor[k] = consensus.elect_first ? static_cast<Sum>(consensus.parts[k].weight) : 1;
    alone[k] = static_cast<Sum>(consensus.parts[k].alone);
  }
  const bool any_sign = !consensus.elect;
  for (std::size_t i = 0; i < count; ++i) {
    const bool negative = sum[i] < 0;
    Sum agreed = 0, shared = 0, once = 0, number = 0;
    for (std::size_t k = 0; k < parts; ++k) {
      const Sum value = values[k * kTile + i];
      const bool agrees = ops::agrees(value, negative, any_sign);
      agreed += agrees ? factor[k] * value : Sum{0};
      shared += agrees ? own[k] : Sum{0};
      if constexpr (Alone) {
        once = agrees ? alone[k] : once;
        number += agrees ? Sum{1} : Sum{0};
      }
    }
    sum[i] = Alone && number == 1 ? once * agreed : agreed;
    weight[i] = shared;
  }
}

inline bool counts_alone(const Consensus& consensus) {
  return std::any_of(consensus.parts.begin(), consensus.parts.end(),
                     [](const Part& part) { return part.alone != 1; });
}

template <typename Sum>
void elect_tile(const Consensus& consensus, const Sum* values, std::size_t count,
                Sum* sum, Sum* weight) {
  if (counts_alone(consensus))
    return elect<0, true>(consensus, values, count, sum, weight);
  switch (consensus.parts.size()) {
    case 1:
      return elect<1, false>(consensus, values, count, sum, weight);
    case 2:
      return elect<2, false>(consensus, values, count, sum, weight);
    case 3:
      return elect<3, false>(consensus, values, count, sum, weight);
    case 4:
      return elect<4, false>(consensus, values, count, sum, weight);
    default:
      return elect<0, false>(consensus, values, count, sum, weight);
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
                           consensus.parts.size(), slice.first + start, start, count);
  for (std::size_t k = 0; k < consensus.parts.size(); ++k) {
    const Part& part = consensus.parts[k];
    Sum* const value = values + k * kTile;
    deltas_of(slice.terms[part.source], base, start, count, value);
    const double factor = consensus.elect_first ? part.gain : part.weight * part.gain;
    keep_values(tile, part, limits_at(part, slice.limits, k * slice.count + start),
                factor, value, sum);
  }
  if (consensus.elect || consensus.normalize || counts_alone(consensus))
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

}  // namespace
}  // namespace tvmerge::TVMERGE_ISA
