// Compiled for AVX-512 F, BW, DQ and VL; chosen at run time where the processor has them.
#include <immintrin.h>

#include "digest.hpp"

#define TVMERGE_ISA avx512
#define TVMERGE_ISA_NAME "avx512"
#define TVMERGE_DIGEST_STRIPES digest_stripes

namespace tvmerge::avx512 {
namespace {

// Whole stripes; see digest.hpp. `key` is that of the first one.
inline void digest_stripes(const unsigned char* data, std::size_t stripes,
                           std::uint64_t position, std::uint64_t* lanes) {
  __m512i sum = _mm512_loadu_si512(lanes);
  __m512i key =
      _mm512_add_epi64(_mm512_loadu_si512(kDigestKeys),
                       _mm512_set1_epi64(static_cast<long long>(position * kDigestStep)));
  const __m512i step =
      _mm512_set1_epi64(static_cast<long long>(kStripeBytes * kDigestStep));
  for (std::size_t s = 0; s < stripes; ++s) {
    const __m512i words = _mm512_loadu_si512(data + s * kStripeBytes);
    const __m512i mixed = _mm512_xor_si512(words, key);
    const __m512i product = _mm512_mul_epu32(mixed, _mm512_srli_epi64(mixed, 32));
    sum = _mm512_add_epi64(sum, _mm512_shuffle_epi32(words, _MM_PERM_BADC));
    sum = _mm512_add_epi64(sum, product);
    key = _mm512_add_epi64(key, step);
  }
  _mm512_storeu_si512(lanes, sum);
}

}  // namespace
}  // namespace tvmerge::avx512

#include "kernels_body.hpp"

namespace tvmerge {
const Kernels& avx512_kernels() { return avx512::kKernels; }
}  // namespace tvmerge
