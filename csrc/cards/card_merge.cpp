#include "cards/card_merge.hpp"

#include <algorithm>
#include <cstring>

#include "cards/flights.hpp"
#include "engine/row_ranks.hpp"

namespace tvmerge {
namespace {

constexpr std::uint64_t kCopyBytes = std::uint64_t{512} * 1024;

std::uint64_t tiles_of(std::uint64_t elements) {
  return (elements + kTileElements - 1) / kTileElements;
}

// Where one unit's outputs, edits, and what an output needs beside its sources (limits or
// coefficients of lines) lie: on the card, and in pinned memory.
struct Room {
  std::uint64_t out_bytes = 0, edit_bytes = 0, beside_bytes = 0, ranking_bytes = 0;
  std::size_t outputs = 0;

  void add(const CombineJob& job, std::uint64_t unit) {
    const std::uint64_t count = std::min(unit, aligned(job.elements));
    out_bytes = std::max(out_bytes, aligned(count * out_width(job)));
    edit_bytes = std::max(edit_bytes,
                          aligned(job.outputs.size() * tiles_of(count) * sizeof(Edit)));
    outputs = std::max(outputs, job.outputs.size());
    for (const Output& output : job.outputs) {
      if (output.lines) {
        const LineCoefficients& lines = *output.lines;
        beside_bytes =
            std::max(beside_bytes,
                     table_bytes(lines, most_lines(lines.lines, job.elements, count)));
      }
      if (!output.consensus) continue;
      const RankedDeltas deltas{job.sources, job.elements, output.consensus->parts};
      beside_bytes = std::max(beside_bytes, deltas.slice_bytes(count));
      ranking_bytes = std::max(ranking_bytes, deltas.any_rows() ? deltas.row_bytes() : 0);
    }
  }
  // That of one output is in use while that of the next is made.
  [[nodiscard]] std::uint64_t beside() const { return outputs * beside_bytes; }
  static std::uint64_t table_bytes(const LineCoefficients& lines, std::uint64_t count) {
    return aligned(lines.sources.size() * count * sizeof(double));
  }
  [[nodiscard]] std::uint64_t card_bytes() const {
    return outputs * out_bytes + edit_bytes + beside();
  }
  [[nodiscard]] std::uint64_t host_bytes() const { return edit_bytes + beside(); }
};

class CardMerging {
 public:
  explicit CardMerging(const OpenMerge& merge)
      : merge_(merge),
        kernels_(kernels_for(merge.options.isa)),
        copying_(merge.copies, merge.clones, kernels_, merge.sinks),
        edits_(merge.combines) {
    for (std::size_t j = 0; j < merge.combines.size(); ++j) {
      const CombineJob& job = merge.combines[j];
      const std::uint64_t unit = needs_.add(job.sources, job.elements, merge.options);
      room_.add(job, unit);
      const std::uint64_t before = table_.count();
      table_.add(job.elements, unit);
      edits_.add(j, table_.count() - before);
    }
    for (const CopyJob& job : merge.copies) table_.add(job.size_bytes, kCopyBytes);
    needs_.card_bytes = room_.card_bytes();
    needs_.host_bytes = room_.host_bytes();
    slot_count_ = Flights::kInFlight * room_.outputs + Writer::kWaiting;
    slot_bytes_ = std::max<std::uint64_t>(room_.out_bytes, 1);
    needs_.thread_bytes = slot_count_ * slot_bytes_;
    needs_.shared_bytes =
        (merge.inputs.count() + merge.sinks.size()) * sizeof(DigestLanes);
  }

  MergeResult run() {
    const Flights flights(merge_.options, needs_, merge_.direct);
    flights.clear_shared();
    std::vector<Seen> seen(
        flights.threads(),
        Seen(merge_.inputs.count(), merge_.sinks.size(), merge_.copies.size()));
    const auto body = [&](unsigned thread, Share& share) {
      return work(flights, thread, seen[thread], share);
    };
    merge_.inputs.run(table_.count(), flights.threads(), body, merge_.options.progress);
    for (const std::vector<unsigned char>& card : flights.shared())
      add_digests(card, seen.front());
    return result_of(edits_, seen, merge_.clones);
  }

 private:
  // One thread's share of everything.
  struct Thread {
    const Reader& reader;
    const RowRanks& ranks;
    Writer& writer;
    Share& share;
  };

  bool work(const Flights& flights, unsigned thread, Seen& seen, Share& share) {
    const std::uint64_t copy_bytes = merge_.copies.empty() ? 0 : 2 * kCopyBytes;
    const Buffer own = make_buffer(copy_bytes + room_.beside_bytes + room_.ranking_bytes);
    if (!own) return false;
    const auto crew = flights.crew(thread);
    std::vector<DigestLanes> no_digests;
    const Reader reader(merge_.inputs, kernels_, crew->pinned, no_digests, share);
    const Reader copy_reader(merge_.inputs, kernels_, own.get(), seen.inputs, share);
    const RowRanks ranks(merge_.inputs, kernels_, own.get() + copy_bytes);
    Writer writer(merge_.sinks, crew->waiting, slot_bytes_, slot_count_);
    const Thread here{reader, ranks, writer, share};
    fly(
        *crew, share,
        [&](Flight& flight, std::uint64_t unit) {
          const SliceTable::Slice slice = table_.at(unit);
          if (slice.job < merge_.combines.size()) {
            start(flight, slice, here);
            return true;
          }
          copying_.copy(slice.job - merge_.combines.size(), slice.start, slice.length,
                        copy_reader, seen, share);
          return false;
        },
        [&](Flight& flight, std::uint64_t unit) { land(flight, table_.at(unit), here); });
    writer.flush();
    return true;
  }

  void start(Flight& flight, const SliceTable::Slice& slice, const Thread& here) {
    const CombineJob& job = merge_.combines[slice.job];
    const bool ranked =
        std::any_of(job.outputs.begin(), job.outputs.end(), [&](auto& out) {
          return out.consensus &&
                 RankedDeltas{job.sources, job.elements, out.consensus->parts}.any_rows();
        });
    const std::uint64_t read = flight.bring(here.reader, merge_.paths, job.sources,
                                            slice.start, slice.length, ranked);
    if (read == 0) here.share.add_bytes(source_bytes(job, slice.length));
    std::vector<CardDigest> digests;
    for (std::size_t k = 0; k < job.sources.size(); ++k) {
      const Source& source = job.sources[k];
      const std::uint64_t width = size_of(source.dtype);
      if (!source.digested) continue;
      digests.push_back({flight.there[k].data, slice.length * width,
                         source.offset_bytes + slice.start * width,
                         digest_of(flight, source.file)});
    }
    flight.slots.clear();
    for (std::size_t o = 0; o < job.outputs.size(); ++o) {
      const Output& output = job.outputs[o];
      const std::uint64_t size_bytes = slice.length * size_of(output.dtype);
      flight.slots.push_back(here.writer.take_slot());
      compute(flight, job, o, slice, here);
      digests.push_back({out_on_card(flight, o), size_bytes, begin_of(output, slice),
                         digest_of(flight, merge_.inputs.count() + output.file)});
      flight.stream->copy_out(place(output, slice, flight.slots[o]),
                              out_on_card(flight, o), size_bytes);
    }
    flight.stream->digest(digests);
    flight.stream->copy_out(flight.back, edits_on_card(flight),
                            job.outputs.size() * tiles_of(slice.length) * sizeof(Edit));
  }

  void compute(Flight& flight, const CombineJob& job, std::size_t o,
               const SliceTable::Slice& slice, const Thread& here) {
    const Output& output = job.outputs[o];
    Stream& stream = *flight.stream;
    unsigned char* const out = out_on_card(flight, o);
    Edit* const edits = output.reference == kNoReference
                            ? nullptr
                            : edits_on_card(flight) + o * tiles_of(slice.length);
    const std::vector<Term>& terms = flight.there;
    if (output.consensus) {
      const std::uint32_t* const limits =
          bring_limits(flight, job, *output.consensus, o, slice, here);
      stream.consensus({terms.data(), terms.size(), &*output.consensus, limits,
                        slice.start, out, output.dtype, slice.length, edits});
    } else {
      std::vector<Term> used;
      terms_of(output, terms, used);
      CombineSlice sum{used.data(),  used.size(), out,     output.dtype,
                       slice.length, edits,       nullptr, output.dtype};
      LineTable table{};
      if (output.lines) {
        table = bring_lines(flight, *output.lines, o, slice);
        sum.lines = &table;
      }
      if (output.reference >= 0) {
        const Term& reference = terms[static_cast<std::size_t>(output.reference)];
        sum.reference = reference.data;
        sum.reference_dtype = reference.dtype;
      }
      stream.combine(sum);
    }
  }

  // What random numbers of parts with rows have to lie below: ranked by the processor.
  const std::uint32_t* bring_limits(Flight& flight, const CombineJob& job,
                                    const Consensus& consensus, std::size_t o,
                                    const SliceTable::Slice& slice, const Thread& here) {
    const RankedDeltas deltas{job.sources, job.elements, consensus.parts};
    const std::uint32_t* const limits =
        here.ranks.limits(deltas, flight.here, slice.start, slice.length);
    if (limits == nullptr) return nullptr;
    const Beside beside = beside_of(flight, o);
    const std::uint64_t size_bytes = deltas.slice_bytes(slice.length);
    std::memcpy(beside.pinned, limits, size_bytes);
    flight.stream->copy_in(beside.there, beside.pinned, size_bytes);
    return reinterpret_cast<const std::uint32_t*>(beside.there);
  }

  // The coefficients of the slice's lines.
  LineTable bring_lines(Flight& flight, const LineCoefficients& all, std::size_t o,
                        const SliceTable::Slice& slice) {
    const Beside beside = beside_of(flight, o);
    const LineRange range = lines_in(all.lines, slice.start, slice.length);
    auto* const to = reinterpret_cast<double*>(beside.pinned);
    for (std::size_t k = 0; k < all.sources.size(); ++k) {
      const double* const from = all.values.data() + k * all.lines.count + range.begin;
      std::copy_n(from, range.count, to + k * range.count);
    }
    flight.stream->copy_in(beside.there, beside.pinned,
                           all.sources.size() * range.count * sizeof(double));
    return {reinterpret_cast<const double*>(beside.there), range.count, all.lines,
            range.begin, slice.start};
  }

  struct Beside {
    unsigned char *pinned, *there;
  };
  Beside beside_of(const Flight& flight, std::size_t o) const {
    const std::uint64_t at = room_.edit_bytes + o * room_.beside_bytes;
    return {flight.back + at, flight.room + room_.outputs * room_.out_bytes + at};
  }

  void land(Flight& flight, const SliceTable::Slice& slice, const Thread& here) {
    flight.leave(false);
    const CombineJob& job = merge_.combines[slice.job];
    Edit* const found = edits_.at(slice.job, slice.number);
    const auto* const tiles = reinterpret_cast<const Edit*>(flight.back);
    const std::uint64_t tile_count = tiles_of(slice.length);
    for (std::size_t o = 0; o < job.outputs.size(); ++o) {
      const Output& output = job.outputs[o];
      const std::uint64_t size_bytes = slice.length * size_of(output.dtype);
      here.writer.write(output.file, flight.slots[o],
                        place(output, slice, flight.slots[o]), size_bytes,
                        begin_of(output, slice));
      here.share.add_bytes(size_bytes);
      if (output.reference == kNoReference) continue;
      EditTree tree;
      for (std::uint64_t t = 0; t < tile_count; ++t) tree.push(tiles[o * tile_count + t]);
      found[o] = tree.total();
    }
  }

  static std::uint64_t source_bytes(const CombineJob& job, std::uint64_t count) {
    std::uint64_t bytes = 0;
    for (const Source& source : job.sources) bytes += count * size_of(source.dtype);
    return bytes;
  }
  static std::uint64_t begin_of(const Output& output, const SliceTable::Slice& slice) {
    return output.offset_bytes + slice.start * size_of(output.dtype);
  }
  unsigned char* place(const Output& output, const SliceTable::Slice& slice,
                       unsigned char* slot) const {
    return merge_.sinks[output.file].prepare(slot, slice.length * size_of(output.dtype),
                                             begin_of(output, slice));
  }
  unsigned char* out_on_card(const Flight& flight, std::size_t o) const {
    return flight.room + o * room_.out_bytes;
  }
  Edit* edits_on_card(const Flight& flight) const {
    return reinterpret_cast<Edit*>(flight.room + room_.outputs * room_.out_bytes);
  }
  // Of an input, or behind them of an output.
  static std::uint64_t* digest_of(const Flight& flight, std::size_t file) {
    return reinterpret_cast<std::uint64_t*>(flight.shared + file * sizeof(DigestLanes));
  }

  void add_digests(const std::vector<unsigned char>& card, Seen& seen) const {
    const std::size_t inputs = merge_.inputs.count();
    for (std::size_t f = 0; f < inputs + merge_.sinks.size(); ++f) {
      DigestLanes lanes;
      std::memcpy(lanes.data(), card.data() + f * sizeof lanes, sizeof lanes);
      add(f < inputs ? seen.inputs[f] : seen.outputs[f - inputs], lanes);
    }
  }

  const OpenMerge merge_;
  const Kernels& kernels_;
  const Copying copying_;
  SliceTable table_;
  EditTable edits_;
  FlightNeeds needs_;
  Room room_;
  std::size_t slot_count_ = 0;
  std::uint64_t slot_bytes_ = 1;
};

}  // namespace

MergeResult merge_on_cards(const OpenMerge& merge) { return CardMerging(merge).run(); }

}  // namespace tvmerge
