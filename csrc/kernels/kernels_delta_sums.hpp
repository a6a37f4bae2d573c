// What is summed and counted of deltas of which some elements take part (delta_sums.hpp).
#pragma once

#include "kernels/kernels_consensus.hpp"
#include "kernels/kernels_pairs.hpp"

namespace tvmerge::TVMERGE_ISA {
namespace {

// Sums of magnitudes, and of the kept ones' squares.
class Norms {
  using Doubles = Vectors<double>::Vector;

 public:
  inline void add(std::size_t part, Doubles whole, Doubles value) {
    all_[part] += whole;
    kept_[part] += value;
    square_[part] += value * value;
  }
  // A register of float32 is two of float64; lanes are 8, so two registers may share one.
  inline void add(std::size_t part, Floats whole, Floats value) {
    const std::size_t low = 2 * part % kRegisters, high = (2 * part + 1) % kRegisters;
    add(low, widened_low(whole), widened_low(value));
    add(high, widened_high(whole), widened_high(value));
  }
  [[nodiscard]] DeltaSums total() const {
    using V = Vectors<double>;
    return {V::total(all_), V::total(kept_), V::total(square_)};
  }

 private:
  Doubles all_[kRegisters]{}, kept_[kRegisters]{}, square_[kRegisters]{};
};

inline Vectors<float>::Vector magnitudes(Vectors<float>::Vector values) {
  return (Vectors<float>::Vector)((Ints)values & INT32_MAX);
}
inline Vectors<double>::Vector magnitudes(Vectors<double>::Vector values) {
  typedef std::int64_t Longs __attribute__((vector_size(TVMERGE_VECTOR_BYTES)));
  return (Vectors<double>::Vector)((Longs)values & INT64_MAX);
}

// What the first `count` elements add; both arrays have room for whole registers.
template <typename Sum>
DeltaSums sums_of(Sum* all, Sum* kept, std::size_t count) {
  using V = Vectors<Sum>;
  const std::size_t padded = (count + V::kLanes - 1) / V::kLanes * V::kLanes;
  std::fill(all + count, all + padded, Sum{0});
  std::fill(kept + count, kept + padded, Sum{0});
  Norms norms;
  for (std::size_t i = 0; i < padded; i += V::kLanes) {
    for (std::size_t r = 0; r < kRegisters; ++r) {
      const std::size_t at = i + r * V::kWidth;
      norms.add(r, magnitudes(V::load(all + at)), magnitudes(V::load(kept + at)));
    }
  }
  return norms.total();
}

// What one part's delta adds, from a tile of the base in Sum.
template <typename Sum>
DeltaSums part_sums(const ConsensusTile& tile, const Part& part,
                    const std::uint32_t* limits, const Sum* base) {
  alignas(64) Sum all[kTile], kept[kTile];
  fetch(tile.terms[part.source], tile.start + kTile, tile.count);
  deltas_of(tile.terms[part.source], base, tile.start, tile.count, all);
  keep_values(tile, part, limits, 1, all, kept);
  return sums_of(all, kept, tile.count);
}

// Whatever is larger and has the sign of `whole` becomes the largest.
template <typename Sum>
void take_larger(const Sum* __restrict values, const Sum* __restrict whole,
                 Sum* __restrict largest) {
  for (std::size_t i = 0; i < kTile; ++i) {
    const Sum value = values[i];
    const bool agrees = ops::agrees(value, whole[i] < 0, false);
    largest[i] = agrees & ops::is_larger(value, largest[i]) ? value : largest[i];
  }
}

// What is largest stays where the values have the sign of `whole`.
template <typename Sum>
void leave_agreeing(const Sum* __restrict values, const Sum* __restrict whole,
                    Sum* __restrict largest) {
  for (std::size_t i = 0; i < kTile; ++i) {
    const bool agrees = ops::agrees(values[i], whole[i] < 0, false);
    largest[i] = agrees ? largest[i] : Sum{0};
  }
}

// What the elected part adds: its values, and what is largest where they have the sign of
// the sum of all.
template <typename Sum>
DeltaSums elected_sums(const ConsensusTile& tile, const DeltaSlice& slice,
                       const Sum* base) {
  alignas(64) Sum delta[kTile], whole[kTile]{}, largest[kTile]{}, own[kTile];
  std::vector<Sum> values(slice.part_count * kTile);
  for (std::size_t p = 0; p < slice.part_count; ++p) {
    const Part& part = slice.parts[p];
    deltas_of(tile.terms[part.source], base, tile.start, tile.count, delta);
    keep_values(tile, part, limits_at(part, slice.limits, p * slice.count + tile.start),
                part.weight * part.gain, delta, values.data() + p * kTile);
  }
  add_values(values.data(), slice.part_count, tile.count, whole);
  for (std::size_t p = 0; p < slice.part_count; ++p)
    take_larger(values.data() + p * kTile, whole, largest);
  std::copy_n(values.data() + static_cast<std::size_t>(slice.elected) * kTile, kTile,
              own);
  leave_agreeing(own, whole, largest);
  return sums_of(own, largest, tile.count);
}

// Counts, of a tile, the kept elements that are not 0, and those that one part has alone.
template <typename Sum>
void add_counts(const ConsensusTile& tile, const DeltaSlice& slice, const Sum* base) {
  alignas(64) Sum delta[kTile], value[kTile];
  std::vector<std::uint8_t> kept(slice.part_count * kTile);
  std::uint16_t number[kTile]{};
  for (std::size_t p = 0; p < slice.part_count; ++p) {
    const Part& part = slice.parts[p];
    deltas_of(tile.terms[part.source], base, tile.start, tile.count, delta);
    keep_values(tile, part, limits_at(part, slice.limits, p * slice.count + tile.start),
                1, delta, value);
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
  ConsensusTerms all(slice.terms, slice.term_count, slice.parts, slice.part_count,
                     slice.first);
  for (std::size_t start = 0; start < slice.count; start += kTile) {
    const std::size_t count = std::min(kTile, slice.count - start);
    fetch(slice.terms[0], start + kTile, count);
    decode(slice.terms[0].data, slice.terms[0].dtype, start, count, base);
    use(ConsensusTile(all, start, count), static_cast<const Sum*>(base));
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
    if (slice.elected >= 0) {
      slice.sums[slice.elected] += elected_sums(tile, slice, base);
      return;
    }
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
