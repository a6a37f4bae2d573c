// What deltas agree on in a whole tile of one dtype, chunk by chunk.
#pragma once

#include "cuda/agreement.cuh"
#include "cuda/chunk.cuh"

namespace tvmerge::cuda {

// One bit for each of a thread's elements of a whole tile: whether it is drawn. Four
// elements share a counter.
template <typename Sum, Dtype D>
struct DrawnBits {
  using Chunk = Chunks<Sum, D>;
  static constexpr unsigned kBits = kTile / kLanes<Sum>;
  static constexpr unsigned kPassesEach = Chunk::kPasses / 4;
  static_assert(kBits == 64, "one word has them all");
  std::uint64_t bits;

  __device__ __forceinline__ bool at(unsigned pass, unsigned e) const {
    return (bits >> (pass * Chunk::kCount + e) & 1) != 0;
  }
  // `first`: the thread's first element in the slice; `element`: in the tensor.
  __device__ __forceinline__ void draw(const CardPart<Sum>& part, std::size_t first,
                                       std::uint64_t element) {
    bits = 0;
#pragma unroll 1
    for (unsigned pass = 0; pass < kPassesEach; ++pass) {
#pragma unroll 1
      for (unsigned e = 0; e < Chunk::kCount; ++e) {
        const std::size_t place = pass * Chunk::kStep + e;
        const std::uint64_t at = element + place, within = at % kTile;
        const ops::Drawn drawn = part.limits != nullptr
                                     ? ops::Drawn{}
                                     : ops::draw(part.key, (at - within) / 4 + within);
#pragma unroll
        for (unsigned n = 0; n < 4; ++n) {
          const bool is_drawn = part.limits != nullptr
                                    ? part.limits[first + place + n * (kTile / 4)] != 0
                                    : drawn.number[n] < part.random_below;
          const unsigned bit = (pass + n * kPassesEach) * Chunk::kCount + e;
          bits |= std::uint64_t{is_drawn} << bit;
        }
      }
    }
  }
};

// A thread's elements of a whole tile, chunk by chunk; every decision that is the same
// for all elements is made once for a chunk.
template <typename Sum, Dtype D, bool Random, unsigned Parts>
class TileAgreement {
  using Chunk = Chunks<Sum, D>;
  static constexpr unsigned kCount = Chunk::kCount;
  using All = Agreement<Sum, Parts>;

 public:
  __device__ __forceinline__ TileAgreement(const All& all, WholeTile tile)
      : all_(all),
        first_(tile.number * kTile + threadIdx.x % kLanes<Sum> * kCount),
        wanted_(tile.wanted) {
    if constexpr (Random) {
#pragma unroll
      for (unsigned p = 0; p < Parts; ++p)
        drawn_[p].draw(all.parts[p], first_, all.first + first_);
    }
  }

  __device__ __forceinline__ Edit agree(Sum* stage) {
    Comparison<Sum> comparison;
#pragma unroll 1
    for (unsigned pass = 0; pass < Chunk::kPasses; ++pass, first_ += Chunk::kStep) {
      const typename Chunk::Held from = Chunk::load(all_.terms.at[0].data, first_);
      typename Chunk::Held held[Parts];
#pragma unroll
      for (unsigned p = 0; p < Parts; ++p)
        held[p] = Chunk::load(all_.parts[p].term.data, first_);
      Sum x[kCount], values[Parts][kCount], y[kCount], z[kCount];
#pragma unroll
      for (unsigned e = 0; e < kCount; ++e) x[e] = from.decoded(e);
#pragma unroll
      for (unsigned p = 0; p < Parts; ++p) cut(p, pass, held[p], x, values[p]);
      sum(values, y);
#pragma unroll
      for (unsigned e = 0; e < kCount; ++e) y[e] = fused(all_.scale, y[e], x[e]);
      Chunk::store(all_.out, first_, wanted_, y, z);
      if (all_.edits != nullptr)
        Chunk::template compare<false>(comparison, stage, x, y, z);
    }
    return all_.edits != nullptr ? comparison.template edit<kLanes<Sum>>() : Edit{};
  }

 private:
  // What takes part of delta p.
  __device__ __forceinline__ void cut(unsigned p, unsigned pass,
                                      const typename Chunk::Held& held,
                                      const Sum (&x)[kCount], Sum (&values)[kCount]) {
    const CardPart<Sum>& part = all_.parts[p];
    const std::uint64_t element = all_.first + first_;
    const unsigned outer = ties_left(part.outer, element, kCount);
    const unsigned inner = ties_left(part.inner, element, kCount);
    const auto is_drawn = [&](unsigned e) {
      return !Random || drawn_[Random ? p : 0].at(pass, e);
    };
    if (part.compares_numbers && outer % kCount == 0) {
      const Sum least = ops::float_of(outer != 0 ? part.outer.before : part.outer.after);
#pragma unroll
      for (unsigned e = 0; e < kCount; ++e) {
        const Sum delta = held.decoded(e) - x[e];
        const bool kept = is_drawn(e) && !(fabsf(delta) < least);
        values[e] = kept ? part.factor * delta : Sum{0};
      }
      return;
    }
#pragma unroll
    for (unsigned e = 0; e < kCount; ++e) {
      const Sum delta = held.decoded(e) - x[e];
      values[e] = cut_value(part, delta, delta, e < outer, e < inner, is_drawn(e));
    }
  }

  __device__ __forceinline__ void sum(const Sum (&values)[Parts][kCount],
                                      Sum (&y)[kCount]) {
#pragma unroll
    for (unsigned e = 0; e < kCount; ++e) {
      y[e] = 0;
#pragma unroll
      for (unsigned p = 0; p < Parts; ++p) y[e] += values[p][e];
    }
    if (!all_.elects) return;
    Sum weight[kCount];
    // As ops::agrees, in two instructions.
    const std::uint32_t kept_bits = all_.any_sign ? 0x7fffffffu : ~0u;
#pragma unroll
    for (unsigned e = 0; e < kCount; ++e) {
      const Sum whole = y[e];
      const std::uint32_t turned = whole < 0 && !all_.any_sign ? 0x80000000u : 0u;
      y[e] = weight[e] = 0;
#pragma unroll
      for (unsigned p = 0; p < Parts; ++p) {
        const Sum value = values[p][e];
        const std::uint32_t with_sign = (ops::bits_of(value) & kept_bits) ^ turned;
        if (!(ops::float_of(with_sign) <= 0)) {
          y[e] += all_.parts[p].late * value;
          weight[e] += all_.parts[p].own;
        }
      }
      if (all_.least > 0)
        y[e] = ops::backed(y[e], counted(values, e, whole) >= all_.least);
    }
    if (!all_.normalizes) return;
#pragma unroll
    for (unsigned e = 0; e < kCount; ++e) y[e] /= weight[e] != 0 ? weight[e] : Sum{1};
  }

  // How many parts count at element e, where their values come to `whole`.
  __device__ __forceinline__ Sum counted(const Sum (&values)[Parts][kCount], unsigned e,
                                         Sum whole) {
    Sum number = 0;
#pragma unroll
    for (unsigned p = 0; p < Parts; ++p) {
      const Sum value = values[p][e];
      const bool agrees = ops::agrees(value, whole < 0, all_.any_sign);
      const Sum threshold = all_.parts[p].threshold;
      number += ops::counts(value, whole - value, threshold, agrees) ? Sum{1} : Sum{0};
    }
    return number;
  }

  const All& all_;
  std::size_t first_;
  const bool wanted_;
  DrawnBits<Sum, D> drawn_[Random ? Parts : 1];
};

}  // namespace tvmerge::cuda
