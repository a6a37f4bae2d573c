// What device code calls. Kernels run one at a time and their threads in turn, so that
// plain variables and plain arithmetic will do for all of it.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "site.hpp"
#include "vectors.hpp"

extern uint3 threadIdx, blockIdx, blockDim, gridDim;
constexpr int warpSize = 32;

// Macros, for each place in the source is told apart: two __syncthreads of different
// places do not make one barrier.
#define TVMERGE_SHIM_HERE (::cuda_shim::Site{__FILE__, __LINE__, __COUNTER__})
#define __syncthreads() TVMERGE_SHIM_HERE.sync_block()
#define __syncwarp(...) TVMERGE_SHIM_HERE.sync_warp(__VA_ARGS__)
#define __shfl_sync(...) TVMERGE_SHIM_HERE.shuffle(__VA_ARGS__)
#define __shfl_xor_sync(...) TVMERGE_SHIM_HERE.shuffle_xor(__VA_ARGS__)
#define __shfl_down_sync(...) TVMERGE_SHIM_HERE.shuffle_down(__VA_ARGS__)
#define __shfl_up_sync(...) TVMERGE_SHIM_HERE.shuffle_up(__VA_ARGS__)
#define __ballot_sync(mask, predicate) TVMERGE_SHIM_HERE.ballot(mask, (predicate) != 0)
#define __any_sync(mask, predicate) (__ballot_sync(mask, predicate) != 0)
#define __all_sync(mask, predicate) (__ballot_sync(mask, !(predicate)) == 0)
#define __match_any_sync(...) TVMERGE_SHIM_HERE.match_any(__VA_ARGS__)
inline void __threadfence() {}
inline void __threadfence_block() {}

namespace cuda_shim {
template <class T>
T exchange(T* at, T value) {
  const T old = *at;
  *at = value;
  return old;
}
template <class To, class From>
To bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
}  // namespace cuda_shim

// Those of CUDA, for integers; an uint64_t is an unsigned long and none of them, as for
// nvcc. Floats are left out on purpose: their sum would depend on the order.
inline int atomicAdd(int* at, int value) {  // wraps, and does so without UB
  const unsigned sum = static_cast<unsigned>(*at) + static_cast<unsigned>(value);
  return cuda_shim::exchange(at, static_cast<int>(sum));
}
inline unsigned atomicAdd(unsigned* at, unsigned value) {
  return cuda_shim::exchange(at, *at + value);
}
inline unsigned long long atomicAdd(unsigned long long* at, unsigned long long value) {
  return cuda_shim::exchange(at, *at + value);
}
inline unsigned atomicMax(unsigned* at, unsigned value) {
  return cuda_shim::exchange(at, value > *at ? value : *at);
}
inline unsigned atomicMin(unsigned* at, unsigned value) {
  return cuda_shim::exchange(at, value < *at ? value : *at);
}
inline unsigned long long atomicMax(unsigned long long* at, unsigned long long value) {
  return cuda_shim::exchange(at, value > *at ? value : *at);
}
inline unsigned long long atomicMin(unsigned long long* at, unsigned long long value) {
  return cuda_shim::exchange(at, value < *at ? value : *at);
}
inline unsigned atomicOr(unsigned* at, unsigned value) {
  return cuda_shim::exchange(at, *at | value);
}
inline unsigned atomicExch(unsigned* at, unsigned value) {
  return cuda_shim::exchange(at, value);
}
inline unsigned atomicCAS(unsigned* at, unsigned expected, unsigned value) {
  return cuda_shim::exchange(at, *at == expected ? value : *at);
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __clzll(long long x) {
  return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64;
}
inline unsigned __umulhi(unsigned x, unsigned y) {
  return static_cast<unsigned>((std::uint64_t{x} * y) >> 32);
}
inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<unsigned long long>((Wide{x} * y) >> 64);
}

inline float __fmaf_rn(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
inline double __fma_rn(double x, double y, double z) { return __builtin_fma(x, y, z); }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline double __dadd_rn(double x, double y) { return x + y; }
inline double __dsub_rn(double x, double y) { return x - y; }
inline double __dmul_rn(double x, double y) { return x * y; }
inline double __ddiv_rn(double x, double y) { return x / y; }
inline double __dsqrt_rn(double x) { return std::sqrt(x); }

inline unsigned __float_as_uint(float x) { return cuda_shim::bits<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return cuda_shim::bits<float>(x); }
inline int __float_as_int(float x) { return cuda_shim::bits<int>(x); }
inline float __int_as_float(int x) { return cuda_shim::bits<float>(x); }
inline long long __double_as_longlong(double x) { return cuda_shim::bits<long long>(x); }
inline double __longlong_as_double(long long x) { return cuda_shim::bits<double>(x); }

template <class T>
T __ldg(const T* at) {
  return *at;
}
