// One thread's copying of what nothing computes: read, digested, written, compared.
#pragma once

#include <algorithm>
#include <deque>
#include <mutex>
#include <vector>

#include "engine/clones.hpp"
#include "engine/job.hpp"
#include "engine/reading.hpp"
#include "engine/slices.hpp"
#include "files/sink.hpp"
#include "kernels/kernels.hpp"

namespace tvmerge {

// What one thread has seen, and then all of them together.
struct Seen {
  std::vector<DigestLanes> inputs, outputs;
  std::vector<std::uint64_t> different;

  Seen(std::size_t input_count, std::size_t output_count, std::size_t copy_count)
      : inputs(input_count), outputs(output_count), different(copy_count) {}
  Seen& operator+=(const Seen& other) {
    for (std::size_t f = 0; f < inputs.size(); ++f) add(inputs[f], other.inputs[f]);
    for (std::size_t f = 0; f < outputs.size(); ++f) add(outputs[f], other.outputs[f]);
    for (std::size_t j = 0; j < different.size(); ++j) different[j] += other.different[j];
    return *this;
  }
};

class Copying {
 public:
  Copying(const std::vector<CopyJob>& copies, const Clones& clones,
          const Kernels& kernels, std::deque<Sink>& sinks)
      : copies_(copies), clones_(clones), kernels_(kernels), sinks_(sinks) {}

  // Bytes [start, start + size_bytes) of copy job `number`. The reader's buffer has room
  // for them twice.
  void copy(std::size_t number, std::uint64_t start, std::uint64_t size_bytes,
            const Reader& reader, Seen& seen, Share& share) const {
    const CopyJob& job = copies_[number];
    // What is written must be what was digested: a view might change in between.
    const std::uint64_t at = job.offset_bytes + start;
    const unsigned char* const data =
        job.targets.empty() ? reader.view(job.file, job.digested, at, size_bytes, 0)
                            : reader.read(job.file, job.digested, at, size_bytes, 0);
    for (std::size_t t = 0; t < job.targets.size(); ++t) {
      const auto& [file, begin] = job.targets[t];
      write_rest(file, data, start, size_bytes, begin, clones_.at(number, t));
      kernels_.digest(data, size_bytes, begin + start, seen.outputs[file].data());
      share.add_bytes(size_bytes);
    }
    for (const Source& same : job.same_as) {
      const unsigned char* const other =
          reader.view(same.file, same.digested, same.offset_bytes + start, size_bytes,
                      aligned(size_bytes));
      seen.different[number] += kernels_.count_different(data, other, size_bytes);
    }
  }

 private:
  // Writes bytes [start, start + size) of a copy that begins at `begin`, but for what was
  // cloned.
  void write_rest(std::uint32_t file, const unsigned char* data, std::uint64_t start,
                  std::uint64_t size_bytes, std::uint64_t begin,
                  const Clones::Range& cloned) const {
    const std::uint64_t end = start + size_bytes;
    const auto write = [&](std::uint64_t from, std::uint64_t to) {
      if (from >= to) return;
      const std::lock_guard<std::mutex> lock(sinks_[file].writing());
      sinks_[file].write(data + (from - start), to - from, begin + from);
    };
    write(start, std::min(end, cloned.begin));
    write(std::max(start, cloned.end), end);
  }

  const std::vector<CopyJob>& copies_;
  const Clones& clones_;
  const Kernels& kernels_;
  std::deque<Sink>& sinks_;
};

}  // namespace tvmerge
