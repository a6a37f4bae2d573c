// What kernels_compare.hpp sums over a tile, by one of its lanes.
#pragma once

#include "cuda/tile.cuh"

namespace tvmerge::cuda {

__device__ __forceinline__ float add_product(float a, float b, float sum) {
  return fused(a, b, sum);
}
__device__ __forceinline__ double add_product(double a, double b, double sum) {
  return sum + a * b;
}

template <typename Sum>
struct Comparison {
  Sum intended_sq = 0, realised_sq = 0, dot = 0;
  unsigned changed = 0, intended = 0, lost = 0;

  // Weight x, sum y and output z of one element.
  __device__ __forceinline__ void add(Sum x, Sum y, Sum z) {
    count(x, y, z);
    add_edit(y - x, z - x);
  }
  // The two halves of `add`: what depends on the order of elements, and what does not.
  __device__ __forceinline__ void add_edit(Sum d, Sum r) {
    intended_sq = add_product(d, d, intended_sq);
    realised_sq = add_product(r, r, realised_sq);
    dot = add_product(d, r, dot);
  }
  __device__ __forceinline__ void count(Sum x, Sum y, Sum z) {
    constexpr Sum kNoise = sizeof(Sum) == 4 ? Sum(0x1p-21) : Sum(0x1p-48);
    const Sum d = y - x, r = z - x, noise = x * kNoise;
    const bool meant = d * d > noise * noise;
    intended += meant ? 1 : 0;
    lost += meant && !(r != 0) ? 1 : 0;
    changed += x != z && (x == x || z == z) ? 1 : 0;
  }

  // Of all lanes; every one of them gets it.
  template <unsigned Lanes>
  __device__ __forceinline__ Edit edit() const {
    Edit edit;
    edit.changed = count_all<Lanes>(changed);
    edit.intended = count_all<Lanes>(intended);
    edit.lost = count_all<Lanes>(lost);
    edit.intended_sq = total<Lanes>(intended_sq);
    edit.realised_sq = total<Lanes>(realised_sq);
    edit.dot = total<Lanes>(dot);
    return edit;
  }
};

}  // namespace tvmerge::cuda
