// Compiled with -mavx2 -mfma -mf16c; chosen at run time where the processor has them.
#include <immintrin.h>

#include "core/ops.hpp"

#define TVMERGE_ISA avx2
#define TVMERGE_ISA_NAME "avx2"
#define TVMERGE_VECTOR_BYTES 32
#define TVMERGE_HALF
#define TVMERGE_COMPRESS

namespace tvmerge::avx2 {
namespace {

// Per 64 bits, the product of their halves; kernels_digest.hpp.
typedef std::uint64_t Longs __attribute__((vector_size(32)));
inline Longs product_of_halves(Longs x) {
  const auto held = reinterpret_cast<__m256i>(x);
  return reinterpret_cast<Longs>(_mm256_mul_epu32(held, _mm256_srli_epi64(held, 32)));
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

// Comparisons as bits: they are counted by a part of the processor that has nothing else
// to do, and not by what multiplies.
inline unsigned bits_of(__m256 lanes) {
  return static_cast<unsigned>(_mm256_movemask_ps(lanes));
}
inline unsigned bits_of(__m256d lanes) {
  return static_cast<unsigned>(_mm256_movemask_pd(lanes));
}
inline unsigned greater_lanes(Floats a, Floats b) {
  return bits_of(_mm256_cmp_ps(a, b, _CMP_GT_OS));
}
inline unsigned greater_lanes(Doubles a, Doubles b) {
  return bits_of(_mm256_cmp_pd(a, b, _CMP_GT_OS));
}
inline unsigned unequal_lanes(Floats a, Floats b) {
  return bits_of(_mm256_cmp_ps(a, b, _CMP_NEQ_UQ));
}
inline unsigned unequal_lanes(Doubles a, Doubles b) {
  return bits_of(_mm256_cmp_pd(a, b, _CMP_NEQ_UQ));
}

typedef std::int32_t Ints __attribute__((vector_size(32)));
typedef std::uint32_t Words __attribute__((vector_size(32)));
inline unsigned bits_of(__m256i lanes) { return bits_of(_mm256_castsi256_ps(lanes)); }
inline unsigned greater_lanes(Ints a, Ints b) { return bits_of((__m256i)(a > b)); }
inline unsigned equal_lanes(Ints a, Ints b) { return bits_of((__m256i)(a == b)); }
inline unsigned unequal_lanes(Ints a, Ints b) { return ~equal_lanes(a, b) & 0xffu; }

// For every set of lanes, where each finds the next one that is not in it.
struct OtherLanes {
  alignas(8) std::uint8_t places[256][8]{};
  constexpr OtherLanes() {
    for (unsigned out = 0; out < 256; ++out) {
      std::size_t found = 0;
      for (std::uint8_t lane = 0; lane < 8; ++lane)
        if ((out >> lane & 1u) == 0) places[out][found++] = lane;
    }
  }
};
constexpr OtherLanes kOtherLanes;

// Writes the keys of the lanes that are not in `out`, in their order; returns how many.
inline std::size_t pick_others(Words keys, unsigned out, std::uint32_t* to) {
  const __m256i places = _mm256_cvtepu8_epi32(
      _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kOtherLanes.places[out])));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                      _mm256_permutevar8x32_epi32((__m256i)keys, places));
  return 8 - static_cast<std::size_t>(__builtin_popcount(out));
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

#include "kernels/kernels_body.hpp"

namespace tvmerge {
const Kernels& avx2_kernels() { return avx2::kKernels; }
}  // namespace tvmerge
