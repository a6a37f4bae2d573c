// Compiled for AVX-512 F, BW, DQ and VL; chosen at run time where the processor has them.
#include <immintrin.h>

#include <algorithm>

#include "digest.hpp"
#include "ops.hpp"

#define TVMERGE_ISA avx512
#define TVMERGE_ISA_NAME "avx512"
#define TVMERGE_VECTOR_BYTES 64
#define TVMERGE_HALF
#define TVMERGE_COMPRESS

namespace tvmerge::avx512 {
namespace {

// Whole stripes; see digest.hpp.
inline void digest_stripes(const unsigned char* data, std::size_t stripes,
                           std::uint64_t position, std::uint64_t* lanes) {
  const std::uint64_t first = position * kDigestStep;
  __m512i products = _mm512_loadu_si512(lanes), words = _mm512_setzero_si512();
  __m512i key = _mm512_add_epi64(_mm512_loadu_si512(kDigestKeys),
                                 _mm512_set1_epi64(static_cast<long long>(first)));
  const __m512i step = _mm512_set1_epi64(static_cast<long long>(kDigestAdvance));
  for (std::size_t s = 0; s < stripes; ++s) {
    const __m512i stripe = _mm512_loadu_si512(data + s * kStripeBytes);
    const __m512i mixed = _mm512_xor_si512(stripe, key);
    products =
        _mm512_add_epi64(products, _mm512_mul_epu32(mixed, _mm512_srli_epi64(mixed, 32)));
    words = _mm512_add_epi64(words, stripe);
    key = _mm512_add_epi64(key, step);
  }
  // Words go into their neighbours' lanes: all at once, since they are only added up.
  const __m512i swapped = _mm512_shuffle_epi32(words, _MM_PERM_BADC);
  _mm512_storeu_si512(lanes, _mm512_add_epi64(products, swapped));
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

// The masks of comparisons as they are: see tally in kernels_compare.hpp.
typedef std::int32_t Ints __attribute__((vector_size(64)));
inline __m512i plus_one(Ints count, __mmask16 where) {
  const auto held = reinterpret_cast<__m512i>(count);
  return _mm512_mask_sub_epi32(held, where, held, _mm512_set1_epi32(-1));
}
inline Ints count_unequal(Ints count, Floats a, Floats b) {
  return reinterpret_cast<Ints>(plus_one(count, _mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ)));
}
inline void tally(Floats d_sq, Floats noise_sq, Floats r, Ints& intended, Ints& changed,
                  Ints& lost) {
  const __mmask16 meant = _mm512_cmp_ps_mask(d_sq, noise_sq, _CMP_GT_OS);
  const __mmask16 moved = _mm512_cmp_ps_mask(r, _mm512_setzero_ps(), _CMP_NEQ_UQ);
  intended = reinterpret_cast<Ints>(plus_one(intended, meant));
  changed = reinterpret_cast<Ints>(plus_one(changed, moved));
  lost = reinterpret_cast<Ints>(plus_one(lost, _kandn_mask16(moved, meant)));
}

// Writes the keys in [low, low + width], in their order; returns how many they are.
inline std::size_t pick_inside(const std::uint32_t* keys, std::size_t count,
                               std::uint32_t low, std::uint32_t width,
                               std::uint32_t* to) {
  const __m512i lows = _mm512_set1_epi32(static_cast<int>(low));
  const __m512i widths = _mm512_set1_epi32(static_cast<int>(width));
  std::size_t found = 0;
  for (std::size_t i = 0; i < count; i += 16) {
    const std::size_t left = std::min<std::size_t>(count - i, 16);
    const auto held = static_cast<__mmask16>((1u << left) - 1);
    const __m512i key = _mm512_maskz_loadu_epi32(held, keys + i);
    const __mmask16 inside =
        _mm512_mask_cmple_epu32_mask(held, _mm512_sub_epi32(key, lows), widths);
    _mm512_storeu_si512(to + found, _mm512_maskz_compress_epi32(inside, key));
    found += static_cast<std::size_t>(__builtin_popcount(inside));
  }
  return found;
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

#include "kernels_body.hpp"

namespace tvmerge {
const Kernels& avx512_kernels() { return avx512::kKernels; }
}  // namespace tvmerge
