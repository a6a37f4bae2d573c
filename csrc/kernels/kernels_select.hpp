// Magnitudes of deltas as integers, and where they lie beside a bracket (see select.hpp).
#pragma once

#include <algorithm>
#include <vector>

#include "core/ops_consensus.hpp"
#include "kernels/kernels_pairs.hpp"

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

// The population variance of `number` deltas, which lie kTile apart, by what number *
// delta is apart from their sum: of few bits, as models of narrow dtypes have, that is
// exact, and what differs in the order of equal deltas alone varies equally.
inline void variance_of(const float* deltas, std::size_t number, std::size_t count,
                        float* variance) {
  using V = Vectors<float>;
  constexpr std::size_t kBeside = 4;  // registers that need not wait for each other
  const V::Vector times = V::Vector{} + static_cast<float>(number);
  const V::Vector share = 1.0f / (times * times * times);
  for (std::size_t i = 0; i < count; i += kBeside * V::kWidth) {
    V::Vector whole[kBeside]{}, square[kBeside]{};
    for (const float* from = deltas + i; from < deltas + number * kTile; from += kTile) {
      for (std::size_t r = 0; r < kBeside; ++r) whole[r] += V::load(from + r * V::kWidth);
    }
    for (const float* from = deltas + i; from < deltas + number * kTile; from += kTile) {
      for (std::size_t r = 0; r < kBeside; ++r) {
        const V::Vector apart = V::load(from + r * V::kWidth) * times - whole[r];
        square[r] += apart * apart;
      }
    }
    for (V::Vector& sum : square) sum *= share;
    std::memcpy(variance + i, square, sizeof square);
  }
}

// Whole tiles of all terms' deltas from the first term, and what they vary by.
class Variances {
 public:
  Variances(const Term* terms, std::size_t term_count)
      : terms_(terms), number_(term_count - 1), deltas_(number_ * kTile) {}

  // `variance` has room for a tile.
  void of_tile(std::size_t start, std::size_t count, float* variance) {
    const bool wide = std::any_of(terms_, terms_ + number_ + 1, [](const Term& term) {
      return term.dtype == Dtype::f64;
    });
    alignas(64) float base[kTile];
    if (!wide) decode(terms_[0].data, terms_[0].dtype, start, count, base);
    for (std::size_t k = 0; k < number_; ++k) {
      float* const delta = deltas_.data() + k * kTile;
      fetch(terms_[k + 1], start + kTile, count);
      wide ? delta_tile(terms_[0], terms_[k + 1], start, count, delta)
           : deltas_of(terms_[k + 1], base, start, count, delta);
    }
    variance_of(deltas_.data(), number_, count, variance);
  }

 private:
  const Term* terms_;
  std::size_t number_;
  std::vector<float> deltas_;
};

// values[i] times the factor of the row that element first + i lies in.
inline void weigh_rows(const RowFactors& rows, std::uint64_t first, std::size_t count,
                       float* values) {
  for (std::size_t i = 0; i < count;) {
    const std::uint64_t place = first + i;
    const float factor = rows.factors[place / rows.row];
    const std::uint64_t left = rows.row - place % rows.row;
    const std::size_t end = left < count - i ? i + left : count;
    for (; i < end; ++i) values[i] *= factor;
  }
}

// The keys of deltas from a tile of the base.
inline void delta_keys(const Term& x, const float* __restrict base, std::size_t start,
                       std::size_t count, std::uint32_t* __restrict keys) {
  with_codes(x.dtype, x.data, start, count, [&](auto element, const auto* codes) {
    using Element = decltype(element);
    const typename Element::Bits* __restrict code = codes;
    for (std::size_t i = 0; i < count; ++i)
      keys[i] = ops::key_of(static_cast<float>(Element::decode(code[i])) - base[i]);
  });
}

inline void keys_of(const float* values, std::size_t count,
                    std::uint32_t* __restrict keys) {
  for (std::size_t i = 0; i < count; ++i) keys[i] = ops::key_of(values[i]);
}

void ranked_keys(const RankedSlice& slice, std::uint32_t* keys) {
  alignas(64) float values[kTile];
  const Term& base = slice.terms[0];
  const Term& other = slice.terms[std::max(slice.term, 0)];
  const bool narrow = base.dtype != Dtype::f64 && other.dtype != Dtype::f64;
  Variances variances(slice.terms, slice.term < 0 ? slice.term_count : 1);
  for (std::size_t done = 0; done < slice.count; done += kTile) {
    const std::size_t count = std::min(kTile, slice.count - done);
    const std::size_t start = slice.start + done;
    fetch(base, start + slice.count, count);
    if (slice.term > 0) fetch(other, start + slice.count, count);
    if (slice.term >= 0 && slice.factors == nullptr && narrow) {
      decode(base.data, base.dtype, start, count, values);
      delta_keys(other, values, start, count, keys + done);
      continue;
    }
    if (slice.term < 0) {
      variances.of_tile(start, count, values);
    } else {
      delta_tile(base, other, start, count, values);
    }
    if (slice.factors != nullptr)
      weigh_rows(*slice.factors, slice.first + done, count, values);
    keys_of(values, count, keys + done);
  }
}

#ifndef TVMERGE_COMPRESS
inline bool all_lanes(Ints lanes) {
  std::uint64_t halves[sizeof lanes / sizeof(std::uint64_t)], all = UINT64_MAX;
  std::memcpy(halves, &lanes, sizeof lanes);
  for (const std::uint64_t half : halves) all &= half;
  return all == UINT64_MAX;
}
// Writes the keys of the lanes that are not in `out`, in their order; returns how many.
template <typename Lanes>
inline std::size_t pick_others(Words keys, Lanes out, std::uint32_t* to) {
  if (all_lanes(out)) return 0;
  std::size_t found = 0;
  for (std::size_t lane = 0; lane < Vectors<float>::kWidth; ++lane) {
    to[found] = keys[lane];
    found += out[lane] == 0 ? 1 : 0;
  }
  return found;
}
#endif

// Counts one register of keys in `above` and `ties`; writes those in the bracket that are
// no ties, and returns how many they are.
template <typename Count>
inline std::size_t scan_register(Words keys, const KeyScan& scan, Count& above,
                                 Count& ties, std::uint32_t* inside) {
  // Keys and brackets are below 2^31: their differences keep their order as integers.
  const Ints place = (Ints)(keys - scan.low);
  const auto over = greater_lanes(place, Ints{} + static_cast<int>(scan.high - scan.low));
  const auto same = equal_lanes(place, Ints{} + static_cast<int>(scan.tie - scan.low));
  above.add(over);
  ties.add(same);
  const auto out = over | same | greater_lanes(Ints{}, place);
  // Whether any lie in the bracket cannot be guessed: no branch where that is possible.
  return pick_others(keys, out, inside);
}

std::size_t scan_keys(const std::uint32_t* keys, std::size_t count, KeyScan& scan,
                      std::uint32_t* inside) {
  constexpr std::size_t kWidth = Vectors<float>::kWidth;
  const KeyScan of = scan;
  LaneCount<Lanes<Ints>> above, ties;
  std::size_t found = 0;
  const std::size_t whole = count / kWidth * kWidth;
  for (std::size_t i = 0; i < whole; i += kWidth)
    found += scan_register(load_words(keys + i), of, above, ties, inside + found);
  scan.above += above.total();
  scan.ties += ties.total();
  for (std::size_t i = whole; i < count; ++i) {
    scan.above += keys[i] > of.high ? 1 : 0;
    scan.ties += keys[i] == of.tie ? 1 : 0;
    inside[found] = keys[i];
    found += keys[i] != of.tie && keys[i] >= of.low && keys[i] <= of.high ? 1 : 0;
  }
  return found;
}

}  // namespace
}  // namespace tvmerge::TVMERGE_ISA
