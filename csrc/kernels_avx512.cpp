// Compiled for AVX-512 F, BW, DQ and VL; chosen at run time where the processor has them.
#include <immintrin.h>

#include "digest.hpp"
#include "ops.hpp"

#define TVMERGE_ISA avx512
#define TVMERGE_ISA_NAME "avx512"
#define TVMERGE_VECTOR_BYTES 64
#define TVMERGE_HALF

namespace tvmerge::avx512 {
namespace {

// Whole stripes; see digest.hpp.
inline void digest_stripes(const unsigned char* data, std::size_t stripes,
                           std::uint64_t position, std::uint64_t* lanes) {
  const std::uint64_t first = position * kDigestStep;
  __m512i sum = _mm512_loadu_si512(lanes);
  __m512i key = _mm512_add_epi64(_mm512_loadu_si512(kDigestKeys),
                                 _mm512_set1_epi64(static_cast<long long>(first)));
  const __m512i step = _mm512_set1_epi64(static_cast<long long>(kDigestAdvance));
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
