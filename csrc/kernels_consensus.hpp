// Sums of deltas of which only some elements take part (consensus.hpp).
#pragma once

#include "consensus.hpp"
#include "kernels_random.hpp"
#include "kernels_select.hpp"

namespace tvmerge::TVMERGE_ISA {
namespace {

// Clears `kept` outside of the cut (or inside of it). `first` is the tensor's element
// that keys[0] belongs to.
void apply_cut(const Cut& cut, bool inside, const Key* __restrict keys,
               std::uint64_t first, std::size_t count, std::uint32_t* __restrict kept) {
  // Equal magnitudes are in the cut up to an element that need not be in this tile.
  const std::size_t ties = cut.ties_end <= first
                               ? 0
                               : static_cast<std::size_t>(std::min<std::uint64_t>(
                                     count, cut.ties_end - first));
  const std::uint32_t wanted = inside ? 1 : 0;
  for (std::size_t i = 0; i < ties; ++i)
    kept[i] &= (keys[i] >= cut.key ? 1u : 0u) == wanted ? 1u : 0u;
  for (std::size_t i = ties; i < count; ++i)
    kept[i] &= (keys[i] > cut.key ? 1u : 0u) == wanted ? 1u : 0u;
}

// Which elements of a tile are kept, as 1 and 0.
void keep_tile(const Keep& keep, const Key* keys, std::uint64_t first, std::size_t count,
               std::uint32_t* kept) {
  for (std::size_t i = 0; i < count; ++i) kept[i] = 1;
  apply_cut(keep.outer, true, keys, first, count, kept);
  apply_cut(keep.inner, false, keys, first, count, kept);
  if (keep.random_below >= kAlways) return;
  alignas(64) std::uint32_t numbers[kTile];
  draw_tile(keep.key, first, numbers);
  const auto below = static_cast<std::uint32_t>(keep.random_below);
  for (std::size_t i = 0; i < count; ++i) kept[i] &= numbers[i] < below ? 1u : 0u;
}

// The keys that a part's cuts are about, and which of its elements are kept.
void kept_of_part(const Term* terms, std::size_t term_count, const Part& part,
                  std::uint64_t first, std::size_t start, std::size_t count,
                  std::uint32_t* kept) {
  alignas(64) float ranked[kTile];
  alignas(64) Key keys[kTile];
  if (part.keep.of_variance) {
    variance_tile(terms, term_count, start, count, ranked);
  } else {
    delta_tile(terms[0], terms[part.source], start, count, ranked);
  }
  keys_of(ranked, count, keys);
  keep_tile(part.keep, keys, first, count, kept);
}

// value[i] = weight * gain * delta where it is kept, else 0.
template <typename Sum>
void value_tile(const ConsensusSlice& slice, const Part& part, std::size_t start,
                std::size_t count, Sum* __restrict value) {
  alignas(64) std::uint32_t kept[kTile];
  kept_of_part(slice.terms, slice.term_count, part,
               slice.consensus->first + slice.first + start, start, count, kept);
  subtract<Sum>(slice.terms[0], slice.terms[part.source], start, count, value);
  const auto factor = static_cast<Sum>(part.weight * part.gain);
  for (std::size_t i = 0; i < count; ++i)
    value[i] = kept[i] != 0 ? factor * value[i] : Sum{0};
}

// The sum of all values of one sign, and of the weights that are in it.
template <typename Sum>
void elect_tile(const Consensus& consensus, const Sum* values, std::size_t count,
                Sum* __restrict sum, Sum* __restrict weight) {
  alignas(64) Sum total[kTile];
  std::copy_n(sum, count, total);
  for (std::size_t i = 0; i < count; ++i) sum[i] = weight[i] = 0;
  for (std::size_t k = 0; k < consensus.parts.size(); ++k) {
    const Sum* __restrict value = values + k * kTile;
    const auto own = static_cast<Sum>(std::fabs(consensus.parts[k].weight));
    for (std::size_t i = 0; i < count; ++i) {
      const Sum with_sign = total[i] < 0 ? -value[i] : value[i];
      const bool agrees = !(with_sign <= 0);  // NaN takes part: it must show
      sum[i] += agrees ? value[i] : Sum{0};
      weight[i] += agrees ? own : Sum{0};
    }
  }
}

// sum[i] before it is rounded.
template <typename Sum>
void consensus_sum(const ConsensusSlice& slice, std::size_t start, std::size_t count,
                   Sum* values, Sum* __restrict sum) {
  const Consensus& consensus = *slice.consensus;
  for (std::size_t i = 0; i < count; ++i) sum[i] = 0;
  for (std::size_t k = 0; k < consensus.parts.size(); ++k) {
    Sum* __restrict value = values + k * kTile;
    value_tile(slice, consensus.parts[k], start, count, value);
    for (std::size_t i = 0; i < count; ++i) sum[i] += value[i];
  }
  alignas(64) Sum weight[kTile];
  double all = 0;
  for (const Part& part : consensus.parts) all += std::fabs(part.weight);
  for (std::size_t i = 0; i < count; ++i) weight[i] = static_cast<Sum>(all);
  if (consensus.elect) elect_tile(consensus, values, count, sum, weight);
  if (consensus.normalize) {
    for (std::size_t i = 0; i < count; ++i) sum[i] /= weight[i] != 0 ? weight[i] : Sum{1};
  }
  alignas(64) Sum base[kTile];
  decode(slice.terms[0].data, slice.terms[0].dtype, start, count, base);
  const auto scale = static_cast<Sum>(consensus.scale);
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
  alignas(64) std::uint32_t kept[kTile];
  alignas(64) float delta[kTile];
  alignas(64) double all[kTile], part[kTile];
  kept_of_part(slice.terms, slice.term_count, *slice.part, slice.first + start, start,
               count, kept);
  delta_tile(slice.terms[0], slice.terms[slice.part->source], start, count, delta);
  for (std::size_t i = 0; i < count; ++i) {
    all[i] = std::fabs(static_cast<double>(delta[i]));
    part[i] = kept[i] != 0 ? all[i] : 0;
  }
  const std::size_t padded = (count + V::kLanes - 1) / V::kLanes * V::kLanes;
  for (std::size_t i = count; i < padded; ++i) all[i] = part[i] = 0;
  V::Vector sum[kRegisters]{}, kept_sum[kRegisters]{}, square[kRegisters]{};
  for (std::size_t i = 0; i < padded; i += V::kLanes) {
    for (std::size_t r = 0; r < kRegisters; ++r) {
      const V::Vector value = V::load(part + i + r * V::kWidth);
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
