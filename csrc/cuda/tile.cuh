// What all kernels share. A tile (kTileElements) belongs to as many threads as it has
// lanes in kernels_codes.hpp, one each: sums have the processor's order, and neighbouring
// threads still read neighbouring elements.
#pragma once

#include <cuda_runtime.h>

#include "core/edit.hpp"
#include "core/ops.hpp"
#include "kernels/kernels.hpp"

#ifndef TVMERGE_LAUNCH  // tests/cards/cuda_shim has another
#define TVMERGE_LAUNCH(kernel, grid, block, stream, ...) \
  kernel<<<(grid), (block), 0, (stream)>>>(__VA_ARGS__)
#define TVMERGE_SHARED(type, name, count) __shared__ type name[count]
#endif

namespace tvmerge::cuda {

constexpr unsigned kThreads = 256;
constexpr unsigned kTile = kTileElements;
constexpr unsigned kWholeWarp = 0xffffffffu;
constexpr unsigned kLaneBytes = 64;
template <typename Sum>
constexpr unsigned kLanes = kLaneBytes / sizeof(Sum);

// Sums in float64 run over tiles first, as the processor's do, in these lanes, and then
// over the tiles of every kSumElements, in their order.
constexpr unsigned kSumLanes = kLanes<double>;

inline std::size_t parts_of(std::size_t count, std::size_t part) {
  return (count + part - 1) / part;
}
// How many blocks give one thread to each of `threads`.
inline unsigned blocks_for(std::size_t threads) {
  return static_cast<unsigned>((threads + kThreads - 1) / kThreads);
}
__device__ __forceinline__ std::size_t thread_number() {
  return std::size_t{blockIdx.x} * blockDim.x + threadIdx.x;
}
// Where a tile ends that begins with element `start` of `count`: there, if it is none.
__device__ __forceinline__ std::size_t tile_end(std::size_t start, std::size_t count,
                                                unsigned tile = kTile) {
  if (start >= count) return start;
  return count - start < tile ? count : start + tile;
}

__device__ __forceinline__ float fused(float a, float b, float c) {
  return __fmaf_rn(a, b, c);
}
__device__ __forceinline__ double fused(double a, double b, double c) {
  return __fma_rn(a, b, c);
}

// One input of a slice, as a kernel's parameter.
struct CardTerm {
  const void* data;
  double coefficient;
  Dtype dtype;
};

template <Dtype D>
__device__ __forceinline__ auto load(const void* data, std::size_t i) {
  using Element = ops::Element<D>;
  return Element::decode(static_cast<const typename Element::Bits*>(data)[i]);
}
// Rounded once; returns what the stored code stands for.
template <Dtype D, typename Sum>
__device__ __forceinline__ Sum store(void* out, std::size_t i, Sum value) {
  using Element = ops::Element<D>;
  const typename Element::Bits code = ops::round_once<D>(value);
  static_cast<typename Element::Bits*>(out)[i] = code;
  return static_cast<Sum>(Element::decode(code));
}

// How elements are read and written: of one dtype, which the compiler knows,
template <Dtype D>
struct OneDtype {
  template <typename Sum>
  static __device__ __forceinline__ Sum load(Dtype, const void* data, std::size_t i) {
    return static_cast<Sum>(cuda::load<D>(data, i));
  }
  template <typename Sum>
  static __device__ __forceinline__ Sum store(Dtype, void* out, std::size_t i,
                                              Sum value) {
    return cuda::store<D>(out, i, value);
  }
};
// or of any, all threads taking the same branch.
struct AnyDtype {
  template <typename Sum>
  static __device__ __forceinline__ Sum load(Dtype dtype, const void* data,
                                             std::size_t i) {
    switch (dtype) {
      case Dtype::f64:
        return static_cast<Sum>(cuda::load<Dtype::f64>(data, i));
      case Dtype::f32:
        return static_cast<Sum>(cuda::load<Dtype::f32>(data, i));
      case Dtype::f16:
        return static_cast<Sum>(cuda::load<Dtype::f16>(data, i));
      case Dtype::bf16:
        return static_cast<Sum>(cuda::load<Dtype::bf16>(data, i));
      case Dtype::f8_e4m3:
        return static_cast<Sum>(cuda::load<Dtype::f8_e4m3>(data, i));
      case Dtype::f8_e5m2:
        return static_cast<Sum>(cuda::load<Dtype::f8_e5m2>(data, i));
    }
    return Sum{0};
  }
  template <typename Sum>
  static __device__ __forceinline__ Sum store(Dtype dtype, void* out, std::size_t i,
                                              Sum value) {
    switch (dtype) {
      case Dtype::f64:
        return cuda::store<Dtype::f64>(out, i, value);
      case Dtype::f32:
        return cuda::store<Dtype::f32>(out, i, value);
      case Dtype::f16:
        return cuda::store<Dtype::f16>(out, i, value);
      case Dtype::bf16:
        return cuda::store<Dtype::bf16>(out, i, value);
      case Dtype::f8_e4m3:
        return cuda::store<Dtype::f8_e4m3>(out, i, value);
      case Dtype::f8_e5m2:
        return cuda::store<Dtype::f8_e5m2>(out, i, value);
    }
    return Sum{0};
  }
};

template <typename Sum>
__device__ __forceinline__ Sum value_at(const CardTerm& term, std::size_t i) {
  return AnyDtype::load<Sum>(term.dtype, term.data, i);
}

// What the lanes of a tile hold, added up in float64 in their order; every lane gets it.
// All threads of a warp call it: those that have no tile too.
template <unsigned Lanes, typename Sum>
__device__ __forceinline__ double total(Sum value) {
  double sum = 0;
  for (unsigned lane = 0; lane < Lanes; ++lane)
    sum += static_cast<double>(__shfl_sync(kWholeWarp, value, lane, Lanes));
  return sum;
}
template <unsigned Lanes>
__device__ __forceinline__ unsigned count_all(unsigned value) {
  for (unsigned step = Lanes / 2; step > 0; step /= 2)
    value += __shfl_xor_sync(kWholeWarp, value, step, Lanes);
  return value;
}

__device__ __forceinline__ void add_to(std::uint64_t* counter, std::uint64_t value) {
  atomicAdd(reinterpret_cast<unsigned long long*>(counter),
            static_cast<unsigned long long>(value));
}

}  // namespace tvmerge::cuda
