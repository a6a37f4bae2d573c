// How far the softmax of one row is from that of another, stretch by stretch
// (divergence.hpp).
#pragma once

#include <algorithm>

#include "core/ops_softmax.hpp"
#include "kernels/kernels_codes.hpp"

namespace tvmerge::TVMERGE_ISA {
namespace {

// Calls use(x, start, count) with tiles of a term in float64.
template <typename Use>
void with_values(const Term& term, std::size_t start, std::size_t end, Use&& use) {
  alignas(64) double x[kTile];
  for (; start < end; start += kTile) {
    const std::size_t count = std::min(kTile, end - start);
    decode(term.data, term.dtype, start, count, x);
    use(x, start, count);
  }
}

// Adds a tile, which is filled up with zeros.
inline double sum_of(double* tile, std::size_t count) {
  using V = Vectors<double>;
  std::fill(tile + count, tile + (count + V::kLanes - 1) / V::kLanes * V::kLanes, 0.0);
  V::Vector sum[kRegisters]{};
  for (std::size_t i = 0; i < count; i += V::kLanes) {
    for (std::size_t part = 0; part < kRegisters; ++part)
      sum[part] += V::load(tile + i + part * V::kWidth);
  }
  return V::total(sum);
}

// e^(x - peak), by which a softmax is this divided by its sum.
inline void exponentials(const double* __restrict x, std::size_t count, double peak,
                         double* __restrict to) {
  for (std::size_t i = 0; i < count; ++i) to[i] = ops::exp_of(x[i] - peak);
}

inline void divergences(const double* __restrict p, const double* __restrict q,
                        std::size_t count, const double* mass, double* __restrict to) {
  const double share_q = 1 / mass[0], share_p = 1 / mass[1];
  for (std::size_t i = 0; i < count; ++i) {
    const double one = p[i] * share_p + kSoftmaxMargin;
    const double other = q[i] * share_q + kSoftmaxMargin;
    to[i] = one * ops::log_of(one / other);
  }
}

// As many lanes as sums have: one after the other would wait for each comparison.
inline double peak_of(const double* __restrict x, std::size_t count, double peak) {
  constexpr std::size_t kLanes = Vectors<double>::kLanes;
  double peaks[kLanes];
  std::fill_n(peaks, kLanes, peak);
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane)
      peaks[lane] = x[i + lane] > peaks[lane] ? x[i + lane] : peaks[lane];
  }
  for (; i < count; ++i) peaks[0] = x[i] > peaks[0] ? x[i] : peaks[0];
  return *std::max_element(peaks, peaks + kLanes);
}

void find_peaks(const DivergenceSlice& slice) {
  for (std::size_t k = 0; k < 2; ++k) {
    double& peak = slice.row->peak[k];
    with_values(slice.terms[k], slice.start, slice.start + slice.count,
                [&](const double* x, std::size_t /*start*/, std::size_t count) {
                  peak = peak_of(x, count, peak);
                });
  }
}

// The exponentials of the base's elements (0) or of the other's that are kept.
inline double* kept(const DivergenceSlice& slice, std::size_t k) {
  return slice.exponentials + k * whole_tiles(slice.count);
}

void add_masses(const DivergenceSlice& slice) {
  alignas(64) double tile[kTile];
  for (std::size_t k = 0; k < 2; ++k) {
    with_values(slice.terms[k], slice.start, slice.start + slice.count,
                [&](const double* x, std::size_t start, std::size_t count) {
                  double* const e =
                      slice.exponentials ? kept(slice, k) + (start - slice.start) : tile;
                  exponentials(x, count, slice.row->peak[k], e);
                  slice.row->mass[k] += sum_of(e, count);
                });
  }
}

void add_kept_divergence(const DivergenceSlice& slice) {
  alignas(64) double sum[kTile];
  const double *q = kept(slice, 0), *p = kept(slice, 1);
  for (std::size_t start = 0; start < slice.count; start += kTile) {
    const std::size_t count = std::min(kTile, slice.count - start);
    divergences(p + start, q + start, count, slice.row->mass, sum);
    slice.row->sum += sum_of(sum, count);
  }
}

void add_divergence(const DivergenceSlice& slice) {
  if (slice.exponentials) return add_kept_divergence(slice);
  alignas(64) double other[kTile], p[kTile], q[kTile], sum[kTile];
  RowDivergence& row = *slice.row;
  with_values(slice.terms[1], slice.start, slice.start + slice.count,
              [&](const double* x, std::size_t start, std::size_t count) {
                decode(slice.terms[0].data, slice.terms[0].dtype, start, count, other);
                exponentials(other, count, row.peak[0], q);
                exponentials(x, count, row.peak[1], p);
                divergences(p, q, count, row.mass, sum);
                row.sum += sum_of(sum, count);
              });
}

void diverge(const DivergenceSlice& slice) {
  switch (slice.step) {
    case DivergenceStep::peaks:
      return find_peaks(slice);
    case DivergenceStep::masses:
      return add_masses(slice);
    case DivergenceStep::sum:
      return add_divergence(slice);
  }
}

}  // namespace
}  // namespace tvmerge::TVMERGE_ISA
