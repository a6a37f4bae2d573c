// Random numbers by counter: Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As
// Easy as 1, 2, 3", 2011). An element's number depends on its place and the key, on
// nothing else.
#pragma once

#include "kernels_codes.hpp"

namespace tvmerge::TVMERGE_ISA {
namespace {

constexpr std::size_t kDraws = 4;  // of one counter

// The numbers of elements [first, first + kTile); `first` is a multiple of kDraws.
void draw_tile(std::uint64_t key, std::uint64_t first,
               std::uint32_t* __restrict numbers) {
  constexpr std::size_t kBlocks = kTile / kDraws;
  std::uint32_t a[kBlocks], b[kBlocks], c[kBlocks]{}, d[kBlocks]{};
  for (std::size_t i = 0; i < kBlocks; ++i) {
    const std::uint64_t counter = first / kDraws + i;
    a[i] = static_cast<std::uint32_t>(counter);
    b[i] = static_cast<std::uint32_t>(counter >> 32);
  }
  auto key_low = static_cast<std::uint32_t>(key);
  auto key_high = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    for (std::size_t i = 0; i < kBlocks; ++i) {
      const std::uint64_t one = std::uint64_t{0xd2511f53u} * a[i];
      const std::uint64_t two = std::uint64_t{0xcd9e8d57u} * c[i];
      a[i] = static_cast<std::uint32_t>(two >> 32) ^ b[i] ^ key_low;
      b[i] = static_cast<std::uint32_t>(two);
      c[i] = static_cast<std::uint32_t>(one >> 32) ^ d[i] ^ key_high;
      d[i] = static_cast<std::uint32_t>(one);
    }
    key_low += 0x9e3779b9u;
    key_high += 0xbb67ae85u;
  }
  for (std::size_t i = 0; i < kBlocks; ++i) {
    numbers[i * kDraws] = a[i];
    numbers[i * kDraws + 1] = b[i];
    numbers[i * kDraws + 2] = c[i];
    numbers[i * kDraws + 3] = d[i];
  }
}

}  // namespace
}  // namespace tvmerge::TVMERGE_ISA
