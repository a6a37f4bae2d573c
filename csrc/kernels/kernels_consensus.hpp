// Sums of deltas of which only some elements take part (consensus.hpp).
#pragma once

#include <optional>

#include "core/consensus.hpp"
#include "core/ops_consensus.hpp"
#include "kernels/kernels_masks.hpp"
#include "kernels/kernels_random.hpp"
#include "kernels/kernels_select.hpp"

namespace tvmerge::TVMERGE_ISA {
namespace {

// Keys that are kept in a stretch of elements: `width` more than `least` at most.
struct Band {
  Key least, width;

  [[nodiscard]] static Band of(Key at_least, Key below) {
    constexpr Band kEmpty{UINT32_MAX, 0};  // no magnitude has that key
    return at_least < below ? Band{at_least, below - at_least - 1} : kEmpty;
  }
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
        Band::of(ops::limit_of(keep.outer, begin < outer),
                 ops::limit_of(keep.inner, begin < inner)));
    begin = end;
  }
}

// What a slice's tiles have in common: its terms, and what measures how they vary, if a
// part asks for that.
struct ConsensusTerms {
  const Term* terms;
  std::uint64_t first;  // the element of the tensor that the slice begins with
  std::optional<Variances> variances = std::nullopt;

  ConsensusTerms(const Term* terms, std::size_t term_count, const Part* parts,
                 std::size_t part_count, std::uint64_t first)
      : terms(terms), first(first) {
    if (std::any_of(parts, parts + part_count,
                    [](const Part& part) { return part.keep.of_variance; }))
      variances.emplace(terms, term_count);
  }
};

// A tile of all terms.
struct ConsensusTile {
  const Term* terms;
  std::uint64_t first;  // the element of the tensor that it begins with
  std::size_t start, count;
  alignas(64) float variance[kTile];

  ConsensusTile(ConsensusTerms& all, std::size_t start, std::size_t count)
      : terms(all.terms), first(all.first + start), start(start), count(count) {
    if (all.variances) all.variances->of_tile(start, count, variance);
  }
};

// Null where the part has no rows.
inline const std::uint32_t* limits_at(const Part& part, const std::uint32_t* limits,
                                      std::size_t at) {
  return part.keep.row != 0 ? limits + at : nullptr;
}

// What the cuts of a part rank.
enum class Ranked : std::uint8_t { nothing, delta, apart };

// Numbers of a tile that are below `random_below` where elements are drawn: ranked
// already, or noted, or drawn now, and noted if they are to be.
inline void numbers_of(const ConsensusTile& tile, const Keep& keep,
                       const std::uint32_t* limits, std::uint32_t* numbers) {
  constexpr std::uint32_t kDrawn = 0, kDropped = UINT32_MAX;
  std::uint32_t* const words =
      keep.mask ? keep.mask->words.get() + tile.first / DrawnMask::kWordElements
                : nullptr;
  if (limits != nullptr) {
    for (std::size_t i = 0; i < tile.count; ++i) numbers[i] = ~limits[i];
  } else if (keep.is_noted()) {
    spread<kDrawn, kDropped>(words, tile.count, numbers);
  } else {
    draw_tile(keep.key, tile.first, numbers);
    if (words != nullptr)
      pack_below(numbers, static_cast<std::uint32_t>(keep.random_below), tile.count,
                 words);
  }
}

// value[i] = factor * delta[i] where it is kept, else 0. By ranks of the delta itself, or
// of `apart`, or of nothing: cuts that keep all.
template <Ranked Of, bool Random, bool Limited, typename Sum>
void mask_values(const ConsensusTile& tile, const Part& part, const std::uint32_t* limits,
                 const float* __restrict apart, Sum factor, const Sum* __restrict delta,
                 Sum* __restrict value) {
  const Keep& keep = part.keep;
  const auto limit = static_cast<Sum>(part.limit);
  alignas(64) std::uint32_t numbers[kTile];
  if constexpr (Random) numbers_of(tile, keep, limits, numbers);
  const auto random_below = static_cast<std::uint32_t>(keep.random_below);
  const std::uint32_t* __restrict const drawn = numbers;
  with_bands(keep, tile.first, tile.count,
             [=](std::size_t begin, std::size_t end, Band band) {
               for (std::size_t i = begin; i < end; ++i) {
                 const Sum whole = delta[i];  // also where it is not kept: or no vectors
                 bool kept = true;
                 if constexpr (Of != Ranked::nothing) {
                   const float ranked =
                       Of == Ranked::apart ? apart[i] : static_cast<float>(whole);
                   kept = ops::key_of(ranked) - band.least <= band.width;
                 }
                 if constexpr (Random) kept = kept & (drawn[i] < random_below);
                 value[i] = kept ? factor * whole : Sum{0};
                 if constexpr (Limited) value[i] = ops::limited(value[i], limit);
               }
             });
}

template <typename Sum>
using Mask = void (*)(const ConsensusTile&, const Part&, const std::uint32_t*,
                      const float*, Sum, const Sum*, Sum*);

// By whether a part is random, and whether it is limited. Through a pointer: inlined,
// what the loop reads and writes could be the same to the compiler.
template <Ranked Of, typename Sum>
constexpr Mask<Sum> kMasks[2][2] = {
    {mask_values<Of, false, false, Sum>, mask_values<Of, false, true, Sum>},
    {mask_values<Of, true, false, Sum>, mask_values<Of, true, true, Sum>},
};

template <typename Sum>
Mask<Sum> mask_of(const Part& part) {
  const Keep& keep = part.keep;
  const bool whole = keep.outer.key == kAll.key && keep.outer.ties_end == kAll.ties_end &&
                     keep.inner.key == kNone.key;
  const auto& masks = whole                              ? kMasks<Ranked::nothing, Sum>
                      : keep.of_variance || keep.factors ? kMasks<Ranked::apart, Sum>
                                                         : kMasks<Ranked::delta, Sum>;
  return masks[keep.random_below < kAlways ? 1 : 0][std::isfinite(part.limit) ? 1 : 0];
}

// What takes part of a part's deltas.
template <typename Sum>
void keep_values(const ConsensusTile& tile, const Part& part, const std::uint32_t* limits,
                 double factor, const Sum* delta, Sum* value) {
  const Keep& keep = part.keep;
  const float* apart = tile.variance;
  alignas(64) float weighed[kTile];
  if (keep.factors) {
    for (std::size_t i = 0; i < tile.count; ++i)
      weighed[i] = ops::weighed(static_cast<float>(delta[i]), limits[i]);
    apart = weighed;
  }
  const Mask<Sum> mask = mask_of<Sum>(part);
  mask(tile, part, limits, apart, static_cast<Sum>(factor), delta, value);
}

// sum[i] = sum_k values[k][i], where the compiler cannot know how many these are.
template <typename Sum>
void add_values(const Sum* __restrict values, std::size_t parts, std::size_t count,
                Sum* __restrict sum) {
  std::fill_n(sum, count, Sum{0});
  for (std::size_t k = 0; k < parts; ++k)
    for (std::size_t i = 0; i < count; ++i) sum[i] += values[k * kTile + i];
}

// The same; `Parts` is their number, or 0.
template <std::size_t Parts, typename Sum>
void add_up(const Consensus& consensus, const Sum* __restrict values, std::size_t count,
            Sum* __restrict sum) {
  if constexpr (Parts == 0) return add_values(values, consensus.parts.size(), count, sum);
  for (std::size_t i = 0; i < count; ++i) {
    Sum whole = 0;
    for (std::size_t k = 0; k < Parts; ++k) whole += values[k * kTile + i];
    sum[i] = whole;
  }
}

// The sum of the values that take part, over their weights if these count (`Weighed`).
// `Counted`: it matters how many do; `Largest`: the largest stands for the sum.
template <std::size_t Parts, bool Counted, bool Weighed, bool Largest, typename Sum>
void elect(const Consensus& consensus, const Sum* __restrict values, std::size_t count,
           Sum* __restrict sum) {
  const std::size_t parts = Parts == 0 ? consensus.parts.size() : Parts;
  constexpr std::size_t kParts = Parts == 0 ? kMostParts : Parts;
  Sum factor[kParts], own[kParts], alone[kParts], threshold[kParts], votes[kParts];
  for (std::size_t k = 0; k < parts; ++k) {
    own[k] = static_cast<Sum>(std::fabs(consensus.parts[k].weight));
    factor[k] = consensus.elect_first ? static_cast<Sum>(consensus.parts[k].weight) : 1;
    alone[k] = static_cast<Sum>(consensus.parts[k].alone);
    threshold[k] = static_cast<Sum>(consensus.parts[k].threshold);
    votes[k] = static_cast<Sum>(consensus.parts[k].votes);
  }
  const bool any_sign = !consensus.elect;
  const auto least = static_cast<Sum>(consensus.least);
  add_up<Parts>(consensus, values, count, sum);
  for (std::size_t i = 0; i < count; ++i) {
    const Sum whole = sum[i];
    const bool negative = whole < 0;
    Sum agreed = 0, shared = 0, once = 0, number = 0;
    for (std::size_t k = 0; k < parts; ++k) {
      const Sum value = values[k * kTile + i];
      const bool agrees = ops::agrees(value, negative, any_sign);
      if constexpr (Largest) {
        const Sum late = factor[k] * value;
        agreed = agrees & ops::is_larger(late, agreed) ? late : agreed;
      } else {
        agreed += agrees ? factor[k] * value : Sum{0};
      }
      if constexpr (Weighed) shared += agrees ? own[k] : Sum{0};
      if constexpr (Counted) {
        const bool counts = ops::counts(value, whole - value, threshold[k], agrees);
        once = counts ? alone[k] : once;
        number += counts ? votes[k] : Sum{0};
      }
    }
    if constexpr (Largest) agreed = ops::shown(agreed, whole);
    if constexpr (Counted) {
      agreed = number == 1 ? once * agreed : agreed;
      agreed = ops::backed(agreed, number >= least);
    }
    if constexpr (Weighed) agreed /= shared != 0 ? shared : Sum{1};
    sum[i] = agreed;
  }
}

// sum[i] = base[i] + scale * sum[i]. Apart from the election: without an fma of the
// processor's own, that loop would not be vectorised.
template <typename Sum>
void add_to_base(Sum scale, const Sum* __restrict base, std::size_t count,
                 Sum* __restrict sum) {
  for (std::size_t i = 0; i < count; ++i) sum[i] = fused(scale, sum[i], base[i]);
}

// Whether it matters how many parts count.
inline bool is_counted(const Consensus& consensus) {
  return consensus.least > 0 ||
         std::any_of(consensus.parts.begin(), consensus.parts.end(),
                     [](const Part& part) { return part.alone != 1; });
}

template <typename Sum>
using Agree = void (*)(const Consensus&, const Sum*, std::size_t, Sum*);

template <std::size_t Parts, typename Sum>
Agree<Sum> agree_by(const Consensus& consensus) {
  const bool counted = is_counted(consensus), weighed = consensus.normalize;
  if (consensus.largest)
    return weighed ? elect<Parts, true, true, true, Sum>
                   : elect<Parts, true, false, true, Sum>;
  if (weighed)
    return counted ? elect<Parts, true, true, false, Sum>
                   : elect<Parts, false, true, false, Sum>;
  if (counted) return elect<Parts, true, false, false, Sum>;
  return consensus.elect ? elect<Parts, false, false, false, Sum> : add_up<Parts, Sum>;
}

template <typename Sum>
Agree<Sum> agree_by(const Consensus& consensus) {
  switch (consensus.parts.size()) {
    case 1:
      return agree_by<1, Sum>(consensus);
    case 2:
      return agree_by<2, Sum>(consensus);
    case 3:
      return agree_by<3, Sum>(consensus);
    case 4:
      return agree_by<4, Sum>(consensus);
    default:
      return agree_by<0, Sum>(consensus);
  }
}

template <typename Sum>
void consensus_in(const ConsensusSlice& slice) {
  const Consensus& consensus = *slice.consensus;
  const Term& of = slice.terms[0];
  const CombineSlice out{slice.terms, slice.term_count, slice.out, slice.out_dtype,
                         slice.count, slice.edits,      of.data,   of.dtype};
  const Agree<Sum> agree = agree_by<Sum>(consensus);
  ConsensusTerms all(slice.terms, slice.term_count, consensus.parts.data(),
                     consensus.parts.size(), slice.first);
  std::vector<Sum> values(consensus.parts.size() * kTile);
  alignas(64) Sum base[kTile], delta[kTile], sum[kTile];
  for (std::size_t start = 0; start < slice.count; start += kTile) {
    const std::size_t count = std::min(kTile, slice.count - start);
    decode(of.data, of.dtype, start, count, base);
    const ConsensusTile tile(all, start, count);
    for (std::size_t k = 0; k < consensus.parts.size(); ++k) {
      const Part& part = consensus.parts[k];
      deltas_of(slice.terms[part.source], base, start, count, delta);
      keep_values(tile, part, limits_at(part, slice.limits, k * slice.count + start),
                  consensus.elect_first ? part.gain : part.weight * part.gain, delta,
                  values.data() + k * kTile);
    }
    agree(consensus, values.data(), count, sum);
    add_to_base(static_cast<Sum>(consensus.scale), base, count, sum);
    finish_tile(out, start, count, sum, base);
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
