// Compiled with -mavx2 -mfma -mf16c; chosen at run time where the processor has them.
#include <immintrin.h>

#include "digest.hpp"
#include "ops.hpp"

#define TVMERGE_ISA avx2
#define TVMERGE_ISA_NAME "avx2"
#define TVMERGE_VECTOR_BYTES 32
#define TVMERGE_HALF

namespace tvmerge::avx2 {
namespace {

inline __m256i load(const void* from) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}

// Half a stripe: four words, their keys, the sum that they go into.
inline __m256i digest_half(__m256i sum, __m256i words, __m256i key) {
  const __m256i mixed = _mm256_xor_si256(words, key);
  const __m256i product = _mm256_mul_epu32(mixed, _mm256_srli_epi64(mixed, 32));
  return _mm256_add_epi64(_mm256_add_epi64(sum, _mm256_shuffle_epi32(words, 0x4e)),
                          product);
}

// Whole stripes; see digest.hpp.
inline void digest_stripes(const unsigned char* data, std::size_t stripes,
                           std::uint64_t position, std::uint64_t* lanes) {
  const std::uint64_t first = position * kDigestStep;
  const __m256i start = _mm256_set1_epi64x(static_cast<long long>(first));
  const __m256i step = _mm256_set1_epi64x(static_cast<long long>(kDigestAdvance));
  __m256i low_sum = load(lanes), high_sum = load(lanes + 4);
  __m256i low_key = _mm256_add_epi64(load(kDigestKeys), start);
  __m256i high_key = _mm256_add_epi64(load(kDigestKeys + 4), start);
  for (std::size_t s = 0; s < stripes; ++s) {
    const unsigned char* const stripe = data + s * kStripeBytes;
    low_sum = digest_half(low_sum, load(stripe), low_key);
    high_sum = digest_half(high_sum, load(stripe + kStripeBytes / 2), high_key);
    low_key = _mm256_add_epi64(low_key, step);
    high_key = _mm256_add_epi64(high_key, step);
  }
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), low_sum);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes + 4), high_sum);
}

typedef float Floats __attribute__((vector_size(32)));
typedef double Doubles __attribute__((vector_size(32)));
inline Floats fused_lanes(Floats a, Floats b, Floats c) {
  return _mm256_fmadd_ps(a, b, c);
}
inline Doubles fused_lanes(Doubles a, Doubles b, Doubles c) {
  return _mm256_fmadd_pd(a, b, c);
}
inline Doubles widened_low(Floats x) {
  return _mm256_cvtps_pd(_mm256_castps256_ps128(x));
}
inline Doubles widened_high(Floats x) {
  return _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1));
}

// One register's float16, or 8-bit codes, each in 16 bits; kernels_pairs.hpp.
typedef std::int16_t Shorts __attribute__((vector_size(16)));
inline Floats floats_of(Shorts half) {
  return _mm256_cvtph_ps(reinterpret_cast<__m128i>(half));
}
inline Shorts halves_of(Floats value) {
  return reinterpret_cast<Shorts>(_mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
}
inline Shorts load_bytes(const unsigned char* from) {
  return reinterpret_cast<Shorts>(
      _mm_cvtepi8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
}
inline void store_bytes(Shorts codes, unsigned char* to) {
  const auto held = reinterpret_cast<__m128i>(codes);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packus_epi16(held, held));
}

// float16 to float32, exact.
inline void widen_half(const std::uint16_t* from, std::size_t count, float* to) {
  std::size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i));
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(half));
  }
  for (; i < count; ++i) to[i] = ops::Element<Dtype::f16>::decode(from[i]);
}

// float32 to float16, to nearest even, NaN in its one form.
inline void narrow_half(const float* from, std::size_t count, std::uint16_t* to) {
  std::size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m256 value = _mm256_loadu_ps(from + i);
    const __m128i half = _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT);
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
    const __m128i nan_half =
        _mm_packs_epi32(_mm256_castsi256_si128(nan), _mm256_extracti128_si256(nan, 1));
    const __m128i canonical = _mm_blendv_epi8(half, _mm_set1_epi16(0x7e00), nan_half);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), canonical);
  }
  for (; i < count; ++i) to[i] = ops::Element<Dtype::f16>::encode(from[i]);
}

}  // namespace
}  // namespace tvmerge::avx2

#include "kernels_body.hpp"

namespace tvmerge {
const Kernels& avx2_kernels() { return avx2::kKernels; }
}  // namespace tvmerge
