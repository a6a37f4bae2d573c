// A digest of tensor data that can be taken in pieces, in any order: what threads,
// batches and machines have seen of a file is added up.
//
// Bytes are cut into stripes of 64 from a tensor's start (the last one padded with 0): 8
// little-endian words w[j]. With p the stripe's position in the file in bytes,
//
//   x[j] = w[j] ^ (kDigestKeys[j] + p * kDigestStep)
//   lane[j] += low32(x[j]) * high32(x[j])      lane[j ^ 1] += w[j]      (all mod 2^64)
//
// The mixing is XXH3's (Collet, xxHash), with keys that count on instead of a secret that
// repeats. A change within one word always shows: lane[j ^ 1] takes it as it is. It
// guards against damage, not against somebody who wants to forge a file.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace tvmerge {

constexpr std::size_t kStripeBytes = 64;
constexpr std::size_t kDigestLanes = 8;
using DigestLanes = std::array<std::uint64_t, kDigestLanes>;

// The first 64 bytes of the fraction of pi.
constexpr std::uint64_t kDigestKeys[kDigestLanes] = {
    0x243f6a8885a308d3u, 0x13198a2e03707344u, 0xa4093822299f31d0u, 0x082efa98ec4e6c89u,
    0x452821e638d01377u, 0xbe5466cf34e90c6cu, 0xc0ac29b7c97c50ddu, 0x3f84d5b5b5470917u};
constexpr std::uint64_t kDigestStep = 0x9e3779b97f4a7c15u;  // 2^64 / golden ratio, odd
// From one stripe's keys to the next one's.
constexpr std::uint64_t kDigestAdvance = kStripeBytes * kDigestStep;

inline void add(DigestLanes& to, const DigestLanes& from) {
  for (std::size_t lane = 0; lane < kDigestLanes; ++lane) to[lane] += from[lane];
}

}  // namespace tvmerge
