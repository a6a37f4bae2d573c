// Norms of deltas, whole and of the elements that take part, in one pass.
#pragma once

#include <string>
#include <vector>

#include "core/consensus.hpp"
#include "engine/engine.hpp"
#include "engine/job.hpp"

namespace tvmerge {

// sources[0] is the base; the weights and gains of the parts are not looked at, unless
// one of them is to be summed as it is elected (kernels.hpp).
struct DeltaSumsJob {
  std::vector<Source> sources;
  std::uint64_t elements;
  std::vector<Part> parts;
  bool counted = false;  // elements are counted too
  std::int32_t elected = -1;
};

// Per job and part; the same bits for any number of threads and instruction set.
std::vector<std::vector<DeltaSums>> delta_sums(const std::vector<std::string>& inputs,
                                               const std::vector<DeltaSumsJob>& jobs,
                                               const Options& options);

// What stretches of kSumElements came to, all parts of one behind those of the other,
// added up in their order.
std::vector<std::vector<DeltaSums>> totals_of(
    const std::vector<DeltaSumsJob>& jobs,
    const std::vector<std::vector<DeltaSums>>& stretches);

}  // namespace tvmerge
