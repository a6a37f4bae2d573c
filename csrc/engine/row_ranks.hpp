// What depends on an element's row: whether it is drawn with a probability that rises
// with the rank of its magnitude within it (row_draw.hpp), or what magnitudes are
// multiplied with. Rows need not begin or end where slices do.
#pragma once

#include <cstdint>
#include <vector>

#include "core/consensus.hpp"
#include "engine/job.hpp"
#include "engine/reading.hpp"
#include "kernels/kernels.hpp"

namespace tvmerge {

// The deltas of a whole tensor, some of whose parts may have rows.
struct RankedDeltas {
  const std::vector<Source>& sources;
  std::uint64_t elements;
  const std::vector<Part>& parts;

  [[nodiscard]] bool any_rows() const;
  // Whether elements of rows are ranked, which nothing has noted yet.
  [[nodiscard]] bool draws() const { return row_bytes() != 0; }
  // Whether the rows and the probabilities of all parts make sense.
  [[nodiscard]] bool good() const;
  // What ranking slices of `count` elements takes of a thread's memory: what grows with
  // the slice, and with the longest row.
  [[nodiscard]] std::uint64_t slice_bytes(std::uint64_t count) const;
  [[nodiscard]] std::uint64_t row_bytes() const;
  [[nodiscard]] std::uint64_t bytes(std::uint64_t count) const {
    return any_rows() ? slice_bytes(count) + row_bytes() : 0;
  }
};

// One thread's ranking.
class RowRanks {
 public:
  // `memory` is room for what RankedDeltas::bytes says.
  RowRanks(Inputs& inputs, const Kernels& kernels, unsigned char* memory)
      : inputs_(inputs), kernels_(kernels), memory_(memory) {}

  // Of elements [start, start + count), one part behind the other: all ones where the
  // element is drawn, else 0; or the bits of their rows' factors. Null where no part has
  // rows. `terms` hold the slice. Reads the rest of the rows that it cuts.
  [[nodiscard]] const std::uint32_t* limits(const RankedDeltas& deltas,
                                            const std::vector<Term>& terms,
                                            std::uint64_t start,
                                            std::uint64_t count) const;

 private:
  struct Slice {
    const RankedDeltas& deltas;
    const std::vector<Term>& terms;
    std::uint64_t start, count;
    unsigned char* room;
  };
  void draw(const Slice& slice, const Part& part, std::uint32_t* drawn) const;

  // The keys of [start, start + count), from the files.
  void read_keys(const RankedDeltas& deltas, const Part& part, std::uint64_t start,
                 std::uint64_t count, unsigned char* room, Key* keys) const;

  Inputs& inputs_;
  const Kernels& kernels_;
  unsigned char* memory_;
};

}  // namespace tvmerge
