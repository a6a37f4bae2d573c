// Rows or columns of a tensor, each with inner products and coefficients of its own.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace tvmerge {

// Element i belongs to line i / run % count. Rows lie one behind the other, `run`
// elements each; columns have a run of 1.
struct Lines {
  std::uint64_t run = 1, count = 1;

  [[nodiscard]] constexpr bool are_rows_of(std::uint64_t elements) const {
    return run > 0 && elements / run == count && elements % run == 0;
  }
  [[nodiscard]] constexpr bool fit(std::uint64_t elements) const {
    return are_rows_of(elements) || (run == 1 && count > 0 && elements % count == 0);
  }
};

// What the sources that are terms are multiplied with, line by line; where a coefficient
// is 0 the source is no term there.
struct LineCoefficients {
  Lines lines;
  std::vector<std::uint32_t> sources;  // numbers of a job's sources, in their order
  std::vector<double> values;          // lines.count for each of `sources`
  // Of each of `sources`, the coefficient that a float can hold least: it decides in
  // which precision all lines are summed (accumulates_in_double).
  std::vector<double> hardest;

  LineCoefficients(Lines lines, std::vector<std::uint32_t> sources,
                   std::vector<double> values);
};

// A part of such coefficients, as kernels take it.
struct LineTable {
  const double* values;  // of the first term and line `begin`
  std::uint64_t stride;  // from one term's to the next one's
  Lines lines;
  std::uint64_t begin;
  std::uint64_t first;  // the element of the tensor that the slice begins with
};

// The lines of `count` elements from `start` on, or all of them where these begin again.
struct LineRange {
  std::uint64_t begin, count;
};
constexpr LineRange lines_in(const Lines& lines, std::uint64_t start,
                             std::uint64_t count) {
  const std::uint64_t begin = start / lines.run, last = (start + count - 1) / lines.run;
  if (last >= lines.count) return {0, lines.count};
  return {begin, last - begin + 1};
}
// The most that any `count` elements of a tensor have.
constexpr std::uint64_t most_lines(const Lines& lines, std::uint64_t elements,
                                   std::uint64_t count) {
  if (!lines.are_rows_of(elements)) return lines.count;
  return std::min(lines.count, count / lines.run + 2);
}

}  // namespace tvmerge
