#include "engine.hpp"

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>

#include "error.hpp"
#include "file.hpp"
#include "kernels.hpp"
#include "pool.hpp"

namespace tvmerge {
namespace {

// Slices begin at multiples of this many elements: whole tiles of the kernels.
constexpr std::uint64_t kSliceGrain = 1024;
// Every slice begins at a multiple of this in its buffer, whatever the one before it
// holds.
constexpr std::uint64_t kAlignmentBytes = 64;
constexpr std::uint64_t kSmallestSliceBytes = std::uint64_t{64} * 1024;
// Reductions use a slice of their own, fixed size: their sums must not depend on an
// option.
constexpr std::uint64_t kMeasureElements = std::uint64_t{64} * 1024;

std::vector<File> open_inputs(const std::vector<std::string>& paths) {
  std::vector<File> files;
  files.reserve(paths.size());
  for (const std::string& path : paths) files.push_back(File::open_for_reading(path));
  return files;
}

std::vector<File> open_outputs(const std::vector<std::string>& paths) {
  std::vector<File> files;
  files.reserve(paths.size());
  for (const std::string& path : paths) files.push_back(File::open_for_writing(path));
  return files;
}

// How many threads can run, and what each gets, within options.buffer_bytes.
struct Workspace {
  unsigned threads;
  std::uint64_t bytes;

  Workspace(const Options& options, std::uint64_t needed_bytes) {
    const std::uint64_t smallest = std::max(needed_bytes, std::uint64_t{1});
    threads = std::max(1u, options.threads);
    threads = static_cast<unsigned>(std::min<std::uint64_t>(
        threads, std::max<std::uint64_t>(1, options.buffer_bytes / smallest)));
    bytes = std::min(options.slice_bytes, options.buffer_bytes / threads);
    bytes = std::max(bytes, smallest);
    if (bytes * threads > options.buffer_bytes) {
      throw Error(ErrorKind::memory,
                  "the memory limit leaves " + std::to_string(options.buffer_bytes) +
                      " bytes for buffers; this merge needs at least " +
                      std::to_string(smallest) + ": raise the limit");
    }
  }
};

using Buffer = std::unique_ptr<unsigned char[]>;

std::vector<Buffer> make_buffers(const Workspace& space) {
  std::vector<Buffer> buffers(space.threads);
  // Uninitialised: each thread touches its own first.
  for (Buffer& buffer : buffers) buffer.reset(new unsigned char[space.bytes]);
  return buffers;
}

// The jobs cut into slices and numbered through, without a list as long as the model.
class SliceTable {
 public:
  void add(std::uint64_t length, std::uint64_t slice_length) {
    lengths_.push_back(length);
    slice_lengths_.push_back(slice_length);
    first_.push_back(first_.back() + (length + slice_length - 1) / slice_length);
  }
  [[nodiscard]] std::uint64_t count() const { return first_.back(); }

  struct Slice {
    std::size_t job;
    std::uint64_t start;
    std::uint64_t length;
  };
  [[nodiscard]] Slice at(std::uint64_t unit) const {
    const auto after = std::upper_bound(first_.begin(), first_.end(), unit);
    const auto job = static_cast<std::size_t>(after - first_.begin()) - 1;
    const std::uint64_t start = (unit - first_[job]) * slice_lengths_[job];
    return {job, start, std::min(slice_lengths_[job], lengths_[job] - start)};
  }

 private:
  std::vector<std::uint64_t> lengths_, slice_lengths_, first_{0};
};

std::uint64_t aligned(std::uint64_t bytes) {
  return (bytes + kAlignmentBytes - 1) / kAlignmentBytes * kAlignmentBytes;
}

// What `count` elements of every source and of the output (if any) take in a buffer.
std::uint64_t slice_bytes(const std::vector<Source>& sources, std::uint64_t out_width,
                          std::uint64_t count) {
  std::uint64_t bytes = aligned(out_width * count);
  for (const Source& source : sources) bytes += aligned(size_of(source.dtype) * count);
  return bytes;
}

// The most elements, in whole grains, of which slice_bytes fit into `workspace_bytes`.
std::uint64_t slice_elements(std::uint64_t workspace_bytes, const CombineJob& job) {
  // A grain of any dtype is a multiple of kAlignmentBytes: only a tensor's end is padded.
  const std::uint64_t grain_bytes =
      slice_bytes(job.sources, size_of(job.out_dtype), kSliceGrain);
  return std::max<std::uint64_t>(1, workspace_bytes / grain_bytes) * kSliceGrain;
}

// Reads one slice of every source, one behind the other, and names them as terms. Returns
// the bytes of `buffer` that they take.
std::uint64_t read_terms(const std::vector<File>& files,
                         const std::vector<Source>& sources, std::uint64_t start,
                         std::uint64_t count, unsigned char* buffer,
                         std::vector<Term>& terms, Meter& meter) {
  terms.clear();
  std::uint64_t used = 0;
  for (const Source& source : sources) {
    const std::uint64_t width = size_of(source.dtype);
    files[source.file].read(buffer + used, count * width,
                            source.offset_bytes + start * width);
    terms.push_back({buffer + used, source.dtype, source.coefficient});
    used += aligned(count * width);
    meter.add(count * width);
  }
  return used;
}

struct MergeRun {
  const std::vector<File>& inputs;
  const std::vector<File>& outputs;
  const Kernels& kernels;

  // Returns how many elements differ from the reference.
  std::uint64_t combine(const CombineJob& job, std::uint64_t start, std::uint64_t count,
                        unsigned char* buffer, Meter& meter) const {
    // Grows once to the widest job; not for every slice.
    thread_local std::vector<Term> terms;
    const std::uint64_t used =
        read_terms(inputs, job.sources, start, count, buffer, terms, meter);
    const std::uint64_t width = size_of(job.out_dtype);
    unsigned char* const out = buffer + used;
    const bool unsummed = !terms.empty() && terms.back().coefficient == 0;
    const std::size_t summed = terms.size() - (unsummed ? 1 : 0);
    kernels.combine({terms.data(), summed, out, job.out_dtype, count});
    outputs[job.out_file].write(out, count * width, job.out_offset_bytes + start * width);
    meter.add(count * width);
    if (job.reference == kNoReference) return 0;
    if (job.reference == kZero) return kernels.count_nonzero(out, count, width);
    const Term& reference = terms[static_cast<std::size_t>(job.reference)];
    return kernels.count_different(out, reference.data, count, width);
  }

  // Returns how many bytes differ from any of the ranges that should be the same.
  std::uint64_t copy(const CopyJob& job, std::uint64_t start, std::uint64_t size,
                     unsigned char* buffer, Meter& meter) const {
    inputs[job.file].read(buffer, size, job.offset_bytes + start);
    outputs[job.out_file].write(buffer, size, job.out_offset_bytes + start);
    std::uint64_t different = 0;
    for (const auto& [file, offset_bytes] : job.same_as) {
      inputs[file].read(buffer + size, size, offset_bytes + start);
      different += kernels.count_different(buffer, buffer + size, size, 1);
    }
    meter.add(size * (2 + job.same_as.size()));
    return different;
  }
};

}  // namespace

MergeCounts merge(const std::vector<std::string>& input_paths,
                  const std::vector<std::string>& output_paths,
                  const std::vector<CombineJob>& combines,
                  const std::vector<CopyJob>& copies, const Options& options) {
  std::uint64_t needed = kSmallestSliceBytes;
  for (const CombineJob& job : combines) {
    const std::uint64_t width = size_of(job.out_dtype);
    needed = std::max(needed, slice_bytes(job.sources, width, kSliceGrain));
  }
  const Workspace space(options, needed);
  SliceTable table;
  for (const CombineJob& job : combines) {
    table.add(job.elements, slice_elements(space.bytes, job));
  }
  for (const CopyJob& job : copies) table.add(job.size_bytes, space.bytes / 2);

  reserve_descriptors(input_paths.size() + output_paths.size());
  const std::vector<File> inputs = open_inputs(input_paths);
  const std::vector<File> outputs = open_outputs(output_paths);
  const std::vector<Buffer> buffers = make_buffers(space);
  const MergeRun run{inputs, outputs, kernels_for(options.isa)};
  MergeCounts counts{std::vector<std::uint64_t>(combines.size()),
                     std::vector<std::uint64_t>(copies.size())};
  std::mutex counting;

  const auto work = [&](std::uint64_t unit, unsigned thread, Meter& meter) {
    const SliceTable::Slice slice = table.at(unit);
    unsigned char* const buffer = buffers[thread].get();
    const bool combining = slice.job < combines.size();
    const std::size_t copy = slice.job - combines.size();
    const std::uint64_t found =
        combining
            ? run.combine(combines[slice.job], slice.start, slice.length, buffer, meter)
            : run.copy(copies[copy], slice.start, slice.length, buffer, meter);
    const std::lock_guard<std::mutex> lock(counting);
    (combining ? counts.changed[slice.job] : counts.different[copy]) += found;
  };
  run_units(table.count(), space.threads, work, options.progress);
  return counts;
}

std::vector<Measured> measure(const std::vector<std::string>& input_paths,
                              const std::vector<MeasureJob>& jobs,
                              const Options& options) {
  std::uint64_t needed = kSmallestSliceBytes;
  SliceTable table;
  std::vector<Measured> totals(jobs.size());
  for (std::size_t j = 0; j < jobs.size(); ++j) {
    const std::size_t rows = jobs[j].rows.size() / jobs[j].sources.size();
    needed = std::max(needed, slice_bytes(jobs[j].sources, 0, kMeasureElements));
    table.add(jobs[j].elements, kMeasureElements);
    totals[j] = {std::vector<double>(rows * rows), std::vector<std::uint64_t>(rows)};
  }
  const Workspace space(options, needed);
  reserve_descriptors(input_paths.size());
  const std::vector<File> inputs = open_inputs(input_paths);
  const std::vector<Buffer> buffers = make_buffers(space);
  const Kernels& kernels = kernels_for(options.isa);

  // Partial sums wait here until those of all earlier slices have been added.
  std::mutex adding;
  std::map<std::uint64_t, Measured> waiting;
  std::uint64_t next = 0;
  const auto add_in_order = [&](std::uint64_t unit, Measured part) {
    const std::lock_guard<std::mutex> lock(adding);
    waiting.emplace(unit, std::move(part));
    for (auto first = waiting.find(next); first != waiting.end();
         first = waiting.find(++next)) {
      Measured& total = totals[table.at(next).job];
      for (std::size_t i = 0; i < total.gram.size(); ++i)
        total.gram[i] += first->second.gram[i];
      for (std::size_t i = 0; i < total.nonzero.size(); ++i) {
        total.nonzero[i] += first->second.nonzero[i];
      }
      waiting.erase(first);
    }
  };

  const auto work = [&](std::uint64_t unit, unsigned thread, Meter& meter) {
    thread_local std::vector<Term> terms;
    const SliceTable::Slice slice = table.at(unit);
    const MeasureJob& job = jobs[slice.job];
    read_terms(inputs, job.sources, slice.start, slice.length, buffers[thread].get(),
               terms, meter);
    const Measured& total = totals[slice.job];
    Measured part{std::vector<double>(total.gram.size()),
                  std::vector<std::uint64_t>(total.nonzero.size())};
    kernels.measure({terms.data(), terms.size(), job.rows.data(), part.nonzero.size(),
                     slice.length, part.gram.data(), part.nonzero.data()});
    add_in_order(unit, std::move(part));
  };
  run_units(table.count(), space.threads, work, options.progress);
  return totals;
}

}  // namespace tvmerge
