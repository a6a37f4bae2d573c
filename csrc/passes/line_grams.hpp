// Inner products row by row or column by column, for methods whose coefficients differ
// between them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/lines.hpp"
#include "engine/engine.hpp"
#include "engine/job.hpp"

namespace tvmerge {

// As MeasureJob; rows are here what is measured, linear combinations of the sources.
struct LineGramsJob {
  std::vector<Source> sources;
  std::uint64_t elements;
  std::vector<double> rows;
  Lines lines;
};

// Per job, for each pair (r, s), s <= r, in their order, the products of all lines. The
// same bits for any number of threads and instruction set.
std::vector<std::vector<double>> line_grams(const std::vector<std::string>& inputs,
                                            const std::vector<LineGramsJob>& jobs,
                                            const Options& options);

}  // namespace tvmerge
