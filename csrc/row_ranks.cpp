#include "row_ranks.hpp"

#include <algorithm>
#include <array>
#include <utility>

#include "slices.hpp"

namespace tvmerge {
namespace {

// A key, inverted, above its place in the row: in ascending order the largest magnitudes
// come first, equal ones in the order of their place.
using Ranked = std::uint64_t;

// Shorter rows are sorted by comparing: counting would mostly look at empty counters.
constexpr std::uint64_t kCountedRow = 256;
constexpr unsigned kDigits = 4, kDigitBits = 8, kDigitCount = 1u << kDigitBits;

unsigned digit(Ranked ranked, unsigned d) {
  return static_cast<unsigned>(ranked >> (32 + d * kDigitBits)) % kDigitCount;
}

// Sorts by the keys, digit by digit; returns where the result lies.
Ranked* sort_by_digits(Ranked* from, Ranked* to, std::uint64_t count) {
  std::array<std::array<std::uint64_t, kDigitCount>, kDigits> places{};
  for (std::uint64_t i = 0; i < count; ++i) {
    for (unsigned d = 0; d < kDigits; ++d) ++places[d][digit(from[i], d)];
  }
  for (unsigned d = 0; d < kDigits; ++d) {
    if (places[d][digit(from[0], d)] == count) continue;  // all have the same one
    std::uint64_t before = 0;
    for (std::uint64_t& place : places[d]) before += std::exchange(place, before);
    for (std::uint64_t i = 0; i < count; ++i)
      to[places[d][digit(from[i], d)]++] = from[i];
    std::swap(from, to);
  }
  return from;
}

// The limits of the elements [begin, end) of a row of `row` keys.
void rank(const Key* keys, const Keep& keep, std::uint64_t begin, std::uint64_t end,
          Ranked* room, std::uint32_t* limits) {
  const std::uint64_t row = keep.row;
  for (std::uint64_t i = 0; i < row; ++i) room[i] = Ranked{~keys[i]} << 32 | i;
  Ranked* sorted = room;
  if (row < kCountedRow) {
    std::sort(room, room + row);
  } else {
    sorted = sort_by_digits(room, room + row, row);
  }
  const auto lowest = static_cast<std::uint32_t>(keep.random_below);
  const auto span = static_cast<double>(keep.random_span);
  const double step = row > 1 ? span / static_cast<double>(row - 1) : span / 2;
  for (std::uint64_t place = 0; place < row; ++place) {
    const std::uint64_t i = sorted[place] & UINT32_MAX;
    if (i < begin || i >= end) continue;
    const auto rank = static_cast<double>(row > 1 ? row - 1 - place : 1);
    limits[i - begin] = lowest + static_cast<std::uint32_t>(rank * step);
  }
}

}  // namespace

bool RankedDeltas::any_rows() const {
  return std::any_of(parts.begin(), parts.end(),
                     [](const Part& part) { return part.keep.row != 0; });
}

bool RankedDeltas::good() const {
  return std::all_of(parts.begin(), parts.end(), [&](const Part& part) {
    const Keep& keep = part.keep;
    return keep.row == 0 ||
           (elements % keep.row == 0 && keep.row <= UINT32_MAX && !keep.of_variance &&
            keep.random_below > 0 && keep.random_below + keep.random_span < kAlways);
  });
}

std::uint64_t RankedDeltas::slice_bytes(std::uint64_t count) const {
  return any_rows() ? aligned(parts.size() * count * sizeof(std::uint32_t)) : 0;
}

std::uint64_t RankedDeltas::row_bytes() const {
  std::uint64_t most = 0;
  for (const Part& part : parts) {
    const std::uint64_t row = part.keep.row;
    const auto read = [&](std::int32_t source) {
      return aligned(row * size_of(sources[static_cast<std::size_t>(source)].dtype));
    };
    most = std::max(most, 2 * row * sizeof(Ranked) + aligned(row * sizeof(Key)) +
                              read(0) + read(part.source));
  }
  return most;
}

const std::uint32_t* RowRanks::limits(const RankedDeltas& deltas,
                                      const std::vector<Term>& terms, std::uint64_t start,
                                      std::uint64_t count) const {
  if (!deltas.any_rows()) return nullptr;
  auto* const limits = reinterpret_cast<std::uint32_t*>(memory_);
  unsigned char* const behind = memory_ + deltas.slice_bytes(count);
  for (std::size_t p = 0; p < deltas.parts.size(); ++p) {
    const Part& part = deltas.parts[p];
    const std::uint64_t row = part.keep.row;
    if (row == 0) continue;
    auto* const room = reinterpret_cast<Ranked*>(behind);
    auto* const keys = reinterpret_cast<Key*>(room + 2 * row);
    unsigned char* const read =
        behind + 2 * row * sizeof(Ranked) + aligned(row * sizeof(Key));
    for (std::uint64_t first = start / row * row; first < start + count; first += row) {
      const std::uint64_t begin = std::max(start, first);
      const std::uint64_t end = std::min(start + count, first + row);
      if (end - begin == row) {
        const auto at = [&](const Term& term) {
          return Term{static_cast<const unsigned char*>(term.data) +
                          (begin - start) * size_of(term.dtype),
                      term.dtype, 0};
        };
        const std::array<Term, 2> both{at(terms[0]),
                                       at(terms[static_cast<std::size_t>(part.source)])};
        kernels_.ranked_keys({both.data(), 2, 1, row}, keys);
      } else {
        read_keys(deltas, part, first, row, read, keys);
      }
      rank(keys, part.keep, begin - first, end - first, room,
           limits + p * count + (begin - start));
    }
  }
  return limits;
}

void RowRanks::read_keys(const RankedDeltas& deltas, const Part& part,
                         std::uint64_t start, std::uint64_t count, unsigned char* room,
                         Key* keys) const {
  const auto read = [&](const Source& source, unsigned char* to) {
    const std::uint64_t width = size_of(source.dtype);
    inputs_.file(source.file)
        .read(to, count * width, source.offset_bytes + start * width);
    return Term{to, source.dtype, 0};
  };
  const Source& base = deltas.sources[0];
  const Source& other = deltas.sources[static_cast<std::size_t>(part.source)];
  const std::array<Term, 2> both{
      read(base, room), read(other, room + aligned(count * size_of(base.dtype)))};
  kernels_.ranked_keys({both.data(), 2, 1, count}, keys);
}

}  // namespace tvmerge
