// Magnitudes of deltas as integers, and where they lie beside a bracket (see select.hpp).
#pragma once

#include <algorithm>

#include "kernels_codes.hpp"
#include "ops_consensus.hpp"

namespace tvmerge::TVMERGE_ISA {
namespace {

// value[i] = x[i] - base[i], rounded once.
template <typename Sum>
void deltas_of(const Term& x, const Sum* __restrict base, std::size_t start,
               std::size_t count, Sum* __restrict value) {
  with_codes(x.dtype, x.data, start, count, [&](auto element, const auto* codes) {
    using Element = decltype(element);
    const typename Element::Bits* __restrict code = codes;
    for (std::size_t i = 0; i < count; ++i)
      value[i] = static_cast<Sum>(Element::decode(code[i])) - base[i];
  });
}

// The deltas of one tile in float32, by float64 where either side is.
void delta_tile(const Term& base, const Term& x, std::size_t start, std::size_t count,
                float* __restrict delta) {
  if (base.dtype != Dtype::f64 && x.dtype != Dtype::f64) {
    alignas(64) float from[kTile];
    decode(base.data, base.dtype, start, count, from);
    return deltas_of(x, from, start, count, delta);
  }
  alignas(64) double from[kTile], wide[kTile];
  decode(base.data, base.dtype, start, count, from);
  deltas_of(x, from, start, count, wide);
  for (std::size_t i = 0; i < count; ++i) delta[i] = static_cast<float>(wide[i]);
}

// The population variance of all terms' deltas from the first term.
void variance_tile(const Term* terms, std::size_t term_count, std::size_t start,
                   std::size_t count, float* __restrict variance) {
  alignas(64) float delta[kTile];
  alignas(64) float sum[kTile]{}, square[kTile]{};
  const float share = 1.0f / static_cast<float>(term_count - 1);
  for (std::size_t k = 1; k < term_count; ++k) {
    delta_tile(terms[0], terms[k], start, count, delta);
    for (std::size_t i = 0; i < count; ++i) sum[i] += delta[i];
  }
  for (std::size_t i = 0; i < count; ++i) sum[i] *= share;
  for (std::size_t k = 1; k < term_count; ++k) {
    delta_tile(terms[0], terms[k], start, count, delta);
    for (std::size_t i = 0; i < count; ++i) {
      const float apart = delta[i] - sum[i];
      square[i] += apart * apart;
    }
  }
  for (std::size_t i = 0; i < count; ++i) variance[i] = square[i] * share;
}

inline void keys_of(const float* values, std::size_t count,
                    std::uint32_t* __restrict keys) {
  for (std::size_t i = 0; i < count; ++i) keys[i] = ops::key_of(values[i]);
}

void ranked_keys(const RankedSlice& slice, std::uint32_t* keys) {
  alignas(64) float values[kTile];
  for (std::size_t start = 0; start < slice.count; start += kTile) {
    const std::size_t count = std::min(kTile, slice.count - start);
    if (slice.term < 0) {
      variance_tile(slice.terms, slice.term_count, start, count, values);
    } else {
      delta_tile(slice.terms[0], slice.terms[slice.term], start, count, values);
    }
    keys_of(values, count, keys + start);
  }
}

#ifndef TVMERGE_COMPRESS
// Writes the keys in [low, low + width], in their order; returns how many they are.
inline std::size_t pick_inside(const std::uint32_t* keys, std::size_t count,
                               std::uint32_t low, std::uint32_t width,
                               std::uint32_t* to) {
  constexpr std::size_t kGroup = 32;  // most groups hold none
  std::size_t found = 0;
  for (std::size_t start = 0; start < count; start += kGroup) {
    const std::size_t stop = std::min(count, start + kGroup);
    std::uint32_t any = 0;
    for (std::size_t i = start; i < stop; ++i) any |= keys[i] - low <= width ? 1u : 0u;
    if (any == 0) continue;
    for (std::size_t i = start; i < stop; ++i) {
      to[found] = keys[i];
      found += keys[i] - low <= width ? 1 : 0;
    }
  }
  return found;
}
#endif

std::size_t scan_keys(const std::uint32_t* keys, std::size_t count, KeyScan& scan,
                      std::uint32_t* inside) {
  const std::uint32_t low = scan.low, width = scan.high - scan.low, tie = scan.tie;
  std::size_t found = 0;
  for (std::size_t start = 0; start < count; start += kTile) {
    const std::size_t stop = std::min(count, start + kTile);
    std::uint32_t above = 0, ties = 0;  // 32-bit counts vectorise better
    for (std::size_t i = start; i < stop; ++i) {
      above += keys[i] > scan.high ? 1 : 0;
      ties += keys[i] == tie ? 1 : 0;
    }
    scan.above += above;
    scan.ties += ties;
    found += pick_inside(keys + start, stop - start, low, width, inside + found);
  }
  return found;
}

}  // namespace
}  // namespace tvmerge::TVMERGE_ISA
