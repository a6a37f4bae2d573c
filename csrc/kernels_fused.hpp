// Combining bfloat16 alone, the common merge: sum, rounding and comparison of an element
// happen in registers, where kernels_combine.hpp passes tiles through memory.
//
// 64 bytes of bfloat16 are 16 words of two elements. The even element of a word becomes
// float32 by a shift and the odd one by a mask, so lanes hold every other element: the
// order of the sums differs from that of other dtypes, and is the same for every
// instruction set.
#pragma once

#include "kernels_codes.hpp"
#include "kernels_compare.hpp"

namespace tvmerge::TVMERGE_ISA {
namespace {

using Floats = Vectors<float>::Vector;
using Ints = Vectors<float>::Counts;
typedef std::uint32_t Words __attribute__((vector_size(TVMERGE_VECTOR_BYTES)));

// Sums of more terms take the way through memory.
constexpr std::size_t kFusedTerms = 16;
constexpr std::size_t kRowElements = kLaneBytes / sizeof(std::uint16_t);

inline Words load_words(const void* from) {
  Words words;
  std::memcpy(&words, from, sizeof words);
  return words;
}
inline Floats even(Words words) { return (Floats)(words << 16); }
inline Floats odd(Words words) { return (Floats)(words & 0xffff0000u); }

// As ops::Element<Dtype::bf16>::encode, left in the upper half of each word. NaN is
// looked for only where `Nans`: whoever compares sees it in the sums.
template <bool Nans>
inline Words rounded(Floats value) {
  const Words bits = (Words)value;
  const Words nearest = bits + 0x7fffu + ((bits >> 16) & 1u);
  if constexpr (!Nans) return nearest & 0xffff0000u;
  return (value == value ? nearest : Words{} + 0x7fc00000u) & 0xffff0000u;
}

// What all terms add up to, in words of two elements at `at` of every term.
struct Pair {
  Floats even, odd;
};
template <std::size_t Terms>
inline Pair sum_words(const unsigned char* const* data, const Floats* coefficients,
                      std::size_t term_count, std::size_t at) {
  const Words words = load_words(data[0] + at);
  Pair sum{even(words) * coefficients[0], odd(words) * coefficients[0]};
  const std::size_t count = Terms == 0 ? term_count : Terms;
  for (std::size_t k = 1; k < count; ++k) {
    const Words next = load_words(data[k] + at);
    sum.even = fused_lanes(coefficients[k], even(next), sum.even);
    sum.odd = fused_lanes(coefficients[k], odd(next), sum.odd);
  }
  return sum;
}

// Whole rows of every term, of the output and of what it is compared with.
struct Rows {
  const unsigned char* const* data;
  const float* coefficients;
  std::size_t term_count;
  const unsigned char* reference;  // null: not compared
  unsigned char* out;
  std::size_t count;
};

// `Terms` is term_count, or 0 where the compiler cannot know it.
template <std::size_t Terms, bool Compared>
Edit combine_rows(const Rows& rows) {
  // In registers: what the loop writes could be anything of the caller's.
  const unsigned char* data[kFusedTerms];
  Floats coefficients[kFusedTerms];
  const std::size_t term_count = Terms == 0 ? rows.term_count : Terms;
  for (std::size_t k = 0; k < term_count; ++k) {
    data[k] = rows.data[k];
    coefficients[k] = Floats{} + rows.coefficients[k];
  }
  Comparison<float> comparison;
  const std::size_t stop = rows.count * kLaneBytes;
  for (std::size_t row = 0; row < stop; row += kLaneBytes) {
    for (std::size_t part = 0; part < kRegisters; ++part) {
      const std::size_t at = row + part * TVMERGE_VECTOR_BYTES;
      const Pair sum = sum_words<Terms>(data, coefficients, term_count, at);
      const Words low = rounded<!Compared>(sum.even);
      const Words high = rounded<!Compared>(sum.odd);
      const Words out = low >> 16 | high;
      std::memcpy(rows.out + at, &out, sizeof out);
      if constexpr (Compared) {
        const Words from = load_words(rows.reference + at);
        comparison.add(part, even(from), sum.even, (Floats)low);
        comparison.add(part, odd(from), sum.odd, (Floats)high);
      }
    }
  }
  return Compared ? comparison.total() : Edit{};
}

template <std::size_t Terms>
Edit combine_rows(const Rows& rows) {
  return rows.reference != nullptr ? combine_rows<Terms, true>(rows)
                                   : combine_rows<Terms, false>(rows);
}

Edit combine_rows(const Rows& rows) {
  if (rows.term_count == 2) return combine_rows<2>(rows);
  if (rows.term_count == 3) return combine_rows<3>(rows);
  if (rows.term_count == 4) return combine_rows<4>(rows);
  return combine_rows<0>(rows);
}

// A tensor's last elements, fewer than a row, moved to where a row can be read and
// written.
Edit combine_end(const Rows& rows, std::size_t size_bytes) {
  alignas(kLaneBytes) unsigned char held[kFusedTerms + 2][kLaneBytes]{};
  const unsigned char* data[kFusedTerms];
  for (std::size_t k = 0; k < rows.term_count; ++k) {
    std::memcpy(held[k], rows.data[k], size_bytes);
    data[k] = held[k];
  }
  unsigned char* const out = held[kFusedTerms];
  unsigned char* const reference = held[kFusedTerms + 1];
  if (rows.reference != nullptr) std::memcpy(reference, rows.reference, size_bytes);
  const Edit edit =
      combine_rows({data, rows.coefficients, rows.term_count,
                    rows.reference != nullptr ? reference : nullptr, out, 1});
  std::memcpy(rows.out, out, size_bytes);
  return edit;
}

bool is_bfloat16_alone(const CombineSlice& slice) {
  bool alone = slice.term_count > 0 && slice.term_count <= kFusedTerms &&
               slice.out_dtype == Dtype::bf16 &&
               (slice.reference == nullptr || slice.reference_dtype == Dtype::bf16) &&
               !accumulates_in_double(slice.terms, slice.term_count, slice.out_dtype);
  for (std::size_t k = 0; k < slice.term_count; ++k)
    alone = alone && slice.terms[k].dtype == Dtype::bf16;
  return alone;
}

Edit combine_bfloat16_tile(const CombineSlice& slice, std::size_t start,
                           std::size_t count) {
  static constexpr unsigned char kZeros[kTile * sizeof(std::uint16_t)]{};
  const std::size_t begin_bytes = start * sizeof(std::uint16_t);
  const std::size_t row_count = count / kRowElements;
  const std::size_t whole_bytes = row_count * kLaneBytes;
  const unsigned char *data[kFusedTerms], *ends[kFusedTerms];
  float coefficients[kFusedTerms];
  for (std::size_t k = 0; k < slice.term_count; ++k) {
    data[k] = static_cast<const unsigned char*>(slice.terms[k].data) + begin_bytes;
    ends[k] = data[k] + whole_bytes;
    coefficients[k] = static_cast<float>(slice.terms[k].coefficient);
  }
  unsigned char* const out = static_cast<unsigned char*>(slice.out) + begin_bytes;
  const unsigned char* reference = nullptr;
  if (slice.edits != nullptr) {
    const auto* const held = static_cast<const unsigned char*>(slice.reference);
    reference = held != nullptr ? held + begin_bytes : kZeros;
  }
  Edit edit =
      combine_rows({data, coefficients, slice.term_count, reference, out, row_count});
  if (count % kRowElements != 0) {
    const unsigned char* const end = reference ? reference + whole_bytes : nullptr;
    edit += combine_end({ends, coefficients, slice.term_count, end, out + whole_bytes, 1},
                        count % kRowElements * sizeof(std::uint16_t));
  }
  return edit;
}

}  // namespace
}  // namespace tvmerge::TVMERGE_ISA
