// Digests (digest.hpp) of several ranges.
#include <algorithm>

#include "core/digest.hpp"
#include "cuda/launches.hpp"
#include "cuda/tile.cuh"

namespace tvmerge::cuda {
namespace {

__constant__ std::uint64_t kKeys[kDigestLanes] = {
    0x243f6a8885a308d3u, 0x13198a2e03707344u, 0xa4093822299f31d0u, 0x082efa98ec4e6c89u,
    0x452821e638d01377u, 0xbe5466cf34e90c6cu, 0xc0ac29b7c97c50ddu, 0x3f84d5b5b5470917u};

// A thread has two words of a stripe, and of every so-manieth stripe from there on.
constexpr unsigned kWordsHeld = 2;
constexpr unsigned kStripeThreads = kDigestLanes / kWordsHeld;

// Several ranges at once: a launch costs more than a small one takes. Each has so many
// blocks, one range behind the other.
constexpr unsigned kRanges = 16;
struct Digested {
  CardDigest ranges[kRanges];  // whose data is aligned as two words are
  unsigned blocks_each;
};

__device__ __forceinline__ std::uint64_t mixed(std::uint64_t word, unsigned j,
                                               std::uint64_t position) {
  const std::uint64_t x = word ^ (kKeys[j] + position * kDigestStep);
  return (x & 0xffffffffu) * (x >> 32);
}

// A word at the end of the data, padded with 0.
__device__ __forceinline__ std::uint64_t end_word(const CardDigest& range,
                                                  std::size_t word) {
  const auto* const bytes = static_cast<const unsigned char*>(range.data);
  std::uint64_t value = 0;
  for (unsigned b = 0; b < 8; ++b) {
    const std::size_t at = word * 8 + b;
    if (at < range.size_bytes) value |= std::uint64_t{bytes[at]} << (8 * b);
  }
  return value;
}

__global__ void __launch_bounds__(kThreads) digest_stripes(Digested all) {
  const CardDigest& range = all.ranges[blockIdx.x / all.blocks_each];
  const auto* const data = static_cast<const std::uint64_t*>(range.data);
  const unsigned j = threadIdx.x % kStripeThreads * kWordsHeld;
  const std::size_t stripes = (range.size_bytes + kStripeBytes - 1) / kStripeBytes;
  const std::size_t whole = range.size_bytes / kStripeBytes;
  const std::size_t thread =
      std::size_t{blockIdx.x % all.blocks_each} * kThreads + threadIdx.x;
  const std::size_t threads = std::size_t{all.blocks_each} * kThreads;
  std::uint64_t low = 0, high = 0;  // of lanes j and j + 1
  for (std::size_t stripe = thread / kStripeThreads; stripe < stripes;
       stripe += threads / kStripeThreads) {
    const std::size_t word = stripe * kDigestLanes + j;
    ulonglong2 words;
    if (stripe < whole) {
      words = *reinterpret_cast<const ulonglong2*>(data + word);
    } else {
      words = make_ulonglong2(end_word(range, word), end_word(range, word + 1));
    }
    const std::uint64_t position = range.position + stripe * kStripeBytes;
    low += mixed(words.x, j, position) + words.y;
    high += mixed(words.y, j + 1, position) + words.x;
  }
  for (unsigned step = kStripeThreads; step < 32; step *= 2) {
    low += __shfl_xor_sync(kWholeWarp, static_cast<unsigned long long>(low), step, 32);
    high += __shfl_xor_sync(kWholeWarp, static_cast<unsigned long long>(high), step, 32);
  }
  if (threadIdx.x % 32 >= kStripeThreads) return;
  add_to(range.lanes + j, low);
  add_to(range.lanes + j + 1, high);
}

}  // namespace

void digest(const std::vector<CardDigest>& ranges, cudaStream_t stream) {
  constexpr unsigned kMostBlocks = 1024;
  for (std::size_t first = 0; first < ranges.size(); first += kRanges) {
    Digested all{{}, 1};
    const std::size_t count = std::min<std::size_t>(kRanges, ranges.size() - first);
    for (std::size_t r = 0; r < count; ++r) {
      all.ranges[r] = ranges[first + r];
      const std::size_t stripes =
          (all.ranges[r].size_bytes + kStripeBytes - 1) / kStripeBytes;
      all.blocks_each = std::max(all.blocks_each, blocks_for(stripes * kStripeThreads));
    }
    all.blocks_each = std::min(all.blocks_each, kMostBlocks);
    TVMERGE_LAUNCH(digest_stripes, all.blocks_each * static_cast<unsigned>(count),
                   kThreads, stream, all);
  }
}

}  // namespace tvmerge::cuda
