// Sums and products of rows or columns that have coefficients or results of their own
// (lines.hpp).
#pragma once

#include "kernels/kernels_measure.hpp"

namespace tvmerge::TVMERGE_ISA {
namespace {

// A term's coefficients of elements [start, start + count) of the slice.
template <typename Sum>
void spread(const LineTable& table, std::size_t term, std::size_t start,
            std::size_t count, Sum* __restrict to) {
  const Lines& lines = table.lines;
  const double* const values = table.values + term * table.stride;
  for (std::size_t i = 0; i < count;) {
    const std::uint64_t element = table.first + start + i;
    const std::uint64_t line = element / lines.run % lines.count;
    const double* __restrict const from = values + (line - table.begin);
    if (lines.run == 1) {
      const std::size_t n = std::min<std::uint64_t>(count - i, lines.count - line);
      for (std::size_t j = 0; j < n; ++j) to[i + j] = static_cast<Sum>(from[j]);
      i += n;
    } else {
      const std::uint64_t left = lines.run - element % lines.run;
      const std::size_t n = std::min<std::uint64_t>(count - i, left);
      std::fill_n(to + i, n, static_cast<Sum>(*from));
      i += n;
    }
  }
}

// sum[i] = fma(c[i], x[i], sum[i]) where c[i] is not 0.
template <typename Sum>
void accumulate_lines(const Term& term, std::size_t start, std::size_t count,
                      const Sum* __restrict c, Sum* __restrict sum) {
  with_codes(term.dtype, term.data, start, count, [&](auto element, const auto* codes) {
    using Element = decltype(element);
    const typename Element::Bits* __restrict x = codes;
    for (std::size_t i = 0; i < count; ++i) {
      const Sum next = fused(c[i], static_cast<Sum>(Element::decode(x[i])), sum[i]);
      sum[i] = c[i] != 0 ? next : sum[i];  // 0 * infinity would be NaN
    }
  });
}

// The sums of elements [start, start + count) before they are rounded. fma(c, x, -0) is
// c * x, whatever its sign.
template <typename Sum>
void sum_lines(const CombineSlice& slice, std::size_t start, std::size_t count,
               Sum* sum) {
  alignas(64) Sum coefficients[kTile];
  std::fill_n(sum, count, -Sum{0});
  for (std::size_t k = 0; k < slice.term_count; ++k) {
    spread(*slice.lines, k, start, count, coefficients);
    accumulate_lines(slice.terms[k], start, count, coefficients, sum);
  }
}

// Product and sum are rounded apart, as in kernels_measure.hpp.
inline void add_products(const double* __restrict a, const double* __restrict b,
                         std::size_t count, double* __restrict to) {
  for (std::size_t i = 0; i < count; ++i) to[i] += a[i] * b[i];
}

void measure_columns(const ColumnSlice& slice) {
  const std::size_t rows = slice.row_count;
  const MeasureSlice whole{slice.terms, slice.term_count, slice.rows, rows,
                           slice.count, nullptr,          nullptr};
  std::vector<double> y(rows * kRowTile);
  for (std::size_t start = 0; start < slice.count; start += kRowTile) {
    const std::size_t count = std::min(kRowTile, slice.count - start);
    for (std::size_t r = 0; r < rows; ++r)
      fill_row(whole, r, start, count, y.data() + r * kRowTile);
    for (std::size_t i = 0; i < count;) {
      const std::uint64_t column = (slice.first + start + i) % slice.columns;
      const std::size_t n = std::min<std::uint64_t>(count - i, slice.columns - column);
      double* to = slice.products + column;
      for (std::size_t r = 0; r < rows; ++r) {
        for (std::size_t s = 0; s <= r; ++s, to += slice.columns)
          add_products(&y[r * kRowTile + i], &y[s * kRowTile + i], n, to);
      }
      i += n;
    }
  }
}

}  // namespace
}  // namespace tvmerge::TVMERGE_ISA
