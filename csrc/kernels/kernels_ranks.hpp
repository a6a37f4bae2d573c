// What drawing by ranks within rows does with every element (row_draw.hpp).
#pragma once

#include <algorithm>

#include "kernels/kernels_masks.hpp"
#include "kernels/kernels_random.hpp"

namespace tvmerge::TVMERGE_ISA {
namespace {

void draw_numbers(std::uint64_t key, std::uint64_t first, std::size_t count,
                  std::uint32_t* numbers) {
  std::size_t start = 0;
  for (; start + kTile <= count; start += kTile)
    draw_tile(key, first + start, numbers + start);
  if (start == count) return;
  alignas(64) std::uint32_t last[kTile];
  draw_tile(key, first + start, last);
  std::copy_n(last, count - start, numbers + start);
}

// Indices of 32 bits, or half of each register would go to them.
void bin_keys(const KeyBins& bins, const std::uint32_t* __restrict keys,
              std::uint32_t count, bool exact_zeros, std::uint16_t* __restrict to) {
  std::uint32_t top = 0;
  for (std::uint32_t i = 0; i < count; ++i) top = keys[i] > top ? keys[i] : top;
  const std::uint32_t shift = bins.shift, more = (1u << shift) - 1;
  const std::uint32_t below = bins.below_levels(), top_level = top >> shift;
  const std::uint32_t zeros = bins.first_zeros(), turns = exact_zeros ? 0 : kZeroBins - 1;
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::uint32_t key = keys[i], level = top_level - (key >> shift);
    const std::uint32_t bin = 2 * level + ((key & more) == 0 ? 1u : 0u);
    const std::uint32_t found = bin < below ? bin : below;
    to[i] = static_cast<std::uint16_t>(key == 0 ? zeros + (i & turns) : found);
  }
}

std::size_t draw_below(const std::uint32_t* __restrict limits, std::size_t count,
                       std::uint32_t doubt, std::uint32_t* __restrict numbers,
                       DoubtfulDraw* __restrict doubtful) {
  constexpr std::size_t kGroup = 64;  // most groups hold none
  const std::uint32_t width = doubt >= 1u << 31 ? UINT32_MAX : 2 * doubt;
  std::size_t found = 0;
  for (std::size_t start = 0; start < count; start += kGroup) {
    const std::size_t stop = std::min(count, start + kGroup);
    if (doubt > 0) {
      std::uint32_t any = 0;
      for (std::size_t i = start; i < stop; ++i)
        any |= numbers[i] - limits[i] + doubt <= width ? 1u : 0u;
      for (std::size_t i = start; any != 0 && i < stop; ++i) {
        doubtful[found] = {static_cast<std::uint32_t>(i), numbers[i]};
        found += numbers[i] - limits[i] + doubt <= width ? 1 : 0;
      }
    }
    for (std::size_t i = start; i < stop; ++i)
      numbers[i] = numbers[i] < limits[i] ? UINT32_MAX : 0;
  }
  return found;
}

}  // namespace
}  // namespace tvmerge::TVMERGE_ISA
