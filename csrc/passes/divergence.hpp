// How far each row of a tensor went from the base's: the Kullback-Leibler divergence of
// their softmaxes, which arcee_fusion weighs deltas with.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/consensus.hpp"
#include "engine/engine.hpp"
#include "engine/job.hpp"

namespace tvmerge {

// sources[0] is the base, sources[1] what is compared with it; rows have `row` elements.
struct DivergenceJob {
  std::vector<Source> sources;
  std::uint64_t elements;
  std::uint64_t row;
};

// Per job a factor for each of its rows: sum_i p_i log(p_i / q_i), p and q being the
// softmaxes of the second source and of the base, with 1e-8 added to both. NaN where one
// of them is not finite. The same bits for any number of threads and instruction set.
std::vector<std::shared_ptr<RowFactors>> divergences(
    const std::vector<std::string>& inputs, const std::vector<DivergenceJob>& jobs,
    const Options& options);

}  // namespace tvmerge
