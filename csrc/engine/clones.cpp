#include "engine/clones.hpp"

#include <algorithm>
#include <set>
#include <utility>

namespace tvmerge {
namespace {

// A clone is a transaction and cuts the file into one more extent: not for biases.
constexpr std::uint64_t kSmallestBytes = std::uint64_t{64} * 1024;

// The whole blocks of a job's range, in bytes from its start; empty where they do not lie
// alike in source and target, or are few.
Clones::Range whole_blocks(const CopyJob& job, std::uint64_t target_bytes,
                           std::uint64_t block_bytes) {
  if (job.offset_bytes % block_bytes != target_bytes % block_bytes) return {};
  const std::uint64_t begin =
      (block_bytes - job.offset_bytes % block_bytes) % block_bytes;
  if (begin >= job.size_bytes) return {};
  const std::uint64_t blocks = (job.size_bytes - begin) / block_bytes;
  if (blocks * block_bytes < kSmallestBytes) return {};
  return {begin, begin + blocks * block_bytes};
}

}  // namespace

Clones::Clones(const std::vector<CopyJob>& copies, const Inputs& inputs,
               const std::deque<Sink>& sinks) {
  std::set<std::pair<std::uint32_t, std::uint32_t>> refused;
  for (const CopyJob& job : copies) {
    first_.push_back(cloned_.size());
    for (const auto& [file, offset_bytes] : job.targets) {
      cloned_.emplace_back();
      const File* const target = sinks[file].file();
      if (target == nullptr || refused.count({job.file, file}) != 0) continue;
      const File& source = inputs.file(job.file);
      const std::uint64_t block_bytes =
          std::max(source.block_bytes(), target->block_bytes());
      const Range range = whole_blocks(job, offset_bytes, block_bytes);
      if (range.begin == range.end) continue;
      if (target->clone(source, job.offset_bytes + range.begin, range.end - range.begin,
                        offset_bytes + range.begin)) {
        cloned_.back() = range;
      } else {
        refused.insert({job.file, file});
      }
    }
  }
}

std::uint64_t Clones::size_bytes() const {
  std::uint64_t size = 0;
  for (const Range& range : cloned_) size += range.end - range.begin;
  return size;
}

}  // namespace tvmerge
