// What deltas agree on: kernels_consensus.hpp on a card, bit for bit.
#include <cmath>

#include "cuda/tile_agreement.cuh"

namespace tvmerge::cuda {
namespace {

// So many parts have registers of their own.
constexpr unsigned kFew = 4;

template <typename Sum, unsigned Most>
__global__ void __launch_bounds__(kThreads, 2) agree_any(Agreement<Sum, Most> all) {
  const std::size_t tile = all.first_tile + thread_number() / kLanes<Sum>;
  const std::size_t start = tile * kTile, end = tile_end(start, all.count);
  const Edit edit = agree_in_order<Sum>(all, start, end);
  if (all.edits != nullptr && end > start && threadIdx.x % kLanes<Sum> == 0)
    all.edits[tile] = edit;
}

// The whole tiles of one dtype; deltas are ranked by themselves, not limited, summed, and
// none counts alone or several times.
template <typename Sum, Dtype D, bool Random, unsigned Parts>
__global__ void __launch_bounds__(kThreads, 2) agree_alone(Agreement<Sum, Parts> all) {
  TVMERGE_SHARED(Sum, stage, (Chunks<Sum, D>::kStage));
  const WholeTile tile = WholeTile::of<kLanes<Sum>>(all.count);
  const Edit edit = TileAgreement<Sum, D, Random, Parts>(all, tile).agree(stage);
  if (all.edits != nullptr && tile.wanted && threadIdx.x % kLanes<Sum> == 0)
    all.edits[tile.number] = edit;
}

template <typename Sum>
void launch_any(const ConsensusSlice& slice, std::size_t first_tile,
                cudaStream_t stream) {
  Agreement<Sum, kMostTerms> all = agreement<Sum, kMostTerms>(slice);
  all.first_tile = first_tile;
  const std::size_t tiles = (slice.count + kTile - 1) / kTile - first_tile;
  if (tiles == 0) return;
  TVMERGE_LAUNCH((agree_any<Sum, kMostTerms>), blocks_for(tiles * kLanes<Sum>), kThreads,
                 stream, all);
}

template <Dtype D, unsigned Parts>
void launch_parts(const ConsensusSlice& slice, unsigned blocks, cudaStream_t stream) {
  const Agreement<float, Parts> all = agreement<float, Parts>(slice);
  bool random = false;
  for (const CardPart<float>& part : all.parts)
    random = random || part.random_below < kAlways;
  if (random) {
    TVMERGE_LAUNCH((agree_alone<float, D, true, Parts>), blocks, kThreads, stream, all);
  } else {
    TVMERGE_LAUNCH((agree_alone<float, D, false, Parts>), blocks, kThreads, stream, all);
  }
}

// Whole tiles, and what is left.
template <Dtype D>
void launch_alone(const ConsensusSlice& slice, cudaStream_t stream) {
  const std::size_t whole = slice.count / kTile;
  const unsigned blocks = blocks_for(whole * kLanes<float>);
  if (blocks != 0) {
    switch (slice.consensus->parts.size()) {
      case 1:
        launch_parts<D, 1>(slice, blocks, stream);
        break;
      case 2:
        launch_parts<D, 2>(slice, blocks, stream);
        break;
      case 3:
        launch_parts<D, 3>(slice, blocks, stream);
        break;
      default:
        launch_parts<D, kFew>(slice, blocks, stream);
    }
  }
  launch_any<float>(slice, whole, stream);
}

// Whether all that goes in and comes out is bfloat16, and a kernel of its own does the
// rest. Other dtypes wait for the bus anyway.
bool is_alone(const ConsensusSlice& slice) {
  bool alone = slice.consensus->parts.size() <= kFew && !slice.consensus->largest;
  for (std::size_t k = 0; k < slice.term_count; ++k)
    alone = alone && slice.terms[k].dtype == Dtype::bf16;
  for (const Part& part : slice.consensus->parts) {
    alone = alone && !part.keep.of_variance && !part.keep.factors && part.alone == 1 &&
            part.votes == 1 && !std::isfinite(part.limit);
  }
  return alone && slice.out_dtype == Dtype::bf16;
}

}  // namespace

void consensus(const ConsensusSlice& slice, cudaStream_t stream) {
  const bool wide = accumulates_in_double(slice.terms, slice.term_count, slice.out_dtype);
  if (wide) {
    launch_any<double>(slice, 0, stream);
  } else if (is_alone(slice)) {
    launch_alone<Dtype::bf16>(slice, stream);
  } else {
    launch_any<float>(slice, 0, stream);
  }
}

}  // namespace tvmerge::cuda
