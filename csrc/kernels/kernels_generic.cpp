// Plain C++: runs everywhere.
#include <cstdint>

#define TVMERGE_ISA generic
#define TVMERGE_ISA_NAME "generic"
#define TVMERGE_VECTOR_BYTES 16

#include "kernels/kernels_codes.hpp"

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

typedef std::uint64_t Longs __attribute__((vector_size(16)));
inline Longs product_of_halves(Longs x) { return (x & 0xffffffffu) * (x >> 32); }

}  // namespace
}  // namespace tvmerge::generic

#include "kernels/kernels_body.hpp"

namespace tvmerge {
const Kernels& generic_kernels() { return generic::kKernels; }
}  // namespace tvmerge
