// What is drawn as bits of DrawnMask, and as a word for each element.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "core/consensus.hpp"
#include "kernels/kernels_pairs.hpp"

namespace tvmerge::TVMERGE_ISA {
namespace {

// The bits of a word, from the lowest on: of these the compiler makes vectors.
struct WordBits {
  std::uint32_t of[DrawnMask::kWordElements];
};
constexpr WordBits kWordBits = [] {
  WordBits bits{};
  for (std::size_t n = 0; n < DrawnMask::kWordElements; ++n) bits.of[n] = 1u << n;
  return bits;
}();

// Calls use(word, first element, how many it has), with a constant for all but the last.
template <typename Use>
inline void with_words(std::size_t count, Use&& use) {
  constexpr std::size_t kWhole = DrawnMask::kWordElements;
  const std::size_t whole = count / kWhole;
  for (std::size_t word = 0; word < whole; ++word)
    use(word, word * kWhole, std::integral_constant<std::size_t, kWhole>());
  if (count % kWhole > 0) use(whole, whole * kWhole, count % kWhole);
}

// The bits of the lanes for which a comparison holds.
inline std::uint32_t bits_of_lanes(unsigned lanes) { return lanes; }
inline std::uint32_t bits_of_lanes(Ints lanes) {
  std::uint32_t bits = 0;
  for (std::size_t lane = 0; lane < Vectors<float>::kWidth; ++lane)
    bits |= static_cast<std::uint32_t>(lanes[lane]) & kWordBits.of[lane];
  return bits;
}

// Sets the bits of the elements whose number, but for the bits `Flip` of it, is less than
// `below` as a signed one. What is behind the last element's bit does not matter.
template <std::uint32_t Flip>
void pack_less(const std::uint32_t* numbers, std::int32_t below, std::size_t count,
               std::uint32_t* words) {
  with_words(count, [=](std::size_t word, std::size_t first, auto length) {
    constexpr std::size_t kWidth = Vectors<float>::kWidth;
    std::uint32_t last[DrawnMask::kWordElements]{};
    const bool whole = length == DrawnMask::kWordElements;
    if (!whole) std::copy_n(numbers + first, length, last);
    const std::uint32_t* const from = whole ? numbers + first : last;
    std::uint32_t bits = 0;
    for (std::size_t lane = 0; lane < length; lane += kWidth) {
      const auto held = (Ints)(load_words(from + lane) ^ Flip);
      bits |= bits_of_lanes(greater_lanes(Ints{} + below, held)) << lane;
    }
    words[word] = bits;
  });
}

// Sets the bits of elements whose number is less than `below`.
inline void pack_below(const std::uint32_t* numbers, std::uint32_t below,
                       std::size_t count, std::uint32_t* words) {
  constexpr std::uint32_t kSign = 0x80000000u;
  pack_less<kSign>(numbers, static_cast<std::int32_t>(below ^ kSign), count, words);
}

void pack_bits(const std::uint32_t* masks, std::size_t count, std::uint32_t* words) {
  pack_less<0>(masks, 0, count, words);
}

// What elements get whose bit is set, and all others.
template <std::uint32_t Set, std::uint32_t Clear>
void spread(const std::uint32_t* __restrict words, std::size_t count,
            std::uint32_t* __restrict to) {
  with_words(count, [=](std::size_t word, std::size_t first, auto length) {
    const std::uint32_t bits = words[word];
    for (std::size_t n = 0; n < length; ++n)
      to[first + n] = (bits & kWordBits.of[n]) != 0 ? Set : Clear;
  });
}

void spread_bits(const std::uint32_t* words, std::size_t count, std::uint32_t* masks) {
  spread<UINT32_MAX, 0>(words, count, masks);
}

}  // namespace
}  // namespace tvmerge::TVMERGE_ISA
