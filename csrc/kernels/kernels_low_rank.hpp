// The product of two thin matrices, added to a third (see kernels_body.hpp).
#pragma once

#include "kernels/kernels_codes.hpp"

namespace tvmerge::TVMERGE_ISA {
namespace {

// Steps of the inner sum between a load and a store of its accumulators.
constexpr std::size_t kSteps = 4;

// A row's sums over `count` columns from `start` on. The product of two float32 is exact
// in float64, so that a fused multiply-add would give the same bits: they depend on the
// order of k alone.
void sum_products(const LowRankSlice& slice, const float* left, std::size_t start,
                  std::size_t count, double* sum) {
  for (std::size_t j = 0; j < count; ++j) sum[j] = 0;
  std::size_t k = 0;
  for (; k + kSteps <= slice.rank; k += kSteps) {
    const float* __restrict row = slice.right + k * slice.columns + start;
    const double a = left[k], b = left[k + 1], c = left[k + 2], d = left[k + 3];
    for (std::size_t j = 0; j < count; ++j) {
      double total = sum[j] + a * static_cast<double>(row[j]);
      total += b * static_cast<double>(row[j + slice.columns]);
      total += c * static_cast<double>(row[j + 2 * slice.columns]);
      total += d * static_cast<double>(row[j + 3 * slice.columns]);
      sum[j] = total;
    }
  }
  for (; k < slice.rank; ++k) {
    const float* __restrict row = slice.right + k * slice.columns + start;
    const double a = left[k];
    for (std::size_t j = 0; j < count; ++j) sum[j] += a * static_cast<double>(row[j]);
  }
}

// All rows of a tile of columns, then the next tile: its part of the right factor stays
// in the caches.
void add_low_rank(const LowRankSlice& slice) {
  alignas(64) double sum[kTile];
  for (std::size_t start = 0; start < slice.columns; start += kTile) {
    const std::size_t left = slice.columns - start;
    const std::size_t count = left < kTile ? left : kTile;
    for (std::size_t i = 0; i < slice.rows; ++i) {
      sum_products(slice, slice.left + i * slice.rank, start, count, sum);
      float* __restrict out = slice.out + i * slice.columns + start;
      for (std::size_t j = 0; j < count; ++j) {
        const double added = slice.scale * sum[j];
        out[j] = static_cast<float>(static_cast<double>(out[j]) + added);
      }
    }
  }
}

}  // namespace
}  // namespace tvmerge::TVMERGE_ISA
