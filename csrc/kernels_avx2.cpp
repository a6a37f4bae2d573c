// Compiled with -mavx2 -mfma; chosen at run time where the processor has both.
#include <immintrin.h>

#include "digest.hpp"

#define TVMERGE_ISA avx2
#define TVMERGE_ISA_NAME "avx2"
#define TVMERGE_DIGEST_STRIPES digest_stripes

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
  const __m256i start =
      _mm256_set1_epi64x(static_cast<long long>(position * kDigestStep));
  const __m256i step =
      _mm256_set1_epi64x(static_cast<long long>(kStripeBytes * kDigestStep));
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

}  // namespace
}  // namespace tvmerge::avx2

#include "kernels_body.hpp"

namespace tvmerge {
const Kernels& avx2_kernels() { return avx2::kKernels; }
}  // namespace tvmerge
