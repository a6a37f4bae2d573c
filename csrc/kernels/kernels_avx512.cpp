// Compiled for AVX-512 F, BW, DQ and VL; chosen at run time where the processor has them.
#include <immintrin.h>

#include <algorithm>

#include "core/ops.hpp"

#define TVMERGE_ISA avx512
#define TVMERGE_ISA_NAME "avx512"
#define TVMERGE_VECTOR_BYTES 64
#define TVMERGE_HALF
#define TVMERGE_COMPRESS

namespace tvmerge::avx512 {
namespace {

// Per 64 bits, the product of their halves; kernels_digest.hpp.
typedef std::uint64_t Longs __attribute__((vector_size(64)));
inline Longs product_of_halves(Longs x) {
  const auto held = reinterpret_cast<__m512i>(x);
  return reinterpret_cast<Longs>(_mm512_mul_epu32(held, _mm512_srli_epi64(held, 32)));
}

typedef float Floats __attribute__((vector_size(64)));
typedef double Doubles __attribute__((vector_size(64)));
inline Floats fused_lanes(Floats a, Floats b, Floats c) {
  return _mm512_fmadd_ps(a, b, c);
}
inline Doubles fused_lanes(Doubles a, Doubles b, Doubles c) {
  return _mm512_fmadd_pd(a, b, c);
}
inline Doubles widened_low(Floats x) {
  return _mm512_cvtps_pd(_mm512_castps512_ps256(x));
}
inline Doubles widened_high(Floats x) {
  return _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1));
}

// Comparisons as bits: they are counted by a part of the processor that has nothing else
// to do, and not by what multiplies.
inline unsigned greater_lanes(Floats a, Floats b) {
  return _mm512_cmp_ps_mask(a, b, _CMP_GT_OS);
}
inline unsigned greater_lanes(Doubles a, Doubles b) {
  return _mm512_cmp_pd_mask(a, b, _CMP_GT_OS);
}
inline unsigned unequal_lanes(Floats a, Floats b) {
  return _mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ);
}
inline unsigned unequal_lanes(Doubles a, Doubles b) {
  return _mm512_cmp_pd_mask(a, b, _CMP_NEQ_UQ);
}

typedef std::int32_t Ints __attribute__((vector_size(64)));
typedef std::uint32_t Words __attribute__((vector_size(64)));
inline unsigned greater_lanes(Ints a, Ints b) {
  return _mm512_cmpgt_epi32_mask((__m512i)a, (__m512i)b);
}
inline unsigned equal_lanes(Ints a, Ints b) {
  return _mm512_cmpeq_epi32_mask((__m512i)a, (__m512i)b);
}
inline unsigned unequal_lanes(Ints a, Ints b) {
  return _mm512_cmpneq_epi32_mask((__m512i)a, (__m512i)b);
}

// Writes the keys of the lanes that are not in `out`, in their order; returns how many.
inline std::size_t pick_others(Words keys, unsigned out, std::uint32_t* to) {
  const auto others = static_cast<__mmask16>(~out);
  _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(others, (__m512i)keys));
  return 16 - static_cast<std::size_t>(__builtin_popcount(out));
}

// One register's float16, or 8-bit codes, each in 16 bits; kernels_pairs.hpp.
typedef std::int16_t Shorts __attribute__((vector_size(32)));
inline Floats floats_of(Shorts half) {
  return _mm512_cvtph_ps(reinterpret_cast<__m256i>(half));
}
inline Shorts halves_of(Floats value) {
  return reinterpret_cast<Shorts>(_mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
}
inline Shorts load_bytes(const unsigned char* from) {
  return reinterpret_cast<Shorts>(
      _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
}
inline void store_bytes(Shorts codes, unsigned char* to) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                   _mm256_cvtepi16_epi8(reinterpret_cast<__m256i>(codes)));
}

// float16 to float32, exact.
inline void widen_half(const std::uint16_t* from, std::size_t count, float* to) {
  std::size_t i = 0;
  for (; i + 16 <= count; i += 16) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i));
    _mm512_storeu_ps(to + i, _mm512_cvtph_ps(half));
  }
  for (; i < count; ++i) to[i] = ops::Element<Dtype::f16>::decode(from[i]);
}

// float32 to float16, to nearest even, NaN in its one form.
inline void narrow_half(const float* from, std::size_t count, std::uint16_t* to) {
  std::size_t i = 0;
  for (; i + 16 <= count; i += 16) {
    const __m512 value = _mm512_loadu_ps(from + i);
    const __m256i half = _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT);
    const __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
    const __m256i canonical =
        _mm256_mask_blend_epi16(nan, half, _mm256_set1_epi16(0x7e00));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), canonical);
  }
  for (; i < count; ++i) to[i] = ops::Element<Dtype::f16>::encode(from[i]);
}

}  // namespace
}  // namespace tvmerge::avx512

#include "kernels/kernels_body.hpp"

namespace tvmerge {
const Kernels& avx512_kernels() { return avx512::kKernels; }
}  // namespace tvmerge
