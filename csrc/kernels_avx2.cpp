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

// Half of all stripes: four words of each, and their keys.
struct DigestHalf {
  __m256i products, words, key;

  DigestHalf(const std::uint64_t* lanes, const std::uint64_t* keys, __m256i start)
      : products(load(lanes)),
        words(_mm256_setzero_si256()),
        key(_mm256_add_epi64(load(keys), start)) {}

  void add(__m256i stripe, __m256i step) {
    const __m256i mixed = _mm256_xor_si256(stripe, key);
    const __m256i product = _mm256_mul_epu32(mixed, _mm256_srli_epi64(mixed, 32));
    products = _mm256_add_epi64(products, product);
    words = _mm256_add_epi64(words, stripe);
    key = _mm256_add_epi64(key, step);
  }
  // Words go into their neighbours' lanes: all at once, since they are only added up.
  void store(std::uint64_t* lanes) const {
    const __m256i swapped = _mm256_shuffle_epi32(words, 0x4e);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes),
                        _mm256_add_epi64(products, swapped));
  }
};

// Whole stripes; see digest.hpp.
inline void digest_stripes(const unsigned char* data, std::size_t stripes,
                           std::uint64_t position, std::uint64_t* lanes) {
  const std::uint64_t first = position * kDigestStep;
  const __m256i start = _mm256_set1_epi64x(static_cast<long long>(first));
  const __m256i step = _mm256_set1_epi64x(static_cast<long long>(kDigestAdvance));
  DigestHalf low(lanes, kDigestKeys, start), high(lanes + 4, kDigestKeys + 4, start);
  for (std::size_t s = 0; s < stripes; ++s) {
    const unsigned char* const stripe = data + s * kStripeBytes;
    low.add(load(stripe), step);
    high.add(load(stripe + kStripeBytes / 2), step);
  }
  low.store(lanes);
  high.store(lanes + 4);
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
