// Which elements of a delta are its largest: exact, in a stream, whatever the model's
// size.
#pragma once

#include <string>
#include <vector>

#include "core/consensus.hpp"
#include "engine/engine.hpp"
#include "engine/job.hpp"

namespace tvmerge {

// Per job and query. Reads the sources once, and once more where the sample misled or, at
// times, where many equal magnitudes lie at a cut; throws as `merge` does.
std::vector<std::vector<Cut>> select(const std::vector<std::string>& inputs,
                                     const std::vector<SelectJob>& jobs,
                                     const Options& options);

}  // namespace tvmerge
