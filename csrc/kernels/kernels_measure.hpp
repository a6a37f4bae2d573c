// Measuring: inner products of linear combinations, in float64 (see kernels_body.hpp).
#pragma once

#include "kernels/kernels_codes.hpp"
#include "kernels/kernels_difference.hpp"

namespace tvmerge::TVMERGE_ISA {
namespace {

// One tile of every row stays in memory at a time; kRowTile keeps 16 rows within 64 KiB.
constexpr std::size_t kRowTile = 512;

// The elements of whole lanes that hold `count`; behind it they are 0.
constexpr std::size_t padded(std::size_t count) {
  using V = Vectors<double>;
  return (count + V::kLanes - 1) / V::kLanes * V::kLanes;
}

// Adds the inner products of `Rows` rows of `count` elements, padded, to gram (its lower
// triangle). Rows are read once for all their products.
template <std::size_t Rows>
void add_products(const double* y, std::size_t stride, std::size_t count, double* gram) {
  using V = Vectors<double>;
  V::Vector sums[Rows][Rows][kRegisters]{};
  for (std::size_t i = 0; i < count; i += V::kLanes) {
    for (std::size_t part = 0; part < kRegisters; ++part) {
      V::Vector row[Rows];
      for (std::size_t r = 0; r < Rows; ++r)
        row[r] = V::load(y + r * kRowTile + i + part * V::kWidth);
      for (std::size_t r = 0; r < Rows; ++r) {
        for (std::size_t s = 0; s <= r; ++s) sums[r][s][part] += row[r] * row[s];
      }
    }
  }
  for (std::size_t r = 0; r < Rows; ++r) {
    for (std::size_t s = 0; s <= r; ++s) gram[r * stride + s] += V::total(sums[r][s]);
  }
}

void add_product(const double* a, const double* b, std::size_t count, double& product) {
  using V = Vectors<double>;
  V::Vector sum[kRegisters]{};
  for (std::size_t i = 0; i < count; i += V::kLanes) {
    for (std::size_t part = 0; part < kRegisters; ++part) {
      const std::size_t at = i + part * V::kWidth;
      sum[part] += V::load(a + at) * V::load(b + at);
    }
  }
  product += V::total(sum);
}

void add_gram(const double* y, std::size_t rows, std::size_t count, double* gram) {
  if (rows == 1) return add_products<1>(y, rows, count, gram);
  if (rows == 2) return add_products<2>(y, rows, count, gram);
  if (rows == 3) return add_products<3>(y, rows, count, gram);
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t s = 0; s <= r; ++s)
      add_product(y + r * kRowTile, y + s * kRowTile, count, gram[r * rows + s]);
  }
}

std::uint64_t count_nonzero(const double* row, std::size_t count) {
  using V = Vectors<double>;
  LaneCount<Lanes<V::Vector>> found;
  for (std::size_t i = 0; i < count; i += V::kWidth)
    found.add(unequal_lanes(V::load(row + i), V::Vector{}));
  return found.total();
}

// Row r of a tile, padded.
void fill_row(const MeasureSlice& slice, std::size_t r, std::size_t start,
              std::size_t count, double* row) {
  bool first = true;
  for (std::size_t k = 0; k < slice.term_count; ++k) {
    const double coefficient = slice.rows[r * slice.term_count + k];
    if (coefficient == 0) continue;  // 0 * infinity would be NaN
    accumulate(slice.terms[k], start, count, coefficient, first, row);
    first = false;
  }
  const std::size_t filled = first ? 0 : count;
  std::memset(row + filled, 0, (padded(count) - filled) * sizeof(double));
}

void measure(const MeasureSlice& slice) {
  const std::size_t rows = slice.row_count;
  if (rows == 0) return differ(slice);
  double* const y = new double[rows * kRowTile];
  for (std::size_t start = 0; start < slice.count; start += kRowTile) {
    const std::size_t count =
        slice.count - start < kRowTile ? slice.count - start : kRowTile;
    for (std::size_t r = 0; r < rows; ++r) {
      fill_row(slice, r, start, count, y + r * kRowTile);
      slice.nonzero[r] += count_nonzero(y + r * kRowTile, padded(count));
    }
    add_gram(y, rows, padded(count), slice.gram);
  }
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t s = r + 1; s < rows; ++s)
      slice.gram[r * rows + s] = slice.gram[s * rows + r];
  }
  delete[] y;
}

}  // namespace
}  // namespace tvmerge::TVMERGE_ISA
