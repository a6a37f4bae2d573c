// Norms of deltas: kernels_delta_sums.hpp on a card, bit for bit.
#include "cuda/deltas.cuh"

namespace tvmerge::cuda {
namespace {

constexpr unsigned kFew = 4;

template <typename Sum, unsigned Most>
struct Deltas {
  Terms<Most> terms;
  CardPart<Sum> parts[Most];
  unsigned part_count;
  bool ranks_variance;
  std::uint64_t first;
  std::size_t count;
};

template <typename Sum, unsigned Most>
__device__ __forceinline__ Sum kept_of(const Deltas<Sum, Most>& all, unsigned p,
                                       std::size_t i, Sum delta) {
  const float variance = all.parts[p].of_variance ? variance_at(all.terms, i) : 0;
  return kept_value(all.parts[p], delta, variance, i, all.first + i);
}
template <typename Sum, unsigned Most>
__device__ __forceinline__ Sum delta_of(const Deltas<Sum, Most>& all, unsigned p,
                                        std::size_t i) {
  return value_at<Sum>(all.parts[p].term, i) - value_at<Sum>(all.terms.at[0], i);
}

// One part of one tile: all its lanes.
template <typename Sum, unsigned Most>
__global__ void __launch_bounds__(kThreads, 2)
    sum_deltas(Deltas<Sum, Most> all, DeltaSums* tiles) {
  const std::size_t unit = thread_number() / kSumLanes;
  const unsigned lane = threadIdx.x % kSumLanes;
  const auto p = static_cast<unsigned>(unit % all.part_count);
  const std::size_t start = unit / all.part_count * kTile;
  const std::size_t end = tile_end(start, all.count);
  double whole = 0, kept = 0, square = 0;
  for (std::size_t i = start + lane; i < end; i += kSumLanes) {
    const Sum delta = delta_of<Sum>(all, p, i);
    const double value = fabs(static_cast<double>(kept_of(all, p, i, delta)));
    whole += fabs(static_cast<double>(delta));
    kept += value;
    square += value * value;
  }
  DeltaSums sums;
  sums.all = total<kSumLanes>(whole);
  sums.kept = total<kSumLanes>(kept);
  sums.kept_sq = total<kSumLanes>(square);
  if (lane == 0 && end > start) tiles[unit] = sums;
}

// All parts of one tile, of one dtype and few: every element is read once.
template <typename Sum, Dtype D>
__global__ void __launch_bounds__(kThreads, 2)
    sum_few_deltas(Deltas<Sum, kFew> all, DeltaSums* tiles) {
  const std::size_t tile = thread_number() / kSumLanes, start = tile * kTile;
  const std::size_t end = tile_end(start, all.count);
  double whole[kFew]{}, kept[kFew]{}, square[kFew]{};
#pragma unroll 1
  for (std::size_t i = start + threadIdx.x % kSumLanes; i < end; i += kSumLanes) {
    const Sum base = load<D>(all.terms.at[0].data, i);
#pragma unroll
    for (unsigned p = 0; p < kFew; ++p) {
      if (p >= all.part_count) continue;
      const CardPart<Sum>& part = all.parts[p];
      const Sum delta = static_cast<Sum>(load<D>(part.term.data, i)) - base;
      const double value =
          fabs(static_cast<double>(kept_value(part, delta, 0, i, all.first + i)));
      whole[p] += fabs(static_cast<double>(delta));
      kept[p] += value;
      square[p] += value * value;
    }
  }
#pragma unroll
  for (unsigned p = 0; p < kFew; ++p) {
    DeltaSums sums;
    sums.all = total<kSumLanes>(whole[p]);
    sums.kept = total<kSumLanes>(kept[p]);
    sums.kept_sq = total<kSumLanes>(square[p]);
    if (p < all.part_count && end > start && threadIdx.x % kSumLanes == 0)
      tiles[tile * all.part_count + p] = sums;
  }
}

// What is largest at one element where the part p has the elected sign, else 0; its own
// value goes to `own`.
template <typename Sum, unsigned Most>
__device__ __forceinline__ Sum elected_at(const Deltas<Sum, Most>& all, unsigned p,
                                          std::size_t i, Sum* own) {
  const auto value = [&](unsigned q) { return kept_of(all, q, i, delta_of(all, q, i)); };
  Sum whole = 0, largest = 0;
  for (unsigned q = 0; q < all.part_count; ++q) whole += value(q);
  for (unsigned q = 0; q < all.part_count; ++q) {
    const Sum one = value(q);
    if (ops::agrees(one, whole < 0, false) && ops::is_larger(one, largest)) largest = one;
  }
  *own = value(p);
  return ops::agrees(*own, whole < 0, false) ? largest : Sum{0};
}

// One part of one tile, all its lanes: all parts but the elected one come to 0.
template <typename Sum, unsigned Most>
__global__ void __launch_bounds__(kThreads, 2)
    sum_elected(Deltas<Sum, Most> all, unsigned elected, DeltaSums* tiles) {
  const std::size_t unit = thread_number() / kSumLanes;
  const unsigned lane = threadIdx.x % kSumLanes;
  const auto p = static_cast<unsigned>(unit % all.part_count);
  const std::size_t start = unit / all.part_count * kTile;
  const std::size_t end = tile_end(start, all.count);
  double whole = 0, kept = 0, square = 0;
  for (std::size_t i = start + lane; p == elected && i < end; i += kSumLanes) {
    Sum own;
    const double value = fabs(static_cast<double>(elected_at(all, p, i, &own)));
    whole += fabs(static_cast<double>(own));
    kept += value;
    square += value * value;
  }
  DeltaSums sums;
  sums.all = total<kSumLanes>(whole);
  sums.kept = total<kSumLanes>(kept);
  sums.kept_sq = total<kSumLanes>(square);
  if (lane == 0 && end > start) tiles[unit] = sums;
}

// One part of one stretch of kSumElements.
__global__ void __launch_bounds__(kThreads)
    add_delta_tiles(const DeltaSums* tiles, unsigned parts, std::size_t count,
                    DeltaSums* sums) {
  const std::size_t stretch = thread_number() / parts;
  const auto p = static_cast<unsigned>(thread_number() % parts);
  if (stretch * kSumElements >= count) return;
  constexpr std::size_t kEach = kSumElements / kTile;
  const std::size_t all = (count + kTile - 1) / kTile, first = stretch * kEach;
  const std::size_t end = first + kEach < all ? first + kEach : all;
  DeltaSums sum;
  for (std::size_t tile = first; tile < end; ++tile) sum += tiles[tile * parts + p];
  sums[stretch * parts + p] = sum;
}

// Kept elements that are not 0, and those that one part has alone.
template <typename Sum, unsigned Most>
__global__ void __launch_bounds__(kThreads, 2)
    count_kept(Deltas<Sum, Most> all, DeltaSums* sums) {
  const std::size_t i = thread_number();
  const bool inside = i < all.count;
  const auto has = [&](unsigned p) {
    return inside && kept_of(all, p, i, delta_of<Sum>(all, p, i)) != 0;
  };
  unsigned number = 0;
  for (unsigned p = 0; p < all.part_count; ++p) number += has(p) ? 1 : 0;
  for (unsigned p = 0; p < all.part_count; ++p) {
    const bool kept = has(p);
    const unsigned found = __ballot_sync(kWholeWarp, kept);
    const unsigned alone = __ballot_sync(kWholeWarp, kept && number == 1);
    if (threadIdx.x % 32 != 0 || found == 0) continue;
    DeltaSums& sum = sums[i / kSumElements * all.part_count + p];
    add_to(&sum.count, static_cast<std::uint64_t>(__popc(found)));
    add_to(&sum.alone, static_cast<std::uint64_t>(__popc(alone)));
  }
}

// Whether every term is of this dtype, and no part is ranked by the variance.
bool all_are(Dtype dtype, const DeltaSlice& slice) {
  bool all = true;
  for (std::size_t k = 0; k < slice.term_count; ++k)
    all = all && slice.terms[k].dtype == dtype;
  for (std::size_t p = 0; p < slice.part_count; ++p)
    all = all && !slice.parts[p].keep.of_variance;
  return all;
}

template <typename Sum, unsigned Most>
void sum_parts(const DeltaSlice& slice, const Deltas<Sum, Most>& all, DeltaSums* tiles,
               cudaStream_t stream) {
  const std::size_t tile_threads = parts_of(slice.count, kTile) * kSumLanes;
  if (slice.elected >= 0) {
    TVMERGE_LAUNCH((sum_elected<Sum, Most>), blocks_for(tile_threads * all.part_count),
                   kThreads, stream, all, static_cast<unsigned>(slice.elected), tiles);
    return;
  }
  if constexpr (Most == kFew && sizeof(Sum) == 4) {
    if (all_are(Dtype::bf16, slice)) {
      TVMERGE_LAUNCH((sum_few_deltas<Sum, Dtype::bf16>), blocks_for(tile_threads),
                     kThreads, stream, all, tiles);
      return;
    }
    if (all_are(Dtype::f16, slice)) {
      TVMERGE_LAUNCH((sum_few_deltas<Sum, Dtype::f16>), blocks_for(tile_threads),
                     kThreads, stream, all, tiles);
      return;
    }
    if (all_are(Dtype::f32, slice)) {
      TVMERGE_LAUNCH((sum_few_deltas<Sum, Dtype::f32>), blocks_for(tile_threads),
                     kThreads, stream, all, tiles);
      return;
    }
  }
  TVMERGE_LAUNCH((sum_deltas<Sum, Most>), blocks_for(tile_threads * all.part_count),
                 kThreads, stream, all, tiles);
}

template <typename Sum, unsigned Most>
void launch(const DeltaSlice& slice, bool counted, void* room, cudaStream_t stream) {
  const auto part_count = static_cast<unsigned>(slice.part_count);
  Deltas<Sum, Most> all{card_terms<Most>(slice.terms, slice.term_count),
                        {},
                        part_count,
                        false,
                        slice.first,
                        slice.count};
  for (unsigned p = 0; p < part_count; ++p) {
    const Part& part = slice.parts[p];
    all.parts[p] = card_part<Sum>(
        part, slice.terms, slice.elected < 0 ? 1 : part.weight * part.gain, 1,
        slice.limits == nullptr ? nullptr : slice.limits + p * slice.count);
  }
  auto* const tiles = static_cast<DeltaSums*>(room);
  sum_parts<Sum>(slice, all, tiles, stream);
  const std::size_t sums = parts_of(slice.count, kSumElements) * part_count;
  TVMERGE_LAUNCH(add_delta_tiles, blocks_for(sums), kThreads, stream, tiles, part_count,
                 slice.count, slice.sums);
  if (!counted) return;
  TVMERGE_LAUNCH((count_kept<Sum, Most>), blocks_for(slice.count), kThreads, stream, all,
                 slice.sums);
}

template <typename Sum>
void choose(const DeltaSlice& slice, bool counted, void* room, cudaStream_t stream) {
  slice.term_count <= kFew&& slice.part_count <= kFew
      ? launch<Sum, kFew>(slice, counted, room, stream)
      : launch<Sum, kMostTerms>(slice, counted, room, stream);
}

}  // namespace

void delta_sums(const DeltaSlice& slice, bool counted, void* room, cudaStream_t stream) {
  bool wide = false;
  for (std::size_t k = 0; k < slice.term_count; ++k)
    wide = wide || slice.terms[k].dtype == Dtype::f64;
  wide ? choose<double>(slice, counted, room, stream)
       : choose<float>(slice, counted, room, stream);
}

}  // namespace tvmerge::cuda

namespace tvmerge {

std::uint64_t delta_room(std::uint64_t parts, std::uint64_t count) {
  return cuda::parts_of(count, cuda::kTile) * parts * sizeof(DeltaSums);
}

}  // namespace tvmerge
