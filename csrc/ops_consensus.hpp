// Per-element functors of the methods that mask deltas: which elements a cut keeps, what
// is drawn for each. One source for every instruction set and for cards (ops.hpp).
#pragma once

#include <cstdint>

#include "consensus.hpp"
#include "ops.hpp"

namespace tvmerge::ops {

// Of a magnitude. Every NaN has the same, above all others: which payload an operation
// passes on differs between processors.
TVMERGE_FN Key key_of(float value) {
  const Key key = bits_of(value) & 0x7fffffffu;
  return key > 0x7f800000u ? 0x7f800001u : key;
}

// The smallest key that a cut holds, of elements before the end of its ties or behind it.
TVMERGE_FN Key limit_of(const Cut& cut, bool ties) {
  return ties || cut.key == UINT32_MAX ? cut.key : cut.key + 1;
}

// NaN and infinity stay: a broken input must show.
template <typename Sum>
TVMERGE_FN Sum limited(Sum value, Sum limit) {
  const Sum below = value > limit ? limit : value;
  const Sum inside = below < -limit ? -limit : below;
  return value - value == 0 ? inside : value;
}

// NaN takes part: it must show.
template <typename Sum>
TVMERGE_FN bool agrees(Sum value, bool negative, bool any_sign) {
  const Sum with_sign = negative ? -value : value;
  return (!(with_sign <= 0)) | (any_sign & (value != 0));
}

// Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011).
struct Drawn {
  std::uint32_t number[4];
};
TVMERGE_FN Drawn draw(std::uint64_t key, std::uint64_t counter) {
  auto a = static_cast<std::uint32_t>(counter);
  auto b = static_cast<std::uint32_t>(counter >> 32);
  std::uint32_t c = 0, d = 0;
  auto low = static_cast<std::uint32_t>(key);
  auto high = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
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
