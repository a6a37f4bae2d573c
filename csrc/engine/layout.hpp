// Lays a merge out in memory: what a thread reads, holds and writes at once, within a
// limit.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/edit.hpp"
#include "engine/engine.hpp"
#include "engine/row_ranks.hpp"
#include "engine/slices.hpp"
#include "files/sink.hpp"

namespace tvmerge {

inline std::uint64_t out_width(const CombineJob& job) {
  std::uint64_t widest = 0;
  for (const Output& out : job.outputs)
    widest = std::max<std::uint64_t>(widest, size_of(out.dtype));
  return widest;
}

// What ranking slices of `count` elements within their rows takes for any one output.
inline std::uint64_t rank_bytes(const CombineJob& job, std::uint64_t count) {
  std::uint64_t most = 0;
  for (const Output& out : job.outputs) {
    if (!out.consensus) continue;
    const RankedDeltas deltas{job.sources, job.elements, out.consensus->parts};
    most = std::max(most, deltas.bytes(count));
  }
  return most;
}

// The most elements (a grain times a power of two) whose sources and one output fit.
inline std::uint64_t slice_elements(std::uint64_t workspace_bytes,
                                    const CombineJob& job) {
  // A grain of any dtype is a multiple of kAlignmentBytes: only a tensor's end is padded.
  const std::uint64_t grain_bytes =
      slice_bytes(job.sources, kSliceGrain) + out_width(job) * kSliceGrain;
  std::uint64_t grains = 1;
  while (grains * 2 * grain_bytes <= workspace_bytes) grains *= 2;
  return grains * kSliceGrain;
}

// Per write and output, in a row for all jobs; summed per job when all are there.
class EditTable {
 public:
  explicit EditTable(const std::vector<CombineJob>& jobs) : jobs_(jobs) {}

  void add(std::size_t job, std::uint64_t writes) {
    first_.push_back(edits_.size());
    edits_.resize(edits_.size() + writes * jobs_[job].outputs.size());
  }
  [[nodiscard]] Edit* at(std::size_t job, std::uint64_t write) {
    return edits_.data() + first_[job] + write * jobs_[job].outputs.size();
  }
  [[nodiscard]] std::vector<std::vector<Edit>> totals() const {
    std::vector<std::vector<Edit>> totals(jobs_.size());
    for (std::size_t j = 0; j < jobs_.size(); ++j) {
      const std::size_t outputs = jobs_[j].outputs.size();
      const std::size_t end = j + 1 < jobs_.size() ? first_[j + 1] : edits_.size();
      for (std::size_t o = 0; o < outputs; ++o) {
        EditTree tree;
        for (std::size_t i = first_[j] + o; i < end; i += outputs) tree.push(edits_[i]);
        totals[j].push_back(tree.total());
      }
    }
    return totals;
  }

 private:
  const std::vector<CombineJob>& jobs_;
  std::vector<std::size_t> first_;
  std::vector<Edit> edits_;
};

// How much is written at once, if a tensor and the memory allow it: half the cost of
// writing 64 KiB at a time.
constexpr std::uint64_t kWriteBytes = std::uint64_t{1024} * 1024;

// The jobs cut into writes of several slices each, the memory for them, and what is found
// out write by write.
struct Layout {
  SliceTable table;
  EditTable edits;
  std::vector<std::uint64_t> slice_lengths;  // per combine job, in elements
  unsigned threads = 0;
  // Per thread: its reading, one write, how many of these it has room for, and ranking.
  std::uint64_t read_bytes = 0, slot_bytes = 1, ranking_bytes = 0;
  std::size_t slot_count = Writer::kWaiting;

  Layout(const std::vector<CombineJob>& combines, const std::vector<CopyJob>& copies,
         const Options& options)
      : edits(combines) {
    for (const CombineJob& job : combines)
      slot_count = std::max(slot_count, job.outputs.size() + Writer::kWaiting);
    std::uint64_t needed = kSmallestSliceBytes;
    for (const CombineJob& job : combines) {
      needed = std::max(needed, slice_bytes(job.sources, kSliceGrain) +
                                    slot_count * out_width(job) * kSliceGrain +
                                    rank_bytes(job, kSliceGrain));
    }
    const Workspace space(options, needed);
    threads = space.threads;
    // Only a memory limit makes writes smaller, and then slices.
    std::uint64_t slice = space.bytes, write = kWriteBytes;
    while (!fits(combines, copies, slice, write, options.buffer_bytes / threads)) {
      (write > kSliceGrain ? write : slice) /= 2;
    }
    cut(combines, copies, slice, write);
  }

  [[nodiscard]] std::uint64_t thread_bytes() const {
    return read_bytes + slot_count * slot_bytes + ranking_bytes;
  }

 private:
  // A write of a job is its slice times a power of two.
  static std::uint64_t write_elements(const CombineJob& job, std::uint64_t slice_bytes,
                                      std::uint64_t write_bytes) {
    std::uint64_t elements = slice_elements(slice_bytes, job);
    while (elements * 2 * out_width(job) <= write_bytes) elements *= 2;
    return elements;
  }
  static std::uint64_t copy_bytes(std::uint64_t slice_bytes) {
    return std::max(slice_bytes, kSmallestSliceBytes) / 2 / kAlignmentBytes *
           kAlignmentBytes;
  }

  bool fits(const std::vector<CombineJob>& combines, const std::vector<CopyJob>& copies,
            std::uint64_t slice, std::uint64_t write, std::uint64_t thread_bytes_limit) {
    read_bytes = copies.empty() ? 0 : 2 * copy_bytes(slice);
    slot_bytes = 1;
    ranking_bytes = 0;
    for (const CombineJob& job : combines) {
      const std::uint64_t whole = aligned(job.elements);
      const std::uint64_t read = std::min(slice_elements(slice, job), whole);
      const std::uint64_t written = std::min(write_elements(job, slice, write), whole);
      read_bytes = std::max(read_bytes, slice_bytes(job.sources, read));
      slot_bytes = std::max(slot_bytes, aligned(written * out_width(job)));
      ranking_bytes = std::max(ranking_bytes, rank_bytes(job, read));
    }
    // One grain of everything always fits: Workspace has seen to that.
    return thread_bytes() <= thread_bytes_limit || slice <= kSliceGrain;
  }

  void cut(const std::vector<CombineJob>& combines, const std::vector<CopyJob>& copies,
           std::uint64_t slice, std::uint64_t write) {
    for (std::size_t j = 0; j < combines.size(); ++j) {
      const std::uint64_t before = table.count();
      slice_lengths.push_back(slice_elements(slice, combines[j]));
      table.add(combines[j].elements, write_elements(combines[j], slice, write));
      edits.add(j, table.count() - before);
    }
    for (const CopyJob& job : copies) table.add(job.size_bytes, copy_bytes(slice));
  }
};

}  // namespace tvmerge
