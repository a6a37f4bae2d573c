// What is summed and counted of deltas of which some elements take part (delta_sums.hpp).
#pragma once

#include "kernels_consensus.hpp"

namespace tvmerge::TVMERGE_ISA {
namespace {

// What one part's delta adds, from a tile of the base in Sum.
template <typename Sum>
DeltaSums part_sums(const ConsensusTile& tile, const Part& part,
                    const std::uint32_t* limits, const Sum* base) {
  using V = Vectors<double>;
  alignas(64) Sum all[kTile]{}, kept[kTile]{}, unused[kTile]{};
  deltas_of(tile.terms[part.source], base, tile.start, tile.count, kept);
  std::copy_n(kept, tile.count, all);
  keep_values(tile, part, limits, 1, kept, unused);
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

// Counts, of a tile, the kept elements that are not 0, and those that one part has alone.
template <typename Sum>
void add_counts(const ConsensusTile& tile, const DeltaSlice& slice, const Sum* base) {
  alignas(64) Sum value[kTile], unused[kTile];
  std::vector<std::uint8_t> kept(slice.part_count * kTile);
  std::uint16_t number[kTile]{};
  for (std::size_t p = 0; p < slice.part_count; ++p) {
    const Part& part = slice.parts[p];
    deltas_of(tile.terms[part.source], base, tile.start, tile.count, value);
    std::fill_n(unused, tile.count, Sum{0});
    keep_values(tile, part, limits_at(part, slice.limits, p * slice.count + tile.start),
                1, value, unused);
    for (std::size_t i = 0; i < tile.count; ++i) {
      kept[p * kTile + i] = value[i] != 0 ? 1 : 0;
      number[i] = static_cast<std::uint16_t>(number[i] + kept[p * kTile + i]);
    }
  }
  for (std::size_t p = 0; p < slice.part_count; ++p) {
    std::uint32_t found = 0, alone = 0;
    for (std::size_t i = 0; i < tile.count; ++i) {
      found += kept[p * kTile + i];
      alone += number[i] == 1 ? kept[p * kTile + i] : 0u;
    }
    slice.sums[p].count += found;
    slice.sums[p].alone += alone;
  }
}

// Calls use(tile, base) for every tile.
template <typename Sum, typename Use>
void with_tiles(const DeltaSlice& slice, Use&& use) {
  alignas(64) Sum base[kTile];
  for (std::size_t start = 0; start < slice.count; start += kTile) {
    const std::size_t count = std::min(kTile, slice.count - start);
    decode(slice.terms[0].data, slice.terms[0].dtype, start, count, base);
    use(ConsensusTile(slice.terms, slice.term_count, slice.parts, slice.part_count,
                      slice.first + start, start, count),
        static_cast<const Sum*>(base));
  }
}

// Calls use in float32, or in float64 where an input is.
template <typename Use>
void with_tiles(const DeltaSlice& slice, Use&& use) {
  const bool wide =
      std::any_of(slice.terms, slice.terms + slice.term_count,
                  [](const Term& term) { return term.dtype == Dtype::f64; });
  wide ? with_tiles<double>(slice, use) : with_tiles<float>(slice, use);
}

void delta_sums(const DeltaSlice& slice) {
  with_tiles(slice, [&](const ConsensusTile& tile, const auto* base) {
    for (std::size_t p = 0; p < slice.part_count; ++p) {
      const Part& part = slice.parts[p];
      const std::size_t at = p * slice.count + tile.start;
      slice.sums[p] += part_sums(tile, part, limits_at(part, slice.limits, at), base);
    }
  });
}

void count_kept(const DeltaSlice& slice) {
  with_tiles(slice, [&](const ConsensusTile& tile, const auto* base) {
    add_counts(tile, slice, base);
  });
}

}  // namespace
}  // namespace tvmerge::TVMERGE_ISA
