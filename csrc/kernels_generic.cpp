// Plain C++: runs everywhere.
#include <cstdint>
#include <cstring>

#include "digest.hpp"

#define TVMERGE_ISA generic
#define TVMERGE_ISA_NAME "generic"
#define TVMERGE_VECTOR_BYTES 16

namespace tvmerge::generic {
namespace {

// Whole stripes; see digest.hpp.
inline void digest_stripes(const unsigned char* data, std::size_t stripes,
                           std::uint64_t position, std::uint64_t* lanes) {
  for (std::size_t s = 0; s < stripes; ++s, position += kStripeBytes) {
    std::uint64_t words[kDigestLanes];
    std::memcpy(words, data + s * kStripeBytes, kStripeBytes);
    for (std::size_t j = 0; j < kDigestLanes; ++j) {
      const std::uint64_t mixed = words[j] ^ (kDigestKeys[j] + position * kDigestStep);
      lanes[j] += (mixed & 0xffffffffu) * (mixed >> 32) + words[j ^ 1];
    }
  }
}

}  // namespace
}  // namespace tvmerge::generic

#include "kernels_codes.hpp"

namespace tvmerge::generic {
namespace {

inline Vectors<float>::Vector fused_lanes(Vectors<float>::Vector a,
                                          Vectors<float>::Vector b,
                                          Vectors<float>::Vector c) {
  for (std::size_t lane = 0; lane < Vectors<float>::kWidth; ++lane)
    c[lane] = fused(a[lane], b[lane], c[lane]);
  return c;
}
inline Vectors<double>::Vector widened_low(Vectors<float>::Vector x) {
  return Vectors<double>::Vector{x[0], x[1]};
}
inline Vectors<double>::Vector widened_high(Vectors<float>::Vector x) {
  return Vectors<double>::Vector{x[2], x[3]};
}

}  // namespace
}  // namespace tvmerge::generic

#include "kernels_body.hpp"

namespace tvmerge {
const Kernels& generic_kernels() { return generic::kKernels; }
}  // namespace tvmerge
