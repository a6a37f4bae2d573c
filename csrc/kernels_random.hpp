// Random numbers by counter: Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As
// Easy as 1, 2, 3", 2011). An element's number depends on its place and the key, on
// nothing else.
#pragma once

#include "kernels_codes.hpp"

namespace tvmerge::TVMERGE_ISA {
namespace {

constexpr std::size_t kDraws = 4;  // of one counter
constexpr std::size_t kCounters = kTile / kDraws;

// 32 bits each in the lower half of 64, where the product of two has room. What the upper
// half holds does not matter.
typedef std::uint64_t Halves __attribute__((vector_size(TVMERGE_VECTOR_BYTES)));
constexpr std::size_t kHalves = TVMERGE_VECTOR_BYTES / sizeof(std::uint64_t);

// The products of the lower halves.
inline Halves products(Halves a, std::uint32_t b) {
#if TVMERGE_VECTOR_BYTES == 64
  return (Halves)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(b));
#elif TVMERGE_VECTOR_BYTES == 32
  return (Halves)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(b));
#else
  return (a & 0xffffffffu) * std::uint64_t{b};
#endif
}

inline void store(Halves from, std::uint32_t* to) {
  for (std::size_t lane = 0; lane < kHalves; ++lane)
    to[lane] = static_cast<std::uint32_t>(from[lane]);
}

// The numbers of elements [first, first + kTile), `first` a multiple of kTile: element i
// of the tile takes number i / kCounters of the counter first / kDraws + i % kCounters.
void draw_tile(std::uint64_t key, std::uint64_t first, std::uint32_t* numbers) {
  Halves lane{};
  for (std::size_t i = 0; i < kHalves; ++i) lane[i] = i;
  for (std::size_t block = 0; block < kCounters; block += kHalves) {
    const Halves counter = lane + (first / kDraws + block);
    Halves a = counter, b = counter >> 32, c{}, d{};
    auto low = static_cast<std::uint32_t>(key);
    auto high = static_cast<std::uint32_t>(key >> 32);
    for (int round = 0; round < 10; ++round) {
      const Halves one = products(a, 0xd2511f53u), two = products(c, 0xcd9e8d57u);
      a = (two >> 32) ^ b ^ std::uint64_t{low};
      b = two;
      c = (one >> 32) ^ d ^ std::uint64_t{high};
      d = one;
      low += 0x9e3779b9u;
      high += 0xbb67ae85u;
    }
    store(a, numbers + block);
    store(b, numbers + block + kCounters);
    store(c, numbers + block + 2 * kCounters);
    store(d, numbers + block + 3 * kCounters);
  }
}

}  // namespace
}  // namespace tvmerge::TVMERGE_ISA
