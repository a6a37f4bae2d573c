// Draws elements of a row with probabilities that rise with the rank of their magnitude
// (DELLA, Deep et al., 2406.11617), without sorting it.
//
// An element is drawn if its random number is below a limit that follows from its place
// in the order of magnitudes. Keys are counted in bins that order as they do. What a bin
// of equal keys holds has its places from the counts alone; of other bins it is known
// within what they hold, and few numbers are so near. The bins of those are sorted.
#pragma once

#include <cstdint>

#include "core/consensus.hpp"
#include "kernels/kernels.hpp"

namespace tvmerge {

// One thread's drawing of a part's rows.
class RowDraw {
 public:
  // What it takes of memory that is aligned as slices are.
  [[nodiscard]] static std::uint64_t bytes(std::uint64_t row);

  // `exact_zeros`: it matters which elements of magnitude 0 are drawn.
  RowDraw(const Kernels& kernels, const Keep& keep, bool exact_zeros,
          unsigned char* memory);

  // Where to put the keys of the row that is drawn of next.
  [[nodiscard]] Key* keys() const { return keys_; }

  // `drawn` holds the random numbers of elements [begin, end) of the row; they become
  // all ones where the element is drawn, else 0.
  void draw(std::uint64_t begin, std::uint64_t end, std::uint32_t* drawn) const;

 private:
  // A key, inverted, above its place in the row: in ascending order the largest
  // magnitudes come first, equal ones in the order of their place.
  using Ranked = std::uint64_t;

  [[nodiscard]] std::uint32_t count_bins() const;
  [[nodiscard]] std::uint32_t doubt(std::uint32_t fullest) const;
  [[nodiscard]] std::uint64_t mark_unsettled(std::uint64_t begin,
                                             std::uint64_t count) const;
  void sort_marked() const;
  void sort_all() const;

  const Kernels& kernels_;
  const std::uint64_t row_;
  const bool exact_zeros_;
  const KeyBins bins_;
  double step_;
  std::uint32_t* limit_at_;  // by place in the order of magnitudes
  // By element.
  Key* keys_;
  std::uint32_t* limits_;
  std::uint16_t* bin_of_;
  DoubtfulDraw* doubtful_;
  Ranked* ranked_;
  // By bin: the place of its first element, whether it has to be sorted.
  std::uint32_t* starts_;
  std::uint8_t* marked_;
};

}  // namespace tvmerge
