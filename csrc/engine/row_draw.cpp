#include "engine/row_draw.hpp"

#include <algorithm>
#include <utility>

#include "engine/slices.hpp"

namespace tvmerge {
namespace {

// Shorter rows are sorted: counting would mostly look at empty bins.
constexpr std::uint64_t kBinnedRow = 128;
// Levels reach so many powers of two below the largest magnitude, each of which is cut
// into as many as leave a bin few elements, and make bins about as many as elements.
constexpr std::uint32_t kOctaves = 10, kMantissaBits = 23;
constexpr std::uint64_t kElementsALevel = 64;
constexpr std::uint32_t kFewestBits = 5, kMostBits = 10;

KeyBins bins_of(std::uint64_t row) {
  std::uint32_t bits = kFewestBits;
  while (bits < kMostBits && (kElementsALevel << (bits + 1)) <= row) ++bits;
  return {kMantissaBits - bits, kOctaves << bits};
}

template <typename T>
T* take(unsigned char*& memory, std::uint64_t count) {
  auto* const taken = reinterpret_cast<T*>(memory);
  memory += aligned(count * sizeof(T));
  return taken;
}

}  // namespace

std::uint64_t RowDraw::bytes(std::uint64_t row) {
  const std::uint64_t bins = bins_of(row).count();
  return 3 * aligned(row * sizeof(Key)) + aligned(row * sizeof(std::uint16_t)) +
         aligned((row + 1) * sizeof(DoubtfulDraw)) + aligned((row + 1) * sizeof(Ranked)) +
         aligned((bins + 1) * sizeof(std::uint32_t)) + aligned(bins);
}

RowDraw::RowDraw(const Kernels& kernels, const Keep& keep, bool exact_zeros,
                 unsigned char* memory)
    : kernels_(kernels),
      row_(keep.row),
      exact_zeros_(exact_zeros),
      bins_(bins_of(keep.row)),
      limit_at_(take<std::uint32_t>(memory, row_)),
      keys_(take<Key>(memory, row_)),
      limits_(take<std::uint32_t>(memory, row_)),
      bin_of_(take<std::uint16_t>(memory, row_)),
      doubtful_(take<DoubtfulDraw>(memory, row_ + 1)),
      ranked_(take<Ranked>(memory, row_ + 1)),
      starts_(take<std::uint32_t>(memory, bins_.count() + 1)),
      marked_(take<std::uint8_t>(memory, bins_.count())) {
  const auto lowest = static_cast<std::uint32_t>(keep.random_below);
  const auto span = static_cast<double>(keep.random_span);
  step_ = row_ > 1 ? span / static_cast<double>(row_ - 1) : span / 2;
  for (std::uint64_t place = 0; place < row_; ++place) {
    const auto rank = static_cast<double>(row_ > 1 ? row_ - 1 - place : 1);
    limit_at_[place] = lowest + static_cast<std::uint32_t>(rank * step_);
  }
}

void RowDraw::draw(std::uint64_t begin, std::uint64_t end, std::uint32_t* drawn) const {
  const std::uint64_t count = end - begin;
  if (row_ < kBinnedRow) {
    sort_all();
    kernels_.draw_below(limits_ + begin, count, 0, drawn, doubtful_);
    return;
  }
  kernels_.bin_keys(bins_, keys_, static_cast<std::uint32_t>(row_), exact_zeros_,
                    bin_of_);
  const std::uint32_t fullest = count_bins();
  for (std::uint64_t i = begin; i < end; ++i)
    limits_[i] = limit_at_[starts_[bin_of_[i]] + limits_[i]];
  const std::uint64_t near =
      kernels_.draw_below(limits_ + begin, count, doubt(fullest), drawn, doubtful_);
  if (near == 0) return;
  const std::uint64_t unsettled = mark_unsettled(begin, near);
  if (unsettled == 0) return;
  sort_marked();
  for (std::uint64_t n = 0; n < unsettled; ++n) {
    const auto [element, number] = doubtful_[n];
    drawn[element] = number < limits_[begin + element] ? UINT32_MAX : 0;
  }
}

// Leaves in `limits_` each element's place within its bin, as if all there were equal;
// returns what the fullest bin of several keys holds.
std::uint32_t RowDraw::count_bins() const {
  std::uint32_t* const counts = starts_;
  std::fill_n(counts, bins_.count(), 0u);
  for (std::uint64_t i = 0; i < row_; ++i) limits_[i] = counts[bin_of_[i]]++;
  std::uint32_t place = 0, fullest = 0;
  const auto start = [&](std::uint32_t bin) {
    place += std::exchange(starts_[bin], place);
  };
  for (std::uint32_t bin = 0; bin < bins_.first_zeros(); bin += 2) {
    fullest = std::max(fullest, counts[bin]);
    start(bin);
    start(bin + 1);
  }
  for (std::uint32_t bin = bins_.first_zeros() + 1; bin < bins_.count(); ++bin)
    start(bin);
  starts_[bins_.count()] = place;
  return fullest;
}

// How far a limit can be off by the order within such a bin.
std::uint32_t RowDraw::doubt(std::uint32_t fullest) const {
  if (fullest <= 1) return 0;
  const double off = static_cast<double>(fullest - 1) * step_ + 2;
  return off < UINT32_MAX ? static_cast<std::uint32_t>(off) : UINT32_MAX;
}

// Of the doubtful numbers leaves those that the order within their bin decides, marks
// these bins, and returns how many numbers they are.
std::uint64_t RowDraw::mark_unsettled(std::uint64_t begin, std::uint64_t count) const {
  std::fill_n(marked_, bins_.count(), std::uint8_t{0});
  std::uint64_t unsettled = 0;
  for (std::uint64_t n = 0; n < count; ++n) {
    const DoubtfulDraw one = doubtful_[n];
    const std::uint32_t bin = bin_of_[begin + one.element];
    const std::uint32_t highest = limit_at_[starts_[bin]];
    const std::uint32_t lowest = limit_at_[starts_[bin + 1] - 1];
    if (bins_.one_key(bin) || one.number < lowest || one.number >= highest) continue;
    marked_[bin] = 1;
    doubtful_[unsettled++] = one;
  }
  return unsettled;
}

// The limits of all elements of the marked bins.
void RowDraw::sort_marked() const {
  std::uint64_t found = 0;
  for (std::uint64_t i = 0; i < row_; ++i) {
    ranked_[found] = Ranked{~keys_[i]} << 32 | i;
    found += marked_[bin_of_[i]];
  }
  std::sort(ranked_, ranked_ + found);
  std::uint32_t bin = bins_.count(), place = 0;
  for (std::uint64_t n = 0; n < found; ++n) {
    const std::uint64_t i = ranked_[n] & UINT32_MAX;
    place = bin_of_[i] == bin ? place + 1 : starts_[bin_of_[i]];
    bin = bin_of_[i];
    limits_[i] = limit_at_[place];
  }
}

void RowDraw::sort_all() const {
  for (std::uint64_t i = 0; i < row_; ++i) ranked_[i] = Ranked{~keys_[i]} << 32 | i;
  std::sort(ranked_, ranked_ + row_);
  for (std::uint64_t place = 0; place < row_; ++place)
    limits_[ranked_[place] & UINT32_MAX] = limit_at_[place];
}

}  // namespace tvmerge
