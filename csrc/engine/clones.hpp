// Shares the blocks of what is only copied between input and output (reflinks), where the
// file system can: such bytes are read for their digest, and take neither writing nor
// space.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "engine/job.hpp"
#include "engine/reading.hpp"
#include "files/sink.hpp"

namespace tvmerge {

class Clones {
 public:
  // Clones what can be cloned: whole blocks that lie alike in both files. The first
  // refusal between two files is the last attempt between them.
  Clones(const std::vector<CopyJob>& copies, const Inputs& inputs,
         const std::deque<Sink>& sinks);

  // A range of a job, in bytes from its start; an empty one lies behind everything.
  struct Range {
    std::uint64_t begin = UINT64_MAX, end = UINT64_MAX;
  };
  // What of a job's target is there already.
  [[nodiscard]] Range at(std::size_t copy, std::size_t target) const {
    return cloned_[first_[copy] + target];
  }
  [[nodiscard]] std::uint64_t size_bytes() const;

 private:
  // Per copy job: where its targets begin in the row of them all.
  std::vector<std::size_t> first_;
  std::vector<Range> cloned_;
};

}  // namespace tvmerge
