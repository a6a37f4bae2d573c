// Counts of keys (select.hpp): integers, which add up in any order.
#include "cuda/chunk.cuh"
#include "cuda/deltas.cuh"

namespace tvmerge::cuda {
namespace {

template <unsigned Most>
struct Scanned {
  Terms<Most> terms;
  int term;  // -1: the variance
  std::size_t count;
  Key low, high, tie;
  unsigned shift;
  std::uint64_t* above;
  std::uint32_t *ties, *bins;
};

// A block looks at so many elements, which lie in one stretch of kSumElements.
constexpr unsigned kScanned = 8192;
constexpr unsigned kEach = kScanned / kThreads;

// Deltas of narrow dtypes take few values: all would count in the same few bins. The
// first bins that a block meets it counts by itself.
constexpr unsigned kOwnBins = 1024;

// Counts of one thread, and the bins of its block.
template <unsigned Most>
class Counting {
 public:
  __device__ __forceinline__ Counting(const Scanned<Most>& all, std::uint32_t* tags,
                                      std::uint32_t* counts)
      : all_(all), tags_(tags), counts_(counts) {
    for (unsigned slot = threadIdx.x; slot < kOwnBins; slot += kThreads)
      tags_[slot] = counts_[slot] = 0;
    __syncthreads();
  }
  __device__ __forceinline__ void add(float ranked) {
    const Key key = ops::key_of(ranked);
    above_ += key > all_.high ? 1 : 0;
    ties_ += key == all_.tie ? 1 : 0;
    if (key >= all_.low && key <= all_.high) add_to_bin((key - all_.low) >> all_.shift);
  }
  __device__ __forceinline__ void finish(std::size_t first) {
    const unsigned above = count_all<32>(above_), ties = count_all<32>(ties_);
    if (threadIdx.x % 32 == 0) {
      if (above != 0) add_to(all_.above, above);
      if (ties != 0) atomicAdd(all_.ties + first / kSumElements, ties);
    }
    __syncthreads();
    for (unsigned slot = threadIdx.x; slot < kOwnBins; slot += kThreads)
      if (tags_[slot] != 0) atomicAdd(all_.bins + (tags_[slot] - 1), counts_[slot]);
  }

 private:
  __device__ __forceinline__ void add_to_bin(std::uint32_t bin) {
    const unsigned slot = bin * 0x9e3779b1u >> 22;  // 1024 of them
    const std::uint32_t tag = bin + 1, held = atomicCAS(tags_ + slot, 0u, tag);
    atomicAdd(held == 0 || held == tag ? counts_ + slot : all_.bins + bin, 1u);
  }

  const Scanned<Most>& all_;
  std::uint32_t *tags_, *counts_;
  unsigned above_ = 0, ties_ = 0;
};

template <unsigned Most>
__global__ void __launch_bounds__(kThreads, 2) scan_any(Scanned<Most> all) {
  TVMERGE_SHARED(std::uint32_t, tags, kOwnBins);
  TVMERGE_SHARED(std::uint32_t, counts, kOwnBins);
  Counting<Most> counting(all, tags, counts);
  const std::size_t first = std::size_t{blockIdx.x} * kScanned;
  for (unsigned n = 0; n < kEach; ++n) {
    const std::size_t i = first + n * kThreads + threadIdx.x;
    if (i >= all.count) break;
    counting.add(all.term < 0 ? variance_at(all.terms, i)
                              : delta_at(all.terms.at[0], all.terms.at[all.term], i));
  }
  counting.finish(first);
}

// Both terms, the base and the other one, of one dtype that is no float64.
template <Dtype D>
__global__ void __launch_bounds__(kThreads, 2) scan_alone(Scanned<2> all) {
  using Chunk = Chunks<float, D>;
  TVMERGE_SHARED(std::uint32_t, tags, kOwnBins);
  TVMERGE_SHARED(std::uint32_t, counts, kOwnBins);
  Counting<2> counting(all, tags, counts);
  const std::size_t first = std::size_t{blockIdx.x} * kScanned;
  for (unsigned n = 0; n < kEach / Chunk::kCount; ++n) {
    const std::size_t i = first + (n * kThreads + threadIdx.x) * Chunk::kCount;
    if (i + Chunk::kCount <= all.count) {
      const typename Chunk::Held base = Chunk::load(all.terms.at[0].data, i);
      const typename Chunk::Held other = Chunk::load(all.terms.at[1].data, i);
#pragma unroll
      for (unsigned e = 0; e < Chunk::kCount; ++e)
        counting.add(other.decoded(e) - base.decoded(e));
      continue;
    }
    for (std::size_t rest = i; rest < all.count; ++rest)
      counting.add(load<D>(all.terms.at[1].data, rest) -
                   load<D>(all.terms.at[0].data, rest));
  }
  counting.finish(first);
}

template <unsigned Most>
Scanned<Most> scanned(const CardScan& scan, const Term* terms, std::size_t term_count) {
  return {card_terms<Most>(terms, term_count),
          scan.slice.term,
          scan.slice.count,
          scan.low,
          scan.high,
          scan.tie,
          scan.shift,
          scan.above,
          scan.ties,
          scan.bins};
}

unsigned blocks_of(const CardScan& scan) {
  return static_cast<unsigned>((scan.slice.count + kScanned - 1) / kScanned);
}

template <Dtype D>
void launch_alone(const CardScan& scan, const Term* both, cudaStream_t stream) {
  TVMERGE_LAUNCH((scan_alone<D>), blocks_of(scan), kThreads, stream,
                 scanned<2>(scan, both, 2));
}

}  // namespace

void scan(const CardScan& scan, cudaStream_t stream) {
  const RankedSlice& slice = scan.slice;
  if (slice.term > 0) {
    const Term both[2]{slice.terms[0], slice.terms[slice.term]};
    const bool alone = both[0].dtype == both[1].dtype;
    if (alone && both[0].dtype == Dtype::bf16)
      return launch_alone<Dtype::bf16>(scan, both, stream);
    if (alone && both[0].dtype == Dtype::f16)
      return launch_alone<Dtype::f16>(scan, both, stream);
    if (alone && both[0].dtype == Dtype::f32)
      return launch_alone<Dtype::f32>(scan, both, stream);
  }
  TVMERGE_LAUNCH((scan_any<kMostTerms>), blocks_of(scan), kThreads, stream,
                 scanned<kMostTerms>(scan, slice.terms, slice.term_count));
}

}  // namespace tvmerge::cuda
