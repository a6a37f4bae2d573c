// Measuring: inner products of linear combinations, in float64 (see kernels_body.hpp).
#pragma once

#include "kernels_codes.hpp"
#include "kernels_difference.hpp"

namespace tvmerge::TVMERGE_ISA {
namespace {

// One tile of every row stays in memory at a time; kRowTile keeps 16 rows within 64 KiB.
constexpr std::size_t kRowTile = 512;

// Adds the inner products of `Rows` rows, kRowTile elements each, to gram (its lower
// triangle), and counts what is not 0. Rows are read once for all their products.
template <std::size_t Rows>
void add_products(const double* y, std::size_t stride, double* gram) {
  using V = Vectors<double>;
  V::Vector sums[Rows][Rows][kRegisters]{};
  for (std::size_t i = 0; i < kRowTile; i += V::kLanes) {
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

void add_product(const double* a, const double* b, double& product) {
  using V = Vectors<double>;
  V::Vector sum[kRegisters]{};
  for (std::size_t i = 0; i < kRowTile; i += V::kLanes) {
    for (std::size_t part = 0; part < kRegisters; ++part) {
      const std::size_t at = i + part * V::kWidth;
      sum[part] += V::load(a + at) * V::load(b + at);
    }
  }
  product += V::total(sum);
}

void add_gram(const double* y, std::size_t rows, double* gram) {
  if (rows == 1) return add_products<1>(y, rows, gram);
  if (rows == 2) return add_products<2>(y, rows, gram);
  if (rows == 3) return add_products<3>(y, rows, gram);
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t s = 0; s <= r; ++s)
      add_product(y + r * kRowTile, y + s * kRowTile, gram[r * rows + s]);
  }
}

std::uint64_t count_nonzero(const double* row) {
  using V = Vectors<double>;
  V::Counts found{};
  for (std::size_t i = 0; i < kRowTile; i += V::kWidth) found -= V::load(row + i) != 0;
  return V::total(found);
}

// Row r of a tile, and zeros behind its end.
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
  std::memset(row + filled, 0, (kRowTile - filled) * sizeof(double));
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
      slice.nonzero[r] += count_nonzero(y + r * kRowTile);
    }
    add_gram(y, rows, slice.gram);
  }
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t s = r + 1; s < rows; ++s)
      slice.gram[r * rows + s] = slice.gram[s * rows + r];
  }
  delete[] y;
}

}  // namespace
}  // namespace tvmerge::TVMERGE_ISA
