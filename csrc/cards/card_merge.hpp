// Merging on cards: what merge.cpp does, its slices computed there.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "cards/gpudirect.hpp"
#include "engine/clones.hpp"
#include "engine/copying.hpp"
#include "engine/engine.hpp"
#include "engine/layout.hpp"
#include "engine/reading.hpp"
#include "files/sink.hpp"

namespace tvmerge {

// A merge whose files are open.
struct OpenMerge {
  const std::vector<std::string>& paths;
  const std::vector<CombineJob>& combines;
  const std::vector<CopyJob>& copies;
  const Options& options;
  Inputs& inputs;
  std::deque<Sink>& sinks;
  const Clones& clones;
  const DirectFiles& direct;
};

MergeResult merge_on_cards(const OpenMerge& merge);

// What all threads have seen together.
inline MergeResult result_of(const EditTable& edits, const std::vector<Seen>& seen,
                             const Clones& clones) {
  Seen all = seen.front();
  for (std::size_t thread = 1; thread < seen.size(); ++thread) all += seen[thread];
  return {edits.totals(), std::move(all.different), std::move(all.inputs),
          std::move(all.outputs), clones.size_bytes()};
}

}  // namespace tvmerge
