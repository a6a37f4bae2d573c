// Combining one narrow dtype alone, the common merge: sum, rounding and comparison of an
// element happen in registers, where kernels_combine.hpp passes tiles through memory; and
// so does the digest of few terms of 16 bits, where a register is a stripe: what comes
// from memory then comes once, while something is computed.
#pragma once

#include "kernels/kernels_compare.hpp"
#include "kernels/kernels_digest.hpp"
#include "kernels/kernels_pairs.hpp"

namespace tvmerge::TVMERGE_ISA {
namespace {

// Sums of more terms take the way through memory.
constexpr std::size_t kFusedTerms = 16;
// More registers than these digests and the sums take there are not.
constexpr std::size_t kDigestedTerms = 4;
constexpr bool kDigestsRows = TVMERGE_VECTOR_BYTES == kStripeBytes;
// How far ahead of the digests memory is asked for what they will take (docs/results.md).
constexpr std::size_t kAheadBytes = 1024;
constexpr std::size_t kRowElements = kPairElements * kRegisters;

// What all terms add up to, in the elements of two registers at `at` of every term.
template <typename Codec, std::size_t Terms>
inline Pair sum_pair(const unsigned char* const* data, const Floats* coefficients,
                     std::size_t term_count, std::size_t at) {
  const Pair one = Codec::load(data[0] + at);
  Pair sum{one.first * coefficients[0], one.second * coefficients[0]};
  const std::size_t count = Terms == 0 ? term_count : Terms;
  for (std::size_t k = 1; k < count; ++k) {
    const Pair next = Codec::load(data[k] + at);
    sum.first = fused_lanes(coefficients[k], next.first, sum.first);
    sum.second = fused_lanes(coefficients[k], next.second, sum.second);
  }
  return sum;
}

// Whole rows of every term, of the output and of what it is compared with.
struct Rows {
  const unsigned char* const* data;
  const float* coefficients;
  std::size_t term_count;
  const unsigned char* reference;
  std::size_t reference_step;  // from tile to tile; 0: one tile for all
  unsigned char* out;
  std::size_t count;
  Edit* edits;                     // one per tile; null: not compared
  const Term* digested = nullptr;  // the terms, if their digests are taken here
};

// `Terms` is term_count, or 0 where the compiler cannot know it.
template <typename Codec, std::size_t Terms, bool Compared, bool Digested = false>
void combine_rows(const Rows& rows) {
  // In registers: what the loop writes could be anything of the caller's.
  const unsigned char* data[kFusedTerms];
  Floats coefficients[kFusedTerms];
  const std::size_t term_count = Terms == 0 ? rows.term_count : Terms;
  for (std::size_t k = 0; k < term_count; ++k) {
    data[k] = rows.data[k];
    coefficients[k] = Floats{} + rows.coefficients[k];
  }
  const unsigned char* reference = rows.reference;
  unsigned char* to = rows.out;
  Edit* edit = rows.edits;
  constexpr std::size_t kStep = kPairElements * Codec::kBytes;
  constexpr std::size_t kTileBytes = kTile * Codec::kBytes;
  DigestRegister<kStep> digests[Digested ? Terms : 1];
  if constexpr (Digested) {
    for (std::size_t k = 0; k < Terms; ++k)
      digests[k].begin(rows.digested[k].position, 0);
  }
  for (std::size_t left = rows.count * kRowElements * Codec::kBytes; left > 0;) {
    const std::size_t stop = std::min(left, kTileBytes);
    Comparison<float> comparison;
    for (std::size_t row = 0; row < stop; row += kRegisters * kStep) {
      for (std::size_t part = 0; part < kRegisters; ++part) {
        const std::size_t at = row + part * kStep;
        if constexpr (Digested) {
          for (std::size_t k = 0; k < Terms; ++k) {
            __builtin_prefetch(data[k] + at + kAheadBytes);
            digests[k].add(data[k] + at);
          }
        }
        const Pair sum = sum_pair<Codec, Terms>(data, coefficients, term_count, at);
        const Pair out = Codec::template store<!Compared>(sum, to + at);
        if constexpr (Compared) {
          const Pair from = Codec::load(reference + at);
          comparison.add(Codec::place_1(part), from.first, sum.first, out.first);
          comparison.add(Codec::place_2(part), from.second, sum.second, out.second);
        }
      }
    }
    if constexpr (Compared) *edit++ = comparison.total();
    for (std::size_t k = 0; k < term_count; ++k) data[k] += stop;
    reference += rows.reference_step;
    to += stop;
    left -= stop;
  }
  if constexpr (Digested) {
    for (std::size_t k = 0; k < Terms; ++k)
      add_stripe(&digests[k], rows.digested[k].digest);
  }
}

template <typename Codec, std::size_t Terms>
void combine_rows(const Rows& rows) {
  if constexpr (kDigestsRows && Codec::kBytes == 2 && Terms > 0) {
    if (rows.digested != nullptr) return combine_rows<Codec, Terms, true, true>(rows);
  }
  if (rows.edits != nullptr) return combine_rows<Codec, Terms, true>(rows);
  combine_rows<Codec, Terms, false>(rows);
}

template <typename Codec>
void combine_rows(const Rows& rows) {
  static_assert(kDigestedTerms == 4, "digests are taken where the number is known");
  if (rows.term_count == 2) return combine_rows<Codec, 2>(rows);
  if (rows.term_count == 3) return combine_rows<Codec, 3>(rows);
  if (rows.term_count == 4) return combine_rows<Codec, 4>(rows);
  combine_rows<Codec, 0>(rows);
}

// A tensor's last elements, fewer than a row, moved to where a row can be read and
// written.
template <typename Codec>
Edit combine_end(const Rows& rows, std::size_t size_bytes) {
  alignas(kLaneBytes) unsigned char held[kFusedTerms + 2][kLaneBytes]{};
  const unsigned char* data[kFusedTerms];
  for (std::size_t k = 0; k < rows.term_count; ++k) {
    std::memcpy(held[k], rows.data[k], size_bytes);
    data[k] = held[k];
  }
  unsigned char* const out = held[kFusedTerms];
  unsigned char* const reference = held[kFusedTerms + 1];
  std::memcpy(reference, rows.reference, size_bytes);
  Edit edit;
  combine_rows<Codec>({data, rows.coefficients, rows.term_count, reference, 0, out, 1,
                       rows.edits != nullptr ? &edit : nullptr});
  std::memcpy(rows.out, out, size_bytes);
  return edit;
}

// Whether all that goes in and comes out is of the output's dtype.
bool is_alone(const CombineSlice& slice) {
  bool alone = slice.term_count > 0 && slice.term_count <= kFusedTerms &&
               (slice.reference == nullptr || slice.reference_dtype == slice.out_dtype) &&
               !accumulates_in_double(slice.terms, slice.term_count, slice.out_dtype);
  for (std::size_t k = 0; k < slice.term_count; ++k)
    alone = alone && slice.terms[k].dtype == slice.out_dtype;
  return alone;
}

// Whether combine_rows takes the digests of what it sums, if it is alone.
bool digests_rows(const CombineSlice& slice) {
  return kDigestsRows && size_of(slice.out_dtype) == 2 && slice.edits != nullptr &&
         slice.term_count > 1 && slice.term_count <= kDigestedTerms &&
         std::all_of(slice.terms, slice.terms + slice.term_count,
                     [](const Term& term) { return term.digest != nullptr; });
}

// The digests that are wanted of bytes of every term, from byte `begin` on.
void digest_terms(const CombineSlice& slice, std::size_t begin) {
  for (std::size_t k = 0; k < slice.term_count; ++k) {
    const Term& term = slice.terms[k];
    const std::size_t size_bytes = slice.count * size_of(term.dtype);
    if (term.digest != nullptr && begin < size_bytes)
      digest(static_cast<const unsigned char*>(term.data) + begin, size_bytes - begin,
             term.position + begin, term.digest);
  }
}

// A whole slice, its end included.
template <typename Codec>
void combine_rows(const CombineSlice& slice) {
  static constexpr unsigned char kZeros[kTile * Codec::kBytes]{};
  const std::size_t row_count = slice.count / kRowElements;
  const std::size_t whole_bytes = row_count * kRowElements * Codec::kBytes;
  const unsigned char *data[kFusedTerms], *ends[kFusedTerms];
  float coefficients[kFusedTerms];
  for (std::size_t k = 0; k < slice.term_count; ++k) {
    data[k] = static_cast<const unsigned char*>(slice.terms[k].data);
    ends[k] = data[k] + whole_bytes;
    coefficients[k] = static_cast<float>(slice.terms[k].coefficient);
  }
  auto* const out = static_cast<unsigned char*>(slice.out);
  const bool zero = slice.reference == nullptr, digested = digests_rows(slice);
  const auto* const reference =
      zero ? kZeros : static_cast<const unsigned char*>(slice.reference);
  combine_rows<Codec>({data, coefficients, slice.term_count, reference,
                       zero ? 0 : sizeof kZeros, out, row_count, slice.edits,
                       digested ? slice.terms : nullptr});
  if (digested) digest_terms(slice, whole_bytes);
  const std::size_t end_bytes = slice.count * Codec::kBytes - whole_bytes;
  if (end_bytes == 0) return;
  const Edit end = combine_end<Codec>(
      {ends, coefficients, slice.term_count, zero ? kZeros : reference + whole_bytes, 0,
       out + whole_bytes, 1, slice.edits},
      end_bytes);
  if (slice.edits == nullptr) return;
  Edit& last = slice.edits[slice.count / kTile];
  if (row_count * kRowElements % kTile == 0) last = Edit{};
  last += end;
}

}  // namespace
}  // namespace tvmerge::TVMERGE_ISA
