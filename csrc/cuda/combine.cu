// Weighted sums, rounded once and compared: kernels_combine.hpp and kernels_fused.hpp on
// a card, bit for bit.
#include "cuda/chunk.cuh"
#include "cuda/launches.hpp"

namespace tvmerge::cuda {
namespace {

template <unsigned Most>
struct Sums {
  CardTerm terms[Most];
  unsigned term_count;
  void* out;
  const void* reference;  // null: zero
  Edit* edits;            // null: not compared
  std::size_t count;
  std::size_t first_tile;  // of those that a kernel for any tile looks at
  Dtype out_dtype, reference_dtype;
};

// Elements [begin, end) of a tile, in the order of its lanes: every kLanes-th of them
// from begin + lane on.
template <typename Sum, typename Access, unsigned Most>
__device__ __forceinline__ Edit combine_in_order(const Sums<Most>& sums,
                                                 std::size_t begin, std::size_t end) {
  Comparison<Sum> comparison;
  for (std::size_t i = begin + threadIdx.x % kLanes<Sum>; i < end; i += kLanes<Sum>) {
    Sum sum = 0;
    for (unsigned k = 0; k < sums.term_count; ++k) {
      const CardTerm& term = sums.terms[k];
      const Sum c = static_cast<Sum>(term.coefficient);
      const Sum x = Access::template load<Sum>(term.dtype, term.data, i);
      sum = k == 0 ? c * x : fused(c, x, sum);
    }
    const Sum z = Access::store(sums.out_dtype, sums.out, i, sum);
    if (sums.edits == nullptr) continue;
    const Sum x =
        sums.reference == nullptr
            ? Sum{0}
            : Access::template load<Sum>(sums.reference_dtype, sums.reference, i);
    comparison.add(x, sum, z);
  }
  return sums.edits != nullptr ? comparison.template edit<kLanes<Sum>>() : Edit{};
}

// Any dtypes.
template <typename Sum, unsigned Most>
__global__ void __launch_bounds__(kThreads, 2) combine_any(Sums<Most> sums) {
  const std::size_t tile = sums.first_tile + thread_number() / kLanes<Sum>;
  const std::size_t start = tile * kTile, end = tile_end(start, sums.count);
  const Edit edit = combine_in_order<Sum, AnyDtype>(sums, start, end);
  if (sums.edits != nullptr && end > start && threadIdx.x % kLanes<Sum> == 0)
    sums.edits[tile] = edit;
}

// The sum of element i with the coefficients of its line (kernels_lines.hpp).
template <typename Sum, unsigned Most>
__device__ __forceinline__ Sum sum_by_line(const Sums<Most>& sums, const LineTable& table,
                                           std::size_t i) {
  const Lines& lines = table.lines;
  const double* values =
      table.values + ((table.first + i) / lines.run % lines.count - table.begin);
  Sum sum = -Sum{0};
  for (unsigned k = 0; k < sums.term_count; ++k, values += table.stride) {
    const Sum c = static_cast<Sum>(*values);
    if (c != 0) sum = fused(c, value_at<Sum>(sums.terms[k], i), sum);
  }
  return sum;
}

template <typename Sum, unsigned Most>
__global__ void __launch_bounds__(kThreads, 2)
    combine_lines(Sums<Most> sums, LineTable table) {
  const std::size_t tile = thread_number() / kLanes<Sum>, start = tile * kTile;
  const std::size_t end = tile_end(start, sums.count);
  Comparison<Sum> comparison;
  for (std::size_t i = start + threadIdx.x % kLanes<Sum>; i < end; i += kLanes<Sum>) {
    const Sum y = sum_by_line<Sum>(sums, table, i);
    const Sum z = AnyDtype::store(sums.out_dtype, sums.out, i, y);
    if (sums.edits == nullptr) continue;
    const CardTerm from{sums.reference, 0, sums.reference_dtype};
    comparison.add(sums.reference == nullptr ? Sum{0} : value_at<Sum>(from, i), y, z);
  }
  if (sums.edits == nullptr) return;
  const Edit edit = comparison.template edit<kLanes<Sum>>();
  if (start < end && threadIdx.x % kLanes<Sum> == 0) sums.edits[tile] = edit;
}

// What all terms add up to in one chunk. Loads of several terms are on their way before
// the first is used.
template <typename Sum, Dtype D, unsigned Most>
__device__ __forceinline__ void sum_chunk(const Sums<Most>& sums, std::size_t first,
                                          Sum (&y)[Chunks<Sum, D>::kCount]) {
  using Chunk = Chunks<Sum, D>;
  constexpr unsigned kGroup = 4;
#pragma unroll
  for (unsigned e = 0; e < Chunk::kCount; ++e) y[e] = 0;
  for (unsigned begin = 0; begin < (Most <= kGroup ? 1 : sums.term_count);
       begin += kGroup) {
    typename Chunk::Held held[kGroup];
#pragma unroll
    for (unsigned k = 0; k < kGroup; ++k) {
      if (begin + k < sums.term_count)
        held[k] = Chunk::load(sums.terms[begin + k].data, first);
    }
#pragma unroll
    for (unsigned k = 0; k < kGroup; ++k) {
      if (begin + k >= sums.term_count) break;
      const Sum c = static_cast<Sum>(sums.terms[begin + k].coefficient);
#pragma unroll
      for (unsigned e = 0; e < Chunk::kCount; ++e) {
        const Sum x = held[k].decoded(e);
        y[e] = begin + k == 0 ? c * x : fused(c, x, y[e]);
      }
    }
  }
}

template <typename Sum, Dtype D, bool Paired, unsigned Most>
__device__ __forceinline__ Edit combine_whole(const Sums<Most>& sums, WholeTile tile,
                                              Sum* stage) {
  using Chunk = Chunks<Sum, D>;
  Comparison<Sum> comparison;
  std::size_t first = tile.number * kTile + threadIdx.x % kLanes<Sum> * Chunk::kCount;
  for (unsigned pass = 0; pass < Chunk::kPasses; ++pass, first += Chunk::kStep) {
    typename Chunk::Held from{};
    if (sums.edits != nullptr && sums.reference != nullptr)
      from = Chunk::load(sums.reference, first);
    Sum x[Chunk::kCount], y[Chunk::kCount], z[Chunk::kCount];
    sum_chunk<Sum, D>(sums, first, y);
    Chunk::store(sums.out, first, tile.wanted, y, z);
    if (sums.edits == nullptr) continue;
#pragma unroll
    for (unsigned e = 0; e < Chunk::kCount; ++e)
      x[e] = sums.reference != nullptr ? from.decoded(e) : Sum{0};
    Chunk::template compare<Paired>(comparison, stage, x, y, z);
  }
  return sums.edits != nullptr ? comparison.template edit<kLanes<Sum>>() : Edit{};
}

// NaN and infinity are another path's business, as on the processor: their tiles are
// summed again in the order of their elements.
template <unsigned Most>
__device__ __forceinline__ Edit again_if_broken(const Sums<Most>& sums, std::size_t start,
                                                std::size_t end, Edit edit) {
  const double sum = edit.intended_sq + edit.realised_sq;
  const bool broken = sum - sum != 0;
  if (__ballot_sync(kWholeWarp, broken) == 0) return edit;
  const std::size_t begin = broken ? start : end;
  const Edit other = combine_in_order<float, OneDtype<Dtype::bf16>>(sums, begin, end);
  return broken ? other : edit;
}

// The whole tiles of one dtype. `Paired`: the order of bfloat16 (kernels_pairs.hpp).
template <typename Sum, Dtype D, bool Paired, unsigned Most>
__global__ void __launch_bounds__(kThreads) combine_alone(Sums<Most> sums) {
  TVMERGE_SHARED(Sum, stage, (Chunks<Sum, D>::kStage));
  const WholeTile tile = WholeTile::of<kLanes<Sum>>(sums.count);
  Edit edit = combine_whole<Sum, D, Paired>(sums, tile, stage);
  if (sums.edits == nullptr) return;
  if constexpr (Paired) {
    const std::size_t start = tile.number * kTile;
    edit = again_if_broken(sums, start, tile.wanted ? start + kTile : start, edit);
  }
  if (tile.wanted && threadIdx.x % kLanes<Sum> == 0) sums.edits[tile.number] = edit;
}

// A lane's pairs in elements [begin, end) of bfloat16; the last may lack its odd element.
template <unsigned Most>
__device__ __forceinline__ Edit combine_pairs(const Sums<Most>& sums, std::size_t begin,
                                              std::size_t end) {
  using Access = OneDtype<Dtype::bf16>;
  Comparison<float> comparison;
  for (std::size_t pair = begin + 2 * (threadIdx.x % kLanes<float>); pair < end;
       pair += 2 * kLanes<float>) {
    for (std::size_t i = pair; i < pair + 2 && i < end; ++i) {
      float sum = 0;
      for (unsigned k = 0; k < sums.term_count; ++k) {
        const auto c = static_cast<float>(sums.terms[k].coefficient);
        const auto x = Access::load<float>(Dtype::bf16, sums.terms[k].data, i);
        sum = k == 0 ? c * x : fused(c, x, sum);
      }
      const float z = Access::store(Dtype::bf16, sums.out, i, sum);
      if (sums.edits == nullptr) continue;
      const float x = sums.reference == nullptr
                          ? 0
                          : Access::load<float>(Dtype::bf16, sums.reference, i);
      comparison.add(x, sum, z);
    }
  }
  return sums.edits != nullptr ? comparison.edit<kLanes<float>>() : Edit{};
}

// A tensor's last elements of bfloat16: whole rows of pairs, and what is left as a sum of
// its own, as the processor has it.
template <unsigned Most>
__global__ void __launch_bounds__(kThreads, 2) combine_last_pairs(Sums<Most> sums) {
  constexpr unsigned kRow = 2 * kLanes<float>;
  const std::size_t tile = sums.first_tile + thread_number() / kLanes<float>;
  const std::size_t start = tile * kTile, end = tile_end(start, sums.count);
  const std::size_t rows_end = start + (end - start) / kRow * kRow;
  Edit edit = combine_pairs(sums, start, rows_end);
  edit += combine_pairs(sums, rows_end, end);
  if (sums.edits == nullptr) return;
  edit = again_if_broken(sums, start, end, edit);
  if (end > start && threadIdx.x % kLanes<float> == 0) sums.edits[tile] = edit;
}

template <typename Sum, unsigned Most>
void launch_any(const Sums<Most>& sums, cudaStream_t stream) {
  const std::size_t tiles = (sums.count + kTile - 1) / kTile - sums.first_tile;
  TVMERGE_LAUNCH((combine_any<Sum, Most>), blocks_for(tiles * kLanes<Sum>), kThreads,
                 stream, sums);
}

// Whole tiles, and what is left.
template <typename Sum, Dtype D, bool Paired, unsigned Most>
void launch_alone(Sums<Most> sums, cudaStream_t stream) {
  sums.first_tile = sums.count / kTile;
  if (sums.first_tile != 0) {
    TVMERGE_LAUNCH((combine_alone<Sum, D, Paired, Most>),
                   blocks_for(sums.first_tile * kLanes<Sum>), kThreads, stream, sums);
  }
  if (sums.count % kTile == 0) return;
  if constexpr (Paired) {
    TVMERGE_LAUNCH((combine_last_pairs<Most>), 1, kThreads, stream, sums);
  } else {
    launch_any<Sum>(sums, stream);
  }
}

bool is_aligned(const void* data) {
  return reinterpret_cast<std::uintptr_t>(data) % sizeof(uint4) == 0;
}

// Whether all that goes in and comes out is of the output's dtype, and lies where whole
// chunks can be read. The engine's own memory always does; a view of a tensor may not.
bool is_alone(const CombineSlice& slice) {
  bool alone = slice.reference == nullptr || slice.reference_dtype == slice.out_dtype;
  alone = alone && is_aligned(slice.out) && is_aligned(slice.reference);
  for (std::size_t k = 0; k < slice.term_count; ++k) {
    alone = alone && slice.terms[k].dtype == slice.out_dtype &&
            is_aligned(slice.terms[k].data);
  }
  return alone;
}

template <unsigned Most>
void launch(const Sums<Most>& sums, bool alone, bool wide, cudaStream_t stream) {
  // As many terms as the processor sums in pairs (kernels_fused.hpp).
  constexpr unsigned kFusedTerms = 16;
  const bool pairs = sums.term_count > 0 && sums.term_count <= kFusedTerms;
  const Dtype dtype = sums.out_dtype;
  if (alone && dtype == Dtype::f64)
    return launch_alone<double, Dtype::f64, false>(sums, stream);
  if (alone && dtype == Dtype::f32)
    return launch_alone<double, Dtype::f32, false>(sums, stream);
  if (wide) return launch_any<double>(sums, stream);
  if (alone && dtype == Dtype::bf16 && pairs)
    return launch_alone<float, Dtype::bf16, true>(sums, stream);
  if (alone && dtype == Dtype::f16)
    return launch_alone<float, Dtype::f16, false>(sums, stream);
  if (alone && dtype == Dtype::f8_e4m3)
    return launch_alone<float, Dtype::f8_e4m3, false>(sums, stream);
  if (alone && dtype == Dtype::f8_e5m2)
    return launch_alone<float, Dtype::f8_e5m2, false>(sums, stream);
  launch_any<float>(sums, stream);
}

template <typename Sum>
void launch_lines(const Sums<kMostTerms>& sums, const LineTable& table,
                  cudaStream_t stream) {
  const std::size_t tiles = parts_of(sums.count, kTile);
  TVMERGE_LAUNCH((combine_lines<Sum, kMostTerms>), blocks_for(tiles * kLanes<Sum>),
                 kThreads, stream, sums, table);
}

template <unsigned Most>
Sums<Most> sums_of(const CombineSlice& slice) {
  Sums<Most> sums{{},
                  static_cast<unsigned>(slice.term_count),
                  slice.out,
                  slice.reference,
                  slice.edits,
                  slice.count,
                  0,
                  slice.out_dtype,
                  slice.reference_dtype};
  for (std::size_t k = 0; k < slice.term_count; ++k) {
    const Term& term = slice.terms[k];
    sums.terms[k] = {term.data, term.coefficient, term.dtype};
  }
  return sums;
}

}  // namespace

void combine(const CombineSlice& slice, cudaStream_t stream) {
  constexpr unsigned kFew = 4;
  const bool wide = accumulates_in_double(slice.terms, slice.term_count, slice.out_dtype);
  if (slice.lines != nullptr) {
    const Sums<kMostTerms> sums = sums_of<kMostTerms>(slice);
    return wide ? launch_lines<double>(sums, *slice.lines, stream)
                : launch_lines<float>(sums, *slice.lines, stream);
  }
  const bool alone = is_alone(slice);
  slice.term_count <= kFew ? launch(sums_of<kFew>(slice), alone, wide, stream)
                           : launch(sums_of<kMostTerms>(slice), alone, wide, stream);
}

}  // namespace tvmerge::cuda
