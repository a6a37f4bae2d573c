// Norms of deltas, whole and of the elements that take part, in one pass.
#pragma once

#include <string>
#include <vector>

#include "core/consensus.hpp"
#include "engine/engine.hpp"
#include "engine/job.hpp"

namespace tvmerge {

// Per job and part; the same bits for any number of threads and instruction set.
std::vector<std::vector<DeltaSums>> delta_sums(const std::vector<std::string>& inputs,
                                               const std::vector<DeltaSumsJob>& jobs,
                                               const Options& options);

}  // namespace tvmerge
