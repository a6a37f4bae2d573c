// Merging: each slice of a job is read, combined for every output, and written.
#include <algorithm>
#include <deque>

#include "cards/card_merge.hpp"
#include "cards/card_pool.hpp"
#include "engine/clones.hpp"
#include "engine/copying.hpp"
#include "engine/engine.hpp"
#include "engine/layout.hpp"
#include "engine/reading.hpp"
#include "engine/row_ranks.hpp"
#include "files/sink.hpp"
#include "passes/floor.hpp"

namespace tvmerge {
namespace {

class Merging {
 public:
  Merging(const std::vector<CombineJob>& combines, const std::vector<CopyJob>& copies,
          const Clones& clones, const Kernels& kernels, std::deque<Sink>& sinks,
          Layout& layout)
      : combines_(combines),
        copying_(copies, clones, kernels, sinks),
        kernels_(kernels),
        sinks_(sinks),
        layout_(layout) {}

  // One thread's work, until there is none left.
  void run(const Reader& reader, const RowRanks& ranks, Writer& writer, Seen& seen,
           Share& share) {
    while (const auto unit = share.next()) {
      const SliceTable::Slice slice = layout_.table.at(*unit);
      if (slice.job < combines_.size()) {
        combine(slice, reader, ranks, writer, seen, share);
      } else {
        copying_.copy(slice.job - combines_.size(), slice.start, slice.length, reader,
                      seen, share);
      }
    }
    writer.flush();
  }

 private:
  // One write of every output of a job, slice by slice.
  void combine(const SliceTable::Slice& write, const Reader& reader,
               const RowRanks& ranks, Writer& writer, Seen& seen, Share& share) {
    // These grow once to the widest job; not for every slice.
    thread_local std::vector<Term> read;
    thread_local std::vector<unsigned char*> slots;
    thread_local std::vector<EditTree> trees;
    const CombineJob& job = combines_[write.job];
    const std::size_t outputs = job.outputs.size();
    slots.resize(outputs);
    for (unsigned char*& slot : slots) slot = writer.take_slot();
    trees.assign(outputs, EditTree{});
    const std::uint64_t length = layout_.slice_lengths[write.job];
    // Ranks within a row are counted first and then given out, of the same elements.
    const bool draws =
        std::any_of(job.outputs.begin(), job.outputs.end(), [&](const Output& output) {
          return output.consensus &&
                 RankedDeltas{job.sources, job.elements, output.consensus->parts}.draws();
        });
    for (std::uint64_t at = 0; at < write.length; at += length) {
      const std::uint64_t count = std::min(length, write.length - at);
      if (draws) {
        reader.read_terms(job.sources, write.start + at, count, read);
      } else if (is_one_sum(job)) {
        reader.view_undigested(job.sources, write.start + at, count, read);
      } else {
        reader.view_terms(job.sources, write.start + at, count, read);
      }
      for (std::size_t o = 0; o < outputs; ++o) {
        unsigned char* const out = place(job.outputs[o], write, slots[o]);
        compute(job, job.outputs[o], read, ranks, write.start + at, count,
                out + at * size_of(job.outputs[o].dtype), trees[o], seen);
      }
    }
    Edit* const edits = layout_.edits.at(write.job, write.number);
    for (std::size_t o = 0; o < outputs; ++o) {
      const Output& output = job.outputs[o];
      const std::uint64_t size_bytes = write.length * size_of(output.dtype);
      writer.write(output.file, slots[o], place(output, write, slots[o]), size_bytes,
                   begin_bytes(output, write.start));
      edits[o] = trees[o].total();
      share.add_bytes(size_bytes);
    }
  }

  // Whether one sum looks at every source, and once.
  static bool is_one_sum(const CombineJob& job) {
    if (job.outputs.size() != 1) return false;
    const Output& output = job.outputs.front();
    return !output.consensus && !output.lines &&
           std::count(output.coefficients.begin(), output.coefficients.end(), 0.0) == 0;
  }

  static std::uint64_t begin_bytes(const Output& output, std::uint64_t start) {
    return output.offset_bytes + start * size_of(output.dtype);
  }

  unsigned char* place(const Output& output, const SliceTable::Slice& write,
                       unsigned char* slot) {
    return sinks_[output.file].prepare(slot, write.length * size_of(output.dtype),
                                       begin_bytes(output, write.start));
  }

  void compute(const CombineJob& job, const Output& output, const std::vector<Term>& read,
               const RowRanks& ranks, std::uint64_t start, std::uint64_t count,
               unsigned char* out, EditTree& tree, Seen& seen) const {
    thread_local std::vector<Edit> tiles;
    tiles.clear();
    if (output.reference != kNoReference)
      tiles.resize((count + kTileElements - 1) / kTileElements);
    Edit* const edits = tiles.empty() ? nullptr : tiles.data();
    if (output.consensus) {
      const std::uint32_t* const limits = ranks.limits(
          {job.sources, job.elements, output.consensus->parts}, read, start, count);
      kernels_.consensus({read.data(), read.size(), &*output.consensus, limits, start,
                          out, output.dtype, count, edits});
    } else {
      sum(output, read, start, count, out, edits);
    }
    kernels_.digest(out, count * size_of(output.dtype), begin_bytes(output, start),
                    seen.outputs[output.file].data());
    for (const Edit& tile : tiles) tree.push(tile);
  }

  void sum(const Output& output, const std::vector<Term>& read, std::uint64_t start,
           std::uint64_t count, unsigned char* out, Edit* edits) const {
    thread_local std::vector<Term> terms;
    terms_of(output, read, terms);
    CombineSlice slice{terms.data(), terms.size(), out,     output.dtype,
                       count,        edits,        nullptr, output.dtype};
    LineTable table{};
    if (output.lines) {
      const LineCoefficients& lines = *output.lines;
      table = {lines.values.data(), lines.lines.count, lines.lines, 0, start};
      slice.lines = &table;
    }
    if (output.reference >= 0) {
      const Term& reference = read[static_cast<std::size_t>(output.reference)];
      slice.reference = reference.data;
      slice.reference_dtype = reference.dtype;
    }
    kernels_.combine(slice);
  }

  const std::vector<CombineJob>& combines_;
  const Copying copying_;
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
      if (out.lines) {
        const auto& terms = out.lines->sources;
        require(out.lines->lines.fit(job.elements) &&
                std::all_of(terms.begin(), terms.end(),
                            [&](std::uint32_t source) { return source < count; }));
      }
      if (!out.consensus) continue;
      const Consensus& consensus = *out.consensus;
      const std::size_t parts = consensus.parts.size();
      require(count > 0 && parts > 0 && parts <= kMostParts);
      for (const Part& part : consensus.parts)
        require(part.source > 0 && part.source < count);
      const RankedDeltas deltas{job.sources, job.elements, consensus.parts};
      require(deltas.good());
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
  reserve_descriptors(input_paths.size() + places.size());
  const bool on_cards = !options.cards.empty() && !combines.empty();
  const DirectFiles direct =
      on_cards ? direct_files(options, input_paths) : DirectFiles(input_paths.size());
  Inputs inputs(input_paths, extents(combines, copies, input_paths.size()), options,
                {direct.begin(), direct.end()});
  std::deque<Sink> sinks;
  for (const Place& place : places) sinks.emplace_back(place, options.drop_behind);
  const Clones clones(copies, inputs, sinks);
  if (on_cards)
    return merge_on_cards(
        {input_paths, combines, copies, options, inputs, sinks, clones, direct});
  Layout layout(combines, copies, options);
  const Kernels& kernels = options.floor ? floor_kernels() : kernels_for(options.isa);
  std::vector<Seen> seen(layout.threads,
                         Seen(inputs.count(), sinks.size(), copies.size()));
  Merging merging(combines, copies, clones, kernels, sinks, layout);

  const auto body = [&](unsigned thread, Share& share) {
    const Buffer memory = make_buffer(layout.thread_bytes());
    if (!memory) return false;
    unsigned char* const buffer = memory.get();
    const Reader reader(inputs, kernels, buffer, seen[thread].inputs, share);
    Writer writer(sinks, buffer + layout.read_bytes, layout.slot_bytes,
                  layout.slot_count);
    const RowRanks ranks(inputs, kernels,
                         buffer + layout.thread_bytes() - layout.ranking_bytes);
    merging.run(reader, ranks, writer, seen[thread], share);
    return true;
  };
  inputs.run(layout.table.count(), layout.threads, body, options.progress);

  return result_of(layout.edits, seen, clones);
}

}  // namespace tvmerge
