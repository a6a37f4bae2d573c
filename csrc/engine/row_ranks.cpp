#include "engine/row_ranks.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "core/ops.hpp"
#include "engine/row_draw.hpp"
#include "engine/slices.hpp"

namespace tvmerge {
namespace {

constexpr double kFloatMost = std::numeric_limits<float>::max();

// Whether it matters which elements of a delta that is 0 are drawn: it does not, unless
// they are less than float32 can hold, or are multiplied with what it cannot.
bool zeros_matter(const std::vector<Source>& sources, const Part& part) {
  const auto wide = [&](std::size_t source) {
    return sources[source].dtype == Dtype::f64;
  };
  return wide(0) || wide(static_cast<std::size_t>(part.source)) ||
         !(std::abs(part.gain) < kFloatMost) ||
         !(std::abs(part.weight * part.gain) < kFloatMost);
}

// The bits of the factors of elements [start, start + count).
void spread(const RowFactors& rows, std::uint64_t start, std::uint64_t count,
            std::uint32_t* limits) {
  for (std::uint64_t i = 0; i < count;) {
    const std::uint32_t factor = ops::bits_of(rows.factors[(start + i) / rows.row]);
    const std::uint64_t end = std::min(count, i + rows.row - (start + i) % rows.row);
    std::fill(limits + i, limits + end, factor);
    i = end;
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
    if (keep.factors)
      return keep.row == keep.factors->row && keep.row > 0 && !keep.of_variance &&
             keep.random_below == kAlways &&
             keep.factors->factors.size() * keep.row == elements && !keep.mask;
    if (keep.mask && keep.mask->elements != elements) return false;
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
    if (part.keep.row == 0 || part.keep.factors || part.keep.is_noted()) continue;
    const std::uint64_t row = part.keep.row;
    const auto read = [&](std::int32_t source) {
      return aligned(row * size_of(sources[static_cast<std::size_t>(source)].dtype));
    };
    most = std::max(most, RowDraw::bytes(row) + read(0) + read(part.source));
  }
  return most;
}

const std::uint32_t* RowRanks::limits(const RankedDeltas& deltas,
                                      const std::vector<Term>& terms, std::uint64_t start,
                                      std::uint64_t count) const {
  if (!deltas.any_rows()) return nullptr;
  auto* const limits = reinterpret_cast<std::uint32_t*>(memory_);
  const Slice slice{deltas, terms, start, count, memory_ + deltas.slice_bytes(count)};
  for (std::size_t p = 0; p < deltas.parts.size(); ++p) {
    const Keep& keep = deltas.parts[p].keep;
    std::uint32_t* const of_part = limits + p * count;
    if (keep.row == 0) continue;
    std::uint32_t* const words =
        keep.mask ? keep.mask->words.get() + start / DrawnMask::kWordElements : nullptr;
    if (keep.factors) {
      spread(*keep.factors, start, count, of_part);
    } else if (keep.is_noted()) {
      kernels_.spread_bits(words, count, of_part);
    } else {
      draw(slice, deltas.parts[p], of_part);
      if (words != nullptr) kernels_.pack_bits(of_part, count, words);
    }
  }
  return limits;
}

void RowRanks::draw(const Slice& slice, const Part& part, std::uint32_t* drawn) const {
  const std::uint64_t row = part.keep.row, end = slice.start + slice.count;
  const RowDraw drawing(kernels_, part.keep, zeros_matter(slice.deltas.sources, part),
                        slice.room);
  kernels_.draw_numbers(part.keep.key, slice.start, slice.count, drawn);
  for (std::uint64_t first = slice.start / row * row; first < end; first += row) {
    const std::uint64_t from = std::max(slice.start, first);
    const std::uint64_t to = std::min(end, first + row);
    if (to - from == row) {
      const auto at = [&](std::int32_t source) {
        const Term& term = slice.terms[static_cast<std::size_t>(source)];
        return Term{static_cast<const unsigned char*>(term.data) +
                        (first - slice.start) * size_of(term.dtype),
                    term.dtype, 0};
      };
      const std::array<Term, 2> both{at(0), at(part.source)};
      kernels_.ranked_keys({both.data(), 2, 1, row}, drawing.keys());
    } else {
      read_keys(slice.deltas, part, first, row, slice.room + RowDraw::bytes(row),
                drawing.keys());
    }
    drawing.draw(from - first, to - first, drawn + (from - slice.start));
  }
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
