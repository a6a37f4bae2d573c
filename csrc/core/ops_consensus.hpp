// Per-element functors of the methods that mask deltas: which elements a cut keeps, what
// is drawn for each. One source for every instruction set and for cards (ops.hpp).
#pragma once

#include <cstdint>

#include "core/consensus.hpp"
#include "core/ops.hpp"

namespace tvmerge::ops {

// Of a magnitude. Every NaN has the same, above all others: which payload an operation
// passes on differs between processors.
TVMERGE_FN Key key_of(float value) {
  constexpr std::int32_t kNaN = 0x7f800001;  // signed, as every processor compares
  const auto key = static_cast<std::int32_t>(bits_of(value) & 0x7fffffffu);
  return static_cast<Key>(key < kNaN ? key : kNaN);
}

// The smallest key that a cut holds, of elements before the end of its ties or behind it.
TVMERGE_FN Key limit_of(const Cut& cut, bool ties) {
  return ties || cut.key == UINT32_MAX ? cut.key : cut.key + 1;
}

// What is ranked of a delta whose row has a factor: `factor` holds its bits.
TVMERGE_FN float weighed(float delta, std::uint32_t factor) {
  return delta * float_of(factor);
}

// NaN and infinity stay: a broken input must show.
template <typename Sum>
TVMERGE_FN Sum limited(Sum value, Sum limit) {
  const Sum below = value > limit ? limit : value;
  const Sum inside = below < -limit ? -limit : below;
  return value - value == 0 ? inside : value;
}

// By its bits: compilers turn a choice of two signs into branches for all that follows.
TVMERGE_FN float negated_if(float value, bool negative) {
  return float_of(bits_of(value) ^ (negative ? 0x80000000u : 0u));
}
TVMERGE_FN double negated_if(double value, bool negative) {
  return double_of(bits_of(value) ^ (negative ? std::uint64_t{1} << 63 : 0u));
}

// NaN takes part: it must show.
template <typename Sum>
TVMERGE_FN bool agrees(Sum value, bool negative, bool any_sign) {
  const Sum with_sign = negated_if(value, negative);
  return (!(with_sign <= 0)) | (any_sign & (value != 0));
}

// Whether a part counts that `agrees`; `others` is what the others' values come to.
template <typename Sum>
TVMERGE_FN bool counts(Sum value, Sum others, Sum threshold, bool agrees) {
  const Sum least = threshold * (others < 0 ? -others : others);
  return agrees & !((value < 0 ? -value : value) < least);
}

// Whether a value has a larger magnitude than another one.
template <typename Sum>
TVMERGE_FN bool is_larger(Sum value, Sum other) {
  return (value < 0 ? -value : value) > (other < 0 ? -other : other);
}

// The largest of values, but NaN where they come to infinity or NaN, as one of them then
// does: a broken input must show.
template <typename Sum>
TVMERGE_FN Sum shown(Sum largest, Sum whole) {
  return largest + (whole - whole);
}

// What is agreed on where `enough` parts count, else 0; but not of infinity and NaN: a
// broken input must show.
template <typename Sum>
TVMERGE_FN Sum backed(Sum agreed, bool enough) {
  return enough ? agreed : agreed - agreed;
}

// Philox4x32-7 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011):
// what they found to pass every test of TestU01's BigCrush; their default of 10 rounds
// is a margin that masks have no use for, and drawing is what random masks cost.
constexpr int kDrawRounds = 7;
struct Drawn {
  std::uint32_t number[4];
};
TVMERGE_FN Drawn draw(std::uint64_t key, std::uint64_t counter) {
  auto a = static_cast<std::uint32_t>(counter);
  auto b = static_cast<std::uint32_t>(counter >> 32);
  std::uint32_t c = 0, d = 0;
  auto low = static_cast<std::uint32_t>(key);
  auto high = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < kDrawRounds; ++round) {
    const std::uint64_t one = std::uint64_t{a} * 0xd2511f53u;
    const std::uint64_t two = std::uint64_t{c} * 0xcd9e8d57u;
    a = static_cast<std::uint32_t>(two >> 32) ^ b ^ low;
    b = static_cast<std::uint32_t>(two);
    c = static_cast<std::uint32_t>(one >> 32) ^ d ^ high;
    d = static_cast<std::uint32_t>(one);
    low += 0x9e3779b9u;
    high += 0xbb67ae85u;
  }
  return {{a, b, c, d}};
}

// What an element draws: element i of the `tile` elements from a multiple of them on
// takes number i / (tile / 4) of the counter (first / 4 + i % (tile / 4)).
TVMERGE_FN std::uint32_t draw_of(std::uint64_t key, std::uint64_t element,
                                 std::uint64_t tile) {
  const std::uint64_t place = element % tile, counters = tile / 4;
  const Drawn drawn = draw(key, (element - place) / 4 + place % counters);
  const std::uint64_t number = place / counters;
  return number == 0   ? drawn.number[0]
         : number == 1 ? drawn.number[1]
         : number == 2 ? drawn.number[2]
                       : drawn.number[3];
}

}  // namespace tvmerge::ops
