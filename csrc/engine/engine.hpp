// Streams tensors through memory: threads take slices of the jobs, read them, compute,
// write.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/digest.hpp"
#include "core/edit.hpp"
#include "engine/job.hpp"
#include "files/sink.hpp"

namespace tvmerge {

class CardPool;

struct Options {
  unsigned threads = 1;
  // What one thread reads and computes at a time: its slices of all inputs and an output.
  // They should stay in the second-level cache, where what was just read is found when it
  // is combined; smaller ones cost more system calls.
  std::uint64_t slice_bytes = std::uint64_t{1024} * 1024;
  // The memory that all threads together may take; fewer threads run if it is short.
  std::uint64_t buffer_bytes = std::uint64_t{64} * 1024 * 1024;
  // How much of the input files may be mapped at a time, beside the buffers: of their
  // pages in the cache, which a process's resident memory counts.
  std::uint64_t mapped_bytes = 0;
  std::string isa;
  // Whether what was read, and was not in the page cache before, leaves it again, and
  // what was written goes to the disk at once and leaves it too: for files that do not
  // fit.
  bool drop_behind = false;
  // Called from the calling thread, a few times a second, with the bytes done so far
  // (read and written). If it throws, the run stops and the exception passes on.
  std::function<void(std::uint64_t)> progress;
  // Only reads and writes (floor.hpp): what is written means nothing.
  bool floor = false;
  // The cards that compute, each with the same number of threads; none: the processor.
  std::vector<std::shared_ptr<CardPool>> cards = {};
};

struct MergeResult {
  // Per combine job and output; all 0 where it has no reference.
  std::vector<std::vector<Edit>> edits;
  // Per copy job: bytes that differ from a same_as range.
  std::vector<std::uint64_t> different;
  // Per file: of the ranges marked `digested`, and of all that was written.
  std::vector<DigestLanes> input_digests, output_digests;
  // Of what was copied: the bytes that share their blocks with the input.
  std::uint64_t cloned_bytes = 0;
};

// Runs the jobs over files that exist already with their full size. Neither the output
// nor the result depends on the number of threads, on slice_bytes or on the instruction
// set.
MergeResult merge(const std::vector<std::string>& inputs,
                  const std::vector<Place>& outputs,
                  const std::vector<CombineJob>& combines,
                  const std::vector<CopyJob>& copies, const Options& options);

// One Measured per job. The sums run over slices of a fixed size in their order, so that
// they too are the same bits for any number of threads.
std::vector<Measured> measure(const std::vector<std::string>& inputs,
                              const std::vector<MeasureJob>& jobs,
                              const Options& options);

}  // namespace tvmerge
