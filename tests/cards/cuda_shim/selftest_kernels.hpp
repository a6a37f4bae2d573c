// Kernels of the shim's own tests: right ones, and one for each mistake.
#pragma once

#include <cuda_runtime.h>

namespace {

struct Scale {
  float by, plus;
};
template <int kTimes>
__global__ void __launch_bounds__(256)
    scaled(const float* __restrict__ in, float* __restrict__ out, Scale scale,
           unsigned size) {
  for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < size;
       i += gridDim.x * blockDim.x) {
    float x = in[i];
    for (int time = 0; time < kTimes; ++time) x = __fmaf_rn(x, scale.by, scale.plus);
    out[i] = x;
  }
}

template <bool kBarrier>
__global__ void sums(const unsigned* in, unsigned* out) {
  TVMERGE_SHARED(unsigned, part, 256);
  part[threadIdx.x] = in[blockIdx.x * blockDim.x + threadIdx.x];
  __syncthreads();
  for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
    if constexpr (kBarrier) __syncthreads();
  }
  if (threadIdx.x == 0) out[blockIdx.x] = part[0];
}

// Two arrays, integers and doubles, per warp.
__global__ void warps(unsigned* lanes, double* total, unsigned* same) {
  double x = threadIdx.x;
  for (int by = 16; by > 0; by /= 2) x += __shfl_xor_sync(~0u, x, by);
  total[threadIdx.x] = x;
  unsigned y = threadIdx.x + 1;
  for (unsigned by = 16; by > 0; by /= 2) y += __shfl_down_sync(~0u, y, by);
  y = __shfl_sync(~0u, y, 0);
  lanes[threadIdx.x] = y + __ballot_sync(~0u, threadIdx.x % 2);
  same[threadIdx.x] = __match_any_sync(~0u, threadIdx.x % 4);
  if (threadIdx.x % 32 < 8) {  // half a warp is on its own
    same[threadIdx.x] += __popc(__ballot_sync(0xffu, 1));
    __syncwarp(0xffu);
  }
}
__global__ void half_warp(unsigned* out) {
  const unsigned mask = blockDim.x == 32 ? 0xffffu : 0xffffffffu;
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(mask, threadIdx.x, 20);
}
__global__ void divergent(unsigned* out) {
  // clang-format off
  if (threadIdx.x < 7) { __syncthreads(); } else { __syncthreads(); }
  // clang-format on
  out[threadIdx.x] = 1;
}
__global__ void leaves_early(unsigned* out) {
  if (threadIdx.x == 40) return;
  __syncthreads();
  out[threadIdx.x] = 1;
}
__global__ void stale(unsigned* out) {
  TVMERGE_SHARED(unsigned, value, 1);
  if (blockIdx.x == 0 && threadIdx.x == 0) value[0] = 5;
  __syncthreads();
  if (threadIdx.x == 0) out[blockIdx.x] = value[0];
}
__global__ void histogram(const unsigned* in, unsigned* out, unsigned size) {
  TVMERGE_SHARED(unsigned, counts, 256);
  counts[threadIdx.x] = 0;
  __syncthreads();
  for (unsigned i = threadIdx.x; i < size; i += blockDim.x)
    atomicAdd(&counts[in[i] % 256], 1u);
  __syncthreads();
  atomicAdd(&out[threadIdx.x], counts[threadIdx.x]);
}

// For ASan to find: one element behind an array of the device, or of the block.
__global__ void runs_over(unsigned* out, bool shared) {
  TVMERGE_SHARED(unsigned, array, 9);
  unsigned* const at = shared ? array : out;
  at[9] = 1;
}
// For UBSan: 128 bits at an address that is not a multiple of 16.
__global__ void misaligned(unsigned* out) {
  *reinterpret_cast<uint4*>(out + 1) = make_uint4(1, 2, 3, 4);
}

}  // namespace
