// Merging: each slice of a job is read, combined for every output, and written.
#include <algorithm>
#include <deque>

#include "engine.hpp"
#include "floor.hpp"
#include "reading.hpp"
#include "sink.hpp"
#include "slices.hpp"

namespace tvmerge {
namespace {

std::uint64_t out_width(const CombineJob& job) {
  std::uint64_t widest = 0;
  for (const Output& out : job.outputs)
    widest = std::max<std::uint64_t>(widest, size_of(out.dtype));
  return widest;
}

// The most elements (a grain times a power of two) whose sources and one output fit.
std::uint64_t slice_elements(std::uint64_t workspace_bytes, const CombineJob& job) {
  // A grain of any dtype is a multiple of kAlignmentBytes: only a tensor's end is padded.
  const std::uint64_t grain_bytes =
      slice_bytes(job.sources, kSliceGrain) + out_width(job) * kSliceGrain;
  std::uint64_t grains = 1;
  while (grains * 2 * grain_bytes <= workspace_bytes) grains *= 2;
  return grains * kSliceGrain;
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

// The jobs cut into slices, the memory for them, and what is found out slice by slice.
struct Layout {
  SliceTable table;
  EditTable edits;
  unsigned threads;
  std::uint64_t read_bytes = 0, slot_bytes = 0;  // per thread: its reading, one write

  Layout(const std::vector<CombineJob>& combines, const std::vector<CopyJob>& copies,
         const Options& options)
      : edits(combines), threads(0) {
    std::uint64_t needed = kSmallestSliceBytes;
    for (const CombineJob& job : combines) {
      needed = std::max(needed, slice_bytes(job.sources, kSliceGrain) +
                                    Writer::kSlots * out_width(job) * kSliceGrain);
    }
    const Workspace space(options, needed);
    threads = space.threads;
    // What waits to be written is beside the slice that should stay in the cache; only a
    // memory limit makes both share.
    const std::uint64_t per_thread = options.buffer_bytes / threads;
    std::uint64_t target = space.bytes;
    while (!lay_out(combines, copies, target, per_thread)) target /= 2;
  }

 private:
  bool lay_out(const std::vector<CombineJob>& combines,
               const std::vector<CopyJob>& copies, std::uint64_t target,
               std::uint64_t per_thread) {
    read_bytes = slot_bytes = 0;
    for (const CombineJob& job : combines) {
      const std::uint64_t elements =
          std::min(slice_elements(target, job), aligned(job.elements));
      read_bytes = std::max(read_bytes, slice_bytes(job.sources, elements));
      slot_bytes = std::max(slot_bytes, aligned(elements * out_width(job)));
    }
    const std::uint64_t copy_bytes =
        std::max(target, kSmallestSliceBytes) / 2 / kAlignmentBytes * kAlignmentBytes;
    if (!copies.empty()) read_bytes = std::max(read_bytes, 2 * copy_bytes);
    const bool smallest = target <= kSliceGrain;  // one grain of every source
    if (read_bytes + Writer::kSlots * slot_bytes > per_thread && !smallest) return false;
    for (std::size_t j = 0; j < combines.size(); ++j) {
      const std::uint64_t before = table.count();
      table.add(combines[j].elements, slice_elements(target, combines[j]));
      edits.add(j, table.count() - before);
    }
    for (const CopyJob& job : copies) table.add(job.size_bytes, copy_bytes);
    return true;
  }
};

// What one thread has seen.
struct Seen {
  std::vector<DigestLanes> inputs, outputs;
  std::vector<std::uint64_t> different;
};

class Merging {
 public:
  Merging(const std::vector<CombineJob>& combines, const std::vector<CopyJob>& copies,
          const Kernels& kernels, std::deque<Sink>& sinks, Layout& layout)
      : combines_(combines),
        copies_(copies),
        kernels_(kernels),
        sinks_(sinks),
        layout_(layout) {}

  // One thread's work, until there is none left.
  void run(const Reader& reader, Writer& writer, Seen& seen, Share& share) {
    while (const auto unit = share.next()) {
      const SliceTable::Slice slice = layout_.table.at(*unit);
      if (slice.job < combines_.size()) {
        combine(slice, reader, writer, seen, share);
      } else {
        copy(slice, reader, seen, share);
      }
    }
    writer.flush();
  }

 private:
  void combine(const SliceTable::Slice& slice, const Reader& reader, Writer& writer,
               Seen& seen, Share& share) {
    // These grow once to the widest job; not for every slice.
    thread_local std::vector<Term> read;
    const CombineJob& job = combines_[slice.job];
    reader.read_terms(job.sources, slice.start, slice.length, read);
    Edit* const edits = layout_.edits.at(slice.job, slice.number);
    for (std::size_t o = 0; o < job.outputs.size(); ++o) {
      const Output& output = job.outputs[o];
      const std::uint64_t width = size_of(output.dtype);
      const std::uint64_t size_bytes = slice.length * width;
      const std::uint64_t offset_bytes = output.offset_bytes + slice.start * width;
      unsigned char* const out =
          sinks_[output.file].prepare(writer.slot(), size_bytes, offset_bytes);
      compute(output, read, slice.length, out, edits[o]);
      kernels_.digest(out, size_bytes, offset_bytes, seen.outputs[output.file].data());
      writer.write(output.file, out, size_bytes, offset_bytes);
      share.add_bytes(size_bytes);
    }
  }

  void compute(const Output& output, const std::vector<Term>& read, std::uint64_t count,
               unsigned char* out, Edit& edit) const {
    thread_local std::vector<Term> terms;
    thread_local std::vector<Edit> tiles;
    terms.clear();
    for (std::size_t k = 0; k < read.size(); ++k) {
      const double coefficient = output.coefficients[k];
      if (coefficient != 0) terms.push_back({read[k].data, read[k].dtype, coefficient});
    }
    CombineSlice slice{terms.data(), terms.size(), out,     output.dtype,
                       count,        nullptr,      nullptr, output.dtype};
    if (output.reference != kNoReference) {
      tiles.assign((count + kTileElements - 1) / kTileElements, Edit{});
      slice.edits = tiles.data();
    }
    if (output.reference >= 0) {
      const Term& reference = read[static_cast<std::size_t>(output.reference)];
      slice.reference = reference.data;
      slice.reference_dtype = reference.dtype;
    }
    kernels_.combine(slice);
    if (slice.edits == nullptr) return;
    EditTree tree;
    for (const Edit& tile : tiles) tree.push(tile);
    edit = tree.total();
  }

  void copy(const SliceTable::Slice& slice, const Reader& reader, Seen& seen,
            Share& share) {
    const std::size_t number = slice.job - combines_.size();
    const CopyJob& job = copies_[number];
    const std::uint64_t size_bytes = slice.length;
    const unsigned char* const data = reader.read(
        job.file, job.digested, job.offset_bytes + slice.start, size_bytes, 0);
    for (const auto& [file, begin] : job.targets) {
      const std::uint64_t offset_bytes = begin + slice.start;
      const std::lock_guard<std::mutex> lock(sinks_[file].writing());
      sinks_[file].write(data, size_bytes, offset_bytes);
      kernels_.digest(data, size_bytes, offset_bytes, seen.outputs[file].data());
      share.add_bytes(size_bytes);
    }
    for (const Source& same : job.same_as) {
      const unsigned char* const other =
          reader.read(same.file, same.digested, same.offset_bytes + slice.start,
                      size_bytes, aligned(size_bytes));
      seen.different[number] += kernels_.count_different(data, other, size_bytes);
    }
  }

  const std::vector<CombineJob>& combines_;
  const std::vector<CopyJob>& copies_;
  const Kernels& kernels_;
  std::deque<Sink>& sinks_;
  Layout& layout_;
};

// Jobs come from Python: a wrong number must not become a wrong address.
void check(const std::vector<CombineJob>& combines, const std::vector<CopyJob>& copies,
           std::size_t inputs, std::size_t outputs) {
  const auto require = [](bool good) {
    if (!good)
      throw Error(ErrorKind::config, "a job names no file or source that exists");
  };
  const auto known = [&](const Source& source) { return source.file < inputs; };
  for (const CombineJob& job : combines) {
    require(std::all_of(job.sources.begin(), job.sources.end(), known));
    const auto count = static_cast<std::int64_t>(job.sources.size());
    for (const Output& out : job.outputs) {
      require(out.file < outputs && out.coefficients.size() == job.sources.size() &&
              out.reference >= kZero && out.reference < count);
    }
  }
  for (const CopyJob& job : copies) {
    require(job.file < inputs &&
            std::all_of(job.same_as.begin(), job.same_as.end(), known));
    for (const auto& target : job.targets) require(target.first < outputs);
  }
}

Extents extents(const std::vector<CombineJob>& combines,
                const std::vector<CopyJob>& copies, std::size_t files) {
  Extents extents(files);
  for (const CombineJob& job : combines) extents.add(job.sources, job.elements);
  for (const CopyJob& job : copies) {
    extents.add(job.file, job.offset_bytes, job.size_bytes);
    for (const Source& same : job.same_as)
      extents.add(same.file, same.offset_bytes, job.size_bytes);
  }
  return extents;
}

}  // namespace

MergeResult merge(const std::vector<std::string>& input_paths,
                  const std::vector<Place>& places,
                  const std::vector<CombineJob>& combines,
                  const std::vector<CopyJob>& copies, const Options& options) {
  check(combines, copies, input_paths.size(), places.size());
  Layout layout(combines, copies, options);
  reserve_descriptors(input_paths.size() + places.size());
  Inputs inputs(input_paths, extents(combines, copies, input_paths.size()),
                options.drop_behind);
  std::deque<Sink> sinks;
  for (const Place& place : places) sinks.emplace_back(place, options.drop_behind);
  const Kernels& kernels = options.floor ? floor_kernels() : kernels_for(options.isa);
  const Seen nothing{std::vector<DigestLanes>(inputs.count()),
                     std::vector<DigestLanes>(sinks.size()),
                     std::vector<std::uint64_t>(copies.size())};
  std::vector<Seen> seen(layout.threads, nothing);
  const std::vector<Buffer> buffers = make_buffers(
      layout.threads, layout.read_bytes + Writer::kSlots * layout.slot_bytes);
  Merging merging(combines, copies, kernels, sinks, layout);

  const auto body = [&](unsigned thread, Share& share) {
    unsigned char* const buffer = buffers[thread].get();
    const Reader reader(inputs, kernels, buffer, seen[thread].inputs, share);
    Writer writer(sinks, buffer + layout.read_bytes, layout.slot_bytes);
    merging.run(reader, writer, seen[thread], share);
  };
  run_threads(layout.table.count(), layout.threads, body, options.progress);

  MergeResult result{layout.edits.totals(), nothing.different, nothing.inputs,
                     nothing.outputs};
  for (const Seen& one : seen) {
    for (std::size_t j = 0; j < copies.size(); ++j)
      result.different[j] += one.different[j];
    for (std::size_t f = 0; f < inputs.count(); ++f)
      add(result.input_digests[f], one.inputs[f]);
    for (std::size_t f = 0; f < sinks.size(); ++f)
      add(result.output_digests[f], one.outputs[f]);
  }
  return result;
}

}  // namespace tvmerge
