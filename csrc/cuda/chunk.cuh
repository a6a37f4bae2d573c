// Whole tiles of one dtype, 8 or 16 bytes of every term at a time. Memory is read and
// written in its own order; sums that must have the order of lanes (compare.cuh) take a
// way through shared memory. All threads of a warp take part: where there are fewer
// tiles, the last ones go through the last tile again and store nothing.
#pragma once

#include "cuda/compare.cuh"

namespace tvmerge::cuda {

// The tile of this thread among the whole ones of a slice.
struct WholeTile {
  std::size_t number;
  bool wanted;

  template <unsigned Lanes>
  static __device__ __forceinline__ WholeTile of(std::size_t count) {
    const std::size_t tile = thread_number() / Lanes, tiles = count / kTile;
    return {tile < tiles ? tile : tiles - 1, tile < tiles};
  }
};

template <typename Sum, Dtype D>
struct Chunks {
  using Element = ops::Element<D>;
  using Bits = typename Element::Bits;
  static constexpr unsigned kLanesHere = kLanes<Sum>;
  // Elements of one thread at a time, and of its tile's threads together.
  static constexpr unsigned kCount = sizeof(Bits) == 1 ? 8 : 16 / sizeof(Bits);
  static constexpr unsigned kStep = kCount * kLanesHere;
  static constexpr unsigned kPasses = kTile / kStep;
  using Words = std::conditional_t<kCount * sizeof(Bits) == 16, uint4, uint2>;

  // The codes of kCount elements.
  struct Held {
    std::uint32_t words[sizeof(Words) / 4];

    __device__ __forceinline__ Sum decoded(unsigned e) const {
      if constexpr (sizeof(Bits) == 8) {
        const std::uint64_t code = std::uint64_t{words[2 * e + 1]} << 32 | words[2 * e];
        return static_cast<Sum>(Element::decode(code));
      } else {
        constexpr unsigned kEach = 4 / sizeof(Bits);
        const std::uint32_t word = words[e / kEach] >> (e % kEach * 8 * sizeof(Bits));
        return static_cast<Sum>(Element::decode(static_cast<Bits>(word)));
      }
    }
    // Into memory that is 0.
    __device__ __forceinline__ void encode(unsigned e, Bits code) {
      if constexpr (sizeof(Bits) == 8) {
        words[2 * e] = static_cast<std::uint32_t>(code);
        words[2 * e + 1] = static_cast<std::uint32_t>(code >> 32);
      } else {
        constexpr unsigned kEach = 4 / sizeof(Bits);
        words[e / kEach] |= std::uint32_t{code} << (e % kEach * 8 * sizeof(Bits));
      }
    }
  };

  static __device__ __forceinline__ Held load(const void* data, std::size_t first) {
    const auto* const at = static_cast<const Bits*>(data) + first;
    const Words words = *reinterpret_cast<const Words*>(at);
    Held held;
    memcpy(held.words, &words, sizeof words);
    return held;
  }

  // Rounds kCount elements once, stores them if that is `wanted`, and says what they
  // stand for.
  static __device__ __forceinline__ void store(void* out, std::size_t first, bool wanted,
                                               const Sum (&y)[kCount], Sum (&z)[kCount]) {
    Held held{};
#pragma unroll
    for (unsigned e = 0; e < kCount; ++e) {
      const Bits code = ops::round_once<D>(y[e]);
      held.encode(e, code);
      z[e] = static_cast<Sum>(Element::decode(code));
    }
    Words words;
    memcpy(&words, held.words, sizeof words);
    if (wanted) *reinterpret_cast<Words*>(static_cast<Bits*>(out) + first) = words;
  }

  // What `stage` of compare has to hold for the threads of a block: a gap after every
  // thread's elements, so that its neighbours' lie in other banks.
  static constexpr unsigned kRoom = kLanesHere * (kCount + 1);  // of one tile and sum
  static constexpr unsigned kStage = 2 * kThreads * (kCount + 1);

  // Adds a chunk in the order of lanes. `Paired`: lanes have two neighbours each, as
  // kernels_pairs.hpp has them of bfloat16.
  template <bool Paired>
  static __device__ __forceinline__ void compare(Comparison<Sum>& comparison, Sum* stage,
                                                 const Sum (&x)[kCount],
                                                 const Sum (&y)[kCount],
                                                 const Sum (&z)[kCount]) {
    const unsigned lane = threadIdx.x % kLanesHere;
    Sum* const d = stage + threadIdx.x / kLanesHere * 2 * kRoom;
    Sum* const r = d + kRoom;
    __syncwarp();  // all have read the last chunk
#pragma unroll
    for (unsigned e = 0; e < kCount; ++e) {
      comparison.count(x[e], y[e], z[e]);
      d[lane * (kCount + 1) + e] = y[e] - x[e];
      r[lane * (kCount + 1) + e] = z[e] - x[e];
    }
    __syncwarp();
#pragma unroll
    for (unsigned step = 0; step < kCount; ++step) {
      const unsigned i = Paired ? step / 2 * 2 * kLanesHere + 2 * lane + step % 2
                                : step * kLanesHere + lane;
      const unsigned at = i + i / kCount;
      comparison.add_edit(d[at], r[at]);
    }
  }
};

}  // namespace tvmerge::cuda
