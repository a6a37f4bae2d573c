// Which elements of a delta are its largest: exact, in a stream, whatever the model's
// size.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "core/consensus.hpp"
#include "engine/engine.hpp"
#include "engine/job.hpp"

namespace tvmerge {

// sources[0] is the base. What is ranked is sources[source] - sources[0], in float32
// (from float64 where one of them is), or with kVariance the population variance of all
// deltas.
constexpr std::int32_t kVariance = -1;
// How many elements: a number, or a share (rounded down) of those whose key is not 0.
using Rank = std::variant<std::uint64_t, double>;
struct Query {
  std::int32_t source;
  Rank rank;
};
struct SelectJob {
  std::vector<Source> sources;
  std::uint64_t elements;
  std::vector<Query> queries;
  std::shared_ptr<const RowFactors> factors = nullptr;  // of what is ranked, if any
};

// Per job and query. Reads the sources once, and once more where the sample misled or, at
// times, where many equal magnitudes lie at a cut; throws as `merge` does.
std::vector<std::vector<Cut>> select(const std::vector<std::string>& inputs,
                                     const std::vector<SelectJob>& jobs,
                                     const Options& options);

}  // namespace tvmerge
