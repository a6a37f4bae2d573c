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

// A slice is this many elements times a power of two: whole tiles of the kernels, whole
// stripes of the digest, and whole branches of the tree that sums the edits.
constexpr std::uint64_t kSliceGrain = kTileElements;
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
    std::uint64_t number;  // within its job
    std::uint64_t start;
    std::uint64_t length;
  };
  [[nodiscard]] Slice at(std::uint64_t unit) const {
    const auto after = std::upper_bound(first_.begin(), first_.end(), unit);
    const auto job = static_cast<std::size_t>(after - first_.begin()) - 1;
    const std::uint64_t number = unit - first_[job];
    const std::uint64_t start = number * slice_lengths_[job];
    return {job, number, start, std::min(slice_lengths_[job], lengths_[job] - start)};
  }

 private:
  std::vector<std::uint64_t> lengths_, slice_lengths_, first_{0};
};

std::uint64_t aligned(std::uint64_t bytes) {
  return (bytes + kAlignmentBytes - 1) / kAlignmentBytes * kAlignmentBytes;
}

// What `count` elements of every source and of the widest output take in a buffer.
std::uint64_t slice_bytes(const std::vector<Source>& sources, std::uint64_t out_width,
                          std::uint64_t count) {
  std::uint64_t bytes = aligned(out_width * count);
  for (const Source& source : sources) bytes += aligned(size_of(source.dtype) * count);
  return bytes;
}

std::uint64_t out_width(const CombineJob& job) {
  std::uint64_t widest = 0;
  for (const Output& out : job.outputs)
    widest = std::max<std::uint64_t>(widest, size_of(out.dtype));
  return widest;
}

// The most elements (a grain times a power of two) whose slice_bytes fit.
std::uint64_t slice_elements(std::uint64_t workspace_bytes, const CombineJob& job) {
  // A grain of any dtype is a multiple of kAlignmentBytes: only a tensor's end is padded.
  const std::uint64_t grain_bytes = slice_bytes(job.sources, out_width(job), kSliceGrain);
  std::uint64_t grains = 1;
  while (grains * 2 * grain_bytes <= workspace_bytes) grains *= 2;
  return grains * kSliceGrain;
}

// What one thread has seen of every file; added up at the end.
struct Digests {
  std::vector<DigestLanes> inputs, outputs;
};

// One thread's hands: the files, its buffer, and what it keeps count of.
struct Hands {
  const std::vector<File>& inputs;
  const Kernels& kernels;
  unsigned char* buffer;
  Digests& digests;
  Meter& meter;

  // Reads a range into the buffer at `at`, and digests it if its job says so.
  void read(std::uint32_t file, bool digested, std::uint64_t offset_bytes,
            std::uint64_t size_bytes, std::uint64_t at) const {
    inputs[file].read(buffer + at, size_bytes, offset_bytes);
    if (digested) {
      kernels.digest(buffer + at, size_bytes, offset_bytes, digests.inputs[file].data());
    }
    meter.add(size_bytes);
  }
};

// Reads one slice of every source, one behind the other, and names them as terms. Returns
// the bytes of the buffer that they take.
std::uint64_t read_terms(const Hands& hands, const std::vector<Source>& sources,
                         std::uint64_t start, std::uint64_t count,
                         std::vector<Term>& terms) {
  terms.clear();
  std::uint64_t used = 0;
  for (const Source& source : sources) {
    const std::uint64_t width = size_of(source.dtype);
    hands.read(source.file, source.digested, source.offset_bytes + start * width,
               count * width, used);
    terms.push_back({hands.buffer + used, source.dtype, 0});
    used += aligned(count * width);
  }
  return used;
}

// Writes an output's slice where it belongs, and digests it.
void write(const Hands& hands, const std::vector<Sink>& outputs, std::uint32_t file,
           const unsigned char* data, std::uint64_t size_bytes,
           std::uint64_t offset_bytes) {
  outputs[file].write(data, size_bytes, offset_bytes);
  hands.kernels.digest(data, size_bytes, offset_bytes,
                       hands.digests.outputs[file].data());
  hands.meter.add(size_bytes);
}

// Computes one slice of a job's outputs; edits[o] becomes what output o's slice did.
void combine(const Hands& hands, const std::vector<Sink>& outputs, const CombineJob& job,
             std::uint64_t start, std::uint64_t count, Edit* edits) {
  // These grow once to the widest job; not for every slice.
  thread_local std::vector<Term> read, terms;
  thread_local std::vector<Edit> tiles;
  const std::uint64_t used = read_terms(hands, job.sources, start, count, read);
  for (std::size_t o = 0; o < job.outputs.size(); ++o) {
    const Output& output = job.outputs[o];
    terms.clear();
    for (std::size_t k = 0; k < read.size(); ++k) {
      const double coefficient = output.coefficients[k];
      if (coefficient != 0) terms.push_back({read[k].data, read[k].dtype, coefficient});
    }
    const std::uint64_t width = size_of(output.dtype);
    const std::uint64_t offset_bytes = output.offset_bytes + start * width;
    unsigned char* const out =
        outputs[output.file].prepare(hands.buffer + used, count * width, offset_bytes);
    const bool compared = output.reference != kNoReference;
    CombineSlice slice{terms.data(), terms.size(), out,     output.dtype,
                       count,        nullptr,      nullptr, output.dtype};
    if (compared) {
      tiles.assign((count + kTileElements - 1) / kTileElements, Edit{});
      slice.edits = tiles.data();
    }
    if (output.reference >= 0) {
      const Term& reference = read[static_cast<std::size_t>(output.reference)];
      slice.reference = reference.data;
      slice.reference_dtype = reference.dtype;
    }
    hands.kernels.combine(slice);
    write(hands, outputs, output.file, out, count * width, offset_bytes);
    if (!compared) continue;
    EditTree tree;
    for (const Edit& tile : tiles) tree.push(tile);
    edits[o] = tree.total();
  }
}

// Returns how many bytes differ from any of the ranges that should be the same.
std::uint64_t copy(const Hands& hands, const std::vector<Sink>& outputs,
                   const CopyJob& job, std::uint64_t start, std::uint64_t size_bytes) {
  hands.read(job.file, job.digested, job.offset_bytes + start, size_bytes, 0);
  for (const auto& [file, offset_bytes] : job.targets)
    write(hands, outputs, file, hands.buffer, size_bytes, offset_bytes + start);
  const std::uint64_t behind = aligned(size_bytes);
  std::uint64_t different = 0;
  for (const Source& same : job.same_as) {
    hands.read(same.file, same.digested, same.offset_bytes + start, size_bytes, behind);
    different +=
        hands.kernels.count_different(hands.buffer, hands.buffer + behind, size_bytes);
  }
  return different;
}

// Per slice and output, in a row for all jobs; summed per job when all are there.
class EditTable {
 public:
  explicit EditTable(const std::vector<CombineJob>& jobs) : jobs_(jobs) {}

  void add(std::size_t job, std::uint64_t slices) {
    first_.push_back(edits_.size());
    edits_.resize(edits_.size() + slices * jobs_[job].outputs.size());
  }
  [[nodiscard]] Edit* at(std::size_t job, std::uint64_t slice) {
    return edits_.data() + first_[job] + slice * jobs_[job].outputs.size();
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

}  // namespace

MergeResult merge(const std::vector<std::string>& input_paths,
                  const std::vector<Place>& places,
                  const std::vector<CombineJob>& combines,
                  const std::vector<CopyJob>& copies, const Options& options) {
  std::uint64_t needed = kSmallestSliceBytes;
  for (const CombineJob& job : combines) {
    needed = std::max(needed, slice_bytes(job.sources, out_width(job), kSliceGrain));
  }
  const Workspace space(options, needed);
  const std::uint64_t copy_bytes = space.bytes / 2 / kAlignmentBytes * kAlignmentBytes;
  SliceTable table;
  EditTable edits(combines);
  for (std::size_t j = 0; j < combines.size(); ++j) {
    const std::uint64_t before = table.count();
    table.add(combines[j].elements, slice_elements(space.bytes, combines[j]));
    edits.add(j, table.count() - before);
  }
  for (const CopyJob& job : copies) table.add(job.size_bytes, copy_bytes);

  reserve_descriptors(input_paths.size() + places.size());
  const std::vector<File> inputs = open_inputs(input_paths);
  std::vector<Sink> outputs;
  outputs.reserve(places.size());
  for (const Place& place : places) outputs.emplace_back(place);
  const std::vector<Buffer> buffers = make_buffers(space);
  const Kernels& kernels = kernels_for(options.isa);
  const Digests none{std::vector<DigestLanes>(inputs.size()),
                     std::vector<DigestLanes>(outputs.size())};
  std::vector<Digests> digests(space.threads, none);
  std::vector<std::vector<std::uint64_t>> different(
      space.threads, std::vector<std::uint64_t>(copies.size()));

  const auto work = [&](std::uint64_t unit, unsigned thread, Meter& meter) {
    const SliceTable::Slice slice = table.at(unit);
    const Hands hands{inputs, kernels, buffers[thread].get(), digests[thread], meter};
    if (slice.job < combines.size()) {
      combine(hands, outputs, combines[slice.job], slice.start, slice.length,
              edits.at(slice.job, slice.number));
    } else {
      const std::size_t job = slice.job - combines.size();
      different[thread][job] +=
          copy(hands, outputs, copies[job], slice.start, slice.length);
    }
  };
  run_units(table.count(), space.threads, work, options.progress);

  MergeResult result{edits.totals(), std::vector<std::uint64_t>(copies.size()),
                     none.inputs, none.outputs};
  for (unsigned thread = 0; thread < space.threads; ++thread) {
    for (std::size_t j = 0; j < copies.size(); ++j)
      result.different[j] += different[thread][j];
    for (std::size_t f = 0; f < inputs.size(); ++f)
      add(result.input_digests[f], digests[thread].inputs[f]);
    for (std::size_t f = 0; f < outputs.size(); ++f)
      add(result.output_digests[f], digests[thread].outputs[f]);
  }
  return result;
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
    Digests unused;
    const Hands hands{inputs, kernels, buffers[thread].get(), unused, meter};
    read_terms(hands, job.sources, slice.start, slice.length, terms);
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
