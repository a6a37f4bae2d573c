// Measuring on cards: what measure.cpp, delta_sums.cpp and select.cpp do, their slices
// reduced there.
#pragma once

#include <string>
#include <vector>

#include "engine/engine.hpp"
#include "engine/job.hpp"
#include "engine/reading.hpp"
#include "engine/search.hpp"

namespace tvmerge {

std::vector<Measured> measure_on_cards(const std::vector<std::string>& paths,
                                       const std::vector<MeasureJob>& jobs,
                                       const Options& options);

// Of every stretch of kSumElements, all parts of one behind those of the other.
std::vector<std::vector<DeltaSums>> delta_sums_on_cards(
    const std::vector<std::string>& paths, const std::vector<DeltaSumsJob>& jobs,
    const Options& options);

// One job's searches that are not done.
struct OpenSearches {
  const SelectJob& job;
  std::vector<Search>& searches;
};
// A whole pass over every job: each search has been told what was found, and narrowed.
void scan_on_cards(const std::vector<std::string>& paths,
                   const std::vector<OpenSearches>& open, const Options& options);

}  // namespace tvmerge
