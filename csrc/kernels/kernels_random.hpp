// Random numbers by counter: Philox4x32-7 (Salmon et al., "Parallel Random Numbers: As
// Easy as 1, 2, 3", 2011; ops::draw). An element's number depends on its place and the
// key, on nothing else.
#pragma once

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "kernels/kernels_codes.hpp"

namespace tvmerge::TVMERGE_ISA {
namespace {

constexpr std::size_t kDraws = 4;  // of one counter
constexpr std::size_t kCounters = kTile / kDraws;
constexpr std::size_t kRounds = ops::kDrawRounds;

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
#elif defined(__SSE2__)  // compilers make three products of this one
  return (Halves)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(b));
#else
  return (a & 0xffffffffu) * std::uint64_t{b};
#endif
}

// The lower halves of both, in turn.
inline void store(Halves even, Halves odd, std::uint32_t* to) {
  const Halves both = (even & 0xffffffffu) | odd << 32;
  std::memcpy(to, &both, sizeof both);
}

// What each round adds to the counter, of one key.
struct Schedule {
  std::uint32_t low[kRounds], high[kRounds];

  explicit Schedule(std::uint64_t key) {
    for (std::uint32_t round = 0; round < kRounds; ++round) {
      low[round] = static_cast<std::uint32_t>(key) + round * 0x9e3779b9u;
      high[round] = static_cast<std::uint32_t>(key >> 32) + round * 0xbb67ae85u;
    }
  }
};

// Two registers of counters go through the rounds side by side: each round waits for the
// one before it, and processors do not look far enough ahead to begin with the next
// counters meanwhile.
constexpr std::size_t kBeside = 2;
struct Drawn {
  Halves number[kDraws][kBeside];
};

// Of counters that differ in their lower halves alone, `low` and one more: what the first
// rounds make of the upper half, and of the zeros behind it, is one number for all.
inline Drawn draw(const Schedule& key, Halves low, std::uint32_t high) {
  const std::uint32_t shared = high ^ key.low[0];
  const std::uint64_t other = std::uint64_t{shared} * 0xd2511f53u;
  Halves a[kBeside], b[kBeside], c[kBeside], d[kBeside];
  for (std::size_t k = 0; k < kBeside; ++k) {
    d[k] = products(low + k, 0xd2511f53u);
    c[k] = (d[k] >> 32) ^ std::uint64_t{key.high[0]};
  }
  for (std::size_t k = 0; k < kBeside; ++k) {
    b[k] = products(c[k], 0xcd9e8d57u);
    a[k] = (b[k] >> 32) ^ std::uint64_t{key.low[1]};
    c[k] = d[k] ^ std::uint64_t{static_cast<std::uint32_t>(other >> 32) ^ key.high[1]};
    d[k] = Halves{} + static_cast<std::uint32_t>(other);
  }
  for (std::size_t round = 2; round < kRounds; ++round) {
    Halves one[kBeside], two[kBeside];
    for (std::size_t k = 0; k < kBeside; ++k) {
      one[k] = products(a[k], 0xd2511f53u);
      two[k] = products(c[k], 0xcd9e8d57u);
    }
    for (std::size_t k = 0; k < kBeside; ++k) {
      a[k] = (two[k] >> 32) ^ b[k] ^ std::uint64_t{key.low[round]};
      c[k] = (one[k] >> 32) ^ d[k] ^ std::uint64_t{key.high[round]};
      b[k] = two[k];
      d[k] = one[k];
    }
  }
  return {{{a[0], a[1]}, {b[0], b[1]}, {c[0], c[1]}, {d[0], d[1]}}};
}

// The numbers of elements [first, first + kTile), `first` a multiple of kTile: element i
// of the tile takes number i / kCounters of the counter first / kDraws + i % kCounters.
void draw_tile(std::uint64_t key, std::uint64_t first, std::uint32_t* numbers) {
  const Schedule schedule(key);
  const std::uint64_t counter = first / kDraws;
  Halves lane{};
  for (std::size_t i = 0; i < kHalves; ++i) lane[i] = kBeside * i;
  for (std::size_t block = 0; block < kCounters; block += kBeside * kHalves) {
    const Drawn drawn = draw(schedule, lane + (counter + block),
                             static_cast<std::uint32_t>(counter >> 32));
    for (std::size_t n = 0; n < kDraws; ++n)
      store(drawn.number[n][0], drawn.number[n][1], numbers + block + n * kCounters);
  }
}

}  // namespace
}  // namespace tvmerge::TVMERGE_ISA
