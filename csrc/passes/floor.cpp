#include "passes/floor.hpp"

#include <cstddef>
#include <cstdint>

namespace tvmerge {
namespace {

// Memory that nobody has touched is one page of zeros for the kernel: writing from it
// would be cheaper than any merge can be.
constexpr std::size_t kPageBytes = 4096;

void touch(const CombineSlice& slice) {
  auto* const out = static_cast<unsigned char*>(slice.out);
  const std::size_t size_bytes = slice.count * size_of(slice.out_dtype);
  for (std::size_t at = 0; at < size_bytes; at += kPageBytes) out[at] = 0;
}

void touch_consensus(const ConsensusSlice& slice) {
  touch({nullptr, 0, slice.out, slice.out_dtype, slice.count, nullptr, nullptr,
         slice.out_dtype});
}

void measure_nothing(const MeasureSlice& /*slice*/) {}

std::size_t compare_nothing(const void* /*a*/, const void* /*b*/,
                            std::size_t /*size_bytes*/) {
  return 0;
}

void digest_nothing(const void* /*data*/, std::size_t /*size_bytes*/,
                    std::uint64_t /*position*/, std::uint64_t* /*lanes*/) {}

constexpr Kernels kFloor{
    "none",  touch,   touch_consensus, measure_nothing, nullptr,         nullptr,
    nullptr, nullptr, nullptr,         nullptr,         compare_nothing, digest_nothing,
    nullptr, nullptr, nullptr,         nullptr,         nullptr,         nullptr};

}  // namespace

const Kernels& floor_kernels() { return kFloor; }

}  // namespace tvmerge
