// The sample that brackets a job's cuts before the first pass: it decides how fast they
// are found, never where they lie.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/job.hpp"
#include "engine/search.hpp"
#include "passes/ranking.hpp"

namespace tvmerge {

// Takes chunks at even distances, more of a large tensor, whose bracket would have many
// keys, as far as `room_bytes` hold them. Small tensors are read whole.
void sample_job(const SelectJob& job, std::uint64_t room_bytes, Ranking& ranking,
                std::vector<Search>& searches);

}  // namespace tvmerge
